"""Microsoft Teams: what a card has, which URLs are taken, what each answer means."""

from typing import Any

import orjson
import pytest

from relay.core.deliveries.delivery import Response
from relay.core.events.event import Hint
from relay.core.subscriptions.subscription import Subscription
from subscribers import registry
from subscribers.base import RenderContext
from tests.support.job_events import RECONNECT, job_event

WORKFLOW = "/workflows/0123456789abcdef/triggers/manual/paths/invoke"
QUERY = "?api-version=1&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=secret"
SINK = f"https://0123.4a.environment.api.powerplatform.com:443/powerautomate/automations/direct{WORKFLOW}{QUERY}"
KIND = registry.kind_named("teams")


def card(event: Any, context: RenderContext | None = None, **options: Any) -> dict[str, Any]:
    subscription = Subscription(id="sub_1", sink=SINK, kind="teams", options=options)
    request = KIND.render(event, subscription, context or RenderContext())
    assert request.url == SINK
    assert dict(request.headers) == {"Content-Type": "application/json; charset=utf-8"}
    content: dict[str, Any] = orjson.loads(request.body)["attachments"][0]["content"]
    return content


def test_card_has_the_sentence_advice_metadata_place_and_ids() -> None:
    metadata = {"recipient_name": "Alex", "deal": "Example Ltd", "url": "https://crm.example/deals/42"}
    shown = card(job_event(hint=RECONNECT, metadata=metadata))
    box, facts, place, ids = shown["body"]
    assert (box["style"], box["items"][0]["weight"]) == ("attention", "Bolder")
    assert box["items"][0]["text"] == "LinkedIn outreach to Alex failed: the account needs reconnecting"
    assert [(fact["title"], fact["value"]) for fact in facts["facts"]] == [
        ("Next step", "Reconnect it"),
        ("Whose turn", "the owner of the sending account"),
        ("Sending again", "safe once this is fixed, because nothing was done"),
        ("Deal", "Example Ltd"),
    ]
    assert place["text"] == "Job 3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70 · Time 2026-05-20 10:00:08 UTC"
    assert ids["text"] == "Event evt\\_1"
    open_deal = {"type": "Action.OpenUrl", "title": "Open in crm.example", "url": "https://crm.example/deals/42"}
    assert shown["actions"] == [open_deal]


@pytest.mark.parametrize("filler", ["😀", "*", "\\", "&amp;", "x"])
def test_message_stays_below_28_kb(filler: str) -> None:
    text = filler * 3000
    hint = Hint(meaning=text, fix=text, who=text, repeat="safe")
    metadata = {"recipient_name": text[:80], **{f"{filler * 50}{n}": text for n in range(5)}}
    event = job_event(hint=hint, metadata=metadata, channel=text, account=text, job_id=text[:200])
    context = RenderContext(account_names={text: text})
    subscription = Subscription(id="sub_1", sink=SINK, kind="teams")
    assert len(KIND.render(event, subscription, context).body) <= 28_000


def error(code: object) -> bytes:
    return orjson.dumps({"error": {"code": code, "message": "…"}})


@pytest.mark.parametrize(
    ("status", "body", "headers", "verdict", "reason", "pause"),
    [
        (202, b"", {}, "delivered", "http_202", None),
        (200, b"1", {}, "delivered", "http_200", None),
        (400, error("TriggerInputSchemaMismatch"), {}, "dead", "http_400: TriggerInputSchemaMismatch", None),
        (400, error("WorkflowTriggerIsNotEnabled"), {}, "disable", "http_400: WorkflowTriggerIsNotEnabled", None),
        (400, error("<b>"), {}, "dead", "http_400", None),
        (400, error(7), {}, "dead", "http_400", None),
        (400, b"[]", {}, "dead", "http_400", None),
        (400, b"{", {}, "dead", "http_400", None),
        (401, error("DirectApiAuthorizationRequired"), {}, "disable", "http_401: DirectApiAuthorizationRequired", None),
        (403, b"", {}, "disable", "http_403", None),
        (404, error("WorkflowNotFound"), {}, "disable", "http_404: WorkflowNotFound", None),
        (410, b"", {}, "disable", "http_410", None),
        (413, b"", {}, "dead", "http_413", None),
        (429, error("WorkflowTriggerRateLimit"), {"Retry-After": "30"}, "retry", "http_429", 30.0),
        (429, b"", {}, "retry", "http_429", None),
        (500, error("InternalServerError"), {}, "retry", "http_500", None),
        (502, error("NoResponse"), {}, "retry", "http_502", None),
        (503, b"", {"Retry-After": "5"}, "retry", "http_503", 5.0),
        (302, b"", {}, "retry", "http_302", None),
    ],
)
def test_answers_of_workflows(
    status: int, body: bytes, headers: dict[str, str], verdict: str, reason: str, pause: float | None
) -> None:
    response = Response(
        started_at=0.0, duration_ms=1.0, status_code=status, headers=tuple(headers.items()), excerpt=body
    )
    outcome = KIND.classify(response, 0.0)
    assert (outcome.verdict, outcome.reason, outcome.retry_after_seconds) == (verdict, reason, pause)
