"""Claims of bundles: due heads and their followers, leased together. `relay/core/deliveries/bundles.py` has the rules.

A follower that is claimed stays blocked, with the lease of its bundle: if the node dies, it waits for its head again.
Its head is locked while it is claimed, so only the result of the bundle or the end of its head changes it.
"""

import math
from collections.abc import Sequence

from sqlalchemy.engine import Connection

from relay.core.deliveries.bundles import Bundle, Candidate, in_order, ready_at, singles, take
from relay.core.deliveries.delivery import Claimed, due_since
from relay.core.records import Claim, Lease
from relay.store.databases.group_commit import each
from relay.store.databases.statements import SQLITE, Sql, fetch, json_list, run, sql
from relay.store.deliveries.attempt_results import AUTOMATIC, MANUAL
from relay.store.deliveries.claims import UNLEASED, ClaimRequest, is_pulled, load_leased
from relay.store.schema.tables import OPEN_DELIVERY

MAX_ALONE = 100
"""Maximum deliveries that one claim takes one by one."""

_BYTES = "(SELECT LENGTH(e.body) FROM events e WHERE e.id = {}.event_id) AS size_bytes"
_DUE = f"""
WITH due AS MATERIALIZED (
  SELECT id, event_id, job_uid, sequence, created_at, due_at FROM deliveries
  WHERE state = 'pending' AND subscription_id = :subscription_id AND priority = :priority AND due_at <= :now
    AND {UNLEASED} AND CASE
      WHEN :pulls = 0 THEN alone = :alone
      ELSE lease_token IS NULL OR NOT {is_pulled("deliveries")}
    END
  ORDER BY due_at LIMIT :count {{locking}}
)
SELECT id, job_uid, sequence, {_BYTES.format("due")}, created_at, due_at,
  (SELECT e.type FROM events e WHERE e.id = due.event_id) AS type
FROM due
"""
# The due heads of one subscription and priority: the oldest. A program that pulls gets those that are sent by
# themselves too, and none whose lease has ended before that is recorded.
DUE_HEADS = sql(_DUE.format(locking=""))
# Locks them, but not those that another transaction has.
LOCK_HEADS = sql(_DUE.format(locking="$skip_locked"))


def _open_of_jobs(which: str) -> Sql:
    """The open deliveries of some jobs for a subscription, in order. On PostgreSQL one index seek per job, whatever the
    statistics say. `apart`: true of those that cannot be taken with others."""
    apart = f"d.alone = 1 OR (d.lease_token IS NOT NULL AND (d.due_at > :taken_at OR {is_pulled('d')}))"
    columns = f"d.id, d.job_uid, d.sequence, {_BYTES.format('d')}, d.created_at, d.state, {apart} AS apart"
    of_job = f"d.subscription_id = :subscription_id AND d.{OPEN_DELIVERY} AND d.{which}"
    return sql(
        f"""
SELECT {columns} FROM deliveries d WHERE d.job_uid IN $json_values(job_uids) AND {of_job}
ORDER BY d.job_uid, d.sequence LIMIT :count
""",
        f"""
SELECT found.* FROM $json_values(job_uids) AS wanted(uid) CROSS JOIN LATERAL (
  SELECT {columns} FROM deliveries d WHERE d.job_uid = wanted.uid AND {of_job} ORDER BY d.sequence LIMIT :count
) AS found
""",
    )


# The automatic, or manual, open deliveries of some jobs for a subscription, in order.
OPEN_OF_JOBS, MANUAL_OPEN_OF_JOBS = _open_of_jobs(AUTOMATIC), _open_of_jobs(MANUAL)
# Locks deliveries, but not those that another transaction has.
LOCK_FOLLOWERS = sql("SELECT id, state FROM deliveries d WHERE id IN $json_values(ids) $skip_locked")
# Leases deliveries, whose heads are locked.
LEASE = sql("UPDATE deliveries SET lease_token = :token, due_at = :until WHERE id IN $json_values(ids)")


