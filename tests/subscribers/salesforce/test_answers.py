"""The outcomes of Salesforce's answers."""

from typing import Any

import orjson
import pytest

from relay.core.deliveries.credentials import SinkCredential
from relay.core.deliveries.delivery import Response
from relay.core.subscriptions.subscription import Subscription
from subscribers.salesforce.answers import DAILY_PAUSE_SECONDS, read_answer

NOW = 1779271208.0
APP = SinkCredential(id="crd_1", origin="x", fields={"credentialtype": "CLIENTCREDENTIALS"})
SUBSCRIPTION = Subscription(id="sub_1", sink="https://acme.my.salesforce.com", kind="salesforce", credential=APP)


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
    (response(200, {"success": False, "errors": [{**EVENT, "statusCode": "STRING_TOO_LONG"}]}), "dead", "S"),
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
    outcome = read_answer(given, NOW, SUBSCRIPTION, "Job_Event__c").outcome
    assert outcome.verdict == verdict
    assert reason in outcome.reason
    assert "s3cr3t" not in outcome.reason


@pytest.mark.parametrize(
    ("header", "pause"),
    [
        ("api-usage=10018/100000", None),
        ("api-usage=94999/100000; api-bursts=1/750", None),
        ("api-usage=95000/100000; api-bursts=1/750", DAILY_PAUSE_SECONDS),
        ("api-usage=100000/100000", DAILY_PAUSE_SECONDS),
        ("per-app-api-usage=17/17(appName=x); api-usage=1/50", None),
        ("per-app-api-usage=17/17(appName=x)", None),
        ("api-usage=1/0", None),
        ("api-usage=" + "9" * 400 + "/1", None),
        ("", None),
    ],
)
def test_requests_of_the_day_are_read_and_some_are_left_to_others(header: str, pause: float | None) -> None:
    given = response(201, {"success": True}, Sforce_Limit_Info=header)
    assert read_answer(given, NOW, SUBSCRIPTION, "Task").outcome.retry_after_seconds == pause
