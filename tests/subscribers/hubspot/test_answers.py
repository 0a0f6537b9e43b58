"""The outcomes of HubSpot's answers."""

from typing import Any

import orjson
import pytest

from relay.core.deliveries.delivery import Response
from subscribers.hubspot.answers import READ_BYTES, read_answer
from subscribers.hubspot.render import KEY_PROPERTY
from tests.support.hubspot_account import NOW
from tests.vendors.hubspot import WRITE


def body(**document: Any) -> bytes:
    return orjson.dumps({"status": "error", "message": "Ada <ada@example.com>", **document})


def of_property(code: str, *names: str) -> dict[str, Any]:
    return {"category": "VALIDATION_ERROR", "errors": [{"code": code, "context": {"propertyName": list(names)}}]}


UNKNOWN_KEY = body(**of_property("PROPERTY_DOESNT_EXIST", KEY_PROPERTY))
SCOPES = {"errors": [{"message": "", "context": {"requiredGranularScopes": [WRITE, "x"]}}]}
IN_TEXT = (
    'Property values were not valid: [{"isValid":false,"message":"ada@example.com","error":"PROPERTY_DOESNT_EXIST",'
    '"name":"relay_error"}]'
)
NOT_HUBSPOT = "but the body is not an answer of HubSpot's API"
ANSWERS: list[tuple[int, bytes, str, str, float | None]] = [
    (200, b'{"id": "7"}', "delivered", "ok", None),
    (201, b'{"id": 7}', "delivered", "ok", None),
    (200, b"<html>", "retry", f"http_200, {NOT_HUBSPOT}", None),
    (200, b"", "retry", f"http_200, {NOT_HUBSPOT}", None),
    (200, b"null", "retry", f"http_200, {NOT_HUBSPOT}", None),
    (200, b'{"id": "../x"}', "retry", f"http_200, {NOT_HUBSPOT}", None),
    (200, b'{"id": "7/../8"}', "retry", f"http_200, {NOT_HUBSPOT}", None),
    (200, b'{"id": "' + b"7" * 40 + b'"}', "retry", f"http_200, {NOT_HUBSPOT}", None),
    (200, b'{"id": -7}', "retry", f"http_200, {NOT_HUBSPOT}", None),
    (200, b'{"id": true}', "retry", f"http_200, {NOT_HUBSPOT}", None),
    (200, b'{"id": 1e99}', "retry", f"http_200, {NOT_HUBSPOT}", None),
    (200, b"[" * READ_BYTES, "retry", f"http_200, {NOT_HUBSPOT}", None),
    (201, b'{"id":"7","properties":{"hs_note_body":"'.ljust(READ_BYTES, b"x"), "delivered", "ok", None),
    (201, b'{"id":"7","properties":{"hs_note_body":"'.ljust(READ_BYTES - 1, b"x"), "retry", "http_201, but", None),
    (207, orjson.dumps({"results": [], "errors": [{"category": "VALIDATION_ERROR"}]}), "dead", "http_400: VAL", None),
    (207, orjson.dumps({"id": "7", "errors": [{"category": "MISSING_SCOPES", **SCOPES}]}), "disable", "http_403", None),
    (200, orjson.dumps({"errors": ["x"]}), "dead", "http_400", None),
    (301, b"", "retry", "http_301", None),
    (400, body(**of_property("INVALID_EMAIL", "email")), "dead", "http_400: VALIDATION_ERROR: INVALID_EMAIL", None),
    (400, body(**of_property("PROPERTY_DOESNT_EXIST", "relay_status")), "disable", "http_400: VALID", None),
    (400, body(category="VALIDATION_ERROR", message=IN_TEXT), "disable", "http_400: VALID", None),
    (400, body(**of_property("CONFLICTING_UNIQUE_VALUE", "x")), "dead", "http_400: VALID", None),
    (
        400,
        body(category="VALIDATION_ERROR", errors=[None, {"code": "ada@example.com"}]),
        "dead",
        "http_400: VALI",
        None,
    ),
    (400, b"Bad Request", "retry", "http_400", None),
    (401, body(category="EXPIRED_AUTHENTICATION"), "disable", "http_401: EXPIRED_AUTHENTICATION: give the subs", None),
    (403, body(category="MISSING_SCOPES", **SCOPES), "disable", "http_403: MISSING_SCOPES: give the service key", None),
    (403, body(category="FORBIDDEN"), "disable", "http_403: FORBIDDEN: ask an administrator", None),
    (404, body(category="OBJECT_NOT_FOUND"), "dead", "http_404: OBJECT_NOT_FOUND", None),
    (404, b"nginx", "retry", "http_404", None),
    (405, body(category="METHOD_NOT_ALLOWED"), "disable", "http_405: METHOD_NOT_ALLOWED: HubSpot has ended", None),
    (409, body(category="CONFLICT"), "retry", "http_409: CONFLICT", None),
    (409, body(category="OBJECT_ALREADY_EXISTS"), "dead", "http_409: OBJECT_ALREADY_EXISTS: the value is not", None),
    (410, b"", "disable", "http_410", None),
    (423, body(category="LOCKED"), "retry", "http_423: LOCKED", None),
    (429, body(policyName="SECONDLY"), "retry", "http_429: SECONDLY", 1.0),
    (429, body(policyName="TEN_SECONDLY_ROLLING"), "retry", "http_429: TEN_SECONDLY_ROLLING", 10.0),
    (429, body(policyName="DAILY"), "retry", "http_429: DAILY", 3600.0),
    (429, b"", "retry", "http_429", 10.0),
    (477, b"", "retry", "http_477", None),
    (500, body(category="INTERNAL"), "retry", "http_500", None),
    (524, b"", "retry", "http_524", None),
]


def response(status: int, answer: bytes = b"", **headers: str) -> Response:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Response(started_at=NOW, duration_ms=1.0, status_code=status, excerpt=answer, headers=named)


@pytest.mark.parametrize(("status", "answer", "verdict", "reason", "pause"), ANSWERS, ids=lambda value: str(value)[:40])
def test_answers_are_judged_by_status_and_body(
    status: int, answer: bytes, verdict: str, reason: str, pause: float | None
) -> None:
    outcome = read_answer(response(status, answer), NOW).outcome
    assert (outcome.verdict, outcome.retry_after_seconds) == (verdict, pause)
    assert outcome.reason.startswith(reason)
    assert "ada@example.com" not in outcome.reason
