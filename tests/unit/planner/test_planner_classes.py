"""The book of what was learned: classes that lean on one another, and editions of their tables made piece by piece."""

import json
import math
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.planner import classes
from relay.core.planner.classes import (
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
    Book,
    JobClass,
    dump_class,
    key_of,
    load_class,
    name_of,
)
from relay.core.planner.edition import KINDS, MAX_TABLES, NEW, RUN, SCHEDULED, Edition
from relay.core.planner.hazard import BINS, EXPLORATION, EXPLORATION_EVENTS, MEMORY_EVENTS, bin_of, exploration
from relay.core.planner.inspection import Table, run_table, wait_table
from relay.core.planner.price import price_of


def columns(table: Table) -> list[list[float]]:
    return [table.cost, table.next, table.polls, table.delay, table.step]


def teach(book: Book, of: JobClass, kind: int, events: int, median: float = 7.0, sigma: float = 0.6) -> None:
    rng = random.Random(1)
    for _ in range(events):
        book.happened(of, kind, 0.0, rng.lognormvariate(math.log(median), sigma))


def what_counts(of: JobClass) -> dict[str, list[object]]:
    """All but how much was learned since the last edition."""
    return {kind: [values[0], *values[3:]] for kind, values in dump_class(of)["hazards"].items()}


def work_off(book: Book) -> int:
    pieces = 0
    while book.work():
        pieces += 1
        assert pieces < 1_000
    return pieces


# --- editions


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_a_table_is_a_pure_function_of_the_hazards_and_the_rung(kind: int) -> None:
    one, other = Edition(list(PRIORS)), Edition(list(PRIORS))
    other.table(RUN, -3)  # whatever was made before
    run = run_table(PRIORS[RUN], price_of(2))
    expected = run if kind == RUN else wait_table(PRIORS[kind], PRIORS[RUN], run, price_of(2))
    assert columns(one.table(kind, 2)) == columns(other.table(kind, 2)) == columns(expected)
    assert one.table(kind, 2) is one.table(kind, 2)
    assert one.rates(kind) == PRIORS[kind]


def test_only_tables_that_plans_were_made_from_count_as_used() -> None:
    edition = Edition(list(PRIORS))
    made = edition.make(NEW, 1)
    assert edition.used == set()
    assert edition.table(NEW, 1) is made
    assert edition.used == {(NEW, 1)}
    assert set(edition.tables) == {(NEW, 1), (RUN, 1)}


def test_an_edition_keeps_a_limited_number_of_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    made = run_table(PRIORS[RUN], 1.0)
    monkeypatch.setattr("relay.core.planner.edition.run_table", lambda rates, price: made)
    monkeypatch.setattr("relay.core.planner.edition.wait_table", lambda rates, run_rates, run, price: made)
    edition = Edition(list(PRIORS))
    for rung in range(MAX_TABLES):
        edition.table(NEW, rung)
        assert len(edition.tables) <= MAX_TABLES + 1
        assert (NEW, rung) in edition.tables
        assert edition.used <= set(edition.tables)
    assert (NEW, 0) not in edition.tables


# --- classes


def test_a_class_is_one_action_and_channel() -> None:
    book = Book(1.0)
    assert book.of("send", "email") is book.of("send", "email")
    assert book.of("send", "email") is not book.of("send", "letter")
    assert [each.key for each in book] == [("send", "email"), ("send", "letter")]
    assert all(each.parent is book.root for each in book)
    assert book.root.parent is None


def test_long_names_are_cut() -> None:
    book = Book(1.0)
    assert book.of("a" * 5_000, "b" * 5_000) is book.of("a" * MAX_NAME + "x", "b" * MAX_NAME)


def test_too_many_classes_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "MAX_CLASSES", 3)
    book = Book(1.0)
    for name in "abc":
        assert book.of(name, "").key == (name, "")
    rest = book.of("d", "")
    assert rest is book.of("e", "")
    assert rest.key == OTHER
    assert rest is not book.root
    assert book.of("a", "") is not rest
    assert len(list(book)) == 4 < MAX_CLASSES


def test_ages_are_told_in_seconds_and_learned_in_units() -> None:
    for unit in (1.0, 0.1):
        book = Book(unit)
        of = book.of("a", "")
        book.happened(of, RUN, 0.0, 30 * unit)
        book.survived(of, RUN, 0.0, 30 * unit)
        book.happened_between(of, RUN, 20 * unit, 21 * unit)
        for each in (of, book.root):
            _, _, _, weight, events, *_ = each.hazard(RUN).dump()
            assert events[bin_of(30)] / weight == pytest.approx(1, abs=0.01)
            assert each.hazard(RUN).count == 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["survived", "happened", "happened_between"]),
            st.integers(0, len(KINDS) - 1),
            st.floats(-1e6, 1e6),
            st.floats(-1e6, 1e6),
        ),
        max_size=20,
    )
)
def test_no_ages_make_a_hazard_that_is_not_positive(found: list[tuple[str, int, float, float]]) -> None:
    book = Book(1.0)
    of = book.of("a", "")
    for what, kind, since, age in found:
        getattr(book, what)(of, kind, since, age)
    for rates in (*of.fitted(), *book.root.fitted()):
        assert all(0 < rate < math.inf for rate in rates)


