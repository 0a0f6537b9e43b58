"""Which deliveries share a request, and when it is sent."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from relay.core.deliveries.bundles import (
    Bundle,
    Candidate,
    FreeRequests,
    Room,
    in_order,
    message_id,
    outcome_of_bundle,
    ready_at,
    singles,
    take,
)
from relay.core.deliveries.delivery import Claimed, Outcome, Response, at_once, due_since
from relay.core.events.event import Event

NOW = 1_700_000_000.0
LARGE = 1_000_000


def bundle(
    max_events: int = 100,
    wait_seconds: float = 5.0,
    max_bytes: int = LARGE,
    free: int | None = None,
    types: frozenset[str] | None = None,
    own: bool = False,
) -> Bundle:
    return Bundle(
        max_events=max_events,
        wait_seconds=wait_seconds,
        max_bytes=max_bytes,
        free_per_minute=free,
        free_types=types,
        own_outcomes=own,
    )


def candidate(name: str, *, size: int = 10, free: bool = True) -> Candidate:
    """`a1` is the first event of job a; `-` is of no job."""
    job, number = name[0], name[1:]
    return Candidate(name, None if job == "-" else job, int(number), size, NOW, free=free)


def open_by_job(*names: str, held: Sequence[str] = ()) -> Mapping[str, Sequence[Candidate]]:
    found: dict[str, list[Candidate]] = {}
    for name in names:
        found.setdefault(name[0], []).append(candidate(name, free=name not in held))
    return found


@pytest.mark.parametrize(
    ("heads", "open_ones", "held", "limit", "taken"),
    [
        ("a1 b1", "a1 a2 b1", "", 100, "a1 a2 b1"),
        ("-1 -2", "", "", 100, "-1 -2"),
        ("a1 b1", "a1 a2 a3 b1", "", 3, "a1 a2 a3"),
        ("a1", "a1 a2 a3", "a2", 100, "a1"),  # another node has a2, or it is sent by itself
        ("a1", "a1 a2 a3", "a3", 100, "a1 a2"),
        ("a2", "a1 a2 a3", "a1", 100, "a2"),  # a1 is not due: a3 waits for it too
        ("a1 a3", "a1 a2 a3 a4", "a2", 100, "a1 a3"),  # without ordering each is a head
        ("a9", "a1 a2", "a1 a2", 100, "a9"),  # the job has more than what was read
        ("a1 a2", "a1 a2", "", 100, "a1 a2"),
        ("a1 b1 c1", "", "", 1, "a1"),
    ],
)
def test_heads_bring_their_followers_in_order(heads: str, open_ones: str, held: str, limit: int, taken: str) -> None:
    found = take(
        [candidate(name) for name in heads.split()],
        open_by_job(*open_ones.split(), held=held.split()),
        bundle(max_events=limit),
    )
    assert found.ids == tuple(taken.split())
    assert found.full == (len(found.ids) == limit)


@pytest.mark.parametrize(
    ("sizes", "max_bytes", "count", "full"),
    [
        ([10, 10, 10], 32, 3, False),  # two bytes between three
        ([10, 10, 10], 31, 2, True),
        ([100, 10], 50, 1, True),  # one is always sent
        ([10, 100, 10], 50, 1, True),  # what is behind it waits for it
    ],
)
def test_bytes_are_bounded(sizes: list[int], max_bytes: int, count: int, full: bool) -> None:
    heads = [candidate(f"-{nth}", size=size) for nth, size in enumerate(sizes)]
    found = take(heads, {}, bundle(max_bytes=max_bytes))
    assert (len(found.ids), found.full) == (count, full)


@pytest.mark.parametrize(
    ("made", "room", "fresh", "full", "expected"),
    [
        (bundle(), Room(), True, False, NOW + 5),
        (bundle(), Room(), True, True, 0.0),
        (bundle(), Room(), False, False, 0.0),  # a retry has waited
        (bundle(free=20), Room(count=3), True, False, 0.0),
        (bundle(free=20, wait_seconds=30), Room(next_at=NOW + 10), True, False, NOW + 10),
        (bundle(free=20, wait_seconds=5), Room(next_at=NOW + 10), False, False, NOW + 5),
        (bundle(free=20), Room(next_at=NOW + 10), False, True, 0.0),
        (bundle(free=20, types=frozenset("t")), Room(count=3), True, False, NOW + 5),
        (bundle(free=20, types=frozenset("t")), Room(next_at=NOW + 1), True, False, NOW + 5),
        (bundle(free=20, types=frozenset("t")), Room(count=3), True, True, 0.0),
        (bundle(free=20, types=frozenset("t")), Room(), False, False, 0.0),
    ],
)
def test_a_bundle_is_sent_when_it_is_full_or_has_waited(
    made: Bundle, room: Room, fresh: bool, full: bool, expected: float
) -> None:
    assert ready_at(made, room, NOW, NOW, fresh=fresh, full=full) == expected


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [(0.0, NOW + 5), (5.0, NOW + 10), (5.1, 0.0), (3600.0, 0.0)],  # other nodes' clocks are a little ahead
)
def test_wait_that_begins_in_the_future_ends_if_the_clock_was_set_back(ahead: float, expected: float) -> None:
    assert ready_at(bundle(), Room(), NOW + ahead, NOW, fresh=True, full=False) == expected
    busy = Room(next_at=NOW + 30)
    assert ready_at(bundle(free=1), busy, NOW + ahead, NOW, fresh=True, full=False) == expected


@pytest.mark.parametrize(
    ("made", "room", "fresh", "taken", "expected"),
    [
        (bundle(free=20), 4, True, 4, "a1 -2 -3"),
        (bundle(free=20), 3, True, 4, ""),  # with a follower they are four
        (bundle(free=20), 4, False, 4, "a1 -2 -3"),
        (bundle(free=20, own=True), 4, True, 4, ""),  # nothing is gained: each has its own outcome
        (bundle(free=20, types=frozenset("t")), 1, True, 4, "-2"),
        (bundle(free=20, types=frozenset("tu")), 2, True, 4, "-2 -3"),
        (bundle(free=20, types=frozenset("tu")), 1, True, 4, ""),
        (bundle(free=20, types=frozenset("t")), 9, False, 4, ""),  # a replay of it comes in the bundle
        (bundle(free=20, types=frozenset("x")), 9, True, 4, ""),
        (bundle(), 0, True, 4, ""),
    ],
)
def test_events_are_sent_by_themselves_while_there_is_room(
    made: Bundle, room: int, fresh: bool, taken: int, expected: str
) -> None:
    heads = [
        candidate("a1")._replace(type="job"),
        candidate("-2")._replace(type="t"),
        candidate("-3")._replace(type="u"),
    ]
    assert [one.id for one in singles(heads, taken, made, Room(count=room), fresh=fresh)] == expected.split()


def test_failing_sink_is_tried_with_one_event_if_each_has_its_own_outcome() -> None:
    assert bundle(own=True).of_failing_sink() == bundle(max_events=1, own=True)
    assert bundle().of_failing_sink() == bundle()


def test_free_requests_are_counted_within_a_minute() -> None:
    free = FreeRequests()
    assert free.room(2, NOW) == Room(count=2)
    free.count(NOW)
    assert free.room(2, NOW + 1) == Room(count=1)
    free.count(NOW + 10)
    free.count(NOW + 20)
    assert free.room(2, NOW + 30) == Room(next_at=NOW + 70)
    assert free.room(2, NOW + 60) == Room(next_at=NOW + 70)
    assert free.room(2, NOW + 70) == Room(count=1)
    assert free.room(2, NOW - 3_600) == Room(count=2)  # the clock was set back
    assert free.room(0, NOW) == Room(count=0, next_at=math.inf)


def claimed(name: str, recorded_at: float) -> Claimed:
    one = candidate(name)
    event = Event(
        id=f"evt_{name}",
        source="/s",
        type="t",
        subject=None,
        time=recorded_at,
        recorded_at=recorded_at,
        body=b"{}",
        sequence=one.sequence,
        job_uid=one.order_key,
    )
    return Claimed(id=name, event=event, subscription_id="sub", lease_token="mine", lease_until=NOW + 45)


def test_the_oldest_goes_first_and_a_job_keeps_its_order_when_the_clock_was_set_back() -> None:
    members = [claimed("a1", NOW + 5), claimed("a2", NOW - 60), claimed("b1", NOW), claimed("-7", NOW + 1)]
    assert [one.id for one in in_order(members)] == ["a1", "b1", "-7", "a2"]


def test_each_round_of_a_delivery_has_an_id_of_its_own() -> None:
    first = claimed("a1", NOW)
    assert (first.round_id, replace(first, round=2).round_id) == ("a1", "a1.2")


def test_the_message_id_is_that_of_the_set() -> None:
    assert message_id(["evt_1"]) == "evt_1"
    several = message_id(["evt_1", "evt_2"])
    assert several == message_id(["evt_1", "evt_2"]) != message_id(["evt_1", "evt_3"])
    assert several.startswith("bundle_")
    assert "." not in several


@pytest.mark.parametrize(
    ("verdict", "status", "error", "expected"),
    [
        ("retry", 413, None, "dead"),
        ("retry", 400, None, "dead"),
        ("retry", 422, None, "dead"),
        ("retry", 500, None, "retry"),
        ("retry", None, "render", "dead"),
        ("retry", None, "timeout", "retry"),
        ("disable", 400, None, "disable"),
        ("delivered", 400, None, "delivered"),
    ],
)
def test_what_refuses_the_content_refuses_the_bundle(
    verdict: str, status: int | None, error: str | None, expected: str
) -> None:
    response = Response(started_at=NOW, duration_ms=1.0, status_code=status, error=error)
    outcome = Outcome(verdict=verdict, reason="why")  # type: ignore[arg-type]
    assert outcome_of_bundle(outcome, response).verdict == expected


def test_what_is_due_at_once_is_due_by_every_clock_and_in_its_order() -> None:
    assert at_once(NOW) < at_once(NOW + 0.001) < 0.0
    assert due_since(at_once(NOW)) == NOW == due_since(NOW)
