"""Claims of bundles: due heads and their followers, leased together. `relay/core/deliveries/bundles.py` has the rules.

A follower that is claimed stays blocked, with the lease of its bundle: if the node dies, it waits for its head again.
Its head is locked while it is claimed, so only the result of the bundle or the end of its head changes it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from relay.core.deliveries.bundles import Bundle, Candidate, Room, in_order, ready_at, singles, take
from relay.core.deliveries.delivery import due_since
from relay.core.records import BundledClaim, Lease
from relay.store.databases.group_commit import each
from relay.store.databases.statements import SQLITE, Sql, fetch, json_list, run, sql
from relay.store.deliveries.attempt_results import AUTOMATIC, MANUAL
from relay.store.deliveries.claims import load_leased
from relay.store.schema.tables import OPEN_DELIVERY

MAX_ALONE = 100
"""Maximum deliveries that one claim takes one by one."""

_BYTES = "(SELECT LENGTH(e.body) FROM events e WHERE e.id = {}.event_id) AS size_bytes"
_UNLEASED = "AND (lease_token IS NULL OR due_at <= :taken_at)"
_DUE = f"""
WITH due AS MATERIALIZED (
  SELECT id, event_id, job_uid, sequence, created_at, due_at FROM deliveries
  WHERE state = 'pending' AND subscription_id = :subscription_id AND priority = :priority AND due_at <= :now
    AND alone = :alone {{unleased}}
  ORDER BY due_at LIMIT :count {{locking}}
)
SELECT id, job_uid, sequence, {_BYTES.format("due")}, created_at, due_at,
  (SELECT e.type FROM events e WHERE e.id = due.event_id) AS type
FROM due
"""
# The due heads of one subscription and priority: the oldest. Leases have a clock of their own: see `claims`.
DUE_HEADS = sql(_DUE.format(unleased=_UNLEASED, locking=""), _DUE.format(unleased="", locking=""))
# Locks them, but not those that another transaction has.
LOCK_HEADS = sql(_DUE.format(unleased=_UNLEASED, locking=""), _DUE.format(unleased="", locking="$skip_locked"))


def open_of_jobs(which: str, apart: str = "d.alone") -> Sql:
    """The open deliveries of some jobs for a subscription, in order. On PostgreSQL one index seek per job, whatever the
    statistics say. `apart`: true of those that cannot be taken with others, as the last column."""
    columns = f"d.id, d.job_uid, d.sequence, {{size}}, d.created_at, d.state, {apart} AS apart"
    of_job = f"d.subscription_id = :subscription_id AND d.{OPEN_DELIVERY} AND d.{which}"
    shown = columns.format(size=_BYTES.format("d"))
    return sql(
        f"""
SELECT {shown} FROM deliveries d WHERE d.job_uid IN $json_values(job_uids) AND {of_job}
ORDER BY d.job_uid, d.sequence LIMIT :count
""",
        f"""
