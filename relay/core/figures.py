"""Figures over time: what happened in each minute, hour and day, for charts. Values in, values out.

A node adds what happens to its `Tally`, and `relay/node/figures.py` writes that every few seconds.
Figures are for charts: a crash loses the last seconds of them. The record of what happened is the events.
"""

import hashlib
import math
import struct
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

Name: TypeAlias = Literal[
    "jobs_ended",
    "jobs_failed",
    "detection_delay_seconds",
    "events",
    "attempts",
    "attempts_failed",
    "attempt_seconds",
    "deliveries_dead",
    "jobs_open",
    "jobs_due",
    "requests_own",
    "requests_others",
    "price_seconds",
    "deliveries_undelivered",
]
Span: TypeAlias = Literal["minute", "hour", "day"]
SPAN_NAMES: tuple[Span, ...] = get_args(Span)

SPAN_SECONDS: Mapping[Span, float] = {"minute": 60.0, "hour": 3_600.0, "day": 86_400.0}
SPANS: Mapping[Span, float] = {"minute": 26 * 3_600.0, "hour": 35 * 86_400.0, "day": 731 * 86_400.0}
"""For how many seconds the figures of each span are kept."""
SHOWN_SECONDS: Mapping[Span, float] = {"minute": 86_400.0, "hour": 7 * 86_400.0, "day": 90 * 86_400.0}
"""How far back each span is shown by default."""
LABELLED: tuple[Span, ...] = ("hour", "day")
"""The spans that labelled figures have. Those of the whole relay, whose label is empty, have all."""

MAX_LABELS = 1_000
"""Labels of one name in one day. What has another label counts for the whole relay only."""
MAX_ROWS = 50_000
"""Rows kept in memory while they cannot be written. Then the oldest minutes are lost, then hours, then days."""
STEP_LABELS = 50
"""Labels of gauges that one step of `Tally.settle` handles."""
AHEAD_SECONDS = 3_600.0
"""Rows that begin later than this from now are dropped: the clock was ahead. After a smaller step back they are kept,
because their time comes soon."""
LATE_SECONDS = 60.0
"""What comes up to so much later than its minute counts in the present one."""

FACTOR = 1.25
"""The upper end of a bucket divided by its lower end. A quantile is exact to half of that."""
LEAST = 0.001
MOST = 30 * 86_400.0
"""Smaller and larger values are in the first and the last bucket."""
_SCALE = 1.0 / math.log(FACTOR)
SHOWN_SHARES = (0.5, 0.95)
_ENDS = [0.0, *(LEAST * FACTOR**place for place in range(1, 257))]
"""Where the buckets begin and end: the place of one is a byte."""
_BUCKET = struct.Struct("<BQ")
"""A bucket and how many values are in it."""

STALE_SECONDS = 45.0
"""A node's part of a gauge is dropped once another part is newer by this: the node has stopped."""
MAX_PARTS = 100
_PART = struct.Struct("<Qdd")
"""Of a gauge: a node, when it has measured, and its value."""
SHARED = 0
"""The node of a gauge that all nodes measure alike."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What a name means.

    kind   count: how often; values: values with quantiles; gauge: the last value that was measured
    label  what is told apart: accounts as `source/account`, subscriptions by id, or nothing
    joins  of a gauge: how the values of several labels make that of the whole relay
    """

    kind: Literal["count", "values", "gauge"]
    label: Literal["account", "subscription", ""]
    joins: Literal["sum", "max"] = "sum"


FIGURES: Mapping[Name, Figure] = {
    "jobs_ended": Figure("count", "account"),
    "jobs_failed": Figure("count", "account"),
    "detection_delay_seconds": Figure("values", "account"),
    "events": Figure("count", "account"),
    "attempts": Figure("count", "subscription"),
    "attempts_failed": Figure("count", "subscription"),
    "attempt_seconds": Figure("values", "subscription"),
    "deliveries_dead": Figure("count", "subscription"),
    "jobs_open": Figure("gauge", "account"),
    "jobs_due": Figure("gauge", "account"),
    "requests_own": Figure("gauge", "account"),
    "requests_others": Figure("gauge", "account"),
    "price_seconds": Figure("gauge", "account", joins="max"),
    "deliveries_undelivered": Figure("gauge", ""),
}
NAMES: tuple[Name, ...] = tuple(FIGURES)

Key: TypeAlias = tuple[Name, str, Span, float]
"""Name, label, span, and when the span began."""
Buckets: TypeAlias = dict[int, int]
Parts: TypeAlias = dict[int, tuple[float, float]]
"""Of a gauge: when each node has measured, and its value."""


