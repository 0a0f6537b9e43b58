"""Marks: the end of an attempt, what follows it, and the leases that go on from it; all in one transaction."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from relay.core.delivery import Claimed
from relay.core.events import Event
from relay.core.records import AttemptRecorded, AttemptResult
from relay.store.claims import TAKE, WITH_EVENT, due_values, leased_of, load_leased
from relay.store.groups import quick
from relay.store.outbox import HOLD_JOBS, Outbox, hold_jobs
from relay.store.procedures import Each, Hold, Procedure, Run
from relay.store.rows import attempt_values
from relay.store.statements import (
    INTEGER,
    REAL,
    TEXT,
    Dialect,
    Sql,
    at_once,
    gather,
    gathered,
    json_list,
    many,
    run,
    sql,
)
from relay.store.tables import OPEN_DELIVERY, AttemptRow

ATTEMPTS = AttemptRow.__table__  # type: ignore[attr-defined]

_ATTEMPT = {
    **{"delivery_id": TEXT, "number": INTEGER, "started_at": REAL, "duration_ms": REAL, "status_code": INTEGER},
    **{"error": TEXT, "details": TEXT, "response_excerpt": TEXT, "remote_ip": TEXT, "decision": TEXT},
}


def _attempts(words: Dialect) -> str:
    return f"""
INSERT INTO {ATTEMPTS.name} ({", ".join(ATTEMPTS.c[name].name for name in _ATTEMPT)})
SELECT {", ".join(words.as_bytes("m.details") if name == "details" else f"m.{name}" for name in _ATTEMPT)}
FROM {words.members("rows", token=TEXT, **_ATTEMPT)} AS m
"""


WRITE_ATTEMPT = sql(_attempts)
# Written only while the lease is held, which only one that is pending has: PostgreSQL would go through all that are if
# it was told so. SQLite takes the tables of a CROSS JOIN in this order: all that is leased is not
# gone through for each row.
INSERT_ATTEMPT = sql(
    lambda words: (
        f"""{_attempts(words)}
CROSS JOIN deliveries AS d
WHERE d.id = m.delivery_id AND d.lease_token = m.token {words.locked("d")}
"""
    )
)
HELD = gathered(
    lambda words: f"SELECT id, lease_token FROM deliveries WHERE id IN {words.listed('ids')}",
    lambda words: ("id", "lease_token"),
)
MADE = gathered(
    lambda words: f"SELECT delivery_id, number, started_at FROM attempts WHERE delivery_id IN {words.listed('ids')}",
    lambda words: ("delivery_id", "number", "started_at"),
)
_MARK = {"id": TEXT, "token": TEXT, "state": TEXT, "due_at": REAL, "ended_at": REAL, "reason": TEXT, "counted": INTEGER}
COUNT_HELD = sql(
    lambda words: (
        f"""
SELECT COUNT(*) FROM (
  SELECT d.id FROM {words.members("marks", **_MARK)} AS m CROSS JOIN deliveries AS d
  WHERE d.id = m.id AND d.lease_token = m.token {words.locked("d")}
) AS held
"""
    )
)
MARK = sql(
    lambda words: (
        f"""
UPDATE deliveries SET state = m.state, due_at = m.due_at, lease_token = NULL,
  priority = CASE WHEN priority = 2 THEN 2 ELSE 1 END,
  attempt_count = attempt_count + m.counted, made_count = made_count + 1, ended_at = m.ended_at, reason = m.reason
FROM {words.members("rows", **_MARK)} AS m
WHERE deliveries.id = m.id
"""
    )
)
FRESH, BY_HAND = "priority < 2", "priority = 2"


def _promotion(chain: str) -> Sql:
    """Of each (job, subscription) the first delivery that has not ended, where it is blocked: one seek a pair, whatever
    else its job has open. `chain`: of those that go by themselves, or of those that were asked for by hand. The empty
    text keeps PostgreSQL from going through all that are blocked where it thinks that there are none."""
    return sql(
        lambda words: (
            f"""
UPDATE deliveries SET state = 'pending', due_at = m.due_at, lease_token = m.token
FROM (
  SELECT due_at, token, (
    SELECT o.id FROM deliveries AS o
    WHERE o.job_uid = pair.job_uid AND o.subscription_id = pair.subscription_id AND o.{OPEN_DELIVERY} AND o.{chain}
    ORDER BY o.sequence LIMIT 1
  ) AS id
  FROM {words.members("rows", job_uid=TEXT, subscription_id=TEXT, due_at=REAL, token=TEXT)} AS pair
) AS m WHERE deliveries.id = m.id AND deliveries.state || '' = 'blocked'
"""
        )
    )


PROMOTE, PROMOTE_BY_HAND = _promotion(FRESH), _promotion(BY_HAND)
HEAD, HEAD_BY_HAND = (
    f"""
