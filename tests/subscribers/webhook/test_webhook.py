"""The kind webhook, the registry, and the shared helpers."""

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_binary
from cloudevents.core.formats.json import JSONFormat

from relay.core.events.event import Event
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import Subscription
from relay.errors import InvalidRequest
from relay.redaction import redacted_url
from subscribers import base, registry
from tests.support.kind_checks import check

EVENT = Event(
    id="evt_1", source="/s", type="a.job.failed", subject="1", time=1.0, recorded_at=1.0, body=b'{"id": "evt_1" }\n'
)
WEBHOOK = registry.kind_named("webhook")


def subscription(**changes: object) -> Subscription:
    return Subscription(id="sub_1", sink="https://x.example/in", **changes)  # type: ignore[arg-type]


def test_body_is_the_stored_bytes() -> None:
    request = WEBHOOK.render(EVENT, subscription(method="PUT", headers=(("X-Team", "ops"),)), base.RenderContext())
    assert request.body is EVENT.body
    assert (request.url, request.method) == ("https://x.example/in", "PUT")
    assert request.headers == (("Content-Type", "application/cloudevents+json"), ("X-Team", "ops"))


ATTRIBUTES = {
    "specversion": "1.0",
    "id": "evt_2",
    "source": "https://revor.ai/api",
    "type": "ai.revor.job.failed",
    "subject": 'Zoë “Z” 100 % "x"~!\N{PARTY POPPER}',
    "time": "2026-05-20T10:00:08.000Z",
    "sequence": "0000000003",
    "flag": True,
    "count": -7,
}
DATA = {"deal": 2**70, "text": "ü", "deep": [None, 1.5]}


def rich_event(**data: object) -> Event:
    document = {**ATTRIBUTES, "datacontenttype": "application/json", **data}
    return Event(
        id="evt_2", source="/s", type="a.job.failed", subject="1", time=1.0, recorded_at=1.0, body=dumps(document)
    )