SELECT found.* FROM $json_values(job_uids) AS wanted(uid) CROSS JOIN LATERAL (
  SELECT {shown} FROM deliveries d WHERE d.job_uid = wanted.uid AND {of_job} ORDER BY d.sequence LIMIT :count
) AS found
""",
    )


# The automatic, or manual, open deliveries of some jobs for a subscription, in order.
OPEN_OF_JOBS, MANUAL_OPEN_OF_JOBS = open_of_jobs(AUTOMATIC), open_of_jobs(MANUAL)
# Locks deliveries, but not those that another transaction has.
LOCK_FOLLOWERS = sql("SELECT id, state FROM deliveries d WHERE id IN $json_values(ids) $skip_locked")
# Leases deliveries, whose heads are locked.
LEASE = sql("UPDATE deliveries SET lease_token = :token, due_at = :until WHERE id IN $json_values(ids)")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRequest:
    """Claim what is due of one subscription at `now`, under a lease, for up to `requests` requests.

    room  for single events; none if `bundle.free_per_minute` is None
    """

    subscription_id: str
    priorities: tuple[int, ...]
    bundle: Bundle
    room: Room
    requests: int
    now: float
    lease: Lease


@each
def claim_bundle(connection: Connection, item: BundleRequest) -> BundledClaim:
    """Claims one bundle, of the first priority that has one ready, or single events for which there is room; and
    deliveries that are sent by themselves. Most looks find that it is too early: only if not, the deliveries are looked
    at again and locked."""
    locks = connection.dialect.name != SQLITE
    wanted, waits_until = _wanted(connection, item, locks=locks and item.bundle.own_outcomes)  # these never wait
    if wanted and locks and not item.bundle.own_outcomes:
        wanted, waits_until = _wanted(connection, item, locks=True)
    if not wanted:
        return BundledClaim(requests=(), ready_at=waits_until)
    ids = json_list(sorted(id for one in wanted for id in one))
    run(connection, LEASE, ids=ids, token=item.lease.token, until=item.lease.until)
    found = {one.id: one for one in load_leased(connection, [item.lease.token])}
    requests = (in_order([found[id] for id in one if id in found]) for one in wanted)
    return BundledClaim(requests=tuple(one for one in requests if one), ready_at=waits_until)


def _wanted(connection: Connection, item: BundleRequest, *, locks: bool) -> tuple[list[tuple[str, ...]], float]:
    """The ids for each request, and when the next one is ready if it waits."""
    wanted: list[tuple[str, ...]] = []
    waits_until = math.inf
    for priority in sorted(set(item.priorities)):
        heads = _heads(connection, item, priority, item.bundle.max_events, locks=locks)
        if not heads:
            continue
        filled = item.bundle.own_outcomes and len(heads) == item.bundle.max_events
        open_by_job = {} if filled else _open_by_job(connection, item, priority, heads, locks=locks)
        taken = take(heads, open_by_job, item.bundle)
        free = singles(heads, len(taken.ids), item.bundle, item.room, fresh=priority == 0)
        if free:
            wanted = [(head.id,) for head in free[: item.requests]]
            break
        oldest_at = min(head.since for head in heads)
        at = ready_at(item.bundle, item.room, oldest_at, item.now, fresh=priority == 0, full=taken.full)
        if at <= item.now:
            wanted = [taken.ids]
            break
        waits_until = min(waits_until, at)
    for priority in sorted(set(item.priorities)):
        left = min(item.requests - len(wanted), MAX_ALONE)
        if left > 0:
            wanted += [(head.id,) for head in _heads(connection, item, priority, left, alone=1, locks=locks)]
    return wanted, waits_until


def _heads(
    connection: Connection, item: BundleRequest, priority: int, count: int, *, alone: int = 0, locks: bool
) -> list[Candidate]:
    """Due heads, the oldest first. A first attempt waits since it was created, a retry or a replay since it is
    due."""
    taken_at = item.now if item.lease.taken_at is None else item.lease.taken_at
    rows = fetch(
        connection,
        LOCK_HEADS if locks else DUE_HEADS,
        subscription_id=item.subscription_id,
        priority=priority,
        now=item.now,
        taken_at=taken_at,
        alone=alone,
        count=count,
    )
    return [
        Candidate(
            id, job_uid, sequence, size_bytes or 0, created_at if priority == 0 else due_since(due_at), type or ""
        )
        for id, job_uid, sequence, size_bytes, created_at, due_at, type in sorted(
            rows, key=lambda row: (row[5], row[0])
        )
    ]


def _open_by_job(
    connection: Connection, item: BundleRequest, priority: int, heads: Sequence[Candidate], *, locks: bool
) -> dict[str, list[Candidate]]:
    """The open deliveries of the heads' jobs. `locks`: locks the followers that can be taken."""
    statement = MANUAL_OPEN_OF_JOBS if priority == 2 else OPEN_OF_JOBS
    return open_by_job(connection, statement, item.subscription_id, heads, 2 * item.bundle.max_events, locks=locks)


def open_by_job(
    connection: Connection,
    statement: Sql,
    subscription_id: str,
    heads: Sequence[Candidate],
    count: int,
    *,
    locks: bool,
) -> dict[str, list[Candidate]]:
    """The open deliveries of the heads' jobs, read by an `open_of_jobs` statement. `locks`: locks the followers that
    can be taken."""
    job_uids = sorted({head.job_uid for head in heads if head.job_uid is not None})
    if not job_uids:
        return {}
    values = {"subscription_id": subscription_id, "job_uids": json_list(job_uids), "count": count}
    rows = fetch(connection, statement, **values)
    free = {row[0] for row in rows if row[5] == "blocked" and not row[6]}
    if free and locks:
        locked = fetch(connection, LOCK_FOLLOWERS, ids=json_list(sorted(free)))
        free = {row[0] for row in locked if row[1] == "blocked"}
    by_job: dict[str, list[Candidate]] = {}
    for id, job_uid, sequence, size_bytes, created_at, _state, _apart in rows:
        one = Candidate(id, job_uid, sequence, size_bytes or 0, created_at, free=id in free)
        by_job.setdefault(job_uid, []).append(one)
    return by_job
