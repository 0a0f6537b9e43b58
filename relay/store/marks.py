"""Marks: the end of an attempt, what follows it, and the leases that go on from it; all in one transaction."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import Connection

from relay.core.events import Event
from relay.core.records import Lease, Mark, Marked
from relay.store.claims import load_claimed, take_due
from relay.store.outbox import Outbox
from relay.store.rows import attempt_values
from relay.store.statements import at_once, gather, gathered, json_list, listed, many, members, rows_of
from relay.store.tables import OPEN_DELIVERY, AttemptRow

ATTEMPTS = AttemptRow.__table__  # type: ignore[attr-defined]

HELD = gathered(
    f"SELECT id, lease_token FROM deliveries WHERE id IN {listed('ids')} AND state = 'pending'", "id", "lease_token"
)
MARK = f"""
UPDATE deliveries SET state = m.state, due_at = m.due_at, lease_token = NULL,
  priority = CASE WHEN priority = 2 THEN 2 ELSE 1 END,
  attempt_count = attempt_count + 1, made_count = made_count + 1, ended_at = m.ended_at, reason = m.reason
FROM {members("rows", "id", "state", "due_at", "ended_at", "reason")} AS m WHERE deliveries.id = m.id
"""
_ATTEMPT = (
    *("id", "delivery_id", "number", "started_at", "duration_ms", "status_code", "error", "headers"),
    *("response_excerpt", "remote_ip", "decision"),
)
INSERT_ATTEMPT = f"""
INSERT INTO {ATTEMPTS.name} ({", ".join(ATTEMPTS.c[name].name for name in _ATTEMPT)})
SELECT {", ".join("CAST(headers AS BLOB)" if name == "headers" else name for name in _ATTEMPT)}
FROM {members("rows", *_ATTEMPT)}
"""
# Of each (job, subscription) the first delivery that has not ended, where it is blocked: one seek a pair, whatever else
# its job has open.
STRANDED = f"""
SELECT d.id, d.job_uid, d.subscription_id FROM json_each(:pairs) AS pair JOIN deliveries d ON d.id = (
  SELECT o.id FROM deliveries o
  WHERE o.job_uid = json_extract(pair.value, '$[0]') AND o.subscription_id = json_extract(pair.value, '$[1]')
    AND o.{OPEN_DELIVERY} AND o.priority < 2
  ORDER BY o.sequence LIMIT 1
) WHERE d.state = 'blocked'
"""
HEAD = f"""
SELECT id FROM deliveries
WHERE job_uid = :job_uid AND subscription_id = :subscription_id AND {OPEN_DELIVERY} AND priority < 2
ORDER BY sequence LIMIT 1
"""
PROMOTE = """
UPDATE deliveries SET state = 'pending', due_at = :due_at, lease_token = :token WHERE id = :id AND state = 'blocked'
"""
DISABLE = """
UPDATE subscriptions SET state = 'disabled', disabled_reason = :reason, disabled_at = :now
WHERE id = :id AND state <> 'disabled'
"""
DISABLED_EVENT = "relay.subscription.disabled"

Pair = tuple[str, str]


class Marker:
    """The batch function of marks."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def mark(self, connection: Connection, items: Sequence[Mark]) -> list[Marked]:
        """Ends attempts whose lease is still held: the attempt's row, the delivery's new state, the follower's
        promotion, what the subscription goes on with, and any events."""
        kept = _kept(connection, items)
        at_once(connection, MARK, [_mark_values(mark) for mark in kept])
        at_once(
            connection,
            INSERT_ATTEMPT,
            [attempt_values(mark.claimed.id, mark.attempt_id, mark.attempt) for mark in kept],
        )
        disabled, events = self._disable(connection, kept)
        self._outbox.insert(connection, [(event, None) for event in events])
        taken = _go_on(connection, kept, disabled)
        found = load_claimed(connection, list(taken.values()))
        ids = {id(mark) for mark in kept}
        return [
            Marked(kept=True, next=found.get(taken.get(mark.attempt_id, ""))) if id(mark) in ids else Marked(kept=False)
            for mark in items
        ]

    def _disable(self, connection: Connection, kept: Sequence[Mark]) -> tuple[set[str], list[Event]]:
        """Disables subscriptions. Returns their ids and the events of all marks: of several marks that disable one
        subscription only the first says so."""
        disabled: set[str] = set()
        events: list[Event] = []
        for mark in kept:
            if mark.disable is None:
                events += mark.events
                continue
            disabled.add(mark.claimed.subscription_id)
            values = {"id": mark.claimed.subscription_id, "reason": mark.disable, "now": mark.now}
            if connection.exec_driver_sql(DISABLE, values).rowcount:
                self._outbox.book.changed()
                events += mark.events
            else:
                events += [event for event in mark.events if event.type != DISABLED_EVENT]
        return disabled, events


