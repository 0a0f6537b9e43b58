"""The ownership handshake: a sink agrees to get events before the first one is sent. No I/O.

The validation request of the CloudEvents HTTP 1.1 Web Hooks specification (1.0.2, section 4): `OPTIONS`, answered with
the header `WebHook-Allowed-Origin`, whatever the status. Answers are untrusted.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.core.deliveries.retry_after import parse_retry_after
from relay.core.subscriptions.subscription import HANDSHAKES, Consent, Handshake, Subscription

PERIOD_SECONDS = 86_400.0
"""How long a sink is asked again; then the subscription stays pending until it is resumed."""
FIRST_PAUSE_SECONDS = 5.0
MAX_PAUSE_SECONDS = 3600.0
MAX_RATE_PER_MINUTE = 600_000
"""A higher rate is no limit: `rate_per_second` goes up to 10,000."""
MAX_RATE_DIGITS = 100
ALLOWED_ORIGIN, ALLOWED_RATE = "WebHook-Allowed-Origin", "WebHook-Allowed-Rate"
REQUEST_ORIGIN = "WebHook-Request-Origin"
WAITS = "waits for the sink's consent"

_DIGITS = re.compile(r"[0-9]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Refusal:
    """No consent, and why. `retry_after_seconds`: a pause that the sink asked for."""

    why: str
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Consent. `rate_per_minute`: the permitted rate; None: no limit."""

    rate_per_minute: int | None = None


_FOR_ANY_RECEIVER = ("webhook", "flat")
"""Kinds of sinks that may be anybody's own server."""


def effective(own: Handshake, minimum: Handshake) -> Handshake:
    """The stricter one of a subscription's own handshake and the minimum of the settings."""
    return max(own, minimum, key=HANDSHAKES.index)


def awaits_consent(subscription: Subscription, minimum: Handshake, infer: Callable[[str], str]) -> bool:
    """Whether nothing may be sent to the sink before a handshake.

    infer  the kind that a sink's URL implies. A chat service answers no handshake, and gives the secret URL of a
           channel to its owner only, so none is needed. A catch hook may be somebody's own n8n, so it is asked.
    """
    mode = effective(subscription.handshake, minimum)
    if mode == "off" or infer(subscription.sink) not in _FOR_ANY_RECEIVER:
        return False
    consent = subscription.consent
    return consent is None or (mode == "required" and not consent.granted)


def is_asked_no_more(subscription: Subscription, minimum: Handshake, infer: Callable[[str], str]) -> bool:
    """Whether a subscription waits in vain: it was asked for a day while consent was required, and no longer is."""
    if subscription.state != "pending" or subscription.handshake_at is not None:
        return False
    required = effective(subscription.handshake, minimum) == "required"
    return not (required and awaits_consent(subscription, minimum, infer))


def origin_name(base_url: str) -> str:
    """The name that identifies this relay to sinks: the host of its URL."""
    host = urlsplit(base_url).hostname or "localhost"
    return host if host.isascii() else host.encode("idna").decode()


def validation_request(subscription: Subscription, origin: str) -> OutboundRequest:
    """The request for consent. It carries neither credentials nor custom headers: the sink may be a stranger's."""
    headers = [(REQUEST_ORIGIN, origin)]
    if subscription.rate_per_second is not None:
        headers.append(("WebHook-Request-Rate", str(max(1, round(subscription.rate_per_second * 60)))))
    return OutboundRequest(url=subscription.sink, method="OPTIONS", headers=tuple(headers))


def read_validation(response: Response, origin: str, now: float) -> Agreement | Refusal:
    """The answer to a validation request. The status means nothing."""
    if response.error is not None:
        detail = f": {response.detail}" if response.detail else ""
        return Refusal(f"it gave no answer ({response.error}{detail})")
    allowed = _values(response, ALLOWED_ORIGIN)
    if not allowed:
        pause = parse_retry_after(response.header("retry-after"), now=now, received_date=response.header("date"))
        return Refusal(f"it answered {response.status_code} to OPTIONS, without {ALLOWED_ORIGIN}", pause)
    if len(allowed) > 1 or (allowed[0] != "*" and allowed[0].lower() != origin.lower()):
        return Refusal(f"its {ALLOWED_ORIGIN} is neither {origin!r} nor '*'")
    return read_rate(_values(response, ALLOWED_RATE))


def read_rate(values: tuple[str, ...]) -> Agreement | Refusal:
    """The permitted rate in `WebHook-Allowed-Rate`. A rate that makes no sense is no consent: its sender means some
    limit."""
    if not values or values == ("*",):
        return Agreement()
    (value, *others) = values
    rate = int(value) if not others and len(value) <= MAX_RATE_DIGITS and _DIGITS.fullmatch(value) else 0
    if rate == 0:
        return Refusal(f"its {ALLOWED_RATE} is neither a number of requests per minute nor '*'")
    return Agreement(rate_per_minute=rate if rate < MAX_RATE_PER_MINUTE else None)


def next_try_at(*, since: float, now: float, refusal: Refusal) -> float | None:
    """When a sink that was asked since `since` is asked again: after 5 s, at intervals that double up to an hour. None
    after a day. A pause that the sink asked for is a floor."""
    if now - since >= PERIOD_SECONDS:
        return None
    own = min(max(now - since, FIRST_PAUSE_SECONDS), MAX_PAUSE_SECONDS)
    return now + max(own, refusal.retry_after_seconds or 0.0)


def consent_of(agreement: Agreement, origin: str, now: float) -> Consent:
    """The consent to record."""
    return Consent(granted=True, origin=origin, at=now, rate_per_minute=agreement.rate_per_minute)


def _values(response: Response, name: str) -> tuple[str, ...]:
    """The different values of a header."""
    wanted = name.lower()
    return tuple(dict.fromkeys(value.strip() for key, value in response.headers if key.lower() == wanted))
