"""When `make bench-against` says that HEAD is worse, and with which commit it compares."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from against_judge import MEASURES, Spread, compare, compare_rounds, is_worse, named_commit, spread

ROOT = Path(__file__).resolve().parents[3]
COST, RATE = MEASURES["processor"], MEASURES["rate"]
STEADY = [1.00, 0.99, 1.01, 1.00, 1.00]


def test_a_spread_is_the_middle_and_both_ends() -> None:
    assert spread([3.0, 1.0, 2.0, 10.0, 2.5]) == Spread(2.5, 1.0, 10.0)
    assert spread([4.0]).width == 0.0
    assert Spread(2.0, 1.0, 4.0).width == 1.5
    assert spread([0.0, 0.0, 0.0]).width == 0.0


@pytest.mark.parametrize(
    ("head", "worse"),
    [
        (STEADY, False),
        ([1.04, 1.04, 1.05, 1.03, 1.04], False),  # outside both spreads, but within the tolerance
        ([1.20, 1.19, 1.21, 1.20, 1.20], True),
        ([0.50, 0.49, 0.51, 0.50, 0.50], False),  # better
        ([1.20, 0.98, 1.21, 1.20, 1.20], False),  # one round as good as REF: REF's middle is within HEAD's spread
        ([1.20, 1.20, 9.00, 1.20, 1.20], True),  # a bad round more excuses nothing
    ],
)
def test_a_cost_is_worse_beyond_the_tolerance_and_both_spreads(head: Sequence[float], worse: bool) -> None:
    assert compare("line", "SQLite", COST, STEADY, head).worse is worse


def test_a_middle_within_the_spread_of_ref_is_not_worse() -> None:
    found = compare("line", "SQLite", COST, [1.0, 1.0, 1.0, 1.3, 0.9], [1.2, 1.2, 1.2, 1.25, 1.19])
    assert found.ratio == pytest.approx(1.2)
    assert found.worse is False


@pytest.mark.parametrize(("head", "ratio", "worse"), [(50.0, 2.0, True), (100.0, 1.0, False), (200.0, 0.5, False)])
def test_a_lower_rate_is_worse_and_its_ratio_is_above_one(head: float, ratio: float, worse: bool) -> None:
    found = compare("line", "PostgreSQL", RATE, [100.0] * 3, [head] * 3)
    assert (found.ratio, found.worse) == (ratio, worse)


def test_two_rounds_are_too_few_for_a_verdict() -> None:
    found = compare("line", "SQLite", COST, [1.0, 1.0], [5.0, 5.0])
    assert (found.ratio, found.worse) == (5.0, None)
    assert not is_worse([found])


@pytest.mark.parametrize(("ref", "head", "ratio"), [(0.0, 0.0, 1.0), (0.0, 0.01, float("inf"))])
def test_a_cost_below_what_the_clock_shows(ref: float, head: float, ratio: float) -> None:
    assert compare("line", "SQLite", COST, [ref] * 3, [head] * 3).ratio == ratio


def test_one_worse_figure_decides() -> None:
    good = {"processor": 1.0, "rate": 100.0, "p99": 8.0}
    bad = {**good, "p99": 9.0}
    found = compare_rounds("line", "SQLite", [good] * 5, [bad] * 5)
    assert [(one.measure.name, one.worse) for one in found] == [("processor", False), ("rate", False), ("p99", True)]
    assert is_worse(found)
    assert not is_worse(compare_rounds("line", "SQLite", [good] * 5, [good] * 5))


@pytest.mark.parametrize(
    ("text", "commit"),
    [
        ("# Changelog\n\n## [Unreleased]\n\nCompared with: `a50ec2be`.\n\n- x\n\n## [0.1.0]\n", "a50ec2be"),
        ("# Changelog\n\n## [Unreleased]\n\nCompared with: a50ec2be (`make bench-against`)\n", "a50ec2be"),
        ("# Changelog\n\n## [Unreleased]\n\n- x\n\n## [0.1.0]\n\nCompared with: a50ec2be\n", None),
        ("# Changelog\n\n## [Unreleased]\n\n- Compared with: others, it is fast\n", None),
        ("# Changelog\n\n## [Unreleased]\n\nCompared with:\n", None),
        ("", None),
    ],
)
def test_the_changelog_names_the_commit_of_the_newest_heading(text: str, commit: str | None) -> None:
    assert named_commit(text) == commit


def test_our_changelog_names_a_commit() -> None:
    commit = named_commit((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert commit is not None
    assert len(commit) >= 8
    assert set(commit) <= set("0123456789abcdef")
