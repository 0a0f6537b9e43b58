"""Salesforce: one record per event, whatever breaks, at a strict stand-in of an org."""

from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from relay.core.deliveries.credentials import SinkCredential, origin_text
from relay.core.deliveries.delivery import Outcome, Response
from relay.core.deliveries.dialogue import Ended, Step, Steps
from relay.core.events.event import Event, Origin
from relay.core.jobs.job import Recipient
from relay.core.samples import sample_event
from relay.core.subscriptions.subscription import Subscription
from relay.errors import InvalidRequest
from subscribers.base import RenderContext
from subscribers.common import crm
from subscribers.salesforce import SALESFORCE, Salesforce
from subscribers.salesforce.answers import (
    DAILY_PAUSE_SECONDS,
    NEWEST_VERSION,
    read_answer,
    usage_of,
)
from subscribers.salesforce.requests import soql_text
from tests.support.kind_checks import check
from tests.vendors.endpoint import Answer
from tests.vendors.salesforce import CLIENT_ID, CLIENT_SECRET, ORIGIN, TOKEN, Fault
from tests.vendors.salesforce import Salesforce as Org

NOW = 1779271208.0
JOBS = Origin(source="https://api.example/jobs", type_prefix="ai.revor.job", dataschema="http://x/s.json")
CONTEXT = RenderContext(public_url="https://relay.example")
KIND = Salesforce()
EMAIL = "o'neil@example.com"
EVENT_ID = "evt_01jvpq0000000000000000000e"
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
    return sample_event(
        f"ai.revor.job.{kind}",
        event_id=EVENT_ID,
        now=NOW,
        origin=JOBS,
        dataschema_base="http://x",
        metadata=metadata,
    )


def deliver(
    org: Org, one: Event, of: Subscription, *, break_at: int = -1, context: RenderContext = CONTEXT
) -> tuple[Outcome, list[Step]]:
    """What becomes of a delivery, and the steps that were sent. `break_at`: the step whose answer is lost."""
    ended, sent = converse(org, SALESFORCE.steps(one, of, context, {}, NOW), break_at)
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
    assert row["Details__c"].startswith("How to fix it: Reconnect it in Revor")
    assert (row["Sequence__c"], row["Occurred_At__c"]) == (4, "2026-05-20T10:00:07.000Z")
    assert (row["Error_Code__c"], row["Request_Id__c"], row["Link__c"]) == (
        "sample_error",
        "req_sample",
        "https://crm.example/deals/42",
    )
    assert EMAIL not in str(org.rows()), "the address is not written into the record"


# --- nobody

UNMATCHED = Outcome(verdict="skip", reason="unmatched")


@pytest.mark.parametrize("metadata", [{"email": EMAIL}, {"contact_id": "003xx0000000009"}])
@pytest.mark.parametrize(
    ("unmatched", "verdict", "records"), [("skip", "skip", 0), ("fail", "dead", 0), ("create", "delivered", 1)]
)
def test_person_who_is_not_there_is_treated_as_the_subscription_says(
    metadata: dict[str, Any], unmatched: str, verdict: str, records: int
) -> None:
    org = Org()
    outcome, _ = deliver(org, event(**metadata), subscription(api_version="60.0", unmatched=unmatched))
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


# --- no doubles


@pytest.mark.parametrize("object", ["Job_Event__c", "Task"])
@pytest.mark.parametrize("broken_at", range(4))
def test_connection_that_breaks_after_any_request_makes_no_second_record(object: str, broken_at: int) -> None:
    org = Org()
    org.add("Lead", LastName="Ng", Company="x", Email=EMAIL)
    of = subscription(object=object)
    outcome, sent = deliver(org, event(email=EMAIL), of, break_at=broken_at)
    assert (outcome, len(sent)) == (Outcome(verdict="retry", reason="read"), broken_at + 1)
    assert deliver(org, event(email=EMAIL), of)[0].verdict == "delivered"
    assert len(org.rows(object)) == 1


def test_texts_in_queries_cannot_end_them() -> None:
    assert soql_text("a' OR Name = 'b\\\n\"") == r"'a\' OR Name = \'b\\\n\"'"


# --- what answers mean


def told(status: int, code: str, message: str = "", fields: tuple[str, ...] = ()) -> Response:
    return response(status, [{"errorCode": code, "message": message, "fields": list(fields)}])


