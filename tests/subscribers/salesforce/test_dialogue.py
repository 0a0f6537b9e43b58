"""Salesforce: one record per event, whatever breaks, at a strict stand-in of an org."""

from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from relay.core.deliveries.credentials import SinkCredential, origin_text
from relay.core.deliveries.delivery import Outcome, Response
from relay.core.deliveries.dialogue import Ended, Step, Steps
from relay.core.events.event import Event
from relay.core.jobs.job import Recipient
from relay.core.subscriptions.subscription import Subscription
from relay.errors import InvalidRequest
from subscribers.base import RenderContext
from subscribers.common import crm
from subscribers.salesforce import Salesforce
from subscribers.salesforce.answers import NEWEST_VERSION, read_answer
from subscribers.salesforce.dialogue import DIALOGUE
from subscribers.salesforce.requests import soql_text
from tests.subscribers.salesforce.test_answers import response
from tests.support.job_events import NOW, sample
from tests.support.kind_checks import check
from tests.vendors.endpoint import Answer
from tests.vendors.salesforce import CLIENT_ID, CLIENT_SECRET, ORIGIN, TOKEN, Fault
from tests.vendors.salesforce import Salesforce as Org

CONTEXT = RenderContext(public_url="https://relay.example")
KIND = Salesforce()
EMAIL = "o'neil@example.com"
TOKEN_URL = f"{ORIGIN}/services/oauth2/token"
LOGIN = "https://login.salesforce.com"
ELSEWHERE = f"{LOGIN}/services/oauth2/token"
APP = {
    "credentialtype": "CLIENTCREDENTIALS",
    "token_url": TOKEN_URL,
    "client_id": CLIENT_ID,
    "client_secret": CLIENT_SECRET,
}
GIVEN = {"credentialtype": "ACCESSTOKEN", "accesstoken": TOKEN}


def subscription(sink: str = ORIGIN, given: dict[str, str] | None = APP, **options: Any) -> Subscription:
    credential = given and SinkCredential(id="crd_1", origin=origin_text(sink), fields=given)
    return Subscription(id="sub_1", sink=sink, kind="salesforce", credential=credential or None, options=options)


def event(kind: str = "failed", **metadata: Any) -> Event:
    return sample(f"ai.revor.job.{kind}", metadata)


def deliver(
    org: Org, one: Event, of: Subscription, *, break_at: int = -1, context: RenderContext = CONTEXT
) -> tuple[Outcome, list[Step]]:
    """What becomes of a delivery, and the steps that were sent. `break_at`: the step whose answer is lost."""
    ended, sent = converse(org, DIALOGUE.steps(one, of, context, {}, NOW), break_at)
    assert ended.remember is None
    assert all(step.private and step.remember is None for step in sent)
    return ended.outcome, sent


def converse(org: Org, steps: Steps, break_at: int = -1) -> tuple[Ended, list[Step]]:
    sent: list[Step] = []
    response: Response | None = None
    while True:
        try:
            step = next(steps) if response is None else steps.send(response)
        except StopIteration as end:
            ended: Ended = end.value
            return ended, sent
        if len(sent) == break_at:
            org.faults.append(Fault(works=True))
        sent.append(step)
        response = org.take(step.request)


KEY = crm.key_of(event(), subscription())


def names(sent: list[Step]) -> list[str]:
    return [step.name for step in sent]


# --- the records


def test_event_becomes_a_record_that_is_linked_to_the_contact_with_the_address() -> None:
    org = Org()
    contact = org.add("Contact", LastName="Ng", Email=EMAIL)
    outcome, sent = deliver(org, event(email=EMAIL), subscription())
    assert (outcome.verdict, outcome.reason) == ("delivered", "http_201")
    assert names(sent) == ["versions", "look-up of the contact", "Job_Event__c by Event_Id__c"]
    [row] = org.rows()
    assert (row["Event_Id__c"], row["Contact__c"], row["Status__c"]) == (KEY, contact, "failed")
    assert row["Sentence__c"] == "This is a sample: LinkedIn outreach to Alex failed: the account needs reconnecting"
    assert row["Details__c"].startswith("Next step: Reconnect it in Revor")
    assert (row["Sequence__c"], row["Occurred_At__c"]) == (4, "2026-05-20T10:00:07.000Z")
    assert (row["Error_Code__c"], row["Request_Id__c"], row["Link__c"]) == (
        "sample_error",
        "req_sample",
        "https://crm.example/deals/42",
    )
    assert EMAIL not in str(org.rows()), "the address is not written into the record"


