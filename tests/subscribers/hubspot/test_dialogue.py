"""HubSpot: what a job's end writes to its contact and deal, at a strict stand-in of the CRM API, and what it never
writes twice."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.deliveries import ledger
from relay.core.deliveries.delivery import Outcome
from relay.core.deliveries.dialogue import MAX_STEPS, previewed
from relay.core.events.event import Event, Hint
from relay.core.jobs.job import Problem
from relay.errors import InvalidRequest
from subscribers.hubspot import HubSpot
from subscribers.hubspot.answers import READ_BYTES
from subscribers.hubspot.dialogue import DIALOGUE, EARLIER_SECONDS, LATE_SECONDS, MAX_NEWEST, MAX_READ
from subscribers.hubspot.render import KEY_PROPERTY, MAX_PROPERTIES, MAX_TEXT
from tests.subscribers.hubspot.test_answers import UNKNOWN_KEY, body, of_property
from tests.support.hubspot_account import CONTEXT, NOW, Account, subscription
from tests.support.job_events import job_event
from tests.support.kind_checks import check
from tests.vendors.endpoint import Fault
from tests.vendors.hubspot import ALL_SCOPES, PORTAL, SCHEMAS, WRITE, Definition

KIND = HubSpot()
OK = Outcome(verdict="delivered", reason="ok")
WRITTEN = ledger.WRITTEN
SKIPPED = Outcome(verdict="skip", reason="unmatched")
HINT = Hint(meaning="The account needs reconnecting", fix="Reconnect it in Revor", who="account owner", repeat="safe")


def event(kind: str = "failed", nth: int = 1, **metadata: Any) -> Event:
    failed = kind == "failed"
    return job_event(
        kind,
        id=f"evt_01jvpq00000000000000{nth:06}",
        job_id=f"job-{nth}",
        problem=Problem(code="account_disconnected", message="Ada <ada@example.com>") if failed else None,
        metadata=metadata,
        hint=HINT if failed else None,
    )


def ready(**options: Any) -> tuple[Account, str, str]:
    """An account with a contact and a deal, and their ids."""
    account = Account(**options)
    return account, account.hubspot.add("contacts", email="ada@example.com"), account.hubspot.add("deals", dealname="X")


# --- what is written


def test_end_of_a_job_is_on_the_contact_and_in_a_note() -> None:
    account, contact, _ = ready()
    assert account.deliver(event("succeeded", email="ada@example.com", company="X & Co")) == OK
    assert account.hubspot.records["contacts"][contact].properties == {
        "email": "ada@example.com",
        "relay_status": "succeeded",
        "relay_outcome": "LinkedIn outreach (job job-1) was accepted",
        "relay_error": "",
        "relay_channel": "linkedin",
        "relay_updated_at": "1779271208000",
    }
    (note,) = account.hubspot.timeline("contacts", contact)
    assert note.properties["hs_note_body"].startswith("<b>LinkedIn outreach (job job-1) was accepted</b><br>")
    assert "Company: X &amp; Co" in note.properties["hs_note_body"]
    assert note.properties["hs_note_body"].endswith(f"revor-relay {note.properties[KEY_PROPERTY]}")
    assert note.properties["hs_timestamp"] == "1779271208000"
    assert account.operations == ["PATCH contacts", "POST notes"]
    (message,) = account.hubspot.messages
    assert message.title == "LinkedIn outreach (job job-1) was accepted"
    assert message.fields[0] == ("Company", "X & Co")


def test_failure_makes_a_task_too_and_both_are_about_the_deal() -> None:
    account, contact, deal = ready()
    assert account.deliver(event(email="ada@example.com", deal_id=int(deal))) == OK
    note, task = account.hubspot.timeline("deals", deal)
    assert account.hubspot.timeline("contacts", contact) == [note, task]
    assert account.hubspot.records["deals"][deal].properties["relay_error"] == "account_disconnected"
    assert task.properties["hs_task_subject"].startswith("LinkedIn outreach (job job-1) failed: the account needs")
    assert "Reconnect it in Revor" in task.properties["hs_task_body"]
    assert "ada@example.com" not in orjson.dumps(note.properties).decode()


def test_late_event_does_not_turn_back_what_a_newer_one_has_set() -> None:
    account, contact, deal = ready()
    assert account.deliver(event("succeeded", 2, contact_id=contact, deal_id=deal)) == OK
    account.now += LATE_SECONDS + 1
    late = replace(event("failed", 1, email="ada@example.com", deal_id=deal), time=NOW - 60)
    assert account.deliver(late) == OK
    assert account.operations[-4:] == ["GET contacts", "GET deals", "POST notes", "POST tasks"]
    assert account.hubspot.records["contacts"][contact].properties["relay_status"] == "succeeded"
    assert account.hubspot.records["deals"][deal].properties["relay_status"] == "succeeded"
    newer = replace(event("failed", 3, email="ada@example.com"), time=NOW + 60)
    account.now += 120
    assert account.deliver(newer) == OK
    assert account.operations[-4:] == ["GET contacts", "PATCH contacts", "POST notes", "POST tasks"]
    assert account.hubspot.records["contacts"][contact].properties["relay_status"] == "failed"
    assert account.deliver(replace(event(nth=4, email="new@example.com"), time=NOW)) == SKIPPED


# --- who is meant


@pytest.mark.parametrize(
    ("metadata", "paths"),
    [
        ({"email": " Ada@Example.com "}, ["/contacts/Ada%40Example.com?idProperty=email"]),
        ({"email": "a+b/c?d#e%f@x.example"}, ["/contacts/a%2Bb%2Fc%3Fd%23e%25f%40x.example?idProperty=email"]),
        ({"email": "nobody"}, []),
        ({"email": "a@b\nc"}, []),
        ({"email": "a@" + "b" * 300}, []),
        ({"email": ["a@b.example"]}, []),
        ({"contact_id": 7, "deal_id": "8"}, ["/contacts/7", "/deals/8"]),
        ({"contact_id": 7, "email": "ada@example.com"}, ["/contacts/7"]),
        ({"contact_id": True, "deal_id": 1.5}, []),
        ({"contact_id": -7, "deal_id": "08"}, []),
        ({"contact_id": 10**30, "deal_id": "7/../8"}, []),
        ({"contact_id": "٧", "deal_id": "8\n"}, ["/deals/8"]),
    ],
    ids=str,
)
def test_metadata_say_who_is_meant(metadata: dict[str, Any], paths: list[str]) -> None:
    steps = previewed(DIALOGUE.steps(event("running", **metadata), subscription(), CONTEXT, {}, NOW))
    assert [step.request.url.partition("/2026-09")[2] for step in steps] == paths


def test_unknown_contact_is_skipped_created_or_fails() -> None:
    for policy, verdict in (("skip", "skip"), ("fail", "dead")):
        account = Account(unmatched=policy)
        assert account.deliver(event(email="new@example.com")) == Outcome(verdict=verdict, reason="unmatched")
        assert account.operations == ["PATCH contacts"]
    account = Account(unmatched="create")
    assert account.deliver(event(email="new@example.com")) == OK
    assert account.operations == ["PATCH contacts", "POST contacts", "POST notes", "POST tasks"]
    ((id, contact),) = account.hubspot.records["contacts"].items()
    assert contact.properties["relay_status"] == "failed"
    assert len(account.hubspot.timeline("contacts", id)) == 2
    assert Account(unmatched="create").deliver(event(contact_id="999")) == SKIPPED, "no address to create it with"


NOBODY = Fault(status=404, body=b'{"status":"error","category":"OBJECT_NOT_FOUND"}')


def test_contact_that_somebody_else_creates_meanwhile_is_taken() -> None:
    account, contact, _ = ready(unmatched="create")
    account.hubspot.fail("PATCH contacts", NOBODY)
    assert account.deliver(event(email="ada@example.com")) == OK
    assert account.operations[:3] == ["PATCH contacts", "POST contacts", "PATCH contacts"]
    assert len(account.hubspot.timeline("contacts", contact)) == 2


# --- no doubles: each row of the table of crashes, with a key that HubSpot keeps unique and without


UNIQUE, PLAIN, NONE = "unique", "not unique", "none"
every_key = pytest.mark.parametrize("key", [UNIQUE, PLAIN, NONE])


def account_with(key: str, **options: Any) -> tuple[Account, str]:
    """An account where the key of notes and tasks is unique, a property like any other, or missing."""
    account = Account(keyed=key == UNIQUE, **options)
    for object in ("notes", "tasks") if key == PLAIN else ():
        account.hubspot.definitions[object][KEY_PROPERTY] = Definition(name=KEY_PROPERTY)
    return account, account.hubspot.add("contacts", email="ada@example.com")


def until_over(account: Account, one: Event) -> Outcome:
    for _ in range(6):
        outcome = account.deliver(one)
        if outcome.verdict != "retry":
            return outcome
        account.now += max(outcome.wait_seconds, 1.0)
    raise AssertionError(outcome)


@every_key
@pytest.mark.parametrize(
    "fault",
    [
        Fault(works=True),
        Fault(works=True, status=502),
        Fault(works=True, status=200, body=b"<html>Log in</html>"),
        Fault(works=True, status=200, body=b'{"id": "../../x"}'),
        Fault(works=True, status=201, body=b'{"id": {"$oid": 7}}'),
        Fault(works=True, status=302, headers={"Location": "https://evil.example/"}),
        Fault(works=True, status=403, body=b"<html>blocked by a proxy"),
        Fault(works=True, status=200, body=b"[" * READ_BYTES),
        Fault(works=True, status=408, body=b'{"status":"error","category":"TIMEOUT"}'),
    ],
    ids=lambda fault: f"{fault.status} {fault.body[:12]!r}",
)
def test_lost_answer_is_asked_for_before_another_note(key: str, fault: Fault) -> None:
    account, contact = account_with(key, record="note")
    account.hubspot.fail("POST notes", *([Fault(status=400, body=UNKNOWN_KEY)] if key == NONE else []), fault)
    one = event("succeeded", contact_id=contact)
    outcome = account.deliver(one)
    assert (outcome.verdict, outcome.in_doubt) == ("retry", True)
    sent = len(account.operations)
    assert account.deliver(one) == WRITTEN
    assert not [name for name in account.operations[sent:] if name == "POST notes"]
    assert len(account.hubspot.timeline("contacts", contact)) == 1
    assert account.deliver(one) == WRITTEN
    assert len(account.operations) == sent + {UNIQUE: 2, PLAIN: 4, NONE: 3}[key], "and a replay asks nothing"


@every_key
def test_note_that_was_not_made_is_made_later(key: str) -> None:
    account, contact = account_with(key, record="note")
    refused = [Fault(status=400, body=UNKNOWN_KEY)] if key == NONE else []
    account.hubspot.fail("POST notes", *refused, Fault(), *refused, Fault(status=503, headers={"Retry-After": "7"}))
    one = event("succeeded", contact_id=contact)
    assert account.deliver(one).reason == "read"
    outcome = account.deliver(one)
    if key != UNIQUE:
        assert (outcome.reason, outcome.in_doubt) == ("settling", True)
        assert outcome.retry_after_seconds is None, "it pauses nobody else"
        account.now += outcome.wait_seconds
        outcome = account.deliver(one)
    assert (outcome.retry_after_seconds, outcome.in_doubt) == (7.0, True)
    account.now += 200
    assert account.deliver(one) == OK
    assert len(account.hubspot.timeline("contacts", contact)) == 1


def test_lost_ledger_makes_no_second_note() -> None:
    account, contact = account_with(UNIQUE)
    one = event("succeeded", contact_id=contact)
    assert account.deliver(one) == OK
    account.memories.clear()
    assert account.deliver(one) == OK
    assert account.operations[-2:] == ["POST notes", "GET notes"]
    assert len(account.hubspot.timeline("contacts", contact)) == 1


@pytest.mark.parametrize(
    "why",
    ["contact deleted", "too many", "too many lately", "too long", "cut list", "another page", "cut times", "odd ids"],
)
def test_fate_that_hubspot_cannot_tell_is_uncertain_and_nothing_is_sent_again(why: str) -> None:
    account, contact = account_with(PLAIN, record="note")
    account.hubspot.fail("POST notes", Fault())
    one = event("succeeded", contact_id=contact)
    assert account.deliver(one).in_doubt
    account.now += ledger.SETTLE_SECONDS
    listed: dict[str, Any] = {"results": [{"toObjectId": "7"}], "paging": {"next": {"after": "1"}}}
    match why:
        case "contact deleted":
            del account.hubspot.records["contacts"][contact]
        case "too many":
            add_notes(account, contact, MAX_NEWEST + 1, age=2 * EARLIER_SECONDS)
        case "too many lately":
            add_notes(account, contact, MAX_READ + 1)
        case "too long":
            add_notes(account, contact, 1, body="x" * MAX_TEXT)
        case "cut list":
            account.hubspot.fail("GET contacts/associations", Fault(status=200, body=b'{"results": [{"toObj'))
        case "another page":
            account.hubspot.fail("GET contacts/associations", Fault(status=200, body=orjson.dumps(listed)))
        case "cut times":
            add_notes(account, contact, 1)
            account.hubspot.fail("POST notes/batch/read", Fault(status=200, body=b'{"status":"COMPLETE"}'))
        case "odd ids":
            add_notes(account, contact, 1)
            account.hubspot.fail("POST notes/batch/read", Fault(status=200, body=b'{"results": [{"id": [{}]}]}'))
    before = account.operations.count("POST notes")
    outcome = account.deliver(one)
    if why == "cut list":
        assert (outcome.verdict, outcome.in_doubt) == ("retry", True)
        return
    assert (outcome.verdict, outcome.in_doubt) == ("uncertain", True)
    assert account.operations.count("POST notes") == before
    assert account.memories[f"event/{one.id}"].items() >= {"record": "note", "target": {"contact_id": contact}}.items()


def add_notes(account: Account, contact: str, count: int, *, age: float = 0.0, body: str = "By a person") -> None:
    for _ in range(count):
        id = account.hubspot.add("notes", hs_note_body=body, hs_timestamp="1")
        account.hubspot.records["notes"][id].about = {("contacts", contact)}
        account.hubspot.records["notes"][id].created -= age


@every_key
def test_record_in_another_account_is_uncertain_if_it_may_be_there(key: str) -> None:
    account, contact = account_with(key, portal="1")
    one = event(contact_id=contact)
    account.deliver(one, dies_after=1 if key != NONE else 2)
    moved = replace(account.subscription, options={"portal": "2"})
    before, account.subscription = account.subscription, moved
    sent = len(account.operations)
    outcome = account.deliver(one)
    assert (outcome.verdict, outcome.reason) == ("uncertain", "written_elsewhere")
    assert len(account.operations) == sent
    account.subscription = before
    assert until_over(account, one) == OK, "moved back"
    account.subscription = moved
    assert account.deliver(one) == WRITTEN
    account.deliver(event(nth=2, contact_id=contact), dies_before=1)
    account.subscription = before
    assert account.deliver(event(nth=2, contact_id=contact)).verdict == "uncertain"


@every_key
def test_person_who_says_that_it_is_not_there_has_only_that_made_again(key: str) -> None:
    account, contact = account_with(key)
    one = event(contact_id=contact)
    account.hubspot.fail("POST tasks", *([Fault(status=400, body=UNKNOWN_KEY)] if key == NONE else []), Fault())
    assert account.deliver(one).in_doubt
    place = f"event/{one.id}"
    account.memories[place] = ledger.not_sent(account.memories[place])
    assert account.deliver(one) == OK
    assert [len(account.hubspot.records[object]) for object in ("notes", "tasks")] == [1, 1]
    account.deliver(event(nth=2, contact_id=contact), dies_after=1 if key != NONE else 2)
    account.subscription = replace(account.subscription, options={"portal": "2"})
    two = event(nth=2, contact_id=contact)
    assert account.deliver(two).reason == "written_elsewhere"
    place = f"event/{two.id}"
    account.memories[place] = ledger.not_sent(account.memories[place])
    account.memories[place] = {"made": {**account.memories[place]["made"], "contacts": "999"}}
    sent = len(account.steps)
    assert account.deliver(two).verdict in ("delivered", "dead", "retry")
    assert account.steps[sent].request.url.endswith(f"/contacts/{contact}"), "ids of the other account are not used"


def test_ledger_holds_ids_only() -> None:
    account, contact, deal = ready()
    account.deliver(event(email="ada@example.com", deal_id=deal))
    (memory,) = account.memories.values()
    made = dict(memory["made"])
    assert made.pop("portal") == "hubspot/crd_1"
    assert made.keys() == {"contacts", "deals", "notes", "tasks"}
    assert all(value.isdigit() for value in made.values())
    assert memory.keys() == {"state", "made", "keyed"}
    account.deliver(event(nth=2, email="ada@example.com"), dies_before=1)
    memory = account.memories["event/evt_01jvpq00000000000000000002"]
    assert ledger.read_entry(memory) == ledger.Entry(
        record="note", target={"contact_id": contact}, portal="hubspot/crd_1", at=NOW
    )


JSON = st.recursive(st.none() | st.integers() | st.text() | st.floats(allow_nan=False), st.lists, max_leaves=5)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "state": st.sampled_from(["intended", "written", "done", 7]),
            "made": JSON | st.dictionaries(st.sampled_from(["contacts", "notes", "portal", "x"]), JSON, max_size=3),
            "portal": JSON | st.just("hubspot/crd_1"),
            "record": JSON | st.just("note"),
            "target": st.just({}) | JSON,
            "at": st.just(NOW) | JSON,
            "keyed": JSON,
        },
    )
)
def test_any_memory_is_read(memory: dict[str, Any]) -> None:
    account, contact, _ = ready()
    one = event(contact_id=contact)
    account.memories[f"event/{one.id}"] = memory
    outcome = account.deliver(one)
    assert outcome.verdict in ("delivered", "retry", "uncertain")
    if memory.get("state") == "intended":
        assert outcome.verdict == "uncertain" or outcome.in_doubt or account.operations[0] == "GET notes/properties"


# --- answers


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"Remaining": "1", "Interval-Milliseconds": "10000"}, None),
        ({"Remaining": "0", "Interval-Milliseconds": "10000"}, 10.0),
        ({"Remaining": "0"}, 10.0),
        ({"Remaining": "0", "Interval-Milliseconds": "99999999999999999999"}, 10.0),
        ({"Remaining": "0", "Interval-Milliseconds": "999999999"}, 60.0),
        ({"Remaining": "0", "Interval-Milliseconds": "0"}, None),
        ({"Remaining": "0", "Interval-Milliseconds": "-5"}, 10.0),
        ({"Remaining": "50", "Daily-Remaining": "0"}, 3600.0),
        ({"Daily-Remaining": "-1"}, None),
    ],
    ids=str,
)
def test_last_request_of_an_interval_pauses_the_account_although_it_was_accepted(
    headers: dict[str, str], pause: float | None
) -> None:
    account, contact, _ = ready(record="properties")
    named = {f"X-HubSpot-RateLimit-{name}": value for name, value in headers.items()}
    account.hubspot.fail("PATCH contacts", Fault(status=200, body=b'{"id": "7"}', headers=named))
    assert account.deliver(event(contact_id=contact)) == replace(OK, retry_after_seconds=pause)


def test_answers_that_contradict_each_other_for_ever_end_each_attempt() -> None:
    account = Account(unmatched="create")
    exists = orjson.dumps(
        {"status": "error", "category": "CONFLICT", "message": "Contact already exists. Existing ID: 7"}
    )
    account.hubspot.fail("PATCH contacts", *[NOBODY] * 40)
    account.hubspot.fail("POST contacts", *[Fault(status=409, body=exists)] * 20)
    for _ in range(5):
        assert account.deliver(event(email="new@example.com")) == Outcome(verdict="retry", reason="conflict")
    assert len(account.operations) == 15
    account, contact, _ = ready()
    account.hubspot.fail("POST notes", *[NOBODY] * 20)
    for _ in range(5):
        assert account.deliver(event(contact_id=contact)).reason == "target_deleted"
    taken = Fault(status=400, body=body(**of_property("CONFLICTING_UNIQUE_VALUE", KEY_PROPERTY)))
    account, contact, _ = ready()
    account.hubspot.fail("POST notes", *[taken] * 20)
    for _ in range(5):
        assert account.deliver(event(contact_id=contact)).in_doubt
    assert account.hubspot.records["notes"] == {}


# --- when it is added


def test_greeting_finds_the_account_and_makes_the_properties_once() -> None:
    account = Account(ready=False)
    missing = account.greet()
    assert missing.remember is None
    assert missing.outcome.verdict == "dead"
    assert "could not read relay_status of contacts" in missing.outcome.reason
    assert "--create-properties" in missing.outcome.reason
    for options in ({"create_properties": True}, {"create_properties": True}, {}):
        account.steps.clear()
        ended = account.greet(**options)
        assert (ended.outcome, ended.remember) == (OK, {"portal": str(PORTAL)})
        assert len(account.steps) == (17 if options else 13) <= MAX_STEPS
    assert account.hubspot.definitions["notes"][KEY_PROPERTY].unique
    contact = account.hubspot.add("contacts", email="ada@example.com")
    assert account.deliver(event(email="ada@example.com")) == OK
    assert len(account.hubspot.timeline("contacts", contact)) == 2
    assert KIND.portal(account.subscription) == "hubspot/crd_1"
    assert KIND.portal(replace(account.subscription, options=dict(ended.remember or {}))) == f"hubspot/{PORTAL}"


def test_greeting_says_what_is_wrong_with_the_token() -> None:
    account = Account(ready=False)
    account.token = "pat-wrong"
    assert account.greet(create_properties=True).outcome.reason.startswith("http_401: INVALID_AUTHENTICATION")
    account.token, account.hubspot.scopes = "pat-eu1-11111111-2222-3333-4444-of-the-stand-in", {WRITE}
    refused = account.greet(create_properties=True)
    assert (refused.outcome.verdict, SCHEMAS in refused.outcome.reason) == ("disable", True)
    account.hubspot.scopes = {scope for scope in ALL_SCOPES if "deals" not in scope}
    assert account.greet(create_properties=True).outcome == OK, "an event that names a deal says it"
    account.hubspot.scopes -= {SCHEMAS}
    account.hubspot.definitions["notes"].pop(KEY_PROPERTY)
    refused = account.greet(create_properties=True, record="note")
    assert (refused.outcome.verdict, SCHEMAS in refused.outcome.reason) == ("disable", True)


# --- subscriptions


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"options": {"record": []}}, "/config/record"),
        ({"options": {"record": ["mail"]}}, "/config/record"),
        ({"options": {"record": [7]}}, "/config/record"),
        ({"options": {"template": {"email": "x"}}}, "/config/template/email"),
        ({"options": {"template": {"note": "x"}}}, "/config/template/note"),
        ({"options": {"template": {"note": {"a": "{{"}}}}, "/config/template/note/a"),
        ({"options": {"template": {"note": {"a": ["x"]}}}}, "/config/template/note/a"),
        ({"options": {"template": {"note": {KEY_PROPERTY: "x"}}}}, f"/config/template/note/{KEY_PROPERTY}"),
        ({"options": {"template": {"task": {"Not a name": "x"}}}}, "/config/template/task/Not a name"),
        ({"options": {"template": {"note": {f"a{n}": 1 for n in range(MAX_PROPERTIES + 1)}}}}, "/config/template/note"),
        ({"options": {"attach": "deal"}}, "/config/attach"),
    ],
    ids=str,
)
def test_wrong_subscription_is_refused_with_a_pointer(fields: dict[str, Any], pointer: str) -> None:
    check(KIND, subscription(options={"record": ["note"], "unmatched": "create", "dry_run": True, "portal": "7"}))
    with pytest.raises(InvalidRequest) as refused:
        check(KIND, replace(subscription(), **fields))
    assert [error.pointer for error in refused.value.errors] == [pointer]
