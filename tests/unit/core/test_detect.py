"""What one poll of a job proves: the cases of the contract, then whole lives seen through any of their moments."""

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.jobs.job import (
    JOB_EVENTS,
    MAX_COUNTED_RETRIES,
    TERMINAL,
    WAITING,
    Job,
    Observation,
    Progress,
    Transition,
    detect,
    mark_not_found,
    mark_overdue,
    proven_failed_attempts,
)
from relay.sources.definition import load_definition
from relay.sources.mapping import observe

SAMPLES = json.loads((Path(__file__).parents[2] / "fixtures" / "revor-samples.json").read_text())
NOW = 1_000.0


def poll(status: str, **fields: Any) -> Observation:
    return Observation(status=status, observed_at=fields.pop("at", NOW), **fields)


def run(*polls: Observation, known: Progress | None = None) -> tuple[list[Transition], Progress]:
    progress = known or Progress()
    said: list[Transition] = []
    for seen in polls:
        found, progress = detect(progress, seen)
        said += found
    return said, progress


def short(transitions: list[Transition]) -> list[str]:
    """`running` for a transition that was seen, `running*` for one inferred."""
    return [transition.kind + "*" * transition.inferred for transition in transitions]


WAITS = {"started_at": 10.0, "next_attempt_at": 2000.0}

CASES: list[tuple[str, list[Observation], list[str]]] = [
    ("the first observation is an event", [poll("queued")], ["queued"]),
    ("the same again says nothing", [poll("queued"), poll("queued")], ["queued"]),
    (
        "a quiet life",
        [
            *(poll("queued"), poll("scheduled"), poll("running", started_at=10.0, attempt_count=1)),
            poll("succeeded", started_at=10.0, finished_at=17.0, attempt_count=1),
        ],
        ["queued", "scheduled", "running", "succeeded"],
    ),
    (
        "a run that came and went is proven by its start",
        [poll("queued"), poll("succeeded", started_at=10.0, finished_at=17.0, attempt_count=1)],
        ["queued", "running*", "succeeded"],
    ),
    ("no start, no run", [poll("queued"), poll("cancelled")], ["queued", "cancelled"]),
    (
        "already ended when registered",
        [poll("failed", started_at=10.0, finished_at=12.0, attempt_count=3)],
        ["retrying*", "retrying*", "running*", "failed"],
    ),
    (
        "the pause after a failed attempt is `retrying` and not `queued`, counted at the start of a run",
        [
            poll("running", started_at=10.0, attempt_count=1),
            poll("queued", attempt_count=1, **WAITS),
            poll("queued", attempt_count=1, **WAITS),
            poll("running", started_at=2000.0, attempt_count=2),
            poll("succeeded", started_at=2000.0, finished_at=2007.0, attempt_count=2),
        ],
        ["running", "retrying", "running", "succeeded"],
    ),
    (
        "the same life, counted at the end of a run",
        [
            poll("running", started_at=10.0, attempt_count=0),
            poll("scheduled", attempt_count=1, **WAITS),
            poll("running", started_at=2000.0, attempt_count=1),
            poll("succeeded", started_at=2000.0, finished_at=2007.0, attempt_count=2),
        ],
        ["running", "retrying", "running", "succeeded"],
    ),
    (
        "queued and scheduled take turns in the pause",
        [poll("queued", attempt_count=1, **WAITS), poll("scheduled", attempt_count=1, **WAITS)],
        ["retrying"],
    ),
    (
        "several failed attempts between two polls, in the pause",
        [poll("queued"), poll("queued", attempt_count=3, **WAITS)],
        ["queued", "retrying*", "retrying*", "retrying"],
    ),
    (
        "several failed attempts between two polls, in the next run",
        [poll("running", started_at=10.0, attempt_count=1), poll("running", started_at=90.0, attempt_count=3)],
        ["running", "retrying*", "retrying*", "running"],
    ),
    (
        "a pause that was missed, counted at the end of a run: proven by the end",
        [
            poll("running", started_at=10.0, attempt_count=0),
            poll("running", started_at=90.0, attempt_count=1),
            poll("failed", started_at=90.0, finished_at=95.0, attempt_count=2),
        ],
        ["running", "retrying*", "running*", "failed"],
    ),
    (
        "an upstream that keeps the first start",
        [
            poll("running", started_at=10.0, attempt_count=1),
            poll("queued", attempt_count=1, **WAITS),
            poll("succeeded", started_at=10.0, attempt_count=2),
        ],
        ["running", "retrying", "running*", "succeeded"],
    ),
    (
        "cancelled in the pause: the run before it was said",
        [
            poll("running", started_at=10.0, attempt_count=1),
            poll("queued", attempt_count=1, **WAITS),
            poll("cancelled", started_at=10.0, attempt_count=1),
        ],
        ["running", "retrying", "cancelled"],
    ),
    (
        "cancelled in the pause: the run before it was never said",
        [poll("queued", attempt_count=1, **WAITS), poll("cancelled", started_at=10.0, attempt_count=1)],
        ["retrying", "running*", "cancelled"],
    ),
    (
        "a count that goes down proves nothing and takes nothing back",
        [poll("queued", attempt_count=2, **WAITS), poll("queued", attempt_count=1, **WAITS)],
        ["retrying*", "retrying"],
    ),
    ("an unknown status is said once", [poll("settling"), poll("settling")], ["status_unknown"]),
    ("another unknown status is another", [poll("settling"), poll("billing")], ["status_unknown", "status_unknown"]),
    (
        "an unknown status is still open",
        [poll("running", started_at=10.0), poll("settling", started_at=10.0), poll("succeeded", started_at=10.0)],
        ["running", "status_unknown", "succeeded"],
    ),
    (
        "an unknown status after a run proves the run",
        [poll("settling", started_at=10.0)],
        ["running*", "status_unknown"],
    ),
    (
        "an unknown status that waits for the next attempt",
        [poll("cooling", attempt_count=1, **WAITS)],
        ["retrying*", "status_unknown"],
    ),
    ("an unknown word that is a kind of ours", [poll("retrying"), poll("overdue")], ["status_unknown"] * 2),
    (
        "a step backwards is an event of the new status",
        [poll("running", started_at=10.0), poll("queued"), poll("running", started_at=10.0)],
        ["running", "queued", "running"],
    ),
    (
        "a job that runs again after its end",
        [poll("failed", started_at=10.0, attempt_count=1), poll("running", started_at=90.0, attempt_count=1)],
        ["running*", "failed", "running"],
    ),
    (
        "an end seen twice is said once",
        [poll("succeeded", started_at=10.0, attempt_count=2), poll("succeeded", started_at=10.0, attempt_count=2)],
        ["retrying*", "running*", "succeeded"],
    ),
]


