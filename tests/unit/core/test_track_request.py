"""Track requests for jobs that forwarded creates made."""

from relay.core.recipient import Recipient
from relay.core.records import Intent
from relay.core.tracking import TrackRequest

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
