"""The outcomes of Pipedrive's answers."""

from typing import Any

import orjson
import pytest

from relay.core.deliveries.delivery import Response
from subscribers.pipedrive.answers import read_answer
from tests.support.crm_world import NOW


def answered(status: int, document: Any = None, **headers: str) -> Response:
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    shown = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Response(started_at=NOW, duration_ms=1.0, status_code=status, headers=shown, excerpt=body)


NO = {"success": False, "error": "it quotes jane@example.com", "error_info": "x", "data": None}


@pytest.mark.parametrize(
    ("response", "verdict", "reason"),
    [
        (answered(201, {"success": True, "data": {"id": 1}}), "delivered", "http_201"),
        (answered(200, NO), "retry", "http_200, not_successful"),
        (answered(200, b"<html>"), "retry", "http_200, but the body is not an answer of Pipedrive's API"),
        (answered(400, {**NO, "code": "ERR_BAD_REQUEST"}), "dead", "http_400: ERR_BAD_REQUEST"),
        (answered(400, {**NO, "code": "jane@example.com"}), "dead", "http_400"),
        (answered(401, NO), "disable", "http_401: give the subscription a valid API token"),
        (answered(402, NO), "disable", "http_402: the company account is not open"),
        (answered(403, {**NO, "code": "feature_capping_notes"}), "dead", "http_403: feature_capping_notes"),
        (
            answered(403, {"success": False, "error": "Scope and URL mismatch"}),
            "disable",
            "missing_scope: give the app",
        ),
        (answered(403, b"<html>Cloudflare"), "retry", "blocked"),
        (answered(404, NO), "dead", "http_404"),
        (answered(408, NO), "retry", "http_408"),
        (answered(410, NO), "disable", "http_410"),
        (answered(302, b""), "retry", "http_302"),
        (answered(500, NO), "retry", "http_500"),
        (answered(501, NO), "disable", "http_501"),
        (answered(503, b"", retry_after="7"), "retry", "http_503"),
    ],
)
def test_answer_is_judged_by_status_and_body(response: Response, verdict: str, reason: str) -> None:
    outcome = read_answer(response, NOW, scope="deals:full").outcome
    assert outcome.verdict == verdict
    assert outcome.reason.startswith(reason)
    assert "jane" not in outcome.reason
