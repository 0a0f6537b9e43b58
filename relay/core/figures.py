"""Figures over time, for charts: counts by minute, hour and day. Values in, values out.

A node counts in its `TimeSeries`; `relay/node/figures.py` adds that to the database every 15 seconds. A crash loses
the last seconds. The events are the complete record.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Literal, NamedTuple, TypeAlias, get_args

Name: TypeAlias = str
"""A key of FIGURES."""
Span: TypeAlias = Literal["minute", "hour", "day"]
SPAN_NAMES: tuple[Span, ...] = get_args(Span)

SPAN_SECONDS: Mapping[Span, float] = {"minute": 60.0, "hour": 3_600.0, "day": 86_400.0}
KEPT_SECONDS: Mapping[Span, float] = {"minute": 26 * 3_600.0, "hour": 35 * 86_400.0, "day": 731 * 86_400.0}
SHOWN_SECONDS: Mapping[Span, float] = {"minute": 86_400.0, "hour": 7 * 86_400.0, "day": 90 * 86_400.0}
"""Age of the oldest figure that is shown by default, in seconds."""
LABELLED: tuple[Span, ...] = ("hour", "day")
"""The spans of figures with a label. Those of the whole relay, whose label is empty, have all."""

MAX_LABELS = 1_000
"""Labels of one day. Further labels are only in the total."""
MAX_WAITING = 20_000
"""Cells kept in memory while they cannot be written. Further ones are lost."""

FACTOR = 1.5
"""The upper end of a bucket divided by its lower end. A quantile is exact to a quarter."""
LEAST = 0.001
"""The upper end of the first bucket, in seconds."""
MOST = 1e9
"""Larger values count as this one."""
_SCALE = 1.0 / math.log(FACTOR)


class Figure(NamedTuple):
    """The meaning of a name.

    kind   count: a number; values: durations with quantiles; gauge: the mean of the measurements
    label  its dimension: accounts as `source/account`, subscriptions by id, or nothing
    about  what it counts or measures
    unit   of what its values are
    """

    kind: Literal["count", "values", "gauge"]
    label: Literal["account", "subscription", ""]
    about: str
    unit: str


FIGURES: Mapping[Name, Figure] = {
    "jobs_ended": Figure("count", "account", "Tracked jobs whose end was recorded", "jobs"),
    "jobs_failed": Figure("count", "account", "Those that failed", "jobs"),
    "detection_delay_seconds": Figure("values", "account", "Time from a job's end upstream to its detection", "s"),
    "events": Figure("count", "account", "Recorded events. Published events have no account", "events"),
    "attempts": Figure("count", "subscription", "Attempts of deliveries", "attempts"),
    "attempts_failed": Figure("count", "subscription", "Those that did not deliver", "attempts"),
    "attempt_seconds": Figure("values", "subscription", "Duration of a request to a sink", "s"),
    "deliveries_dead": Figure("count", "subscription", "Deliveries that were given up", "deliveries"),
    "jobs_open": Figure("gauge", "account", "Open jobs", "jobs"),
    "requests_own": Figure("gauge", "account", "Polls of this relay, per second", "requests/s"),
    "requests_others": Figure(
        "gauge", "account", "Requests of other clients of the account, as it seems, per second", "requests/s"
    ),
    "price_seconds": Figure("gauge", "account", "Seconds of delay a poll must save to be worth a request", "s"),
    "deliveries_undelivered": Figure("gauge", "", "Pending deliveries", "deliveries"),
}
NAMES: tuple[Name, ...] = tuple(FIGURES)


class Cell(NamedTuple):
    """The key of a counter in memory: a name and label in one minute; of durations, one bucket."""

    name: Name
    label: str
    began_at: float
    bucket: int


class Row(NamedTuple):
    """An addition to a stored row. `number`: how often, or of how many values; `total`: their sum."""

    name: Name
    label: str
    span: Span
    began_at: float
    bucket: int
    number: int
    total: float


class Point(NamedTuple):
    """One minute, hour or day of a series. `number`: how often, or of how many values; `total`: their sum; of a gauge,
    their mean; `p50`, `p95`: of durations."""

    began_at: float
    number: int
    total: float
    p50: float | None = None
    p95: float | None = None


Amount: TypeAlias = list[float]
"""A count and a sum."""
Cells: TypeAlias = Sequence[tuple[Cell, Amount]]


class TimeSeries:
    """Counters of this node that are not written yet. Used in the node's event loop only."""

    def __init__(self) -> None:
        self._cells: dict[tuple[Name, str, float, int], Amount] = {}
        """By the members of a Cell, which takes as long to make as all the rest of `add`."""
        self._day = 0.0
        self._labels: set[str] = set()
        self.lost_count = 0
        """Cells lost beyond MAX_WAITING."""

    def add(self, name: Name, label: str, at: float, value: float = 0.0, count: int = 1) -> None:
        """Counts `count` times; of durations and gauges one value. Without a label: for the whole relay only."""
        value = min(max(0.0, value), MOST) if value else 0.0  # also of NaN: a clock was set
        bucket = bucket_of(value) if value and FIGURES[name].kind == "values" else 0
        key = name, label, began(at, "minute"), bucket
        amount = self._cells.get(key) or self._opened(Cell(*key))
        amount[0] += count
        amount[1] += value

    @property
    def waiting_count(self) -> int:
        """The number of cells that wait to be written."""
        return len(self._cells)

    def take(self, most: int) -> Cells:
        """Removes and returns at most `most` cells, the newest first."""
        taken = (self._cells.popitem() for _ in range(min(most, len(self._cells))))
        return [(Cell(*key), amount) for key, amount in taken]

    def give_back(self, cells: Cells) -> None:
        """Returns cells that could not be written."""
        for cell, (count, total) in cells:
            amount = self._cells.get(cell) or self._opened(cell)
            amount[0] += count
            amount[1] += total

    def _opened(self, cell: Cell) -> Amount:
        day = began(cell.began_at, "day")
        if day != self._day:
            self._day, self._labels = day, set()
        if cell.label and cell.label not in self._labels:
            if len(self._labels) < MAX_LABELS:
                self._labels.add(cell.label)
            elif FIGURES[cell.name].kind == "gauge":
                return [0, 0.0]
            else:
                cell = cell._replace(label="")
        if len(self._cells) >= MAX_WAITING and cell not in self._cells:
            self.lost_count += 1
            return [0, 0.0]
        return self._cells.setdefault(cell, [0, 0.0])


