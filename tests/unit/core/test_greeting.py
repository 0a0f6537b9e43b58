"""Before a subscription is stored: what a refusal is called, and what is learnt."""

import pytest

from relay.core.deliveries.broker import Published
from relay.core.deliveries.credentials import SinkCredential
from relay.core.deliveries.delivery import Outcome, Response
from relay.core.subscriptions.handshake import (
    MAX_RETRY_AFTER_SECONDS,
    facts_of,
    refusal,
    refusal_of_dial,
    trial,
    with_facts,
)
from relay.core.subscriptions.subscription import Subscription


def answered(status: int | None = None, error: str | None = None, detail: str | None = None) -> Response:
    return Response(started_at=0.0, duration_ms=1.0, status_code=status, error=error, detail=detail)


def test_a_sink_that_agrees_is_not_refused() -> None:
    assert refusal(Outcome(verdict="delivered", reason="ok"), answered(200)) is None


@pytest.mark.parametrize(
    ("verdict", "reason", "response", "code", "status", "pointer"),
    [
        ("disable", "http_401: give a token", answered(401), "credential_refused", 422, "/sinkcredential"),
        ("retry", "INVALID_SESSION_ID", answered(401), "credential_refused", 422, "/sinkcredential"),
        ("retry", "x", answered(error="credential", detail="no"), "credential_refused", 422, "/sinkcredential"),
        ("disable", "missing_scope: crm.x", answered(403), "permission_missing", 422, "/sinkcredential"),
        ("retry", "blocked", answered(403), "sink_unreachable", 502, "/sink"),
        ("disable", "no property x", answered(404), "sink_incomplete", 422, "/sink"),
        ("dead", "INVALID_FIELD", answered(400), "sink_incomplete", 422, "/sink"),
        ("dead", "http_302", answered(302), "sink_unreachable", 502, "/sink"),
        ("retry", "http_200, not an answer of the API", answered(200), "sink_unreachable", 502, "/sink"),
        ("retry", "http_503", answered(503), "sink_unreachable", 502, "/sink"),
        ("retry", "timeout", answered(error="timeout"), "sink_unreachable", 502, "/sink"),
        ("retry", "read", answered(401, error="read"), "sink_unreachable", 502, "/sink"),
        ("retry", "dns", answered(error="dns", detail="no such host"), "sink_unreachable", 502, "/sink"),
        ("retry", "proxy", answered(error="proxy", detail="refused"), "sink_unreachable", 502, "/sink"),
        ("retry", "refused", answered(error="refused", detail="169.254.169.254"), "sink_refused", 422, "/sink"),
        ("retry", "none", answered(), "sink_unreachable", 502, "/sink"),
    ],
)
def test_a_refusal_has_a_code_and_says_why(verdict, reason, response, code, status, pointer) -> None:
    found = refusal(Outcome(verdict=verdict, reason=reason), response)
    assert found is not None
    [error] = found.errors
    assert (found.code, found.status, error.pointer, error.code) == (code, status, pointer, code)
    assert (response.detail or reason) in str(found)
    assert not found.kept


@pytest.mark.parametrize(("asked", "header"), [(2.5, "3"), (10**9, str(MAX_RETRY_AFTER_SECONDS)), (None, None)])
def test_a_pause_that_the_sink_asks_for_is_passed_on(asked, header) -> None:
    found = refusal(Outcome(verdict="retry", reason="http_429", retry_after_seconds=asked), answered(429))
    assert found is not None
    assert found.headers.get("Retry-After") == header


@pytest.mark.parametrize(
    ("error", "code", "pointer"),
    [
        ("connect", "sink_unreachable", "/sink"),
        ("credential", "credential_refused", "/sinkcredential"),
        ("no_stream", "sink_incomplete", "/protocolsettings/subject"),
        ("extra_missing", "extra_missing", "/sink"),
    ],
)
def test_broker_that_cannot_be_published_to_is_a_refusal(error, code, pointer) -> None:
    found = refusal_of_dial(Published(error=error), "/protocolsettings/subject")
    assert found is not None
    assert (found.code, found.errors[0].pointer, found.errors[0].detail[: len(error)]) == (code, pointer, error)
    assert found.status == (502 if code == "sink_unreachable" else 422)


def test_broker_that_can_be_published_to_is_none() -> None:
    assert refusal_of_dial(Published(), "") is None


@pytest.mark.parametrize(
    ("remembered", "facts"),
    [
        (None, {}),
        ({"portal": "123", "version": "62.0"}, {"portal": "123", "version": "62.0"}),
        ({"portal": 123, "api_version": ""}, {}),
        ({"portal": "x" * 101, "api_version": "62\n0"}, {}),
    ],
)
def test_a_fact_is_a_short_text(remembered, facts) -> None:
    assert facts_of(remembered) == facts


def test_facts_are_options_and_never_replace_what_a_user_has_set() -> None:
    own = Subscription(id="sub_1", sink="https://x.example", options={"portal": "old", "api_version": "60.0"})
    known = with_facts(own, {"portal": "new", "api_version": "62.0"})
    assert known.options == {"portal": "new", "api_version": "60.0"}
    assert with_facts(own, {}).options == own.options


@pytest.mark.parametrize(
    ("fields", "tried"),
    [
        ({"credentialtype": "ACCESSTOKEN", "accesstoken": "a"}, "a"),
        ({"credentialtype": "REFRESHTOKEN", "refreshtoken": "r"}, None),
        ({"credentialtype": "REFRESHTOKEN", "refreshtoken": "r", "accesstoken": "a"}, "a"),
        (
            {
                "credentialtype": "REFRESHTOKEN",
                "refreshtoken": "r",
                "accesstoken": "a",
                "accesstokenexpiresutc": "1970-01-01T00:00:10Z",
            },
            None,
        ),
    ],
)
def test_a_refresh_token_is_not_traded_for_a_check(fields, tried) -> None:
    found = trial(SinkCredential(id="crd_1", origin="https://x.example", fields=fields), 20.0)
    assert (None if found is None else found.fields["accesstoken"]) == tried
    assert found is None or "refreshtoken" not in found.fields
