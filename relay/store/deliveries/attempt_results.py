"""Attempt results: the attempt's row, the delivery's new state, the follower's promotion and the next claims, in one
transaction.

Plain results (`AttemptResult.is_plain`) are one procedure call on PostgreSQL. `AttemptRecorder` does the same step by
step, and is what the procedure falls back to.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from relay.core.deliveries.delivery import Claimed, at_once
from relay.core.events.event import DELIVERY_EXPIRED, SUBSCRIPTION_DISABLED, SUBSCRIPTION_RECOVERED, Event
from relay.core.incidents import Trouble, trouble_of_sink
from relay.core.records import AttemptRecorded, AttemptResult
from relay.store.databases.group_commit import MAX_GROUP_ITEMS, alone, quick
from relay.store.databases.locks import MATCH, TransactionLock, incidents_of, locking, row_of, to_change
from relay.store.databases.procedures import Each, Lock, Procedure, Run
from relay.store.databases.statements import (
    INTEGER,
    REAL,
    TEXT,
    Sql,
    fetch,
    fetch_json,
    json_list,
    json_query,
    run,
    run_many,
    run_rows,
    sql,
)
from relay.store.deliveries.claims import TAKE, WITH_EVENT, due_values, is_pulled, leased_of, load_leased
from relay.store.deliveries.memories import end_turns
from relay.store.outbox.incident_recorder import joined
from relay.store.outbox.recording import LOCK_JOBS, LOCK_STREAMS, Outbox, lock_jobs
from relay.store.rows import attempt_values
from relay.store.schema.tables import OPEN_DELIVERY

_ATTEMPT = {
    **{"delivery_id": TEXT, "number": INTEGER, "started_at": REAL, "duration_ms": REAL, "status_code": INTEGER},
    **{"error": TEXT, "details": TEXT, "response_excerpt": TEXT, "remote_ip": TEXT, "decision": TEXT},
}
_PAIR = {"job_uid": TEXT, "subscription_id": TEXT, "due_at": REAL, "token": TEXT, "pulled": INTEGER}

_INSERT_ATTEMPT = f"""
INSERT INTO attempts ({", ".join(_ATTEMPT)})
SELECT {", ".join("$as_bytes(m.details)" if name == "details" else f"m.{name}" for name in _ATTEMPT)}
FROM $json_rows(rows) AS m
"""
# Writes attempts of deliveries that are locked.
WRITE_ATTEMPT = sql(_INSERT_ATTEMPT, rows=_ATTEMPT)
_HELD_BY = "CROSS JOIN deliveries AS d WHERE d.id = {} AND d.lease_token = m.token $for_update(d)"
# Writes the attempts whose leases are still held, and locks their deliveries. A lease proves that the delivery is open.
# Naming the state would make PostgreSQL read all pending rows; SQLite joins the tables of a CROSS JOIN in the written
# order.
WRITE_HELD = sql(_INSERT_ATTEMPT + _HELD_BY.format("m.delivery_id"), rows={**_ATTEMPT, "token": TEXT})
# The leases that deliveries have now.
HELD = json_query(
    "SELECT id, lease_token FROM deliveries WHERE id IN $json_values(ids)",
    ("id", "lease_token"),
)
# The attempts of deliveries that are written already.
RECORDED = json_query(
    "SELECT delivery_id, number, started_at FROM attempts WHERE delivery_id IN $json_values(ids)",
    ("delivery_id", "number", "started_at"),
)
_OUTCOME = {
    "id": TEXT,
    "token": TEXT,
    "state": TEXT,
    "due_at": REAL,
    "ended_at": REAL,
    "reason": TEXT,
    "counted": INTEGER,
    "alone": INTEGER,
}
# Counts the leases still held, and locks their deliveries.
COUNT_HELD = sql(
    f"""
SELECT COUNT(*) FROM (SELECT d.id FROM $json_rows(results) AS m {_HELD_BY.format("m.id")}) AS held
""",
    results=_OUTCOME,
)
# Ends attempts: sets each delivery's state and next attempt, and releases its lease. A follower that was in a bundle
# and is tried again stays blocked.
UPDATE_DELIVERIES = sql(
    """
