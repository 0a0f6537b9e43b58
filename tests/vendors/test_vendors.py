"""The stand-ins of services refuse what the services refuse, and take what the relay sends."""

import copy
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.core.subscriptions.subscription import PROTOCOLS, Subscription
from subscribers import registry
from subscribers.base import RenderContext
from tests.subscribers.test_conformance import CONTEXT, NOW, TYPES, sample
from tests.support.hostile_texts import TEXTS, events_with
from tests.support.scale import scaled
from tests.vendors.endpoint import Answer, Endpoint, Sent
from tests.vendors.slack import read_message
from tests.vendors.stand_ins import CRMS, VENDORS

KINDS = tuple(VENDORS)
JSON = {"content-type": "application/json"}


def sent(kind: str, body: bytes, headers: Mapping[str, str] = JSON, query: str = "wait=true") -> Sent:
    return Sent("POST", query, headers, body)


def rendered(kind: str, type: str = "ai.revor.job.failed") -> OutboundRequest:
    subscription = Subscription(id="sub_1", sink="https://hooks.example/x", kind=kind)
    return registry.kind_named(kind).render(sample(type), subscription, CONTEXT)


def as_sent(request: OutboundRequest) -> Sent:
    headers = {name.lower(): value for name, value in request.headers}
    return Sent(request.method, request.url.partition("?")[2], headers, request.body)


def response(answer: Answer) -> Response:
    return Response(
        started_at=NOW, duration_ms=1.0, status_code=answer.status, headers=answer.headers, excerpt=answer.body
    )


def document(kind: str) -> Any:
    return orjson.loads(rendered(kind).body)


def answer_to(kind: str, changed: Any) -> Answer:
    return VENDORS[kind].accept(sent(kind, orjson.dumps(changed)))[0]


def put(document: Any, pointer: str, value: Any) -> Any:
    """The document with another value at a pointer; `...` removes it."""
    changed = copy.deepcopy(document)
    *steps, last = pointer.strip("/").split("/")
    holder = changed
    for step in steps:
        holder = holder[int(step)] if isinstance(holder, list) else holder[step]
    if value is ...:
        del holder[last]
    elif isinstance(holder, list):
        holder.insert(int(last), value)
    else:
        holder[last] = value
    return changed


def test_there_is_a_stand_in_for_every_kind_with_a_format_of_its_own() -> None:
    assert set(VENDORS) | set(CRMS) == set(registry.kinds()) - {"webhook", *PROTOCOLS}


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_type_is_accepted_and_mentions_nobody(kind: str, type: str) -> None:
    endpoint = Endpoint(VENDORS[kind])
    answer = endpoint.answer(as_sent(rendered(kind, type)))
    assert endpoint.refused == []
    assert registry.kind_named(kind).classify(response(answer), NOW).verdict == "delivered"
    [message] = endpoint.messages
    assert message.title
    assert endpoint.mentioned == []


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_texts_are_accepted_and_mention_nobody(kind: str) -> None:
    endpoint = Endpoint(VENDORS[kind], clock=iter(range(10**9)).__next__)
    subscription = Subscription(id="sub_1", sink="https://hooks.example/x", kind=kind)
    render = registry.kind_named(kind).render
    for turn, text in enumerate(TEXTS[:: scaled(9, 1)]):
        context = RenderContext(account_names={"emea": text, text: text}, public_url="https://relay.example")
        for event in events_with(text, part=turn, parts=scaled(14, 1)):
            endpoint.answer(as_sent(render(event, subscription, context)))
    assert [answer.body for answer in endpoint.refused] == []
    assert endpoint.mentioned == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "headers", [{}, {"content-type": "text/plain"}, {"content-type": "application/json; charset=latin-1"}], ids=str
)
def test_other_content_types_are_refused(kind: str, headers: dict[str, str]) -> None:
    assert VENDORS[kind].accept(sent(kind, rendered(kind).body, headers))[0].status == 400


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"text"', b"{}", b"\xff", b'{"a": NaN}'], ids=str)
def test_what_is_no_message_is_refused_for_good(kind: str, body: bytes) -> None:
    answer, _ = VENDORS[kind].accept(sent(kind, body))
    assert answer.status == 400
    verdict = "retry" if kind == "flat" else "dead"
    assert registry.kind_named(kind).classify(response(answer), NOW).verdict == verdict


