"""Figures over time: what a node tallies, the rows that it adds to, and the points that rows make."""

import math
import random
from typing import Any

import pytest

from relay.core import figures
from relay.core.figures import (
    LABELLED,
    LEAST,
    MOST,
    SPAN_NAMES,
    Point,
    TimeSeries,
    points,
    quantile,
    rows_of,
)

NOW = 1_800_000_000.0
"""The beginning of a minute and of an hour."""
DAY = NOW // 86_400.0 * 86_400.0


def counts(tally: TimeSeries) -> dict[Any, int]:
    """What was counted, by name, label, span and its beginning."""
    return {tuple(row[:4]): row.number for row in rows_of(tally.take(1_000))}


def test_what_is_counted_is_in_every_span_of_the_whole_relay_and_in_hours_and_days_of_its_label() -> None:
    tally = TimeSeries()
    tally.add("jobs_ended", "revor/a", NOW)
    tally.add("jobs_ended", "revor/a", NOW + 1)
    tally.add("jobs_ended", "revor/b", NOW + 61, count=5)
    tally.add("events", "", NOW + 3)
    rows = rows_of(tally.take(1_000))
    assert rows == sorted(rows), "in the order of their keys"
    assert {tuple(row[:4]): row.number for row in rows} == {
        ("events", "", "day", DAY): 1,
        ("events", "", "hour", NOW): 1,
        ("events", "", "minute", NOW): 1,
        ("jobs_ended", "", "day", DAY): 7,
        ("jobs_ended", "", "hour", NOW): 7,
        ("jobs_ended", "", "minute", NOW): 2,
        ("jobs_ended", "", "minute", NOW + 60): 5,
        ("jobs_ended", "revor/a", "day", DAY): 2,
        ("jobs_ended", "revor/a", "hour", NOW): 2,
        ("jobs_ended", "revor/b", "day", DAY): 5,
        ("jobs_ended", "revor/b", "hour", NOW): 5,
    }
    assert tally.take(1) == []


def test_a_gauge_of_the_whole_relay_is_measured_by_itself() -> None:
    tally = TimeSeries()
    tally.add("jobs_open", "revor/a", NOW, 40.0)
    tally.add("jobs_open", "revor/b", NOW, 2.0)
    tally.add("jobs_open", "", NOW, 42.0)
    found = {(row.label, row.span): row.total for row in rows_of(tally.take(1_000))}
    assert found == {
        **{("", span): 42.0 for span in SPAN_NAMES},
        **{("revor/a", span): 40.0 for span in LABELLED},
        **{("revor/b", span): 2.0 for span in LABELLED},
    }


@pytest.mark.parametrize(
    ("value", "total"),
    [(0.0, 0.0), (-5.0, 0.0), (math.nan, 0.0), (LEAST, LEAST), (0.25, 0.25), (math.inf, MOST), (1e300, MOST)],
)
def test_values_that_are_no_durations_count_as_the_shortest_or_longest(value: float, total: float) -> None:
    tally = TimeSeries()
    tally.add("attempt_seconds", "", NOW, value)
    (row, *_) = rows_of(tally.take(100))
    assert (row.number, row.total) == (1, total)
    assert (row.bucket == 0) == (total <= LEAST)


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ([], 0.5, None),
        ([(0, 0.0)], 0.5, None),
        ([(4, 2.0)], 0.01, 0.5),
        ([(4, 2.0), (0, 0.0), (4, 8.0)], 0.5, 0.5),
        ([(4, 2.0), (0, 0.0), (4, 8.0)], 0.51, 2.0),
        ([(4, 2.0), (0, 0.0)], 1.0, 0.5),
    ],
)
def test_quantiles(buckets: list[tuple[int, float]], share: float, expected: float | None) -> None:
    assert quantile(buckets, share) == expected


def test_further_labels_of_a_day_are_only_in_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MAX_LABELS", 2)
    tally = TimeSeries()
    for label in ("a", "b", "c", "d", "a"):
        tally.add("attempts", label, NOW)
        tally.add("jobs_open", label, NOW, 10.0)
    tally.add("jobs_open", "", NOW, 40.0)
    rows = rows_of(tally.take(1_000))
    assert {row.label for row in rows} == {"", "a", "b"}
    assert [row.number for row in rows if row[:3] == ("attempts", "", "hour")] == [5]
    assert [row.total for row in rows if row[:3] == ("jobs_open", "", "hour")] == [40.0]
    tally.add("attempts", "c", NOW + 86_400.0)
    assert {key[1] for key in counts(tally)} == {"", "c"}, "the next day has labels of its own"


def test_what_could_not_be_written_is_added_to_what_comes_after() -> None:
    tally = TimeSeries()
    tally.add("attempt_seconds", "sub_1", NOW, 1.0)
    cells = tally.take(1_000)
    tally.add("attempt_seconds", "sub_1", NOW + 1, 1.1)
    tally.add("events", "", NOW + 1)
    tally.give_back(cells)
    rows = {row[:3]: row for row in rows_of(tally.take(1_000))}
    assert rows["attempt_seconds", "sub_1", "hour"][5:] == (2, 2.1)
    assert rows["events", "", "hour"].number == 1


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MAX_WAITING", 10)
    tally = TimeSeries()
    for minute in range(60):
        tally.add("events", "", NOW + 60.0 * minute)
    tally.add("events", "", NOW)
    assert (tally.waiting_count, tally.lost_count) == (10, 50)
    assert counts(tally)["events", "", "hour", NOW] == 11


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_or_counted_twice_whatever_fails(seed: int) -> None:
    """Counts and clocks at random, and a database that refuses every other batch."""
    chance, tally = random.Random(seed), TimeSeries()
    counted: dict[Any, int] = {}
    stored: dict[Any, int] = {}
    now = NOW
    for step in range(300):
        now += chance.choice([1.0, 30.0, 3_000.0, -2.0, -600.0])
        for _ in range(chance.randrange(8)):
            label = chance.choice(["", "sub_1", "sub_2", "sub_3"])
            tally.add("attempt_seconds", label, now, chance.random())
            for one in {"", label}:
                counted[one] = counted.get(one, 0) + 1
        cells = tally.take(1_000)
        if chance.random() < 0.5 and step < 299:
            tally.give_back(cells)
            continue
        for row in rows_of(cells):
            stored[row.label, row.span] = stored.get((row.label, row.span), 0) + row.number
    assert tally.lost_count == 0
    assert stored == {
        (label, span): number for label, number in counted.items() for span in (LABELLED if label else SPAN_NAMES)
    }


@pytest.mark.parametrize(
    ("name", "rows", "expected"),
    [
        ("events", [], []),
        ("events", [(NOW, 0, 3, 0.0), (NOW + 60, 0, 4, 0.0)], [Point(NOW, 3, 3.0), Point(NOW + 60, 4, 4.0)]),
        ("jobs_open", [(NOW, 0, 4, 40.0)], [Point(NOW, 4, 10.0)]),
        ("jobs_open", [(NOW, 0, 0, 40.0)], []),
        (
            "attempt_seconds",
            [(NOW, 0, 1, 0.001), (NOW, 17, 1, 0.9)],
            [Point(NOW, 2, 0.901, 0.001, 0.9)],
        ),
    ],
    ids=["nothing", "counts", "the mean of a gauge", "a gauge of no account measured here", "durations"],
)
def test_stored_rows_make_points(name: Any, rows: Any, expected: list[Point]) -> None:
    assert points(name, rows) == expected
