"""The stand-in of HubSpot's CRM API refuses what HubSpot refuses, and HubSpot's own client works with it."""

import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
import uvicorn
from starlette.testclient import TestClient

from tests.vendors.endpoint import Answer, Fault
from tests.vendors.hubspot import (
    ALL_SCOPES,
    ASSOCIATIONS,
    CLIENT_ID,
    CLIENT_SECRET,
    MAX_TEXT,
    PORTAL,
    REFRESH_TOKEN,
    TOKEN,
    WRITE,
    Definition,
    HubSpot,
)

V = "2026-09"
KEY = "relay_event_id"
CONTACTS, NOTES = f"/crm/objects/{V}/contacts", f"/crm/objects/{V}/notes"


def account(**fields: Any) -> HubSpot:
    hubspot = HubSpot(**{"burst": 1_000, **fields})
    for object in ("notes", "tasks"):
        hubspot.definitions[object][KEY] = Definition(name=KEY, unique=True)
    return hubspot


def call(hubspot: HubSpot, method: str, path: str, document: Any = None, token: str = TOKEN, **headers: str) -> Answer:
    sent = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", **headers}
    body = b"" if document is None else orjson.dumps(document)
    return hubspot.answer(method, f"https://api.hubapi.com{path}", sent, body)


def said(answer: Answer) -> dict[str, Any]:
    document = orjson.loads(answer.body)
    assert isinstance(document, dict)
    return document


def note(contact: str, **properties: str) -> dict[str, Any]:
    about = {"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": ASSOCIATIONS["notes", "contacts"]}
    values = {"hs_note_body": "<p>Hi</p>", "hs_timestamp": "1779271208000", **properties}
    return {"properties": values, "associations": [{"to": {"id": contact}, "types": [about]}]}


def test_contact_is_found_and_changed_by_its_address() -> None:
    hubspot = account()
    id = hubspot.add("contacts", email="Ada@example.com")
    answer = call(hubspot, "PATCH", f"{CONTACTS}/ada%40example.com?idProperty=email", {"properties": {"company": "X"}})
    assert (answer.status, said(answer)["id"]) == (200, id)
    assert hubspot.records["contacts"][id].properties["company"] == "X"
    assert call(hubspot, "GET", f"{CONTACTS}/bob%40example.com?idProperty=email").status == 404


def test_second_contact_with_an_address_is_refused_with_the_id_of_the_first() -> None:
    hubspot = account()
    id = hubspot.add("contacts", email="ada@example.com")
    answer = call(hubspot, "POST", CONTACTS, {"properties": {"email": "ADA@example.com"}, "associations": []})
    assert (answer.status, said(answer)["category"]) == (409, "CONFLICT")
    assert said(answer)["message"] == f"Contact already exists. Existing ID: {id}"


def test_note_is_on_the_timeline_of_its_contact_and_its_key_is_unique() -> None:
    hubspot = account()
    id = hubspot.add("contacts", email="ada@example.com")
    assert call(hubspot, "POST", NOTES, note(id, **{KEY: "evt_1"})).status == 201
    refused = call(hubspot, "POST", NOTES, note(id, **{KEY: "evt_1"}))
    assert (refused.status, said(refused)["errors"][0]["code"]) == (400, "CONFLICTING_UNIQUE_VALUE")
    (record,) = hubspot.timeline("contacts", id)
    found = call(hubspot, "GET", f"{NOTES}/evt_1?idProperty={KEY}")
    assert said(found)["id"] == record.id
    by_body = call(hubspot, "GET", f"{NOTES}/evt_1?idProperty=hs_note_body")
    assert "non-unique" in said(by_body)["message"]


