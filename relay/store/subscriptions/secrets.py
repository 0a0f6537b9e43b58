"""Secrets, encrypted: signing secrets and private keys of the subscriptions and the relay, and the sinks' credentials.

One node at a time trades a credential's refresh token, and stores the new tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection, Row
from sqlmodel import col

from relay.core.deliveries.credentials import SinkCredential, stored_token
from relay.core.records import RefreshTurn
from relay.core.subscriptions.subscription import SigningSecret
from relay.errors import Conflict
from relay.ids import new_id
from relay.store.databases.database import Cipher, Database, Scoped
from relay.store.databases.group_commit import each
from relay.store.databases.locks import CHANGE, locking, row_of, to_change
from relay.store.databases.statements import run
from relay.store.outbox.recording import Outbox
from relay.store.schema.tables import SecretRow, SubscriptionRow
from relay.store.subscriptions.rows import locked, refuse_hidden, subscription_from, values_of

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


# Begins or ends the turn to trade a refresh token, or the pause after a failure.
SET_REFRESH_UNTIL = "UPDATE subscriptions SET refresh_until = :until WHERE id = :id"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refresh:
    subscription_id: str
    credential_id: str
    used: str | None
    now: float
    until: float


class CredentialStore:
    """Renews the stored tokens of credentials."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher
        self._turns, self._keeps = each(self._turn), each(self._keep)

    async def refresh_turn(
        self, subscription_id: str, credential_id: str, *, used: str | None, now: float, until: float
    ) -> RefreshTurn:
        """Takes the turn to trade a refresh token, until `until`. No turn is needed, and none taken, if another node
        has stored another access token than `used`."""
        item = _Refresh(subscription_id=subscription_id, credential_id=credential_id, used=used, now=now, until=until)
        return await self._database.write(self._turns, item)

    async def keep_credential(self, subscription_id: str, credential: SinkCredential) -> bool:
        """Stores the new tokens of a credential and ends the turn. Returns False if it was replaced or removed."""
        return await self._database.write(self._keeps, (subscription_id, credential))

    async def pause_refresh(self, subscription_id: str, until: float) -> None:
        """No node trades the refresh token before then."""
        await self._database.write(_pause_refresh, (subscription_id, until))

    @locking(lambda item: [row_of(item.subscription_id)])
    def _turn(self, connection: Connection, item: _Refresh) -> RefreshTurn:
        row = locked(connection, item.subscription_id)
        credential = None if row is None else subscription_from(self._cipher, row, ()).credential
        if row is None or credential is None or credential.id != item.credential_id:
            return RefreshTurn(credential=None)
        token = stored_token(credential)
        if token is not None and token.value != item.used and token.stale_at > item.now:
            return RefreshTurn(credential=credential)
        if row.refresh_until is not None and row.refresh_until > item.now:
            return RefreshTurn(credential=credential, until=row.refresh_until)
        run(connection, SET_REFRESH_UNTIL, id=item.subscription_id, until=item.until)
        return RefreshTurn(credential=credential, mine=True, until=item.until)

    @locking(lambda item: [row_of(item[0])])
    def _keep(self, connection: Connection, item: tuple[str, SinkCredential]) -> bool:
        subscription_id, credential = item
        row = locked(connection, subscription_id)
        subscription = None if row is None else subscription_from(self._cipher, row, ())
        if subscription is None or not is_same(credential, subscription.credential):
            return False
        sealed = values_of(self._cipher, replace(subscription, credential=credential))["sealed"]
        changed = update(SubscriptionRow).where(col(SubscriptionRow.id) == subscription_id)
        connection.execute(changed.values(sealed=sealed, refresh_until=None))
        return True


def is_same(one: SinkCredential | None, other: SinkCredential | None) -> bool:
    """True if both are one credential, perhaps with other tokens."""
    return one is not None and other is not None and one.id == other.id


@each
@locking(lambda item: [row_of(item[0])])
def _pause_refresh(connection: Connection, item: tuple[str, float]) -> None:
    run(connection, SET_REFRESH_UNTIL, id=item[0], until=item[1])
