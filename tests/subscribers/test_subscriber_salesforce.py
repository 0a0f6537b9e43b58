"""Salesforce: one record per event, whatever breaks, at a strict stand-in of an org."""

from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from relay.core.credentials import SinkCredential, origin_text
from relay.core.delivery import OutboundRequest, Outcome, Response
from relay.core.dialogue import Ended, Step, previewed
from relay.core.events import Event, Origin
from relay.core.samples import sample_event
from relay.core.subscription import Subscription
from relay.errors import InvalidRequest
from subscribers.base import RenderContext
from subscribers.salesforce import RECORDS, SKIPPED, Salesforce, soql_text
from subscribers.salesforce_answers import (
    BUSY_PAUSE_SECONDS,
    DAILY_PAUSE_SECONDS,
    NEWEST_VERSION,
    RESERVE_PAUSE_SECONDS,
    newest_version,
    read_answer,
    usage_of,
)
from subscribers.salesforce_records import meant_by
from tests.support.hostile_texts import TEXTS, events_with
from tests.support.scale import scaled
from tests.vendors.salesforce import CLIENT_ID, CLIENT_SECRET, ORIGIN, TOKEN, Fault
from tests.vendors.salesforce import Salesforce as Org

NOW = 1779271208.0
JOBS = Origin(source="https://api.example/jobs", type_prefix="ai.revor.job", dataschema="http://x/s.json")
CONTEXT = RenderContext(public_url="https://relay.example")
KIND = Salesforce()
EMAIL = "o'neil@example.com"
KEY = "evt_01jvpq0000000000000000000e"
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
        event_id=KEY,
        now=NOW,
        origin=JOBS,
        dataschema_base="http://x",
        metadata=metadata,
    )


def deliver(org: Org, one: Event, of: Subscription, *, break_at: int = -1) -> tuple[Outcome, list[Step]]:
    """What becomes of a delivery, and the steps that were sent. `break_at`: the step whose answer is lost."""
    sent: list[Step] = []
    steps = RECORDS.steps(one, of, CONTEXT, {}, NOW)
    response: Response | None = None
    while True:
        try:
            step = next(steps) if response is None else steps.send(response)
        except StopIteration as end:
            ended: Ended = end.value
            return ended.outcome, sent
        if len(sent) == break_at:
            org.faults.append(Fault(works=True))
        sent.append(step)
        response = org.respond(step.request)


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
    assert row["Sentence__c"] == "LinkedIn outreach to Alex failed: the account needs reconnecting"
    assert row["Advice__c"].startswith("How to fix it: Reconnect it in Revor")
    assert (row["Sequence__c"], row["Occurred_At__c"]) == (4, "2026-05-20T10:00:07.000Z")
    assert (row["Error_Code__c"], row["Request_Id__c"], row["Link__c"]) == (
        "sample_error",
        "req_sample",
        "https://crm.example/deals/42",
    )
    assert EMAIL not in str(org.rows()), "the address is not written into the record"


def test_lead_is_linked_if_there_is_no_contact_and_a_converted_one_is_not() -> None:
    org = Org()
    org.add("Lead", LastName="Ng", Company="x", Email=EMAIL, IsConverted=True)
    lead = org.add("Lead", LastName="Ng", Company="x", Email=EMAIL)
    outcome, sent = deliver(org, event(email=EMAIL), subscription(api_version="60.0"))
    assert (outcome.verdict, names(sent)[:2]) == ("delivered", ["look-up of the contact", "look-up of the lead"])
    assert org.rows()[0]["Lead__c"] == lead


def test_ids_need_no_look_up() -> None:
    org = Org()
    contact, deal = org.add("Contact", LastName="Ng"), org.add("Opportunity", Name="Example Ltd")
    one = event(contact_id=contact, deal_id=deal[:15], email=EMAIL)
    _, sent = deliver(org, one, subscription(api_version="60.0"))
    assert names(sent) == ["Job_Event__c by Event_Id__c"]
    assert (org.rows()[0]["Contact__c"], org.rows()[0]["Opportunity__c"]) == (contact, deal[:15])


@pytest.mark.parametrize("kind", ["failed", "succeeded"])
def test_task_has_the_sentence_the_advice_and_the_links(kind: str) -> None:
    org = Org()
    lead, deal = org.add("Lead", LastName="Ng", Company="x"), org.add("Opportunity", Name="x")
    of = subscription(api_version="60.0", object="Task")
    for _ in range(2):
        assert deliver(org, event(kind, contact_id=lead, deal_id=deal), of)[0].verdict == "delivered"
    [row] = org.rows("Task")
    assert (row["WhoId"], row["WhatId"], row["ActivityDate"]) == (lead, deal, "2026-05-20")
    expected = {"failed": ("Not Started", "High"), "succeeded": ("Completed", "Normal")}
    assert (row["Status"], row["Priority"]) == expected[kind]
    assert "Event evt_01jvpq" in row["Description"].replace(": ", " ")
    assert "delivered" not in row["Subject"]


