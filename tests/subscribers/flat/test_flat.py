"""Catch hooks: the fields of the flat object, the URLs that are known, and what each answer means."""

from typing import Any

import orjson
import pytest

from relay.core.deliveries.delivery import Response
from relay.core.events.event import Event
from relay.core.jobs.job import Problem
from relay.core.subscriptions.subscription import Subscription
from subscribers import registry
from subscribers.base import RenderContext
from tests.support.job_events import RECONNECT, job_event

ZAPIER = "https://hooks.zapier.com/hooks/catch/123456/abcdef/"
KIND = registry.kind_named("flat")
ERROR = {"code": "connect_account_reconnect_required", "message": "reconnect first", "retryable": False}


def flat(event: Event, **settings: Any) -> dict[str, Any]:
    subscription = Subscription(id="sub_1", sink=ZAPIER, kind="flat", **settings)
    fields: dict[str, Any] = orjson.loads(KIND.render(event, subscription, RenderContext()).body)
    return fields


def test_failed_job_has_these_fields() -> None:
    event = job_event(
        hint=RECONNECT,
        metadata={"recipient_name": "Alex", "deal": 42, "paid": True, "url": "https://crm.example/deals/42"},
        problem=Problem(**ERROR),
        upstream={"id": "1", "recipient": {"address": "alex@example.com"}},
    )
    assert flat(event) == {
        "id": "evt_1",
        "type": "ai.revor.job.failed",
        "source": "https://revor.ai/api/v1/outreach/jobs",
        "subject": "3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70",
        "time": "2026-05-20T10:00:08.000Z",
        "status": "failed",
        "previous_status": "",
        "result_status": "",
        "channel": "linkedin",
        "action": "outreach.dispatch",
        "account": "default",
        "group": "",
        "sequence": 1,
        "job_id": "3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70",
        "sentence": "LinkedIn outreach to Alex failed: the account needs reconnecting",
        "link": "https://crm.example/deals/42",
        "connect_account_id": "",
        "request_id": "",
        "error_code": "connect_account_reconnect_required",
        "error_message": "reconnect first",
        "hint_meaning": "The account needs reconnecting",
        "hint_fix": "Reconnect it",
        "hint_who": "account owner",
        "hint_repeat": "safe",
        "metadata_recipient_name": "Alex",
        "metadata_deal": 42,
        "metadata_paid": True,
        "metadata_url": "https://crm.example/deals/42",
    }


def test_metadata_of_any_shape_becomes_scalars() -> None:
    metadata = {
        "deal": {"id": 7, "stage": {"name": "won", "more": {"deep": [1]}}},
        "tags": ["a", 1, None, True],
        "rows": [{"a": 1}],
        "none": None,
        "big": 12345678901234567890,
        "long": "x" * 5000,
        "a b": 1,
        "a-b": 2,
        "größe": "L",
        "!": "odd",
    }
    fields = {name: value for name, value in flat(job_event(metadata=metadata)).items() if name.startswith("metadata_")}
    assert fields == {
        "metadata_deal_id": 7,
        "metadata_deal_stage_name": "won",
        "metadata_deal_stage_more": '{"deep":[1]}',
        "metadata_tags": "a, 1, , True",
        "metadata_rows": '[{"a":1}]',
        "metadata_none": "",
        "metadata_big": "12345678901234567890",
        "metadata_long": "x" * 1999 + "…",
        "metadata_a_b": 1,
        "metadata_a_b_2": 2,
        "metadata_größe": "L",
        "metadata_field": "odd",
    }


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (200, b'{"status": "success"}', "delivered"),  # Zapier
        (200, b"Accepted", "delivered"),  # Make
        (200, b'{"message": "Workflow was started"}', "delivered"),  # n8n
        (400, b"Queue is full.", "retry"),  # Make
        (404, b'{"code": 404, "message": "The requested webhook is not registered."}', "retry"),  # n8n
        (410, b"", "disable"),  # Zapier and Make
        (429, b"", "retry"),
        (500, b"", "retry"),
    ],
)
def test_answers_of_catch_hooks(status: int, body: bytes, verdict: str) -> None:
    response = Response(started_at=0.0, duration_ms=1.0, status_code=status, excerpt=body)
    assert KIND.classify(response, 0.0).verdict == verdict
