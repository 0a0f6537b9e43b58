"""API tokens. A row has the digest of a secret, never the secret.

Nodes hold all tokens in memory. A change raises a version in its transaction and notifies the other nodes, which also
compare the version themselves, in case the notice was lost.
"""

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_network
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.engine import Connection, Row
from sqlmodel import col

from relay.core.access.client_address import Network
from relay.core.access.tokens import AccessToken
from relay.core.records import Page
from relay.errors import Conflict, NotFound
from relay.store.databases.database import Database
from relay.store.databases.group_commit import each
from relay.store.databases.notices import raise_version, version_of
from relay.store.databases.pages import decode_cursor, read_page
from relay.store.databases.statements import run, run_many
from relay.store.rows import columns, made
from relay.store.schema.tables import TokenRow

MAX_TOKENS = 10_000

# Removes an expired token whose name is wanted again.
REMOVE_EXPIRED = "DELETE FROM tokens WHERE name = :name AND expires_at <= :now"
COUNT = "SELECT COUNT(*) FROM tokens"
# Gives a token another secret.
RENEW = "UPDATE tokens SET digest = :digest WHERE id = :id"
# Removes a token.
REVOKE = "DELETE FROM tokens WHERE id = :id"
# Stores when tokens were last used. Several nodes write: the latest use counts.
USED = "UPDATE tokens SET last_used_at = :at WHERE id = :id AND COALESCE(last_used_at, 0) < :at"


class TokenStore:
    """Reads and writes of API tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def database(self) -> Database:
        """The database that holds them."""
        return self._database

    async def create(self, token: AccessToken, now: float) -> None:
        """Stores a new token. If one of this id is there, its request was cut off before its answer: it gets the new
        secret. Raises Conflict if a token that has not expired has the name, or there are MAX_TOKENS."""
        await self._database.write(_create, (token, now))

    async def revoke(self, id: str) -> AccessToken:
        """Removes a token, and returns it. Raises NotFound."""
        if "\0" in id:
            raise no_token(id)
        return await self._database.write(_revoke, id)

    async def used(self, at: Mapping[str, float]) -> None:
        """Stores when tokens were last used, by id, unless a later use is stored."""
        await self._database.write(_used, at)

    async def get(self, id: str) -> AccessToken | None:
        """One token."""
        return None if "\0" in id else await self._database.read(_get, id)

    async def page(self, *, limit: int, cursor: str | None = None) -> Page[AccessToken]:
        """Newest first."""
        statement = select(TokenRow).order_by(col(TokenRow.id).desc()).limit(limit + 1)
        before = decode_cursor(cursor, prefix="tok_")
        if before is not None:
            statement = statement.where(col(TokenRow.id) < before)
        return await self._database.read(read_page, statement, limit, _token_from, "id")

    async def all(self) -> tuple[int, list[AccessToken]]:
        """Every token, and their version."""
        return await self._database.read_beside(_all)

    async def version(self) -> int:
        """A number that rises with every change."""
        return await self._database.read_beside(version_of, "tokens")


@each
def _create(connection: Connection, item: tuple[AccessToken, float]) -> None | Exception:
    token, now = item
    raise_version(connection, "tokens")
    if run(connection, RENEW, id=token.id, digest=token.digest).rowcount:
        return None
    run(connection, REMOVE_EXPIRED, name=token.name, now=now)
    if run(connection, COUNT).scalar_one() >= MAX_TOKENS:
        return Conflict(f"there are {MAX_TOKENS:,} tokens already: revoke some", code="too_many_tokens")
    if connection.execute(select(col(TokenRow.id)).where(col(TokenRow.name) == token.name)).first() is not None:
        return name_taken(token.name)
    connection.execute(insert(TokenRow).values(_values(token)))
    return None


@each
def _revoke(connection: Connection, id: str) -> AccessToken | Exception:
    raise_version(connection, "tokens")
    found = _get(connection, id)
    run(connection, REVOKE, id=id)
    return found or no_token(id)


@each
def _used(connection: Connection, at: Mapping[str, float]) -> None:
    run_many(connection, USED, [{"id": id, "at": used_at} for id, used_at in sorted(at.items())])


def name_taken(name: str) -> Conflict:
    """The error for a name that another token has."""
    return Conflict(f"there is a token named {name} already: choose another name, or revoke it", code="name_taken")


def no_token(id: str) -> NotFound:
    """The error for an id that no token has."""
    return NotFound(f"there is no token {id[:200]!r}", code="token_not_found")


def _get(connection: Connection, id: str) -> AccessToken | None:
    row = connection.execute(select(TokenRow).where(col(TokenRow.id) == id)).one_or_none()
    return None if row is None else _token_from(row)


def _all(connection: Connection) -> tuple[int, list[AccessToken]]:
    version = version_of(connection, "tokens")  # first: a change in between is found again by its version
    return version, [_token_from(row) for row in connection.execute(select(TokenRow))]


def _values(token: AccessToken) -> dict[str, Any]:
    source, account = token.account or (None, None)
    return {
        **columns(token),
        "scopes": sorted(token.scopes),
        "source": source,
        "account": account,
        "networks": [str(network) for network in token.networks],
    }


@lru_cache(maxsize=100_000)
def _network(text: str) -> Network:
    """Kept, because each change of a token reads all of them, with up to a hundred networks each."""
    return ip_network(text)


def _token_from(row: Row[Any]) -> AccessToken:
    return made(
        AccessToken,
        row,
        scopes=frozenset(row.scopes),
        account=None if row.source is None else (row.source, row.account),
        networks=tuple(map(_network, row.networks)),
    )
