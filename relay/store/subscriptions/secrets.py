"""Signing secrets and private keys: those of the subscriptions and the relay's own. They are encrypted."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection, Row
from sqlmodel import col

from relay.core.subscriptions.subscription import SigningSecret
from relay.errors import Conflict
from relay.ids import new_id
from relay.store.databases.database import Cipher, Database
from relay.store.databases.locks import CHANGE, locking, to_change
from relay.store.databases.statements import run
from relay.store.outbox.recording import Outbox
from relay.store.schema.tables import SecretRow
from relay.store.scoped import Scoped
from relay.store.subscriptions.rows import refuse_hidden

CALLBACK_OWNER = "callbacks"
SIGNING_OWNER = "signing"
AUDIT_OWNER = "audit"
MAX_SECRETS = 10
"""Valid secrets of an owner: each adds a signature to every request."""
# Probes a disabled subscription at once.
PROBE_NOW = "UPDATE subscriptions SET probe_at = :now WHERE id = :id AND probe_at IS NOT NULL"
# Counts an owner's valid secrets.
COUNT_SECRETS = "SELECT COUNT(*) FROM secrets WHERE owner = :owner AND (expires_at IS NULL OR expires_at > :now)"
NEWEST_SECRET = (col(SecretRow.expires_at).is_not(None), col(SecretRow.created_at).desc(), col(SecretRow.id).desc())


class SecretStore(Scoped):
    """Reads and writes of secrets."""

    def __init__(self, database: Database, outbox: Outbox, cipher: Cipher) -> None:
        self._database = database
        self._outbox = outbox
        self._cipher = cipher

    async def add_secret(self, owner: str, value: str, now: float, *, old_expire_at: float | None = None) -> None:
        """Adds a signing secret to a subscription (or CALLBACK_OWNER, SIGNING_OWNER); older ones expire at
        `old_expire_at`. A disabled subscription that is being probed is probed again at once. Raises Conflict for a
        rotation while MAX_SECRETS are valid."""
        await refuse_hidden(self._database, self._owner, owner)
        await self._database.write(self._add_secret, (owner, value, now, old_expire_at))

    async def ensure_secret(self, owner: str, value: str, now: float) -> None:
        """Adds the secret unless the owner has one. Of nodes that start together, one adds its own."""
        if not await self.of(owner):
            await self._database.write(self._ensure_secret, (owner, value, now))

    async def of(self, owner: str) -> tuple[SigningSecret, ...]:
        """An owner's signing secrets: those that do not expire first, then newest first."""
        return await self._database.read(secrets_of, self._cipher, owner)

    async def own_secrets(self) -> tuple[tuple[SigningSecret, ...], tuple[SigningSecret, ...]]:
        """The relay's own: the callback secrets, and the private keys. Sorted like `of`."""
        return await self._database.read(self._own_secrets)

    @locking(lambda item: to_change(item[0]))
    def _add_secret(
        self, connection: Connection, items: Sequence[tuple[str, str, float, float | None]]
    ) -> Sequence[None | Exception]:
        self._outbox.subscriptions.changed(connection)  # two rotations come one after the other
        results: list[None | Exception] = []
        for owner, value, now, old_expire_at in items:
            if old_expire_at is not None and (problem := no_room(connection, owner, now)) is not None:
                results.append(problem)
                continue
            put_secret(connection, self._cipher, owner, value, now, old_expire_at=old_expire_at)
            results.append(None)
        return results

    @locking(lambda _: [CHANGE])
    def _ensure_secret(self, connection: Connection, items: Sequence[tuple[str, str, float]]) -> Sequence[None]:
        self._outbox.subscriptions.changed(connection)  # it has waited for a node that adds one
        for owner, value, now in items:
            if not secrets_of(connection, self._cipher, owner):
                insert_secret(connection, self._cipher, owner, value, now)
        return [None] * len(items)

    def _own_secrets(self, connection: Connection) -> tuple[tuple[SigningSecret, ...], tuple[SigningSecret, ...]]:
        return secrets_of(connection, self._cipher, CALLBACK_OWNER), secrets_of(connection, self._cipher, SIGNING_OWNER)


def no_room(connection: Connection, owner: str, now: float) -> Conflict | None:
    """The error if an owner has MAX_SECRETS valid secrets, so that a rotation must wait."""
    if run(connection, COUNT_SECRETS, owner=owner, now=now).scalar_one() < MAX_SECRETS:
        return None
    return Conflict(f"{MAX_SECRETS} secrets are valid: wait until an old one expires", code="too_many_secrets")


def put_secret(
    connection: Connection, cipher: Cipher, owner: str, value: str, now: float, *, old_expire_at: float | None
) -> None:
    """Adds a secret. The others expire at `old_expire_at`, if it is given; a probe is due at once."""
    if old_expire_at is not None:
        connection.execute(
            update(SecretRow)
            .where(col(SecretRow.owner) == owner, col(SecretRow.expires_at).is_(None))
            .values(expires_at=old_expire_at)
        )
    insert_secret(connection, cipher, owner, value, now)
    run(connection, PROBE_NOW, id=owner, now=now)


def insert_secret(connection: Connection, cipher: Cipher, owner: str, value: str, now: float) -> None:
    """Stores a secret."""
    secret_id = new_id("sec", now)
    ciphertext = cipher.encrypt(value.encode(), context=secret_id)
    connection.execute(
        insert(SecretRow), {"id": secret_id, "owner": owner, "ciphertext": ciphertext, "created_at": now}
    )


def secrets_of(connection: Connection, cipher: Cipher, owner: str) -> tuple[SigningSecret, ...]:
    """An owner's secrets, sorted by `NEWEST_SECRET`."""
    rows = connection.execute(select(SecretRow).where(col(SecretRow.owner) == owner).order_by(*NEWEST_SECRET))
    return tuple(secret_from(cipher, row) for row in rows)


def secret_from(cipher: Cipher, row: Row[Any]) -> SigningSecret:
    """A secret, from its row."""
    value = cipher.decrypt(row.ciphertext, context=row.id).decode()
    return SigningSecret(value=value, expires_at=row.expires_at, created_at=row.created_at)