@pytest.mark.parametrize(("polls", "said"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_transitions_of_a_sequence_of_polls(polls: list[Observation], said: list[str]) -> None:
    transitions, progress = run(*polls)

    assert short(transitions) == said
    assert [transition.sequence for transition in transitions] == list(range(1, len(said) + 1))
    assert progress.sequence == len(said)
    assert progress.status == polls[-1].status


@pytest.mark.parametrize(
    ("seen", "proven"),
    [
        (poll("queued"), 0),
        (poll("queued", attempt_count=1), 0),
        (poll("queued", attempt_count=1, next_attempt_at=1.0), 1),
        (poll("scheduled", attempt_count=2, next_attempt_at=1.0), 2),
        (poll("cooling", attempt_count=2, next_attempt_at=1.0), 2),
        (poll("running", attempt_count=1, next_attempt_at=1.0), 0),
        (poll("running", attempt_count=3), 2),
        (poll("failed", attempt_count=3, next_attempt_at=1.0), 2),
        (poll("succeeded"), 0),
        (poll("succeeded", attempt_count=10**6), MAX_COUNTED_RETRIES),
        (poll("queued", attempt_count=-5, next_attempt_at=1.0), 0),
    ],
)
def test_failed_attempts_that_an_item_proves(seen: Observation, proven: int) -> None:
    assert proven_failed_attempts(seen) == proven


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ("create_response", ["queued"]),
        ("job_succeeded", ["running*", "succeeded"]),
        ("job_failed", ["retrying*", "failed"]),
        ("v2_job_already_done_at_create", ["succeeded"]),
        ("webset_completed", ["status_unknown"]),
    ],
)
def test_the_documented_items(sample: str, said: list[str]) -> None:
    seen = observe(load_definition("revor"), orjson.dumps(SAMPLES[sample]["body"]), now=NOW)

    assert isinstance(seen, Observation)
    assert short(run(seen)[0]) == said


