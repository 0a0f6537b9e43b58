"""Fuzzing of the API's, verifier's and commands' parsers: a value of the documented type, or our own error."""

import io
import math
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any
from unittest.mock import MagicMock

import orjson
from hypothesis import strategies as st
from starlette.datastructures import Headers
from yarl import URL

from relay.api.access.callers import Access
from relay.api.catalogue import OPERATIONS
from relay.api.http import auth, idempotency, limits, params, stream
from relay.api.http.operations import Context
from relay.api.http.validation import validate
from relay.api.jobs import waiting
from relay.api.jobs.registration import read_registration
from relay.api.openapi import EXAMPLES
from relay.api.subscriptions.checks import read_create, read_replace
from relay.cli import client, options
from relay.cli.events import listen
from relay.cli.events import stream as event_stream
from relay.cli.events.events import one_line
from relay.cli.node import local
from relay.core.access import netguard
from relay.core.access.client_address import address_of
from relay.core.jobs.job import Observation
from relay.core.polling.tracking import TrackRequest
from relay.core.subscriptions import signing
from relay.core.subscriptions.subscription import Subscription
from relay.errors import InvalidRequest, RelayError, UsageError
from relay.http.sender import _SENDABLE_AS_WRITTEN
from relay.redaction import host_of, redacted_url
from relay.sources.definition import load_definition
from relay.sources.mapping import registered
from relay.store.databases import pages
from subscribers import base, registry
from tests.support.api_world import HOOK, SETTINGS, TOKENS, FakeTracking, World
from tests.support.fuzz_kit import JSON_VALUES, TEXTS, fuzzed, mutated, mutated_text, raw_json, value_or_refusal, whole
from tests.support.guard import DEVELOPMENT

NOW = 1_800_000_000.0
ANYONE = (ip_network("0.0.0.0/0"), ip_network("::/0"))
WITH_TOKENS = replace(SETTINGS, tokens=TOKENS)
REVOR = load_definition("revor")

CURSORS = mutated_text(
    [pages.encode_cursor(12), pages.encode_cursor("job_1"), pages.encode_cursor(pages.moment_key(1e9, "evt_7"))],
    [pages.encode_cursor(text) for text in ("nan evt_1", "inf evt_2", "0x1p9999 evt_1", "1 9", "n" + "9" * 99, "\x00")],
)


@fuzzed(cursor=CURSORS)
def test_cursors(cursor: str) -> None:
    number = value_or_refusal(lambda: pages.decode_position(cursor), InvalidRequest)
    assert number is None or 0 <= number < 10**16
    key = value_or_refusal(lambda: pages.decode_cursor(cursor), InvalidRequest)
    assert key is None or (key.isprintable() and key.isascii())
    moment = value_or_refusal(lambda: pages.decode_moment(cursor, prefix="evt_"), InvalidRequest)
    assert moment is None or (math.isfinite(moment[0]) and moment[1].startswith("evt_"))


QUERY_NAMES = sorted({parameter.name for operation in OPERATIONS for parameter in operation.query})
QUERIES = mutated(
    st.lists(
        st.builds(
            lambda name, value: f"{name}={value}".encode("utf-8", "surrogatepass"),
            st.sampled_from(QUERY_NAMES) | TEXTS,
            TEXTS | st.sampled_from(["true", "7", "2026-05-20T10:00:08+02:00", "failed", "bjEy"]),
        ),
        max_size=4,
    ).map(b"&".join),
    [b"%", b"%00", b"%ff", b"%ED%A0%80", b"&", b";", b"=", b"+", b"%E2%80%AE", b"&a" * 60, b"limit=", b"cursor="],
)


@fuzzed(operation=st.sampled_from(OPERATIONS), query=QUERIES)
def test_queries(operation: Any, query: bytes) -> None:
    found = value_or_refusal(lambda: params.read_query(query, operation.query), InvalidRequest)
    assert found is None or set(found) == {parameter.name for parameter in operation.query}