CARD = "attachments/0/content"
WRONG = [
    ("slack", "colour", "red", b"invalid_payload"),
    ("slack", "text", 7, b"invalid_payload"),
    ("slack", "text", "x" * 40_001, b"invalid_payload"),
    ("slack", "unfurl_links", "no", b"invalid_payload"),
    ("slack", "blocks", {}, b"invalid_blocks"),
    ("slack", "blocks/0/colour", "red", b"invalid_blocks"),
    ("slack", "blocks/0/type", "table", b"invalid_blocks"),
    ("slack", "blocks/0/text", "plain", b"invalid_blocks"),
    ("slack", "blocks/0/text/text", "x" * 3001, b"invalid_blocks"),
    ("slack", "blocks/0/text/text", "", b"invalid_blocks"),
    ("slack", "blocks/0/text/type", "html", b"invalid_blocks"),
    ("slack", "blocks/0/fields/0/text", "x" * 2001, b"invalid_blocks"),
    ("slack", "blocks/0/fields", [], b"invalid_blocks"),
    ("slack", "blocks/0/fields", [{"type": "mrkdwn", "text": "x"}] * 11, b"invalid_blocks"),
    ("slack", "blocks/0", {"type": "section"}, b"invalid_blocks"),
    ("slack", "blocks/0", {"type": "header", "text": {"type": "plain_text", "text": "x" * 151}}, b"invalid_blocks"),
    ("slack", "blocks/0", {"type": "header", "text": {"type": "mrkdwn", "text": "x"}}, b"invalid_blocks"),
    ("slack", "blocks/1/elements", [], b"invalid_blocks"),
    ("slack_workflow", "extra", "x", b"invalid_workflow_input"),
    ("slack_workflow", "sentence", ..., b"invalid_workflow_input"),
    ("slack_workflow", "sentence", 7, b"invalid_workflow_input"),
    ("slack_workflow", "sentence", "", b"invalid_workflow_input"),
    ("slack_workflow", "details", "x" * 3001, b"invalid_workflow_input"),
    ("teams", "type", "card", b"TriggerInputSchemaMismatch"),
    ("teams", "text", "x", b"TriggerInputSchemaMismatch"),
    ("teams", "attachments", [], b"TriggerInputSchemaMismatch"),
    ("teams", "attachments/0/contentType", "text/html", b"TriggerInputSchemaMismatch"),
    ("teams", "attachments/0/contentUrl", "https://x.example", b"TriggerInputSchemaMismatch"),
    ("teams", f"{CARD}/version", "1.5", b"TriggerInputSchemaMismatch"),
    ("teams", f"{CARD}/body", [], b"TriggerInputSchemaMismatch"),
    ("teams", f"{CARD}/body/0", {"type": "Table"}, b"TriggerInputSchemaMismatch"),
    ("teams", f"{CARD}/body/0", "text", b"TriggerInputSchemaMismatch"),
    ("teams", f"{CARD}/body/0", {"type": "TextBlock", "text": ""}, b"TriggerInputSchemaMismatch"),
    ("teams", f"{CARD}/body/0", {"type": "TextBlock", "text": "x", "size": "Huge"}, b"TriggerInputSchemaMismatch"),
    ("teams", f"{CARD}/body/0", {"type": "TextBlock", "text": "x", "wrap": 1}, b"TriggerInputSchemaMismatch"),
    ("teams", f"{CARD}/body/0/style", "red", b"TriggerInputSchemaMismatch"),
    ("teams", f"{CARD}/body/1/facts/0/value", ..., b"TriggerInputSchemaMismatch"),
    ("teams", f"{CARD}/actions/0/url", "javascript:alert(1)", b"TriggerInputSchemaMismatch"),
    ("teams", f"{CARD}/actions/0/type", "Action.Execute", b"TriggerInputSchemaMismatch"),
    ("teams", f"{CARD}/msteams/width", "Half", b"TriggerInputSchemaMismatch"),
    ("teams", f"{CARD}/lang", "x" * 28 * 1024, b"RequestEntityTooLarge"),
    ("discord", "colour", "red", b"50035"),
    ("discord", "content", "x" * 2001, b"50035"),
    ("discord", "allowed_mentions/parse", ["everybody"], b"50035"),
    ("discord", "embeds", [], b"50006"),
    ("discord", "embeds", [{"title": "x"}] * 11, b"50035"),
    ("discord", "embeds", [{"color": 1}], b"50006"),
    ("discord", "embeds", [{"description": "x" * 3001}] * 2, b"50035"),
    ("discord", "embeds/0/title", "x" * 257, b"50035"),
    ("discord", "embeds/0/description", "😀" * 2049, b"50035"),
    ("discord", "embeds/0/url", "not a url", b"50035"),
    ("discord", "embeds/0/color", 0x1000000, b"50035"),
    ("discord", "embeds/0/color", True, b"50035"),
    ("discord", "embeds/0/fields", [{"name": "a", "value": "b"}] * 26, b"50035"),
    ("discord", "embeds/0/fields/0/name", "x" * 257, b"50035"),
    ("discord", "embeds/0/fields/0/value", "x" * 1025, b"50035"),
    ("discord", "embeds/0/fields/0/value", "", b"50035"),
    ("discord", "embeds/0/fields/0/inline", "yes", b"50035"),
    ("discord", "embeds/0/footer/text", "x" * 2049, b"50035"),
    ("discord", "embeds/0/thumb", "x", b"50035"),
    ("flat", "deep", {"a": 1}, b"deep cannot be picked"),
    ("flat", "deep", None, b"deep cannot be picked"),
    ("flat", "id", ..., b"id"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "pointer", "value", "code"), WRONG, ids=[f"{row[0]} {row[1]}" for row in WRONG])