def test_nothing_is_learned_of_no_time() -> None:
    book = Book(1.0)
    book.survived(book.of("a", ""), RUN, 5.0, 5.0)
    assert book.changed() == []


def test_all_classes_together_learn_what_each_does() -> None:
    book = Book(1.0)
    teach(book, book.of("a", ""), RUN, 10)
    teach(book, book.of("b", ""), RUN, 20)
    assert book.root.hazard(RUN).count == 30


def test_a_class_of_which_little_is_known_leans_on_all_together() -> None:
    book = Book(1.0)
    teach(book, book.of("a", ""), NEW, 300, median=100.0)
    work_off(book)
    known = book.root.edition.rates(NEW)
    young = book.of("b", "")
    assert young.edition.rates(NEW) == known
    assert young.fitted() == [book.root.edition.rates(kind) for kind in range(len(KINDS))]
    teach(book, young, NEW, 1, median=100.0)
    assert young.fitted()[NEW][bin_of(1000.0)] == pytest.approx(known[bin_of(1000.0)])
    teach(book, young, NEW, LEAN_EVENTS, median=100.0)
    assert young.fitted()[NEW][bin_of(5e4)] == pytest.approx(PRIORS[NEW][bin_of(5e4)])


def test_before_anything_was_seen_a_class_lives_by_the_usual_laws() -> None:
    book = Book(1.0)
    assert [book.root.edition.rates(kind) for kind in range(len(KINDS))] == list(PRIORS)
    assert book.root.fitted() == list(PRIORS)
    assert book.of("a", "").fitted() == list(PRIORS)


def test_exploration_comes_with_the_ends_that_were_seen_and_goes_with_the_jobs_that_got_past() -> None:
    prior, nobody, many = PRIORS[RUN], [0.0] * BINS, [100.0] * BINS
    assert max(exploration(prior, nobody, 0.0)) == 0
    assert max(exploration(prior, many, 1e6)) < 1e-9
    half = exploration(prior, nobody, EXPLORATION_EVENTS)
    assert half == pytest.approx([EXPLORATION / 2 * rate for rate in prior])
    assert all(
        fewer < more for fewer, more in zip(exploration(prior, [1.0] * BINS, EXPLORATION_EVENTS), half, strict=True)
    )


def test_what_was_learned_is_never_taken_for_less_and_dear_requests_leave_no_room_for_exploration() -> None:
    learned = list(PRIORS)
    usual, eager = Edition(learned), Edition(learned, tuple(EXPLORATION * rate for rate in PRIORS[RUN]))
    idle = Edition(learned, tuple(rate / 2 for rate in PRIORS[RUN]))
    for kind in (RUN, NEW):
        assert columns(idle.table(kind, 0)) == columns(usual.table(kind, 0))
    cheap, dear = 0, 24  # a price of 1 and of 4096
    assert eager.table(RUN, cheap).next_poll(300.0) - 300.0 < 0.5 * (usual.table(RUN, cheap).next_poll(300.0) - 300.0)
    assert columns(eager.table(RUN, dear)) == columns(usual.table(RUN, dear))


def test_where_few_runs_got_the_next_ones_are_looked_at_often() -> None:
    """Nothing but looks shows that no run ends between 20 and 300 s, and those before the first long one ends serve
    all that come after it."""
    book = Book(1.0)
    of = book.of("a", "")
    teach(book, of, RUN, 200, median=10.0, sigma=0.1)
    work_off(book)
    gaps = {}
    for got_past in range(40):
        edition = of.made()
        gaps[got_past] = edition.table(RUN, 2).next_poll(300.0) - 300.0
        book.survived(of, RUN, 0.0, 400.0)
    assert gaps[0] < 12, "a look each 4 % of the age"
    assert gaps[39] > 5 * gaps[0], "it is known to be a valley"
    assert all(later >= 0.99 * sooner for sooner, later in pairwise(gaps.values()))


def test_starts_that_all_come_at_once_leave_a_class_that_can_be_planned() -> None:
    book = Book(1.0)
    for name, events in (("a", 300), ("b", 5)):
        for _ in range(events):
            book.happened(book.of(name, ""), SCHEDULED, -1.0, -0.5)
        work_off(book)
    rates = book.of("b", "").edition.rates(SCHEDULED)
    assert all(0 < rate < math.inf for rate in rates)
    assert book.of("b", "").edition.table(SCHEDULED, 0).next_poll(0.0) < 10


