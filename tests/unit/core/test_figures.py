"""Figures over time: what a node tallies, and what stored cells make together."""

import math
import random
from typing import Any

import pytest

from relay.core import figures
from relay.core.figures import (
    AHEAD_SECONDS,
    FIGURES,
    LABELLED,
    LEAST,
    MAX_PARTS,
    MOST,
    NAMES,
    SHARED,
    SPAN_NAMES,
    STALE_SECONDS,
    STEP_LABELS,
    Cell,
    Point,
    Sum,
    Tally,
    began,
    gauge_value,
    joined,
    newest,
    packed_buckets,
    packed_parts,
    quantiles,
    unpacked_buckets,
    unpacked_parts,
)
from tests.support.loop_watch import counted_calls

NOW = 1_800_000_000.0
"""The beginning of a minute and of an hour."""
DAY = NOW // 86_400.0 * 86_400.0


def counts(tally: Tally, now: float = NOW) -> dict[Any, int]:
    return {key: cell.count for key, cell in tally.take(now)}


def test_what_is_counted_is_in_every_span_of_the_whole_relay_and_in_hours_and_days_of_its_label() -> None:
    tally = Tally()
    tally.add("jobs_ended", "revor/a", NOW)
    tally.add("jobs_ended", "revor/a", NOW + 1)
    tally.add("jobs_ended", "revor/b", NOW + 2, count=5)
    tally.add("events", "", NOW + 3)
    assert counts(tally, NOW + 4) == {
        ("events", "", "day", DAY): 1,
        ("events", "", "hour", NOW): 1,
        ("events", "", "minute", NOW): 1,
        ("jobs_ended", "", "day", DAY): 7,
        ("jobs_ended", "", "hour", NOW): 7,
        ("jobs_ended", "", "minute", NOW): 7,
        ("jobs_ended", "revor/a", "day", DAY): 2,
        ("jobs_ended", "revor/a", "hour", NOW): 2,
        ("jobs_ended", "revor/b", "day", DAY): 5,
        ("jobs_ended", "revor/b", "hour", NOW): 5,
    }
    assert tally.take(NOW + 5) == []


def test_rows_are_taken_in_the_order_of_their_keys() -> None:
    tally = Tally()
    for name in ("jobs_failed", "attempts", "events"):
        for label in ("b", "a"):
            tally.add(name, label, NOW)  # type: ignore[arg-type]
    keys = [key for key, _ in tally.take(NOW)]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("times", "minutes"),
    [
        ([NOW, NOW + 59.9], {NOW: 2}),
        ([NOW, NOW + 60.0], {NOW: 1, NOW + 60.0: 1}),
        ([NOW, NOW + 60.0, NOW + 1.0], {NOW: 1, NOW + 60.0: 2}),
        ([NOW, NOW - 61.0], {NOW: 1, NOW - 120.0: 1}),
        ([NOW, NOW + 60.0, NOW - 1.0], {NOW: 1, NOW - 60.0: 1, NOW + 60.0: 1}),
    ],
    ids=["same minute", "next minute", "a little late counts in the present one", "the clock was set back", "far late"],
)
def test_minutes(times: list[float], minutes: dict[float, int]) -> None:
    tally = Tally()
    for at in times:
        tally.add("events", "", at)
    found = counts(tally, NOW + 120.0)
    assert {key[3]: count for key, count in found.items() if key[2] == "minute"} == minutes


def test_what_a_clock_that_was_ahead_has_counted_is_dropped() -> None:
    tally = Tally()
    tally.add("events", "", NOW)
    tally.add("events", "", NOW + 74 * 365 * 86_400.0)
    tally.gauge("jobs_open", "revor/a", NOW + 74 * 365 * 86_400.0, 3.0)
    assert {key[3] for key in counts(tally)} == {DAY, NOW}
    assert tally.take(NOW + 100 * 365 * 86_400.0) == []