UPDATE deliveries SET state = CASE WHEN m.state = 'pending' THEN deliveries.state ELSE m.state END,
  due_at = m.due_at, lease_token = NULL, priority = CASE WHEN priority = 2 THEN 2 ELSE 1 END,
  attempt_count = attempt_count + m.counted, made_count = made_count + 1, ended_at = m.ended_at, reason = m.reason,
  alone = CASE WHEN m.alone = 1 THEN 1 ELSE deliveries.alone END
FROM $json_rows(rows) AS m
WHERE deliveries.id = m.id
""",
    rows=_OUTCOME,
)
AUTOMATIC, MANUAL = "priority < 2", "priority = 2"


_KEPT = f"""deliveries.lease_token IS NOT NULL AND {is_pulled("deliveries")}
  OR m.token IS NULL AND (deliveries.lease_token IS NOT NULL OR m.pulled = 1 AND deliveries.attempt_count > 0)
    AND deliveries.due_at > m.due_at"""


def _promotion(which: str) -> Sql:
    """Makes the first open delivery of each (job, subscription) pending if it is blocked: one index seek per pair.
    `which` selects automatic or manual deliveries. One that a bundle is sending or a program has pulled keeps its
    lease, and one that a program has given back its delay.

    On PostgreSQL the ids are an array, which is sought by the primary key. Joined alone they could be compared with
    every delivery, in a plan that a connection keeps from when there were few. The empty text keeps it from reading all
    blocked rows if its statistics say there are none."""
    first = f"""
    SELECT o.id FROM deliveries AS o
    WHERE o.job_uid = pair.job_uid AND o.subscription_id = pair.subscription_id AND o.{OPEN_DELIVERY} AND o.{which}
    ORDER BY o.sequence LIMIT 1
"""
    found = f"SELECT due_at, token, pulled, ({first}) AS id FROM $json_rows(rows) AS pair"
    update = f"""
UPDATE deliveries SET state = 'pending',
  due_at = CASE WHEN {_KEPT} THEN deliveries.due_at ELSE m.due_at END,
  lease_token = CASE WHEN {_KEPT} THEN deliveries.lease_token ELSE m.token END
FROM {{}} WHERE deliveries.id = m.id AND deliveries.state || '' = 'blocked'"""
    return sql(
        update.format(f"({found}) AS m"),
        f"WITH m AS MATERIALIZED ({found}) {update.format('m')} AND deliveries.id = ANY(ARRAY(SELECT id FROM m))",
        rows=_PAIR,
    )


# Promotes the next automatic, or manual, delivery of each pair whose head ended.
PROMOTE, PROMOTE_MANUAL = _promotion(AUTOMATIC), _promotion(MANUAL)
# The first open automatic, or manual, delivery of a job and subscription.
HEAD, HEAD_MANUAL = (
    f"""
SELECT id FROM deliveries
WHERE job_uid = :job_uid AND subscription_id = :subscription_id AND {OPEN_DELIVERY} AND {which}
ORDER BY sequence LIMIT 1
"""
    for which in (AUTOMATIC, MANUAL)
)
# Disables a subscription. One that is pending has another sink by now than the one that failed.
DISABLE = """
UPDATE subscriptions SET state = 'disabled', state_reason = :reason, state_since = :now, probe_at = :probe_at
WHERE id = :id AND state NOT IN ('disabled', 'pending')
"""
# Plans the next probe of a disabled subscription, or ends its probes. After a probe, unless the subscription was
# enabled meanwhile or its sink has answered 410 Gone.
STAY_DISABLED = """
UPDATE subscriptions SET probe_at = :probe_at, state_reason = COALESCE(:reason, state_reason)
WHERE id = :id AND state = 'disabled' AND probe_at IS NOT NULL
"""
# Enables a subscription whose probe was delivered.
RECOVER = """
UPDATE subscriptions SET state = 'enabled', state_reason = 'recovered', state_since = :now, probe_at = NULL,
  drain_since = :now, failing_since = NULL, failing_reason = NULL, paused_until = NULL