@dataclass(slots=True, kw_only=True)
class Cell:
    """What came together. `total`: the sum of the values; `buckets`: how many are in each; `parts`: of a gauge."""

    count: int = 0
    total: float = 0.0
    buckets: Buckets | None = None
    parts: Parts | None = None

    def take_in(self, other: "Cell") -> None:
        """Adds what came together elsewhere."""
        self.count += other.count
        self.total += other.total
        if other.buckets is not None:
            self.buckets = joined(self.buckets or {}, other.buckets)
        if other.parts is not None:
            self.parts = newest(self.parts or {}, other.parts)


class Point(NamedTuple):
    """One minute, hour or day of a series. `number`: how often, or of how many values; `p50`, `p95`: of durations."""

    began_at: float
    number: int
    total: float
    p50: float | None = None
    p95: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The figures of one name and label over time, in order. Times without any are absent."""

    name: Name
    label: str
    points: Sequence[Point] = field(default=())


class Tally:
    """What has happened on this node and is not written yet. It belongs to the node's event loop: nothing here is
    called from another thread. Neither `add` nor `gauge` raises, and what they cost does not depend on how much waits.
    """

    def __init__(self, node_id: str = "") -> None:
        """`node_id` tells this node's part of a gauge from those of others."""
        self._node = int.from_bytes(hashlib.sha256(node_id.encode()).digest()[:8], "big") | 1  # not SHARED
        self._from = self._ends_at = 0.0
        self._began_at = 0.0
        # By span, the oldest first. An OrderedDict, because a dict finds its first row slowly after many were removed.
        self._rows: dict[Span, OrderedDict[Key, Cell]] = {span: OrderedDict() for span in SPAN_NAMES}
        self._whole: dict[str, tuple[Cell, ...]] = {}
        """The rows of the whole relay that the present minute of a name adds to."""
        self._own: dict[str, dict[str, tuple[Cell, ...]]] = {name: {} for name in NAMES}
        """The rows of a name and a label that the present hour adds to."""
        self._gauges: dict[Name, dict[str, tuple[float, float]]] = {}
        self._labels: dict[tuple[str, float], set[str]] = {}
        """The labels of a name in a day."""
        self.lost_count = 0
        """Rows that were lost: they could not be written for too long, or the clock was ahead."""

    def add(self, name: Name, label: str, at: float, value: float | None = None, count: int = 1) -> None:
        """Counts once, or `count` times; of values, the value. Without a label it counts for the whole relay only."""
        if not self._from <= at < self._ends_at:
            self._turn(at)
        whole, own = self._whole.get(name), self._own[name].get(label)
        if whole is None:
            whole = self._whole[name] = self._opened(name, "", SPAN_NAMES)
        if own is None:
            own = self._own_of(name, label)
        if value is None:
            for cell in whole + own:
                cell.count += count
            return
        if not 0.0 <= value <= MOST:
            value = MOST if value > MOST else 0.0  # a clock was set, or it is no number
        place = int(math.log(value / LEAST) * _SCALE) if value > LEAST else 0
        for cell in whole + own:
            cell.count += count
            cell.total += value
            buckets = cell.buckets
            if buckets is None:
                buckets = cell.buckets = {}
            buckets[place] = buckets.get(place, 0) + 1

    def gauge(self, name: Name, label: str, at: float, value: float) -> None:
        """Notes the present value. All of a name are taken together: those that are not noted again are gone."""
        self._gauges.setdefault(name, {})[label] = (at, value)

    def gauges(self, measured: Mapping[Name, dict[str, tuple[float, float]]]) -> None:
        """Notes all present values of some names at once, by label: when each was measured, and the value. They replace
        those that were noted before."""
        self._gauges.update(measured)

    def settle(self) -> Iterator[None]:
        """Makes rows of the gauges, a step at a time. Others may count between two steps."""
        gauges, self._gauges = self._gauges, {}
        for name, values in gauges.items():
            figure = FIGURES[name]
            known = {label: part for label, part in values.items() if math.isfinite(part[0]) and math.isfinite(part[1])}
            for number, (label, (at, value)) in enumerate(known.items(), 1):
                if label and self._may_label(name, label, at):
                    self._take_in(name, label, at, _measured(SHARED, at, value), LABELLED)
                if number % STEP_LABELS == 0:
                    yield
            if known:
                last = max(at for at, _ in known.values())
                value = (max if figure.joins == "max" else sum)([value for _, value in known.values()])
                node = self._node if figure.label else SHARED
                self._take_in(name, "", last, _measured(node, last, value), SPAN_NAMES)
            yield

    def batches(self, now: float, most: int) -> Iterator[list[tuple[Key, Cell]]]:
        """Removes what waits to be written and returns at most so many rows at a time, in the order of their keys.
        Others may count between two batches; that waits for the next call. Drops what is much later than `now`."""
        # Days first, because they are kept for longest.
        left = {span: len(self._rows[span]) for span in reversed(SPAN_NAMES)}
        while any(left.values()):
            found: list[tuple[Key, Cell]] = []
            for span, count in left.items():
                taken = min(count, most - len(found), len(self._rows[span]))
                left[span] = min(count - taken, len(self._rows[span]) - taken)
                found += [self._pop(span) for _ in range(taken)]
            rows = [row for row in found if row[0][3] <= now + AHEAD_SECONDS]
            self.lost_count += len(found) - len(rows)
            yield sorted(rows, key=lambda row: row[0])

    def take(self, now: float) -> list[tuple[Key, Cell]]:
        """All that waits, gauges too, as one batch."""
        for _ in self.settle():
            pass
        return next(self.batches(now, MAX_ROWS), [])

    def give_back(self, rows: Sequence[tuple[Key, Cell]]) -> None:
        """Puts back what could not be written, to be written first."""
        for key, cell in reversed(rows):
            waiting = self._rows[key[2]]
            row = waiting.setdefault(key, Cell())
            later, row.parts = Cell(parts=row.parts), None
            row.take_in(cell)
            row.take_in(later)
            waiting.move_to_end(key, last=False)
            self._bound()

    def _turn(self, at: float) -> None:
        """Ends the present minute, and begins the one of this time."""
        if not math.isfinite(at):
            return
        hour, self._began_at = began(self._began_at, "hour"), began(at, "minute")
        self._from, self._ends_at = self._began_at - LATE_SECONDS, self._began_at + SPAN_SECONDS["minute"]
        self._whole.clear()
        if began(at, "hour") != hour:
            self._own = {name: {} for name in NAMES}

    def _own_of(self, name: Name, label: str) -> tuple[Cell, ...]:
        if not label or not self._may_label(name, label, self._began_at):
            return ()
        self._own[name][label] = opened = self._opened(name, label, LABELLED)
        return opened

    def _opened(self, name: Name, label: str, spans: Sequence[Span]) -> tuple[Cell, ...]:
        """The rows of the present minute, hour and day."""
        return tuple([self._row((name, label, span, began(self._began_at, span))) for span in spans])

    def _may_label(self, name: Name, label: str, at: float) -> bool:
        day = began(at, "day")
        known = self._labels.get((name, day))
        if known is None:
            if len(self._labels) >= 2 * len(NAMES):  # two days are counted around midnight
                del self._labels[next(iter(self._labels))]
            known = self._labels[name, day] = set()
        if label not in known:
            if len(known) >= MAX_LABELS:
                return False
            known.add(label)
        return True

    def _take_in(self, name: Name, label: str, at: float, cell: Cell, spans: Sequence[Span]) -> None:
        for span in spans:
            self._row((name, label, span, began(at, span))).take_in(cell)

    def _row(self, key: Key) -> Cell:
        """A row, which is made if it does not exist."""
        rows = self._rows[key[2]]
        cell = rows.get(key)
        if cell is None:
            cell = rows[key] = Cell()
            self._bound()
        return cell

    def _bound(self) -> None:
        """Loses the oldest row of the shortest span if there is one too many. It may be the row that was just made:
        what the present minute adds to it is lost with it."""
        if sum(map(len, self._rows.values())) > MAX_ROWS:
            self._pop(next(span for span in SPAN_NAMES if self._rows[span]))
            self.lost_count += 1

    def _pop(self, span: Span) -> tuple[Key, Cell]:
        """Removes the oldest row of a span. Nothing is added to it any more."""
        key, cell = self._rows[span].popitem(last=False)
        if key[1]:
            self._own[key[0]].pop(key[1], None)
        else:
            self._whole.pop(key[0], None)
        return key, cell


