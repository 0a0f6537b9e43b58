"""Claims: due heads taken under a lease, with all that it takes to send them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from relay.core.delivery import Claimed
from relay.core.events import Event
from relay.core.records import Lease
from relay.store.outbox import DELIVERIES, EVENTS
from relay.store.statements import columns_of, json_list, listed, many, rows_of

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
DUE_IDS = """
SELECT id FROM deliveries
WHERE state = 'pending' AND subscription_id = :subscription_id AND priority = :priority AND due_at <= :now
ORDER BY due_at LIMIT :count
"""
TAKE = "UPDATE deliveries SET lease_token = :token, due_at = :until WHERE id = :id AND state = 'pending'"
_OF_DELIVERY = ("id", "subscription_id", "lease_token", "due_at", "attempt_count", "made_count", "created_at")
_OF_EVENT = ("type", "source", "subject", "time", "recorded_at", "body", "job_uid", "sequence")
WITH_EVENT = f"""
SELECT {columns_of(DELIVERIES, *_OF_DELIVERY, alias="d")}, e.id AS event_id, {columns_of(EVENTS, *_OF_EVENT, alias="e")}
FROM deliveries d JOIN events e ON e.id = d.event_id WHERE d.id IN {listed("ids")}
"""


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
        rows = rows_of(
            connection,
            DUE_IDS,
            subscription_id=subscription_id,
            priority=priority,
            now=now,
            count=len(leases) - len(ids),
        )
        ids.extend(row.id for row in rows)
    many(
        connection,
        TAKE,
        [
            {"id": delivery_id, "token": lease.token, "until": lease.until}
            for delivery_id, lease in zip(ids, leases, strict=False)
        ],
    )
    return ids


def load_claimed(connection: Connection, ids: Sequence[str]) -> dict[str, Claimed]:
    """Deliveries that were just taken, by id, with their events."""
    if not ids:
        return {}
    return {row.id: _claimed(row) for row in rows_of(connection, WITH_EVENT, ids=json_list(ids))}


def _claimed(row: Any) -> Claimed:
    event = Event(
        id=row.event_id,
        source=row.source,
        type=row.type,
        subject=row.subject,
        time=row.time,
        recorded_at=row.recorded_at,
        body=row.body,
        sequence=row.sequence,
        job_uid=row.job_uid,
    )
    return Claimed(
        id=row.id,
        event=event,
        subscription_id=row.subscription_id,
        job_uid=row.job_uid,
        lease_token=row.lease_token,
        lease_until=row.due_at,
        attempt_count=row.attempt_count,
        made_count=row.made_count,
        created_at=row.created_at,
    )
