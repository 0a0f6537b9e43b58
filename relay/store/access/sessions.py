"""Sessions of the dashboard, and the one-time links that make them. A row has digests, never a secret.

A session ends with its row, its time or its token, whichever is first. Rows are bounded for each token: a new one
replaces the oldest.
"""

from sqlalchemy import insert, select
from sqlalchemy.engine import Connection
from sqlmodel import col

from relay.core.access.sign_in import Session, SessionKind
from relay.store.databases.database import Database
from relay.store.databases.group_commit import alone, each
from relay.store.databases.statements import run, sql
from relay.store.rows import columns, made
from relay.store.schema.tables import SessionRow

MAX_OF_TOKEN = 100
"""Sessions of one token, and links of one."""

# Makes room for one more of a token. One that another transaction holds just now is left to the next.
DELETE_OLDEST = sql(
    f"""
DELETE FROM sessions WHERE digest IN (
  SELECT digest FROM sessions WHERE token_digest = :token_digest AND kind = :kind
  ORDER BY created_at DESC LIMIT {MAX_OF_TOKEN} OFFSET {MAX_OF_TOKEN - 1} $skip_locked
)
"""
)
# Takes a link. Of several requests that bring it at once, on whichever node, one finds it.
TAKE_LINK = """
DELETE FROM sessions WHERE digest = :digest AND kind = 'link' AND expires_at > :now AND token_digest = :token_digest
"""
# Ends a session.
END_SESSION = "DELETE FROM sessions WHERE digest = :digest AND kind = 'session'"


class SessionStore:
    """Reads and writes of sessions and links."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, session: Session) -> None:
        """Stores a new session or link. The oldest of its kind and token goes if there are MAX_OF_TOKEN."""
        await self._database.write(_create, session)

    async def find(self, digest: str, kind: SessionKind, now: float) -> Session | None:
        """The session or link with this digest, unless it has expired."""
        return await self._database.read(_find, digest, kind, now)

    async def use_link(self, digest: str, session: Session) -> bool:
        """Turns a link into this session of the same token, in one transaction. False if the link is gone or expired,
        or is another token's."""
        return await self._database.write(_use_link, (digest, session))

    async def delete(self, digest: str) -> bool:
        """Ends a session. False if there was none."""
        return await self._database.write(_delete, digest)


# alone: it may delete several rows, which another node may delete too
@alone()
@each
def _create(connection: Connection, session: Session) -> None:
    _add(connection, session)


@alone()
@each
def _use_link(connection: Connection, item: tuple[str, Session]) -> bool:
    digest, session = item
    now, token_digest = session.created_at, session.token_digest
    if not run(connection, TAKE_LINK, digest=digest, now=now, token_digest=token_digest).rowcount:
        return False
    _add(connection, session)
    return True


def _add(connection: Connection, session: Session) -> None:
    run(connection, DELETE_OLDEST, token_digest=session.token_digest, kind=session.kind)
    connection.execute(insert(SessionRow).values(columns(session)))


@alone()
@each
def _delete(connection: Connection, digest: str) -> bool:
    return bool(run(connection, END_SESSION, digest=digest).rowcount)


def _find(connection: Connection, digest: str, kind: SessionKind, now: float) -> Session | None:
    statement = select(SessionRow).where(
        col(SessionRow.digest) == digest, col(SessionRow.kind) == kind, col(SessionRow.expires_at) > now
    )
    row = connection.execute(statement).one_or_none()
    return None if row is None else made(Session, row)