UNMATCHED = Outcome(verdict="skip", reason="unmatched")


@pytest.mark.parametrize(
    ("unmatched", "verdict", "records"), [("skip", "skip", 0), ("fail", "dead", 0), ("create", "delivered", 1)]
)
def test_contact_id_that_is_not_there_is_treated_as_the_subscription_says(
    unmatched: str, verdict: str, records: int
) -> None:
    org = Org()
    of = subscription(api_version="60.0", unmatched=unmatched)
    outcome, _ = deliver(org, event(contact_id="003xx0000000009"), of)
    assert (outcome.verdict, len(org.rows())) == (verdict, records)
    assert records == 0 or "Contact__c" not in org.rows()[0]


# --- who is meant


def captured(address: str | None = None, phone: str | None = None) -> RenderContext:
    return replace(CONTEXT, recipient=Recipient(address=address, phone=phone))


@pytest.mark.parametrize(
    ("metadata", "context"),
    [
        ({}, captured(address=EMAIL)),
        ({}, captured(phone="+1 415-555-0100")),
        ({"email": EMAIL}, captured(address="other@example.com")),
        ({"phone": "415.555.0100"}, CONTEXT),
        ({"email": "nobody@example.com"}, captured(phone="+14155550100")),
    ],
)
def test_person_is_found_by_metadata_first_then_by_what_was_captured(
    metadata: dict[str, Any], context: RenderContext
) -> None:
    org = Org()
    contact = org.add("Contact", LastName="Ng", Email=EMAIL, Phone="(415) 555-0100")
    org.add("Contact", LastName="Lee", Email="other@example.com")
    outcome, _ = deliver(org, event(**metadata), subscription(api_version="60.0"), context=context)
    assert (outcome.verdict, org.rows()[0]["Contact__c"]) == ("delivered", contact)
    assert KIND.wants_recipient(subscription())


@pytest.mark.parametrize("gone", ["deal", "person", "both", "lead"])
@pytest.mark.parametrize("object", ["Job_Event__c", "Task"])
def test_link_that_is_refused_does_not_cost_the_others(gone: str, object: str) -> None:
    org = Org()
    contact, deal = org.add("Contact", LastName="Ng"), org.add("Opportunity", Name="x")
    given = {"contact_id": contact, "deal_id": deal}
    if gone in ("deal", "both"):
        given["deal_id"] = "006xx0000000099"
    if gone in ("person", "both"):
        given["contact_id"] = "003xx0000000099"
    if gone == "lead":
        given = {"lead_id": "00Qxx0000000099", "deal_id": deal}
    outcome, sent = deliver(org, event(**given), subscription(api_version="60.0", object=object))
    if gone == "both":
        assert (outcome, len(sent)) == (UNMATCHED, 5)
        return
    [row] = org.rows(object)
    person, place = ("WhoId", "WhatId") if object == "Task" else ("Contact__c", "Opportunity__c")
    assert (row.get(person), row.get(place)) == ((contact, None) if gone == "deal" else (None, deal))
    assert outcome.verdict == "delivered"


def test_texts_in_queries_cannot_end_them() -> None:
    assert soql_text("a' OR Name = 'b\\\n\"") == r"'a\' OR Name = \'b\\\n\"'"


# --- answers


@pytest.mark.parametrize("change", ["hidden", "read_only", "object", "field"])
def test_missing_permission_or_definition_disables_and_says_what_to_do(change: str) -> None:
    org = Org()
    contact = org.add("Contact", LastName="Ng")
    match change:
        case "hidden":
            org.hidden.add("Job_Event__c.Details__c")
        case "read_only":
            org.read_only.add("Job_Event__c")
        case "object":
            del org.objects["Job_Event__c"]
        case "field":
            del org.objects["Job_Event__c"]["Details__c"]
    outcome, _ = deliver(org, event(contact_id=contact), subscription(api_version="60.0"))
    assert outcome.verdict == "disable"
    assert ("Details__c" if change in ("hidden", "field") else "Job_Event__c") in outcome.reason


@pytest.mark.parametrize("id", ["", "x", 7, None, "00Qxx0000000001", {"a": 1}])
def test_answers_of_look_ups_are_not_trusted(id: Any) -> None:
    steps = DIALOGUE.steps(event(email=EMAIL), subscription(api_version="60.0"), CONTEXT, {}, NOW)
    next(steps)
    step = steps.send(response(200, {"totalSize": 1, "done": True, "records": [{"Id": id}]}))
    assert step.name == "look-up of the lead", "nobody was found"


