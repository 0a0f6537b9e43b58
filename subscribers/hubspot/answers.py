"""Reads HubSpot's answers. Only codes, scopes and names of properties are kept of their texts: a message may quote the
request. An answer that is not HubSpot's JSON, such as a login page, is never success.

Sources: HubSpot's guides to error handling and usage limits, and its OpenAPI documents.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from relay.core.deliveries import ledger
from relay.core.deliveries.delivery import Outcome, Response
from relay.core.deliveries.retry import http_outcome
from subscribers.common import answers, crm
from subscribers.common.answers import UPPER_CODE, code_in, not_from, read_object
from subscribers.common.answers import reason as reason_of
from subscribers.hubspot.render import KEY_PROPERTY
from subscribers.wording.text import mapping

ID = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
READ_BYTES = 65_536
"""Maximum bytes read of an answer."""
CREATE_PROPERTIES = "config.create_properties makes it (--create-properties of relay subscriptions add and edit)"
MAX_PAUSE_SECONDS = 60.0
"""Maximum pause after the last request of an interval."""

_code_in = partial(code_in, form=UPPER_CODE)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}", re.ASCII)
_SCOPE = re.compile(r"[a-z][a-z0-9._-]{1,79}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)
_HEAD = re.compile(rb'\s*\{\s*"id"\s*:\s*"([1-9][0-9]{0,17})"\s*,')
"""The beginning of an answer about an object. The rest of a long answer is not read."""
_EXISTING = re.compile(r"Contact already exists\. Existing ID: ([1-9][0-9]{0,17})(?![0-9])", re.ASCII)
"""At the beginning of a message, which quotes no text of others before it."""
_INVALID = re.compile(r'"error":"([A-Z_]{2,60})","name":"([a-z][a-z0-9_]{0,99})"', re.ASCII)
_STATUS_OF = {
    "MISSING_SCOPES": 403,
    "OBJECT_NOT_FOUND": 404,
    "RATE_LIMITS": 429,
    "INVALID_AUTHENTICATION": 401,
    "EXPIRED_AUTHENTICATION": 401,
}
"""HTTP status for an error in the body of a 207, by its category; others count as 400."""
_POLICY_SECONDS = {"SECONDLY": 1.0, "TEN_SECONDLY_ROLLING": 10.0, "DAILY": 3600.0}
"""Pause after a 429 by its `policyName`: HubSpot sends no Retry-After. The day ends at midnight in the account's time
zone, which the answer lacks, so the next try is an hour later."""
_LIMITED_SECONDS = 10.0
_LOCKED_SECONDS = 2.0
_LOCKED, _MIGRATING = 423, 477
_WHOSE = "an answer of HubSpot's API"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(answers.Answer):
    """An answer of HubSpot. The outcome has the requested pause.

    id        of the object that was read, written or made
    document  the body, if the request was carried out
    missing   the object does not exist
    forbidden the token lacks a scope
    existing  id of the contact that has the address
    taken     names of properties whose value another object has; None: no such refusal
    unknown   names of properties that HubSpot does not have
    doubtful  HubSpot may have carried out the request all the same
    """

    id: str | None = None
    document: Mapping[str, Any] = field(default_factory=dict)
    missing: bool = False
    forbidden: bool = False
    existing: str | None = None
    taken: frozenset[str] | None = None
    unknown: frozenset[str] = frozenset()
    doubtful: bool = False


def read_answer(response: Response, now: float, *, about_object: bool = True) -> Answer:
    """Reads an answer. `about_object`: an answer of success must have the id of one object."""
    status = response.status_code
    if response.error is not None or status is None:
        return Answer(outcome=http_outcome(response, now), doubtful=ledger.is_doubtful(response))
    document = read_object(response.excerpt)
    if 200 <= status < 300:
        answer = _accepted(response, status, document, about_object=about_object)
        return replace(answer, outcome=replace(answer.outcome, retry_after_seconds=_used_up(response)))
    if status == 429:
        return Answer(outcome=_limited(document, response, now))
    if status == _MIGRATING:
        outcome = http_outcome(replace(response, status_code=503), now)
        return Answer(outcome=replace(outcome, reason=reason_of(status)))
    is_error = document is not None and (_code_in(document, "category") or document.get("status") == "error")
    if status >= 500 or not is_error or document is None:
        return Answer(outcome=http_outcome(response, now), doubtful=True)
    return _refused(status, document)


def object_id(value: object) -> str | None:
    """An id of an object: a number, or in a preview a placeholder; None if it is neither."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**18:
        return str(value)
    return value if isinstance(value, str) and (ID.fullmatch(value) or crm.PLACEHOLDER.fullmatch(value)) else None


def _accepted(response: Response, status: int, document: Mapping[str, Any] | None, *, about_object: bool) -> Answer:
    if document is None:
        head = _HEAD.match(response.excerpt) if len(response.excerpt) >= READ_BYTES else None
        if about_object and head is not None:
            return Answer.of("delivered", "ok", id=head[1].decode())
        return Answer(outcome=not_from(_WHOSE, status), doubtful=True)
    errors = document.get("errors")
    if isinstance(errors, list) and errors:  # 207: carried out in part
        first = mapping(errors[0])
        refused = _refused(_STATUS_OF.get(_code_in(first, "category"), 400), first)
        return replace(refused, document=document, doubtful=bool(document.get("results")))
    id = object_id(document.get("id"))
    if about_object and id is None:
        return Answer(outcome=not_from(_WHOSE, status), doubtful=True)
    return Answer.of("delivered", "ok", id=id, document=document)