def test_overdue_is_emitted_once_and_changes_nothing_else() -> None:
    _, known = run(poll("running", started_at=10.0))

    said, overdue = mark_overdue(known, 50.0)
    assert [(t.kind, t.sequence, t.status, t.previous_status) for t in said] == [("overdue", 2, "running", "running")]
    assert mark_overdue(overdue, 60.0) == ((), overdue)

    ended, _ = run(poll("succeeded", started_at=10.0), known=overdue)
    assert [(t.kind, t.sequence, t.previous_status) for t in ended] == [("succeeded", 3, "running")]


def test_not_found_comes_after_what_was_known() -> None:
    _, known = run(poll("queued"))

    said, lost = mark_not_found(known, 50.0)

    assert [(t.kind, t.sequence, t.status, t.previous_status) for t in said] == [
        ("not_found", 2, "not_found", "queued")
    ]
    assert [t.kind for t in run(poll("queued"), known=lost)[0]] == ["queued"]


# Whole lives -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Life:
    """The items of a job, each from its `observed_at` on, and what truly happened."""

    items: list[Observation]
    true_kinds: list[str]
    started: int
    failed: int
    cancelled_in: str | None

    def seen_at(self, at: float) -> Observation:
        return replace([item for item in self.items if item.observed_at <= at][-1], observed_at=at)

    @property
    def end(self) -> Observation:
        return self.items[-1]


@st.composite
def lives(draw: st.DrawFn) -> Life:
    """A true life: waiting, then attempts, each but the last followed by a pause; cancelled at any point, or an end."""
    counts_at_start, counts_a_cancelled_run = draw(st.booleans()), draw(st.booleans())
    keeps_start_in_pause = draw(st.booleans())
    gap = st.floats(0.001, 100.0, allow_nan=False)
    items: list[Observation] = []
    kinds: list[str] = []
    now, started, ended = 0.0, 0, 0
    started_at: float | None = None

    def add(status: str, kind: str | None = None, **fields: Any) -> None:
        nonlocal now
        fields = {"started_at": started_at, "attempt_count": started if counts_at_start else ended} | fields
        items.append(poll(status, at=now, scheduled_at=1.0, **fields))
        kinds.append(kind or status)
        now += draw(gap)

    for status in draw(st.sampled_from([["queued"], ["scheduled"], ["queued", "scheduled"], ["scheduled", "queued"]])):
        add(status)
    attempts = draw(st.integers(0, 6))
    cancelled_in = draw(st.sampled_from([None, "run", "pause"])) if attempts else "queue"
    for nth in range(1, attempts + 1):
        started, started_at = nth, now
        add("running")
        if nth < attempts or cancelled_in == "pause":
            ended = nth
            kept = {} if keeps_start_in_pause else {"started_at": None}
            add(draw(st.sampled_from(sorted(WAITING))), "retrying", next_attempt_at=now + 1.0, **kept)
    failed = ended
    if cancelled_in is None or counts_a_cancelled_run:
        ended = started
    add("cancelled" if cancelled_in else draw(st.sampled_from(["succeeded", "failed"])), finished_at=now)
    return Life(items, kinds, started, failed, cancelled_in)


@st.composite
def lives_and_polls(draw: st.DrawFn) -> tuple[Life, list[float]]:
    life = draw(lives())
    end = life.end.observed_at
    polls = draw(st.lists(st.floats(0.0, end + 10.0, allow_nan=False), max_size=25))
    exact = draw(st.lists(st.sampled_from([item.observed_at for item in life.items]), max_size=10))
    return life, sorted([*polls, *exact, end + draw(st.floats(0.0, 10.0))])


def is_in_order(said: list[str], true: list[str]) -> bool:
    """Whether `said` is what remains of `true` when some of it is left out."""
    rest = iter(true)
    return all(kind in rest for kind in said)


