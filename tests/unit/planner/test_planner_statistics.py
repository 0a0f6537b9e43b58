"""Statistics by class: classes lean on one another, and the tables of a new policy are built one at a time."""

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.planner import statistics as statistics_module
from relay.core.planner.hazard import BINS, EXPLORATION, EXPLORATION_EVENTS, MEMORY_EVENTS, bin_of, exploration
from relay.core.planner.inspection import (
    KINDS,
    MAX_TABLES,
    NEW,
    RUN,
    ClassPolicy,
    Table,
    run_table,
)
from relay.core.planner.statistics import (
    LEAN_EVENTS,
    MAX_CLASSES,
    MEMORY_CHANGES,
    OTHER,
    PRIORS,
    ClassStatistics,
    PlannerStatistics,
    Retries,
)
from tests.support.scale import scaled


def columns(table: Table) -> list[list[float]]:
    return [table.cost, table.next, table.polls, table.delay, table.step]


def teach(
    statistics: PlannerStatistics,
    job_class: ClassStatistics,
    kind: int,
    events: int,
    median: float = 7.0,
    sigma: float = 0.6,
) -> None:
    rng = random.Random(1)
    for _ in range(events):
        statistics.record_event(job_class, kind, 0.0, rng.lognormvariate(math.log(median), sigma))


def what_counts(job_class: ClassStatistics) -> dict[str, list[object]]:
    """All but how much was learned since the last policy."""
    return {kind: [values[0], *values[3:]] for kind, values in job_class.dump()["hazards"].items()}


def work_off(statistics: PlannerStatistics) -> int:
    pieces = 0
    while statistics.refit_step():
        pieces += 1
        assert pieces < 1_000
    return pieces


# --- policies


def test_a_policy_keeps_a_limited_number_of_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    made = run_table(PRIORS[RUN], 1.0)
    monkeypatch.setattr("relay.core.planner.inspection.run_table", lambda rates, price: made)
    monkeypatch.setattr("relay.core.planner.inspection.wait_table", lambda rates, run_rates, run, price: made)
    policy = ClassPolicy(list(PRIORS))
    for rung in range(MAX_TABLES):
        policy.table(NEW, rung)
        assert len(policy.tables) <= MAX_TABLES + 1
        assert (NEW, rung) in policy.tables
        assert policy.used <= set(policy.tables)
    assert (NEW, 0) not in policy.tables


# --- classes


def test_too_many_classes_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics_module, "MAX_CLASSES", 3)
    statistics = PlannerStatistics(1.0)
    for name in "abc":
        assert statistics.of_class(name, "").key == (name, "")
    rest = statistics.of_class("d", "")
    assert rest is statistics.of_class("e", "")
    assert rest.key == OTHER
    assert rest is not statistics.root
    assert statistics.of_class("a", "") is not rest
    assert len(list(statistics)) == 4 < MAX_CLASSES


def test_root_learns_from_every_class() -> None:
    statistics = PlannerStatistics(1.0)
    teach(statistics, statistics.of_class("a", ""), RUN, 10)
    teach(statistics, statistics.of_class("b", ""), RUN, 20)
    assert statistics.root.hazard(RUN).count == 30


def test_a_class_of_which_little_is_known_leans_on_all_together() -> None:
    statistics = PlannerStatistics(1.0)
    teach(statistics, statistics.of_class("a", ""), NEW, 300, median=100.0)
    work_off(statistics)
    known = statistics.root.policy.rates(NEW)
    young = statistics.of_class("b", "")
    assert young.policy.rates(NEW) == known
    assert young.fitted_rates() == [statistics.root.policy.rates(kind) for kind in range(len(KINDS))]
    teach(statistics, young, NEW, 1, median=100.0)
    assert young.fitted_rates()[NEW][bin_of(1000.0)] == pytest.approx(known[bin_of(1000.0)])
    teach(statistics, young, NEW, LEAN_EVENTS, median=100.0)
    assert young.fitted_rates()[NEW][bin_of(5e4)] == pytest.approx(PRIORS[NEW][bin_of(5e4)])