def rows_of(cells: Cells) -> list[Row]:
    """The rows that cells add to, in key order. A gauge of the whole relay is measured by itself."""
    found: dict[tuple[Name, str, Span, float, int], Amount] = {}
    for cell, (count, total) in cells:
        places: list[tuple[str, Span]] = [(cell.label, span) for span in LABELLED if cell.label]
        if not cell.label or FIGURES[cell.name].kind != "gauge":
            places += [("", span) for span in SPAN_NAMES]
        for label, span in places:
            amount = found.setdefault((cell.name, label, span, began(cell.began_at, span), cell.bucket), [0, 0.0])
            amount[0] += count
            amount[1] += total
    return [Row(*key, int(count), total) for key, (count, total) in sorted(found.items())]


def points(name: Name, stored: Iterable[Sequence[float]]) -> list[Point]:
    """A series of stored rows, each `(began_at, bucket, count, total)`, in that order."""
    kind, found = FIGURES[name].kind, []
    for began_at, rows in groupby(stored, key=lambda row: row[0]):
        buckets = [(int(row[2]), row[3]) for row in rows]
        count, total = sum(number for number, _ in buckets), sum(total for _, total in buckets)
        if kind == "values":
            found.append(Point(began_at, count, total, quantile(buckets, 0.5), quantile(buckets, 0.95)))
        elif kind == "count":
            found.append(Point(began_at, count, float(count)))
        elif count:
            found.append(Point(began_at, count, total / count))
    return found


def bucket_of(seconds: float) -> int:
    """The bucket of a duration."""
    return 0 if seconds <= LEAST else int(math.log(seconds / LEAST) * _SCALE) + 1


def quantile(buckets: Sequence[tuple[int, float]], share: float) -> float | None:
    """The value that this share of the values does not exceed, as the mean of its bucket; None without values.
    `buckets`: number and sum of the values of each, in order."""
    left = share * sum(number for number, _ in buckets)
    for number, total in buckets:
        if 0 < number >= left:
            return round(total / number, 4)
        left -= number
    return None


def began(at: float, span: Span) -> float:
    """Start of the span that contains this time."""
    seconds = SPAN_SECONDS[span]
    return at // seconds * seconds
