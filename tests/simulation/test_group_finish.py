"""The expected finish of groups is honest: the true one lies between p10 and p90 about as often as that says.

Groups of the sandbox's own law are polled in simulated time. A forecast sees what polls have seen, and what the planner
has learned from earlier jobs of that world. `make soak` judges 200 groups at 10, 50 and 90 % of their progress.
"""

from collections import defaultdict
from statistics import median

import pytest

from tests.support.group_world import KINDS, PROGRESS, ExpectedFinish, Stated, learned, statements
from tests.support.scale import SOAK, scaled

pytestmark = pytest.mark.verify

GROUPS = scaled({"shared lanes": 6}, dict.fromkeys(KINDS, 24))
GROUPS_A_HISTORY = 8
"""So many groups know what the same earlier jobs have taught."""
FIRST_SEED = 1_000
"""The model was made with groups of lower seeds."""
LEAST, MOST = 0.72, 0.88


@pytest.fixture(scope="module")
def stated() -> list[Stated]:
    """What is said of all groups."""
    found: list[Stated] = []
    for kind, count in GROUPS.items():
        for first in range(0, count, GROUPS_A_HISTORY):
            seeds = range(FIRST_SEED + first, FIRST_SEED + min(first + GROUPS_A_HISTORY, count))
            found += statements(kind, seeds, learned(kind, FIRST_SEED + first // GROUPS_A_HISTORY))
    return found


def coverage(some: list[Stated]) -> float:
    return sum(each.is_within for each in some) / len(some)


def given(stated: list[Stated]) -> list[Stated]:
    return [each for each in stated if isinstance(each.finish, ExpectedFinish)]


@pytest.mark.parametrize("progress", PROGRESS)
def test_the_true_finish_lies_within_the_range_as_often_as_it_says(stated: list[Stated], progress: float) -> None:
    some = [each for each in given(stated) if each.progress == progress]
    assert coverage(some) >= (LEAST if SOAK else 0.3)  # of six groups
    if SOAK:
        assert coverage(some) <= MOST


def test_the_range_narrows_as_the_group_progresses(stated: list[Stated]) -> None:
    seconds = defaultdict(list)
    for each in given(stated):
        assert isinstance(each.finish, ExpectedFinish)
        seconds[each.progress].append(each.finish.p90 - each.finish.p10)
    first, _, last = (median(seconds[progress]) for progress in PROGRESS)
    assert last < first


def test_a_forecast_is_given_for_almost_every_group(stated: list[Stated]) -> None:
    """None is given while most jobs of a group have not come or were not polled yet."""
    unknown = [each for each in stated if isinstance(each.finish, str)]
    assert {each.kind for each in unknown} <= {"by id alone", "still coming"}
    assert {each.progress for each in unknown} <= {PROGRESS[0]}
    assert len(unknown) < 0.1 * len(stated)