def _used_up(response: Response) -> float | None:
    """The pause after the last request of an interval, or of the day; None before."""
    if response.header("x-hubspot-ratelimit-daily-remaining") == "0":
        return _POLICY_SECONDS["DAILY"]
    if response.header("x-hubspot-ratelimit-remaining") != "0":
        return None
    interval = response.header("x-hubspot-ratelimit-interval-milliseconds") or ""
    seconds = int(interval) / 1000 if _SECONDS.fullmatch(interval) else _LIMITED_SECONDS
    return min(seconds, MAX_PAUSE_SECONDS) or None


def _limited(document: Mapping[str, Any] | None, response: Response, now: float) -> Outcome:
    outcome = http_outcome(response, now)
    policy = _code_in(document, "policyName")
    seconds = outcome.retry_after_seconds
    if seconds is None:
        seconds = _POLICY_SECONDS.get(policy, _LIMITED_SECONDS)
    return Outcome(verdict="retry", reason=reason_of(429, policy), retry_after_seconds=seconds)


def _refused(status: int, document: Mapping[str, Any]) -> Answer:
    category = _code_in(document, "category")
    reason = reason_of(status, category)
    problems = _problems(document)
    unknown = problems.get("PROPERTY_DOESNT_EXIST", [])
    taken = problems.get("CONFLICTING_UNIQUE_VALUE")
    existing = _EXISTING.match(_message(document)) if status == 409 else None
    match status:
        case 401:
            return Answer.of(
                "disable", f"{reason}: give the subscription a valid token as its sinkcredential, then resume"
            )
        case 403:
            scopes = _scopes(document)
            lacks = f"give the service key the scope {' or '.join(scopes)}" if scopes else "ask an administrator"
            return Answer.of("disable", f"{reason}: {lacks}, then resume", forbidden=True)
        case 404:
            return Answer.of("dead", reason, missing=True)
        case 405 | 410:
            return Answer.of("disable", f"{reason}: HubSpot has ended this version of its API: update the relay")
        case 408:
            return Answer.of("retry", reason, doubtful=True)
        case 423:
            return Answer(outcome=Outcome(verdict="retry", reason=reason, wait_seconds=_LOCKED_SECONDS))
        case 429:
            return Answer.of("retry", reason)
        case 409 if existing is not None:
            return Answer.of("retry", reason, existing=existing[1])
    if taken is not None or category == "OBJECT_ALREADY_EXISTS":
        named = f" of {', '.join(taken[:3])}" if taken else ""
        return Answer.of("dead", f"{reason}: the value{named} is not unique", taken=frozenset(taken or ()))
    if status == 409:
        return Answer.of("retry", reason)
    if unknown:
        detail = f"{reason}: HubSpot has no property {', '.join(unknown[:3])}: {CREATE_PROPERTIES}, then resume"
        return Answer.of("disable", detail, unknown=frozenset(unknown))
    shown = "; ".join(f"{code} {', '.join(names[:3])}".strip() for code, names in list(problems.items())[:3])
    return Answer.of("dead", f"{reason}: {shown}" if shown else reason)


def _problems(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of properties by the code of their error, the relay's key first."""
    found: dict[str, list[str]] = {}
    for detail in _listed(document.get("errors")):
        names = mapping(detail.get("context")).get("propertyName")
        listed = names[:20] if isinstance(names, list) else [names]
        if code := _code_in(detail):
            named = [name for name in listed if isinstance(name, str) and _NAME.fullmatch(name)]
            found.setdefault(code, []).extend(named)
    for code, name in _INVALID.findall(_message(document)):
        found.setdefault(code, []).append(name)
    return {code: sorted(dict.fromkeys(names), key=KEY_PROPERTY.__ne__) for code, names in found.items()}


def _scopes(document: Mapping[str, Any]) -> list[str]:
    """Up to three scopes, one of which is missing."""
    contexts = [document.get("context"), *(detail.get("context") for detail in _listed(document.get("errors")))]
    found: dict[str, None] = {}
    for context in contexts:
        for name in ("requiredGranularScopes", "requiredScopes", "missingScopes"):
            listed = mapping(context).get(name)
            for scope in listed[:20] if isinstance(listed, list) else ():
                if isinstance(scope, str) and _SCOPE.fullmatch(scope):
                    found[scope] = None
    own = [scope for scope in found if scope.startswith(("crm.objects.contacts.", "crm.objects.deals."))]
    return (own or list(found))[:3]


def _message(document: Mapping[str, Any]) -> str:
    message = document.get("message")
    return message[:20_000] if isinstance(message, str) else ""


def _listed(value: object) -> list[Mapping[str, Any]]:
    return [mapping(one) for one in value[:20]] if isinstance(value, list) else []