SELECT id FROM deliveries
WHERE job_uid = :job_uid AND subscription_id = :subscription_id AND {OPEN_DELIVERY} AND {chain}
ORDER BY sequence LIMIT 1
"""
    for chain in (FRESH, BY_HAND)
)
DISABLE = """
UPDATE subscriptions SET state = 'disabled', state_reason = :reason, state_since = :now, probe_at = :probe_at
WHERE id = :id AND state <> 'disabled'
"""
# Of a probe, while nobody else has enabled it, and no sink has said that it is gone.
STAY_DISABLED = """
UPDATE subscriptions SET probe_at = :probe_at, state_reason = COALESCE(:reason, state_reason)
WHERE id = :id AND state = 'disabled' AND probe_at IS NOT NULL
"""
RECOVER = """
UPDATE subscriptions SET state = 'enabled', state_reason = 'recovered', state_since = :now, probe_at = NULL,
  drain_since = :now, failing_since = NULL, failing_reason = NULL, paused_until = NULL
WHERE id = :id AND state = 'disabled' AND probe_at IS NOT NULL
"""
DISABLED_EVENT = "relay.subscription.disabled"
RECOVERED_EVENT = "relay.subscription.recovered"

_FOLLOW_ON_CLAIM = {
    **{"subscription_id": TEXT, "token": TEXT, "until": REAL},
    **{"priorities": TEXT, "count": INTEGER, "now": REAL},
}
FOLLOW_ON_CLAIMS = sql(
    lambda words: (
        f"SELECT {', '.join(_FOLLOW_ON_CLAIM)} FROM {words.members('follow_on_claims', **_FOLLOW_ON_CLAIM)} AS m"
    )
)
END_ATTEMPTS = Procedure(
    "end_attempts",
    parameters={
        **{"count": INTEGER, "attempts": TEXT, "marks": TEXT, "uids": TEXT, "pairs": TEXT, "by_hand": TEXT},
        **{"follow_on_claims": TEXT, "tokens": TEXT},
    },
    counted=COUNT_HELD,
    steps=(
        Run(WRITE_ATTEMPT, "attempts"),
        Run(MARK, "marks"),
        Hold(HOLD_JOBS),
        Run(PROMOTE, "pairs"),
        Run(PROMOTE_BY_HAND, "by_hand"),
        Each(TAKE, FOLLOW_ON_CLAIMS),
    ),
    result=WITH_EVENT,
)
"""What the end of attempts is as a rule: nobody else has the leases, and no subscription is turned."""

Pair = tuple[str, str]
FollowOnClaim = tuple[str, bool]


def mark_at_once(connection: Connection, items: Sequence[AttemptResult]) -> list[AttemptRecorded | None]:
    """The batch function of plain marks: what `Marker.mark` does, in one call. All None, and nothing done, where a
    lease is not held any more or there can be no such call."""
    marks = _first(items)
    follow_on_claims = _follow_on_claims(marks, set())
    follow_up = _follow_up(marks, follow_on_claims)
    rows = END_ATTEMPTS.run(
        connection,
        count=len(marks),
        attempts=json_list([_attempt_values(mark) for mark in marks]),
        marks=json_list([_mark_values(mark) for mark in marks]),
        uids=json_list(follow_up.job_uids),
        pairs=json_list(follow_up.pairs),
        by_hand=json_list(follow_up.by_hand),
        follow_on_claims=json_list([[take[name] for name in _FOLLOW_ON_CLAIM] for take in follow_up.takes]),
        tokens=json_list(follow_up.tokens),
    )
    return [None] * len(items) if rows is None else [*_marked(items, marks, follow_on_claims, leased_of(rows))]


class Marker:
    """The batch function of marks."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    @quick
    def mark(self, connection: Connection, items: Sequence[AttemptResult]) -> list[AttemptRecorded]:
        """Ends attempts whose lease is still held: the attempt's row, the delivery's new state, the follower's
        promotion, what the subscription goes on with, and any events."""
        first = _first(items)
        marks = _kept(connection, first)
        made = _made_before(connection, first, marks)
        at_once(connection, MARK, [_mark_values(mark) for mark in marks])
        disabled, events = self._turn(connection, marks)
        self._outbox.insert(connection, [(event, None) for event in events])
        follow_on_claims = _follow_on_claims(marks, disabled)
        follow_up = _follow_up(marks, follow_on_claims)
        hold_jobs(connection, follow_up.job_uids)
        at_once(connection, PROMOTE, follow_up.pairs)
        at_once(connection, PROMOTE_BY_HAND, follow_up.by_hand)
        many(connection, TAKE, follow_up.takes)
        marked = _marked(items, marks, follow_on_claims, load_leased(connection, follow_up.tokens))
        return [made.get(id(mark), one) for mark, one in zip(items, marked, strict=True)]

    def _turn(self, connection: Connection, kept: Sequence[AttemptResult]) -> tuple[set[str], list[Event]]:
        """Disables subscriptions, and enables those whose probe was delivered. Returns the ids of the disabled ones and
        the events of all marks: of several marks that would turn one subscription only the first says so."""
        disabled: set[str] = set()
        events: list[Event] = []
        for mark in kept:
            probe = mark.claimed.probe
            if mark.disable is None and not probe:
                events += mark.events
                continue
            values = {"id": mark.claimed.subscription_id, "now": mark.now}
            if probe and mark.state == "delivered":
                turned = run(connection, RECOVER, **values).rowcount
            else:
                disabled.add(mark.claimed.subscription_id)
                statement = STAY_DISABLED if probe else DISABLE
                values |= {"reason": mark.disable, "probe_at": mark.probe_at}
                turned = run(connection, statement, **values).rowcount and not probe
            if turned:
                self._outbox.book.changed(connection)
                events += mark.events
            else:
                events += [event for event in mark.events if event.type not in (DISABLED_EVENT, RECOVERED_EVENT)]
        return disabled, events


