"""Mapping of upstream answers: the documented ones, then any JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from relay.clock import from_rfc3339
from relay.core.events.event import Origin, from_transition
from relay.core.jobs.connect_accounts import MAX_ACCOUNTS, Listing
from relay.core.jobs.job import KNOWN_STATUSES, Job, Observation, Progress, Recipient, detect
from relay.core.jsontext import dumps
from relay.sources.definition import SourceDefinition, load_definition
from relay.sources.mapping import (
    MAX_ITEMS,
    MAX_UNITS,
    Document,
    Malformed,
    Registered,
    observe,
    observe_item,
    read_create,
    read_credits,
    read_error,
    read_listing,
    registered,
)
from relay.sources.sections import Create, ErrorFields, Rule

SAMPLES = json.loads((Path(__file__).parents[2] / "fixtures" / "revor-samples.json").read_text())
REVOR = load_definition("revor")
NOW = 1779271300.0
ORIGIN = Origin(source="https://revor.ai/jobs", type_prefix="ai.revor.job", dataschema="http://x/schemas/a.json")


def seen(item: dict[str, Any], **options: Any) -> Observation:
    observation = observe_item(REVOR, item, now=NOW, **options)
    assert isinstance(observation, Observation)
    return observation


def created_at(body: Any, place: dict[str, Any], *, read: str = "/v1/ops/{id}", at: str | None = None) -> Any:
    """What is read of the answer to a create that has the id at this place; `at`: the address in its header."""
    plain = load_definition("databricks-runs")
    create = Create.model_validate({"path": "/v1/ops", **place})
    resource = plain.resource.model_copy(update={"path": read, "creates": (create,)})
    definition = plain.model_copy(update={"resources": {"ops": resource}})
    return registered(definition, body, now=NOW, create=resource.create_at("/v1/ops"), location=at)


RUNNING = {"run_id": 7, "state": {"life_cycle_state": "RUNNING"}}


@pytest.mark.parametrize(
    ("body", "place", "external_id"),
    [
        (RUNNING, {}, "7"),
        ({"op": {"id": "a"}, **RUNNING}, {"id": "/op/id"}, "a"),
        ({"op": {"id": 12}}, {"id": "/op/id"}, "12"),
        ({"op": {"id": True}}, {"id": "/op/id"}, None),
        ({"op": {"id": ""}}, {"id": "/op/id"}, None),
        ({"op": {"id": "a\n"}}, {"id": "/op/id"}, None),
        ({"op": {"id": "a" * 201}}, {"id": "/op/id"}, None),
        ({}, {"id": "/op/id"}, None),
    ],
)
def test_id_of_a_new_job_is_where_its_create_says(
    body: dict[str, Any], place: dict[str, Any], external_id: str | None
) -> None:
    found = created_at(body, place)
    assert (found and found.external_id) == external_id
    assert found is None or (found.observation is None) is bool(place)  # else the answer is the job


@pytest.mark.parametrize(
    ("location", "read", "external_id"),
    [
        ("https://x.example/v1/ops/a?b=c#d", "/v1/ops/{id}", "a"),
        ("/v1/ops/a%2Fb", "/v1/ops/{id}", "a/b"),
        ("https://x.example/prefix/v1/ops/a/", "/v1/ops/{id}", "a"),
        ("https://x.example/subs/1/ops/a", "/{+id}", "subs/1/ops/a"),
        ("https://x.example/api/v3/repos/o/r/runs/7", "/repos/{+id}", "o/r/runs/7"),
        ("https://x.example/prefix/v1/ops/b/result?c", "/v1/ops/{id}/result", "b"),
        ("https://x.example/v1/ops/a" + "/" * 2_000, "/v1/ops/{id}", None),
        ("a", "/v1/ops/{id}", "a"),
        ("https://x.example/v1/ops/a/result", "/v1/ops/{id}/result", "a"),
        ("https://x.example", "/v1/ops/{id}", None),
        ("https://[x", "/v1/ops/{id}", None),
        ("", "/v1/ops/{id}", None),
    ],
)
def test_id_of_a_new_job_is_the_end_of_its_address(location: str, read: str, external_id: str | None) -> None:
    found = created_at({}, {"location": "Operation-Location"}, read=read, at=location)
    assert (found and found.external_id) == external_id
    assert found is None or found.observation is None


# The documented answers --------------------------------------------------------------------------------------------


def test_answer_to_a_create() -> None:
    for body in (
        SAMPLES["create_response"]["body"],
        {"ok": True, "item": SAMPLES["create_response"]["body"]["item"]},
        {"item": SAMPLES["create_response"]["body"]["item"]},
    ):
        job = registered(REVOR, body, now=NOW)
        assert isinstance(job, Registered)
        assert job.external_id == "job_uuid"
        assert job.observation is not None
        assert (job.observation.status, job.observation.channel) == ("queued", "email")
        assert job.observation.scheduled_at == from_rfc3339("2026-05-20T10:00:00Z")
        assert job.observation.request_id == body.get("request_id")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"id": "x"},
        {"item": None},
        {"item": "x"},
        {"item": {}},
        {"item": {"id": ""}},
        {"item": {"id": None}},
        {"item": {"id": True}},
        {"item": {"id": ["x"]}},
        {"item": {"id": "a\nb"}},
        {"item": {"id": "x" * 201}},
        {"ok": False, "item": {"id": "x"}},
        {"ok": "yes", "item": {"id": "x"}},
        SAMPLES["error_envelope"]["body"],
        SAMPLES["webset_created"]["body"],
        SAMPLES["accounts"]["body"],
        SAMPLES["success_envelope"]["body"],
    ],
)
def test_bodies_that_are_not_answers_to_a_create(body: dict[str, Any]) -> None:
    assert registered(REVOR, body, now=NOW) is None


# Not as documented -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not_json"),
        (b"<html>", "not_json"),
        (b'{"item": {"id": "x", "status": "que', "not_json"),
        (b'{"item": {"status": "queued", "n": NaN}}', "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b"[]", "no_item"),
        (b"null", "no_item"),
        (b'"x"', "no_item"),
        (b"{}", "no_item"),
        (b'{"ok": true, "item": []}', "no_item"),
        (b'{"ok": true, "item": {}}', "no_status"),
        (b'{"item": {"status": null}}', "no_status"),
        (b'{"item": {"status": 5}}', "no_status"),
        (b'{"item": {"status": ["queued"]}}', "no_status"),
        (b'{"item": {"status": " \\u0000\\n "}}', "no_status"),
        (b'{"item": {"id": "y", "status": "queued"}}', "other_job"),
        (b'{"item": {"id": null, "status": "queued"}}', "other_job"),
        (b'{"item": {"id": {}, "status": "queued"}}', "other_job"),
        (b'{"item": {"id": "X", "status": "queued"}}', "other_job"),
    ],
)
def test_answers_without_the_job(body: bytes, reason: str) -> None:
    assert observe(REVOR, body, now=NOW, external_id="x") == Malformed(reason=reason)


BIG = 123456789012345678901234567890


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (rb'"text": "Hi \ud83d"', {"text": "Hi \N{REPLACEMENT CHARACTER}"}),
        (rb'"\udc00": {"\ud83d": 1}', {"\N{REPLACEMENT CHARACTER}": {"\N{REPLACEMENT CHARACTER}": 1}}),
        (b'"text": "caf\xe9"', {"text": "caf\N{REPLACEMENT CHARACTER}"}),
        (b'"number": %d, "list": [-%d]' % (BIG, BIG), {"number": BIG, "list": [-BIG]}),
        (b'"number": 1e400', {"number": "1e400"}),
        (b'"number": %s' % (b"9" * 5_000), {"number": "9" * 5_000}),
    ],
)
def test_any_json_item_is_read_and_serialised(field: bytes, value: dict[str, Any]) -> None:
    observation = observe(REVOR, b'{"item": {"id": "x", "status": "running", %s}}' % field, now=NOW, external_id="x")
    assert isinstance(observation, Observation)
    assert observation.upstream == {"id": "x", "status": "running", **value}
    body = REVOR.answer_body(observation.upstream, "req_1")
    assert json.loads(body)["item"] == observation.upstream
    (transition,), _ = detect(Progress(), observation)
    job = Job(uid="job_1", external_id="x", source="revor", account="default", metadata={"big": BIG})
    event = from_transition("evt_1", job, transition, ORIGIN, seen=observation)
    assert json.loads(event.body)["data"]["job"] == event.document()["data"]["job"] == observation.upstream
    assert event.document()["data"]["metadata"] == {"big": BIG}


NO_TIMES: tuple[object, ...] = (
    *(None, "", "soon", 1779271200, 1779271200.5, True, [], {}, "2026-05-20", "2026-05-20T10:00:00"),
    *("2026-13-20T10:00:00Z", "2026-05-20T25:00:00Z", "2026-05-20T10:00:60Z", "2026-W21-3T10:00:00Z"),
    *("1969-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "x" * 100_000),
    *("２０２６-05-20T10:00:00Z", "2026-05-20T10:00:00Z\n", "2026-05-20T10:00:00+99:99"),
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("2026-05-20T10:00:00.000Z", 1779271200.0),
        ("2026-05-20t10:00:00z", 1779271200.0),
        ("2026-05-20T12:00:00.25+02:00", 1779271200.25),
        ("2026-05-20T10:00:00.123456789Z", 1779271200.123456),
        *((bad, None) for bad in NO_TIMES),
    ],
)
def test_times(text: object, seconds: float | None) -> None:
    names = ("scheduled_at", "started_at", "finished_at", "next_attempt_at")

    observation = seen({"status": "queued"} | dict.fromkeys(names, text))

    for name in names:
        assert getattr(observation, name) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *((1779271200, 1779271200.0), (1779271200.5, 1779271200.5), ("1779271200", 1779271200.0)),
        *((bad, None) for bad in (0, -1, True, None, "", "1779271200.5", "-1", "\u0661" * 10, "9" * 5000, [])),
    ],
)
def test_epoch_times_are_numbers_or_their_digits(value: object, seconds: float | None) -> None:
    item = {"id": "batch_1", "status": "in_progress", "in_progress_at": value}
    observation = observe_item(load_definition("openai-batch"), item, now=NOW)
    assert isinstance(observation, Observation)
    assert observation.started_at == seconds


# Whatever JSON can hold --------------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
words = st.sampled_from([*sorted(KNOWN_STATUSES), "settling", "2026-05-20T10:00:00.000Z", "x"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
item_names = st.sampled_from(
    [place[0] for place in REVOR.resource.read_fields if len(place) == 1] + ["error", "result"]
)
items = st.dictionaries(item_names, words | values)


# Listings of connect accounts ---------------------------------------------------------------------------------------


def listed(*items: object, **fields: object) -> Listing:
    found = read_listing(REVOR, dumps({"ok": True, "items": list(items), **fields}))
    assert isinstance(found, Listing)
    return found


def account(id: object = "a", **fields: object) -> dict[str, object]:
    return {"account_id": id, "channel": "email", "name": "Ada", "status": "ok", "can_send": True, **fields}


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "ok"),
        ({"can_send": False}, "cannot_send"),
        ({"status": "credentials"}, "needs_reconnect"),
        ({"status": "credentials", "can_send": False}, "needs_reconnect"),
        ({"status": "error"}, "cannot_send"),
        ({"status": "error", "can_send": False}, "cannot_send"),
        ({"can_send": None}, "ok"),
        ({"can_send": "no"}, "ok"),
        ({"status": "paused"}, "ok"),
        ({"status": "paused", "can_send": False}, "cannot_send"),
        ({"status": None}, "ok"),
        ({"status": "paused", "can_send": 1}, None),
        ({"status": ["ok"], "can_send": None}, None),
    ],
)
def test_state_of_an_account(fields: dict[str, object], state: str | None) -> None:
    found = listed(account(**fields))
    assert (found.accounts["a"].state, found.is_complete) == (state, True)


@pytest.mark.parametrize(
    ("id", "kept"),
    [
        ("a", "a"),
        (7, "7"),
        (BIG, str(BIG)),
        ("é/日", "é/日"),
        ("x" * 128, "x" * 128),
        ("x" * 129, None),
        ("", None),
        (" a", None),
        ("a\0b", None),
        ("a\nb", None),
        (None, None),
        (True, None),
        (1.5, None),
        ({"id": "a"}, None),
    ],
)
def test_id_of_an_account(id: object, kept: str | None) -> None:
    found = listed(account(id), account("another"))
    assert (set(found.accounts), found.is_complete) == ({"another", kept} - {None}, kept is not None)


@pytest.mark.parametrize("item", [None, 1, "a", [], {}, {"id": "a"}])
def test_item_that_is_no_account_makes_a_listing_incomplete(item: object) -> None:
    found = listed(item, account("b"))
    assert (list(found.accounts), found.is_complete) == (["b"], False)


def test_a_listing_is_bounded() -> None:
    found = listed(*(account(f"account {number}") for number in range(100_000)))
    assert (len(found.accounts), found.is_complete) == (MAX_ACCOUNTS, False)
    full = listed(*(account(f"account {number}") for number in range(MAX_ACCOUNTS)), account("account 0"))
    assert (len(full.accounts), full.is_complete) == (MAX_ACCOUNTS, True)
    again = listed(*[account()] * MAX_ITEMS, account("b"))
    assert (list(again.accounts), again.is_complete) == (["a"], False), "the rest of the items is not read"
    assert not listed(*[{}] * (MAX_ITEMS + 1)).accounts
    cut = listed(account(name="n" * 10_000, channel="c" * 10_000, status="s" * 10_000)).accounts["a"]
    assert max(len(text or "") for text in (cut.name, cut.channel, cut.status)) <= 128


def test_lone_surrogates_and_control_characters_leave_text_that_can_be_stored() -> None:
    body = rb'{"items": [{"account_id": "a", "name": "b\ud83d\u0000\n", "channel": "\udc00", "status": "o\u0000k"}]}'
    found = read_listing(REVOR, body)
    assert isinstance(found, Listing)
    one = found.accounts["a"]
    assert (one.name, one.channel, one.status, one.state) == ("b\ufffd", "\ufffd", "ok", "ok")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not_json"),
        (b"[]", "no_items"),
        (b'{"ok": true}', "no_items"),
        (b'{"items": {"a": 1}}', "no_items"),
        (b'{"items": null}', "no_items"),
        (b'{"ok": false, "items": []}', "refused"),
    ],
)
def test_answers_that_are_no_listing(body: bytes, reason: str) -> None:
    assert read_listing(REVOR, body) == Malformed(reason=reason)


# Credits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "available"),
    [
        ({"available_credits": 120}, 120),
        ({"available_credits": 0}, 0),
        ({"available_credits": 120.5}, 120.5),
        ({"available_credits": 120.0}, 120),
        ({"item": {"available_credits": 7}, "available_credits": 120}, 7),
        ({"item": {"available_credits": None}, "available_credits": 120}, 120),
        ({"item": [], "available_credits": MAX_UNITS}, int(MAX_UNITS)),
    ],
)
def test_credits_that_are_left(answer: dict[str, object], available: float) -> None:
    found = read_credits(REVOR, dumps({"ok": True, **answer}))
    assert found == Document(value=available)
    assert isinstance(found, Document)
    assert type(found.value) is type(available)


NO_NUMBER = "no number of credits at /item/available_credits or /available_credits"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not_json"),
        (b'{"available_credits": NaN}', "not_json"),
        (b'{"available_credits": 1e999}', NO_NUMBER),
        (b'{"available_credits": 1e16}', NO_NUMBER),
        (b'{"available_credits": 1%s}' % (b"0" * 400), NO_NUMBER),
        (b'{"available_credits": -1}', NO_NUMBER),
        (b'{"available_credits": "120"}', NO_NUMBER),
        (b'{"available_credits": true}', NO_NUMBER),
        (b'{"available_credits": [120]}', NO_NUMBER),
        (b'{"item": {"available_credits": "many"}, "available_credits": 120}', NO_NUMBER),
        (b'{"item": {"available": 120}}', NO_NUMBER),
        (b"[]", NO_NUMBER),
        (b"120", NO_NUMBER),
        (b'{"ok": false, "available_credits": 120}', "refused"),
    ],
)
def test_answers_without_credits_name_the_places(body: bytes, reason: str) -> None:
    assert read_credits(REVOR, body) == Malformed(reason=reason)


# --- whom a create names

EVERY = ("address", "profile_url", "phone")
KIM = {"address": "kim@example.com", "profile_url": "https://www.linkedin.com/in/kim", "phone": "+14155550100"}


@pytest.mark.parametrize(
    ("document", "capture", "kept"),
    [
        ({"recipient": KIM}, (), None),
        ({"recipient": KIM}, EVERY, Recipient(**KIM)),
        ({"recipient": KIM}, ("phone",), Recipient(phone="+14155550100")),
        ({"recipient": {"address": "kim@example.com", "name": "Kim"}}, EVERY, Recipient(address="kim@example.com")),
        ({"recipient": {"address": "kim@example.com"}}, ("phone",), None),
        ({"profile_url": KIM["profile_url"]}, EVERY, Recipient(profile_url=KIM["profile_url"])),
        ({"profile_url": "https://other.example", "recipient": KIM}, EVERY, Recipient(**KIM)),
        ({"profile_url": KIM["profile_url"], "recipient": {"profile_url": 1}}, EVERY,
         Recipient(profile_url=KIM["profile_url"])),
        ({"address": "kim@example.com", "phone": "+14155550100"}, EVERY, None),
        ({"recipient": {"address": "a" * 321, "phone": "+14155550100"}}, EVERY, Recipient(phone="+14155550100")),
        ({"recipient": {"address": "kim\0@example.com"}}, EVERY, None),
        ({"recipient": {"address": {"address": "kim@example.com"}}}, EVERY, None),
        ({"recipient": "kim@example.com"}, EVERY, None),
        ({"recipient": [KIM]}, EVERY, None),
        ({"recipient": None}, EVERY, None),
        ({}, EVERY, None),
    ],
)  # fmt: skip
def test_only_what_is_captured_is_read_of_a_recipient(
    document: dict[str, Any], capture: tuple[str, ...], kept: Recipient | None
) -> None:
    asked = read_create(REVOR.resource.request, dumps({**document, "metadata": {"a": 1}}), capture)
    assert asked.recipient == kept
    assert (asked.metadata, asked.document()) == ({"a": 1}, {"metadata": {"a": 1}})
    assert "kim" not in repr(asked)


@pytest.mark.parametrize(
    "body",
    [None, b"", b"[]", b"\xff", b'{"recipient": ', b'{"recipient":' * 5000, b'{"recipient": {"address": "\xff\xfe"}}',
     b'{"recipient": {"address": "kim\\ud83d@example.com"}}'],
)  # fmt: skip
def test_a_body_that_cannot_be_read_names_nobody(body: bytes | None) -> None:
    assert read_create(REVOR.resource.request, body, EVERY).recipient is None


def of_revor(*states: dict[str, Any]) -> SourceDefinition:
    """Revor, whose jobs have other states."""
    rules = tuple(map(Rule.model_validate, states))
    resource = REVOR.resource.model_copy(update={"states": rules, "statuses": frozenset({200, 404})})
    return REVOR.model_copy(update={"resources": {"jobs": resource}})


@pytest.mark.parametrize(
    ("status_code", "body", "found"),
    [
        (404, b'{"ok": false, "error": {"code": "gone"}}', "cancelled"),
        (404, b'{"ok": true, "item": {"id": "trace-7", "status": "gone"}}', "cancelled"),
        (404, b"<html>", "cancelled"),
        (404, b"", "cancelled"),
        (200, b"", "succeeded"),
        (200, b'{"ok": false, "error": {"code": "gone"}}', "refused"),
        (200, b'{"ok": true, "item": {"id": "other"}}', "other_job"),
    ],
)
def test_state_by_the_status_of_an_error_counts_whatever_its_body(status_code: int, body: bytes, found: str) -> None:
    definition = of_revor({"http": [404], "state": "cancelled"}, {"http": [200], "state": "succeeded"})
    seen = observe(definition, body, now=NOW, external_id="one", status_code=status_code)
    assert (seen.status if isinstance(seen, Observation) else seen.reason) == found


@pytest.mark.parametrize(
    ("item", "status"), [({"id": "a"}, None), ({"id": "a", "status": "done"}, "succeeded"), ({"id": "a", "x": 1}, None)]
)
def test_create_proves_no_state_that_the_status_of_a_read_tells(item: dict[str, Any], status: str | None) -> None:
    """Its own 200 or 202 says that the job was made."""
    done = {"at": "/status", "is": "done", "state": "succeeded"}
    definition = of_revor(done, {"http": [404], "state": "cancelled"}, {"http": [200], "state": "succeeded"})
    found = registered(definition, {"ok": True, "item": item}, now=NOW)
    assert found is not None
    assert (found.external_id, found.observation and found.observation.status) == ("a", status)


def test_create_proves_no_state_by_what_it_lacks() -> None:
    """It may have the id alone."""
    definition = of_revor({"at": "/pending", "there": False, "state": "succeeded"})
    found = registered(definition, {"ok": True, "item": {"id": "a"}}, now=NOW)
    assert (found and found.external_id, found and found.observation) == ("a", None)


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [("quota_exceeded", "quota_exceeded", ""), ("No such key: see the docs", "", "No such key: see the docs")],
)
def test_error_that_is_a_text_is_a_code_or_a_sentence(text: str, code: str, message: str) -> None:
    definition = REVOR.model_copy(update={"error": ErrorFields.model_validate({"at": "/error"})})
    error = read_error(definition, dumps({"error": text}))
    assert (error.code, error.message) == (code, message)