def test_exploration_comes_with_the_ends_that_were_seen_and_goes_with_the_jobs_that_got_past() -> None:
    prior, unused, many = PRIORS[RUN], [0.0] * BINS, [100.0] * BINS
    assert max(exploration(prior, unused, 0.0)) == 0
    assert max(exploration(prior, many, 1e6)) < 1e-9
    half = exploration(prior, unused, EXPLORATION_EVENTS)
    assert half == pytest.approx([EXPLORATION / 2 * rate for rate in prior])
    assert all(
        fewer < more for fewer, more in zip(exploration(prior, [1.0] * BINS, EXPLORATION_EVENTS), half, strict=True)
    )


def test_what_was_learned_is_never_taken_for_less_and_dear_requests_leave_no_room_for_exploration() -> None:
    learned = list(PRIORS)
    usual, eager = ClassPolicy(learned), ClassPolicy(learned, tuple(EXPLORATION * rate for rate in PRIORS[RUN]))
    idle = ClassPolicy(learned, tuple(rate / 2 for rate in PRIORS[RUN]))
    for kind in (RUN, NEW):
        assert columns(idle.table(kind, 0)) == columns(usual.table(kind, 0))
    cheap, dear = 0, 24  # a price of 1 and of 4096
    assert eager.table(RUN, cheap).next_poll(300.0) - 300.0 < 0.5 * (usual.table(RUN, cheap).next_poll(300.0) - 300.0)
    assert columns(eager.table(RUN, dear)) == columns(usual.table(RUN, dear))


# --- work between decisions


def test_a_new_policy_is_made_a_table_at_a_time_and_replaces_the_old_one_when_complete() -> None:
    statistics = PlannerStatistics(1.0)
    job_class = statistics.of_class("a", "")
    for kind, rung in ((NEW, 0), (RUN, 0), (RUN, 2)):
        job_class.policy.table(kind, rung)
        statistics.root.policy.table(kind, rung)
    before, parents = job_class.policy, statistics.root.policy
    teach(statistics, job_class, RUN, 20)
    pieces = 0
    while job_class.policy is before:
        assert job_class.queued
        wanted = None if job_class.next_policy is None else len(job_class.next_policy[1])
        assert statistics.refit_step()
        pieces += 1
        if wanted and job_class.next_policy is not None:
            assert len(job_class.next_policy[1]) == wanted - 1  # one table
        assert job_class.policy is before or job_class.next_policy is None
    assert pieces == 5  # the hazards, three tables, and the change
    assert set(job_class.policy.tables) == {(NEW, 0), (RUN, 0), (RUN, 2)}
    assert job_class.policy.used == set()
    assert job_class.policy.rates(RUN) != before.rates(RUN)
    assert not job_class.queued
    assert statistics.root.policy is parents
    work_off(statistics)
    assert statistics.root.policy is not parents
    assert not statistics.refit_step()


def test_a_class_is_made_again_when_it_grew_by_a_share() -> None:
    statistics = PlannerStatistics(1.0)
    job_class = statistics.of_class("a", "")
    policies, last = 0, job_class.policy
    rng = random.Random(3)
    for _ in range(2_000):
        statistics.record_event(job_class, RUN, 0.0, rng.lognormvariate(2.0, 0.6))
        work_off(statistics)
        if job_class.policy is not last:
            policies, last = policies + 1, job_class.policy
    # About log(800) / log(1.25) while it grows, and one each quarter of the memory from then on.
    assert 25 <= policies <= 45
    hazard = job_class.hazard(RUN)
    assert hazard.effective_count == MEMORY_EVENTS


# --- kept over a restart


