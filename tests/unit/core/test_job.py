"""Jobs as values: what a planner reads of one, whole or as a start loads it."""

import pytest

from relay.core.jobs.job import (
    Advance,
    Job,
    Observation,
    PlannedJob,
    Problem,
    Progress,
    deadline_after,
    deadline_of,
    short_type,
)

NOW = 1_779_271_200.0
FIELDS = {
    "source": "revor",
    "account": "default",
    "uid": "job_1",
    "action": "outreach.dispatch",
    "channel": "email",
    "scheduled_at": NOW,
    "started_at": NOW + 1,
    "next_attempt_at": NOW + 2,
    "attempt_count": 1,
    "next_poll_at": NOW + 3,
    "poll_step": 4,
    "weight": 0.25,
    "spacing_seconds": 60.0,
    "resource": "websets",
}


def whole(status: str | None) -> Job:
    return Job(external_id="1", progress=Progress(status=status), tracked_at=NOW - 9, **FIELDS)  # type: ignore[arg-type]


def planned(status: str | None) -> PlannedJob:
    return PlannedJob(status=status, **FIELDS)  # type: ignore[arg-type]


def test_planner_reads_the_same_fields_of_a_job_and_a_planned_job() -> None:
    item = planned("running").item()
    assert item == whole("running").item()
    assert item is not None
    assert (item["status"], item["started_at"], item["finished_at"]) == ("running", NOW + 1, None)
    assert item["action"] == "websets:outreach.dispatch", "each resource has classes of its own"
    assert planned("running").open is whole("running").open is True


def test_job_was_last_seen_at_its_last_poll_or_registration() -> None:
    job = whole("queued")
    assert job.seen_at == NOW - 9
    polled_at = Job(uid="job_1", external_id="1", source="revor", account="default", last_polled_at=NOW)
    assert polled_at.seen_at == NOW
    assert planned("queued").seen_at == 0.0  # not read: long ago


DAY = 86_400.0


@pytest.mark.parametrize(
    ("scheduled_at", "deadline_at"),
    [(None, NOW + 60), (NOW - DAY, NOW + 60), (NOW, NOW + 60), (NOW + DAY, NOW + DAY + 60)],
)
def test_a_deadline_counts_from_the_schedule_where_that_is_later_than_the_tracking(
    scheduled_at: float | None, deadline_at: float
) -> None:
    assert deadline_of(NOW, scheduled_at, 60.0) == deadline_at


@pytest.mark.parametrize(
    ("counted_from", "before", "scheduled_at", "now_counted_from"),
    [
        (NOW, None, None, NOW),
        (NOW, None, NOW + DAY, NOW + DAY),
        (NOW, None, NOW - DAY, NOW),
        (NOW + DAY, NOW + DAY, NOW + DAY, NOW + DAY),
        (NOW + DAY, NOW + DAY, None, NOW + DAY),
        (NOW + DAY, NOW + DAY, NOW + 2 * DAY, NOW + 2 * DAY),
        (NOW + DAY, NOW + DAY, NOW + DAY / 2, NOW + DAY / 2),
        (NOW + DAY, NOW + DAY, NOW - DAY, NOW),
        # tracked again a day later, when its schedule had passed
        (NOW + DAY, NOW - DAY, NOW - DAY / 2, NOW + DAY),
        (NOW + DAY, NOW - DAY, NOW + 2 * DAY, NOW + 2 * DAY),
    ],
)
def test_a_deadline_moves_with_the_schedule_that_a_poll_has_shown(
    counted_from: float, before: float | None, scheduled_at: float | None, now_counted_from: float
) -> None:
    moved = deadline_after(
        deadline_at=counted_from + 60.1, seconds=60.1, tracked_at=NOW, before=before, scheduled_at=scheduled_at
    )
    assert moved == now_counted_from + 60.1


@pytest.mark.parametrize(
    ("status", "problem", "code"),
    [
        ("failed", Problem(code="insufficient_credits", message=""), "insufficient_credits"),
        ("failed", None, "unknown"),
        ("cancelled", Problem(code="insufficient_credits", message=""), None),
        ("succeeded", None, None),
    ],
)
def test_only_a_failed_job_has_an_error_code_and_each_has_one(
    status: str, problem: Problem | None, code: str | None
) -> None:
    assert Observation(status=status, observed_at=NOW, problem=problem).error_code == code


@pytest.mark.parametrize(
    ("advance", "status", "left"),
    [
        (Advance(percent=40), "running", 60.0),
        (Advance(percent=40), "queued", None),
        (Advance(position=3), "queued", 3.0),
        (Advance(position=3), "running", None),
        (Advance(percent=40), "succeeded", None),
        (Advance(position=3), "unheard of", None),
        (Advance(done=7), "running", None),
    ],
)
def test_planner_reads_what_is_left_of_an_open_job(advance: Advance, status: str, left: float | None) -> None:
    assert Observation(status=status, observed_at=NOW, advance=advance).item()["left"] == left


def test_planner_reads_nothing_of_progress_where_there_is_none() -> None:
    assert "left" not in Observation(status="running", observed_at=NOW).item()


@pytest.mark.parametrize(
    ("type", "short"),
    [
        *(("ai.revor.job.failed", "failed"), ("com.acme.render.job.queued", "queued"), ("com.acme.job.paid",) * 2),
        *((name, name) for name in ("ai.revor.webset.completed", "relay.source.down", "failed")),
    ],
)
def test_only_the_type_of_a_job_is_shortened(type: str, short: str) -> None:
    assert short_type(type) == short