def _measured(node: int, at: float, value: float) -> Cell:
    return Cell(count=1, parts={node: (at, value)})


def joined(one: Mapping[int, int], other: Mapping[int, int]) -> Buckets:
    """The values of both."""
    found = dict(one)
    for place, count in other.items():
        found[place] = found.get(place, 0) + count
    return found


def newest(one: Mapping[int, tuple[float, float]], other: Mapping[int, tuple[float, float]]) -> Parts:
    """The newest part of each node, without those of nodes that no longer measure.

    `other` is what comes later. It may have waited to be written, and then the part in `one` is newer; but one that is
    newer by more than STALE_SECONDS was measured before the clock was set back.
    """
    found = dict(one)
    for node, part in other.items():
        ahead_seconds = found[node][0] - part[0] if node in found else 0.0
        if not 0.0 < ahead_seconds <= STALE_SECONDS:
            found[node] = part
    last = max((at for at, _ in found.values()), default=0.0)
    kept = [(node, part) for node, part in found.items() if part[0] >= last - STALE_SECONDS]
    return dict(kept[:MAX_PARTS])


def gauge_value(name: str, label: str, parts: Mapping[int, tuple[float, float]]) -> float:
    """The value that a gauge's parts make together."""
    values = [value for _, value in parts.values()] or [0.0]
    return max(values) if not label and FIGURES[name].joins == "max" else sum(values)  # type: ignore[index]


