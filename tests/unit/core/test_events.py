"""Events on the wire: read back by the CloudEvents SDK, which did not render them, and checked against the spec."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from relay.core.events.event import (
    CONTENT_TYPE,
    MAX_EVENT_BYTES,
    RELAY_EVENTS,
    Event,
    Hint,
    Origin,
    check_attribute,
    from_transition,
    in_binary_mode,
    is_stream,
    relay_event,
    render,
)
from relay.core.jobs.job import JOB_EVENTS, Job, Observation, Problem, Transition, detect, mark_not_found, mark_overdue
from relay.core.jsontext import dumps

ORIGIN = Origin(
    source="https://revor.ai/api/v1/outreach/jobs",
    type_prefix="ai.revor.job",
    dataschema="http://127.0.0.1:8080/schemas/job-status.v1.json",
)
JOB = Job(uid="job_01", external_id="0f9c", source="revor", account="default", metadata={"deal": 42})
AT = 1779271208.0  # 2026-05-20T10:00:08Z
READ_FIELDS = tuple(
    tuple(place.split("."))
    for place in ("id", "status", "channel", "attempt_count", "result.status", "result.parts", "absent", "absent.inner")
)
RESERVED = {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "data"}

FAILED = Transition(
    kind="failed", status="failed", previous_status="running", sequence=3, occurred_at=AT, detected_at=AT + 1.25
)
SEEN = Observation(
    status="failed",
    observed_at=AT + 1.25,
    channel="linkedin",
    action="outreach.dispatch",
    problem=Problem(code="gone", message="gone", retryable=False),
    upstream={
        "id": "0f9c",
        "status": "failed",
        "attempt_count": 2,
        "result": {"status": "x", "parts": [1], "more": "y"},
    },
    read_fields=READ_FIELDS,
    request_id="req_1",
)


def read(event: Event) -> dict[str, Any]:
    """The event as a receiver sees it. Every event goes through here: the SDK reads it and the spec's rules hold."""
    assert len(event.body) <= MAX_EVENT_BYTES
    parsed = JSONFormat().read(None, event.body)
    attributes, data = parsed.get_attributes(), parsed.get_data()
    assert isinstance(data, dict)

    document: dict[str, Any] = json.loads(event.body)
    assert document == event.document()
    assert (document["specversion"], document["datacontenttype"]) == ("1.0", "application/json")
    assert (document["id"], document["source"], document["type"]) == (event.id, event.source, event.type)
    assert document.get("subject") == event.subject
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document["time"])
    assert abs(attributes["time"] - datetime.fromtimestamp(event.time, UTC)) < timedelta(milliseconds=2)
    for name, value in document.items():
        if name != "data":
            assert re.fullmatch(r"[a-z0-9]{1,20}", name)
            assert isinstance(value, str)
            assert value
            assert not re.search(r"[\x00-\x1f\x7f-\x9f]", value)
    assert set(attributes) == set(document) - {"data"}
    return document


def test_a_job_event_is_as_the_contract_shows_it() -> None:
    hint = Hint(
        meaning="The LinkedIn account needs reconnecting",
        fix="Reconnect it in Revor",
        who="account owner",
        repeat="safe",
    )

    event = from_transition("evt_1", JOB, FAILED, ORIGIN, seen=SEEN, hint=hint)

    assert read(event) == {
        "specversion": "1.0",
        "id": "evt_1",
        "source": "https://revor.ai/api/v1/outreach/jobs",
        "type": "ai.revor.job.failed",
        "subject": "0f9c",
        "time": "2026-05-20T10:00:08.000Z",
        "datacontenttype": "application/json",
        "dataschema": "http://127.0.0.1:8080/schemas/job-status.v1.json",
        "sequence": "0000000003",
        "partitionkey": "0f9c",
        "account": "default",
        "channel": "linkedin",
        "action": "outreach.dispatch",
        "status": "failed",
        "previousstatus": "running",
        "data": {
            "job": SEEN.upstream,
            "status": "failed",
            "previous_status": "running",
            "occurred_at": "2026-05-20T10:00:08.000Z",
            "detected_at": "2026-05-20T10:00:09.250Z",
            "inferred": False,
            "request_id": "req_1",
            "metadata": {"deal": 42},
            "request": {"metadata": {}},
            "connect_account_id": None,
            "hint": {
                "meaning": "The LinkedIn account needs reconnecting",
                "fix": "Reconnect it in Revor",
                "who": "account owner",
                "repeat": "safe",
            },
            "problem": {"code": "gone", "message": "gone", "retryable": False},
        },
    }
    assert (event.sequence, event.job_uid, event.recorded_at) == (3, "job_01", AT + 1.25)
    assert CONTENT_TYPE == "application/cloudevents+json"


