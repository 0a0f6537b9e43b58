"""Track requests for jobs that forwarded creates made."""

from dataclasses import replace

from relay.core.jobs.job import Observation, Progress, Recipient
from relay.core.polling.tracking import Registration, TrackRequest
from relay.core.records import Intent

CREATE = Intent(
    id="int_1",
    source="revor",
    account="acme",
    path="/api/v1/outreach/dispatches",
    body_digest="0" * 64,
    created_at=1.0,
    metadata={"deal": 42},
    callback_url="https://crm.example/hooks",
    callback_types=("succeeded",),
    request={"metadata": {"mine": 1}},
    connect_account_id="acc_1",
    group="q4",
    group_size=500,
    recipient=Recipient(address="kim@example.com"),
)


def test_job_of_a_create_gets_what_the_create_attached() -> None:
    request = TrackRequest.of_create(CREATE, "job", spacing_seconds=60.0, intent=CREATE)
    assert request == TrackRequest(
        external_id="job",
        source="revor",
        account="acme",
        metadata={"deal": 42},
        callback_url="https://crm.example/hooks",
        callback_types=("succeeded",),
        request={"metadata": {"mine": 1}},
        connect_account_id="acc_1",
        group="q4",
        group_size=500,
        recipient=Recipient(address="kim@example.com"),
        spacing_seconds=60.0,
        intent=CREATE,
    )


def test_only_a_request_after_a_create_follows_one() -> None:
    asked = TrackRequest(external_id="job", source="revor", account="acme")
    assert not asked.follows_create
    assert asked._replace(intent=CREATE).follows_create
    assert asked._replace(resolves=CREATE).follows_create


WHOLE = TrackRequest.of_create(CREATE, "job", intent=CREATE, caller="crm")


def test_each_part_is_left_out_alone_and_then_all_of_them() -> None:
    parts = ("callback", "group", "metadata", "recipient", "details")
    assert list(WHOLE.reductions()) == [*((part,) for part in parts), parts]
    assert list(TrackRequest(external_id="job", source="revor", account="acme").reductions()) == []
    assert list(TrackRequest(external_id="job", source="revor", account="acme", metadata={}).reductions()) == [
        ("metadata",)
    ]


def test_request_without_a_part_keeps_the_others() -> None:
    assert WHOLE.without(("group",)) == WHOLE._replace(group=None, group_size=None)
    assert WHOLE.without(("callback", "metadata")) == WHOLE._replace(
        callback_url=None, callback_types=None, metadata=None
    )
    *_, everything = WHOLE.reductions()
    assert WHOLE.without(everything) == TrackRequest(
        external_id="job", source="revor", account="acme", intent=CREATE, caller="crm"
    )


def test_a_registration_begins_the_job_of_its_request() -> None:
    job = WHOLE.job("job_1", 10.0, 60.0, Progress())
    assert (job.uid, job.external_id, job.group, job.group_round) == ("job_1", "job", "q4", 1)
    assert (job.deadline_seconds, job.weight, job.metadata) == (60.0, 1.0, {"deal": 42})
    assert Registration(job=job, request=WHOLE).key == job.key == ("job", "revor", "acme", "")


def test_a_registration_of_another_resource_is_of_another_job() -> None:
    request = TrackRequest.of_create(replace(CREATE, resource="websets"), "job")
    job = request.job("job_1", 10.0, 60.0, Progress())
    assert job.key == request.key == ("job", "revor", "acme", "websets")


def test_a_job_begins_as_its_answer_shows() -> None:
    seen = Observation(
        status="scheduled",
        observed_at=10.0,
        channel="email",
        scheduled_at=30.0,
        attempt_count=1,
        upstream={"id": "job"},
    )
    request = WHOLE._replace(seen=seen, deadline_seconds=5.0, priority="high")
    job = request.job("job_1", 10.0, 60.0, Progress())
    assert (job.channel, job.scheduled_at, job.attempt_count, job.upstream) == ("email", 30.0, 1, {"id": "job"})
    assert (job.deadline_at, job.deadline_seconds, job.weight) == (35.0, 5.0, 4.0)
    assert job.connect_account_id == "acc_1", "the create's, as the item has none"