# --- before a subscription is stored


def greet(org: Org, of: Subscription) -> tuple[Ended, list[str]]:
    steps = KIND.greeting(of, NOW)
    assert steps is not None
    ended, sent = converse(org, steps)
    assert all(step.private and step.request.method == "GET" for step in sent), "nothing is written"
    return ended, names(sent)


@pytest.mark.parametrize(
    ("object", "steps"),
    [
        ("Job_Event__c", ["versions", "description of Job_Event__c", "look-up of the contact"]),
        ("job_event", ["versions", "description of Job_Event__c", "look-up of the contact"]),
        ("Task", ["versions", "summary of Task", "fields of Task", "look-up of the contact"]),
        ("task", ["versions", "summary of Task", "fields of Task", "look-up of the contact"]),
    ],
)
def test_greeting_checks_what_deliveries_need_and_finds_the_version(object: str, steps: list[str]) -> None:
    org = Org()
    ended, sent = greet(org, subscription(object=object))
    assert (ended.outcome.verdict, sent, org.refused) == ("delivered", steps, [])
    assert ended.remember == {"portal": "acme.my.salesforce.com", "api_version": f"{NEWEST_VERSION}.0"}
    assert KIND.portal(subscription()) == "acme.my.salesforce.com"
    assert org.records == {}


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize(("status", "body"), [(0, b""), (503, b""), (200, b"<html>login"), (302, b"")])
def test_sink_that_fails_while_it_is_greeted_says_nothing_about_permissions(at: int, status: int, body: bytes) -> None:
    org = Org()
    of = subscription(object="Task")
    steps = KIND.greeting(of, NOW)
    assert steps is not None
    step = next(steps)
    for _ in range(at):
        step = steps.send(org.take(step.request))
    with pytest.raises(StopIteration) as end:
        steps.send(Org.response_of(Answer(status, body)))
    assert (end.value.value.outcome.verdict, end.value.value.remember) == ("retry", None)


# --- hostile orgs

RECORD_SHAPED = {"id": "a00xx0000000001", "success": True, "errors": []}
OTHER_BODIES: list[Any] = [
    *([], {}, None, 7, "x", {"records": []}, {"fields": []}, {"objectDescribe": {}}, [RECORD_SHAPED], b"<html>"),
    *({"success": 1}, {"success": "true"}, {"success": None}, b"\xff\xfe", b"[" * 70_000, b"9" * 70_000, b"1e999"),
    *({"success": False}, {"success": False, "errors": {}}, {"success": False, "errors": [{"statusCode": "<b>"}]}),
]


@pytest.mark.parametrize("body", OTHER_BODIES, ids=[str(one)[:40] for one in OTHER_BODIES])
@pytest.mark.parametrize("status", [200, 201, 202])
def test_only_an_answer_in_the_shape_of_a_written_record_counts(status: int, body: Any) -> None:
    outcome = read_answer(response(status, body), NOW, subscription(), "Task").outcome
    assert (outcome.verdict, "not an answer" in outcome.reason) == ("retry", True)


IDS_OF_OTHERS = [
    *("003" + "x" * 12 + "/..", "003/../../../x", "003" + "x" * 60_000, "003xx000000000\n", "003xx00000000é1", ""),
    *(3, 10**400, True, None, [], {"Id": "003xx0000000001"}, "006xx0000000001", "{lead}", "003xx0000000001 "),
]


@pytest.mark.parametrize("id", IDS_OF_OTHERS, ids=[str(one)[:30] for one in IDS_OF_OTHERS])
def test_ids_in_answers_and_in_metadata_are_ids_of_salesforce_or_nothing(id: Any) -> None:
    body = b'{"records": [{"Id": %d}]}' % id if id == 10**400 else {"records": [{"Id": id}]}
    steps = DIALOGUE.steps(event(email=EMAIL), subscription(api_version="60.0"), CONTEXT, {}, NOW)
    next(steps)
    assert steps.send(response(200, body)).name == "look-up of the lead"
    if id == "003xx0000000001 " or id == 10**400:
        return  # blanks around an id are forgiven in metadata
    assert deliver(Org(), event(contact_id=id, deal_id=id if id != "006xx0000000001" else ""), subscription())[1] == []


