"""The sinks' credentials: one node at a time trades a refresh token, and stores what it gets for it."""

from dataclasses import dataclass, replace

from sqlalchemy import update
from sqlalchemy.engine import Connection
from sqlmodel import col

from relay.core.deliveries.credentials import SinkCredential, stored_token
from relay.core.records import RefreshTurn
from relay.store.databases.database import Cipher, Database
from relay.store.databases.group_commit import each
from relay.store.databases.locks import locking, row_of
from relay.store.databases.statements import run
from relay.store.schema.tables import SubscriptionRow
from relay.store.subscriptions.rows import locked, subscription_from, values_of

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