@pytest.mark.parametrize(
    ("path", "document", "code"),
    [
        (CONTACTS, {"properties": {"nickname": "A"}}, "PROPERTY_DOESNT_EXIST"),
        (CONTACTS, {"properties": {"hs_object_id": "7"}}, "READ_ONLY_VALUE"),
        (CONTACTS, {"properties": {"email": "nobody"}}, "INVALID_EMAIL"),
        (CONTACTS, {"properties": {"email": 7}}, "a text is expected"),
        (CONTACTS, {"properties": []}, "an object is expected"),
        (CONTACTS, {"properties": {}, "extra": 1}, "no such field"),
        (CONTACTS, {}, "it is missing"),
        (NOTES, {"properties": {"hs_note_body": "x"}}, "required properties were not set"),
        (NOTES, {"properties": {"hs_timestamp": "soon"}}, "INVALID_DATE"),
        (NOTES, {"properties": {"hs_timestamp": "1", "hubspot_owner_id": "78"}}, "INVALID_OWNER_ID"),
        (NOTES, {"properties": {"hs_timestamp": "1", "hs_note_body": "<script>x</script>"}}, "INVALID_HTML"),
        (NOTES, {"properties": {"hs_timestamp": "1", "hs_note_body": "<b onclick='x'>"}}, "INVALID_HTML"),
        (NOTES, {"properties": {"hs_timestamp": "1", "hs_note_body": "x" * (MAX_TEXT + 1)}}, "INVALID_LENGTH"),
        (f"/crm/objects/{V}/tasks", {"properties": {"hs_timestamp": "1", "hs_task_type": "RUN"}}, "INVALID_OPTION"),
        (f"/crm/objects/{V}/deals", {"properties": {"amount": "much"}}, "INVALID_FLOAT"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_documents_are_refused(path: str, document: Any, code: str) -> None:
    answer = call(account(), "POST", path, document)
    assert (answer.status, said(answer)["category"]) == (400, "VALIDATION_ERROR")
    assert code in answer.body.decode()


def test_association_of_another_type_or_to_nobody_is_refused() -> None:
    hubspot = account()
    assert call(hubspot, "POST", NOTES, note("999")).status == 404
    id = hubspot.add("deals", dealname="X")
    assert call(hubspot, "POST", NOTES, note(id)).status == 404, "202 means contacts"


@pytest.mark.parametrize("scope", sorted(ALL_SCOPES))
def test_call_without_its_scope_names_it(scope: str) -> None:
    hubspot = account()
    hubspot.scopes.discard(scope)
    contact, deal = hubspot.add("contacts"), hubspot.add("deals")
    definition = {"name": "x", "label": "X", "type": "string", "fieldType": "text"}
    answers = [
        call(hubspot, "GET", f"{CONTACTS}/{contact}"),
        call(hubspot, "PATCH", f"{CONTACTS}/{contact}", {"properties": {}}),
        call(hubspot, "GET", f"/crm/objects/{V}/deals/{deal}"),
        call(hubspot, "PATCH", f"/crm/objects/{V}/deals/{deal}", {"properties": {}}),
        call(hubspot, "POST", f"/crm/properties/{V}/contacts", {**definition, "groupName": "contactinformation"}),
        call(hubspot, "POST", f"/crm/properties/{V}/deals", {**definition, "groupName": "dealinformation"}),
    ]
    (refused,) = [answer for answer in answers if answer.status == 403]
    assert said(refused)["category"] == "MISSING_SCOPES"
    assert said(refused)["errors"][0]["context"]["requiredGranularScopes"] == [scope]


def test_wrong_and_expired_tokens_are_told_apart() -> None:
    hubspot = account()
    hubspot.expired.add("old")
    answers = [call(hubspot, "GET", f"/account-info/{V}/details", token=token) for token in ("wrong", "old", TOKEN)]
    assert [answer.status for answer in answers] == [401, 401, 200]
    assert [said(answer).get("category") for answer in answers[:2]] == [
        "INVALID_AUTHENTICATION",
        "EXPIRED_AUTHENTICATION",
    ]
    assert said(answers[2])["portalId"] == PORTAL


def test_app_gets_a_token_that_takes_the_place_of_the_one_before() -> None:
    hubspot = account()
    app = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    form = {"grant_type": "refresh_token", "refresh_token": REFRESH_TOKEN}

    def grant(fields: dict[str, str]) -> Answer:
        return hubspot.answer("POST", f"https://api.hubapi.com/oauth/{V}/token", {}, urlencode(fields).encode())

    assert said(grant(form))["status"] == "BAD_CLIENT_ID", "the client is wanted in the body"
    assert said(grant({**form, **app, "refresh_token": "x"}))["status"] == "BAD_REFRESH_TOKEN"
    first, second = (said(grant({**form, **app}))["access_token"] for _ in range(2))
    path = f"/account-info/{V}/details"
    assert [call(hubspot, "GET", path, token=token).status for token in (first, second)] == [401, 200]


def test_limit_names_its_policy_and_searches_have_one_of_their_own() -> None:
    moments = [0.0]
    hubspot = account(burst=3, clock=lambda: moments[0])
    path = f"/account-info/{V}/details"
    first, *_, last = [call(hubspot, "GET", path) for _ in range(4)]
    assert dict(first.headers)["X-HubSpot-RateLimit-Remaining"] == "2"
    assert (last.status, said(last)["policyName"], said(last)["errorType"]) == (
        429,
        "TEN_SECONDLY_ROLLING",
        "RATE_LIMIT",
    )
    searches = [call(hubspot, "POST", f"{CONTACTS}/search", {"limit": 1}) for _ in range(6)]
    assert [answer.status for answer in searches] == [200] * 5 + [429]
    assert said(searches[-1])["message"] == "You have reached your secondly limit."
    assert not [name for name, _ in searches[0].headers if name.startswith("X-HubSpot")]
    moments[0] = 10.0
    assert call(hubspot, "GET", path).status == 200
    hubspot.daily = 0
    assert said(call(hubspot, "GET", path))["policyName"] == "DAILY"


def test_search_finds_new_records_late() -> None:
    hubspot = account()
    hubspot.indexes = False
    hubspot.add("contacts", email="ada@example.com")
    condition = {"propertyName": "email", "operator": "EQ", "value": "ADA@example.com"}
    query = {"filterGroups": [{"filters": [condition]}], "limit": 1}
    assert said(call(hubspot, "POST", f"{CONTACTS}/search", query))["total"] == 0
    hubspot.index()
    assert said(call(hubspot, "POST", f"{CONTACTS}/search", query))["total"] == 1


def test_batch_is_carried_out_in_part_if_each_input_has_a_trace_id() -> None:
    hubspot = account()
    one = {"id": "evt_1", "idProperty": KEY, "properties": {"hs_timestamp": "1"}, "objectWriteTraceId": "1"}
    wrong = {**one, "id": "evt_2", "properties": {"nothing": "x"}, "objectWriteTraceId": "2"}
    answer = call(hubspot, "POST", f"{NOTES}/batch/upsert", {"inputs": [one, wrong]})
    assert (answer.status, said(answer)["numErrors"], len(said(answer)["results"])) == (207, 1, 1)
    again = call(hubspot, "POST", f"{NOTES}/batch/upsert", {"inputs": [one]})
    assert (again.status, said(again)["results"][0]["new"]) == (200, False)
    by_email = {"id": "a@x.example", "idProperty": "email", "properties": {}}
    assert call(hubspot, "POST", f"{CONTACTS}/batch/upsert", {"inputs": [by_email]}).status == 400


def test_notes_of_a_contact_are_listed_in_pages_and_read_together() -> None:
    moments = [1779271208.0]
    hubspot = account(now=lambda: moments[0])
    contact, other = hubspot.add("contacts", email="ada@example.com"), hubspot.add("contacts")
    ids = []
    for nth in range(3):
        moments[0] += 60
        ids.append(said(call(hubspot, "POST", NOTES, note(contact, **{KEY: f"evt_{nth}"})))["id"])
    call(hubspot, "POST", NOTES, note(other))
    first = said(call(hubspot, "GET", f"{CONTACTS}/{contact}/associations/notes?limit=2"))
    assert [one["toObjectId"] for one in first["results"]] == ids[:2]
    after = first["paging"]["next"]["after"]
    second = said(call(hubspot, "GET", f"{CONTACTS}/{contact}/associations/notes?limit=2&after={after}"))
    assert ([one["toObjectId"] for one in second["results"]], "paging" in second) == (ids[2:], False)
    query = {"inputs": [{"id": ids[2]}], "properties": ["hs_timestamp"], "propertiesWithHistory": []}
    (one,) = said(call(hubspot, "POST", f"{NOTES}/batch/read", query))["results"]
    assert one["createdAt"] == "2026-05-20T10:03:08.000Z"
    assert one["properties"] == {"hs_object_id": ids[2], "hs_timestamp": "2026-05-20T10:00:08.000Z"}
    query["inputs"].append({"id": "999"})
    answer = call(hubspot, "POST", f"{NOTES}/batch/read", query)
    assert (answer.status, len(said(answer)["results"]), said(answer)["numErrors"]) == (207, 1, 1)
    for path in (f"{CONTACTS}/{contact}/associations/notes?limit=501", f"{CONTACTS}/{contact}?colour=red"):
        assert call(hubspot, "GET", path).status == 400
    assert call(hubspot, "GET", f"{CONTACTS}/999/associations/notes").status == 404


def test_merged_contact_is_found_by_its_old_id_and_its_address_is_taken() -> None:
    hubspot = account()
    id, other = hubspot.add("contacts", email="ada@example.com"), hubspot.add("contacts", email="ada@other.example")
    hubspot.merge("contacts", id, other)
    assert said(call(hubspot, "GET", f"{CONTACTS}/{id}"))["id"] == other
    assert call(hubspot, "GET", f"{CONTACTS}/ada%40example.com?idProperty=email").status == 404
    answer = call(hubspot, "POST", CONTACTS, {"properties": {"email": "ada@example.com"}, "associations": []})
    assert said(answer)["message"] == f"Contact already exists. Existing ID: {other}"


def test_property_is_made_once_in_a_group_that_exists() -> None:
    hubspot = account()
    path = f"/crm/properties/{V}/contacts"
    definition = {"name": "x", "label": "X", "type": "string", "fieldType": "text", "groupName": "mine"}
    assert "does not exist" in said(call(hubspot, "POST", path, definition))["message"]
    assert call(hubspot, "POST", f"{path}/groups", {"name": "mine", "label": "Mine"}).status == 201
    assert call(hubspot, "POST", f"{path}/groups", {"name": "mine", "label": "Mine"}).status == 409
    assert call(hubspot, "POST", path, {**definition, "fieldType": "number"}).status == 400
    assert call(hubspot, "POST", path, definition).status == 201
    assert said(call(hubspot, "POST", path, definition))["category"] == "OBJECT_ALREADY_EXISTS"
    assert call(hubspot, "GET", f"{path}/x").status == 200
    hubspot.unique.discard("contacts")
    unique = {**definition, "name": "y", "hasUniqueValue": True}
    assert "cannot have unique values" in said(call(hubspot, "POST", path, unique))["message"]


def test_fault_stands_in_for_an_answer_with_or_without_the_call() -> None:
    hubspot = account()
    id = hubspot.add("contacts", email="ada@example.com")
    hubspot.fail("POST notes", Fault(), Fault(works=True, status=502))
    assert call(hubspot, "POST", NOTES, note(id)).status == 0
    assert hubspot.timeline("contacts", id) == []
    assert call(hubspot, "POST", NOTES, note(id)).status == 502
    assert len(hubspot.timeline("contacts", id)) == 1


def test_account_is_served_over_http() -> None:
    hubspot = account()
    id = hubspot.add("contacts", email="a+b@example.com")
    with TestClient(hubspot.app()) as client:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        found = client.get(f"{CONTACTS}/a%2Bb%40example.com?idProperty=email", headers=headers)
        assert (found.status_code, found.json()["id"]) == (200, id)
        assert client.get(f"/crm/objects/{V}/nothing/1", headers=headers).status_code == 404
        assert client.delete(f"{CONTACTS}/{id}", headers=headers).status_code == 405
        posted = client.post(CONTACTS, content=b"{", headers={**headers, "Content-Type": "text/plain"})
        assert posted.status_code == 415


@pytest.fixture
def served() -> Iterator[tuple[HubSpot, str]]:
    """The account on a port of its own."""
    hubspot = account()
    server = uvicorn.Server(uvicorn.Config(hubspot.app(), port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield hubspot, f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def test_client_of_hubspot_reads_every_answer(served: tuple[HubSpot, str]) -> None:
    from hubspot import Client
    from hubspot.crm.contacts import SimplePublicObjectInput, SimplePublicObjectInputForCreate
    from hubspot.crm.contacts.exceptions import ApiException
    from hubspot.crm.objects import BatchReadInputSimplePublicObjectId
    from hubspot.crm.objects import SimplePublicObjectInputForCreate as Made
    from hubspot.crm.properties import PropertyCreate

    hubspot, url = served

    def at(api: Any) -> Any:
        api.api_client.configuration.host = url
        return api

    client = Client.create(access_token=TOKEN)
    contacts = at(client.crm.contacts.basic_api)
    values = {"email": "ada@example.com"}
    made = contacts.create(SimplePublicObjectInputForCreate(properties=values, associations=[]))
    with pytest.raises(ApiException) as conflict:
        contacts.create(SimplePublicObjectInputForCreate(properties=values, associations=[]))
    assert conflict.value.status == 409
    changed = contacts.update(
        "ada@example.com", SimplePublicObjectInput(properties={"company": "X"}), id_property="email"
    )
    assert (changed.id, changed.properties["company"]) == (made.id, "X")
    document = note(made.id, **{KEY: "evt_1"})
    notes = at(client.crm.objects.basic_api)
    posted = notes.create("notes", Made(**document))
    assert notes.get_by_id("notes", "evt_1", id_property=KEY).id == posted.id
    assert [record.id for record in hubspot.timeline("contacts", made.id)] == [posted.id]
    listed = at(client.crm.associations.v4.basic_api).get_page("contacts", made.id, "notes")
    assert [str(one.to_object_id) for one in listed.results] == [posted.id]
    query = BatchReadInputSimplePublicObjectId(
        inputs=[{"id": posted.id}], properties=["hs_note_body"], properties_with_history=[]
    )
    (one,) = at(client.crm.objects.batch_api).read("notes", query).results
    assert one.properties["hs_note_body"] == "<p>Hi</p>"
    properties = at(client.crm.properties.core_api)
    definition = PropertyCreate(
        name="x", label="X", type="string", field_type="text", group_name="contactinformation", has_unique_value=True
    )
    assert properties.create("contacts", definition).has_unique_value
    hubspot.scopes.discard(WRITE)
    with pytest.raises(ApiException) as missing:
        contacts.create(SimplePublicObjectInputForCreate(properties=values, associations=[]))
    assert missing.value.status == 403
    assert hubspot.refused[-1].startswith("This app hasn't been granted all required scopes")