REQUEST_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            (
                *(b"idempotency-key", b"prefer", b"last-event-id", b"accept", b"content-type", b"content-encoding"),
                *(b"host", b"origin", b"authorization", b"relay-node", b"content-length", b"forwarded"),
            )
        ),
        mutated(
            st.sampled_from(
                (
                    *(b"key-1", b"wait=10", b'respond-async, wait="5"; a', b"evt_01jvpq0000000000000000000e"),
                    *(b"text/event-stream, application/json;q=0.9", b"application/json; charset=utf-8", b"gzip"),
                    *(b"127.0.0.1:8080", b"http://localhost:8080", b"[::1]:8080", b"Bearer rl_admin", b"node-1", b"17"),
                )
            ),
            [b",", b";", b"=", b'"', b"\x00", b"\xff", b" ", b"\t", b"9" * 400, b"[", b"]", b"@", b"//", b"::1%25"],
        ),
    ),
    max_size=5,
)


@fuzzed(
    headers=REQUEST_HEADERS, peer=st.none() | st.tuples(TEXTS | st.just("127.0.0.1"), st.just(1)), tokens=st.booleans()
)
def test_headers_of_a_request(headers: list[tuple[bytes, bytes]], peer: tuple[str, int] | None, tokens: bool) -> None:
    given = Headers(raw=headers)
    key = value_or_refusal(lambda: idempotency.key_of(given)) if idempotency.HEADER in given else None
    assert key is None or 1 <= len(key) <= idempotency.MAX_KEY_CHARACTERS
    seconds = waiting.preferred_seconds(given)
    assert seconds is None or 0 <= seconds <= waiting.MAX_WAIT_SECONDS
    last_id = value_or_refusal(lambda: stream.last_event_id(given))
    assert last_id is None or last_id.startswith("evt_")
    assert stream.is_wanted(given) in (True, False)
    value_or_refusal(lambda: limits.check_media_type(given))
    value_or_refusal(lambda: auth.refuse_loop(headers, "node-1"))
    settings = WITH_TOKENS if tokens else SETTINGS
    access = Access(clock=lambda: NOW, trusted_proxies=ANYONE)
    access.configure(settings.tokens)
    scope: dict[str, Any] = {"type": "http", "client": peer, "headers": headers}
    access.address(scope)
    assert auth.client_of(scope) == ("" if peer is None else peer[0]) or address_of(auth.client_of(scope)) is not None
    who = value_or_refusal(lambda: auth.identify(scope, given, settings, access))
    assert who is None or who.scopes


@fuzzed(raw=raw_json(JSON_VALUES, [*EXAMPLES.values(), {"a": None}]))
def test_a_body_of_a_request(raw: bytes) -> None:
    value = value_or_refusal(lambda: limits.parse_json(raw), InvalidRequest)
    if value is not None:
        assert orjson.dumps(value)


class Tracking(FakeTracking):
    """Reads an upstream's answer as the relay does."""

    def read_answer(self, source: str, body: Any, resource: str = "") -> tuple[str, Observation | None] | None:
        found = registered(REVOR, body, now=NOW, resource=resource)
        return None if found is None else (found.external_id, found.observation)


WORLD = World(store=MagicMock())  # nothing is asked of it
DEPENDENCIES = replace(WORLD.dependencies(), tracking=Tracking(WORLD))
CONTEXT = Context(dependencies=DEPENDENCIES)
MODELS = sorted({model for one in OPERATIONS for model in (one.body, *one.also_bodies) if model}, key=str)
FIELDS = sorted({name for model in MODELS for name in model.model_fields} | {"headers", "method", "kind", "secret"})
OBJECTS = [example for example in EXAMPLES.values() if isinstance(example, dict)]
SUBSCRIPTION: dict[str, Any] = {
    "sink": HOOK,
    "types": ["ai.revor.job.failed"],
    "source": "https://revor.ai/api/v1/outreach/jobs",
    "protocolsettings": {"headers": {"X-A": "b"}, "method": "POST"},
    "config": {"kind": "webhook", "retry_schedule": ["5s", 300], "start": "earliest", "rate_per_second": 1.5},
}
DOCUMENTS = st.one_of(
    JSON_VALUES,
    st.builds(
        lambda valid, changed: {**valid, **changed},
        st.sampled_from([*OBJECTS, SUBSCRIPTION, {"id": "a", "callback_url": HOOK, "metadata": {}}]),
        st.dictionaries(
            st.sampled_from(FIELDS) | TEXTS.map(whole),
            JSON_VALUES | st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES, max_size=3),
            max_size=3,
        ),
    ),
)