def _kept(connection: Connection, items: Sequence[Mark]) -> list[Mark]:
    """The marks whose lease is still held; a second mark of one delivery in a group has lost its lease to the first."""
    ids = json_list([mark.claimed.id for mark in items])
    held = dict(gather(connection, HELD, ids=ids))
    kept: list[Mark] = []
    for mark in items:
        if held.get(mark.claimed.id) == mark.claimed.lease_token:
            del held[mark.claimed.id]
            kept.append(mark)
    return kept


def head_of(connection: Connection, job_uid: str, subscription_id: str) -> str | None:
    """The delivery that the others of a job and subscription wait for."""
    row = rows_of(connection, HEAD, job_uid=job_uid, subscription_id=subscription_id).one_or_none()
    return None if row is None else str(row.id)


def promote_strays(connection: Connection, pairs: Sequence[Pair], now: float) -> int:
    """Makes the first open delivery of each given (job, subscription) pending where it is blocked behind nothing."""
    ids = [delivery_id for delivery_id, _ in _stranded(connection, pairs)]
    many(connection, PROMOTE, [{"id": delivery_id, "due_at": now, "token": None} for delivery_id in ids])
    return len(ids)


def _go_on(connection: Connection, kept: Sequence[Mark], disabled: set[str]) -> dict[str, str]:
    """Promotes followers, then takes what is due for the marks that want to go on; nothing is taken for `disabled`
    subscriptions. Returns the ids of the deliveries taken, by the id of the mark's attempt."""
    taken = _promote(connection, [mark for mark in kept if mark.state != "pending"], disabled)
    wanting: dict[str, list[tuple[Mark, Lease]]] = {}
    for mark in kept:
        subscription_id = mark.claimed.subscription_id
        going = mark.take_due and mark.attempt_id not in taken and subscription_id not in disabled
        if going and mark.next_lease is not None:
            wanting.setdefault(subscription_id, []).append((mark, mark.next_lease))
    for subscription_id, wishes in sorted(wanting.items()):
        leases = [lease for _, lease in wishes]
        ids = take_due(connection, subscription_id, leases, max(mark.now for mark, _ in wishes))
        taken.update((mark.attempt_id, delivery_id) for (mark, _), delivery_id in zip(wishes, ids, strict=False))
    return taken


def _promote(connection: Connection, ended: Sequence[Mark], disabled: set[str]) -> dict[str, str]:
    """Makes the next delivery of each (job, subscription) whose head has ended pending: due at once, or taken under
    the mark's `next_lease`. Returns those taken, by the id of the mark's attempt."""
    by_pair = {
        (mark.claimed.job_uid, mark.claimed.subscription_id): mark for mark in ended if mark.claimed.job_uid is not None
    }
    taken: dict[str, str] = {}
    promoted: list[dict[str, Any]] = []
    for delivery_id, pair in _stranded(connection, [(str(job), subscription) for job, subscription in by_pair]):
        mark = by_pair[pair]
        lease = None if pair[1] in disabled else mark.next_lease
        if lease is None:
            promoted.append({"id": delivery_id, "due_at": mark.now, "token": None})
        else:
            promoted.append({"id": delivery_id, "due_at": lease.until, "token": lease.token})
            taken[mark.attempt_id] = delivery_id
    many(connection, PROMOTE, promoted)
    return taken


def _stranded(connection: Connection, pairs: Sequence[Pair]) -> list[tuple[str, Pair]]:
    if not pairs:
        return []
    rows = rows_of(connection, STRANDED, pairs=json_list(pairs))
    return [(row.id, (row.job_uid, row.subscription_id)) for row in rows]


def _mark_values(mark: Mark) -> tuple[Any, ...]:
    due_at = mark.now if mark.due_at is None else mark.due_at
    return mark.claimed.id, mark.state, due_at, None if mark.state == "pending" else mark.now, mark.reason