@pytest.mark.parametrize("seconds", [0.3, 90.0, AHEAD_SECONDS])
def test_what_was_counted_just_before_the_clock_was_set_back_is_not_lost(seconds: float) -> None:
    tally = Tally()
    tally.add("events", "", NOW)
    assert counts(tally, NOW - seconds)["events", "", "minute", NOW] == 1
    assert tally.lost_count == 0


def test_rows_of_a_time_far_ahead_count_as_lost() -> None:
    tally = Tally()
    tally.add("events", "", NOW + 2 * 86_400.0)
    assert (tally.take(NOW), tally.lost_count) == ([], 3)


@pytest.mark.parametrize("at", [math.nan, math.inf, -math.inf])
def test_a_time_that_is_none_does_not_raise(at: float) -> None:
    tally = Tally()
    tally.add("events", "", NOW)
    tally.add("events", "", at)
    tally.gauge("jobs_open", "revor/a", at, 3.0)
    assert ("events", "", "minute", NOW) in counts(tally)


@pytest.mark.parametrize(
    ("value", "total", "least", "most"),
    [
        (0.0, 0.0, 0.0, LEAST),
        (-5.0, 0.0, 0.0, LEAST),
        (math.nan, 0.0, 0.0, LEAST),
        (0.25, 0.25, 0.2, 0.32),
        (MOST, MOST, MOST * 0.75, MOST * 1.3),
        (math.inf, MOST, MOST * 0.75, MOST * 1.3),
        (1e300, MOST, MOST * 0.75, MOST * 1.3),
    ],
)
def test_values_outside_of_the_buckets_are_in_the_first_or_the_last(
    value: float, total: float, least: float, most: float
) -> None:
    tally = Tally()
    tally.add("attempt_seconds", "", NOW, value)
    cell = tally.take(NOW)[0][1]
    assert (cell.count, cell.total) == (1, total)
    assert cell.buckets is not None
    found = median(cell.buckets)
    assert least <= found <= most
    assert max(cell.buckets) <= 255, "a bucket is one byte"


def test_quantiles_are_exact_to_an_eighth() -> None:
    chance, tally = random.Random(1), Tally()
    values = sorted(chance.lognormvariate(0.0, 2.0) for _ in range(10_000))
    for value in values:
        tally.add("detection_delay_seconds", "", NOW, value)
    buckets = tally.take(NOW)[0][1].buckets
    assert buckets is not None
    for share in (0.5, 0.95, 0.99):
        assert next(iter(quantiles(buckets, [share]) or [])) == pytest.approx(
            values[int(share * len(values))], rel=0.125
        )


@pytest.mark.parametrize(
    ("buckets", "shares", "expected"),
    [
        ({}, [0.5], None),
        ({3: 0}, [0.5], None),
        ({0: 1}, [0.5, 1.0], [0.0006, 0.0013]),
        ({0: 5, 7: 0}, [1.0], [0.0013]),
        ({0: 1, 31: 1}, [0.5, 0.75, 1.0], [0.0013, 1.136, 1.2622]),
        ({20: 2, 21: 2, 30: 4}, [0.1, 0.5, 0.95], [0.0954, 0.1355, 0.9895]),
        ({255: 1}, [1.0], [round(LEAST * 1.25**256, 4)]),
    ],
)
def test_quantiles(buckets: dict[int, int], shares: list[float], expected: list[float] | None) -> None:
    assert quantiles(buckets, shares) == (None if expected is None else pytest.approx(expected, abs=2e-4))


def median(buckets: dict[int, int]) -> float:
    found = quantiles(buckets, [0.5])
    assert found is not None
    return found[0]


def test_only_so_many_labels_of_a_name_are_told_apart_in_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MAX_LABELS", 2)
    tally = Tally()
    for label in ("a", "b", "c", "d", "a"):
        tally.add("attempts", label, NOW)
        tally.gauge("jobs_open", label, NOW, 10.0)
    found = dict(tally.take(NOW))
    assert {key[1] for key in found if key[0] == "attempts"} == {"", "a", "b"}
    assert found["attempts", "", "minute", NOW].count == 5
    assert {key[1] for key in found if key[0] == "jobs_open"} == {"", "a", "b"}
    parts = found["jobs_open", "", "minute", NOW].parts
    assert parts is not None
    assert [value for _, value in parts.values()] == [40.0]
    tally.add("attempts", "c", NOW + 1)
    assert {key[1] for key in counts(tally, NOW + 1)} == {""}
    tally.add("attempts", "c", NOW + 86_400.0)
    assert {key[1] for key in counts(tally, NOW + 86_400.0)} == {"", "c"}, "the next day has labels of its own"