def test_binary_mode_has_attributes_as_encoded_headers_and_the_data_as_body() -> None:
    """HTTP binding §3.1.3: the examples there are `Euro%20%E2%82%AC%20%F0%9F%98%80`."""
    made = subscription(options={"content_mode": "binary"}, headers=(("X-Team", "ops"),))
    request = WEBHOOK.render(rich_event(data=DATA), made, base.RenderContext())
    assert request.headers == (
        ("Content-Type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "evt_2"),
        ("ce-source", "https://revor.ai/api"),
        ("ce-type", "ai.revor.job.failed"),
        ("ce-subject", "Zo%C3%AB%20%E2%80%9CZ%E2%80%9D%20100%20%25%20%22x%22~!%F0%9F%8E%89"),
        ("ce-time", "2026-05-20T10:00:08.000Z"),
        ("ce-sequence", "0000000003"),
        ("ce-flag", "true"),
        ("ce-count", "-7"),
        ("X-Team", "ops"),
    )
    assert request.body == b'{"deal":1180591620717411303424,"text":"\xc3\xbc","deep":[null,1.5]}'
    parsed = from_binary(HTTPMessage(headers=dict(request.headers), body=request.body), JSONFormat())
    found = parsed.get_attributes()
    assert (found["id"], found["subject"]) == ("evt_2", ATTRIBUTES["subject"])
    assert parsed.get_data() == DATA
    assert WEBHOOK.bundle(made) is None


def test_batch_is_an_array_of_the_stored_bytes() -> None:
    made = subscription(options={"content_mode": "batch", "batch": {"max_events": 7}}, method="PUT")
    events = (EVENT, rich_event(data=DATA))
    request = WEBHOOK.render_bundle(events, made, base.RenderContext())
    assert request.headers == (("Content-Type", "application/cloudevents-batch+json"),)
    assert request.method == "PUT"
    assert request.body == b"[" + EVENT.body + b"," + events[1].body + b"]"
    assert WEBHOOK.render(EVENT, made, base.RenderContext()).body == b"[" + EVENT.body + b"]"
    bundle = WEBHOOK.bundle(made)
    assert bundle == base.Bundle(max_events=7, wait_seconds=5.0, max_bytes=1024 * 1024 - 2)


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        ({"method": "GET"}, "/protocolsettings/method", "invalid_method"),
        ({"options": {"metadata_keys": ["x"]}}, "/config/metadata_keys", "unknown_option"),
        ({"options": {"template": "{{"}}, "/config/template", "invalid_template"),
        ({"options": {"strict": True}}, "/config/strict", "template_missing"),
        ({"options": {"batch": {}}}, "/config/batch", "batch_unsuitable"),
        ({"options": {"content_mode": "binary", "batch": {}}}, "/config/batch", "batch_unsuitable"),
        ({"headers": (("Host", "x"),)}, "/protocolsettings/headers/Host", "reserved_header"),
        ({"headers": (("CONTENT-type", "x"),)}, "/protocolsettings/headers/CONTENT-type", "reserved_header"),
        ({"headers": (("Webhook-Id", "x"),)}, "/protocolsettings/headers/Webhook-Id", "reserved_header"),
        ({"headers": (("ce-id", "x"),)}, "/protocolsettings/headers/ce-id", "reserved_header"),
        ({"headers": (("Transfer-Encoding", "x"),)}, "/protocolsettings/headers/Transfer-Encoding", "reserved_header"),
        ({"headers": (("Connection", "x"),)}, "/protocolsettings/headers/Connection", "reserved_header"),
        ({"headers": (("a/b~c", "x"),)}, "/protocolsettings/headers/a~1b~0c", "invalid_header"),
        ({"headers": (("", "x"),)}, "/protocolsettings/headers/", "invalid_header"),
        ({"headers": (("X-A\n", "x"),)}, "/protocolsettings/headers/X-A\n", "invalid_header"),
        ({"headers": (("X-A", "1\r\nX-B: 2"),)}, "/protocolsettings/headers/X-A", "invalid_header"),
        ({"headers": (("X-A", "1\0"),)}, "/protocolsettings/headers/X-A", "invalid_header"),
        ({"headers": (("X-A", "€"),)}, "/protocolsettings/headers/X-A", "invalid_header"),
        ({"headers": (("X-A", "caf\xe9"),)}, "/protocolsettings/headers/X-A", "invalid_header"),
        ({"headers": (("Proxy-X", "x"),)}, "/protocolsettings/headers/Proxy-X", "reserved_header"),
        ({"headers": (("HTTP2-Settings", "x"),)}, "/protocolsettings/headers/HTTP2-Settings", "reserved_header"),
    ],
)
def test_invalid_methods_headers_and_options_are_refused(changes: dict[str, object], pointer: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(WEBHOOK, subscription(**changes))
    assert [(error.pointer, error.code) for error in caught.value.errors] == [(pointer, code)]
    assert caught.value.status == 422


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://x.example/in", "https://x.example/in"),
        ("https://x.example", "https://x.example"),
        ("https://x.example:8443/in?token=secret&b=2", "https://x.example:8443/in?…"),
        ("https://user:secret@x.example/in#secret", "https://x.example/in"),
        ("http://[::1]:9000/in", "http://[::1]:9000/in"),
        ("https://hooks.slack.com/services/T0/B0/secret", "https://hooks.slack.com/…"),
        ("https://HOOKS.Zapier.com./hooks/catch/1/secret", "https://hooks.zapier.com./…"),
        ("https://hook.eu1.make.com/secret", "https://hook.eu1.make.com/…"),
        ("https://team.app.n8n.cloud/webhook/secret", "https://team.app.n8n.cloud/…"),
        ("https://notmake.com/in", "https://notmake.com/in"),
        ("https://[::1/secret", "…"),
        ("https://x.example:port/secret", "…"),
        ("secret", "…"),
        ("", "…"),
    ],
)
def test_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert WEBHOOK.redacted_url(url) == shown
    assert redacted_url(shown) == shown
