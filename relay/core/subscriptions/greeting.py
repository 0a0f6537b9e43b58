"""What follows if a sink and its credential are tried before a subscription is stored. Values only."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from relay.core.deliveries.broker import Published
from relay.core.deliveries.credentials import SinkCredential, stored_token
from relay.core.deliveries.delivery import CREDENTIAL_ERROR, Outcome, Response
from relay.core.subscriptions.subscription import PORTAL, Subscription
from relay.errors import CheckFailed, FieldError

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
    """Why a subscription is not stored, given what its kind makes of the last answer; None if the sink agrees."""
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
    """Why a subscription is not stored, given what its broker is like; None if it can be published to. `destination`:
    the pointer to the setting that names it."""
    if found.error is None:
        return None
    code, pointer = _OF_DIAL.get(found.error, ("sink_unreachable", "/sink"))
    detail = found.detail or found.error
    if code in ("sink_unreachable", "sink_incomplete"):
        detail = f"{detail} {_AGAIN}" if detail.endswith("?") else f"{detail}. {_AGAIN}"
    return _failed(code, pointer or destination, detail)


def facts_of(remembered: Mapping[str, Any] | None) -> dict[str, str]:
    """The facts among what a greeting remembers: short printable texts."""
    given = (remembered or {}).items()
    return {name: value for name, value in given if isinstance(value, str) and _is_fact(value)}


def with_facts(subscription: Subscription, facts: Mapping[str, str]) -> Subscription:
    """The subscription with what was learnt. What its user has set stays; a portal is read-only."""
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


def _is_fact(value: str) -> bool:
    return 0 < len(value) <= MAX_FACT_CHARACTERS and value.isprintable()


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
