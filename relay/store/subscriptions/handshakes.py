"""Handshakes: which sinks are to be asked for their consent, whose turn it is to ask, and what they have answered."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy.engine import Connection

from relay.core.jsontext import dumps
from relay.core.subscriptions.handshake import WAITS
from relay.core.subscriptions.subscription import Consent, Subscription
from relay.store.databases.database import Database
from relay.store.databases.group_commit import each
from relay.store.databases.locks import locking, row_of, to_change
from relay.store.databases.statements import run, sql
from relay.store.outbox.recording import Outbox
from relay.store.outbox.subscription_cache import READ_AT_ONCE
from relay.store.subscriptions.rows import digest

# Makes a subscription pending that was sent to without a handshake, unless it has changed since it was read.
AWAIT_CONSENT = """
UPDATE subscriptions SET state = 'pending', state_since = :now, state_reason = :reason, probe_at = NULL,
  handshake_at = :now
WHERE id = :id AND (state = 'enabled' OR (state = 'disabled' AND probe_at IS NOT NULL))
  AND COALESCE(state_since, -1) = COALESCE(CAST(:state_since AS double precision), -1)
"""
# The pending subscriptions whose sink is to be asked now.
DUE_HANDSHAKES = """
SELECT handshake_at, id FROM subscriptions
WHERE state = 'pending' AND handshake_at <= :now AND (handshake_at, id) > (:after_at, :after_id)
ORDER BY handshake_at, id LIMIT :count
"""
# When the next sink is asked.
NEXT_HANDSHAKE = "SELECT MIN(handshake_at) FROM subscriptions WHERE state = 'pending' AND handshake_at > :now"
# Takes the turn to ask a sink. A node keeps it until it reports, or until then if it dies.
HANDSHAKE_TURN = """
UPDATE subscriptions SET handshake_at = :until WHERE id = :id AND state = 'pending' AND handshake_at <= :now
"""
# Ends a turn without consent: the sink is asked again later, or only after `resume`.
POSTPONE_HANDSHAKE = """
UPDATE subscriptions SET handshake_at = :at, state_reason = :reason
WHERE id = :id AND state = 'pending' AND handshake_at = :until
"""
# Asks a sink again that is asked no more.
ASK_AGAIN = "UPDATE subscriptions SET handshake_at = :now WHERE id = :id AND state = 'pending' AND handshake_at IS NULL"
# Records the result of a handshake with the present sink, and enables the subscription if it waits for that.
END_HANDSHAKE = sql(
    """
UPDATE subscriptions SET consent = $json(consent), handshake_at = NULL,
  state_since = CASE WHEN state = 'pending' THEN :now ELSE state_since END,
  state_reason = CASE WHEN state = 'pending' THEN :reason ELSE state_reason END,
  drain_since = CASE WHEN state = 'pending' THEN :now ELSE drain_since END,
  state = CASE WHEN state = 'pending' THEN 'enabled' ELSE state END
WHERE id = :id AND sink_digest = :digest AND (:granted = 1 OR state = 'pending')
"""
)
# Enables a subscription that needs no consent any more, unless it has changed since it was found due.
WAIVE_CONSENT = """
UPDATE subscriptions SET state = 'enabled', state_since = :now, state_reason = :reason, handshake_at = NULL,
  drain_since = :now
