"""Jobs as values: what a planner reads of one, whole or as a start loads it."""

from relay.core.job import Job, PlannedJob, Progress

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
}


def whole(status: str | None) -> Job:
    return Job(external_id="1", progress=Progress(status=status), tracked_at=NOW - 9, **FIELDS)  # type: ignore[arg-type]


def planned(status: str | None) -> PlannedJob:
    return PlannedJob(status=status, **FIELDS)  # type: ignore[arg-type]


def test_a_planner_reads_the_same_of_a_job_whole_or_loaded() -> None:
    item = planned("running").item()
    assert item == whole("running").item()
    assert item is not None
    assert (item["status"], item["started_at"], item["finished_at"]) == ("running", NOW + 1, None)
    assert planned("running").open is whole("running").open is True


def test_before_the_first_observation_there_is_nothing_to_read() -> None:
    assert planned(None).item() is None
    assert whole(None).item() is None


def test_a_job_was_seen_when_it_was_looked_at_last_or_else_when_it_came() -> None:
    job = whole("queued")
    assert job.seen_at == NOW - 9
    looked_at = Job(uid="job_1", external_id="1", source="revor", account="default", last_polled_at=NOW)
    assert looked_at.seen_at == NOW
    assert planned("queued").seen_at == 0.0  # not read: long ago
