"""Decides whether HEAD is worse than REF: values of both versions in, a verdict out. See against.py."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

TOLERANCE = 1.05
"""A middle may be this many times worse without a verdict."""
MIN_ROUNDS = 3
"""With fewer rounds there is no spread to judge by."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What one figure of a line is. `more_is_better`: a rate, not a cost."""

    name: str
    unit: str
    more_is_better: bool = False


MEASURES = {
    one.name: one
    for one in (
        Measure("processor", "s per 1,000"),
        Measure("rate", "per s", more_is_better=True),
        Measure("p50", "ms"),
        Measure("p99", "ms"),
        Measure("start", "s"),
        Measure("start processor", "s"),
        Measure("first delivery", "s"),
        Measure("memory", "MB"),
    )
}


@dataclass(frozen=True, slots=True)
class Spread:
    """The rounds of one version: their middle, and the least and most of them."""

    middle: float
    least: float
    most: float

    def has(self, value: float) -> bool:
        """Whether the value lies between the least and the most."""
        return self.least <= value <= self.most

    @property
    def width(self) -> float:
        """Distance from the least to the most, as a share of the middle."""
        return (self.most - self.least) / self.middle if self.middle else 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of both versions.

    ratio  how many times worse HEAD's middle is than REF's: above 1 is worse, whether more or less is better
    worse  the verdict; None with too few rounds for one
    """

    line: str
    database: str
    measure: Measure
    ref: Spread
    head: Spread
    ratio: float
    worse: bool | None


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def compare(line: str, database: str, measure: Measure, ref: Sequence[float], head: Sequence[float]) -> Comparison:
    """HEAD is worse if its middle is more than `TOLERANCE` times worse, and each middle is outside the other
    version's spread."""
    old, new = spread(ref), spread(head)
    before, after = (new.middle, old.middle) if measure.more_is_better else (old.middle, new.middle)
    ratio = after / before if before else (1.0 if after == before else float("inf"))
    worse = None
    if min(len(ref), len(head)) >= MIN_ROUNDS:
        worse = ratio > TOLERANCE and not old.has(new.middle) and not new.has(old.middle)
    return Comparison(line, database, measure, old, new, ratio, worse)


def compare_rounds(
    line: str, database: str, ref: Sequence[Mapping[str, float]], head: Sequence[Mapping[str, float]]
) -> list[Comparison]:
    """All figures of a line, in the order of `MEASURES`. Each round of both versions has the same figures."""
    return [
        compare(line, database, measure, [one[name] for one in ref], [one[name] for one in head])
        for name, measure in MEASURES.items()
        if name in head[0]
    ]


def is_worse(found: Iterable[Comparison]) -> bool:
    """Whether any figure is worse."""
    return any(one.worse for one in found)


def named_commit(changelog: str) -> str | None:
    """The commit in `Compared with: COMMIT` under the topmost heading of CHANGELOG.md; None if it names none."""
    _, _, newest = changelog.partition("\n## ")
    newest = newest.partition("\n## ")[0]
    for line in newest.splitlines():
        key, colon, rest = line.partition("Compared with:")
        if colon and not key.strip():
            return rest.split()[0].strip("`.") if rest.split() else None
    return None