# --- work between decisions


def test_a_new_edition_is_made_a_table_at_a_time_and_replaces_the_old_one_when_complete() -> None:
    book = Book(1.0)
    of = book.of("a", "")
    for kind, rung in ((NEW, 0), (RUN, 0), (RUN, 2)):
        of.edition.table(kind, rung)
        book.root.edition.table(kind, rung)
    before, parents = of.edition, book.root.edition
    teach(book, of, RUN, 20)
    pieces = 0
    while of.edition is before:
        assert of.queued
        wanted = None if of.draft is None else len(of.draft[1])
        assert book.work()
        pieces += 1
        if wanted and of.draft is not None:
            assert len(of.draft[1]) == wanted - 1  # one table
        assert of.edition is before or of.draft is None
    assert pieces == 5  # the hazards, three tables, and the change
    assert set(of.edition.tables) == {(NEW, 0), (RUN, 0), (RUN, 2)}
    assert of.edition.used == set()
    assert of.edition.rates(RUN) != before.rates(RUN)
    assert not of.queued
    assert book.root.edition is parents
    work_off(book)
    assert book.root.edition is not parents
    assert not book.work()


def test_plans_can_be_made_while_an_edition_is_drafted() -> None:
    book = Book(1.0)
    of = book.of("a", "")
    of.edition.table(RUN, 0)
    teach(book, of, RUN, 20)
    assert book.work()
    old = of.edition
    later = of.edition.table(RUN, 7)
    work_off(book)
    assert of.edition is not old
    assert (RUN, 7) not in of.edition.tables
    assert columns(of.edition.table(RUN, 7)) != columns(later)


def test_a_piece_makes_no_more_than_a_wait_and_its_run() -> None:
    book = Book(1.0)
    of = book.of("a", "")
    for kind in range(len(KINDS)):
        of.edition.table(kind, 1)
    teach(book, of, RUN, 20)
    made = 0
    while of.queued:
        assert book.work()
        tables = 0 if of.draft is None else len(of.draft[0].tables)
        assert tables - made <= 2
        made = max(made, tables)


def test_a_class_is_made_again_when_it_grew_by_a_share() -> None:
    book = Book(1.0)
    of = book.of("a", "")
    editions, last = 0, of.edition
    rng = random.Random(3)
    for _ in range(2_000):
        book.happened(of, RUN, 0.0, rng.lognormvariate(2.0, 0.6))
        work_off(book)
        if of.edition is not last:
            editions, last = editions + 1, of.edition
    # About log(800) / log(1.25) while it grows, and one each quarter of the memory from then on.
    assert 25 <= editions <= 45
    hazard = of.hazard(RUN)
    assert hazard.effective_count == MEMORY_EVENTS


def test_one_event_alone_is_not_worth_an_edition() -> None:
    book = Book(1.0)
    of = book.of("a", "")
    teach(book, of, RUN, LEAST_EVENTS - 1)
    assert not book.work()
    teach(book, of, RUN, 1)
    assert book.work()


def test_looks_that_find_nothing_are_worth_an_edition_too() -> None:
    book = Book(1.0)
    of = book.of("a", "")
    for _ in range(POLLS_A_REFIT - 1):
        book.survived(of, RUN, 0.0, 500.0)
    assert not of.queued
    book.survived(of, RUN, 0.0, 500.0)
    assert of.queued
    work_off(book)
    assert of.edition.rates(RUN)[bin_of(100)] < 0.2 * PRIORS[RUN][bin_of(100)]


def test_a_class_can_be_asked_whether_it_has_learned_enough() -> None:
    book = Book(1.0)
    of = book.of("a", "")
    book.poll_at(of)
    assert not book.work()
    of.hazard(RUN).happened(0.0, 5.0)
    book.poll_at(of)
    assert not book.work()
    for _ in range(LEAST_EVENTS):
        of.hazard(RUN).happened(0.0, 5.0)
    book.poll_at(of)
    book.poll_at(of)
    assert work_off(book) == 2


# --- kept over a restart


names = st.text(max_size=20)


@given(names, names)
def test_a_name_stands_for_its_class(action: str, channel: str) -> None:
    name = name_of((action, channel), root=False)
    assert key_of(name) == (action, channel)
    assert name != name_of((action, channel), root=True)


def test_all_together_have_a_name_of_their_own() -> None:
    assert key_of(name_of(OTHER, root=True)) is None
    assert key_of(name_of(OTHER, root=False)) == OTHER


