"""How long jobs of a class take, drawn from what polls have taught of runs and retries."""

import math
from random import Random
from typing import Any

import pytest

from relay.core.planner.inspection import RETRY, RUN, SCHEDULED
from relay.core.planner.job_times import DURATIONS, durations, durations_from
from relay.core.planner.poll_queues import RUNNING, WAITING, PlannedJob
from relay.core.planner.polls import Reading, learn, read_item
from relay.core.planner.statistics import (
    ALL_CLASSES,
    LEARNED_EVENTS,
    MAX_ATTEMPTS,
    MAX_PAUSES,
    ClassStatistics,
    PlannerStatistics,
    Retries,
    class_name,
)

NOW = 1_779_271_200.0
CLASS = ("send", "email")


def statistics_of(
    runs: int = 400, unit: float = 1.0, seconds: float = 7.0
) -> tuple[PlannerStatistics, ClassStatistics]:
    statistics = PlannerStatistics(unit)
    job_class = statistics.of_class(*CLASS)
    rng = Random(1)
    for _ in range(runs):
        statistics.record_event(job_class, RUN, 0.0, rng.lognormvariate(math.log(seconds), 0.3))
        statistics.record_attempts(job_class, 1)
    return statistics, job_class


# --- retries


def test_the_chance_of_a_retry_is_learned_by_attempt() -> None:
    retries = Retries()
    for number in range(2_000):
        retries.record_end(3 if number % 4 == 0 else 1)
    assert retries.chance(1, None) == pytest.approx(0.25, abs=0.03)
    assert retries.chance(2, None) == pytest.approx(1.0, abs=0.1)
    assert retries.chance(3, None) < 0.02
    assert retries.chance(MAX_ATTEMPTS, None) == 0.0


def damaged(**changes: Any) -> dict[str, Any]:
    return {**Retries().dump(), **changes}


@pytest.mark.parametrize(
    "saved",
    [
        damaged(ended=[1.0]),
        damaged(pauses=[[1.0] * (MAX_PAUSES + 1), *([[]] * (MAX_ATTEMPTS - 1))]),
        damaged(ended=[math.nan] * MAX_ATTEMPTS),
        damaged(pauses=[[-1.0], *([[]] * (MAX_ATTEMPTS - 1))]),
        damaged(retried=[1.0] * MAX_ATTEMPTS),
    ],
)
def test_malformed_retries_are_refused(saved: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"retr|pauses"):
        Retries().load(saved)


# --- what polls teach of retries


def job_of(statistics: PlannerStatistics, phase: int, kind: int, anchor: float, seen: float) -> PlannedJob:
    job = PlannedJob("a", 60.0, NOW + seen)
    job.phase, job.kind, job.anchor, job.statistics = phase, kind, NOW + anchor, statistics.of_class(*CLASS)
    return job


def pauses_after(phase: int, kind: int, *, anchor: float, seen: float, at: float, retry: float) -> list[float]:
    statistics = PlannerStatistics(1.0)
    found = Reading(known=True, next_attempt_at=NOW + retry, attempt_count=1)
    learn(statistics, job_of(statistics, phase, kind, anchor, seen), found, NOW + at)
    return list(statistics.of_class(*CLASS).retries.pauses(1, None))


@pytest.mark.parametrize(
    ("title", "known", "pauses"),
    [
        ("a run seen 4 s ago", {"phase": RUNNING, "kind": RUN, "anchor": 0, "seen": 6, "at": 10, "retry": 40}, [32]),
        ("seen too long ago", {"phase": WAITING, "kind": SCHEDULED, "anchor": 0, "seen": 0, "at": 90, "retry": 99}, []),
        ("known already", {"phase": WAITING, "kind": RETRY, "anchor": 40, "seen": 9, "at": 12, "retry": 40}, []),
        ("over already", {"phase": RUNNING, "kind": RUN, "anchor": 0, "seen": 6, "at": 50, "retry": 40}, []),
    ],
)
def test_a_pause_is_learned_where_two_polls_tell_how_long_it_is(
    title: str, known: dict[str, Any], pauses: list[float]
) -> None:
    assert pauses_after(**known) == pauses, title


@pytest.mark.parametrize(
    ("status", "attempts", "ended"),
    [("succeeded", 2, True), ("failed", 1, True), ("cancelled", 1, False), ("succeeded", 0, False)],
)
def test_an_end_teaches_how_many_attempts_it_took(status: str, attempts: int, ended: bool) -> None:
    statistics = PlannerStatistics(1.0)
    item = {"status": status, "attempt_count": attempts, "started_at": NOW, "finished_at": NOW + 5}
    learn(statistics, job_of(statistics, RUNNING, RUN, 0, 1), read_item(item), NOW + 6)
    assert sum(statistics.root.retries.dump()["ended"]) == (attempts if ended else 0)


# --- times


def test_a_retried_job_takes_its_pauses_too() -> None:
    statistics, job_class = statistics_of()
    for _ in range(400):
        statistics.record_attempts(job_class, 2)
        statistics.record_pause(job_class, 1, 30.0)
        statistics.record_event(job_class, RETRY, 0.0, 1.0)
    late = sum(duration > 37 for duration in durations(job_class, statistics.unit)) / DURATIONS
    assert late == pytest.approx(job_class.retries.chance(1, statistics.root.retries), abs=0.01)


# --- from the database


def stored(statistics: PlannerStatistics) -> tuple[tuple[float, ...] | None, ...]:
    """The durations of the class, and of one that was not seen."""
    rows = {name: values for name, _, values in statistics.unsaved_rows()}
    everything = rows.get(ALL_CLASSES, "")
    return tuple(durations_from(everything, rows.get(class_name(*key), ""), *key) for key in (CLASS, ("", "")))


def test_too_few_runs_give_no_durations() -> None:
    for runs, known in ((LEARNED_EVENTS - 1, False), (LEARNED_EVENTS, True)):
        assert [found is not None for found in stored(statistics_of(runs)[0])] == [known, known]
    assert stored(PlannerStatistics(1.0)) == (None, None)


@pytest.mark.parametrize("values", ["", "[]", "{}", '{"unit": "a"}', '{"unit": -1}', '{"unit": 1e999}', "[" * 10_000])
def test_malformed_statistics_are_ignored(values: str) -> None:
    assert durations_from(values, values, *CLASS) is None


def test_stored_statistics_give_the_durations_of_the_learned_ones() -> None:
    statistics, job_class = statistics_of()
    rows = {name: values for name, _, values in statistics.unsaved_rows()}
    root, own = rows.values()
    assert durations_from(root, own, *CLASS) == durations(job_class, statistics.unit)
