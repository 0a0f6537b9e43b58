"""The stand-in of Salesforce answers as its documentation says, and refuses what Salesforce refuses."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import orjson
import pytest
from starlette.testclient import TestClient

from relay.core.deliveries.credentials import NoToken, SinkCredential, Token, origin_text, read_token, token_request
from relay.core.deliveries.delivery import OutboundRequest
from subscribers.salesforce.answers import KEY_FIELD, PEOPLE
from subscribers.salesforce.render import names_of
from tests.vendors.salesforce import (
    CLIENT_ID,
    CLIENT_SECRET,
    JOB_EVENT,
    ORIGIN,
    TASK,
    TOKEN,
    Fault,
    Field,
    Salesforce,
)

V60 = "/services/data/v60.0"
KEY = "evt_01jvpq0000000000000000000e"
PLACE = f"{V60}/sobjects/Job_Event__c/Event_Id__c/{KEY}"


def credential(**fields: str) -> SinkCredential:
    given = {
        **{"credentialtype": "CLIENTCREDENTIALS", "token_url": f"{ORIGIN}/services/oauth2/token"},
        **{"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, **fields},
    }
    return SinkCredential(id="crd_1", origin=origin_text(ORIGIN), fields=given)


def query(org: Salesforce, soql: str) -> tuple[int, Any]:
    return org.ask("GET", f"{V60}/query?q={quote(soql, safe='')}")


# --- tokens


@pytest.mark.parametrize("secret_in_body", [False, True])
def test_client_gets_a_token_with_its_secret_in_the_header_or_in_the_body(secret_in_body: bool) -> None:
    org = Salesforce()
    token = read_token(
        org.take(token_request(credential(), secret_in_body=secret_in_body), token=None), 0.0, origin_text(ORIGIN)
    )
    assert isinstance(token, Token)
    assert token.stale_at == 3540.0, "Salesforce does not say how long a token lives"
    request = OutboundRequest(url=ORIGIN + PLACE, method="GET")
    assert org.take(request, token=token.value).status_code == 404


@pytest.mark.parametrize(
    ("fields", "run_as", "error"),
    [
        ({"client_id": "other"}, True, "invalid_client_id"),
        ({"client_secret": "other"}, True, "invalid_client"),
        ({}, False, "invalid_grant"),
    ],
)
def test_wrong_clients_get_no_token(fields: dict[str, str], run_as: bool, error: str) -> None:
    org = Salesforce(run_as=run_as)
    answer = read_token(org.take(token_request(credential(**fields)), token=None), 0.0, origin_text(ORIGIN))
    assert isinstance(answer, NoToken)
    assert f"({error})" in answer.detail
    assert org.refused == [error]


def test_other_grants_and_other_forms_get_no_token() -> None:
    org = Salesforce()
    url = f"{ORIGIN}/services/oauth2/token"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    org.answer("POST", url, form, b"grant_type=password")
    org.answer("POST", url, {"Content-Type": "application/json"}, b"{}")
    org.answer("GET", url, form, b"")
    assert org.refused == ["unsupported_grant_type", "invalid_request", "invalid_request"]


def test_invalid_token_gets_401_in_the_form_of_the_api() -> None:
    org = Salesforce()
    for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": f"Basic {TOKEN}"}):
        answer = org.answer("GET", ORIGIN + PLACE, headers, b"")
        assert (answer.status, orjson.loads(answer.body)[0]["errorCode"]) == (401, "INVALID_SESSION_ID")


def test_versions_need_no_token_and_cost_no_call() -> None:
    org = Salesforce(versions=("31.0", "60.0"))
    answer = org.answer("GET", f"{ORIGIN}/services/data/", {}, b"")
    listed = orjson.loads(answer.body)
    assert [(one["version"], one["url"]) for one in listed] == [
        ("31.0", "/services/data/v31.0"),
        ("60.0", "/services/data/v60.0"),
    ]
    assert (org.api_used, [name for name, _ in answer.headers]) == (0, ["Content-Type"])
    assert org.ask("GET", "/services/data/v62.0/sobjects/Task/describe")[0] == 404


# --- records


def test_upsert_creates_once_and_then_updates() -> None:
    org = Salesforce()
    status, made = org.ask("PATCH", PLACE, {"Status__c": "running"})
    assert (status, made["success"], made["errors"], made["created"]) == (201, True, [], True)
    assert re.fullmatch(r"a00\w{15}", made["id"])
    status, again = org.ask("PATCH", PLACE, {"Status__c": "failed"})
    assert (status, again) == (200, {**made, "created": False})
    assert [(row["Event_Id__c"], row["Status__c"]) for row in org.rows()] == [(KEY, "failed")]
    assert org.ask("GET", PLACE)[1]["Status__c"] == "failed"
    assert org.ask("GET", PLACE + "x")[0] == 404


def test_old_versions_answer_an_update_with_204() -> None:
    org = Salesforce()
    place = PLACE.replace("v60.0", "v40.0")
    assert "created" not in org.ask("PATCH", place, {})[1]
    assert org.ask("PATCH", place, {}) == (204, None)


def test_several_records_with_one_key_are_listed_with_300_and_left_alone() -> None:
    org = Salesforce()
    ids = [org.add("Job_Event__c", Event_Id__c=KEY) for _ in range(2)]
    status, listed = org.ask("PATCH", PLACE, {"Status__c": "failed"})
    assert (status, [one.rpartition("/")[2] for one in listed]) == (300, ids)
    assert "Status__c" not in str(org.rows())


def test_key_is_one_segment_of_the_path() -> None:
    org = Salesforce()
    place = f"{V60}/sobjects/Job_Event__c/Event_Id__c/{quote('a/b c', safe='')}"
    assert org.ask("PATCH", place, {})[0] == 201
    assert org.rows()[0]["Event_Id__c"] == "a/b c"
    assert org.ask("PATCH", f"{V60}/sobjects/Job_Event__c/Event_Id__c/a/b", {})[0] == 405


CONTACT = {"Contact__c": "003xx0000000001"}
WRONG: list[tuple[dict[str, Any] | bytes, str]] = [
    ({"Colour__c": "red"}, "INVALID_FIELD"),
    ({"status__c": "red"}, "INVALID_FIELD"),
    ({"Id": "a00xx0000000001"}, "INVALID_FIELD"),
    ({"Event_Id__c": KEY}, "INVALID_FIELD"),
    ({"Status__c": 7}, "JSON_PARSER_ERROR"),
    ({"Status__c": {"a": 1}}, "JSON_PARSER_ERROR"),
    ({"Status__c": ["a"]}, "JSON_PARSER_ERROR"),
    ({"Status__c": "x" * 41}, "STRING_TOO_LONG"),
    ({"Status__c": "😀" * 21}, "STRING_TOO_LONG"),
    ({"Sequence__c": "4"}, "JSON_PARSER_ERROR"),
    ({"Sequence__c": True}, "JSON_PARSER_ERROR"),
    ({"Occurred_At__c": "2026-05-20"}, "JSON_PARSER_ERROR"),
    ({"Occurred_At__c": "yesterday"}, "JSON_PARSER_ERROR"),
    ({"Occurred_At__c": 1779271208}, "JSON_PARSER_ERROR"),
    (CONTACT, "INVALID_CROSS_REFERENCE_KEY"),
    ({"Contact__c": "00Qxx0000000001"}, "MALFORMED_ID"),
    ({"Contact__c": "003xx00000"}, "MALFORMED_ID"),
    ({"Contact__c": "003xx0000000001AAB"}, "MALFORMED_ID"),
    (b"{", "JSON_PARSER_ERROR"),
    (b"[]", "JSON_PARSER_ERROR"),
    (b"\xff", "JSON_PARSER_ERROR"),
    (b'{"Status__c": "a", "Status__c": "b"}', "JSON_PARSER_ERROR"),
]


@pytest.mark.parametrize(("document", "code"), WRONG, ids=[f"{str(row[0])[:50]} {row[1]}" for row in WRONG])
def test_wrong_values_are_refused_as_salesforce_does(document: Any, code: str) -> None:
    org = Salesforce()
    status, errors = org.ask("PATCH", PLACE, document)
    assert (status, errors[0]["errorCode"], org.rows()) == (400, code, [])


def test_valid_values_are_accepted() -> None:
    org = Salesforce()
    contact = org.add("Contact", LastName="Ng", Email="alex@example.com")
    given = {
        **{"Status__c": None, "Sequence__c": 4, "Occurred_At__c": "2026-05-20T10:00:07.000Z"},
        **{"Contact__c": contact, "Sentence__c": "x" * 255},
    }
    assert org.ask("PATCH", PLACE, given)[0] == 201
    assert org.ask("PATCH", PLACE, {"Contact__c": contact[:15]})[0] == 200


def test_task_of_a_lead_is_related_to_nothing_else() -> None:
    org = Salesforce()
    lead, deal = org.add("Lead", LastName="Ng", Company="x"), org.add("Opportunity", Name="x")
    place = f"{V60}/sobjects/Task/Event_Id__c/{KEY}"
    status, errors = org.ask("PATCH", place, {"WhoId": lead, "WhatId": deal})
    assert (status, errors[0]["errorCode"]) == (400, "FIELD_INTEGRITY_EXCEPTION")
    assert org.ask("PATCH", place, {"WhoId": lead})[0] == 201


def test_lead_that_was_converted_is_linked_to_nothing() -> None:
    org = Salesforce()
    lead = org.add("Lead", LastName="Ng", IsConverted=True)
    status, errors = org.ask("PATCH", PLACE, {"Lead__c": lead})
    assert (status, errors[0]["errorCode"]) == (400, "CANNOT_UPDATE_CONVERTED_LEAD")
    assert query(org, f"SELECT Id FROM Lead WHERE Id = '{lead[:15]}'")[1]["totalSize"] == 1
    assert query(org, "SELECT Id FROM Lead WHERE Id = '00Qxx'")[1][0]["errorCode"] == "INVALID_QUERY_FILTER_OPERATOR"


def test_summary_of_an_object_says_what_the_user_may_do() -> None:
    org = Salesforce(read_only={"Task"})
    summary = org.ask("GET", f"{V60}/sobjects/Task/")[1]
    assert summary["objectDescribe"]["createable"] is False
    assert "fields" not in summary["objectDescribe"]


def test_required_fields_and_other_content_types_and_unknown_places_are_refused() -> None:
    org = Salesforce()
    status, errors = org.ask("POST", f"{V60}/sobjects/Lead", {"LastName": "Ng"})
    assert (status, errors[0]["errorCode"], errors[0]["fields"]) == (400, "REQUIRED_FIELD_MISSING", ["Company"])
    assert org.ask("PATCH", PLACE, {}, **{"Content-Type": "text/plain"})[0] == 415
    assert org.ask("POST", PLACE, {})[0] == 405
    for place in ("sobjects/Other__c/Event_Id__c/1", "sobjects/Job_Event__c/Status__c/1", "nothing"):
        assert org.ask("PATCH", f"{V60}/{place}", {})[0] == 404


def test_permissions_that_are_missing_are_told_in_the_words_of_salesforce() -> None:
    org = Salesforce(hidden={"Job_Event__c.Details__c"})
    status, errors = org.ask("PATCH", PLACE, {"Details__c": "x"})
    assert (status, errors[0]["errorCode"], errors[0]["fields"]) == (
        400,
        "INVALID_FIELD_FOR_INSERT_UPDATE",
        ["Details__c"],
    )
    org.ask("PATCH", PLACE, {})
    org.read_only.add("Job_Event__c")
    assert org.ask("PATCH", PLACE, {})[1][0]["errorCode"] == "INSUFFICIENT_ACCESS_OR_READONLY"
    status, errors = org.ask("PATCH", PLACE + "2", {})
    assert errors[0]["errorCode"] == "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY"
    assert errors[0]["message"].startswith("entity type cannot be inserted")
    described = org.ask("GET", f"{V60}/sobjects/Job_Event__c/describe")[1]
    names = {one["name"]: one for one in described["fields"]}
    assert described["createable"] is False
    assert "Details__c" not in names
    assert (names["Event_Id__c"]["externalId"], names["Event_Id__c"]["unique"], names["Status__c"]["length"]) == (
        True,
        True,
        40,
    )


def test_duplicate_rule_blocks_with_the_member_that_salesforce_misspells() -> None:
    org = Salesforce(blocks={"Job_Event__c"})
    status, errors = org.ask("PATCH", PLACE, {})
    assert (status, errors[0]["errorCode"]) == (400, "DUPLICATES_DETECTED")
    assert errors[0]["duplicateResut"]["allowSave"] is False


def test_task_is_upserted_by_the_same_key_and_a_platform_event_succeeds_with_an_errors_entry() -> None:
    org = Salesforce()
    place = f"{V60}/sobjects/Task/Event_Id__c/{KEY}"
    assert [org.ask("PATCH", place, {"Subject": "Call"})[0] for _ in range(2)] == [201, 200]
    assert len(org.rows("Task")) == 1
    status, made = org.ask("POST", f"{V60}/sobjects/Job_Event__e/", {"Event_Id__c": KEY})
    assert (status, made["success"], made["errors"][0]["statusCode"]) == (201, True, "OPERATION_ENQUEUED")
    assert org.ask("PATCH", f"{V60}/sobjects/Job_Event__e/Event_Id__c/{KEY}", {})[0] == 404


# --- queries


def test_queries_find_people_by_their_address() -> None:
    org = Salesforce()
    first = org.add("Contact", LastName="Ng", Email="O'Neil\\@example.com")
    org.add("Contact", LastName="Ng", Email="o'neil\\@example.com")
    status, found = query(
        org, r"SELECT Id FROM Contact WHERE Email = 'o\'neil\\@example.com' ORDER BY CreatedDate LIMIT 1"
    )
    assert (status, found["totalSize"], found["done"], found["records"][0]["Id"]) == (200, 1, True, first)
    lead = org.add("Lead", LastName="Ng", Company="x", Email="a@example.com")
    found = query(org, "SELECT Id FROM Lead WHERE Email = 'a@example.com' AND IsConverted = false")[1]
    assert [one["Id"] for one in found["records"]] == [lead]
    assert query(org, "SELECT Id FROM Lead WHERE Email = 'nobody@example.com'")[1]["records"] == []


def test_queries_find_people_by_one_of_their_numbers() -> None:
    org = Salesforce()
    ids = [org.add("Lead", Phone="(415) 555-0100"), org.add("Lead", MobilePhone="+14155550100", IsConverted=True)]
    asked = "(Phone IN ('+14155550100', '(415) 555-0100') OR MobilePhone IN ('+14155550100'))"
    everyone = query(org, f"SELECT Id FROM Lead WHERE {asked} LIMIT 2")[1]["records"]
    assert [one["Id"] for one in everyone] == ids
    kept = query(org, f"SELECT Id FROM Lead WHERE {asked} AND IsConverted = false LIMIT 2")[1]["records"]
    assert [one["Id"] for one in kept] == ids[:1]


@pytest.mark.parametrize(
    ("soql", "code"),
    [
        ("SELECT Id FROM Contact WHERE Email = 'o'neil@example.com'", "MALFORMED_QUERY"),
        (r"SELECT Id FROM Contact WHERE Email = 'a\q'", "MALFORMED_QUERY"),
        ("SELECT Id FROM Contact WHERE Email = 'a' OR Email = 'b' AND Phone = 'c'", "MALFORMED_QUERY"),
        ("SELECT Id FROM Contact WHERE (Email = 'a' OR Email = 'b'", "MALFORMED_QUERY"),
        ("SELECT Id FROM Contact WHERE Email IN ()", "MALFORMED_QUERY"),
        ("SELECT Id FROM Contact WHERE Email IN ('a',)", "MALFORMED_QUERY"),
        ("SELECT Id FROM Contact WHERE Email LIKE 'a'", "MALFORMED_QUERY"),
        ("SELECT Id FROM Contact WHERE Email = a", "MALFORMED_QUERY"),
        ("SELECT Id FROM Contact WHERE Email = ", "MALFORMED_QUERY"),
        ("SELECT Id FROM Contact WHERE 'a' = 'a'", "MALFORMED_QUERY"),
        ("SELECT Id FROM Contact WHERE (Colour = 'a' OR Email = 'b')", "INVALID_FIELD"),
        ("SELECT Id FROM Contact WHERE Email = 'a'; DELETE", "MALFORMED_QUERY"),
        ("", "MALFORMED_QUERY"),
        ("SELECT Id FROM Nothing", "INVALID_TYPE"),
        ("SELECT Colour FROM Contact", "INVALID_FIELD"),
    ],
)
def test_queries_with_mistakes_are_refused(soql: str, code: str) -> None:
    status, errors = query(Salesforce(), soql)
    assert (status, errors[0]["errorCode"]) == (400, code)


# --- limits and faults


def test_each_call_is_counted_and_the_limit_of_the_day_is_403() -> None:
    org = Salesforce(api_limit=2)
    answers = [org.answer("GET", ORIGIN + PLACE, {"authorization": f"Bearer {TOKEN}"}, b"") for _ in range(3)]
    assert [dict(one.headers).get("Sforce-Limit-Info") for one in answers] == ["api-usage=1/2", "api-usage=2/2", None]
    assert answers[2].status == 403
    assert orjson.loads(answers[2].body)[0]["errorCode"] == "REQUEST_LIMIT_EXCEEDED"


def test_org_fails_when_told_to_before_or_after_the_work_is_done() -> None:
    org = Salesforce()
    org.faults += [Fault(status=503), Fault(works=True), Fault(status=400, code="UNABLE_TO_LOCK_ROW")]
    request = OutboundRequest(
        url=ORIGIN + PLACE, method="PATCH", headers=(("Content-Type", "application/json"),), body=b"{}"
    )
    assert org.take(request).status_code == 503
    assert org.rows() == []
    assert org.take(request).error == "read"
    assert len(org.rows()) == 1
    assert b"UNABLE_TO_LOCK_ROW" in org.take(request).excerpt
    assert org.take(request).status_code == 200


def test_org_is_served_over_http() -> None:
    org = Salesforce()
    with TestClient(org.app()) as client:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        place = f"{V60}/sobjects/Job_Event__c/Event_Id__c/{quote('a/b', safe='')}"
        assert client.patch(place, json={"Status__c": "failed"}, headers=headers).status_code == 201
        soql = "SELECT Id FROM Job_Event__c WHERE Event_Id__c = 'a/b'"
        assert client.get(f"{V60}/query", params={"q": soql}, headers=headers).json()["totalSize"] == 1
        assert client.get("/services/data").json()[0]["version"] == "31.0"


def test_response_of_a_broken_connection_is_an_error() -> None:
    assert Salesforce.response_of(Fault().answer).error == "read"


# --- the definition to deploy

XML = {"": "http://soap.sforce.com/2006/04/metadata"}
TYPES = {
    **{"Text": "string", "LongTextArea": "textarea", "DateTime": "datetime", "Number": "double", "Url": "url"},
    "Lookup": "reference",
}


def deployed(name: str) -> ElementTree.Element:
    return ElementTree.parse(Path(__file__).parents[2] / "deploy/salesforce" / name).getroot()


def texts_of(element: ElementTree.Element) -> dict[str, str]:
    return {one.tag.partition("}")[2]: one.text or "" for one in element}


def defined(name: str) -> dict[str, Field]:
    """The fields of a definition, as the stand-in knows them."""
    found = {}
    for given in map(texts_of, deployed(name).findall("fields", XML)):
        refers = (given["referenceTo"],) if "referenceTo" in given else ()
        length = 255 if given["type"] == "Url" else 18 if refers else int(given.get("length", "0"))
        flags = {flag: given.get(flag) == "true" for flag in ("required", "unique")}
        assert given.get("externalId", "false") == given.get("unique", "false")
        found[given["fullName"]] = Field(TYPES[given["type"]], length, refers=refers, **flags)
    return found


def test_stand_in_has_the_fields_that_are_deployed() -> None:
    assert defined("objects/Job_Event__c.object") == JOB_EVENT
    assert defined("objects/Activity.object") == {"Event_Id__c": TASK["Event_Id__c"]}


def test_permission_set_lets_every_optional_field_be_written_and_nothing_be_deleted() -> None:
    root = deployed("permissionsets/Revor_Relay.permissionset")
    fields = [texts_of(one) for one in root.findall("fieldPermissions", XML)]
    editable = {one["field"] for one in fields if one["editable"] == "true"}
    assert editable == {
        "Task.Event_Id__c",
        *(f"Job_Event__c.{name}" for name, one in JOB_EVENT.items() if not one.required),
    }
    objects = [texts_of(one) for one in root.findall("objectPermissions", XML)]
    assert {one["object"] for one in objects if one["allowEdit"] == "true"} == {"Job_Event__c"}
    assert {one["allowDelete"] for one in objects} == {"false"}
    readable = {one["field"] for one in fields if one["readable"] == "true"} - editable
    assert readable == {f"{object}.{name}" for object in PEOPLE for name in ("Email", "Phone", "MobilePhone")}


def test_definition_has_what_the_kind_writes_and_nothing_else() -> None:
    assert {KEY_FIELD, *names_of("Job_Event__c")} == set(defined("objects/Job_Event__c.object"))
    assert {KEY_FIELD} == set(defined("objects/Activity.object"))
    assert {KEY_FIELD, *names_of("Task")} == set(TASK)


def test_package_lists_every_file_that_is_deployed() -> None:
    listed = {
        (one.findtext("name", namespaces=XML), member.text)
        for one in deployed("package.xml").findall("types", XML)
        for member in one.findall("members", XML)
    }
    assert listed == {
        ("CustomObject", "Job_Event__c"),
        ("CustomField", "Activity.Event_Id__c"),
        ("PermissionSet", "Revor_Relay"),
    }
    folder = Path(__file__).parents[2] / "deploy/salesforce"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "package.xml",
        "objects/Job_Event__c.object",
        "objects/Activity.object",
        "permissionsets/Revor_Relay.permissionset",
    }