def test_labels_are_limited_also_while_two_days_are_counted_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Just after midnight some of what comes still belongs to yesterday."""
    monkeypatch.setattr(figures, "MAX_LABELS", 2)
    tally = Tally()
    for number in range(20):
        tally.gauge("jobs_open", f"revor/{number}", DAY + 86_400.0 * (number % 2), 1.0)
        for _ in tally.settle():
            pass
    assert len({key[1:] for key, _ in tally.take(DAY + 86_400.0) if key[1] and key[2] == "day"}) == 2 * 2


def test_a_tally_remembers_the_labels_of_two_days() -> None:
    tally = Tally()
    for day in range(10):
        for name in NAMES:
            tally.gauge(name, "a", DAY + 86_400.0 * day, 1.0)
        tally.take(DAY + 86_400.0 * day)
    assert len(tally._labels) <= 2 * len(NAMES)


def test_gauges_of_accounts_are_summed_and_their_price_is_the_largest() -> None:
    tally = Tally("node 1")
    for label, value in (("revor/a", 40.0), ("revor/b", 2.0)):
        tally.gauge("jobs_open", label, NOW, 7.0)
        tally.gauge("jobs_open", label, NOW + 1.0, value)
        tally.gauge("price_seconds", label, NOW, value)
    tally.gauge("deliveries_undelivered", "", NOW, 9.0)
    found = {key: (cell.count, cell.parts) for key, cell in tally.take(NOW + 1)}
    node = next(iter(found["jobs_open", "", "minute", NOW][1] or {}))
    assert node not in (SHARED, next(iter(_parts(Tally("node 2")))))
    assert found["jobs_open", "", "minute", NOW] == (1, {node: (NOW + 1.0, 42.0)})
    assert found["jobs_open", "revor/a", "hour", NOW] == (1, {SHARED: (NOW + 1.0, 40.0)})
    assert found["price_seconds", "", "day", DAY] == (1, {node: (NOW, 40.0)})
    assert found["deliveries_undelivered", "", "minute", NOW] == (1, {SHARED: (NOW, 9.0)})
    assert {key[1] for key in found if key[2] == "minute"} == {""}
    tally.gauge("jobs_open", "revor/a", NOW + 15.0, 1.0)
    (again,) = [cell.parts for key, cell in tally.take(NOW + 15.0) if key[1:3] == ("", "minute")]
    assert again == {node: (NOW + 15.0, 1.0)}, "an account that is not measured again is gone"


def test_gauges_that_are_measured_together_replace_those_before() -> None:
    tally = Tally("node 1")
    for label in ("revor/a", "revor/gone"):
        tally.gauge("jobs_open", label, NOW, 7.0)
    tally.gauge("jobs_due", "revor/a", NOW, 3.0)
    tally.gauges({"jobs_open": {"revor/a": (NOW + 1.0, 40.0)}})
    found = {key[:2]: cell.parts for key, cell in tally.take(NOW + 1) if key[1] and key[2] == "hour"}
    assert found == {
        ("jobs_due", "revor/a"): {SHARED: (NOW, 3.0)},
        ("jobs_open", "revor/a"): {SHARED: (NOW + 1.0, 40.0)},
    }


@pytest.mark.parametrize(("labels", "steps"), [(1, 1), (STEP_LABELS, 2), (2 * STEP_LABELS + 1, 3)])
def test_many_gauges_become_rows_in_steps(labels: int, steps: int) -> None:
    tally = Tally()
    tally.gauges({"jobs_open": {f"revor/{number}": (NOW, 1.0) for number in range(labels)}})
    assert len(list(tally.settle())) == steps
    rows = dict(tally.take(NOW))
    assert rows["jobs_open", "", "hour", NOW].total == 0.0, "what the parts make together is worked out by the store"
    assert [parts[1] for parts in (rows["jobs_open", "", "hour", NOW].parts or {}).values()] == [labels]
    assert sum(key[2] == "hour" for key in rows) == labels + 1


def _parts(tally: Tally) -> dict[int, tuple[float, float]]:
    tally.gauge("jobs_open", "revor/a", NOW, 1.0)
    return next(cell.parts for key, cell in tally.take(NOW) if key[1] == "") or {}


def test_what_could_not_be_written_is_added_to_what_comes_after() -> None:
    tally = Tally()
    tally.add("attempt_seconds", "sub_1", NOW, 1.0)
    tally.gauge("jobs_open", "revor/a", NOW, 5.0)
    rows = tally.take(NOW)
    tally.add("attempt_seconds", "sub_1", NOW + 1, 2.0)
    tally.gauge("jobs_open", "revor/a", NOW + 1, 6.0)
    tally.give_back(rows)
    found = dict(tally.take(NOW + 2))
    cell = found["attempt_seconds", "sub_1", "hour", NOW]
    assert (cell.count, cell.total, sum((cell.buckets or {}).values())) == (2, 3.0, 2)
    assert found["jobs_open", "revor/a", "hour", NOW].parts == {SHARED: (NOW + 1, 6.0)}
    first = dict(rows)["attempt_seconds", "sub_1", "hour", NOW]
    assert (first.count, sum((first.buckets or {}).values())) == (1, 1), "a row that was given back is not changed"


def test_memory_is_bounded_and_the_oldest_minutes_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MAX_ROWS", 10)
    tally = Tally()
    for minute in range(60):
        tally.add("events", "", NOW + 60.0 * minute)
    found = counts(tally, NOW + 3_600.0)
    assert tally.lost_count == 60 - 8
    minutes = [key[3] for key in found if key[2] == "minute"]
    assert minutes == [NOW + 60.0 * minute for minute in range(52, 60)]
    assert found["events", "", "hour", NOW] == found["events", "", "day", DAY] == 60


def test_the_first_thing_of_a_minute_costs_the_same_however_much_was_counted() -> None:
    """Deliveries count while they are made: that must not end the minute of a thousand subscriptions."""

    def calls(labels: int) -> int:
        tally = Tally()
        for number in range(labels):
            tally.add("attempt_seconds", f"sub_{number}", NOW, 1.0)
        with counted_calls() as count:
            tally.add("attempt_seconds", "sub_0", NOW + 60.0, 1.0)
        return count()

    assert calls(1_000) == calls(1)


def test_batches_are_bounded_and_each_is_in_order() -> None:
    tally = Tally()
    for number in range(25):
        tally.add("attempts", f"sub_{number:02}", NOW)
    batches = list(tally.batches(NOW, 10))
    assert [len(rows) for rows in batches] == [10, 10, 10, 10, 10, 3]
    assert all([key for key, _ in rows] == sorted(key for key, _ in rows) for rows in batches)
    assert len({key for rows in batches for key, _ in rows}) == 2 * 25 + 3


def test_what_is_counted_while_batches_are_written_waits_for_the_next_ones() -> None:
    """Or a busy node would write for ever."""
    tally = Tally()
    for number in range(25):
        tally.add("attempts", f"sub_{number:02}", NOW)
    written = 0
    for rows in tally.batches(NOW, 10):
        written += len(rows)
        for number in range(25):
            tally.add("attempts", f"sub_{number:02}", NOW)
    assert written == 2 * 25 + 3
    assert tally.lost_count == 0
    assert counts(tally)["attempts", "", "day", DAY] == 25 * 6


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_or_counted_twice_whatever_fails(seed: int) -> None:
    """Counts and clocks at random, and a database that refuses every other batch."""
    chance, tally = random.Random(seed), Tally()
    counted: dict[Any, int] = {}
    stored: dict[Any, int] = {}
    now = NOW

    def count() -> None:
        for _ in range(chance.randrange(8)):
            label = chance.choice(["", "sub_1", "sub_2", "sub_3"])
            tally.add("attempt_seconds", label, now, chance.random())
            for one in {"", label}:
                counted[one] = counted.get(one, 0) + 1

    def write(rows: Any) -> None:
        for (_, label, span, _), cell in rows:
            stored[label, span] = stored.get((label, span), 0) + cell.count
            assert sum(cell.buckets.values()) == cell.count

    for _ in range(300):
        now += chance.choice([1.0, 30.0, 3_000.0, -2.0, -600.0])
        count()
        for rows in tally.batches(now, 3):
            count()
            if chance.random() < 0.5:
                tally.give_back(rows)
                break
            write(rows)
    write(tally.take(now + 1e6))
    assert tally.lost_count == 0
    assert stored == {
        (label, span): number for label, number in counted.items() for span in (LABELLED if label else SPAN_NAMES)
    }


def test_a_gauge_that_is_given_back_after_a_long_outage_does_not_replace_the_present_one() -> None:
    tally = Tally()
    tally.gauge("jobs_open", "revor/a", NOW, 5.0)
    rows = tally.take(NOW)
    tally.gauge("jobs_open", "revor/a", NOW + 600.0, 6.0)
    for _ in tally.settle():
        pass
    tally.give_back(rows)
    found = dict(tally.take(NOW + 600.0))["jobs_open", "revor/a", "hour", NOW]
    assert (found.count, found.parts) == (2, {SHARED: (NOW + 600.0, 6.0)})


def test_what_is_given_back_to_a_full_tally_is_lost_first(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally()
    tally.add("events", "", NOW)
    rows = tally.take(NOW)
    monkeypatch.setattr(figures, "MAX_ROWS", 4)
    tally.add("events", "", NOW + 3_600.0)
    tally.give_back(rows)
    found = counts(tally, NOW + 3_600.0)
    assert (len(found), tally.lost_count) == (4, 1)
    assert found["events", "", "minute", NOW + 3_600.0] == 1
    assert found["events", "", "day", DAY] == 2


# --- stored cells


@pytest.mark.parametrize("buckets", [{}, {0: 1}, {255: 2**63, 3: 7}])
def test_buckets_are_stored_and_read(buckets: dict[int, int]) -> None:
    assert unpacked_buckets(packed_buckets(buckets)) == buckets


@pytest.mark.parametrize("parts", [{}, {SHARED: (NOW, 1.5)}, {2**64 - 1: (NOW + 0.25, -1.0), 7: (0.0, 1e300)}])
def test_parts_are_stored_and_read(parts: dict[int, tuple[float, float]]) -> None:
    assert unpacked_parts(packed_parts(parts)) == parts


@pytest.mark.parametrize("stored", [None, b"", b"x", b"x" * 25])
def test_damaged_cells_count_as_none(stored: bytes | None) -> None:
    assert (unpacked_buckets(stored), unpacked_parts(stored)) == ({}, {})


def test_buckets_are_joined() -> None:
    one = {1: 1, 2: 2}
    assert joined(one, {2: 3, 4: 4}) == {1: 1, 2: 5, 4: 4}
    assert one == {1: 1, 2: 2}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({}, {}, {}),
        ({1: (NOW, 5.0)}, {1: (NOW + 1, 6.0)}, {1: (NOW + 1, 6.0)}),
        ({1: (NOW + STALE_SECONDS, 6.0)}, {1: (NOW, 5.0)}, {1: (NOW + STALE_SECONDS, 6.0)}),
        ({1: (NOW + STALE_SECONDS + 1, 6.0)}, {1: (NOW, 5.0)}, {1: (NOW, 5.0)}),
        ({1: (NOW, 5.0)}, {2: (NOW + STALE_SECONDS, 6.0)}, {1: (NOW, 5.0), 2: (NOW + STALE_SECONDS, 6.0)}),
        ({1: (NOW, 5.0)}, {2: (NOW + STALE_SECONDS + 1, 6.0)}, {2: (NOW + STALE_SECONDS + 1, 6.0)}),
    ],
    ids=["nothing", "newer", "written late", "the clock was set back", "two nodes", "a node that has stopped"],
)
def test_the_newest_part_of_each_node_counts(one: Any, other: Any, expected: Any) -> None:
    assert newest(one, other) == expected


def test_parts_are_bounded() -> None:
    many = dict.fromkeys(range(MAX_PARTS + 50), (NOW, 1.0))
    assert len(newest(many, {0: (NOW, 1.0)})) == MAX_PARTS


@pytest.mark.parametrize(
    ("name", "label", "values", "expected"),
    [
        ("jobs_open", "", [40.0, 2.0], 42.0),
        ("price_seconds", "", [0.8, 3.0], 3.0),
        ("price_seconds", "revor/a", [0.8], 0.8),
        ("jobs_open", "", [], 0.0),
        ("price_seconds", "", [], 0.0),
    ],
)
def test_parts_of_a_gauge_make_its_value(name: str, label: str, values: list[float], expected: float) -> None:
    assert gauge_value(name, label, {node: (NOW, value) for node, value in enumerate(values)}) == expected


BUCKETS, MORE = packed_buckets({31: 10}).hex(), packed_buckets({31: 10, 40: 20}).hex()


@pytest.mark.parametrize(
    ("name", "series", "expected"),
    [
        ("events", [[]], []),
        ("events", [[(NOW, 3, 0.0, None)]], [Point(NOW, 3, 3.0)]),
        ("events", [[(NOW, 3, 0.0, None)], [(NOW, 4, 0.0, None)]], [Point(NOW, 7, 7.0)]),
        (
            "jobs_open",
            [[(NOW, 4, 40.0, None), (NOW + 60, 4, 41.0, None)], [(NOW - 60, 4, 3.0, None), (NOW, 4, 2.0, None)]],
            [Point(NOW - 60, 4, 3.0), Point(NOW, 8, 42.0), Point(NOW + 60, 4, 41.0)],
        ),
        ("price_seconds", [[(NOW, 4, price, None)] for price in (0.8, 3.0, 1.0)], [Point(NOW, 12, 3.0)]),
        ("attempt_seconds", [[(NOW, 0, 0.0, None)]], [Point(NOW, 0, 0.0)]),
        ("attempt_seconds", [[(NOW, 2, 9.0, "00")]], [Point(NOW, 2, 9.0)]),
        ("attempt_seconds", [[(NOW, 10, 10.0, BUCKETS)]], [Point(NOW, 10, 10.0, 1.136, 1.2496)]),
        (
            "attempt_seconds",
            [[(NOW, 10, 10.0, BUCKETS)], [(NOW, 30, 90.0, MORE)]],
            [Point(NOW, 40, 100.0, 1.2622, 9.2159)],
        ),
    ],
    ids=["nothing", "one", "two labels", "in order", "the largest price", "no values", "damaged", "values", "joined"],
)
def test_stored_cells_make_points(name: Any, series: Any, expected: list[Point]) -> None:
    found = Sum(name)
    for cells in series:
        found.add(cells)
    assert found.points() == expected


@pytest.mark.parametrize("span", SPAN_NAMES)
def test_spans_begin_at_whole_minutes_hours_and_days_in_utc(span: Any) -> None:
    expected = {"minute": NOW, "hour": NOW, "day": DAY}[span]
    assert began(NOW + 59.9, span) == expected


def test_a_cell_takes_in_what_has_neither_buckets_nor_parts() -> None:
    cell = Cell(count=1, buckets={1: 1}, parts={1: (NOW, 1.0)})
    cell.take_in(Cell(count=2, total=3.0))
    assert cell == Cell(count=3, total=3.0, buckets={1: 1}, parts={1: (NOW, 1.0)})


def test_every_figure_of_the_whole_relay_is_a_gauge() -> None:
    """It has no label that a bound token could see."""
    assert {one.kind for one in FIGURES.values() if not one.label} == {"gauge"}
