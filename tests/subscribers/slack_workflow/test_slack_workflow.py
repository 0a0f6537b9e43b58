"""Slack's workflow triggers: the variables, the URLs that are known, and what each answer means."""

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

SINK = "https://hooks.slack.com/triggers/T0123456789/3141592653589/c6e6c0d868b3054ca0f4611a5dbadaf"
KIND = registry.kind_named("slack_workflow")


def variables(event: Event, **options: Any) -> dict[str, str]:
    subscription = Subscription(id="sub_1", sink=SINK, kind="slack_workflow", options=options)
    found: dict[str, str] = orjson.loads(KIND.render(event, subscription, RenderContext()).body)
    return found


def test_failed_job_sets_these_variables() -> None:
    metadata = {"recipient_name": "Alex", "deal": 42, "url": "https://crm.example/deals/42"}
    problem = Problem(code="connect_account_reconnect_required", message="reconnect first")
    assert variables(job_event(hint=RECONNECT, metadata=metadata, problem=problem)) == {
        "sentence": "LinkedIn outreach to Alex failed: the account needs reconnecting",
        "what_to_do": (
            "Next step: Reconnect it\nWhose turn: the owner of the sending account\n"
            "Sending again: safe once this is fixed, because nothing was done"
        ),
        "details": "Deal: 42",
        "type": "ai.revor.job.failed",
        "status": "failed",
        "job_id": "3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70",
        "channel": "linkedin",
        "account": "default",
        "group": "-",
        "error_code": "connect_account_reconnect_required",
        "time": "2026-05-20 10:00:08 UTC",
        "request_id": "-",
        "event_id": "evt_1",
        "link": "https://crm.example/deals/42",
    }


def test_variables_mention_nobody_where_a_workflow_puts_them_into_a_message() -> None:
    event = job_event(metadata={"deal": "<!channel> *pay* @here :tada: https://evil.example"})
    found = variables(event, metadata_keys=["deal"])
    deal = found["details"].split("\n")[0]
    assert deal.replace("\u2060", "") == "Deal: <!channel> *pay* @here :tada: https://evil.example"
    for mark in ("<!", "*p", "@h", ":t", "://"):
        assert mark not in deal


@pytest.mark.parametrize(
    ("status", "body", "verdict", "reason"),
    [
        (200, b'{"ok":true}', "delivered", "http_200"),
        (200, b"", "delivered", "http_200"),
        (200, b"[]", "delivered", "http_200"),
        (200, b'{"ok":false,"error":"invalid_workflow_input"}', "dead", "http_200: invalid_workflow_input"),
        (200, b'{"ok":false}', "dead", "http_200: not ok"),
        (400, b'{"ok":false,"error":"parameter_validation_failed"}', "dead", "http_400: parameter_validation_failed"),
        (400, b'{"error":"<b>"}', "dead", "http_400"),
        (404, b'{"ok":false,"error":"trigger_not_found"}', "disable", "http_404: trigger_not_found"),
        (401, b"", "disable", "http_401"),
        (403, b"", "disable", "http_403"),
        (410, b"", "disable", "http_410"),
        (413, b"", "dead", "http_413"),
        (429, b'{"ok":false,"error":"ratelimited"}', "retry", "http_429"),
        (500, b"", "retry", "http_500"),
    ],
)
def test_answers_of_triggers(status: int, body: bytes, verdict: str, reason: str) -> None:
    response = Response(started_at=0.0, duration_ms=1.0, status_code=status, excerpt=body)
    outcome = KIND.classify(response, 0.0)
    assert (outcome.verdict, outcome.reason) == (verdict, reason)
