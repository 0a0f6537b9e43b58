"""What one poll teaches: what happened since the state was last known, and for how long nothing did."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.planner.inspection import NEW, RETRY, RUN, SCHEDULED
from relay.core.planner.poll_queues import PARKED, RUNNING, UNSEEN, WAITING, PlannedJob
from relay.core.planner.polls import Reading, learn
from relay.core.planner.statistics import ClassStatistics, PlannerStatistics

NOW = 1_779_271_200.0


class Reported(PlannerStatistics):
    """A statistics that also keeps its input, ages unrounded: what, of which kind, since when, at what age."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.learning: list[tuple[str, int, float, float]] = []

    def record_survival(self, job_class: ClassStatistics, kind: int, since: float, age: float) -> None:
        super().record_survival(job_class, kind, since, age)
        self.learning.append(("survived", kind, since, age))

    def record_event(self, job_class: ClassStatistics, kind: int, since: float, age: float) -> None:
        super().record_event(job_class, kind, since, age)
        self.learning.append(("happened", kind, since, age))

    def record_event_between(self, job_class: ClassStatistics, kind: int, since: float, age: float) -> None:
        super().record_event_between(job_class, kind, since, age)
        self.learning.append(("between", kind, since, age))


def job_of(
    statistics: PlannerStatistics, phase: int, *, anchor: float, seen: float, kind: int = SCHEDULED
) -> PlannedJob:
    job = PlannedJob("a", 60.0, NOW + seen)
    job.phase, job.kind, job.anchor, job.statistics = phase, kind, NOW + anchor, statistics.of_class("send", "email")
    return job


def reading(status: str, **times: float) -> Reading:
    """An item; its times count from NOW."""
    return Reading(
        known=True,
        terminal=status in ("succeeded", "cancelled"),
        cancelled=status == "cancelled",
        running=status == "running",
        **{name: NOW + at for name, at in times.items()},  # type: ignore[arg-type]
    )


def taught(
    phase: int, found: Reading, *, at: float, anchor: float = 0.0, seen: float = 0.0, kind: int = SCHEDULED
) -> list[tuple[str, int, float, float]]:
    statistics = Reported()
    learn(statistics, job_of(statistics, phase, anchor=anchor, seen=seen, kind=kind), found, NOW + at)
    return statistics.learning


# --- jobs that wait


def test_a_job_that_still_waits_was_at_risk_since_the_last_poll() -> None:
    assert taught(WAITING, reading("queued"), at=9, anchor=2, seen=5) == [("survived", SCHEDULED, 3, 7)]


def test_a_start_is_learned_and_the_run_until_now() -> None:
    found = reading("running", started_at=7)
    assert taught(WAITING, found, at=9, anchor=2, seen=5) == [("happened", SCHEDULED, 3, 5), ("survived", RUN, 0, 2)]


def test_a_start_and_an_end_since_the_last_poll_are_both_learned() -> None:
    found = reading("succeeded", started_at=7, finished_at=12)
    assert taught(WAITING, found, at=20, anchor=2, seen=5) == [("happened", SCHEDULED, 3, 5), ("happened", RUN, 0, 5)]


def test_an_attempt_that_failed_between_two_polls_teaches_its_start_and_about_when_it_ended() -> None:
    found = reading("queued", started_at=7, next_attempt_at=60)
    assert taught(WAITING, found, at=20, anchor=2, seen=5) == [("happened", SCHEDULED, 3, 5), ("between", RUN, 0, 13)]
    found = reading("queued", started_at=7, next_attempt_at=11)
    assert taught(WAITING, found, at=20, anchor=2, seen=5) == [("happened", SCHEDULED, 3, 5), ("between", RUN, 0, 4)]


# --- jobs that run


def test_an_end_is_learned_with_the_time_at_risk_before_it() -> None:
    assert taught(RUNNING, reading("succeeded", started_at=0, finished_at=8), at=9, seen=5) == [("happened", RUN, 5, 8)]


