"""When the progress of an open job is an event: another stage at once, any other change at most once a minute."""

from typing import Any

import pytest

from relay.core.events.event import from_transition
from relay.core.jobs.job import (
    NOT_SEEN,
    Advance,
    Job,
    Observation,
    Progress,
    detect,
    mark_not_found,
    mark_overdue,
)
from relay.core.jsontext import loads
from tests.support.job_events import origin_of

NOW = 1779271208.0
JOB = Job(uid="job_1", external_id="1", source="s", account="default")
WEBSETS = origin_of("ai.revor.webset", succeeded_as="completed", tells_progress=True)


def seen(at: float, *, status: str = "running", is_told: bool = True, **advance: Any) -> Observation:
    found = Advance(is_told=is_told, **advance) if advance else None
    return Observation(status=status, observed_at=NOW + at, advance=found, upstream={"id": "1"})


def told(*polls: Observation, known: Progress = NOT_SEEN) -> list[tuple[float, str]]:
    """The seconds at which progress was told, with the kinds of the other transitions."""
    found = []
    for poll in polls:
        transitions, known = detect(known, poll)
        found += [(one.detected_at - NOW, one.kind) for one in transitions if one.kind != "running"]
        assert detect(known, poll) == ((), known), "the same observation is no news"
    return found


HALF = {"done": 25, "total": 50, "percent": 50, "stage": "verify"}


@pytest.mark.parametrize(
    ("polls", "times"),
    [
        ([seen(0, stage="search"), seen(1, stage="verify"), seen(2, stage="search")], [0, 1, 2]),
        ([seen(0, percent=1), seen(59, percent=2), seen(60, percent=2)], [0, 60]),
        ([seen(0, percent=1), seen(600, percent=1)], [0]),
        ([seen(0, percent=50), seen(60, percent=20)], [0, 60]),
        ([seen(0, **HALF), seen(5, **{**HALF, "done": 26}), seen(9, **{**HALF, "stage": "rank"})], [0, 9]),
        ([seen(0, **HALF), seen(70, **{**HALF, "total": 60})], [0, 70]),
        ([seen(0, stage="search"), seen(1, percent=3), seen(2, stage="search")], [0]),
        ([seen(0), seen(1, stage="search"), seen(2)], [1]),
        ([seen(0, position=3), seen(70, position=2)], []),
        ([seen(0, percent=1), seen(-3600, percent=2)], [0, -3600]),
        ([seen(0, percent=1, is_told=False), seen(99, stage="x", is_told=False)], []),
    ],
)
def test_progress_is_told_when_it_is_due(polls: list[Observation], times: list[float]) -> None:
    assert told(*polls) == [(at, "progress") for at in times]


def test_end_says_all() -> None:
    assert told(seen(0, percent=1), seen(300, status="succeeded", percent=100)) == [(0, "progress"), (300, "succeeded")]
    assert told(seen(0, status="failed", percent=9)) == [(0, "failed")]


def test_progress_comes_behind_the_status_and_leaves_it() -> None:
    transitions, progress = detect(NOT_SEEN, seen(0, **HALF))
    assert [(one.kind, one.sequence, one.status, one.previous_status) for one in transitions] == [
        ("running", 1, "running", None),
        ("progress", 2, "running", "running"),
    ]
    assert (progress.phase, progress.status, progress.sequence) == ("running", "running", 2)
    (end,), progress = detect(progress, seen(5, status="succeeded"))
    assert (end.sequence, end.previous_status) == (3, "running")


@pytest.mark.parametrize("mark", [mark_overdue, mark_not_found])
def test_what_was_told_outlives_other_transitions(mark: Any) -> None:
    _, progress = detect(NOT_SEEN, seen(0, **HALF))
    _, marked = mark(progress, NOW + 1)
    assert marked.told == progress.told


def test_status_that_the_relay_does_not_know_has_progress_too() -> None:
    transitions, progress = detect(NOT_SEEN, seen(0, status="ranking", stage="rank"))
    assert [(one.kind, one.status) for one in transitions] == [("status_unknown", "ranking"), ("progress", "ranking")]
    assert detect(progress, seen(1, status="ranking", stage="rank"))[0] == ()


def test_event_has_the_progress_and_no_other_has() -> None:
    observation = seen(0, **HALF)
    bodies = [
        from_transition("evt_1", JOB, one, WEBSETS, seen=observation).body for one in detect(NOT_SEEN, observation)[0]
    ]
    running, progress = [loads(body) for body in bodies]
    assert progress["type"] == "ai.revor.webset.progress"
    assert progress["data"]["progress"] == {"percent": 50, "done": 25, "total": 50, "stage": "verify"}
    assert "progress" not in running["data"]