@settings(max_examples=20)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, len(KINDS) - 1), st.floats(0, 1e4)), max_size=20))
def test_what_was_learned_comes_back(found: list[tuple[str, int, float]]) -> None:
    book, back = Book(1.0), Book(1.0)
    for name, kind, age in found:
        book.happened(book.of(name, "x"), kind, 0.0, age)
    saved = book.changed()
    assert book.changed() == []
    assert len(saved) == (0 if not found else 1 + len({name for name, *_ in found}))
    for name, count, values in saved:
        assert count > 0
        back.learn(name, values)
    assert back.changed() == []  # it is all saved already
    for each in (book.root, *book):
        twin = back.root if each is book.root else back.of(*each.key)
        assert what_counts(twin) == what_counts(each)
        assert twin.edition.rates(RUN) == twin.fitted()[RUN]


def test_waiting_jobs_are_seldom_cancelled_where_nothing_is_known() -> None:
    book = Book(1.0)
    rate = PSEUDO_CHANGES / PSEUDO_WAITED
    assert book.of("a", "").change_rate == pytest.approx(rate)
    book.waited(book.of("a", ""), PSEUDO_WAITED, changed=False)
    assert book.of("a", "").change_rate == pytest.approx(rate / 4), "it leans on all together, which waited too"


def test_cancellations_are_counted_by_the_time_in_which_there_could_have_been_some() -> None:
    book = Book(0.5)
    of, other = book.of("a", ""), book.of("b", "")
    before = of.change_rate
    for _ in range(50):
        book.waited(of, 1_000.0, changed=True)
        book.waited(of, 1_000.0, changed=False)
    assert of.change_rate == pytest.approx(1 / 4_000, rel=0.2), "one in two thousand seconds, and two units a second"
    assert before < other.change_rate, "what is seen of one class is likelier in another"
    assert book.root.changes == of.changes
    assert of.unsaved
    for _ in range(2_000):
        book.waited(of, 10.0, changed=True)
    assert of.changes == pytest.approx(MEMORY_CHANGES, rel=0.01)
    book.waited(of, -5.0, changed=False)
    assert of.change_rate <= 1 / 20


def test_cancellations_come_back() -> None:
    book, back = Book(1.0), Book(1.0)
    book.waited(book.of("a", ""), 70.0, changed=True)
    for name, _, values in book.changed():
        back.learn(name, values)
    assert back.of("a", "").change_rate == book.of("a", "").change_rate


def test_another_unit_is_another_book() -> None:
    book, back = Book(1.0), Book(0.5)
    teach(book, book.of("a", ""), RUN, 5)
    for name, _, values in book.changed():
        back.learn(name, values)
    assert list(back) == []
    assert back.root.hazards == [None] * len(KINDS)


def good() -> dict[str, Any]:
    book = Book(1.0)
    teach(book, book.of("a", ""), RUN, 5)
    saved: dict[str, Any] = json.loads(book.changed()[0][2])
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
def test_no_text_makes_a_book_fail(name: str, values: str) -> None:
    book = Book(1.0)
    book.learn(name, values)
    book.learn("*", values)
    book.learn(name, json.dumps({**GOOD, "hazards": values}))
    assert [book.root.edition.rates(kind) for kind in range(len(KINDS))] == list(PRIORS)


@given(place=st.integers(0, 6), value=json_values, kind=st.sampled_from(KINDS) | st.text(max_size=5))
def test_no_spoiled_hazard_makes_a_book_fail(place: int, value: Any, kind: str) -> None:
    saved = [*GOOD["hazards"]["run"]]
    saved[place] = value
    book = Book(1.0)
    book.learn("*", json.dumps({**GOOD, "hazards": {kind: saved}}))
    for rates in book.root.fitted():
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
def test_what_can_not_be_read_is_left_out(name: str, values: str) -> None:
    book = Book(1.0)
    book.learn(name, values)
    assert book.root.hazards == [None] * len(KINDS)
    assert [book.root.edition.rates(kind) for kind in range(len(KINDS))] == list(PRIORS)
    assert list(book) == []


def test_a_class_of_which_one_kind_can_not_be_read_keeps_what_it_had() -> None:
    of, run = JobClass(("a", ""), None), GOOD["hazards"]["run"]
    counts = {"changes": 2.0, "waited": 50.0}
    with pytest.raises(ValueError, match="not in tuple"):
        load_class(of, {"hazards": {"run": run, "walk": run}, **counts})
    assert of.hazards == [None] * len(KINDS)
    assert (of.changes, of.waited) == (0.0, 0.0)
    load_class(of, {"hazards": {"run": run}, **counts})
    assert dump_class(of) == {"hazards": {"run": run}, **counts}
    assert len(of.fitted()[RUN]) == BINS
