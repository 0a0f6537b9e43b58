"""Claims: due heads are leased and returned with everything needed to send them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.engine import Connection

from relay.core.deliveries.bundles import Bundle, Room
from relay.core.deliveries.delivery import AT_ONCE_SECONDS, Claimed, at_once
from relay.core.deliveries.pulls import LEASE_PREFIX
from relay.core.events.event import Event
from relay.core.records import Claim, Lease
from relay.store.databases.group_commit import each, quick, single
from relay.store.databases.locks import locking, row_of
from relay.store.databases.statements import Sql, columns_of, fetch_json, json_list, json_query, run, run_many, sql
from relay.store.schema.tables import DeliveryRow, EventRow

# Due time of the next delivery of each subscription, per priority. A loose index scan: one seek per subscription with
# pending deliveries, however many rows it has.
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


def is_pulled(row: str) -> str:
    """SQL that is true of a row under a lease of a program that pulls, also after its end, until that is recorded."""
    return f"substr({row}.lease_token, 1, {len(LEASE_PREFIX)}) = '{LEASE_PREFIX}'"


def _first_of_each_priority(which: str, limit: str) -> str:
    """The pending deliveries of a subscription that are due first. Rows that are left out are not locked."""
    return " UNION ALL ".join(
        f"""
SELECT * FROM (
  SELECT id, priority, due_at FROM deliveries
  WHERE state = 'pending' AND subscription_id = :subscription_id AND priority = {priority}
    AND {which.format(priority=priority)}
  ORDER BY due_at LIMIT {limit} $skip_locked
) AS due_{priority}
"""
        for priority in (0, 1, 2)
    )


_DUE = "due_at <= :now AND '{priority}' IN $json_values(priorities)"
# Retries are due by the machine's clock, which may be set while a delivery is leased. Leases have a clock of their own.
UNLEASED = "(lease_token IS NULL OR due_at <= :taken_at)"


def _take(which: str) -> str:
    """Deliveries already under the lease (promoted followers) count towards `count`. The due rows are materialized:
    evaluated again in another plan, they would lock other rows."""
    return f"""
UPDATE deliveries SET lease_token = :token, due_at = :until WHERE id IN (
  WITH due AS MATERIALIZED (
    SELECT id FROM ({_first_of_each_priority(which, ":count")}) AS found
    ORDER BY priority, due_at
    LIMIT (
      SELECT CASE WHEN COUNT(*) < :count THEN :count - COUNT(*) ELSE 0 END
      FROM deliveries WHERE lease_token = :token
    )
  )
  SELECT id FROM due
)
"""


# Leases due heads of one subscription, by priority and due time.
TAKE = sql(_take(f"{_DUE} AND {UNLEASED}"), _take(_DUE))
# Takes the turn to probe a disabled subscription. A node keeps its turn until the lease ends, even if the node dies.
PROBE_TURN = """
UPDATE subscriptions SET probe_at = :until WHERE id = :id AND state = 'disabled' AND probe_at <= :now
"""
# Time of the next probe of a disabled subscription.
PROBE_AT = "SELECT probe_at FROM subscriptions WHERE id = :id AND state = 'disabled'"
PROBE_CANDIDATES = 100
# Leases the delivery that probes a disabled subscription. The oldest delivery among the next candidates of each
# priority; ids are in time order.
TAKE_OLDEST = sql(
    f"""
WITH due AS MATERIALIZED (
  SELECT id FROM ({_first_of_each_priority(UNLEASED, str(PROBE_CANDIDATES))}) AS found ORDER BY id LIMIT 1
)
UPDATE deliveries SET lease_token = :token, due_at = :until WHERE id IN (SELECT id FROM due)
"""
)
EXPEDITE_CHUNK = 1_000
ANY_NUMBER = 1_000_000_000
# Makes a chunk of a subscription's retries due at once. Deliveries that waited because of their sink: the next attempt
# uses up nothing of the schedule.
EXPEDITE = sql(
    f"""
UPDATE deliveries SET due_at = created_at - {AT_ONCE_SECONDS},
  attempt_count = attempt_count - CASE WHEN attempt_count > 0 THEN 1 ELSE 0 END
WHERE id IN (
  SELECT id FROM deliveries
  WHERE state = 'pending' AND subscription_id = :subscription_id AND priority IN (1, 2) AND due_at > :now
    AND lease_token IS NULL AND created_at >= :made_since AND made_count - attempt_count < :free_count
  LIMIT {EXPEDITE_CHUNK} $skip_locked
)
"""
)
# Makes retries of a chunk of a subscription's due first attempts.
DEMOTE = sql(
    f"""
UPDATE deliveries SET priority = 1 WHERE id IN (
  SELECT id FROM deliveries
  WHERE state = 'pending' AND subscription_id = :subscription_id AND priority = 0 AND due_at <= :due_by
    AND lease_token IS NULL
  LIMIT {EXPEDITE_CHUNK} $skip_locked
)
"""
)
_OF_DELIVERY = ("id", "subscription_id", "lease_token", "due_at", "attempt_count", "made_count", "created_at", "round")
_OF_EVENT = (
    *("type", "source", "subject", "time", "recorded_at", "body", "job_uid", "sequence", "owner", "stream"),
    "identity",
)
_SHOWN = (*_OF_DELIVERY, "event_id", *_OF_EVENT, "priority")


def with_event(which: str, body: str = "$as_text(body)") -> Sql:
    """The deliveries for which a condition holds, with their events, as `leased_of` reads them. `body`: the text that
    is read as the body."""
    return json_query(
        f"""
