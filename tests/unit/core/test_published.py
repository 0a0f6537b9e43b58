"""Events that other programs publish: what is taken, what is refused, and that nothing of them changes."""

from base64 import b64encode

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_binary
from cloudevents.core.formats.json import JSONFormat

from relay.core.events.event import Origin, content_of, in_binary_mode, is_stream, stream_of
from relay.core.jsontext import dumps, loads
from relay.core.published import (
    MAX_EVENT_BYTES,
    Draft,
    Refused,
    Rules,
    document_of_binary,
    identity_of,
    read_document,
)
from relay.core.samples import sample_event
from relay.core.subscriptions.filters import known_types
from tests.support.job_events import origin_of

SOURCES = frozenset(("/relay", "https://revor.ai/api/v1/outreach/jobs", "https://gateway.example:8443/v1/tasks"))
RULES = Rules(known_types([origin_of()]), SOURCES)
EVENT = {"specversion": "1.0", "id": "a-1", "source": "/shop", "type": "com.acme.order.paid"}


def read(**changes: object) -> Draft | Refused:
    return read_document({**EVENT, **changes}, RULES)


def test_least_event_is_taken():
    draft = read()
    assert draft == Draft(
        id="a-1",
        source="/shop",
        type="com.acme.order.paid",
        subject=None,
        time=None,
        partition_key=None,
        body=b'{"specversion":"1.0","id":"a-1","source":"/shop","type":"com.acme.order.paid"}',
    )


def test_nothing_of_an_event_is_lost():
    given = {
        **{"data": {"text": "ü", "big": 2**70}, "comacmeflag": True, "count": -7, "traceparent": "00-1-1-00"},
        **{"partitionkey": "order 7", "dataschema": "https://a.example/s.json", "datacontenttype": "application/json"},
        **{"time": "2026-05-20T10:00:08.123456+02:00", "subject": "7", **EVENT},
    }
    draft = read_document(given, RULES)
    assert isinstance(draft, Draft)
    assert loads(draft.body) == given
    assert list(loads(draft.body))[:8] == [
        *("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema")
    ]
    assert (draft.subject, draft.partition_key, draft.time) == ("7", "order 7", 1779264008.123456)


def test_event_is_recorded_under_an_id_of_the_relay():
    draft = read(time="2026-05-20T10:00:08Z")
    assert isinstance(draft, Draft)
    event = draft.event("evt_1", 5.0, "revor/default", "key_1", 3)
    assert (event.id, event.document()["id"]) == ("evt_1", "a-1")
    assert (event.order_key, event.sequence, event.owner, event.job_uid) == ("key_1", 3, "revor/default", None)
    assert (event.time, event.recorded_at) == (1779271208.0, 5.0)
    timeless = read()
    assert isinstance(timeless, Draft)
    assert timeless.event("evt_1", 5.0, None, None, None).time == 5.0


@pytest.mark.parametrize(
    ("changes", "code", "pointer"),
    [
        *[({name: None}, "required", f"/{name}") for name in EVENT],
        *[({name: ""}, "invalid", f"/{name}") for name in (*EVENT, "subject", "time", "partitionkey")],
        *[({name: True}, "invalid", f"/{name}") for name in ("id", "subject", "partitionkey")],
        *[({name: 7}, "invalid", f"/{name}") for name in ("id", "time", "partitionkey")],
        ({"specversion": "0.3"}, "invalid", "/specversion"),
        ({"type": "a b"}, "invalid", "/type"),
        ({"datacontenttype": "json"}, "invalid", "/datacontenttype"),
        ({"time": "yesterday"}, "invalid", "/time"),
        *[
            ({"time": text}, "invalid", "/time")
            for text in (
                *("2026-05-20T10:00:08", "20260520T100008Z", "2026-05-20 10:00:08Z", "2026-05-20T10:00Z"),
                *("2026-W21-3T10:00:08Z", "2026-02-30T10:00:08Z", "2026-05-20T10:00:61Z", "1969-12-31T23:59:59Z"),
                *("2026-05-20T10:00:08Z ", "٢026-05-20T10:00:08Z"),
            )
        ],
        ({"subject": "a\nb"}, "invalid", "/subject"),
        ({"subject": "a\ud800"}, "invalid", "/subject"),
        *[({name: "a\ufffd"}, "invalid", f"/{name}") for name in ("id", "source", "partitionkey")],
        ({"id": "x" * 1025}, "too_long", "/id"),
        ({"other": "x" * 4097}, "too_long", "/other"),
        ({"Other": "x"}, "invalid_name", "/Other"),
        ({"x" * 65: "x"}, "invalid_name", f"/{'x' * 65}"),
        ({"": "x"}, "invalid_name", "/"),
        ({"other": {"a": 1}}, "invalid", "/other"),
        ({"other": 2**31}, "invalid", "/other"),
        ({f"a{n}": 1 for n in range(61)}, "too_many_attributes", ""),
        ({"data": 1, "data_base64": "YQ=="}, "invalid", "/data_base64"),
        ({"data_base64": "a"}, "invalid", "/data_base64"),
        ({"data_base64": 7}, "invalid", "/data_base64"),
        ({"data": "x" * MAX_EVENT_BYTES}, "too_large", ""),
        ({"type": "relay.test"}, "reserved_type", "/type"),
        ({"type": "ai.revor.job.failed"}, "reserved_type", "/type"),
        ({"type": "ai.revor.account.moved"}, "reserved_type", "/type"),
        ({"type": "job.failed"}, "reserved_type", "/type"),
        ({"type": "ai.rever.job.failed"}, "reserved_type", "/type"),
        ({"type": "order"}, "invalid", "/type"),
    ],
)
def test_what_is_no_event_is_refused_with_its_place(changes, code, pointer):
    refused = read(**changes)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.pointer) == (code, pointer)


