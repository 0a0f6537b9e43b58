"""W3C Trace Context, rule by rule: what is read, what is left out, and what is sent on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.events.event import Origin, from_transition
from relay.core.jobs.job import Job, Transition
from relay.core.jsontext import dumps, loads
from relay.core.published import MAX_EVENT_BYTES, Draft, Rules, read_document
from relay.core.trace_context import (
    MAX_STATE_CHARACTERS,
    TraceContext,
    of_event,
    of_headers,
    of_kept,
    of_values,
    span_context,
    with_context,
)

TRACE, SPAN = "12345678901234567890123456789012", "1234567890123456"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (PARENT, PARENT),
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        (f"00-{TRACE}-{SPAN}-02", f"00-{TRACE}-{SPAN}-02"),  # random, of level 2
        (f"00-{TRACE}-{SPAN}-ff", f"00-{TRACE}-{SPAN}-03"),  # flags of no known meaning are set to 0
        (f" \t{PARENT}\t ", PARENT),
        (f"cc-{TRACE}-{SPAN}-01", PARENT),  # a later version is read by its first four parts
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", PARENT),
        (f"01-{TRACE}-{SPAN}-01-", PARENT),
    ],
)
def test_valid_traceparent_is_sent_on_with_version_00(given: str, sent: str) -> None:
    assert of_values([given], []) == TraceContext(sent)


@pytest.mark.parametrize(
    "given",
    [
        *("", "-", "00", f"{PARENT}.", f"{PARENT}-", f"{PARENT}-more", f"{PARENT}\n", PARENT.replace("-", "_")),
        *(f"{version}-{TRACE}-{SPAN}-01" for version in ("ff", ".0", "0.", "000", "0000", "0", "", "CC", "٠٠")),
        *(f"00-{trace}-{SPAN}-01" for trace in ("0" * 32, f".{TRACE[1:]}", TRACE[1:], f"{TRACE}3", "A" * 32, "")),
        *(f"00-{TRACE}-{span}-01" for span in ("0" * 16, f".{SPAN[1:]}", SPAN[1:], f"{SPAN}7", "A" * 16, "")),
        *(f"00-{TRACE}-{SPAN}-{flags}" for flags in (".0", "0.", "001", "1", "", "0A")),
        *(f"cc-{TRACE}-{SPAN}-01.what", f"cc-{TRACE}-{SPAN}-012", f"cc-{TRACE}-{SPAN}", f"ff-{TRACE}-{SPAN}-01-x"),
        "\ud800" * 55,
        "0" * 100_000,
    ],
)
def test_invalid_traceparent_is_left_out_with_its_tracestate(given: str) -> None:
    assert of_values([given], ["foo=1"]) is None


@pytest.mark.parametrize("parents", [[], [PARENT, PARENT], [PARENT, ""]])
def test_there_has_to_be_one_traceparent(parents: list[str]) -> None:
    assert of_values(parents, ["foo=1"]) is None


KEY_256 = "z" * 256
ALLOWED = "".join(map(chr, [*range(0x20, 0x2C), *range(0x2D, 0x3D), *range(0x3E, 0x7F)]))
MEMBERS_32 = ",".join(f"bar{n:02}={n:02}" for n in range(32))


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ([], ""),
        ([""], ""),
        (["foo=1,bar=2"], "foo=1,bar=2"),
        (["foo=1,bar=2", "rojo=1,congo=2", "baz=3"], "foo=1,bar=2,rojo=1,congo=2,baz=3"),
        (["foo=1", ""], "foo=1"),
        (["", "foo=1"], "foo=1"),
        (["foo=1 \t , \t bar=2, \t baz=3"], "foo=1,bar=2,baz=3"),
        (["foo=1,,,bar=2,"], "foo=1,bar=2"),
        (["foo=1,foo=2"], "foo=1,foo=2"),  # kept as they are: what is unchanged is not judged
        (["foo= 1"], "foo= 1"),
        ([f"0az_-*/@={ALLOWED}"], f"0az_-*/@={ALLOWED}"),
        (["foo@=1,foo@@bar=1,foo@bar@baz=1"], "foo@=1,foo@@bar=1,foo@bar@baz=1"),
        ([f"{KEY_256}=1"], f"{KEY_256}=1"),
        ([f"foo={'v' * 256}"], f"foo={'v' * 256}"),
        ([MEMBERS_32], MEMBERS_32),
    ],
)
def test_tracestate_is_combined_and_kept_in_its_order(given: list[str], sent: str) -> None:
    assert of_values([PARENT], given) == TraceContext(PARENT, sent)


@pytest.mark.parametrize(
    "given",
    [
        *("foo", "foo=", "=1", "foo =1", "FOO=1", "foo.bar=1", "@foo=1", "_foo=1", "foo=bar=baz", "foo=1\x7f", "foo=é"),
        *(f"{KEY_256}z=1", f"foo={'v' * 257}", f"{MEMBERS_32},bar33=33", "foo=1\n", "foo=\ud800", "foo=1;bar=2=3"),
        ",".join(["a=1"] * 4_000),
    ],
)
def test_tracestate_with_an_invalid_member_is_left_out_whole(given: str) -> None:
    assert of_values([PARENT], ["baz=3", given]) == TraceContext(PARENT)


def test_longer_tracestate_loses_long_members_first_and_then_the_last_ones() -> None:
    short = [f"k{n}={'s' * 90}" for n in range(5)]
    long = [f"l{n}={'x' * 130}" for n in range(2)]
    assert of_values([PARENT], [",".join([long[0], *short, long[1]])]) == TraceContext(PARENT, ",".join(short))
    assert of_values([PARENT], [",".join([long[0], *short[:3], long[1]])]) == (PARENT, ",".join([long[0], *short[:3]]))
    seven = [f"k{n}={'s' * 90}" for n in range(7)]
    assert of_values([PARENT], [",".join(seven)]) == TraceContext(PARENT, ",".join(seven[:5]))
    exact = "k=" + "v" * 100 + ",l=" + "v" * 100 + ",m=" + "v" * 100 + ",n=" + "v" * 100 + ",o=" + "v" * 98
    assert len(exact) == MAX_STATE_CHARACTERS
    assert of_values([PARENT], [exact]) == TraceContext(PARENT, exact)


@given(st.lists(st.text("ab=,@ \t1é", max_size=40), max_size=4))
def test_tracestate_that_is_sent_is_read_as_the_same(states: list[str]) -> None:
    context = of_values([PARENT], states)
    assert context is not None
    assert of_values([PARENT], [context.tracestate]) == context
    assert of_kept(context.kept()) == context


@given(st.one_of(st.text(max_size=70), st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")))
def test_what_is_sent_is_always_a_valid_traceparent(text: str) -> None:
    context = of_values([text], [])
    if context is not None:
        assert of_values([context.traceparent], []) == context
        assert len(context.traceparent) == 55


def test_a_context_has_its_parts() -> None:
    context = TraceContext(f"00-{TRACE}-{SPAN}-03", "foo=1")
    assert (context.trace_id, context.span_id, context.flags) == (TRACE, SPAN, 3)
    assert span_context(TRACE, SPAN, 0xFF, "foo=1") == context
    assert TraceContext(PARENT).fields() == (("traceparent", PARENT),)
    assert context.fields() == (("traceparent", context.traceparent), ("tracestate", "foo=1"))
    assert of_kept(None) is None


HEADERS = [(b"accept", b"*/*"), (b"traceparent", PARENT.encode()), (b"tracestate", b"foo=1"), (b"tracestate", b"b=2")]


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], None),
        ([(b"trace-parent", PARENT.encode()), (b"tracestate", b"foo=1")], None),
        ([(b"traceparent", b"\xff\xfe")], None),
        (HEADERS, TraceContext(PARENT, "foo=1,b=2")),
        ([*HEADERS, (b"tracestate", b"c=\xff")], TraceContext(PARENT)),
        ([*HEADERS, HEADERS[1]], None),
    ],
)
def test_context_of_a_request(headers: list[tuple[bytes, bytes]], found: TraceContext | None) -> None:
    assert of_headers(headers) == found


def test_another_context_replaces_that_of_a_request() -> None:
    other = span_context("b" * 32, "c" * 16, 1)
    assert with_context(HEADERS, other) == [HEADERS[0], (b"traceparent", other.traceparent.encode())]


# --- events


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ({"id": "1"}, None),
        ({"id": "1", "traceparent": PARENT}, TraceContext(PARENT)),
        ({"id": "1", "traceparent": PARENT, "tracestate": "foo=1"}, TraceContext(PARENT, "foo=1")),
        ({"id": "1", "traceparent": PARENT, "data_base64": "YQ=="}, TraceContext(PARENT)),
        ({"id": "1", "traceparent": PARENT, "tracestate": 7}, TraceContext(PARENT)),
        ({"id": "1", "traceparent": "00-1-1-00"}, None),
        ({"id": "1", "traceparent": 7}, None),
        ({"id": "1", "tracestate": "foo=1"}, None),
        ({"id": "1", "data": {"traceparent": PARENT}}, None),
        ({"id": "1", "data_base64": "YQ==", "subject": f'"traceparent":"{PARENT}"'}, None),
        ({"id": '"data":', "traceparent": PARENT, "data": {}}, TraceContext(PARENT)),
    ],
)
def test_context_of_an_event_is_in_its_attributes_only(document: dict, found: TraceContext | None) -> None:
    assert of_event(dumps(document)) == found


def test_data_of_an_event_is_not_parsed_for_its_context() -> None:
    body = dumps({"id": '1","data":', "traceparent": PARENT, "tracestate": "foo=1", "data": 0})
    assert of_event(body[:-2] + b"not JSON}") == TraceContext(PARENT, "foo=1")


RULES = Rules(known=(), sources=frozenset())
EVENT = {"specversion": "1.0", "id": "a-1", "source": "/shop", "type": "com.acme.paid", "data": {"total": 1}}
OF_REQUEST = TraceContext(PARENT, "foo=1")
OWN = {"traceparent": f"00-{'a' * 32}-{SPAN}-00"}


@pytest.mark.parametrize(
    ("event", "attributes"),
    [
        ({}, {"traceparent": PARENT, "tracestate": "foo=1"}),
        (OWN, OWN),  # its own one wins, and is published unchanged
        ({"traceparent": "00-1-1-00"}, {"traceparent": "00-1-1-00"}),
        ({"tracestate": "bar=2"}, {"tracestate": "bar=2"}),
    ],
)
def test_published_event_gets_the_context_of_its_request_unless_it_has_its_own(event: dict, attributes: dict) -> None:
    draft = read_document({**EVENT, **event}, RULES, OF_REQUEST)
    assert isinstance(draft, Draft)
    assert {name: value for name, value in loads(draft.body).items() if name.startswith("trace")} == attributes


def test_event_without_room_for_a_context_is_published_without_it() -> None:
    plain = read_document({**EVENT, "data": ""}, RULES)
    assert isinstance(plain, Draft)
    full = {**EVENT, "data": "x" * (MAX_EVENT_BYTES - len(plain.body))}
    draft = read_document(full, RULES, OF_REQUEST)
    assert isinstance(draft, Draft)
    assert (len(draft.body), of_event(draft.body)) == (MAX_EVENT_BYTES, None)


ORIGIN = Origin(source="https://revor.ai/jobs", type_prefix="ai.revor.job", dataschema="https://relay.example/s.json")
TRANSITION = Transition(
    kind="running", status="running", previous_status=None, sequence=1, occurred_at=1.0, detected_at=2.0
)


@pytest.mark.parametrize("kept", ["", " ", "x", "\0", f"{PARENT[:-3]}", f"{PARENT}\n", f"01 {PARENT}"])
def test_job_whose_kept_context_cannot_be_read_has_events_without_one(kept: str) -> None:
    job = Job(uid="job_1", external_id="1", source="revor", account="default", trace=kept)
    body = from_transition("evt_1", job, TRANSITION, ORIGIN).body
    assert not any(name.startswith("trace") for name in loads(body))


@pytest.mark.parametrize("state", ["é=1", "\0", "\ud800", "no member"])
def test_job_whose_kept_tracestate_cannot_be_read_has_events_without_it(state: str) -> None:
    job = Job(uid="job_1", external_id="1", source="revor", account="default", trace=f"{PARENT} {state}")
    assert of_event(from_transition("evt_1", job, TRANSITION, ORIGIN).body) == TraceContext(PARENT)


def test_event_of_a_job_has_the_context_of_the_span_that_recorded_it_else_that_of_its_job() -> None:
    job = Job(uid="job_1", external_id="1", source="revor", account="default")
    traced = Job(uid="job_1", external_id="1", source="revor", account="default", trace=OF_REQUEST.kept())
    of_span = span_context(TRACE, "b" * 16, 1, "foo=1")
    bodies = [
        from_transition("evt_1", one, TRANSITION, ORIGIN, trace=trace).body
        for one, trace in ((job, None), (traced, None), (traced, of_span))
    ]
    assert [of_event(body) for body in bodies] == [None, OF_REQUEST, of_span]
    assert not any(name.startswith("trace") for name in loads(bodies[0]))
