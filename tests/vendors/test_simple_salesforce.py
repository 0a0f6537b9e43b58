"""simple-salesforce, which no one here wrote, works with the stand-in of Salesforce: so the stand-in is true."""

from typing import Any

import pytest
import requests
import simple_salesforce
from requests.adapters import BaseAdapter
from simple_salesforce import exceptions
from simple_salesforce import format as formats

from tests.vendors.salesforce import CLIENT_ID, CLIENT_SECRET, TOKEN, Fault, Salesforce

KEY = "Event_Id__c/evt_01jvpq"


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
    assert salesforce.Job_Event__c.get_by_custom_id("Event_Id__c", "evt_01jvpq")["Status__c"] == "failed"
    query = formats.format_soql("SELECT Id FROM Contact WHERE Email = {}", "o'neil\\\"@example.com")
    assert salesforce.query(query)["totalSize"] == 0
    contact = salesforce.Contact.create({"LastName": "Ng", "Email": "o'neil\\\"@example.com"})
    assert contact["success"] is True
    assert [one["Id"] for one in salesforce.query(query)["records"]] == [contact["id"]]
    assert salesforce.api_usage["api-usage"] == (org.api_used, org.api_limit)
    assert salesforce.Job_Event__c.describe()["createable"] is True
    strange = formats.format_external_id("Event_Id__c", "a/b c")
    assert salesforce.Task.upsert(strange, {"Subject": "x"}) == 201
    assert org.rows("Task")[0]["Event_Id__c"] == "a/b c"
    assert salesforce.Job_Event__e.create({"Event_Id__c": "x"})["errors"][0]["statusCode"] == "OPERATION_ENQUEUED"


def test_client_logs_in_again_when_its_session_has_expired() -> None:
    org = Salesforce()
    salesforce = client(org)
    org.tokens = {TOKEN}
    assert salesforce.Job_Event__c.upsert(KEY, {}) == 201
    assert org.refused == ["INVALID_SESSION_ID"]


def test_wrong_client_is_refused() -> None:
    org = Salesforce(run_as=False)
    with pytest.raises(exceptions.SalesforceAuthenticationFailed, match="no client credentials user enabled"):
        client(org)


@pytest.mark.parametrize(
    ("prepare", "error"),
    [
        (
            lambda org: [org.add("Job_Event__c", Event_Id__c="evt_01jvpq") for _ in range(2)],
            "SalesforceMoreThanOneRecord",
        ),
        (lambda org: org.blocks.add("Job_Event__c"), "SalesforceMalformedRequest"),
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
