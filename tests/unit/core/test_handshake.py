import itertools
from typing import Any

import pytest

from relay.core.deliveries.delivery import Response
from relay.core.subscriptions.handshake import (
    PERIOD_SECONDS,
    Refusal,
    awaits_consent,
    next_try_at,
    origin_name,
    read_validation,
    validation_request,
)
from relay.core.subscriptions.subscription import Consent, Subscription

NOW = 1_800_000_000.0
ORIGIN = "relay.example.com"
SINK = "https://sink.example/hooks?key=1"


def subscription(**fields: Any) -> Subscription:
    return Subscription(id="sub_1", **{"sink": SINK, **fields})


def answer(*headers: tuple[str, str], status: int | None = 200, **fields: Any) -> Response:
    return Response(started_at=NOW, duration_ms=1.0, status_code=status, headers=headers, **fields)


def consent(rate: int | None = None) -> Consent:
    return Consent(origin=ORIGIN, at=NOW, rate_per_minute=rate)


def validated(*headers: tuple[str, str], **fields: Any) -> Consent | Refusal:
    return read_validation(answer(*headers, **fields), ORIGIN, NOW)


def webhook(sink: str) -> str:
    return "webhook"


def test_sink_is_asked_until_it_has_consented_or_need_not():
    assert not awaits_consent(subscription(), "off", webhook)
    assert awaits_consent(subscription(), "required", webhook)
    assert awaits_consent(subscription(handshake="required"), "off", webhook)
    assert not awaits_consent(subscription(handshake="required", consent=consent()), "required", webhook)


def test_host_of_a_chat_service_needs_no_handshake_but_its_kind_alone_does():
    assert not awaits_consent(subscription(), "required", lambda sink: "slack")
    assert awaits_consent(subscription(kind="slack"), "required", webhook)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://relay.example.com", "relay.example.com"),
        ("https://Relay.Example.com:8443/path", "relay.example.com"),
        ("http://127.0.0.1:8080", "127.0.0.1"),
        ("http://[::1]:8080", "::1"),
        ("https://relä.example", "xn--rel-sla.example"),
        ("", "localhost"),
    ],
)
def test_origin_is_the_host_of_the_relay(url, name):
    assert origin_name(url) == name


def test_validation_request_has_origin_and_rate_and_nothing_of_the_subscription():
    made = subscription(headers=(("X-Api-Key", "secret"),), method="PUT", rate_per_second=2.0)
    request = validation_request(made, ORIGIN)
    assert (request.method, request.url, request.body) == ("OPTIONS", SINK, b"")
    assert request.headers == (
        ("WebHook-Request-Origin", ORIGIN),
        ("WebHook-Request-Rate", "120"),
    )
    assert validation_request(subscription(), ORIGIN).headers == (("WebHook-Request-Origin", ORIGIN),)
    slow = validation_request(subscription(rate_per_second=0.001), ORIGIN)
    assert dict(slow.headers)["WebHook-Request-Rate"] == "1", "a positive integer"


@pytest.mark.parametrize("status", [200, 204, 301, 404, 405, 500])
@pytest.mark.parametrize("value", ["*", ORIGIN, "Relay.Example.COM", f" {ORIGIN} "])
def test_consent_is_the_header_whatever_the_status(value, status):
    assert validated(("webhook-allowed-origin", value), status=status) == consent()


@pytest.mark.parametrize(
    "values",
    [
        ("",),
        ("relay.example.com.evil.example",),
        ("example.com",),
        ("*.example.com",),
        ("https://relay.example.com",),
        ("relay.example.com, *",),
        ("**",),
        ("null",),
        ("*", "other.example"),
        (ORIGIN, "evil.example"),
    ],
)
def test_any_other_origin_is_no_consent(values):
    refused = validated(*(("WebHook-Allowed-Origin", value) for value in values))
    assert isinstance(refused, Refusal)
    assert "WebHook-Allowed-Origin" in refused.why


def test_repeated_equal_header_is_one_header():
    assert validated(("WebHook-Allowed-Origin", "*"), ("webhook-allowed-origin", "*")) == consent()


def test_answer_without_the_header_is_no_consent_and_may_ask_for_a_pause():
    assert validated(status=405) == Refusal("it answered 405 to OPTIONS, without WebHook-Allowed-Origin")
    assert validated(("Retry-After", "600"), status=429).retry_after_seconds == 600  # type: ignore[union-attr]
    failed = validated(status=None, error="timeout", detail="no answer within 15 s")
    assert failed == Refusal("it gave no answer (timeout: no answer within 15 s)")
    assert validated(status=None, error="dns") == Refusal("it gave no answer (dns)")


def test_text_of_a_refusal_is_bounded():
    refused = validated(("WebHook-Allowed-Origin", "x" * 60_000))
    assert isinstance(refused, Refusal)
    assert len(refused.why) < 200


@pytest.mark.parametrize(
    ("values", "rate"),
    [((), None), (("*",), None), (("1",), 1), (("0120",), 120), (("9" * 9,), 999_999_999), (("7", "7"), 7)],
)
def test_permitted_rate_is_obeyed(values, rate):
    rates = [("WebHook-Allowed-Rate", value) for value in values]
    assert validated(("WebHook-Allowed-Origin", "*"), *rates) == consent(rate=rate)


@pytest.mark.parametrize(
    "values",
    [("0",), ("-1",), ("1e99",), ("1.5",), ("+1",), ("",), ("١٢",), ("ten",), ("9" * 60_000,), ("10", "20"), ("000",)],
)
def test_rate_that_makes_no_sense_is_no_consent(values):
    rates = [("WebHook-Allowed-Rate", value) for value in values]
    refused = validated(("WebHook-Allowed-Origin", "*"), *rates)
    assert isinstance(refused, Refusal)
    assert "WebHook-Allowed-Rate" in refused.why
    assert len(refused.why) < 200


def test_sink_is_asked_at_growing_intervals_and_after_a_day_once_a_day():
    times, now = [], NOW
    for _ in range(40):
        now = next_try_at(since=NOW, now=now, refusal=Refusal("no"))
        times.append(now - NOW)
    assert times[:5] == [5, 10, 20, 40, 80]
    pauses = [later - before for before, later in itertools.pairwise(times)]
    assert {pause for before, pause in zip(times, pauses, strict=False) if 3600 <= before < PERIOD_SECONDS} == {3600}
    assert pauses[-1] == PERIOD_SECONDS
    assert next_try_at(since=NOW, now=NOW, refusal=Refusal("no", 600.0)) == NOW + 600


@pytest.mark.parametrize(
    ("own", "permitted", "result"),
    [(None, None, None), (2.0, None, 2.0), (None, 60, 1.0), (2.0, 60, 1.0), (0.5, 60, 0.5)],
)
def test_lower_rate_counts(own, permitted, result):
    given = None if permitted is None else consent(rate=permitted)
    assert subscription(rate_per_second=own, consent=given).allowed_per_second == result
    assert subscription(rate_per_second=own).allowed_per_second == own