def test_template_changes_and_removes_fields() -> None:
    pytest.importorskip("liquid")
    org = Org()
    contact = org.add("Contact", LastName="Ng")
    template = {"Status__c": "lost: {{ job.error.code }}", "Advice__c": None, "Account__c": "{{ metadata.owner }}"}
    of = subscription(api_version="60.0", template=template)
    KIND.check(of)
    deliver(org, event(contact_id=contact), of)
    [row] = org.rows()
    assert (row["Status__c"], row["Account__c"], "Advice__c" in row) == ("lost: sample_error", "Kim", False)


def test_hostile_texts_are_accepted() -> None:
    org = Org()
    for object in ("Job_Event__c", "Task"):
        of = subscription(api_version="60.0", unmatched="create", object=object)
        for turn, text in enumerate(TEXTS[:: scaled(9, 1)]):
            for one in events_with(text, part=turn, parts=scaled(14, 1)):
                org.api_used = 0
                outcome, _ = deliver(org, replace(one, id=KEY), of)  # ids are the relay's own
                assert outcome.verdict == "delivered", org.refused
    assert org.refused == []


# --- nobody


@pytest.mark.parametrize(
    "metadata", [{}, {"contact_id": "12345"}, {"email": "no address"}, {"email": 7}, {"deal_id": "003xx0000000001"}]
)
def test_event_that_names_nobody_is_skipped_without_a_request(metadata: dict[str, Any]) -> None:
    org = Org()
    assert deliver(org, event(**metadata), subscription()) == (Outcome(verdict="delivered", reason=SKIPPED), [])
    outcome, sent = deliver(org, event(**metadata), subscription(unmatched="fail"))
    assert (outcome.verdict, outcome.reason, sent) == ("dead", "unmatched: the event names nobody", [])
    assert org.calls == []


@pytest.mark.parametrize("metadata", [{"email": EMAIL}, {"contact_id": "003xx0000000009"}])
@pytest.mark.parametrize(
    ("unmatched", "verdict", "records"), [("skip", "delivered", 0), ("fail", "dead", 0), ("create", "delivered", 1)]
)
def test_person_who_is_not_there_is_treated_as_the_subscription_says(
    metadata: dict[str, Any], unmatched: str, verdict: str, records: int
) -> None:
    org = Org()
    outcome, _ = deliver(org, event(**metadata), subscription(api_version="60.0", unmatched=unmatched))
    assert (outcome.verdict, len(org.rows())) == (verdict, records)
    assert records == 0 or "Contact__c" not in org.rows()[0]


def test_org_without_leads_is_searched_for_contacts_only() -> None:
    org = Org()
    del org.objects["Lead"]
    outcome, _ = deliver(org, event(email=EMAIL), subscription(api_version="60.0"))
    assert outcome.reason == SKIPPED


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


def test_bytes_are_the_same_at_each_attempt() -> None:
    first, second = (KIND.render(event(email=EMAIL), subscription(), CONTEXT) for _ in range(2))
    assert first == second
    assert urlsplit(first.url).path == f"/services/data/v{NEWEST_VERSION}.0/sobjects/Job_Event__c/Event_Id__c/{KEY}"
    assert RECORDS.key(event(), subscription()) is None


def test_preview_shows_the_look_ups_and_the_record_with_placeholders() -> None:
    steps = previewed(RECORDS.steps(event(email=EMAIL), subscription(), CONTEXT, {}, NOW))
    assert names(list(steps)) == ["versions", "look-up of the contact", "Job_Event__c by Event_Id__c"]
    asked = parse_qs(urlsplit(steps[1].request.url).query)["q"][0]
    assert asked == r"SELECT Id FROM Contact WHERE Email = 'o\'neil@example.com' ORDER BY CreatedDate ASC LIMIT 1"
    assert orjson.loads(steps[2].request.body)["Contact__c"] == "003{id-of-the-contact}"
    assert not any(EMAIL in step.name for step in steps)


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
    assert KIND.classify(given, NOW).verdict == verdict


def test_token_that_was_given_is_disabled_once_it_is_refused() -> None:
    for given in (told(401, "INVALID_SESSION_ID"), response(401)):
        outcome = read_answer(given, NOW, subscription(given=GIVEN), "Task").outcome
        assert (outcome.verdict, "sinkcredential" in outcome.reason) == ("disable", True)