@settings(max_examples=scaled(8, 20))
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, len(KINDS) - 1), st.floats(0, 1e4)), max_size=20))
def test_statistics_round_trip(found: list[tuple[str, int, float]]) -> None:
    statistics, back = PlannerStatistics(1.0), PlannerStatistics(1.0)
    for name, kind, age in found:
        statistics.record_event(statistics.of_class(name, "x"), kind, 0.0, age)
    saved = statistics.unsaved_rows()
    assert statistics.unsaved_rows() == []
    assert len(saved) == (0 if not found else 1 + len({name for name, *_ in found}))
    for name, count, values in saved:
        assert count > 0
        back.load_row(name, values)
    assert back.unsaved_rows() == []  # it is all saved already
    for each in (statistics.root, *statistics):
        twin = back.root if each is statistics.root else back.of_class(*each.key)
        assert what_counts(twin) == what_counts(each)
        assert twin.policy.rates(RUN) == twin.fitted_rates()[RUN]


def test_cancellations_are_counted_by_the_time_in_which_there_could_have_been_some() -> None:
    statistics = PlannerStatistics(0.5)
    job_class, other = statistics.of_class("a", ""), statistics.of_class("b", "")
    before = job_class.change_rate
    for _ in range(50):
        statistics.record_wait(job_class, 1_000.0, changed=True)
        statistics.record_wait(job_class, 1_000.0, changed=False)
    assert job_class.change_rate == pytest.approx(1 / 4_000, rel=0.2), (
        "one in two thousand seconds, and two units a second"
    )
    assert before < other.change_rate, "what is seen of one class is likelier in another"
    assert statistics.root.changes == job_class.changes
    assert job_class.unsaved
    for _ in range(2_000):
        statistics.record_wait(job_class, 10.0, changed=True)
    assert job_class.changes == pytest.approx(MEMORY_CHANGES, rel=0.01)
    statistics.record_wait(job_class, -5.0, changed=False)
    assert job_class.change_rate <= 1 / 20


def good() -> dict[str, Any]:
    statistics = PlannerStatistics(1.0)
    teach(statistics, statistics.of_class("a", ""), RUN, 5)
    saved: dict[str, Any] = json.loads(statistics.unsaved_rows()[0][2])
    return saved


GOOD = good()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("*", "[" * 100_000),
        ("[" * 100_000, json.dumps(GOOD)),
        ("*", json.dumps({**GOOD, "hazards": {"run": [10**400, *GOOD["hazards"]["run"][1:]]}})),
        ("*", json.dumps({**GOOD, "unit": 10**400})),
        ("*", '{"unit": 1.0, "hazards": {"run": [' + "1" * 5_000 + "]}}"),
        ("*", "{}"),
        ("*", json.dumps({**GOOD, "waited": math.inf})),
        ("*", json.dumps({**GOOD, "hazards": None})),
        ("*", json.dumps({**GOOD, "hazards": {"walk": GOOD["hazards"]["run"]}})),
        ("[1, 2]", json.dumps(GOOD)),
        ('["a"]', json.dumps(GOOD)),
    ],
)
def test_unreadable_rows_are_left_out(name: str, values: str) -> None:
    statistics = PlannerStatistics(1.0)
    statistics.load_row(name, values)
    assert statistics.root.hazards == [None] * len(KINDS)
    assert [statistics.root.policy.rates(kind) for kind in range(len(KINDS))] == list(PRIORS)
    assert list(statistics) == []


def test_a_class_of_which_one_kind_cannot_be_read_keeps_what_it_had() -> None:
    job_class, run = ClassStatistics(("a", ""), None), GOOD["hazards"]["run"]
    counts = {"changes": 2.0, "waited": 50.0}
    with pytest.raises(ValueError, match="not in tuple"):
        job_class.load({"hazards": {"run": run, "walk": run}, **counts})
    assert job_class.hazards == [None] * len(KINDS)
    assert (job_class.changes, job_class.waited) == (0.0, 0.0)
    job_class.load({"hazards": {"run": run}, **counts})
    assert job_class.dump() == {"hazards": {"run": run}, **counts, "retries": Retries().dump()}
    assert len(job_class.fitted_rates()[RUN]) == BINS