def _kept(connection: Connection, marks: Sequence[AttemptResult]) -> list[AttemptResult]:
    """The marks whose lease is still held, their attempts written."""
    if at_once(connection, INSERT_ATTEMPT, [_attempt_values(mark) for mark in marks]) == len(marks):
        return list(marks)
    held = {(row[0], row[1]) for row in gather(connection, HELD, ids=json_list([mark.claimed.id for mark in marks]))}
    return [mark for mark in marks if (mark.claimed.id, mark.claimed.lease_token) in held]


def _made_before(
    connection: Connection, marks: Sequence[AttemptResult], kept: Sequence[AttemptResult]
) -> dict[int, AttemptRecorded]:
    """What came of those that a call has written already whose answer was lost, by their `id()`: what each call takes
    for a subscription is leased by one of its marks."""
    held = {id(mark) for mark in kept}
    others = [mark for mark in marks if id(mark) not in held]
    if not others:
        return {}
    rows = gather(connection, MADE, ids=json_list([mark.claimed.id for mark in others]))
    made = {(delivery_id, number, started_at) for delivery_id, number, started_at in rows}
    written = [mark for mark in others if (mark.claimed.id, mark.attempt.number, mark.attempt.started_at) in made]
    leased = load_leased(connection, [mark.next_lease.token for mark in written if mark.next_lease is not None])
    return {
        id(mark): AttemptRecorded(
            kept=True,
            next=tuple(one for one in leased if mark.next_lease and one.lease_token == mark.next_lease.token),
        )
        for mark in written
    }


def head_of(connection: Connection, job_uid: str, subscription_id: str, *, by_hand: bool) -> str | None:
    """The delivery that the others of a job and subscription wait for."""
    statement = HEAD_BY_HAND if by_hand else HEAD
    row = run(connection, statement, job_uid=job_uid, subscription_id=subscription_id).first()
    return None if row is None else str(row.id)


def promote_strays(connection: Connection, pairs: Sequence[Pair], by_hand: Sequence[Pair], now: float) -> int:
    """Makes the first open delivery of each given (job, subscription) pending where it is blocked behind nothing;
    `by_hand`: of those that were asked for by hand."""
    hold_jobs(connection, [job_uid for job_uid, _ in (*pairs, *by_hand)])
    return at_once(connection, PROMOTE, [(*pair, now, None) for pair in pairs]) + promote_by_hand(
        connection, by_hand, now
    )


def promote_by_hand(connection: Connection, pairs: Iterable[Pair], now: float) -> int:
    """The same for those that were asked for by hand, once the jobs are held: due at once, and taken by nobody yet,
    since what is fresh goes before."""
    return at_once(connection, PROMOTE_BY_HAND, [(*pair, now, None) for pair in pairs])


