import itertools
from typing import Any

import pytest

from relay.core.deliveries.delivery import Response
from relay.core.subscriptions.handshake import (
    MAX_RATE_PER_MINUTE,
    PERIOD_SECONDS,
    Agreement,
    Refusal,
    awaits_consent,
    consent_of,
    effective,
    is_asked_no_more,
    next_try_at,
    origin_name,
    read_rate,
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


def consent(granted: bool = True, rate: int | None = None) -> Consent:
    return Consent(granted=granted, origin=ORIGIN, at=NOW, rate_per_minute=rate)


def validated(*headers: tuple[str, str], **fields: Any) -> Agreement | Refusal:
    return read_validation(answer(*headers, **fields), ORIGIN, NOW)


def webhook(sink: str) -> str:
    return "webhook"


@pytest.mark.parametrize(
    ("own", "minimum", "result"),
    [
        ("off", "off", "off"),
        ("off", "optional", "optional"),
        ("optional", "off", "optional"),
        ("required", "optional", "required"),
        ("optional", "required", "required"),
    ],
)
def test_stricter_one_of_subscription_and_settings_counts(own, minimum, result):
    assert effective(own, minimum) == result


def test_sink_is_asked_until_it_has_consented_or_need_not():
    assert not awaits_consent(subscription(), "off", webhook)
    assert awaits_consent(subscription(), "optional", webhook)
    assert awaits_consent(subscription(handshake="required"), "off", webhook)
    assert not awaits_consent(subscription(handshake="required", consent=consent()), "required", webhook)
    asked = subscription(consent=consent(granted=False))
    assert not awaits_consent(asked, "optional", webhook)
    assert awaits_consent(asked, "required", webhook)


@pytest.mark.parametrize(
    ("fields", "minimum", "idle"),
    [
        ({"state": "pending"}, "off", True),
        ({"state": "pending"}, "optional", True),
        ({"state": "pending"}, "required", False),
        ({"state": "pending", "handshake": "required"}, "off", False),
        (
            {"state": "pending", "handshake": "required", "consent": Consent(granted=True, origin="o", at=NOW)},
            "off",
            True,
        ),
        ({"state": "pending", "handshake_at": NOW}, "off", False),
        ({"state": "paused"}, "off", False),
    ],
)
def test_who_is_asked_no_more_though_consent_is_not_required(fields, minimum, idle):
    assert is_asked_no_more(subscription(**fields), minimum, webhook) is idle


def test_host_of_a_chat_service_needs_no_handshake_but_its_kind_alone_does():
    assert not awaits_consent(subscription(), "required", lambda sink: "slack")
    assert awaits_consent(subscription(kind="slack"), "required", webhook)


def test_catch_hook_is_asked_since_it_may_be_on_somebody_s_own_server():
    assert awaits_consent(subscription(kind="flat"), "required", lambda sink: "flat")


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
    assert validated(("webhook-allowed-origin", value), status=status) == Agreement()


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
    assert validated(("WebHook-Allowed-Origin", "*"), ("webhook-allowed-origin", "*")) == Agreement()


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
    ("value", "rate"),
    [
        ("*", None),
        ("1", 1),
        ("0120", 120),
        (str(MAX_RATE_PER_MINUTE - 1), MAX_RATE_PER_MINUTE - 1),
        (str(MAX_RATE_PER_MINUTE), None),
        ("9" * 100, None),
    ],
)
def test_permitted_rate_is_obeyed(value, rate):
    assert read_rate((value,)) == Agreement(rate_per_minute=rate)
    assert validated(("WebHook-Allowed-Origin", "*"), ("WebHook-Allowed-Rate", value)) == Agreement(
        rate_per_minute=rate
    )


def test_without_a_rate_there_is_no_limit():
    assert read_rate(()) == Agreement()


@pytest.mark.parametrize(
    "values",
    [("0",), ("-1",), ("1e99",), ("1.5",), ("+1",), ("",), ("١٢",), ("ten",), ("9" * 101,), ("10", "20"), ("000",)],
)
def test_rate_that_makes_no_sense_is_no_consent(values):
    refused = read_rate(values)
    assert isinstance(refused, Refusal)
    assert len(refused.why) < 200


def test_sink_is_asked_at_growing_intervals_for_a_day():
    refusal, times, now = Refusal("no"), [], NOW
    while (at := next_try_at(since=NOW, now=now, refusal=refusal)) is not None:
        times.append(at - NOW)
        now = at
    assert times[:5] == [5, 10, 20, 40, 80]
    assert {round(later - before) for before, later in itertools.pairwise(times[10:])} == {3600}
    assert PERIOD_SECONDS <= times[-1] <= PERIOD_SECONDS + 3600
    assert 30 <= len(times) <= 40
    assert next_try_at(since=NOW, now=NOW, refusal=Refusal("no", 600.0)) == NOW + 600


def test_consent_holds_what_was_agreed():
    assert consent_of(Agreement(rate_per_minute=30), ORIGIN, NOW) == consent(rate=30)


@pytest.mark.parametrize(
    ("own", "permitted", "result"),
    [(None, None, None), (2.0, None, 2.0), (None, 60, 1.0), (2.0, 60, 1.0), (0.5, 60, 0.5)],
)
def test_lower_rate_counts(own, permitted, result):
    given = None if permitted is None else consent(rate=permitted)
    assert subscription(rate_per_second=own, consent=given).allowed_per_second == result
    assert subscription(rate_per_second=own).allowed_per_second == own
