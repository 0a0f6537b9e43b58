"""Checks of a sink before the first event: the handshake, by which it agrees, and the trial of its credential. No I/O.

The validation request of the CloudEvents HTTP 1.1 Web Hooks specification (1.0.2, section 4): `OPTIONS`, answered with
the header `WebHook-Allowed-Origin`, whatever the status. Answers are untrusted.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from relay.core.deliveries.broker import Published
from relay.core.deliveries.credentials import SinkCredential, stored_token
from relay.core.deliveries.delivery import CREDENTIAL_ERROR, OutboundRequest, Outcome, Response
from relay.core.deliveries.retry import parse_retry_after
from relay.core.subscriptions.subscription import PORTAL, Consent, Handshake, Subscription
from relay.errors import CheckFailed, FieldError

PERIOD_SECONDS = 86_400.0
"""Time during which a sink is asked at least every hour, in seconds; after it, once a day."""
FIRST_PAUSE_SECONDS = 5.0
MAX_PAUSE_SECONDS = 3600.0
ALLOWED_ORIGIN, ALLOWED_RATE = "WebHook-Allowed-Origin", "WebHook-Allowed-Rate"
REQUEST_ORIGIN = "WebHook-Request-Origin"
WAITS = "waits for the sink's consent"

_RATE = re.compile(r"0{0,9}[1-9][0-9]{0,8}", re.ASCII)


_FOR_ANY_RECEIVER = ("webhook", "flat")
"""Kinds of sinks that may be a third party's server."""


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
    """The next request to a sink that was first asked at `since`: after 5 s, at intervals that double up to an hour,
    and after a day once a day. A pause that the sink asked for is a floor."""
    waited = now - since
    own = PERIOD_SECONDS if waited >= PERIOD_SECONDS else min(max(waited, FIRST_PAUSE_SECONDS), MAX_PAUSE_SECONDS)
    return now + max(own, refusal.retry_after_seconds or 0.0)


def _values(response: Response, name: str) -> list[str]:
    """The different values of a header."""
    wanted = name.lower()
    return list(dict.fromkeys(value.strip() for key, value in response.headers if key.lower() == wanted))


MAX_FACT_CHARACTERS = 100
MAX_REASON_CHARACTERS = 300
MAX_RETRY_AFTER_SECONDS = 86_400
_EGRESS_GUARD = "refused"
_RESUME = re.compile(r", then resume( it| the subscription)?(?=[.:;]|$)")
"""Advice of the kinds about a subscription that is stored."""
_OF_DIAL = {
    "credential": ("credential_refused", "/sinkcredential"),
    "denied": ("permission_missing", "/sinkcredential"),
    "refused": ("sink_refused", "/sink"),
    "extra_missing": ("extra_missing", "/sink"),
    **dict.fromkeys(("unknown_topic", "no_stream", "unknown_exchange", "unroutable"), ("sink_incomplete", "")),
}
"""Per error of a broker's dial: the problem's code and pointer. Empty pointer: the destination."""
_AGAIN = "Nothing was stored: try again later, or add it unchecked with ?check=false"


def refusal(outcome: Outcome, response: Response) -> CheckFailed | None:
    """The reason why a subscription is not stored, from its kind's outcome of the last answer; None if the sink
    agrees."""
    if outcome.verdict == "delivered":
        return None
    error, status = response.error, response.status_code
    why = _RESUME.sub("", outcome.reason)[:MAX_REASON_CHARACTERS]
    if error == CREDENTIAL_ERROR:
        return _failed("credential_refused", "/sinkcredential", f"no token could be got: {_reason(response, why)}")
    if error == _EGRESS_GUARD:
        return _failed("sink_refused", "/sink", f"the egress guard forbids the sink: {_reason(response, why)}")
    if status == 401 and error is None:
        return _failed("credential_refused", "/sinkcredential", f"the sink refuses the credential: {why}")
    if error is not None or status is None or outcome.verdict == "retry" or 300 <= status < 400:
        detail = f"no answer that can be used: {why}" if error is None else _reason(response, why)
        return _failed("sink_unreachable", "/sink", f"{detail}. {_AGAIN}", outcome.retry_after_seconds)
    if status == 403:
        return _failed("permission_missing", "/sinkcredential", f"the credential lacks a permission: {why}")
    return _failed("sink_incomplete", "/sink", f"the sink lacks what deliveries need: {why}")


def refusal_of_dial(found: Published, destination: str) -> CheckFailed | None:
    """The reason why a subscription is not stored, from the state of its broker; None if it can be published to.
    `destination`: the pointer to the setting that names it."""
    if found.error is None:
        return None
    code, pointer = _OF_DIAL.get(found.error, ("sink_unreachable", "/sink"))
    detail = found.detail or found.error
    if code in ("sink_unreachable", "sink_incomplete"):
        detail = f"{detail} {_AGAIN}" if detail.endswith("?") else f"{detail}. {_AGAIN}"
    return _failed(code, pointer or destination, detail)


def facts_of(remembered: Mapping[str, Any] | None) -> dict[str, str]:
    """The facts among what a greeting remembers: short printable texts."""
    given = ((name, value) for name, value in (remembered or {}).items() if isinstance(value, str))
    return {name: text for name, text in given if 0 < len(text) <= MAX_FACT_CHARACTERS and text.isprintable()}


def with_facts(subscription: Subscription, facts: Mapping[str, str]) -> Subscription:
    """The subscription with these facts. Options that its user has set stay; a portal is read-only."""
    portal = {PORTAL: facts[PORTAL]} if PORTAL in facts else {}
    return replace(subscription, options={**facts, **subscription.options, **portal})


def trial(credential: SinkCredential, now: float) -> SinkCredential | None:
    """The credential to try. A refresh token is not traded for that, since the endpoint may replace it at each use: its
    access token is tried, and None if there is none that is valid."""
    if credential.type != "REFRESHTOKEN":
        return credential
    token = stored_token(credential)
    if token is None or token.stale_at <= now:
        return None
    return replace(credential, fields={"credentialtype": "ACCESSTOKEN", "accesstoken": token.value})


def _reason(response: Response, why: str) -> str:
    return f"{response.error}: {response.detail}" if response.detail else why


def _failed(code: str, pointer: str, detail: str, retry_after_seconds: float | None = None) -> CheckFailed:
    wait = None if retry_after_seconds is None else min(math.ceil(retry_after_seconds), MAX_RETRY_AFTER_SECONDS)
    return CheckFailed(
        detail,
        code=code,
        status=502 if code == "sink_unreachable" else None,
        errors=[FieldError(pointer=pointer, code=code, detail=detail)],
        headers={} if wait is None else {"Retry-After": str(wait)},
    )