WHERE id = :id AND state = 'disabled' AND probe_at IS NOT NULL
"""

_FOLLOW_ON_CLAIM = {
    **{"subscription_id": TEXT, "token": TEXT, "until": REAL},
    **{"priorities": TEXT, "count": INTEGER, "now": REAL},
}
# The claims that follow the results, as rows for TAKE.
FOLLOW_ON_CLAIMS = sql(
    f"SELECT {', '.join(_FOLLOW_ON_CLAIM)} FROM $json_rows(follow_on_claims) AS m",
    follow_on_claims=_FOLLOW_ON_CLAIM,
)
END_ATTEMPTS = Procedure(
    "end_attempts",
    parameters={
        **{"count": INTEGER, "attempts": TEXT, "results": TEXT, "uids": TEXT, "pairs": TEXT, "manual": TEXT},
        **{"follow_on_claims": TEXT, "tokens": TEXT},
    },
    counted=COUNT_HELD,
    steps=(
        Run(WRITE_ATTEMPT, "attempts"),
        Run(UPDATE_DELIVERIES, "results"),
        Lock(LOCK_JOBS),
        Lock(LOCK_STREAMS),
        Run(PROMOTE, "pairs"),
        Run(PROMOTE_MANUAL, "manual"),
        Each(TAKE, FOLLOW_ON_CLAIMS),
    ),
    result=WITH_EVENT,
)
"""The usual end of attempts: every lease is still held, and no subscription changes state."""

Pair = tuple[str, str]
LOST = AttemptRecorded(kept=False)


def record_in_one_call(
    connection: Connection, items: Sequence[Sequence[AttemptResult]]
) -> list[tuple[AttemptRecorded, ...] | None]:
    """The batch function of plain results, one a request: `AttemptRecorder.record` in one procedure call. All None, and
    nothing done, if a lease was lost or the procedure does not exist."""
    results = _without_repeats(items)
    follow_up = _follow_up(results)
    rows = END_ATTEMPTS.run(
        connection,
        count=len(results),
        attempts=json_list([attempt_values(result.claimed.id, result.attempt) for result in results]),
        results=json_list([_outcome_values(result) for result in results]),
        uids=json_list(follow_up.job_uids),
        pairs=json_list(follow_up.pairs),
        manual=json_list(follow_up.manual),
        follow_on_claims=json_list([[take[name] for name in _FOLLOW_ON_CLAIM] for take in follow_up.takes]),
        tokens=json_list([take["token"] for take in follow_up.takes]),
    )
    if rows is None:
        return [None] * len(items)
    recorded = _recorded(results, follow_up, leased_of(rows))
    return [tuple(recorded.get(id(result), LOST) for result in item) for item in items]


class AttemptRecorder:
    """Records the results of attempts. An item has the results of one request: of one delivery, or of a bundle."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    @alone(MAX_GROUP_ITEMS)
    @quick
    @locking(lambda results: [lock for result in results for lock in _locks_of(result)])
    def record(
        self, connection: Connection, items: Sequence[Sequence[AttemptResult]]
    ) -> list[tuple[AttemptRecorded, ...]]:
        """Ends attempts whose lease is still held. Writes the attempt's row, the delivery's new state, the
        follower's promotion, changes of the subscription and any events, and claims the next deliveries."""
        results = _without_repeats(items)
        values = [(*attempt_values(one.claimed.id, one.attempt), one.claimed.lease_token) for one in results]
        count = run_rows(connection, WRITE_HELD, values)
        return self._record(connection, items, results, count, written=True)

    @alone(MAX_GROUP_ITEMS)
    @locking(lambda results: [lock for result in results for lock in _locks_of(result)])
    def record_bundles(
        self, connection: Connection, items: Sequence[Sequence[AttemptResult]]
    ) -> list[tuple[AttemptRecorded, ...]]:
        """The same for requests with many results, which take longer. Where the first members of a job are ended and
        the next one is tried again, that one becomes the head, due when its result says."""
        results = _without_repeats(items)
        rows = json_list([_outcome_values(result) for result in results])
        ((count,),) = fetch(connection, COUNT_HELD, results=rows)
        return self._record(connection, items, results, count)

    def _record(
        self,
        connection: Connection,
        items: Sequence[Sequence[AttemptResult]],
        results: Sequence[AttemptResult],
        count: int,
        *,
        written: bool = False,
    ) -> list[tuple[AttemptRecorded, ...]]:
        """`results`: those of `items`, each once; `count`: those whose lease is held; `written`: see `end`."""
        held = results if count == len(results) else _held(connection, items, results)
        recorded = _recorded_before(connection, results, held)
        follow_up, promoted = self.end(connection, held, written=written)
        taken = run_many(connection, TAKE, follow_up.takes)
        end_turns(connection, results)
        tokens = [take["token"] for take in follow_up.takes]
        leased = load_leased(connection, tokens) if taken or promoted else []
        recorded |= _recorded(held, follow_up, leased)
        return [tuple(recorded.get(id(result), LOST) for result in item) for item in items]

    def end(
        self, connection: Connection, results: Sequence[AttemptResult], *, pulled: bool = False, written: bool = False
    ) -> tuple["_FollowUp", int]:
        """Ends attempts of deliveries that the open transaction has locked and that are open. Returns what follows,
        with the claims that are still to be made, and the number of deliveries that were promoted.

        written  the rows of the attempts are written already
        """
        if not written:
            run_rows(connection, WRITE_ATTEMPT, [attempt_values(one.claimed.id, one.attempt) for one in results])
        run_rows(connection, UPDATE_DELIVERIES, [_outcome_values(result) for result in results])
        disabled, events = self._change_subscriptions(connection, results)
        if events:
            self._record_events(connection, events)
        follow_up = _follow_up(results, disabled, int(pulled))
        self._outbox.lock_orders(connection, follow_up.job_uids)
        promoted = run_rows(connection, PROMOTE, follow_up.pairs)
        promoted += run_rows(connection, PROMOTE_MANUAL, follow_up.manual)
        return follow_up, promoted

    def _record_events(self, connection: Connection, made: Sequence[tuple[AttemptResult, Event]]) -> None:
        """Records the events of results, and what they change of the incidents of sinks."""
        now = max(result.now for result, _ in made)
        troubles = [
            _trouble(result, event) for result, event in made if event.type in (DELIVERY_EXPIRED, SUBSCRIPTION_DISABLED)
        ]
        incidents = self._outbox.incidents
        summaries = [incidents.observe(connection, troubles, now)]
        for result, event in made:
            if event.type == SUBSCRIPTION_RECOVERED:
                id = result.claimed.subscription_id
                summaries.append(incidents.sink_recovered(connection, id, "subscription_recovered", now, event.id))
        self._outbox.insert(connection, [(event, None) for _, event in made], joined(summaries))

    def _change_subscriptions(
        self, connection: Connection, kept: Sequence[AttemptResult]
    ) -> tuple[set[str], list[tuple[AttemptResult, Event]]]:
        """Disables subscriptions, and enables those whose probe was delivered. Returns the ids of the disabled ones,
        and all events with their results; if several results change one subscription, only the first one's event is
        kept."""
        disabled: set[str] = set()
        events: list[tuple[AttemptResult, Event]] = []
        for result in kept:
            probe = result.claimed.probe
            if result.disable is None and not probe:
                events += ((result, event) for event in result.events)
                continue
            values = {"id": result.claimed.subscription_id, "now": result.now}
            if result.recovers:
                changed = run(connection, RECOVER, **values).rowcount
            else:
                disabled.add(result.claimed.subscription_id)
                statement = STAY_DISABLED if probe else DISABLE
                values |= {"reason": result.disable, "probe_at": result.probe_at}
                changed = run(connection, statement, **values).rowcount and not probe
            if changed:
                self._outbox.subscriptions.changed(connection)
            events += (
                (result, event)
                for event in result.events
                if changed or event.type not in (SUBSCRIPTION_DISABLED, SUBSCRIPTION_RECOVERED)
            )
        return disabled, events