@each
def claim_bundle(connection: Connection, item: ClaimRequest) -> Claim:
    """Claims one bundle, of the first priority that has one ready, or single events for which there is room; and
    deliveries that are sent by themselves. Most scans find that it is too early, so the first one takes no locks."""
    assert item.bundle is not None
    locks = connection.dialect.name != SQLITE
    own_outcomes = item.bundle.own_outcomes  # these never wait
    wanted, waits_until = _wanted(connection, item, item.bundle, locks=locks and own_outcomes)
    if wanted and locks and not own_outcomes:
        wanted, waits_until = _wanted(connection, item, item.bundle, locks=True)
    next_at = None if waits_until == math.inf else waits_until
    if not wanted:
        return Claim(next_at=next_at)
    found = {one.id: one for one in lease_all(connection, item.lease, [id for one in wanted for id in one])}
    requests = (in_order([found[id] for id in one if id in found]) for one in wanted)
    return Claim(requests=tuple(one for one in requests if one), next_at=next_at)


def _wanted(
    connection: Connection, item: ClaimRequest, bundle: Bundle, *, locks: bool
) -> tuple[list[tuple[str, ...]], float]:
    """The ids for each request, and when the next one is ready if it waits."""
    wanted: list[tuple[str, ...]] = []
    waits_until = math.inf
    for priority in sorted(set(item.priorities)):
        heads = due_heads(connection, item, priority, bundle.max_events, locks=locks)
        if not heads:
            continue
        filled = bundle.own_outcomes and len(heads) == bundle.max_events
        of_jobs = {} if filled else open_by_job(connection, item, heads, bundle, manual=priority == 2, locks=locks)
        taken = take(heads, of_jobs, bundle)
        free = singles(heads, len(taken.ids), bundle, item.room, fresh=priority == 0)
        if free:
            wanted = [(head.id,) for head in free[: item.requests]]
            break
        oldest_at = min(head.since for head in heads)
        at = ready_at(bundle, item.room, oldest_at, item.now, fresh=priority == 0, full=taken.full)
        if at <= item.now:
            wanted = [taken.ids]
            break
        waits_until = min(waits_until, at)
    for priority in sorted(set(item.priorities)):
        left = min(item.requests - len(wanted), MAX_ALONE)
        if left > 0:
            wanted += [(head.id,) for head in due_heads(connection, item, priority, left, alone=1, locks=locks)]
    return wanted, waits_until


def due_heads(
    connection: Connection,
    item: ClaimRequest,
    priority: int,
    count: int,
    *,
    alone: int = 0,
    pulls: bool = False,
    locks: bool,
) -> list[Candidate]:
    """Due heads, the oldest first. A first attempt waits since it was created, a retry or a replay since it is
    due."""
    rows = fetch(
        connection,
        LOCK_HEADS if locks else DUE_HEADS,
        subscription_id=item.subscription_id,
        priority=priority,
        now=item.now,
        taken_at=item.taken_at,
        alone=alone,
        pulls=int(pulls),
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


def open_by_job(
    connection: Connection,
    item: ClaimRequest,
    heads: Sequence[Candidate],
    bundle: Bundle,
    *,
    manual: bool,
    locks: bool,
) -> dict[str, list[Candidate]]:
    """The open deliveries of the heads' jobs, as many as a bundle may take. `locks`: locks the followers that can be
    taken."""
    job_uids = sorted({head.order_key for head in heads if head.order_key is not None})
    if not job_uids:
        return {}
    rows = fetch(
        connection,
        MANUAL_OPEN_OF_JOBS if manual else OPEN_OF_JOBS,
        subscription_id=item.subscription_id,
        job_uids=json_list(job_uids),
        taken_at=item.taken_at,
        count=2 * bundle.max_events,
    )
    free = {row[0] for row in rows if row[5] == "blocked" and not row[6]}
    if free and locks:
        locked = fetch(connection, LOCK_FOLLOWERS, ids=json_list(sorted(free)))
        free = {row[0] for row in locked if row[1] == "blocked"}
    by_job: dict[str, list[Candidate]] = {}
    for id, job_uid, sequence, size_bytes, created_at, _state, _apart in rows:
        one = Candidate(id, job_uid, sequence, size_bytes or 0, created_at, free=id in free)
        by_job.setdefault(job_uid, []).append(one)
    return by_job


def lease_all(connection: Connection, lease: Lease, ids: Sequence[str]) -> list[Claimed]:
    """Leases deliveries that the open transaction has locked, and returns what the lease holds."""
    run(connection, LEASE, ids=json_list(sorted(ids)), token=lease.token, until=lease.until)
    return load_leased(connection, [lease.token])