def test_person_who_may_not_be_read_disables_with_the_permission() -> None:
    outcome = read_answer(told(400, "INVALID_TYPE"), NOW, subscription(), "Contact").outcome
    assert (outcome.verdict, "Read on Contact" in outcome.reason) == ("disable", True)


@pytest.mark.parametrize(
    ("message", "seconds"),
    [("TotalRequests Limit exceeded.", DAILY_PAUSE_SECONDS), ("ConcurrentRequests (…)", BUSY_PAUSE_SECONDS)],
)
def test_limits_pause_the_subscription(message: str, seconds: float) -> None:
    outcome = read_answer(told(403, "REQUEST_LIMIT_EXCEEDED", message), NOW, subscription(), "Task").outcome
    assert outcome.retry_after_seconds == seconds


@pytest.mark.parametrize(
    ("header", "usage", "pause"),
    [
        ("api-usage=10018/100000", (10018, 100000), None),
        ("api-usage=95000/100000; api-bursts=1/750", (95000, 100000), None),
        ("api-usage=95001/100000", (95001, 100000), RESERVE_PAUSE_SECONDS),
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


@pytest.mark.parametrize(
    ("listed", "newest"),
    [
        (["31.0", "60.0", "62.0"], "62.0"),
        (["62.0", "60.0"], "62.0"),
        (["62.0", "999.0"], "62.0"),
        (["45.0"], None),
        (["x", 7, None, "62.0.0"], None),
    ],
)
def test_newest_version_that_both_know_is_used(listed: list[Any], newest: str | None) -> None:
    assert newest_version([{"version": one} for one in listed]) == newest
    assert newest_version({"version": "62.0"}) is None


def test_instance_without_a_usable_version_and_one_that_is_down_are_tried_again() -> None:
    assert deliver(Org(versions=("31.0",)), event(email=EMAIL), subscription())[0].reason.startswith(
        "the instance lists"
    )
    org = Org(faults=[Fault(status=503)])
    assert deliver(org, event(email=EMAIL), subscription())[0] == Outcome(verdict="retry", reason="http_503")


@pytest.mark.parametrize("change", ["hidden", "read_only", "object", "field"])
def test_missing_permission_or_definition_disables_and_says_what_to_do(change: str) -> None:
    org = Org()
    contact = org.add("Contact", LastName="Ng")
    match change:
        case "hidden":
            org.hidden.add("Job_Event__c.Advice__c")
        case "read_only":
            org.read_only.add("Job_Event__c")
        case "object":
            del org.objects["Job_Event__c"]
        case "field":
            del org.objects["Job_Event__c"]["Advice__c"]
    outcome, _ = deliver(org, event(contact_id=contact), subscription(api_version="60.0"))
    assert outcome.verdict == "disable"
    assert ("Advice__c" if change in ("hidden", "field") else "Job_Event__c") in outcome.reason


@pytest.mark.parametrize("id", ["", "x", 7, None, "00Qxx0000000001", {"a": 1}])
def test_answers_of_look_ups_are_not_trusted(id: Any) -> None:
    steps = RECORDS.steps(event(email=EMAIL), subscription(api_version="60.0"), CONTEXT, {}, NOW)
    next(steps)
    step = steps.send(response(200, {"totalSize": 1, "done": True, "records": [{"Id": id}]}))
    assert step.name == "look-up of the lead"


# --- subscriptions


def test_subscriptions_are_accepted() -> None:
    KIND.check(subscription())
    KIND.check(subscription(given=GIVEN))
    KIND.check(
        subscription(f"{ORIGIN}/", object="acme__Job_Event__c", unmatched="create", dry_run=True, api_version="62.0")
    )
    assert KIND.default_types(["ai.revor.job"]) == tuple(
        f"ai.revor.job.{kind}" for kind in ("succeeded", "failed", "cancelled", "not_found")
    )
    assert KIND.redacted_url(f"{ORIGIN}/") == ORIGIN
    assert KIND.bundle(subscription()) is None
    assert KIND.dialogue(subscription()) is RECORDS


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
    (subscription(dry_run="yes"), "/config/dry_run"),
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
        KIND.check(given)
    assert [error.pointer for error in refused.value.errors] == [pointer]


def test_only_metadata_say_whom_an_event_is_about() -> None:
    meant = meant_by(event(email="a@example.com", contact_id="003xx0000000001"))
    assert (meant.email, meant.person, meant.deal, meant.nobody) == ("a@example.com", "003xx0000000001", None, False)


def test_request_is_json_without_a_credential() -> None:
    request: OutboundRequest = KIND.render(event(), subscription(), CONTEXT)
    assert dict(request.headers) == {"Accept": "application/json", "Content-Type": "application/json"}
    assert request.method == "PATCH"
