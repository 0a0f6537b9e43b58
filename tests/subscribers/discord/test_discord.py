"""Discord: what an embed has, which URLs are taken, what each answer means."""

from typing import Any

import orjson
import pytest

from relay.core.deliveries.delivery import Response
from relay.core.events.event import Hint
from relay.core.subscriptions.subscription import Subscription
from subscribers import registry
from subscribers.base import RenderContext
from tests.support.job_events import RECONNECT, job_event

SINK = "https://discord.com/api/webhooks/223704706495545344/3d89bb7572e0fb30d812"
KIND = registry.kind_named("discord")


def embed(event: Any, context: RenderContext | None = None, **options: Any) -> dict[str, Any]:
    subscription = Subscription(id="sub_1", sink=SINK, kind="discord", options=options)
    payload = orjson.loads(KIND.render(event, subscription, context or RenderContext()).body)
    shown: dict[str, Any] = payload["embeds"][0]
    return shown


def test_embed_has_the_sentence_link_advice_metadata_place_and_ids() -> None:
    metadata = {"recipient_name": "Alex", "deal": "Example Ltd", "url": "https://crm.example/deals/(42)"}
    shown = embed(job_event(hint=RECONNECT, metadata=metadata))
    assert shown["title"] == "LinkedIn outreach to Alex failed: the account needs reconnecting"
    assert shown["description"] == "[Open in crm.example](https://crm.example/deals/%2842%29)"
    assert [(field["name"], field["value"]) for field in shown["fields"]] == [
        ("Next step", "Reconnect it"),
        ("Whose turn", "the owner of the sending account"),
        ("Sending again", "safe once this is fixed, because nothing was done"),
        ("Deal", "Example Ltd"),
    ]
    assert shown["footer"]["text"] == (
        "Job 3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70 · Time 2026-05-20 10:00:08 UTC · Event evt_1"
    )


@pytest.mark.parametrize("filler", ["😀", "*", "\\", "&amp;", "x "])
def test_embed_keeps_the_limits_of_discord(filler: str) -> None:
    text = filler * 3000
    hint = Hint(meaning=text, fix=text, who=text, repeat="safe")
    metadata = {f"{filler * 50}{n}": text for n in range(5)}
    event = job_event(hint=hint, metadata=metadata, channel=text, account=text, job_id=text[:200])
    shown = embed(event, RenderContext(account_names={text: text}))
    fields = [text for field in shown["fields"] for text in (field["name"], field["value"])]
    texts = [shown["title"], shown.get("description", ""), shown["footer"]["text"], *fields]
    assert sum(len(text.encode("utf-16-le")) // 2 for text in texts) <= 6000


def limited(**answer: Any) -> bytes:
    return orjson.dumps({"message": "You are being rate limited.", "global": False, **answer})


@pytest.mark.parametrize(
    ("status", "body", "headers", "verdict", "reason", "pause"),
    [
        (200, b'{"id": "1"}', {}, "delivered", "http_200", None),
        (204, b"", {}, "delivered", "http_204", None),
        (400, b'{"message": "Invalid Form Body", "code": 50035}', {}, "dead", "http_400: 50035", None),
        (400, b'{"embeds": ["0"]}', {}, "dead", "http_400", None),
        (400, b'{"code": true}', {}, "dead", "http_400", None),
        (401, b'{"message": "Invalid Webhook Token", "code": 50027}', {}, "disable", "http_401: 50027", None),
        (403, b"<html>", {}, "disable", "http_403", None),
        (404, b'{"message": "Unknown Webhook", "code": 10015}', {}, "disable", "http_404: 10015", None),
        (410, b"[1]", {}, "disable", "http_410", None),
        (413, b"", {}, "dead", "http_413", None),
        (429, limited(retry_after=64.57), {"Retry-After": "65"}, "retry", "http_429", 65.0),
        (429, limited(retry_after=0.25), {}, "retry", "http_429", 0.25),
        (429, limited(retry_after=9), {"Retry-After": "soon"}, "retry", "http_429", 9.0),
        (429, limited(retry_after=1e300), {}, "retry", "http_429", 86_400.0),
        (429, b'{"retry_after": 1%s}' % (b"0" * 300), {}, "retry", "http_429", 86_400.0),
        (429, limited(retry_after=-1), {}, "retry", "http_429", None),
        (429, limited(retry_after=True), {}, "retry", "http_429", None),
        (429, limited(retry_after="5"), {}, "retry", "http_429", None),
        (429, b"error code: 1015", {"Retry-After": "600"}, "retry", "http_429", 600.0),
        (500, b"", {}, "retry", "http_500", None),
        (502, b"<html>", {}, "retry", "http_502", None),
    ],
)  # fmt: skip
def test_answers_of_discord(
    status: int, body: bytes, headers: dict[str, str], verdict: str, reason: str, pause: float | None
) -> None:
    response = Response(
        started_at=0.0, duration_ms=1.0, status_code=status, headers=tuple(headers.items()), excerpt=body
    )
    outcome = KIND.classify(response, 0.0)
    assert (outcome.verdict, outcome.reason, outcome.retry_after_seconds) == (verdict, reason, pause)
