"""Statistics by class: classes lean on one another, and the tables of a new policy are built one at a time."""

import json
import math
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.planner.budget.price import price_of
from relay.core.planner.learning import statistics as statistics_module
from relay.core.planner.learning.hazard import BINS, EXPLORATION, EXPLORATION_EVENTS, MEMORY_EVENTS, bin_of, exploration
from relay.core.planner.learning.inspection import (
    KINDS,
    MAX_TABLES,
    NEW,
    RUN,
    SCHEDULED,
    ClassPolicy,
    Table,
    run_table,
    wait_table,
)
from relay.core.planner.learning.retries import Retries
from relay.core.planner.learning.statistics import (
    LEAN_EVENTS,
    LEAST_EVENTS,
    MAX_CLASSES,
    MAX_NAME,
    MEMORY_CHANGES,
    OTHER,
    POLLS_A_REFIT,
    PRIORS,
    PSEUDO_CHANGES,
    PSEUDO_WAITED,
    ClassStatistics,
    PlannerStatistics,
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


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_a_table_is_a_pure_function_of_the_hazards_and_the_rung(kind: int) -> None:
    one, other = ClassPolicy(list(PRIORS)), ClassPolicy(list(PRIORS))
    other.table(RUN, -3)  # whatever was made before
    run = run_table(PRIORS[RUN], price_of(2))
    expected = run if kind == RUN else wait_table(PRIORS[kind], PRIORS[RUN], run, price_of(2))
    assert columns(one.table(kind, 2)) == columns(other.table(kind, 2)) == columns(expected)
    assert one.table(kind, 2) is one.table(kind, 2)
    assert one.rates(kind) == PRIORS[kind]


def test_only_tables_that_plans_were_made_from_count_as_used() -> None:
    policy = ClassPolicy(list(PRIORS))
    made = policy.build(NEW, 1)
    assert policy.used == set()
    assert policy.table(NEW, 1) is made
    assert policy.used == {(NEW, 1)}
    assert set(policy.tables) == {(NEW, 1), (RUN, 1)}


def test_a_policy_keeps_a_limited_number_of_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    made = run_table(PRIORS[RUN], 1.0)
    monkeypatch.setattr("relay.core.planner.learning.inspection.run_table", lambda rates, price: made)
    monkeypatch.setattr("relay.core.planner.learning.inspection.wait_table", lambda rates, run_rates, run, price: made)
    policy = ClassPolicy(list(PRIORS))
    for rung in range(MAX_TABLES):
        policy.table(NEW, rung)
        assert len(policy.tables) <= MAX_TABLES + 1
        assert (NEW, rung) in policy.tables
        assert policy.used <= set(policy.tables)
    assert (NEW, 0) not in policy.tables


# --- classes


def test_a_class_is_one_action_and_channel() -> None:
    statistics = PlannerStatistics(1.0)
    assert statistics.of_class("send", "email") is statistics.of_class("send", "email")
    assert statistics.of_class("send", "email") is not statistics.of_class("send", "letter")
    assert [each.key for each in statistics] == [("send", "email"), ("send", "letter")]
    assert all(each.parent is statistics.root for each in statistics)
    assert statistics.root.parent is None


def test_long_names_are_cut() -> None:
    statistics = PlannerStatistics(1.0)
    assert statistics.of_class("a" * 5_000, "b" * 5_000) is statistics.of_class("a" * MAX_NAME + "x", "b" * MAX_NAME)


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


def test_ages_are_given_in_seconds_and_learned_in_units() -> None:
    for unit in (1.0, 0.1):
        statistics = PlannerStatistics(unit)
        job_class = statistics.of_class("a", "")
        statistics.record_event(job_class, RUN, 0.0, 30 * unit)
        statistics.record_survival(job_class, RUN, 0.0, 30 * unit)
        statistics.record_event_between(job_class, RUN, 20 * unit, 21 * unit)
        for each in (job_class, statistics.root):
            _, _, _, weight, events, *_ = each.hazard(RUN).dump()
            assert events[bin_of(30)] / weight == pytest.approx(1, abs=0.01)
            assert each.hazard(RUN).count == 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["record_survival", "record_event", "record_event_between"]),
            st.integers(0, len(KINDS) - 1),
            st.floats(-1e6, 1e6),
            st.floats(-1e6, 1e6),
        ),
        max_size=20,
    )
)
def test_no_ages_make_a_hazard_that_is_not_positive(found: list[tuple[str, int, float, float]]) -> None:
    statistics = PlannerStatistics(1.0)
    job_class = statistics.of_class("a", "")
    for what, kind, since, age in found:
        getattr(statistics, what)(job_class, kind, since, age)
    for rates in (*job_class.fitted_rates(), *statistics.root.fitted_rates()):
        assert all(0 < rate < math.inf for rate in rates)