def _follow_on_claims(kept: Sequence[AttemptResult], disabled: set[str]) -> dict[FollowOnClaim, list[AttemptResult]]:
    """The marks that want to go on, by subscription, none of `disabled` ones, and by whether also with what is late;
    all of a kind do it under the first one's lease."""
    follow_on_claims: dict[FollowOnClaim, list[AttemptResult]] = {}
    for mark in kept:
        if mark.next_lease is not None and mark.claimed.subscription_id not in disabled:
            follow_on_claims.setdefault((mark.claimed.subscription_id, mark.next_backlogged), []).append(mark)
    return follow_on_claims


@dataclass(frozen=True, slots=True, kw_only=True)
class _FollowUp:
    """What comes after marks: of each (job, subscription) whose head has ended the next delivery becomes pending, due
    at once or taken where its mark wants to go on; then what else is due is taken, as much as the marks want."""

    pairs: list[tuple[Any, ...]]
    by_hand: list[tuple[Any, ...]]
    takes: list[dict[str, Any]]

    @property
    def job_uids(self) -> list[str]:
        return sorted({row[0] for row in (*self.pairs, *self.by_hand)})

    @property
    def tokens(self) -> list[str]:
        return [take["token"] for take in self.takes]


def _follow_up(
    marks: Sequence[AttemptResult], follow_on_claims: Mapping[FollowOnClaim, Sequence[AttemptResult]]
) -> _FollowUp:
    by_pair: dict[Pair, AttemptResult] = {}
    by_hand: dict[Pair, float] = {}
    for mark in marks:
        if mark.state != "pending" and mark.claimed.job_uid is not None:
            pair = (mark.claimed.job_uid, mark.claimed.subscription_id)
            if mark.claimed.priority < 2:
                by_pair[pair] = mark
            else:
                by_hand[pair] = mark.now
    pairs: list[tuple[Any, ...]] = []
    for pair, mark in by_pair.items():
        going = follow_on_claims.get((pair[1], mark.next_backlogged)) if mark.next_lease is not None else None
        lease = going[0].next_lease if going else None
        pairs.append((*pair, mark.now, None) if lease is None else (*pair, lease.until, lease.token))
    takes = [
        due_values(
            subscription_id,
            lease,
            sum(mark.next_count for mark in marks),
            max(mark.now for mark in marks),
            (0, 1, 2) if backlogged else (0,),
        )
        for (subscription_id, backlogged), marks in sorted(follow_on_claims.items())
        if (lease := marks[0].next_lease) is not None
    ]
    return _FollowUp(pairs=pairs, by_hand=[(*pair, now, None) for pair, now in by_hand.items()], takes=takes)


def _first(items: Sequence[AttemptResult]) -> list[AttemptResult]:
    """Without those that have lost their lease to another mark under it."""
    first = {(mark.claimed.id, mark.claimed.lease_token): mark for mark in reversed(items)}
    return [mark for mark in items if first[mark.claimed.id, mark.claimed.lease_token] is mark]


def _marked(
    items: Sequence[AttemptResult],
    kept: Sequence[AttemptResult],
    follow_on_claims: Mapping[FollowOnClaim, Sequence[AttemptResult]],
    leased: Iterable[Claimed],
) -> list[AttemptRecorded]:
    """What came of each, with what was taken for those that want to go on."""
    taken: dict[int, list[Claimed]] = {}
    waiting = {
        marks[0].next_lease.token: _in_turns(marks) for marks in follow_on_claims.values() if marks[0].next_lease
    }
    for one in leased:
        taken.setdefault(id(next(waiting[one.lease_token])), []).append(one)
    held = {id(mark) for mark in kept}
    return [AttemptRecorded(kept=id(mark) in held, next=tuple(taken.get(id(mark), ()))) for mark in items]


def _in_turns(marks: Sequence[AttemptResult]) -> Iterator[AttemptResult]:
    """Each mark once, then those that want a second one, and so on."""
    for turn in range(max(mark.next_count for mark in marks)):
        yield from (mark for mark in marks if mark.next_count > turn)


def _attempt_values(mark: AttemptResult) -> tuple[Any, ...]:
    return mark.claimed.lease_token, *attempt_values(mark.claimed.id, mark.attempt)


def _mark_values(mark: AttemptResult) -> tuple[Any, ...]:
    claimed = mark.claimed
    due_at = mark.now if mark.due_at is None else mark.due_at
    ended_at = None if mark.state == "pending" else mark.now
    counted = 0 if claimed.probe and mark.state == "pending" else 1  # what is held loses nothing of its schedule
    return claimed.id, claimed.lease_token, mark.state, due_at, ended_at, mark.reason, counted