def _locks_of(result: AttemptResult) -> list[TransactionLock]:
    """A result may disable or enable its subscription, and its events are matched and change its sink's incident."""
    id = result.claimed.subscription_id
    locks = [MATCH, incidents_of(id)] if result.events else []
    if result.disable is not None or result.recovers:
        return [*locks, *to_change(id)]
    return [*locks, row_of(id)] if result.claimed.probe else locks


def _trouble(result: AttemptResult, event: Event) -> Trouble:
    disabled = event.type == SUBSCRIPTION_DISABLED
    error = (result.disable if disabled else None) or result.reason or "unknown"
    return trouble_of_sink(
        result.claimed.subscription_id, event, sink=result.sink or "", error=error, disabled=disabled
    )


def _held(
    connection: Connection, items: Sequence[Sequence[AttemptResult]], results: Sequence[AttemptResult]
) -> list[AttemptResult]:
    """The `results` whose lease is held. They are locked. In a bundle a member's lease counts as lost with that of an
    earlier one of its job: what it waits for has another holder. Nothing waits for a delivery that was erased."""
    ids = json_list([result.claimed.id for result in results])
    held = {(row[0], row[1]) for row in fetch_json(connection, HELD, ids=ids)}
    there = {id for id, _ in held}
    wanted = {id(result) for result in results}
    kept = []
    for item in items:
        lost: set[tuple[str, bool]] = set()
        for result in sorted(item, key=lambda result: result.claimed.event.sequence or 0):
            claimed = result.claimed
            order = (claimed.order_key or claimed.id, claimed.priority == 2)
            if order not in lost and (claimed.id, claimed.lease_token) in held:
                kept += [result] if id(result) in wanted else []
            elif claimed.id in there:
                lost.add(order)
    return kept