@fuzzed(document=DOCUMENTS)
def test_documents(document: Any) -> None:
    for model in MODELS:
        made = value_or_refusal(lambda model=model: validate(model, document), InvalidRequest)  # type: ignore[misc]
        assert made is None or isinstance(made, model)
    request = value_or_refusal(lambda: read_registration(document, DEPENDENCIES, "caller"), InvalidRequest)
    assert request is None or isinstance(request, TrackRequest)
    created = value_or_refusal(lambda: read_create(document, CONTEXT, id="sub_1", now=NOW), InvalidRequest)
    if created is not None:
        assert isinstance(created[0], Subscription)
        replaced = value_or_refusal(lambda: read_replace(document, CONTEXT, created[0]), InvalidRequest)
        assert replaced is None or replaced.id == "sub_1"


# Signatures and addresses ------------------------------------------------------------------------------------------

SECRET = signing.new_secret(b"s" * 32)
SIGNED = b'{"id": "evt_1", "n": 1.0}'
VALID_HEADERS = {
    "webhook-id": "evt_1",
    "webhook-timestamp": str(int(NOW)),
    "webhook-signature": signing.sign([SECRET], "evt_1", int(NOW), SIGNED),
}
SIGNATURE_VALUES = mutated_text(list(VALID_HEADERS.values()), ["v1,", "v1a,", " ", "=", "-1", "1e9", "²", "٣"])


@fuzzed(
    secret=st.just(SECRET) | mutated_text([SECRET], ["whsec_", "=", "+", "-"]),
    headers=st.dictionaries(
        st.sampled_from([*VALID_HEADERS, "Webhook-Id", "WEBHOOK-SIGNATURE"]) | TEXTS, SIGNATURE_VALUES, max_size=3
    ),
    body=raw_json(JSON_VALUES, [{"id": "evt_1", "n": None}]) | st.just(SIGNED),
    now=st.just(NOW) | st.floats(),
)
def test_signatures(secret: str, headers: dict[str, str], body: bytes, now: float) -> None:
    given = {**VALID_HEADERS, **headers}
    found = value_or_refusal(lambda: signing.verify(secret, given, body, now=now), ValueError)
    assert found is None or not found.ok or body == SIGNED


URLS = mutated_text(
    [
        "https://h.example/a?b=c",
        "https://127.0.0.1:8080/",
        "https://[::1]:443/x",
        "http://hooks.slack.com/services/T0/B0/x",
    ],
    [
        *("@", ":", "[", "]", "%", "%31", "/", "?", "#", "\\", "//", "。", "．", "①", "xn--", "xn--\ud800", "ß", "ſ"),
        *("℀", "…"),
        *(
            "0x7f",
            "0177",
            "2130706433",
            "::ffff:",
            "%25eth0",
            ":99999",
            ":0",
            ".",
            "..",
            "-",
            "_",
            "a" * 64,
            "a." * 130,
        ),
    ],
)
POLICIES = st.sampled_from([netguard.GuardPolicy(), DEVELOPMENT])


@fuzzed(url=URLS, policy=POLICIES, port=st.integers())
def test_urls_of_sinks(url: str, policy: netguard.GuardPolicy, port: int) -> None:
    for why in (
        netguard.refusal_of_url(url, policy),
        netguard.refusal_of_address(url, port=port, scheme=url, policy=policy),
    ):
        assert why is None or why
    assert isinstance(host_of(url), str)
    assert registry.infer_kind(url) in registry.kinds()
    for kind in registry.kinds().values():
        assert isinstance(kind.redacted_url(url), str)
        value_or_refusal(lambda kind=kind: kind.check(Subscription(id="s", sink=url, kind=kind.name)))  # type: ignore[misc]
    assert isinstance(redacted_url(url), str)