def test_wrong_fields_are_refused_as_the_service_does(kind: str, pointer: str, value: Any, code: bytes) -> None:
    answer = answer_to(kind, put(document(kind), pointer, value))
    assert 400 <= answer.status < 500
    assert code in answer.body


def test_blocks_of_a_digest_are_accepted_by_slack() -> None:
    header = {"type": "header", "text": {"type": "plain_text", "text": "83 events", "emoji": False}}
    payload = {"text": "83 events", "blocks": [header, {"type": "divider"}, *document("slack")["blocks"]]}
    assert answer_to("slack", payload).body == b"ok"
    assert answer_to("slack", {"text": "no blocks"}).body == b"ok"
    assert answer_to("slack", {"blocks": []}).body == b"no_text"


@pytest.mark.parametrize("kind", KINDS)
def test_rate_is_limited_and_the_pause_is_obeyed(kind: str) -> None:
    moments = [0.0]
    vendor = VENDORS[kind]
    smaller = vendor.limit._replace(requests=min(vendor.limit.requests, 100))
    endpoint = Endpoint(vendor._replace(limit=smaller), clock=lambda: moments[0])
    request = as_sent(rendered(kind))
    for _ in range(endpoint.vendor.limit.requests):
        assert endpoint.answer(request).status < 300
    outcome = registry.kind_named(kind).classify(response(endpoint.answer(request)), NOW)
    assert outcome.verdict == "retry"
    assert outcome.retry_after_seconds is not None
    assert outcome.retry_after_seconds >= endpoint.vendor.limit.seconds
    moments[0] = outcome.retry_after_seconds
    assert endpoint.answer(request).status < 300