def test_no_elapsed_time_teaches_nothing() -> None:
    statistics = PlannerStatistics(1.0)
    statistics.record_survival(statistics.of_class("a", ""), RUN, 5.0, 5.0)
    assert statistics.unsaved_rows() == []


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


def test_before_anything_was_seen_a_class_lives_by_the_usual_laws() -> None:
    statistics = PlannerStatistics(1.0)
    assert [statistics.root.policy.rates(kind) for kind in range(len(KINDS))] == list(PRIORS)
    assert statistics.root.fitted_rates() == list(PRIORS)
    assert statistics.of_class("a", "").fitted_rates() == list(PRIORS)


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


def test_where_few_runs_got_the_next_ones_are_polled_often() -> None:
    """Nothing but polls shows that no run ends between 20 and 300 s, and those before the first long one ends serve
    all that come after it."""
    statistics = PlannerStatistics(1.0)
    job_class = statistics.of_class("a", "")
    teach(statistics, job_class, RUN, 200, median=10.0, sigma=0.1)
    work_off(statistics)
    gaps = {}
    for got_past in range(40):
        policy = job_class.new_policy()
        gaps[got_past] = policy.table(RUN, 2).next_poll(300.0) - 300.0
        statistics.record_survival(job_class, RUN, 0.0, 400.0)
    assert gaps[0] < 12, "a poll each 4 % of the age"
    assert gaps[39] > 5 * gaps[0], "it is known to be a valley"
    assert all(later >= 0.99 * sooner for sooner, later in pairwise(gaps.values()))


def test_starts_that_all_come_at_once_leave_a_class_that_can_be_planned() -> None:
    statistics = PlannerStatistics(1.0)
    for name, events in (("a", 300), ("b", 5)):
        for _ in range(events):
            statistics.record_event(statistics.of_class(name, ""), SCHEDULED, -1.0, -0.5)
        work_off(statistics)
    rates = statistics.of_class("b", "").policy.rates(SCHEDULED)
    assert all(0 < rate < math.inf for rate in rates)
    assert statistics.of_class("b", "").policy.table(SCHEDULED, 0).next_poll(0.0) < 10


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


def test_plans_can_be_made_while_a_policy_is_drafted() -> None:
    statistics = PlannerStatistics(1.0)
    job_class = statistics.of_class("a", "")
    job_class.policy.table(RUN, 0)
    teach(statistics, job_class, RUN, 20)
    assert statistics.refit_step()
    old = job_class.policy
    later = job_class.policy.table(RUN, 7)
    work_off(statistics)
    assert job_class.policy is not old
    assert (RUN, 7) not in job_class.policy.tables
    assert columns(job_class.policy.table(RUN, 7)) != columns(later)


def test_a_piece_makes_no_more_than_a_wait_and_its_run() -> None:
    statistics = PlannerStatistics(1.0)
    job_class = statistics.of_class("a", "")
    for kind in range(len(KINDS)):
        job_class.policy.table(kind, 1)
    teach(statistics, job_class, RUN, 20)
    made = 0
    while job_class.queued:
        assert statistics.refit_step()
        tables = 0 if job_class.next_policy is None else len(job_class.next_policy[0].tables)
        assert tables - made <= 2
        made = max(made, tables)


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


def test_one_event_alone_is_not_worth_a_policy() -> None:
    statistics = PlannerStatistics(1.0)
    job_class = statistics.of_class("a", "")
    teach(statistics, job_class, RUN, LEAST_EVENTS - 1)
    assert not statistics.refit_step()
    teach(statistics, job_class, RUN, 1)
    assert statistics.refit_step()


def test_polls_that_find_nothing_are_worth_a_policy_too() -> None:
    statistics = PlannerStatistics(1.0)
    job_class = statistics.of_class("a", "")
    for _ in range(POLLS_A_REFIT - 1):
        statistics.record_survival(job_class, RUN, 0.0, 500.0)
    assert not job_class.queued
    statistics.record_survival(job_class, RUN, 0.0, 500.0)
    assert job_class.queued
    work_off(statistics)
    assert job_class.policy.rates(RUN)[bin_of(100)] < 0.2 * PRIORS[RUN][bin_of(100)]


def test_a_class_can_be_asked_whether_it_has_learned_enough() -> None:
    statistics = PlannerStatistics(1.0)
    job_class = statistics.of_class("a", "")
    statistics.queue_refit_if_due(job_class)
    assert not statistics.refit_step()
    job_class.hazard(RUN).record_event(0.0, 5.0)
    statistics.queue_refit_if_due(job_class)
    assert not statistics.refit_step()
    for _ in range(LEAST_EVENTS):
        job_class.hazard(RUN).record_event(0.0, 5.0)
    statistics.queue_refit_if_due(job_class)
    statistics.queue_refit_if_due(job_class)
    assert work_off(statistics) == 2