def _recorded_before(
    connection: Connection, results: Sequence[AttemptResult], kept: Sequence[AttemptResult]
) -> dict[int, AttemptRecorded]:
    """The results that an earlier call has recorded, whose response was lost, by their `id()`. The deliveries
    claimed by that call are leased under the result's `next_lease`."""
    held = {id(result) for result in kept}
    others = [result for result in results if id(result) not in held]
    if not others:
        return {}
    rows = fetch_json(connection, RECORDED, ids=json_list([result.claimed.id for result in others]))
    made = {(delivery_id, number, started_at) for delivery_id, number, started_at in rows}
    written = [
        result for result in others if (result.claimed.id, result.attempt.number, result.attempt.started_at) in made
    ]
    leased = load_leased(connection, [result.next_lease.token for result in written if result.next_lease is not None])
    return {
        id(result): AttemptRecorded(
            kept=True,
            next=tuple(one for one in leased if result.next_lease and one.lease_token == result.next_lease.token),
        )
        for result in written
    }


def head_of(connection: Connection, job_uid: str, subscription_id: str, *, manual: bool) -> str | None:
    """The delivery that the other open ones of a job and subscription wait for."""
    statement = HEAD_MANUAL if manual else HEAD
    row = run(connection, statement, job_uid=job_uid, subscription_id=subscription_id).first()
    return None if row is None else str(row.id)


def promote_heads(connection: Connection, pairs: Sequence[Pair], manual: Sequence[Pair], now: float) -> int:
    """Makes the first open delivery of each (job, subscription) pending if it is blocked behind nothing. `manual`:
    pairs of manual retries and replays."""
    lock_jobs(connection, [job_uid for job_uid, _ in (*pairs, *manual)])
    return run_rows(connection, PROMOTE, [(*pair, at_once(now), None, 0) for pair in pairs]) + promote_manual(
        connection, manual, now
    )


def promote_manual(connection: Connection, pairs: Iterable[Pair], now: float) -> int:
    """The same for manual deliveries; their jobs must be locked. They become due at once but are not leased, because
    new events go first."""
    return run_rows(connection, PROMOTE_MANUAL, [(*pair, at_once(now), None, 0) for pair in pairs])


@dataclass(frozen=True, slots=True, kw_only=True)
class _FollowUp:
    """Further statements, after the results are written.

    job_uids       the jobs of `pairs` and `manual`
    pairs, manual  each (job, subscription) whose head ended, to promote the next delivery, due at once or leased if
                   its result claims further deliveries
    takes          parameters of TAKE, for as many more deliveries as the results ask for
    claims         the results that ask for them, by the token of the lease that they share
    """

    job_uids: list[str]
    pairs: list[tuple[Any, ...]]
    manual: list[tuple[Any, ...]]
    takes: list[dict[str, Any]]
    claims: dict[str, list[AttemptResult]]


