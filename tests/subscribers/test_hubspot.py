"""HubSpot: what a job's end writes to its contact and deal, at a strict stand-in of the CRM API, and what it never
writes twice."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.cli.demo.vendors.hubspot import DEALS_WRITE, SCHEMAS, WRITE
from relay.core.delivery import Outcome, Response
from relay.core.dialogue import previewed
from relay.core.events import Event, Hint, Origin, from_transition, relay_event
from relay.core.job import Job, Observation, Problem, Transition
from relay.errors import InvalidRequest
from subscribers.hubspot import HUBSPOT, KEY_PROPERTY, MAX_TEXT, NOTED, HubSpot, person_of, read_answer
from tests.support.hostile_texts import TEXTS
from tests.vendors.hubspot import CONTEXT, NOW, Account, Definition, Fault, subscription

ORIGIN = Origin(source="https://api.example/jobs", type_prefix="ai.revor.job", dataschema="http://x/s.json")
KIND = HubSpot()
OK = Outcome(verdict="delivered", reason="ok")
HINT = Hint(meaning="The account needs reconnecting", fix="Reconnect it in Revor", who="account owner", repeat="safe")


def event(kind: str = "failed", nth: int = 1, **metadata: Any) -> Event:
    failed = kind == "failed"
    seen = Observation(
        status=kind,
        observed_at=NOW,
        channel="linkedin",
        action="outreach.dispatch",
        problem=Problem(code="account_disconnected", message="Ada <ada@example.com>", retryable=False)
        if failed
        else None,
        upstream={"id": f"job-{nth}", **({"error": {"code": "account_disconnected"}} if failed else {})},
    )
    job = Job(uid=f"job_{nth}", external_id=f"job-{nth}", source="revor", account="default", metadata=metadata)
    step = Transition(kind=kind, status=kind, previous_status=None, sequence=1, occurred_at=NOW, detected_at=NOW)
    id = f"evt_01jvpq00000000000000{nth:06}"
    return from_transition(id, job, step, ORIGIN, seen=seen, hint=HINT if failed else None)


def ready(**options: Any) -> tuple[Account, str, str]:
    """An account with a contact and a deal, and their ids."""
    account = Account(**options)
    return account, account.hubspot.add("contacts", email="ada@example.com"), account.hubspot.add("deals", dealname="X")


# --- what is written


def test_end_of_a_job_is_on_the_contact_and_in_a_note() -> None:
    account, contact, _ = ready()
    assert account.deliver(event("succeeded", email="ada@example.com")) == OK
    assert account.hubspot.records["contacts"][contact].properties == {
        "email": "ada@example.com",
        "relay_status": "succeeded",
        "relay_outcome": "LinkedIn outreach (job job-1) was accepted",
        "relay_error": "",
        "relay_channel": "linkedin",
        "relay_updated_at": "1779271208000",
    }
    (note,) = account.hubspot.timeline("contacts", contact)
    assert note.properties["hs_note_body"].startswith("<p>LinkedIn outreach (job job-1) was accepted.</p>")
    assert note.properties["hs_timestamp"] == "1779271208000"
    assert account.operations == ["PATCH contacts", "POST notes"]


def test_failure_makes_a_task_too_and_both_are_about_the_deal() -> None:
    account, contact, deal = ready()
    assert account.deliver(event(email="ada@example.com", deal_id=int(deal))) == OK
    note, task = account.hubspot.timeline("deals", deal)
    assert account.hubspot.timeline("contacts", contact) == [note, task]
    assert account.hubspot.records["deals"][deal].properties["relay_error"] == "account_disconnected"
    assert task.properties["hs_task_subject"].startswith("LinkedIn outreach (job job-1) failed: the account needs")
    assert "Reconnect it in Revor" in task.properties["hs_task_body"]
    assert "ada@example.com" not in orjson.dumps(note.properties).decode()


def test_record_chooses_what_is_written() -> None:
    account, contact, _ = ready(record="note")
    assert account.deliver(event(contact_id=contact)) == OK
    assert account.operations == ["GET contacts", "POST notes"]
    account, contact, _ = ready(record=["properties"])
    assert account.deliver(event(contact_id=int(contact))) == OK
    assert account.operations == ["PATCH contacts"]


def test_states_on_the_way_change_properties_only() -> None:
    account, contact, _ = ready()
    assert account.deliver(event("running", contact_id=contact)) == OK
    assert account.operations == ["PATCH contacts"]
    assert KIND.default_types(["ai.revor.job"]) == tuple(f"ai.revor.job.{kind}" for kind in NOTED)


def test_template_maps_fields() -> None:
    template = {
        "properties": {"company": "{{ metadata.company }}", "jobtitle": "{{ event.status }}"},
        "note": {"hs_note_body": "<p>{{ sentence }}</p>"},
    }
    account, contact, _ = ready(template=template)
    assert account.deliver(event("succeeded", contact_id=contact, company="X & Co")) == OK
    assert account.hubspot.records["contacts"][contact].properties.items() >= {"company": "X & Co"}.items()
    (note,) = account.hubspot.timeline("contacts", contact)
    assert note.properties["hs_note_body"] == "<p>LinkedIn outreach (job job-1) was accepted</p>"
    assert note.properties["hs_timestamp"] == "1779271208000", "what the template leaves out is the relay's"
    account, contact, _ = ready(template={"properties": {"company": None}, "task": {"hs_task_priority": None}})
    assert account.deliver(event(contact_id=contact)) == OK
    assert "company" not in account.hubspot.records["contacts"][contact].properties
    assert "hs_task_priority" not in account.hubspot.timeline("contacts", contact)[1].properties


@pytest.mark.parametrize("text", TEXTS[::7])
def test_hostile_texts_are_accepted(text: str) -> None:
    account, contact, deal = ready()
    hostile = {"name": text, "company": text, text[:200] or "x": text, "url": text}
    assert account.deliver(event(contact_id=contact, deal_id=deal, **hostile)) == OK
    for record in account.hubspot.timeline("contacts", contact):
        assert all(len(value) <= MAX_TEXT for value in record.properties.values())
        assert "<script" not in record.properties.get("hs_note_body", "")


# --- who is meant


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"email": " Ada@Example.com "}, ("Ada@Example.com", None, None)),
        ({"email": "nobody"}, (None, None, None)),
        ({"email": "a@b\nc"}, (None, None, None)),
        ({"email": "a@" + "b" * 300}, (None, None, None)),
        ({"email": ["a@b.example"]}, (None, None, None)),
        ({"contact_id": 7, "deal_id": "8"}, (None, "7", "8")),
        ({"contact_id": True, "deal_id": 1.5}, (None, None, None)),
        ({"contact_id": -7, "deal_id": "08"}, (None, None, None)),
        ({"contact_id": 10**30, "deal_id": "7/../8"}, (None, None, None)),
    ],
    ids=str,
)
def test_metadata_say_who_is_meant(metadata: dict[str, Any], expected: tuple[str | None, ...]) -> None:
    person = person_of(event(**metadata))
    assert (person.email, person.contact_id, person.deal_id) == expected


def test_event_about_nobody_is_skipped_or_fails() -> None:
    about_nobody = (event(), relay_event("evt_1", "relay.test", NOW, {}, dataschema="http://x/s.json"))
    for one in about_nobody:
        account = Account()
        outcome = account.deliver(one)
        assert (outcome.verdict, outcome.reason[:10]) == ("delivered", "unmatched:")
        assert Account(unmatched="fail").deliver(one).verdict == "dead"
        assert account.requests == []
        assert HUBSPOT.key(one, account.subscription) is None


def test_unknown_contact_is_skipped_created_or_fails() -> None:
    for policy, verdict in (("skip", "delivered"), ("fail", "dead")):
        account = Account(unmatched=policy)
        outcome = account.deliver(event(email="new@example.com"))
        assert (outcome.verdict, outcome.reason[:10]) == (verdict, "unmatched:")
        assert account.operations == ["PATCH contacts"]
    account = Account(unmatched="create")
    assert account.deliver(event(email="new@example.com")) == OK
    assert account.operations == ["PATCH contacts", "POST contacts", "POST notes", "POST tasks"]
    ((id, contact),) = account.hubspot.records["contacts"].items()
    assert contact.properties["relay_status"] == "failed"
    assert len(account.hubspot.timeline("contacts", id)) == 2
    assert Account(unmatched="create").deliver(event(contact_id="999")).verdict == "dead", (
        "no address to create it with"
    )


def test_unknown_contact_does_not_keep_the_note_from_the_deal() -> None:
    account, _, deal = ready()
    assert account.deliver(event(email="new@example.com", deal_id=deal)) == OK
    assert len(account.hubspot.timeline("deals", deal)) == 2
    account, _, deal = ready(unmatched="fail")
    assert account.deliver(event(email="new@example.com", deal_id=deal)).verdict == "dead"
    assert account.hubspot.timeline("deals", deal) == []


def test_contact_that_somebody_else_creates_meanwhile_is_taken() -> None:
    account, contact, _ = ready(unmatched="create")
    account.hubspot.fail("PATCH contacts", Fault(status=404, body=b'{"status":"error","category":"OBJECT_NOT_FOUND"}'))
    assert account.deliver(event(email="ada@example.com")) == OK
    assert account.operations[:3] == ["PATCH contacts", "POST contacts", "PATCH contacts"]
    assert len(account.hubspot.timeline("contacts", contact)) == 2


# --- no doubles


@pytest.mark.parametrize("moment", range(12))
def test_killed_delivery_makes_each_note_and_task_once(moment: int) -> None:
    account, contact, deal = ready()
    one = event(email="ada@example.com", deal_id=deal)
    killed = {"dies_before" if moment % 2 else "dies_after": moment // 2}
    for _ in range(3):
        account.deliver(one, **killed)
    assert account.deliver(one) == OK
    assert account.deliver(one) == OK, "replayed"
    kinds = ["hs_note_body" in record.properties for record in account.hubspot.timeline("contacts", contact)]
    assert sorted(kinds) == [False, True]


@pytest.mark.parametrize("fault", [Fault(works=True), Fault(works=True, status=502), Fault(works=True, status=200)])
def test_lost_answer_is_asked_for_before_another_note(fault: Fault) -> None:
    account, contact, _ = ready(record="note")
    account.hubspot.fail("POST notes", fault)
    one = event("succeeded", contact_id=contact)
    assert account.deliver(one).verdict == "retry"
    assert account.deliver(one) == OK
    assert account.operations == ["GET contacts", "POST notes", "GET notes"]
    assert len(account.hubspot.timeline("contacts", contact)) == 1


def test_note_that_was_not_made_is_made_later() -> None:
    account, contact, _ = ready(record="note")
    account.hubspot.fail("POST notes", Fault(), Fault(status=503, headers={"Retry-After": "7"}))
    one = event("succeeded", contact_id=contact)
    assert account.deliver(one).reason == "read"
    assert account.deliver(one).retry_after_seconds == 7.0
    assert account.deliver(one) == OK
    assert len(account.hubspot.timeline("contacts", contact)) == 1


def test_lost_ledger_makes_no_second_note() -> None:
    account, contact, _ = ready()
    one = event("succeeded", contact_id=contact)
    assert account.deliver(one) == OK
    account.memories.clear()
    assert account.deliver(one) == OK
    assert account.operations[-2:] == ["POST notes", "GET notes"]
    assert len(account.hubspot.timeline("contacts", contact)) == 1


def test_value_of_another_property_that_is_not_unique_is_no_note_of_ours() -> None:
    account, contact, _ = ready(record="note", template={"note": {"other": "same"}})
    account.hubspot.definitions["notes"]["other"] = Definition(name="other", unique=True)
    assert account.deliver(event("succeeded", 1, contact_id=contact)) == OK
    outcome = account.deliver(event("succeeded", 2, contact_id=contact))
    assert (outcome.verdict, "not unique" in outcome.reason) == ("dead", True)
    assert "notes" not in account.memories["event/evt_01jvpq00000000000000000002"]


def test_fate_that_hubspot_cannot_tell_is_uncertain_and_nothing_is_sent_again() -> None:
    account, contact, _ = ready(record="note")
    account.hubspot.definitions["notes"][KEY_PROPERTY] = Definition(name=KEY_PROPERTY)
    account.hubspot.fail("POST notes", Fault(works=True))
    one = event("succeeded", contact_id=contact)
    assert account.deliver(one).verdict == "retry"
    for _ in range(2):
        outcome = account.deliver(one)
        assert (outcome.verdict, outcome.reason[:10]) == ("dead", "uncertain:")
    assert len(account.hubspot.timeline("contacts", contact)) == 1


def test_kill_after_the_request_was_sent_is_remembered_from_before_it() -> None:
    account, contact, _ = ready(record="note")
    account.hubspot.definitions["notes"][KEY_PROPERTY] = Definition(name=KEY_PROPERTY)
    one = event("succeeded", contact_id=contact)
    account.deliver(one, dies_after=1)
    assert account.deliver(one).reason.startswith("uncertain:")
    assert len(account.hubspot.timeline("contacts", contact)) == 1


def test_two_subscriptions_make_a_note_each() -> None:
    account, contact, _ = ready(record="note")
    one = event("succeeded", contact_id=contact)
    assert account.deliver(one) == OK
    account.subscription, account.memories = replace(account.subscription, id="sub_2"), {}
    assert account.deliver(one) == OK
    assert len(account.hubspot.timeline("contacts", contact)) == 2


def test_contact_that_was_deleted_after_it_was_written_ends_unmatched() -> None:
    account, contact, _ = ready()
    one = event(contact_id=contact)
    account.deliver(one, dies_before=1)
    del account.hubspot.records["contacts"][contact]
    assert account.deliver(one).reason == "what it is about was deleted"
    assert account.deliver(one).reason.startswith("unmatched:")


def test_ledger_holds_ids_only() -> None:
    account, _, deal = ready()
    account.deliver(event(email="ada@example.com", deal_id=deal))
    (memory,) = account.memories.values()
    assert set(memory) == {"contacts", "deals", "notes", "tasks"}
    assert all(value.isdigit() for value in memory.values())


@given(
    st.dictionaries(st.sampled_from(["contacts", "notes", "x"]), st.none() | st.integers() | st.text() | st.just("?"))
)
def test_any_memory_is_read(memory: dict[str, Any]) -> None:
    account, contact, _ = ready()
    one = event(contact_id=contact)
    account.memories[f"event/{one.id}"] = memory
    assert account.deliver(one).verdict in ("delivered", "retry")


# --- what answers mean


def body(**document: Any) -> bytes:
    return orjson.dumps({"status": "error", "message": "Ada <ada@example.com>", **document})


SCOPES = {"errors": [{"message": "", "context": {"requiredGranularScopes": ["crm.objects.contacts.write", "x"]}}]}
UNKNOWN = {"errors": [{"code": "PROPERTY_DOESNT_EXIST", "context": {"propertyName": ["relay_status"]}}]}
INVALID = {"errors": [{"code": "INVALID_EMAIL", "context": {"propertyName": ["email"]}}]}
ANSWERS = [
    (200, b'{"id": "7"}', "delivered", "ok", None),
    (201, b'{"id": 7}', "delivered", "ok", None),
    (200, b"<html>", "retry", "http_200, but the body is not an answer of HubSpot's API", None),
    (200, b'{"id": "../x"}', "retry", "http_200, but the body is not an answer of HubSpot's API", None),
    (207, orjson.dumps({"results": [], "errors": [{"category": "VALIDATION_ERROR"}]}), "dead", "http_400: VAL", None),
    (301, b"", "retry", "http_301", None),
    (
        400,
        body(category="VALIDATION_ERROR", **INVALID),
        "dead",
        "http_400: VALIDATION_ERROR: INVALID_EMAIL email",
        None,
    ),
    (
        400,
        body(category="VALIDATION_ERROR", **UNKNOWN),
        "disable",
        "http_400: VALIDATION_ERROR: HubSpot has no pro",
        None,
    ),
    (400, b"Bad Request", "retry", "http_400", None),
    (401, body(category="EXPIRED_AUTHENTICATION"), "disable", "http_401: EXPIRED_AUTHENTICATION: give the subs", None),
    (
        403,
        body(category="MISSING_SCOPES", **SCOPES),
        "disable",
        "http_403: MISSING_SCOPES: add the scope crm.obj",
        None,
    ),
    (403, body(category="FORBIDDEN"), "disable", "http_403: FORBIDDEN: ask an administrator", None),
    (404, body(category="OBJECT_NOT_FOUND"), "dead", "http_404: OBJECT_NOT_FOUND", None),
    (404, b"nginx", "retry", "http_404", None),
    (409, body(category="CONFLICT"), "retry", "http_409: CONFLICT", None),
    (423, body(category="LOCKED"), "retry", "http_423: LOCKED", 2.0),
    (429, body(policyName="SECONDLY"), "retry", "http_429: SECONDLY", 1.0),
    (429, body(policyName="TEN_SECONDLY_ROLLING"), "retry", "http_429: TEN_SECONDLY_ROLLING", 10.0),
    (429, body(policyName="DAILY"), "retry", "http_429: DAILY", 3600.0),
    (429, b"", "retry", "http_429", 10.0),
    (477, b"", "retry", "http_477", None),
    (500, body(category="INTERNAL"), "retry", "http_500", None),
    (524, b"", "retry", "http_524", None),
]


@pytest.mark.parametrize(("status", "answer", "verdict", "reason", "pause"), ANSWERS, ids=lambda value: str(value)[:40])
def test_answers_are_judged_by_status_and_body(
    status: int, answer: bytes, verdict: str, reason: str, pause: float | None
) -> None:
    outcome = KIND.classify(Response(started_at=NOW, duration_ms=1.0, status_code=status, excerpt=answer), NOW)
    assert (outcome.verdict, outcome.retry_after_seconds) == (verdict, pause)
    assert outcome.reason.startswith(reason)
    assert "ada@example.com" not in outcome.reason


def test_pause_that_hubspot_asks_for_is_obeyed() -> None:
    for status in (429, 477, 503):
        headers = (("Retry-After", "90"),)
        response = Response(started_at=NOW, duration_ms=1.0, status_code=status, headers=headers)
        assert read_answer(response, NOW).outcome.retry_after_seconds == 90.0


@given(st.integers(100, 599), st.binary() | st.recursive(st.none() | st.text(), st.lists).map(orjson.dumps))
def test_every_answer_has_an_outcome(status: int, answer: bytes) -> None:
    found = read_answer(Response(started_at=NOW, duration_ms=1.0, status_code=status, excerpt=answer), NOW)
    assert found.outcome.reason
    assert found.id is None


def test_missing_scope_and_missing_property_disable_and_say_what_to_do() -> None:
    account, contact, deal = ready()
    account.hubspot.scopes -= {WRITE}
    assert "add the scope crm.objects.contacts.write" in account.deliver(event(contact_id=contact)).reason
    account.hubspot.scopes = {WRITE}
    outcome = account.deliver(event(contact_id=contact, deal_id=deal))
    assert (outcome.verdict, DEALS_WRITE in outcome.reason) == ("disable", True)
    account = Account(ready=False)
    outcome = account.deliver(event(contact_id=account.hubspot.add("contacts")))
    assert (outcome.verdict, "relay_status" in outcome.reason) == ("disable", True)
    assert "--create-properties" in outcome.reason


def test_attempt_goes_on_where_the_last_one_stopped() -> None:
    account, contact, _ = ready()
    account.hubspot.fail("POST tasks", Fault(status=429, body=body(policyName="SECONDLY")))
    one = event(contact_id=contact)
    assert account.deliver(one).retry_after_seconds == 1.0
    assert account.deliver(one) == OK
    assert account.operations == ["PATCH contacts", "POST notes", "POST tasks", "POST tasks"]


# --- set-up


def test_set_up_makes_the_properties_and_may_be_repeated() -> None:
    account = Account(ready=False)
    missing = account.set_up(create=False)
    assert (missing.verdict, "relay_status of contacts" in missing.reason) == ("disable", True)
    assert account.set_up(create=True) == account.set_up(create=True) == account.set_up(create=False) == OK
    assert account.hubspot.definitions["notes"][KEY_PROPERTY].unique
    contact = account.hubspot.add("contacts", email="ada@example.com")
    assert account.deliver(event(email="ada@example.com")) == OK
    assert len(account.hubspot.timeline("contacts", contact)) == 2


def test_set_up_says_what_is_wrong_with_the_token() -> None:
    account = Account(ready=False)
    account.token = "pat-wrong"
    assert account.set_up(create=True).reason.startswith("http_401: INVALID_AUTHENTICATION")
    account.token, account.hubspot.scopes = "pat-eu1-11111111-2222-3333-4444-of-the-stand-in", {WRITE}
    assert SCHEMAS in account.set_up(create=True).reason


# --- subscriptions


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"sink": "https://api.hubapi.com/crm/v3"}, "/sink"),
        ({"sink": "https://api.hubapi.com/?hapikey=x"}, "/sink"),
        ({"credential": None}, "/sinkcredential"),
        ({"handshake": "required"}, "/config/handshake"),
        ({"method": "PUT"}, "/protocolsettings/method"),
        ({"headers": (("X-A", "b"),)}, "/protocolsettings/headers"),
        ({"options": {"record": []}}, "/config/record"),
        ({"options": {"record": ["mail"]}}, "/config/record"),
        ({"options": {"record": [7]}}, "/config/record"),
        ({"options": {"unmatched": "guess"}}, "/config/unmatched"),
        ({"options": {"template": {"email": "x"}}}, "/config/template"),
        ({"options": {"template": "x"}}, "/config/template"),
        ({"options": {"template": {"note": {"a": "{{"}}}}, "/config/template/note/a"),
        ({"options": {"batch": {}}}, "/config/batch"),
    ],
    ids=str,
)
def test_wrong_subscription_is_refused_with_a_pointer(fields: dict[str, Any], pointer: str) -> None:
    KIND.check(subscription(options={"record": ["note"], "unmatched": "create"}))
    with pytest.raises(InvalidRequest) as refused:
        KIND.check(replace(subscription(), **fields))
    assert [error.pointer for error in refused.value.errors] == [pointer]


def test_preview_shows_every_request_with_placeholders() -> None:
    one = event(email="ada+1@example.com", deal_id=7)
    steps = previewed(HUBSPOT.steps(one, subscription(), CONTEXT, {}, NOW))
    assert [step.name for step in steps] == [
        "update the contact",
        "update the deal",
        "create the note",
        "create the task",
    ]
    assert steps[0].request.url.endswith("/contacts/ada%2B1%40example.com?idProperty=email")
    about = orjson.loads(steps[2].request.body)["associations"]
    assert [one["to"]["id"] for one in about] == ["{id-of-the-contact}", "{id-of-the-deal}"]
    assert [one["types"][0]["associationTypeId"] for one in about] == [202, 214]


def test_template_with_a_list_as_a_value_is_dead() -> None:
    account, contact, _ = ready(template={"properties": {"company": ["x"]}})
    with pytest.raises(Exception, match="/config/template/properties/company: a property of HubSpot is a text"):
        account.deliver(event(contact_id=contact))