INJECTIONS = [
    *("x' OR Name LIKE '%'@example.com", "a'--@example.com", "a\\'@example.com", "a\\@example.com", "a'@b'.com"),
    *("a\n@example.com", "a'\u2019@example.com", "ä'ö@exämple.com", "a%27@example.com", "a+'&q=x@example.com"),
    *("a'\u0085@example.com", "a{b}'@example.com", "'@" + "'" * 70, "a\x00'@example.com"),
]


@pytest.mark.parametrize("email", INJECTIONS, ids=[ascii(one)[:40] for one in INJECTIONS])
@pytest.mark.parametrize("way", ["metadata", "captured"])
def test_no_address_changes_a_query(email: str, way: str) -> None:
    org = Org()
    org.add("Contact", LastName="Ng", Email="other@example.com")
    one, context = (event(email=email), CONTEXT) if way == "metadata" else (event(), captured(address=email))
    outcome, sent = deliver(org, one, subscription(api_version="60.0"), context=context)
    assert (outcome, org.refused, org.rows()) == (UNMATCHED, [], []), "a query is refused, or found somebody else"
    for step in sent:
        asked = parse_qs(urlsplit(step.request.url).query, strict_parsing=True)
        assert list(asked) == ["q"]
        assert len(step.request.url) < 2_000
        assert asked["q"][0].count("'") - asked["q"][0].count("\\'") == 2, "one text"


def test_texts_of_16_kib_make_no_long_request() -> None:
    long = "x" * 16_000
    metadata = {"email": f"{long}@example.com", "phone": "1" * 16_000, "contact_id": long, "deal_id": long}
    assert deliver(Org(), event(**metadata), subscription()) == (UNMATCHED, [])
    metadata = {"deal_id": "006xx0000000001", "url": f"https://crm.example/{long}", "owner": long, "deal": long}
    for object in ("Job_Event__c", "Task"):
        _, sent = deliver(Org(), event(**metadata), subscription(api_version="60.0", object=object))
        assert all(len(step.request.url) < 300 and len(step.request.body) < 20_000 for step in sent)


def test_description_of_a_hostile_org_is_read_as_values() -> None:
    names_of_fields = [{"name": "Event_Id__c\u202e"}, {"name": ["x"]}, {}, None, {"name": "a" * 60_000}]
    for document in (
        {"createable": True, "updateable": True, "fields": names_of_fields},
        {"createable": "yes", "updateable": 1, "fields": []},
        {"fields": [[]]},
    ):
        steps = KIND.greeting(subscription(), NOW)
        assert steps is not None
        next(steps)
        steps.send(response(200, [{"version": "60.0"}]))
        with pytest.raises(StopIteration) as end:
            steps.send(response(200, document))
        assert end.value.value.outcome.verdict == "disable"
        assert len(end.value.value.outcome.reason) < 1_000


# --- subscriptions


MISTAKES: list[tuple[Subscription, str]] = [
    (subscription(LOGIN, {**APP, "token_url": ELSEWHERE}), "/sink"),
    (subscription("https://acme.lightning.force.com", GIVEN), "/sink"),
    (subscription(given={"credentialtype": "PLAIN", "identifier": "a", "secret": "b"}), "/sinkcredential"),
    (subscription(given={**APP, "token_url": ELSEWHERE}), "/sinkcredential/token_url"),
    (subscription(given={**APP, "token_url": f"{ORIGIN}/other"}), "/sinkcredential/token_url"),
    (subscription(object="Account"), "/config/object"),
    (subscription(object="a/b__c"), "/config/object"),
    (subscription(object=7), "/config/object"),
    (subscription(api_version="45.0"), "/config/api_version"),
    (subscription(api_version="999.0"), "/config/api_version"),
    (subscription(api_version=62.0), "/config/api_version"),
    (subscription(template={"Contact__c": "x"}), "/config/template/Contact__c"),
    (subscription(object="task", template={"WhoId": "x"}), "/config/template/WhoId"),
    (subscription(template={"Id": "x"}), "/config/template/Id"),
    (subscription(template={"Event_Id__c": "x"}), "/config/template/Event_Id__c"),
    (subscription(template={"a/b": "x"}), "/config/template/a~1b"),
    (subscription(template={"Status__c": ["x"]}), "/config/template/Status__c"),
]  # fmt: skip


def test_mistakes_are_named_with_their_place() -> None:
    for given, pointer in MISTAKES:
        with pytest.raises(InvalidRequest) as refused:
            check(KIND, given)
        assert [error.pointer for error in refused.value.errors] == [pointer]
