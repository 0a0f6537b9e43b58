"""The ownership handshake: a sink agrees to get events before the first one is sent. No I/O.

The validation request of the CloudEvents HTTP 1.1 Web Hooks specification (1.0.2, section 4): `OPTIONS`, answered with
the header `WebHook-Allowed-Origin`, whatever the status. Answers are untrusted.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.core.deliveries.retry import parse_retry_after
from relay.core.subscriptions.subscription import Consent, Handshake, Subscription

PERIOD_SECONDS = 86_400.0
"""How long a sink is asked at least every hour; then it is asked once a day."""
FIRST_PAUSE_SECONDS = 5.0
MAX_PAUSE_SECONDS = 3600.0
ALLOWED_ORIGIN, ALLOWED_RATE = "WebHook-Allowed-Origin", "WebHook-Allowed-Rate"
REQUEST_ORIGIN = "WebHook-Request-Origin"
WAITS = "waits for the sink's consent"

_RATE = re.compile(r"0{0,9}[1-9][0-9]{0,8}", re.ASCII)


_FOR_ANY_RECEIVER = ("webhook", "flat")
"""Kinds of sinks that may be anybody's own server."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """No consent, and why. `retry_after_seconds`: a pause that the sink asked for."""

    why: str
    retry_after_seconds: float | None = None


def awaits_consent(subscription: Subscription, minimum: Handshake, infer: Callable[[str], str]) -> bool:
    """True if nothing may be sent to the sink before a handshake.

    infer  the kind that a sink's URL implies. A chat service answers no handshake, and gives the secret URL of a
           channel to its owner only, so none is needed. A catch hook may be a self-hosted n8n, so it is asked.
    """
    is_required = "required" in (subscription.handshake, minimum)
    return is_required and subscription.consent is None and infer(subscription.sink) in _FOR_ANY_RECEIVER


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


def read_validation(response: Response, origin: str, now: float) -> Consent | Refusal:
    """The answer to a validation request. The status means nothing. A rate that makes no sense is no consent: its
    sender means some limit."""
    if response.error is not None:
        detail = f": {response.detail}" if response.detail else ""
        return Refusal(f"it gave no answer ({response.error}{detail})")
    allowed, rates = _values(response, ALLOWED_ORIGIN), _values(response, ALLOWED_RATE)
    if not allowed:
        pause = parse_retry_after(response.header("retry-after"), now=now, received_date=response.header("date"))
        return Refusal(f"it answered {response.status_code} to OPTIONS, without {ALLOWED_ORIGIN}", pause)
    if allowed[1:] or allowed[0].lower() not in ("*", origin.lower()):
        return Refusal(f"its {ALLOWED_ORIGIN} is neither {origin!r} nor '*'")
    is_rate = len(rates) == 1 and _RATE.fullmatch(rates[0]) is not None
    if not is_rate and rates not in ([], ["*"]):
        return Refusal(f"its {ALLOWED_RATE} is neither a number of requests per minute nor '*'")
    return Consent(origin=origin, at=now, rate_per_minute=int(rates[0]) if is_rate else None)


def next_try_at(*, since: float, now: float, refusal: Refusal) -> float:
    """When a sink that was asked since `since` is asked again: after 5 s, at intervals that double up to an hour, and
    after a day once a day. A pause that the sink asked for is a floor."""
    waited = now - since
    own = PERIOD_SECONDS if waited >= PERIOD_SECONDS else min(max(waited, FIRST_PAUSE_SECONDS), MAX_PAUSE_SECONDS)
    return now + max(own, refusal.retry_after_seconds or 0.0)


def _values(response: Response, name: str) -> list[str]:
    """The different values of a header."""
    wanted = name.lower()
    return list(dict.fromkeys(value.strip() for key, value in response.headers if key.lower() == wanted))