@pytest.mark.parametrize("kind", JOB_EVENTS)
def test_only_an_event_of_success_carries_the_result_s_status(kind: str) -> None:
    seen = replace(SEEN, result_status="skipped")
    document = read(from_transition("evt_1", JOB, replace(FAILED, kind=kind), ORIGIN, seen=seen))
    assert document.get("resultstatus") == ("skipped" if kind == "succeeded" else None)


@pytest.mark.parametrize(
    ("mark", "kind", "status"), [(mark_overdue, "overdue", "queued"), (mark_not_found, "not_found", "not_found")]
)
def test_events_without_a_poll_show_the_last_known_item(mark: Any, kind: str, status: str) -> None:
    _, progress = detect(JOB.progress, Observation(status="queued", observed_at=AT))
    job = replace(JOB, progress=progress, channel="email", upstream={"id": "0f9c", "status": "queued"})
    (transition,), _ = mark(progress, AT)

    document = read(from_transition("evt_1", job, transition, ORIGIN))

    assert document["type"] == f"ai.revor.job.{kind}"
    assert (document["status"], document["previousstatus"], document["channel"]) == (status, "queued", "email")
    assert document["data"]["job"] == {"id": "0f9c", "status": "queued"}
    assert document["data"]["request_id"] is None


def test_an_unfound_job_that_was_never_seen() -> None:
    (transition,), _ = mark_not_found(JOB.progress, AT)

    assert read(from_transition("evt_1", JOB, transition, ORIGIN))["data"]["job"] == {"id": "0f9c"}


@pytest.mark.parametrize("type_", RELAY_EVENTS)
@pytest.mark.parametrize("subject", [None, "revor/default"])
def test_events_about_the_relay(type_: str, subject: str | None) -> None:
    event = relay_event("evt_1", type_, AT, {"note": "é"}, dataschema="/schemas/relay.v1.json", subject=subject)

    document = read(event)

    assert document["source"] == "/relay"
    assert document["data"] == {"note": "é"}
    assert (event.sequence, event.job_uid, event.recorded_at) == (None, None, AT)


# Hostile and large ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("line\nbreak\r\n", "line break"),
        ("nul\x00 del\x7f c1\x85", "nul  del  c1"),
        ("\x01\x02", "-"),
        ("non\ufdd0 \uffff", "non"),
        ("x" * 1000, "x" * 256),
        ("Grüße 日本 👋", "Grüße 日本 👋"),
    ],
)
def test_upstream_text_is_made_a_valid_attribute(given: str, shown: str) -> None:
    seen = replace(SEEN, status=given, channel=given, action=given)
    transition = replace(FAILED, kind="status_unknown", status=given, previous_status=given)

    document = read(from_transition("evt_1", JOB, transition, ORIGIN, seen=seen))

    for name in ("channel", "action", "status", "previousstatus"):
        assert document[name] == shown
    assert document["data"]["status"] == given, "the data say it as it is"


def test_a_large_item_is_cut_to_what_the_relay_reads() -> None:
    seen = replace(SEEN, upstream={**SEEN.upstream, "channel": "é" * 5000, "html": "x" * 70_000})

    document = read(from_transition("evt_1", JOB, FAILED, ORIGIN, seen=seen))

    assert document["data"]["truncated"] is True
    job = document["data"]["job"]
    assert set(job["channel"]) == {"é"}
    assert len(job["channel"].encode()) <= 1536
    del job["channel"]
    assert job == {
        "id": "0f9c",
        "status": "failed",
        "attempt_count": 2,
        "result": {"status": "x"},
    }
    assert document["data"]["problem"] == {"code": "gone", "message": "gone", "retryable": False}
    assert document["data"]["metadata"] == {"deal": 42}


