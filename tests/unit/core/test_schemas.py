"""The published schemas: they are schemas, every event passes its own, and no broken event does."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from relay.core import relay_events
from relay.core.events.event import CREDITS_LOW, MAX_EVENT_BYTES, Origin, from_transition, job_event_kind, relay_event
from relay.core.jobs.job import (
    JOB_EVENTS,
    Job,
    Observation,
    Problem,
    Progress,
    Transition,
    detect,
    mark_not_found,
    mark_overdue,
)
from relay.core.samples import sample_event
from relay.core.subscriptions.filters import known_types
from tests.support.schema_check import SCHEMAS, check_event

NOW = 1779271208.0
PREFIX = "ai.revor.job"
ORIGIN = Origin(
    source="https://api.example/jobs",
    type_prefix=PREFIX,
    dataschema="http://127.0.0.1:8080/schemas/job-status.v1.json",
    account_source="https://api.example/accounts",
)
WEBSETS = replace(ORIGIN, type_prefix="ai.revor.webset", succeeded_as="completed", tells_progress=True)
TYPES = known_types([ORIGIN, WEBSETS])
EVENT_ID = "evt_01jvpq0000000000000000000e"


def sample(type: str) -> dict[str, Any]:
    origin = WEBSETS if ".webset." in type else ORIGIN
    event = sample_event(type, event_id=EVENT_ID, now=NOW, origin=origin, dataschema_base="http://127.0.0.1:8080")
    assert (event.id, event.type) == (EVENT_ID, type)
    return check_event(event.body)


@pytest.mark.parametrize("name", relay_events.SCHEMA_NAMES)
def test_each_file_is_a_schema(name: str) -> None:
    schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"/schemas/{name}.json"


@pytest.mark.parametrize("type", TYPES)
def test_a_sample_of_every_type_passes(type: str) -> None:
    document = sample(type)
    assert document["dataschema"] == relay_events.dataschema_for(type, "http://127.0.0.1:8080/")
    assert document["datacontenttype"] == "application/json"


def test_a_success_has_the_status_of_one_whatever_its_type_says() -> None:
    document = sample("ai.revor.webset.completed")
    assert document["data"]["status"] == "succeeded"
    assert fails({**document, "data": {**document["data"], "status": "completed"}})


def test_there_is_no_sample_of_an_unknown_type() -> None:
    with pytest.raises(ValueError, match="not an event type of this source"):
        sample_event("ai.revor.job.paid", event_id=EVENT_ID, now=NOW, origin=ORIGIN, dataschema_base="http://x")


@pytest.mark.parametrize(
    "type",
    [
        *("", "ai.revor.job.exploded", "failed", ".job.failed", "relay.unheard", "a.failed", ".account.added"),
        "a.account.x",
    ],
)
def test_there_is_no_schema_for_an_unknown_type(type: str) -> None:
    with pytest.raises(ValueError, match="not an event type"):
        relay_events.schema_name_for(type)


Change = Callable[[dict[str, Any]], object]
JOB_CHANGES: dict[str, Change] = {
    "id of something else": lambda event: event.update(id="job_1"),
    "no source": lambda event: event.pop("source"),
    "unknown type": lambda event: event.update(type="ai.revor.job.exploded"),
    "no subject": lambda event: event.pop("subject"),
    "time with microseconds": lambda event: event.update(time="2026-05-20T10:00:08.000000Z"),
    "local time": lambda event: event.update(time="2026-05-20T10:00:08.000+02:00"),
    "text as data": lambda event: event.update(data=json.dumps(event["data"])),
    "data_base64": lambda event: event.update(data_base64="e30="),
    "schema of another type": lambda event: event.update(dataschema="http://x/schemas/relay-test.v1.json"),
    "short sequence": lambda event: event.update(sequence="3"),
    "no partition key": lambda event: event.pop("partitionkey"),
    "no account": lambda event: event.pop("account"),
    "wrong status": lambda event: event.update(status="running"),
    "no previous status beside one in the data": lambda event: event.pop("previousstatus"),
    "a previous status in the first event": lambda event: event.update(sequence="0000000001"),
    "wrong status in the data": lambda event: event["data"].update(status="running"),
    "inferred as text": lambda event: event["data"].update(inferred="no"),
    "metadata as a list": lambda event: event["data"].update(metadata=[]),
    "a result of a failed job": lambda event: event.update(resultstatus="skipped"),
    "half a hint": lambda event: event["data"]["hint"].pop("who"),
    "a hint that may or may not be safe": lambda event: event["data"]["hint"].update(repeat="perhaps"),
    "truncated, but not": lambda event: event["data"].update(truncated=False),
}


def fails(document: dict[str, Any]) -> bool:
    try:
        check_event(orjson.dumps(document))
    except (AssertionError, ValueError):
        return True
    return False


@pytest.mark.parametrize("change", JOB_CHANGES.values(), ids=JOB_CHANGES.keys())
def test_a_broken_job_event_fails(change: Change) -> None:
    document = sample("ai.revor.job.failed")
    broken = copy.deepcopy(document)
    change(broken)
    assert broken != document
    assert fails(broken)


OPEN = ("relay.source.", "relay.credits.", "relay.group.", "relay.incident.", "ai.revor.account.")
"""Types whose events may get new fields."""


@pytest.mark.parametrize("type", [type for type in TYPES if job_event_kind(type) is None])
def test_a_broken_event_about_no_job_fails(type: str) -> None:
    document = sample(type)
    optional = ("hint",) if ".account." in type else ("open_jobs", "hint")
    changes: list[Change] = [
        lambda event: event.update(source="/relay" if ".account." in type else "https://api.example/jobs"),
        lambda event: event.update(type="relay.unheard"),
        lambda event: event.update(id="x"),
        lambda event: event.update(time="yesterday"),
        lambda event: event.update(dataschema="http://x/schemas/job-status.v1.json"),
        *(lambda event, name=name: event["data"].pop(name) for name in document["data"] if name not in optional),
        *(lambda event, name=name: event["data"].update({name: {}}) for name in document["data"] if name != "metadata"),
    ]
    if not type.startswith(OPEN):
        changes.append(lambda event: event.update(sequence="0000000001"))
        changes.append(lambda event: event["data"].update(extra=1))
    for number, change in enumerate(changes):
        broken = copy.deepcopy(document)
        change(broken)
        assert broken != document
        assert fails(broken), f"change {number} passed"


def test_an_event_over_the_limit_fails() -> None:
    document = sample("ai.revor.job.failed")
    document["data"]["job"]["text"] = "x" * MAX_EVENT_BYTES
    with pytest.raises(AssertionError, match="bytes"):
        check_event(orjson.dumps(document))


def test_every_detected_transition_matches_the_schema() -> None:
    waiting = Observation(status="queued", observed_at=NOW, upstream={"id": "1"})
    polls = [
        waiting,
        replace(waiting, status="scheduled"),
        replace(waiting, status="running", started_at=NOW + 1, attempt_count=1),
        replace(waiting, status="queued", next_attempt_at=NOW + 60, started_at=NOW + 1, attempt_count=1),
        replace(waiting, status="parked", upstream={"id": "1", "more": [1, {"deep": None}]}),
        replace(waiting, status="succeeded", started_at=NOW + 70, finished_at=NOW + 80, attempt_count=3),
    ]
    progress, transitions = Progress(), list[Transition]()
    for poll in polls:
        found, progress = detect(progress, poll)
        transitions += found
    found, progress = mark_overdue(progress, NOW)
    transitions += found
    transitions += mark_not_found(progress, NOW)[0]
    polls[-1] = replace(polls[-1], result={"rows": 3}, result_problem=Problem(code="not_found", message="gone"))
    assert {transition.kind for transition in transitions} == set(JOB_EVENTS) - {"failed", "cancelled", "progress"}
    job = Job(uid="job_1", external_id="1", source="s", account="default")
    for transition in transitions:
        check_event(from_transition(EVENT_ID, job, transition, ORIGIN, seen=polls[-1]).body)


def test_unknown_fields_of_a_source_event_are_null_or_absent() -> None:
    data = relay_events.source_trouble_data(source="s", account="default", since=NOW, reason="no answer")
    assert "open_jobs" not in data
    schema = "http://x/schemas/relay-source.v1.json"
    check_event(relay_event(EVENT_ID, "relay.source.down", NOW, data, dataschema=schema).body)
    data = relay_events.credits_low_data(source="s", account="default", available=0.5, threshold=1, since=NOW)
    schema = "http://x/schemas/relay-credits.v1.json"
    check_event(relay_event(EVENT_ID, CREDITS_LOW, NOW, data, dataschema=schema).body)
    data = relay_events.subscription_data(
        subscription_id="sub_1", sink="https://x.example/…", reason="http_410", since=None
    )
    schema = "http://x/schemas/relay-subscription.v1.json"
    check_event(relay_event(EVENT_ID, "relay.subscription.disabled", NOW, data, dataschema=schema).body)