SELECT {columns_of(DeliveryRow, *_OF_DELIVERY, "priority", alias="d")}, e.id AS event_id,
  {columns_of(EventRow, *_OF_EVENT, alias="e")}
FROM deliveries d JOIN events e ON e.id = d.event_id WHERE {which}
""",
        [body if name == "body" else name for name in _SHOWN],
    )


# The deliveries under some leases, with their events.
WITH_EVENT = with_event("d.lease_token IN $json_values(tokens)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Due time of the first pending delivery of one subscription, per priority; None if there is none."""

    subscription_id: str
    due_at: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """Claim the due deliveries of one subscription at `now`, under a lease, for up to `requests` requests.

    bundle  how its deliveries share requests; None: one request each
    room    for single events of a subscription that bundles
    probe   claim the oldest delivery of a disabled subscription, due or not, if its probe is due
    """

    subscription_id: str
    now: float
    lease: Lease
    priorities: tuple[int, ...] = (0, 1, 2)
    requests: int = 1
    bundle: Bundle | None = None
    room: Room = field(default_factory=Room)
    probe: bool = False

    @property
    def taken_at(self) -> float:
        """The time by the clock of leases."""
        return self.now if self.lease.taken_at is None else self.lease.taken_at


@single
def backlog(connection: Connection) -> list[Backlog]:
    """One entry per subscription with pending deliveries."""
    return [
        Backlog(subscription_id=row.id, due_at=(row.fresh, row.retry, row.manual))
        for row in run(connection, PENDING_SUBSCRIPTIONS)
    ]


@quick
def claim_singles(connection: Connection, items: Sequence[ClaimRequest]) -> list[Claim]:
    """Claims due heads for each request: first attempts, then retries, then manual deliveries, each by due time."""
    wanted = [due_values(item.subscription_id, item.lease, item.requests, item.now, item.priorities) for item in items]
    run_many(connection, TAKE, wanted)
    taken: dict[str, list[Claimed]] = {item.lease.token: [] for item in items}
    for one in load_leased(connection, list(taken)):
        taken[one.lease_token].append(one)
    return [Claim(requests=tuple((one,) for one in taken[item.lease.token])) for item in items]


def due_values(
    subscription_id: str, lease: Lease, count: int, now: float, priorities: Iterable[int] = (0, 1, 2)
) -> dict[str, Any]:
    """The parameters of TAKE, which claims due heads of one subscription until `lease` holds `count` deliveries or
    nothing more is due."""
    return {
        "subscription_id": subscription_id,
        "token": lease.token,
        "until": lease.until,
        "priorities": json_list([str(priority) for priority in sorted(set(priorities))]),
        "now": now,
        "taken_at": now if lease.taken_at is None else lease.taken_at,
        "count": count,
    }


@each
@locking(lambda item: [row_of(item.subscription_id)])
def claim_probe(connection: Connection, item: ClaimRequest) -> Claim:
    """Takes the turn to probe a disabled subscription, and its oldest delivery. Only one node gets the turn."""
    until, token = item.lease.until, item.lease.token
    if not run(connection, PROBE_TURN, id=item.subscription_id, now=item.now, until=until).rowcount:
        return Claim(next_at=run(connection, PROBE_AT, id=item.subscription_id).scalar_one_or_none())
    values = {"subscription_id": item.subscription_id, "token": token, "until": until, "taken_at": item.taken_at}
    run(connection, TAKE_OLDEST, **values)
    return Claim(requests=tuple((replace(one, probe=True),) for one in load_leased(connection, [token])), next_at=until)


@each
def expedite(connection: Connection, item: tuple[str, float, float, int]) -> int:
    """Makes a chunk of retries due at once: those created since a time that have had fewer than `free_count` attempts
    that used up nothing of the schedule. Returns the number."""
    subscription_id, now, made_since, free_count = item
    values = {"subscription_id": subscription_id, "now": now, "made_since": made_since, "free_count": free_count}
    return run(connection, EXPEDITE, **values).rowcount


@each
def demote(connection: Connection, item: tuple[str, float]) -> int:
    """Demotes a chunk of due first attempts to retries. Returns the number."""
    return run(connection, DEMOTE, subscription_id=item[0], due_by=at_once(item[1])).rowcount


def load_leased(connection: Connection, tokens: Sequence[str]) -> list[Claimed]:
    """The deliveries under these leases, with their events: by priority, then oldest first."""
    return leased_of(fetch_json(connection, WITH_EVENT, tokens=json_list(tokens))) if tokens else []


def leased_of(rows: Iterable[Sequence[Any]]) -> list[Claimed]:
    """The deliveries in rows of `WITH_EVENT`, in the same order."""
    return [_claimed(row) for row in sorted(rows, key=lambda row: (row[-1], row[0]))]


def _claimed(row: Sequence[Any]) -> Claimed:
    delivery_id, subscription_id, lease_token, due_at, attempt_count, made_count, created_at, round, event_id = row[:9]
    type, source, subject, time, recorded_at, body, job_uid, sequence, owner, stream, identity, priority = row[9:]
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
        owner=owner,
        stream=stream,
        published=identity is not None,
    )
    return Claimed(
        id=delivery_id,
        event=event,
        subscription_id=subscription_id,
        lease_token=lease_token,
        lease_until=due_at,
        attempt_count=attempt_count,
        made_count=made_count,
        priority=priority,
        round=round,
        created_at=created_at,
    )