def test_a_large_item_without_a_problem_or_an_observation() -> None:
    large = {"id": "0f9c", "html": "x" * 70_000}
    seen = replace(SEEN, problem=None, upstream=large)

    assert read(from_transition("evt_1", JOB, FAILED, ORIGIN, seen=seen))["data"]["job"] == {"id": "0f9c"}
    job = replace(JOB, upstream=large)
    assert read(from_transition("evt_1", job, FAILED, ORIGIN))["data"]["job"] == {"id": "0f9c"}


def test_the_worst_text_still_fits_beside_the_largest_metadata() -> None:
    worst = "\x01" * 100_000  # each character takes six bytes of JSON
    fields = [f"field{n}" for n in range(15)]
    seen = replace(
        SEEN,
        upstream={**dict.fromkeys(fields, worst), "result": {"status": worst}, "error": {"a": worst, "b": worst}},
        read_fields=(*((name,) for name in fields), ("result", "status"), ("error", "a"), ("error", "b")),
        problem=Problem(code=worst, message=worst),
    )
    kept = {"note": "m" * 16_000}
    job = replace(JOB, external_id="é" * 200, metadata=kept, request={"metadata": kept}, connect_account_id="a" * 128)

    data = read(from_transition("evt_1", job, FAILED, ORIGIN, seen=seen))["data"]

    assert data["truncated"] is True
    assert (data["metadata"], data["request"]) == (job.metadata, job.request)
    assert data["job"]["field0"]


def test_the_create_s_own_metadata_goes_before_the_relay_s() -> None:
    for large, other, left in ((70_000, 10, {"m": "x" * 10}), (40_000, 40_000, {"m": "x" * 40_000})):
        job = replace(JOB, request={"metadata": {"m": "x" * large}}, metadata={"m": "x" * other})
        data = read(from_transition("evt_1", job, FAILED, ORIGIN, seen=SEEN))["data"]
        assert (data["request"], data["metadata"]) == ({"metadata": {}, "truncated": True}, left)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=10,
)  # fmt: skip


@given(
    upstream=st.dictionaries(st.sampled_from([*map(".".join, READ_FIELDS), "result", "other"]), json_values),
    word=st.text(),
    sequence=st.integers(1, 10**9),
    at=st.floats(0, 253402300799.0),
    padding=st.sampled_from([0, 70_000]),
)
def test_any_item_yields_a_valid_event(
    upstream: dict[str, Any], word: str, sequence: int, at: float, padding: int
) -> None:
    seen = replace(SEEN, upstream={**upstream, "padding": "x" * padding}, channel=word, action=word)
    transition = replace(FAILED, previous_status="running", sequence=sequence, occurred_at=at)

    document = read(from_transition("evt_1", JOB, transition, ORIGIN, seen=seen))

    assert document["sequence"] == f"{sequence:010d}"
    assert document["data"].get("truncated", False) == bool(padding)


# The attribute rules ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["text", True, False, 0, 2**31 - 1, -(2**31), "é", "\u00a0"])
def test_values_that_attributes_may_have(value: object) -> None:
    check_attribute("name20characters0123", value)


BAD_NAMES = ("", "Upper", "under_score", "dash-ed", "é", "a" * 21, "trailing\n")
BAD_VALUES: tuple[object, ...] = ("", "a\nb", "\x00", "\x9f", 2**31, -(2**31) - 1, 1.5, None, {}, [], b"x")


@pytest.mark.parametrize(
    ("name", "value"), [*((bad, "x") for bad in BAD_NAMES), *(("name", bad) for bad in BAD_VALUES)]
)
def test_names_and_values_that_attributes_may_not_have(name: str, value: object) -> None:
    with pytest.raises(ValueError, match="attribute"):
        check_attribute(name, value)


@pytest.mark.parametrize("given", [{"event_id": ""}, {"source": ""}, {"type": ""}, {"dataschema": ""}, {"subject": ""}])
def test_empty_attribute_is_refused(given: dict[str, Any]) -> None:
    attributes: dict[str, Any] = {
        **{"event_id": "evt_1", "source": "/relay", "type": "relay.test", "subject": None, "time": AT},
        **{"dataschema": "http://x/a.json", "extensions": {}, "data": {}},
    }
    with pytest.raises(ValueError, match=next(iter(given)).removeprefix("event_")):
        render(**{**attributes, **given})