@pytest.mark.parametrize(
    "source",
    [
        *("/relay", "relay", "/RELAY", "/relay/", "//relay", "/relay/x", "/relay?x", "/relay#x", "/./relay"),
        *("/x/../relay", "/re\u200blay", "/re\u00adlay", "/\ufeffrelay", "/relay\u2060", "/\u202erelay"),
        *("/re\u034flay", "/re\u3164lay", "\uff0frelay", "/\uff52\uff45\uff4c\uff41\uff59", "/\u24e1elay"),
        *("/r\u00e9lay", "/%72elay", "/%2572elay", "%2frelay", "/%20relay", "/relay%20", "/%C2%A0relay", "/%09relay"),
        *("/%E2%80%8Brelay", "/x%5c..%5c..%5crelay", "relay.acme", "/relay.acme", "Relay.x", "https:relay"),
        *(f"{place}/api/v1/outreach/jobs" for place in ("https://revor.ai", "HTTPS://REVOR.AI", "http://revor.ai")),
        *(f"{place}/api/v1/outreach/jobs" for place in ("https://revor.ai:443", "https://revor.ai.", "//revor.ai")),
        *(f"{place}/api/v1/outreach/jobs" for place in ("https://a@revor.ai", "revor.ai", "https:revor.ai")),
        *(f"{place}/api/v1/outreach/jobs/7" for place in ("HTTP:revor.ai", "wss:revor.ai", "https:/revor.ai")),
        *(f"https://{host}/api/v1/outreach/jobs" for host in ("re\u200bvor.ai", "revor\uff0eai", "revor\u3002ai")),
        *(f"{place}.ai/api/v1/outreach/jobs" for place in ("https://revor", "\uff48\uff54\uff54\uff50s://revor")),
        *("https://revor\uff61ai/api/v1/outreach/jobs", "https://gateway.example:8443/v1/tasks"),
        *("http://gateway.example:8443/v1/tasks/7", "//GATEWAY.example:8443/v1/./tasks"),
        "https://gateway.example:8443/v1/tas\u212as",
    ],
)
def test_source_that_can_be_taken_for_the_relay_or_an_upstream_is_reserved(source):
    refused = read(source=source)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.pointer) == ("reserved_source", "/source")


@pytest.mark.parametrize(
    "source",
    [
        *("/shop", "/relays", "/my/relay", "/relay-shop", "urn:acme:relay", "https://notrevor.ai/x"),
        *("https://revor.ai.example", "https://relay.example/x", "https://gateway.example:8443/v1/orders"),
        *("https://gateway.example/v1/tasks", "/", "urn:revor.ai", "https:shop", "/gr\u00f6\u00dfe"),
        *("mailto:shop@example.com", ".", "#x", "/airevor", "/%zz", "https://revor.ai", "https://api.revor.ai/x"),
    ],
)
def test_source_of_another_program_is_kept_as_it_is(source):
    draft = read(source=source)
    assert isinstance(draft, Draft)
    assert (draft.source, loads(draft.body)["source"]) == (source, source)


BOUND = RULES._replace(account="alpha")


def test_bound_publisher_s_event_names_its_account():
    for given in ({}, {"account": "alpha"}, {"account": None}):
        draft = read_document({**EVENT, **given}, BOUND)
        assert isinstance(draft, Draft)
        assert loads(draft.body)["account"] == "alpha"


@pytest.mark.parametrize("account", ["beta", "", "Alpha", "alpha ", "\uff41lpha", "al\u200bpha", 7, True])
def test_bound_publisher_names_no_other_account(account):
    refused = read_document({**EVENT, "account": account}, BOUND)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.pointer) == ("account_not_allowed", "/account")
    assert str(account) not in refused.detail or account in ("", "alpha ")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-05-20T10:00:08Z", 1779271208.0),
        ("2026-05-20t10:00:08.5z", 1779271208.5),
        ("2026-05-20T10:00:08.123456789-02:00", 1779278408.123456),
        ("2016-12-31T23:59:60Z", 1483228799.0),
    ],
)
def test_rfc_3339_times_are_read_and_kept_as_they_are(text, seconds):
    draft = read(time=text)
    assert isinstance(draft, Draft)
    assert draft.time == seconds
    assert loads(draft.body)["time"] == text


@pytest.mark.parametrize("document", [None, 7, "x", [EVENT]])
def test_only_an_object_is_an_event(document):
    assert read_document(document, RULES) == Refused("not_an_event", "an event is a JSON object")