def response(status: int, document: Any = None, **headers: str) -> Response:
    body = document if isinstance(document, bytes) else b"" if document is None else orjson.dumps(document)
    given = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Response(started_at=NOW, duration_ms=1.0, status_code=status, headers=given, excerpt=body)


EVENT = {"statusCode": "OPERATION_ENQUEUED", "message": "232fd30e", "fields": []}
COLUMN = "No such column 'X__c' on sobject of type Job_Event__c"
CASES: list[tuple[Response, str, str]] = [
    (response(201, {"id": "a", "success": True, "errors": []}), "delivered", "http_201"),
    (response(200, {"id": "a", "success": True, "errors": [], "created": False}), "delivered", "http_200"),
    (response(201, {"id": "e", "success": True, "errors": [EVENT]}), "delivered", "http_201"),
    (response(204), "delivered", "http_204"),
    (
        response(200, {"id": None, "success": False, "errors": [{**EVENT, "statusCode": "STRING_TOO_LONG"}]}),
        "dead",
        "S",
    ),
    (response(200, {"success": False, "errors": []}), "retry", "not an answer"),
    (response(200, b"<html>"), "retry", "not an answer"),
    (response(200), "retry", "not an answer"),
    (response(200, {"ok": True}), "retry", "not an answer"),
    (response(300, ["/services/data/v60.0/sobjects/Job_Event__c/a00"]), "dead", "Event_Id__c"),
    (told(401, "INVALID_SESSION_ID"), "retry", "INVALID_SESSION_ID"),
    (response(401), "retry", "http_401"),
    (told(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded."), "retry", "REQUEST_LIMIT_EXCEEDED"),
    (told(403, "API_CURRENTLY_DISABLED"), "disable", "API Enabled"),
    (told(403, "API_DISABLED_FOR_ORG"), "disable", "edition"),
    (told(403, "INSUFFICIENT_ACCESS"), "disable", "Create and Edit on Job_Event__c"),
    (told(400, "INSUFFICIENT_ACCESS_OR_READONLY"), "disable", "Create and Edit on Job_Event__c"),
    (told(400, "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", "entity type cannot be inserted: x"), "disable", "Create"),
    (told(400, "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", "Trigger: s3cr3t"), "dead", "CANNOT_INSERT"),
    (told(404, "NOT_FOUND", "The requested resource does not exist"), "disable", "deploy Job_Event__c"),
    (told(410, "GONE"), "disable", "config.api_version"),
    (told(400, "INVALID_FIELD", COLUMN), "disable", "the field X__c"),
    (told(400, "INVALID_FIELD", "s3cr3t"), "disable", "config.template"),
    (told(400, "INVALID_FIELD_FOR_INSERT_UPDATE", "s3cr3t", ("A__c", "B__c")), "disable", "edit A__c, B__c"),
    (told(400, "INVALID_FIELD_FOR_INSERT_UPDATE"), "disable", "the fields of Job_Event__c"),
    (told(400, "STRING_TOO_LONG", "s3cr3t", ("Status__c", "<b>", "A" * 99)), "dead", "STRING_TOO_LONG: Status__c"),
    (told(400, "DUPLICATES_DETECTED", "s3cr3t"), "dead", "DUPLICATES_DETECTED"),
    (told(400, "DUPLICATE_VALUE", "duplicate value found: Event_Id__c duplicates"), "retry", "DUPLICATE_VALUE"),
    (told(400, "DUPLICATE_VALUE", "duplicate value found: Other__c duplicates"), "dead", "DUPLICATE_VALUE"),
    (told(400, "INVALID_CROSS_REFERENCE_KEY"), "dead", "INVALID_CROSS_REFERENCE_KEY"),
    (told(400, "UNABLE_TO_LOCK_ROW"), "retry", "UNABLE_TO_LOCK_ROW"),
    (told(400, "STORAGE_LIMIT_EXCEEDED"), "retry", "STORAGE_LIMIT_EXCEEDED"),
    (told(400, "NEVER_HEARD_OF"), "retry", "NEVER_HEARD_OF"),
    (told(400, "s3cr3t"), "retry", "http_400"),
    (told(503, "SERVER_UNAVAILABLE"), "retry", "http_503"),
    (response(404, b"<html>"), "retry", "http_404"),
    (response(400, [7, {"errorCode": 7}, {"errorCode": "A_CODE", "message": 7, "fields": 7}]), "retry", "A_CODE"),
    (response(400, b"[" * 100_000), "retry", "http_400"),
    (Response(started_at=NOW, duration_ms=1.0, error="timeout"), "retry", "timeout"),
]


@pytest.mark.parametrize(("given", "verdict", "reason"), CASES, ids=[f"{row[1]} {row[2]}" for row in CASES])
def test_answers_are_judged_by_their_code(given: Response, verdict: str, reason: str) -> None:
    outcome = read_answer(given, NOW, subscription(), "Job_Event__c").outcome
    assert outcome.verdict == verdict
    assert reason in outcome.reason
    assert "s3cr3t" not in outcome.reason


@pytest.mark.parametrize(
    ("header", "usage", "pause"),
    [
        ("api-usage=10018/100000", (10018, 100000), None),
        ("api-usage=94999/100000; api-bursts=1/750", (94999, 100000), None),
        ("api-usage=95000/100000; api-bursts=1/750", (95000, 100000), DAILY_PAUSE_SECONDS),
        ("api-usage=100000/100000", (100000, 100000), DAILY_PAUSE_SECONDS),
        ("per-app-api-usage=17/17(appName=x); api-usage=1/50", (1, 50), None),
        ("per-app-api-usage=17/17(appName=x)", None, None),
        ("api-usage=1/0", None, None),
        ("api-usage=" + "9" * 400 + "/1", None, None),
        ("", None, None),
    ],
)
def test_requests_of_the_day_are_read_and_some_are_left_to_others(
    header: str, usage: tuple[int, int] | None, pause: float | None
) -> None:
    given = response(201, {"success": True}, Sforce_Limit_Info=header)
    assert usage_of(given) == usage
    assert read_answer(given, NOW, subscription(), "Task").outcome.retry_after_seconds == pause


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
    steps = SALESFORCE.steps(event(email=EMAIL), subscription(api_version="60.0"), CONTEXT, {}, NOW)
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
    steps = SALESFORCE.steps(event(email=EMAIL), subscription(api_version="60.0"), CONTEXT, {}, NOW)
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
    (subscription(f"{ORIGIN}/services/data"), "/sink"),
    (subscription(f"{ORIGIN}?a=b"), "/sink"),
    (subscription(LOGIN, {**APP, "token_url": ELSEWHERE}), "/sink"),
    (subscription("https://acme.lightning.force.com", GIVEN), "/sink"),
    (subscription(given=None), "/sinkcredential"),
    (subscription(given={"credentialtype": "PLAIN", "identifier": "a", "secret": "b"}), "/sinkcredential"),
    (subscription(given={**APP, "token_url": ELSEWHERE}), "/sinkcredential/token_url"),
    (subscription(given={**APP, "token_url": f"{ORIGIN}/other"}), "/sinkcredential/token_url"),
    (subscription(channel="x"), "/config/channel"),
    (subscription(object="Account"), "/config/object"),
    (subscription(object="a/b__c"), "/config/object"),
    (subscription(object=7), "/config/object"),
    (subscription(unmatched="drop"), "/config/unmatched"),
    (subscription(unmatched=["skip"]), "/config/unmatched"),
    (subscription(api_version="45.0"), "/config/api_version"),
    (subscription(api_version="999.0"), "/config/api_version"),
    (subscription(api_version=62.0), "/config/api_version"),
    (subscription(template={"Contact__c": "x"}), "/config/template/Contact__c"),
    (subscription(object="task", template={"WhoId": "x"}), "/config/template/WhoId"),
    (replace(subscription(), types=("relay.delivery.expired",)), "/types"),
    (subscription(template="text"), "/config/template"),
    (subscription(template={"Id": "x"}), "/config/template/Id"),
    (subscription(template={"Event_Id__c": "x"}), "/config/template/Event_Id__c"),
    (subscription(template={"a/b": "x"}), "/config/template/a~1b"),
    (subscription(template={"Status__c": ["x"]}), "/config/template/Status__c"),
    (replace(subscription(), method="PUT"), "/protocolsettings/method"),
    (replace(subscription(), headers=(("X-A", "b"),)), "/protocolsettings/headers"),
    (replace(subscription(), handshake="required"), "/config/handshake"),
    (replace(subscription(), incidents="collapse"), "/config/incidents"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "pointer"), MISTAKES, ids=[f"{at} {index}" for index, (_, at) in enumerate(MISTAKES)]
)
def test_mistakes_are_named_with_their_place(given: Subscription, pointer: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check(KIND, given)
    assert [error.pointer for error in refused.value.errors] == [pointer]