@pytest.mark.parametrize(("name", "value"), [("tracestate", None), ("data", "x")])
def test_invalid_extension_is_refused(name: str, value: str | None) -> None:
    with pytest.raises(ValueError, match=name):
        render(
            event_id="evt_1",
            source="/relay",
            type="relay.test",
            subject=None,
            time=AT,
            dataschema="/schemas/relay.v1.json",
            extensions={name: value},
            data={},
        )


def test_reserved_names_are_the_spec_s() -> None:
    document = read(from_transition("evt_1", JOB, FAILED, ORIGIN, seen=SEEN))

    assert set(document) - RESERVED == {
        *("sequence", "partitionkey", "account", "channel", "action", "status", "previousstatus")
    }


@pytest.mark.parametrize(
    ("value", "header"),
    [
        ("Euro € \N{GRINNING FACE}", "Euro%20%E2%82%AC%20%F0%9F%98%80"),  # the example of the specification
        ('100 % "x"~!', "100%20%25%20%22x%22~!"),
        (True, "true"),
        (False, "false"),
        (-7, "-7"),
    ],
)
def test_attribute_in_binary_mode(value: object, header: str) -> None:
    body = dumps({"id": "evt_1", "datacontenttype": "application/json", "extra": value, "data": {"n": 2**70}})
    event = Event(id="evt_1", source="/s", type="t", subject=None, time=1.0, recorded_at=1.0, body=body)
    headers, data = in_binary_mode(event)
    assert headers == (("Content-Type", "application/json"), ("ce-id", "evt_1"), ("ce-extra", header))
    assert data == b'{"n":1180591620717411303424}'


@pytest.mark.parametrize(
    ("type_", "subject", "ordered"),
    [
        ("relay.incident.opened", "inc_1", True),
        ("relay.source.down", "revor/default", True),
        ("relay.subscription.disabled", "sub_1", True),
        ("relay.group.finished", "spring", True),
        ("relay.group.finished", None, False),
        ("relay.delivery.expired", "sub_1", False),
        ("relay.delivery.uncertain", "sub_1", False),
        ("relay.create.unknown", "int_1", False),
        ("relay.test", "sub_1", False),
    ],
)
def test_events_about_one_subject_keep_their_order(type_: str, subject: str | None, ordered: bool) -> None:
    def key(**changes: str | None) -> str | None:
        values = {"type": type_, "subject": subject, "owner": "revor/default", **changes}
        return relay_event("evt_1", now=AT, data={}, dataschema="/x", **values).order_key  # type: ignore[arg-type]

    assert is_stream(key()) is ordered
    if ordered:
        assert key() == key(type=f"{type_.rpartition('.')[0]}.another")
        assert len({key(), key(subject="another"), key(owner="revor/emea"), key(owner=None)}) == 4


SUCCEEDED = replace(FAILED, kind="succeeded", status="succeeded")


@pytest.mark.parametrize(
    ("read_result", "shown"),
    [
        ({"result": {"rows": [1, None]}}, {"result": {"rows": [1, None]}}),
        ({"result": False}, {"result": False}),
        (
            {"result_problem": Problem(code="not_found", message="m" * 9_000)},
            {"result_error": {"code": "not_found", "message": "m" * 256}},
        ),
        ({}, {}),
    ],
)
def test_result_of_a_succeeded_job_is_in_its_event(read_result: dict[str, Any], shown: dict[str, Any]) -> None:
    seen = replace(SEEN, **read_result)
    data = read(from_transition("evt_1", JOB, SUCCEEDED, ORIGIN, seen=seen))["data"]
    assert {name: data[name] for name in ("result", "result_error") if name in data} == shown
    earlier = read(from_transition("evt_1", JOB, FAILED, ORIGIN, seen=seen))["data"]
    assert "result" not in earlier, "only the job's end has it"


@pytest.mark.parametrize(("item_bytes", "truncated"), [(1_000, False), (70_000, True)])
def test_result_that_does_not_fit_is_left_out_before_the_item(item_bytes: int, truncated: bool) -> None:
    seen = replace(SEEN, result="r" * 65_000, upstream={**SEEN.upstream, "html": "x" * item_bytes})
    data = read(from_transition("evt_1", JOB, SUCCEEDED, ORIGIN, seen=seen))["data"]
    assert data["result"] == {"truncated": True}
    assert ("truncated" in data, "html" in data["job"]) == (truncated, not truncated)