def test_another_run_than_the_one_last_seen_teaches_the_end_of_that_one_too() -> None:
    found = reading("running", started_at=30)
    assert taught(RUNNING, found, at=33, seen=5) == [("between", RUN, 5, 30), ("survived", RUN, 0, 3)]
    found = reading("succeeded", started_at=30, finished_at=32)
    assert taught(RUNNING, found, at=33, seen=5) == [("between", RUN, 5, 30), ("happened", RUN, 0, 2)]


# --- jobs that were not known


def test_of_a_job_never_seen_only_what_came_after_its_registration_is_learned() -> None:
    """A job that ended before its first poll would make runs seem short, one that began long before it long."""
    assert taught(UNSEEN, reading("running", started_at=-20), at=9, seen=5) == [("survived", RUN, 25, 29)]
    found = reading("succeeded", started_at=-20, finished_at=7)
    assert taught(UNSEEN, found, at=9, seen=5) == [("happened", RUN, 25, 27)]
    assert taught(UNSEEN, reading("succeeded", started_at=-20, finished_at=-2), at=9, seen=5) == []
    assert taught(UNSEEN, reading("succeeded", started_at=6, finished_at=7), at=9, seen=5) == [("happened", RUN, 0, 1)]


# --- polls that tell nothing new


@pytest.mark.parametrize("phase", [UNSEEN, WAITING, PARKED, RUNNING])
@pytest.mark.parametrize("at", [5, 4, -100])
def test_a_state_that_was_known_already_is_not_learned_again(phase: int, at: float) -> None:
    assert taught(phase, reading("succeeded", started_at=1, finished_at=2), at=at, seen=5) == []


times = st.none() | st.floats(-100, 200)


@given(
    phase=st.sampled_from([UNSEEN, WAITING, PARKED, RUNNING]),
    kind=st.sampled_from([SCHEDULED, NEW, RETRY]),
    anchor=st.floats(-50, 150),
    seen=st.floats(-50, 100),
    at=st.floats(-50, 150),
    status=st.sampled_from(["queued", "running", "succeeded"]),
    found=st.fixed_dictionaries(dict.fromkeys(("scheduled_at", "started_at", "finished_at", "next_attempt_at"), times)),
)
def test_a_poll_teaches_at_most_the_elapsed_time_one_end_and_one_start(
    phase: int, kind: int, anchor: float, seen: float, at: float, status: str, found: dict[str, Any]
) -> None:
    statistics = Reported()
    job = job_of(statistics, phase, anchor=anchor, seen=seen, kind=kind)
    known = {name: value for name, value in found.items() if value is not None}
    learn(statistics, job, reading(status, **known), NOW + at)
    assert len(statistics.learning) <= 2
    lived = sum(max(age - since, 0.0) for _, _, since, age in statistics.learning)
    assert lived <= max(at - seen, 0.0) + 1e-6
    assert all(age <= max(at - anchor, at - known.get("started_at", at), 0.0) + 1e-6 for *_, age in statistics.learning)
    assert (job.seen, job.phase, job.anchor) == (NOW + seen, phase, NOW + anchor)


# --- cancellations of jobs that wait


@pytest.mark.parametrize(
    ("found", "changes"),
    [
        (reading("queued"), 0),
        (reading("cancelled"), 1),
        (reading("cancelled", finished_at=70), 1),
        (reading("succeeded"), 0),
        (reading("succeeded", finished_at=70), 0),
        (reading("succeeded", finished_at=30), 1),
        (reading("scheduled", scheduled_at=40), 1),
        (reading("scheduled", scheduled_at=90), 0),
    ],
)
def test_a_cancellation_or_an_earlier_time_is_a_change_and_an_end_of_a_run_is_none(
    found: Reading, changes: int
) -> None:
    statistics = Reported()
    job = job_of(statistics, WAITING, anchor=50.0, seen=20.0)
    learn(statistics, job, found, NOW + 80)
    job_class = statistics.of_class("send", "email")
    assert job_class.changes == statistics.root.changes == changes
    waited = 60 if found.finished_at is None else found.finished_at - NOW - 20
    assert job_class.waited == pytest.approx(waited * (0.99 if changes else 1))
