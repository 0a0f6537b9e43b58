"""Claims: due heads taken under a lease, with all that it takes to send them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from relay.core.delivery import Claimed
from relay.core.events import Event
from relay.core.records import Lease
from relay.store.outbox import DELIVERIES, EVENTS
from relay.store.statements import at_once, columns_of, gather, gathered, json_list, listed, members, rows_of

# A loose index scan: one seek for each subscription that has something pending, however many rows it has.
PENDING_SUBSCRIPTIONS = """
WITH RECURSIVE pending(id) AS (
  SELECT MIN(subscription_id) FROM deliveries WHERE state = 'pending'
  UNION ALL
  SELECT (SELECT MIN(d.subscription_id) FROM deliveries d WHERE d.state = 'pending' AND d.subscription_id > pending.id)
  FROM pending WHERE pending.id IS NOT NULL
)
SELECT id,
  (SELECT MIN(due_at) FROM deliveries
   WHERE state = 'pending' AND subscription_id = pending.id AND priority = 0) AS fresh,
  (SELECT MIN(due_at) FROM deliveries
   WHERE state = 'pending' AND subscription_id = pending.id AND priority = 1) AS retry,
  (SELECT MIN(due_at) FROM deliveries
   WHERE state = 'pending' AND subscription_id = pending.id AND priority = 2) AS manual
FROM pending WHERE id IS NOT NULL
"""
DUE_IDS = gathered(
    """
SELECT id FROM deliveries
WHERE state = 'pending' AND subscription_id = :subscription_id AND priority = :priority AND due_at <= :now
ORDER BY due_at LIMIT :count
""",
    "id",
)
TAKE = f"""
UPDATE deliveries SET lease_token = t.token, due_at = t.until
FROM {members("rows", "id", "token", "until")} AS t WHERE deliveries.id = t.id AND state = 'pending'
"""
_OF_DELIVERY = ("id", "subscription_id", "lease_token", "due_at", "attempt_count", "made_count", "created_at")
_OF_EVENT = ("type", "source", "subject", "time", "recorded_at", "body", "job_uid", "sequence")
_SHOWN = (*_OF_DELIVERY, "event_id", *_OF_EVENT)
WITH_EVENT = gathered(
    f"""
SELECT {columns_of(DELIVERIES, *_OF_DELIVERY, alias="d")}, e.id AS event_id, {columns_of(EVENTS, *_OF_EVENT, alias="e")}
FROM deliveries d JOIN events e ON e.id = d.event_id WHERE d.id IN {listed("ids")}
""",
    *("CAST(body AS TEXT)" if name == "body" else name for name in _SHOWN),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits for one subscription: when the first of each priority is due (None: nothing of it)."""

    subscription_id: str
    due_at: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """Take up to `count` deliveries of one subscription that are due at `now`, under a lease."""

    subscription_id: str
    priorities: tuple[int, ...]
    count: int
    now: float
    lease: Lease


def backlog(connection: Connection) -> list[Backlog]:
    """One entry for each subscription that has something pending."""
    return [
        Backlog(subscription_id=row.id, due_at=(row.fresh, row.retry, row.manual))
        for row in rows_of(connection, PENDING_SUBSCRIPTIONS)
    ]


def claim(connection: Connection, items: Sequence[ClaimRequest]) -> list[tuple[Claimed, ...]]:
    """Takes due heads for each request, in the order of its priorities and then of their due time."""
    taken = [
        take_due(connection, item.subscription_id, [item.lease] * item.count, item.now, item.priorities)
        for item in items
    ]
    found = load_claimed(connection, [delivery_id for ids in taken for delivery_id in ids])
    return [tuple(found[delivery_id] for delivery_id in ids if delivery_id in found) for ids in taken]


def take_due(
    connection: Connection,
    subscription_id: str,
    leases: Sequence[Lease],
    now: float,
    priorities: Iterable[int] = (0, 1, 2),
) -> list[str]:
    """Takes a due head of one subscription under each of `leases`, as far as there are any. Returns their ids."""
    ids: list[str] = []
    for priority in dict.fromkeys(priorities):
        if len(ids) == len(leases):
            break
        rows = gather(
            connection,
            DUE_IDS,
            subscription_id=subscription_id,
            priority=priority,
            now=now,
            count=len(leases) - len(ids),
        )
        ids.extend(row[0] for row in rows)
    at_once(
        connection,
        TAKE,
        [(delivery_id, lease.token, lease.until) for delivery_id, lease in zip(ids, leases, strict=False)],
    )
    return ids


def load_claimed(connection: Connection, ids: Sequence[str]) -> dict[str, Claimed]:
    """Deliveries that were just taken, by id, with their events."""
    if not ids:
        return {}
    return {row[0]: _claimed(row) for row in gather(connection, WITH_EVENT, ids=json_list(ids))}


def _claimed(row: Sequence[Any]) -> Claimed:
    delivery_id, subscription_id, lease_token, due_at, attempt_count, made_count, created_at, event_id = row[:8]
    type, source, subject, time, recorded_at, body, job_uid, sequence = row[8:]
    event = Event(
        id=event_id,
        source=source,
        type=type,
        subject=subject,
        time=time,
        recorded_at=recorded_at,
        body=body.encode(),
        sequence=sequence,
        job_uid=job_uid,
    )
    return Claimed(
        id=delivery_id,
        event=event,
        subscription_id=subscription_id,
        job_uid=job_uid,
        lease_token=lease_token,
        lease_until=due_at,
        attempt_count=attempt_count,
        made_count=made_count,
        created_at=created_at,
    )