def test_data_that_is_nested_too_deeply_is_refused():
    deep: object = 1
    for _ in range(300):
        deep = [deep]
    refused = read(data=deep)
    assert isinstance(refused, Refused)
    assert refused.code == "too_deep"


@pytest.mark.parametrize("changes", [{"data": None}, {"data": False}, {"data_base64": "YQ=="}, {"other": False}])
def test_values_that_look_empty_are_kept(changes):
    draft = read(**changes)
    assert isinstance(draft, Draft)
    assert loads(draft.body) == {**EVENT, **changes}


@pytest.mark.parametrize(
    ("content_type", "body", "data"),
    [
        ("application/json", b'{"a": 1}', {"data": {"a": 1}}),
        ("application/vnd.acme+json; charset=utf-8", b"[1]", {"data": [1]}),
        (None, b"7", {"data": 7}),
        ("application/json", b"", {}),
        ("text/plain", "ü".encode(), {"data": "ü"}),
        ("application/xml; charset=UTF-8", b"<a/>", {"data": "<a/>"}),
        ("text/plain; charset=latin-1", b"a", {"data_base64": "YQ=="}),
        ("text/plain", b"\xff", {"data_base64": "/w=="}),
        ("application/octet-stream", b"\x00", {"data_base64": "AA=="}),
    ],
)
def test_binary_mode_is_read(content_type, body, data):
    headers = [(f"Ce-{name}", value) for name, value in EVENT.items()]
    if content_type is not None:
        headers.append(("Content-Type", content_type))
    expected = {**EVENT, **({} if content_type is None else {"datacontenttype": content_type}), **data}
    assert document_of_binary([*headers, ("Host", "x")], body) == expected


def test_header_values_are_decoded():
    headers = (("ce-subject", "Euro%20%E2%82%AC"), ("ce-note", '"a \\"b\\" c"'))
    assert document_of_binary(headers, b"") == {"subject": "Euro €", "note": 'a "b" c'}


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        ((("ce-id", "a"), ("CE-ID", "b")), b"", "invalid"),
        ((("ce-data", "a"),), b"", "invalid"),
        ((("ce-datacontenttype", "a/b"),), b"", "invalid"),
        ((("ce-id", "%ff"),), b"", "invalid"),
        ((("content-type", "application/json"),), b"{", "not_json"),
        ((("content-type", "text/plain"), ("Content-Type", "text/xml")), b"a", "invalid"),
    ],
)
def test_binary_mode_that_cannot_be_read_is_refused(headers, body, code):
    refused = document_of_binary(headers, body)
    assert isinstance(refused, Refused)
    assert refused.code == code


@pytest.mark.parametrize(
    ("data", "content_type", "body"),
    [
        ({"data": {"a": 1}}, "application/json", b'{"a":1}'),
        ({"data": "a"}, "application/json", b'"a"'),
        ({"data": "<a/>", "datacontenttype": "text/xml"}, "text/xml", b"<a/>"),
        ({"data_base64": b64encode(b"\0").decode(), "datacontenttype": "a/b"}, "a/b", b"\0"),
        ({}, None, b""),
    ],
)
def test_binary_mode_sends_what_was_published(data, content_type, body):
    draft = read(**data)
    assert isinstance(draft, Draft)
    event = draft.event("evt_1", 1.0, None, None, None)
    assert content_of(event.document()) == (content_type, body)
    headers, sent = in_binary_mode(event)
    assert sent == body
    assert dict(headers).get("Content-Type") == content_type
    if content_type is not None:
        read_again = from_binary(HTTPMessage(headers=dict(headers), body=sent), JSONFormat())
        assert read_again.get_id() == "a-1"


def test_identities_and_streams_of_owners_are_apart():
    assert len({identity_of(owner, "/s", "1") for owner in (None, "a/b", "a/c")}) == 3
    assert identity_of(None, "/s", "1") == identity_of(None, "/s", "1") != identity_of(None, "/s1", "")
    assert len({stream_of(owner, "k") for owner in (None, "a/b")}) == 2
    assert dumps(stream_of(None, "k"))


@pytest.mark.parametrize(
    ("order_key", "expected"), [(stream_of(None, "k"), True), ("job_01", False), ("", False), (None, False)]
)
def test_order_is_kept_by_a_stream_or_by_something_else(order_key: str | None, expected: bool) -> None:
    assert is_stream(order_key) is expected


def test_sample_of_a_published_event_is_one_that_could_be_published():
    origin = Origin(source="https://upstream.example", type_prefix="ai.revor.job", dataschema="http://x")
    event = sample_event(
        "com.acme.order.paid",
        event_id="evt_1",
        now=1779271208.0,
        origin=origin,
        dataschema_base="http://x",
        metadata={"deal": 42},
    )
    draft = read_document(event.document(), RULES)
    assert isinstance(draft, Draft)
    assert (event.published, event.job_uid, event.order_key) == (True, None, None)
    assert (draft.body, draft.type, draft.subject) == (event.body, "com.acme.order.paid", event.subject)
    metadata = event.document()["data"]["metadata"]
    assert (metadata["deal"], metadata["sample"]) == (42, True)