# --- kept over a restart


names = st.text(max_size=20)


@given(names, names)
def test_a_name_stands_for_its_class(action: str, channel: str) -> None:
    statistics = PlannerStatistics(1.0)
    job_class = statistics.of_class(action, channel)
    assert statistics.named(job_class.name) is job_class
    assert job_class.name != statistics.root.name


def test_root_has_its_own_name() -> None:
    statistics = PlannerStatistics(1.0)
    other = statistics.of_class(*OTHER)
    assert statistics.named(statistics.root.name) is statistics.root
    assert statistics.named(other.name) is other is not statistics.root


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


def test_waiting_jobs_are_seldom_cancelled_where_nothing_is_known() -> None:
    statistics = PlannerStatistics(1.0)
    rate = PSEUDO_CHANGES / PSEUDO_WAITED
    assert statistics.of_class("a", "").change_rate == pytest.approx(rate)
    statistics.record_wait(statistics.of_class("a", ""), PSEUDO_WAITED, changed=False)
    assert statistics.of_class("a", "").change_rate == pytest.approx(rate / 4), (
        "it leans on all together, which waited too"
    )


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


def test_cancellations_round_trip() -> None:
    statistics, back = PlannerStatistics(1.0), PlannerStatistics(1.0)
    statistics.record_wait(statistics.of_class("a", ""), 70.0, changed=True)
    for name, _, values in statistics.unsaved_rows():
        back.load_row(name, values)
    assert back.of_class("a", "").change_rate == statistics.of_class("a", "").change_rate


def test_statistics_in_another_unit_are_ignored() -> None:
    statistics, back = PlannerStatistics(1.0), PlannerStatistics(0.5)
    teach(statistics, statistics.of_class("a", ""), RUN, 5)
    for name, _, values in statistics.unsaved_rows():
        back.load_row(name, values)
    assert list(back) == []
    assert back.root.hazards == [None] * len(KINDS)


def good() -> dict[str, Any]:
    statistics = PlannerStatistics(1.0)
    teach(statistics, statistics.of_class("a", ""), RUN, 5)
    saved: dict[str, Any] = json.loads(statistics.unsaved_rows()[0][2])
    return saved


GOOD = good()
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    name=st.text(max_size=30) | json_values.map(json.dumps), values=st.text(max_size=50) | json_values.map(json.dumps)
)
def test_malformed_rows_are_ignored(name: str, values: str) -> None:
    statistics = PlannerStatistics(1.0)
    statistics.load_row(name, values)
    statistics.load_row("*", values)
    statistics.load_row(name, json.dumps({**GOOD, "hazards": values}))
    assert [statistics.root.policy.rates(kind) for kind in range(len(KINDS))] == list(PRIORS)


@given(place=st.integers(0, 6), value=json_values, kind=st.sampled_from(KINDS) | st.text(max_size=5))
def test_malformed_hazards_are_ignored(place: int, value: Any, kind: str) -> None:
    saved = [*GOOD["hazards"]["run"]]
    saved[place] = value
    statistics = PlannerStatistics(1.0)
    statistics.load_row("*", json.dumps({**GOOD, "hazards": {kind: saved}}))
    for rates in statistics.root.fitted_rates():
        assert all(0 < rate < math.inf for rate in rates)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("*", "[" * 100_000),
        ("[" * 100_000, json.dumps(GOOD)),
        ("*", json.dumps({**GOOD, "hazards": {"run": [10**400, *GOOD["hazards"]["run"][1:]]}})),
        ("*", json.dumps({**GOOD, "unit": 10**400})),
        ("*", '{"unit": 1.0, "hazards": {"run": [' + "1" * 5_000 + "]}}"),
        ("*", "null"),
        ("*", "[]"),
        ("*", "{}"),
        ("*", json.dumps({**GOOD, "changes": -1})),
        ("*", json.dumps({**GOOD, "waited": math.inf})),
        ("*", json.dumps({**GOOD, "waited": math.nan})),
        ("*", json.dumps({**GOOD, "changes": None})),
        ("*", json.dumps({**GOOD, "hazards": None})),
        ("*", json.dumps({**GOOD, "hazards": {"run": None}})),
        ("*", json.dumps({**GOOD, "hazards": {"walk": GOOD["hazards"]["run"]}})),
        ("[1, 2]", json.dumps(GOOD)),
        ("null", json.dumps(GOOD)),
        ("", json.dumps(GOOD)),
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