@given(lives_and_polls())
def test_any_sequence_of_polls_yields_a_valid_life(case: tuple[Life, list[float]]) -> None:
    life, polls = case
    progress, said = Progress(), list[Transition]()

    for at in polls:
        seen = life.seen_at(at)
        found, progress = detect(progress, seen)
        said += found
        assert detect(progress, seen) == ((), progress), "the same poll again proves nothing"

    kinds = [transition.kind for transition in said]
    end = life.end

    assert [transition.sequence for transition in said] == list(range(1, len(said) + 1))
    assert [t.previous_status for t in said] == [None, *kinds[:-1]]

    assert kinds[-1] == end.status
    assert sum(kind in TERMINAL for kind in kinds) == 1

    assert set(kinds) <= set(life.true_kinds), "nothing that never was"
    assert kinds.count("running") <= life.started
    assert kinds.count("retrying") <= life.failed
    if life.cancelled_in is None:
        assert kinds.count("retrying") == life.failed, "one for each failed attempt that another followed"
    assert kinds.count("retrying") >= end.attempt_count - 1
    if end.started_at is not None:
        assert "running" in kinds

    for before, after in pairwise(kinds):
        assert before != after or before == "retrying", "no state twice in a row"
    waiting = [kind for kind in kinds if kind in WAITING]
    assert waiting == kinds[: len(waiting)], "a retry brings no `queued` or `scheduled`"

    if life.cancelled_in != "pause":  # then the last start, where it was not seen, is said after the pause that was
        assert is_in_order(kinds, life.true_kinds)


@given(lives())
def test_fully_polled_life_is_emitted_completely(life: Life) -> None:
    said, _ = run(*life.items)

    assert [transition.kind for transition in said] == life.true_kinds
    assert not any(transition.inferred for transition in said)
    assert [transition.occurred_at for transition in said] == [item.observed_at for item in life.items]


@given(lives(), st.floats(0.0, 10.0))
def test_a_life_seen_after_its_end(life: Life, late: float) -> None:
    end = life.end
    said, _ = run(life.seen_at(end.observed_at + late))

    runs = ["running*"] if life.started else []
    assert short(said) == ["retrying*"] * max(0, end.attempt_count - 1) + runs + [end.status]


noise = st.builds(
    Observation,
    status=st.sampled_from(["queued", "scheduled", "running", "settling", "zzz", *TERMINAL, *JOB_EVENTS]) | st.text(),
    observed_at=st.floats(0.0, 1e9),
    scheduled_at=st.none() | st.floats(0.0, 1e9),
    started_at=st.none() | st.floats(0.0, 1e9),
    finished_at=st.none() | st.floats(0.0, 1e9),
    next_attempt_at=st.none() | st.floats(0.0, 1e9),
    attempt_count=st.integers(-3, 8),
)


@given(lives_and_polls(), st.lists(st.tuples(st.integers(0, 20), noise), max_size=10))
def test_noise_never_breaks_a_life(case: tuple[Life, list[float]], noises: list[tuple[int, Observation]]) -> None:
    life, times = case
    polls = [life.seen_at(at) for at in times[:-1]]
    for place, seen in noises:
        polls.insert(place, seen)
    polls.append(life.seen_at(times[-1]))
    progress, said = Progress(), list[Transition]()

    for seen in polls:
        found, progress = detect(progress, seen)
        said += found
        assert detect(progress, seen) == ((), progress)
        assert progress.status == seen.status
        assert progress.retry_count >= proven_failed_attempts(seen)

    assert [transition.sequence for transition in said] == list(range(1, len(said) + 1))
    assert {transition.kind for transition in said} <= set(JOB_EVENTS)
    assert said[-1].kind == life.end.status
    assert [t.kind for t in said].count("retrying") == progress.retry_count


@pytest.mark.parametrize(
    ("weight", "priority"), [(0.25, "low"), (0.9, "low"), (1.0, "normal"), (1.1, "high"), (4.0, "high")]
)
def test_weight_as_priority(weight: float, priority: str) -> None:
    assert Job(uid="u", external_id="e", source="s", account="a", weight=weight).priority == priority
