"""Handshakes: the sinks to ask for their consent, the node whose turn it is, and the answers."""

from dataclasses import asdict
from typing import Any

from sqlalchemy.engine import Connection

from relay.core.jsontext import dumps
from relay.core.subscriptions.handshake import WAITS
from relay.core.subscriptions.subscription import Consent, Subscription
from relay.store.databases.database import Database
from relay.store.databases.group_commit import each
from relay.store.databases.locks import locking, to_change
from relay.store.databases.statements import Sql, run, sql
from relay.store.outbox.recording import Outbox

# Makes a subscription pending that was sent to without a handshake, unless it has changed since it was read.
AWAIT_CONSENT = """
UPDATE subscriptions SET state = 'pending', state_since = :now, state_reason = :reason, probe_at = NULL,
  handshake_at = :now
WHERE id = :id AND (state = 'enabled' OR (state = 'disabled' AND probe_at IS NOT NULL))
  AND COALESCE(state_since, -1) = COALESCE(CAST(:state_since AS double precision), -1)
"""
# The pending subscriptions in the order in which their sinks are asked.
PENDING = """
SELECT handshake_at, id FROM subscriptions
WHERE state = 'pending' AND (handshake_at, id) > (:after_at, :after_id)
ORDER BY handshake_at, id LIMIT :count
"""
# Takes the turn to ask a sink. A node keeps it until it reports, or until then if it dies.
TAKE_TURN = """
UPDATE subscriptions SET handshake_at = :until WHERE id = :id AND state = 'pending' AND handshake_at <= :now
"""
# Ends a turn: enables the subscription, or without consent has its sink asked again later. Nothing if the subscription
# was changed, resumed, paused or removed meanwhile.
END_TURN = sql(
    """
UPDATE subscriptions SET state_reason = :reason, handshake_at = CAST(:again_at AS double precision),
  consent = $json(consent), state_since = CASE WHEN :ends = 1 THEN :now ELSE state_since END,
  drain_since = CASE WHEN :ends = 1 THEN :now ELSE drain_since END,
  state = CASE WHEN :ends = 1 THEN 'enabled' ELSE state END
WHERE id = :id AND state = 'pending' AND handshake_at = :until
"""
)


class HandshakeStore:
    """Reads and writes of handshakes."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox
        self._changes = each(self._change)

    async def await_consent(self, subscription: Subscription, now: float) -> None:
        """Makes a subscription pending that is sent to without a handshake."""
        since = subscription.state_since
        await self._write(AWAIT_CONSENT, tells=True, id=subscription.id, state_since=since, now=now, reason=WAITS)

    async def pending(self, *, after: tuple[float, str], count: int) -> list[tuple[float, str]]:
        """The pending subscriptions behind `after`, in the order of the times at which their sinks are asked."""
        return await self._database.read(_pending, after, count)

    async def take_turn(self, subscription_id: str, now: float, until: float) -> bool:
        """Takes the turn to ask a sink, until `until`. Returns whether it was this node's turn."""
        return await self._write(TAKE_TURN, id=subscription_id, now=now, until=until)

    async def end_turn(
        self, id: str, until: float, now: float, reason: str, consent: Consent | None, again_at: float | None
    ) -> bool:
        """Ends the turn `until`: records the consent and enables the subscription, or has its sink asked again at
        `again_at`. Returns False if the subscription was changed, resumed, paused or removed meanwhile."""
        stored = None if consent is None else dumps(asdict(consent)).decode()
        values = {"id": id, "until": until, "now": now, "reason": reason, "consent": stored, "again_at": again_at}
        return await self._write(END_TURN, tells=again_at is None, ends=int(again_at is None), **values)

    async def _write(self, statement: Sql | str, *, tells: bool = False, **values: Any) -> bool:
        return await self._database.write(self._changes, (statement, tells, values))

    @locking(lambda item: to_change(item[2]["id"]))
    def _change(self, connection: Connection, item: tuple[Sql | str, bool, dict[str, Any]]) -> bool:
        statement, tells, values = item
        changed = run(connection, statement, **values).rowcount > 0
        if changed and tells:
            self._outbox.subscriptions.changed(connection)
        return changed


def _pending(connection: Connection, after: tuple[float, str], count: int) -> list[tuple[float, str]]:
    found = run(connection, PENDING, after_at=after[0], after_id=after[1], count=count)
    return [(row.handshake_at, row.id) for row in found]
