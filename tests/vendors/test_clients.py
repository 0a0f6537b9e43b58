"""The clients that others wrote for HubSpot and Salesforce work with the stand-ins: so the stand-ins are true."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import simple_salesforce
import uvicorn
from requests.adapters import BaseAdapter
from simple_salesforce import exceptions
from simple_salesforce import format as formats

from tests.vendors import hubspot as hubspot_vendor
from tests.vendors.hubspot import ASSOCIATIONS, Definition, HubSpot
from tests.vendors.salesforce import CLIENT_ID, CLIENT_SECRET, Fault, Salesforce

KEY = "Event_Id__c/evt_01jvpq"
NOTE_KEY = "relay_event_id"


class Wire(BaseAdapter):
    """Carries requests to the stand-in."""

    def __init__(self, org: Salesforce) -> None:
        super().__init__()
        self.org = org

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        body = request.body or b""
        answer = self.org.answer(
            str(request.method),
            str(request.url),
            dict(request.headers),
            body.encode() if isinstance(body, str) else body,
        )
        response = requests.Response()
        response.status_code, response.url, response.request = answer.status, str(request.url), request
        response.headers.update(dict(answer.headers))
        response._content = answer.body
        return response

    def close(self) -> None:
        """Nothing is open."""


def client(org: Salesforce) -> Any:
    session = requests.Session()
    session.mount("https://", Wire(org))
    return simple_salesforce.Salesforce(
        consumer_key=CLIENT_ID, consumer_secret=CLIENT_SECRET, domain="acme.my", session=session, version="60.0"
    )


def test_client_logs_in_upserts_reads_and_queries() -> None:
    org = Salesforce()
    salesforce = client(org)
    assert salesforce.sf_instance == "acme.my.salesforce.com"
    made = [salesforce.Job_Event__c.upsert(KEY, {"Status__c": status}) for status in ("running", "failed")]
    assert made == [201, 200]
    assert [row["Status__c"] for row in org.rows()] == ["failed"]
    query = formats.format_soql("SELECT Id FROM Contact WHERE Email = {}", "o'neil\\\"@example.com")
    assert salesforce.query(query)["totalSize"] == 0
    contact = org.add("Contact", LastName="Ng", Email="o'neil\\\"@example.com")
    assert [one["Id"] for one in salesforce.query(query)["records"]] == [contact]
    assert salesforce.api_usage["api-usage"] == (org.api_used, org.api_limit)
    assert salesforce.Job_Event__c.describe()["createable"] is True
    strange = formats.format_external_id("Event_Id__c", "a/b c")
    assert salesforce.Task.upsert(strange, {"Subject": "x"}) == 201
    assert org.rows("Task")[0]["Event_Id__c"] == "a/b c"


@pytest.mark.parametrize(
    ("prepare", "error"),
    [
        (
            lambda org: [org.add("Job_Event__c", Event_Id__c="evt_01jvpq") for _ in range(2)],
            "SalesforceMoreThanOneRecord",
        ),
        (lambda org: setattr(org, "api_used", org.api_limit), "SalesforceRefusedRequest"),
        (lambda org: org.objects.pop("Job_Event__c"), "SalesforceResourceNotFound"),
        (lambda org: org.faults.append(Fault(status=503)), "SalesforceGeneralError"),
    ],
)
def test_client_understands_each_refusal(prepare: Any, error: str) -> None:
    org = Salesforce()
    salesforce = client(org)
    prepare(org)
    with pytest.raises(getattr(exceptions, error)):
        salesforce.Job_Event__c.upsert(KEY, {"Status__c": "failed"})


@pytest.fixture
def served() -> Iterator[tuple[HubSpot, str]]:
    """The account on a port of its own."""
    hubspot = HubSpot(burst=1_000)
    for object in ("notes", "tasks"):
        hubspot.definitions[object][NOTE_KEY] = Definition(name=NOTE_KEY, unique=True)
    server = uvicorn.Server(uvicorn.Config(hubspot.app(), port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield hubspot, f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def note(contact: str) -> dict[str, Any]:
    about = {"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": ASSOCIATIONS["notes", "contacts"]}
    values = {"hs_note_body": "<p>Hi</p>", "hs_timestamp": "1779271208000", NOTE_KEY: "evt_1"}
    return {"properties": values, "associations": [{"to": {"id": contact}, "types": [about]}]}


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

    client = Client.create(access_token=hubspot_vendor.TOKEN)
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
    document = note(made.id)
    notes = at(client.crm.objects.basic_api)
    posted = notes.create("notes", Made(**document))
    assert notes.get_by_id("notes", "evt_1", id_property=NOTE_KEY).id == posted.id
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
    hubspot.scopes.discard(hubspot_vendor.WRITE)
    with pytest.raises(ApiException) as missing:
        contacts.create(SimplePublicObjectInputForCreate(properties=values, associations=[]))
    assert missing.value.status == 403
    assert hubspot.refused[-1].startswith("This app hasn't been granted all required scopes")