@pytest.mark.parametrize("kind", KINDS)
def test_endpoint_fails_when_told_to_and_is_served_over_http(kind: str) -> None:
    endpoint = Endpoint(VENDORS[kind])
    app = Starlette(routes=[Route("/hook", endpoint.receive, methods=["GET", "POST"])])
    request = rendered(kind)
    with TestClient(app) as client:
        endpoint.faults.append(Answer.json(503, {}, (("Retry-After", "2"),)))
        headers = dict(request.headers)
        failed = client.post("/hook?wait=true", content=request.body, headers=headers)
        assert (failed.status_code, failed.headers["Retry-After"]) == (503, "2")
        assert client.get("/hook").status_code == 405
        assert client.post("/hook?wait=true", content=request.body, headers=headers).is_success
    assert (len(endpoint.documents), len(endpoint.refused)) == (1, 2)


def test_discord_confirms_a_message_only_if_it_is_asked_to() -> None:
    body = rendered("discord").body
    assert VENDORS["discord"].accept(sent("discord", body, query=""))[0].status == 204
    assert orjson.loads(VENDORS["discord"].accept(sent("discord", body))[0].body)["id"] == "1"


@pytest.mark.parametrize(
    ("kind", "pointer", "value", "mentioned"),
    [
        ("slack", "text", "<!channel> pay <@U1>", ["<!channel>", "<@U1>"]),
        ("slack_workflow", "sentence", "<!here>", ["<!here>"]),
        ("teams", f"{CARD}/msteams/entities", [{"type": "mention", "text": "<at>Ada</at>"}], ["<at>Ada</at>"]),
        ("discord", "content", "@everyone", []),
    ],
)
def test_stand_ins_notice_mentions(kind: str, pointer: str, value: Any, mentioned: list[str]) -> None:
    endpoint = Endpoint(VENDORS[kind])
    endpoint.answer(sent(kind, orjson.dumps(put(document(kind), pointer, value))))
    assert endpoint.mentioned == mentioned


def test_discord_mentions_whoever_is_not_forbidden() -> None:
    endpoint = Endpoint(VENDORS["discord"])
    endpoint.answer(sent("discord", b'{"content": "@everyone and <@1>"}'))
    assert endpoint.mentioned == ["@everyone", "<@1>"]
    assert endpoint.messages[0].title == "@everyone and <@1>"


@pytest.mark.parametrize("kind", KINDS)
def test_messages_are_read_as_people_see_them(kind: str) -> None:
    endpoint = Endpoint(VENDORS[kind])
    endpoint.answer(as_sent(rendered(kind)))
    [message] = endpoint.messages
    assert message.title.startswith("LinkedIn outreach to Alex failed: the account needs reconnecting")
    assert not any("\\" in text for pair in message.fields for text in (message.title, message.footer, *pair))
    assert any("Reconnect it in Revor" in value for _, value in message.fields)


PAYLOAD: dict[str, Any] = {
    "text": "a & b",
    "blocks": [
        {
            "type": "section",
            "text": {"type": "mrkdwn", "text": "a &amp; b \u2060_c\u2060_\n<https://x.example/1|Open in x.example>"},
            "fields": [{"type": "mrkdwn", "text": "*How to fix it*\n&lt;so&gt;"}, {"type": "mrkdwn", "text": "plain"}],
        },
        {"type": "context", "elements": [{"type": "mrkdwn", "text": "Job 1"}, {"type": "mrkdwn", "text": "Time 2"}]},
    ],
}


def test_a_message_is_read_as_slack_shows_it() -> None:
    message = read_message(PAYLOAD)
    assert message.title == "a & b _c_\nOpen in x.example (https://x.example/1)"
    assert message.fields == (("How to fix it", "<so>"), ("", "plain"))
    assert message.footer == "Job 1 · Time 2"


def test_a_digest_is_read_in_the_order_of_its_lines() -> None:
    first, last = PAYLOAD["blocks"]
    header = {"type": "header", "text": {"type": "plain_text", "text": "2 events"}}
    message = read_message({"blocks": [header, last, {"type": "divider"}, first, last]})
    assert message.title.splitlines()[:4] == ["2 events", "Job 1", "Time 2", "a & b _c_"]
    assert message.footer == "Job 1 · Time 2"