def packed_buckets(buckets: Mapping[int, int]) -> bytes:
    """The buckets as they are stored."""
    return b"".join(_BUCKET.pack(place, count) for place, count in sorted(buckets.items()))


def unpacked_buckets(stored: bytes | None) -> Buckets:
    """Stored buckets. What is damaged counts as none."""
    if not stored or len(stored) % _BUCKET.size:
        return {}
    return dict(_BUCKET.iter_unpack(stored))


def packed_parts(parts: Mapping[int, tuple[float, float]]) -> bytes:
    """The parts of a gauge as they are stored."""
    return b"".join(_PART.pack(node, *part) for node, part in sorted(parts.items()))


def unpacked_parts(stored: bytes | None) -> Parts:
    """The stored parts of a gauge. What is damaged counts as none."""
    if not stored or len(stored) % _PART.size:
        return {}
    return {node: (at, value) for node, at, value in _PART.iter_unpack(stored)}


def quantiles(buckets: Mapping[int, int], shares: Sequence[float]) -> list[float] | None:
    """For each share, in increasing order, the value that so many of the values do not exceed. None without
    values."""
    total = sum(buckets.values())
    if total <= 0:
        return None
    found: list[float] = []
    places = sorted(buckets)
    last, below = len(places) - 1, 0
    at, count = 0, buckets[places[0]]
    for share in shares:
        wanted = share * total
        while at < last and below + count < wanted:
            below += count
            at += 1
            count = buckets[places[at]]
        low, high = _ENDS[places[at] : places[at] + 2]
        found.append(round(low + (high - low) * min((wanted - below) / max(count, 1), 1.0), 4))
    return found


Stored: TypeAlias = Sequence[Any]
"""A stored cell: when it began, its count, its total, and its buckets in hex if they are needed."""


class Sum:
    """The figures of one name that the cells of one label make, or those of several labels together."""

    def __init__(self, name: Name) -> None:
        self._kind, self._largest = FIGURES[name].kind, FIGURES[name].joins == "max"
        self._cells: dict[float, Cell] = {}

    def add(self, cells: Sequence[Stored]) -> None:
        """Adds those of a label. A thousand cells take some milliseconds."""
        for began_at, count, total, stored in cells:
            buckets = _from_hex(stored) if self._kind == "values" else None
            cell = self._cells.get(began_at)
            if cell is None:
                self._cells[began_at] = Cell(count=count, total=total, buckets=buckets)
                continue
            cell.count += count
            cell.total = max(cell.total, total) if self._largest else cell.total + total
            if buckets is not None:
                cell.buckets = joined(buckets, cell.buckets or {})

    def points(self) -> list[Point]:
        """The points, in order."""
        return [self._point(began_at, self._cells[began_at]) for began_at in sorted(self._cells)]

    def _point(self, began_at: float, cell: Cell) -> Point:
        total = float(cell.count) if self._kind == "count" else cell.total
        p50, p95 = quantiles(cell.buckets or {}, SHOWN_SHARES) or (None, None)
        return Point(began_at, cell.count, total, p50, p95)


def _from_hex(stored: str | None) -> Buckets:
    return unpacked_buckets(bytes.fromhex(stored or ""))


def began(at: float, span: Span) -> float:
    """When the span of this time began."""
    seconds = SPAN_SECONDS[span]
    return at // seconds * seconds