ANYWHERE = netguard.GuardPolicy(allow_http=True, allow_networks=ANYONE)


@fuzzed(url=URLS)
def test_host_that_is_dialled_is_the_one_that_was_judged(url: str) -> None:
    if netguard.refusal_of_url(url, ANYWHERE) is not None:
        return
    judged = netguard.with_judged_host(url)
    origin = netguard.origin_of(judged)
    try:
        dialled = URL(judged, encoded=_SENDABLE_AS_WRITTEN.fullmatch(judged) is not None)
    except ValueError:
        return  # the sender refuses it
    assert origin is not None
    assert dialled.raw_host is not None
    with suppress(ValueError):
        origin = (origin[0], str(ip_address(origin[1])), origin[2])
    assert (dialled.scheme, dialled.raw_host.lower(), dialled.port) == origin


@fuzzed(headers=st.lists(st.tuples(mutated_text(["X-A", "ce-id"], ["\r\n"]), TEXTS), max_size=40))
def test_headers_for_a_sink(headers: list[tuple[str, str]]) -> None:
    why = netguard.check_custom_headers(headers)
    assert why is None or why
    if why is None:
        assert base.header_errors(headers) == []


# Commands ----------------------------------------------------------------------------------------------------------

RAW_REQUEST = b"POST /hook HTTP/1.1\r\nwebhook-id: evt_1\r\nContent-Length: 2\r\n\r\n{}\r\n"


@fuzzed(raw=mutated(st.just(RAW_REQUEST), [b"\r\n", b"\n", b"\n\n", b":", b" ", b"\xff", b"\x00", b"9" * 11]))
def test_a_captured_request(raw: bytes) -> None:
    found = value_or_refusal(lambda: local.parse_request(raw), UsageError)
    if found is not None:
        assert isinstance(found[1], bytes)
        assert all(isinstance(name, str) for name in found[0])


@fuzzed(text=mutated_text(["120/60", "1779271300.5", "2026-05-20T10:00:08Z", "failed,overdue", '{"deal": 42}']))
def test_options(text: str) -> None:
    limit = value_or_refusal(lambda: options.read_rate_limit(text), UsageError)
    assert limit is None or (limit[0] >= 1 and 0 < limit[1] < math.inf)
    now = value_or_refusal(lambda: local._read_time(text), UsageError)
    assert now is None or now >= 0
    types = value_or_refusal(lambda: options.type_names(text), UsageError)
    assert types is None or types
    metadata = value_or_refusal(lambda: options.read_metadata(text), UsageError)
    assert metadata is None or isinstance(metadata, dict)
    assert "/" not in (
        value_or_refusal(lambda: client.path_of("jobs", text).removeprefix("/v1/jobs/"), ValueError) or ""
    )


@fuzzed(
    url=mutated_text(["http://127.0.0.1:3000/hook", "localhost:3000", "https://h.example", "[::1]:1"], [":", "@", "["])
)
def test_urls_for_commands(url: str) -> None:
    target = value_or_refusal(lambda: listen._target(url), UsageError)
    assert target is None or target.hostname
    made = value_or_refusal(lambda: client.Api(url, url), UsageError)
    assert made is None or made.url == url.rstrip("/")


@fuzzed(
    raw=raw_json(
        JSON_VALUES,
        [
            {"title": "t", "detail": None, "errors": [{"pointer": "/id", "detail": None}]},
            {"type": "a", "time": None, "data": {"hint": {"meaning": None}}, "sequence": None, "previousstatus": None},
        ],
    ),
    status=st.integers(300, 599),
)
def test_an_answer_to_a_command(raw: bytes, status: int) -> None:
    assert str(client._refusal("http://h", status, raw))
    document = value_or_refusal(lambda: client._document(raw, "http://h"), RelayError)
    if isinstance(document, dict):
        assert isinstance(one_line(document, "evt_01m8f7d6bj5129j65gwngwpkfw"), str)
    events = list(event_stream._server_events(io.BytesIO(raw + b"\n\nid: \xff\ndata: 1\ndata\n\n")))  # type: ignore[arg-type]
    assert all(isinstance(event.data, bytes) for event in events)