def _follow_up(results: Sequence[AttemptResult], disabled: Collection[str] = (), pulled: int = 0) -> _FollowUp:
    """The statements after the results. Those of `disabled` subscriptions claim nothing. Those of one subscription
    that also take backlogged deliveries claim under the first one's lease, and those that do not under the first
    one's of them.
    """
    by_kind: dict[tuple[str, bool], list[AttemptResult]] = {}
    by_pair: dict[Pair, AttemptResult] = {}
    manual: dict[Pair, float] = {}
    again = _tried_again(results)
    for result in results:
        claimed = result.claimed
        if result.next_lease is not None and claimed.subscription_id not in disabled:
            by_kind.setdefault((claimed.subscription_id, result.next_backlogged), []).append(result)
        if result.state != "pending" and claimed.order_key is not None:
            pair = (claimed.order_key, claimed.subscription_id)
            if claimed.priority < 2:
                by_pair[pair] = result
            else:
                manual[pair] = again.get((*pair, True), at_once(result.now))
    pairs: list[tuple[Any, ...]] = []
    for pair, result in by_pair.items():
        going = by_kind.get((pair[1], result.next_backlogged)) if result.next_lease is not None else None
        lease = going[0].next_lease if going else None
        due_at = again.get((*pair, False), at_once(result.now))
        pairs.append((*pair, due_at, None, pulled) if lease is None else (*pair, lease.until, lease.token, pulled))
    takes, claims = [], {}
    for (subscription_id, backlogged), claiming in sorted(by_kind.items()):
        lease = claiming[0].next_lease
        assert lease is not None
        count, now = sum(result.next_count for result in claiming), max(result.now for result in claiming)
        takes.append(due_values(subscription_id, lease, count, now, (0, 1, 2) if backlogged else (0,)))
        claims[lease.token] = claiming
    return _FollowUp(
        job_uids=sorted({job_uid for job_uid, _ in (*by_pair, *manual)}),
        pairs=pairs,
        manual=[(*pair, due_at, None, pulled) for pair, due_at in manual.items()],
        takes=takes,
        claims=claims,
    )


def _tried_again(results: Sequence[AttemptResult]) -> dict[tuple[str, str, bool], float]:
    """Due time of the next member of a bundle, by job, subscription and whether it is manual, where the first members
    of the job are ended and the next one is tried again."""
    found: dict[tuple[str, str, bool], tuple[int, float]] = {}
    for result in results:
        claimed = result.claimed
        if result.state == "pending" and result.due_at is not None and claimed.order_key is not None:
            place = (claimed.order_key, claimed.subscription_id, claimed.priority == 2)
            due = (claimed.event.sequence or 0, result.due_at)
            found[place] = min(due, found.get(place, due))
    return {place: due_at for place, (_, due_at) in found.items()}


def _without_repeats(items: Sequence[Sequence[AttemptResult]]) -> list[AttemptResult]:
    """The results without those that repeat another one's delivery and lease."""
    first: dict[tuple[str, str], AttemptResult] = {}
    for item in items:
        for result in item:
            first.setdefault((result.claimed.id, result.claimed.lease_token), result)
    return list(first.values())


def _recorded(
    results: Sequence[AttemptResult], follow_up: _FollowUp, leased: Iterable[Claimed]
) -> dict[int, AttemptRecorded]:
    """The record of each result, by its `id()`, with the deliveries claimed for it."""
    taken: dict[int, list[Claimed]] = {}
    waiting = {token: _round_robin(claiming) for token, claiming in follow_up.claims.items()}
    for one in leased:
        taken.setdefault(id(next(waiting[one.lease_token])), []).append(one)
    return {id(result): AttemptRecorded(kept=True, next=tuple(taken.get(id(result), ()))) for result in results}


def _round_robin(results: Sequence[AttemptResult]) -> Iterator[AttemptResult]:
    """Each result once, then those that ask for a second delivery, and so on."""
    for turn in range(max(result.next_count for result in results)):
        yield from (result for result in results if result.next_count > turn)


def _outcome_values(result: AttemptResult) -> tuple[Any, ...]:
    claimed = result.claimed
    due_at = at_once(result.now) if result.due_at is None else result.due_at
    ended_at = None if result.state == "pending" else result.now
    # a failed probe uses up nothing of the schedule, nor does a refused bundle
    counted = 0 if (claimed.probe and result.state == "pending") or result.alone or result.behind else 1
    return claimed.id, claimed.lease_token, result.state, due_at, ended_at, result.reason, counted, int(result.alone)