WHERE id = :id AND state = 'pending' AND handshake_at <= :now
"""
# Ends every turn to ask a sink: no other node has this database.
FREE_HANDSHAKES = """
UPDATE subscriptions SET handshake_at = :now
WHERE id IN (SELECT id FROM subscriptions WHERE state = 'pending' AND handshake_at > :now)
"""


class HandshakeStore:
    """Reads and writes of handshakes."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox
        self._awaits = each(self._await_consent)
        self._ends = each(self._end_handshake)
        self._waives = each(self._waive_consent)

    async def await_consent(self, subscriptions: Sequence[Subscription], now: float) -> None:
        """Makes subscriptions pending that are sent to without a handshake."""
        for start in range(0, len(subscriptions), READ_AT_ONCE):
            part = [(one.id, one.state_since, now) for one in subscriptions[start : start + READ_AT_ONCE]]
            await asyncio.gather(*(self._database.write(self._awaits, item) for item in part))

    async def due_handshakes(self, now: float, *, after: tuple[float, str], count: int) -> list[tuple[float, str]]:
        """The pending subscriptions whose sink is to be asked, each with the time since when, in this order, behind
        one of them."""
        return await self._database.read(_due_handshakes, now, after, count)

    async def next_handshake_at(self, now: float) -> float | None:
        """When the next sink is asked; None if none waits."""
        return await self._database.read(_next_handshake_at, now)

    async def handshake_turn(self, subscription_id: str, now: float, until: float) -> bool:
        """Takes the turn to ask a sink, until `until`. Returns whether it was this node's turn."""
        return await self._database.write(_handshake_turn, (subscription_id, now, until))

    async def postpone_handshake(self, subscription_id: str, until: float, at: float | None, reason: str) -> None:
        """Ends the turn `until` without consent. The sink is asked again at `at`; None: only after `resume`."""
        await self._database.write(_postpone_handshake, (subscription_id, until, at, reason))

    async def ask_again(self, subscription_ids: Sequence[str], now: float) -> None:
        """Makes sinks due that are asked no more."""
        await asyncio.gather(*(self._database.write(_ask_again, (id, now)) for id in subscription_ids))

    async def end_handshake(self, subscription: Subscription, consent: Consent, reason: str) -> bool:
        """Records a result, and enables the subscription if it is pending. Returns False if it has another sink by
        now, or was removed, or without consent if it is not pending."""
        found = digest(subscription.sink, subscription.owner)
        return await self._database.write(self._ends, (subscription.id, found, consent, reason))

    async def waive_consent(self, subscription_id: str, now: float, reason: str) -> bool:
        """Enables a pending subscription that is due. Returns False if it is none by now."""
        return await self._database.write(self._waives, (subscription_id, now, reason))

    async def free_all(self, now: float) -> None:
        """Ends the handshakes of a node that was killed. Only for a database that no other node has."""
        await self._database.write(_free_all, now)

    @locking(lambda item: to_change(item[0]))
    def _await_consent(self, connection: Connection, item: tuple[str, float | None, float]) -> None:
        subscription_id, state_since, now = item
        if run(connection, AWAIT_CONSENT, id=subscription_id, state_since=state_since, now=now, reason=WAITS).rowcount:
            self._outbox.subscriptions.changed(connection)

    @locking(lambda item: to_change(item[0]))
    def _waive_consent(self, connection: Connection, item: tuple[str, float, str]) -> bool:
        subscription_id, now, reason = item
        waived = run(connection, WAIVE_CONSENT, id=subscription_id, now=now, reason=reason).rowcount
        if waived:
            self._outbox.subscriptions.changed(connection)
        return bool(waived)

    @locking(lambda item: to_change(item[0]))
    def _end_handshake(self, connection: Connection, item: tuple[str, str, Consent, str]) -> bool:
        subscription_id, found, consent, reason = item
        stored = {"sink": found, **asdict(consent)}
        recorded = run(
            connection,
            END_HANDSHAKE,
            id=subscription_id,
            digest=found,
            consent=dumps(stored).decode(),
            granted=int(consent.granted),
            now=consent.at,
            reason=reason,
        ).rowcount
        if recorded:
            self._outbox.subscriptions.changed(connection)
        return bool(recorded)


@each
def _free_all(connection: Connection, now: float) -> None:
    run(connection, FREE_HANDSHAKES, now=now)


@each
@locking(lambda item: [row_of(item[0])])
def _handshake_turn(connection: Connection, item: tuple[str, float, float]) -> bool:
    return bool(run(connection, HANDSHAKE_TURN, id=item[0], now=item[1], until=item[2]).rowcount)


@each
@locking(lambda item: [row_of(item[0])])
def _postpone_handshake(connection: Connection, item: tuple[str, float, float | None, str]) -> None:
    subscription_id, until, at, reason = item
    run(connection, POSTPONE_HANDSHAKE, id=subscription_id, until=until, at=at, reason=reason)


@each
@locking(lambda item: [row_of(item[0])])
def _ask_again(connection: Connection, item: tuple[str, float]) -> None:
    run(connection, ASK_AGAIN, id=item[0], now=item[1])


def _due_handshakes(
    connection: Connection, now: float, after: tuple[float, str], count: int
) -> list[tuple[float, str]]:
    found = run(connection, DUE_HANDSHAKES, now=now, after_at=after[0], after_id=after[1], count=count)
    return [(row.handshake_at, row.id) for row in found]


def _next_handshake_at(connection: Connection, now: float) -> float | None:
    found: float | None = run(connection, NEXT_HANDSHAKE, now=now).scalar_one()
    return found
