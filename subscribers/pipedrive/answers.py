"""The answers of Pipedrive's API, judged by their status, and those of 2xx by `success`.

Sources: Pipedrive's pages on responses, HTTP status codes, rate limiting and scopes. An answer is as untrusted as any.
Its sentences may quote what was sent, so only codes are kept.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from relay.core.deliveries import ledger
from relay.core.deliveries.delivery import Outcome, Response
from relay.core.deliveries.retry import http_outcome
from subscribers.common import answers, crm
from subscribers.common.answers import code_in, not_from, read_object
from subscribers.common.answers import reason as reason_of

BUDGET_PAUSE_SECONDS = 3600.0
"""Pause once the daily budget is used up: it is reset at midnight of an undocumented time zone."""
BURST_PAUSE_SECONDS = 2.0
LIMITED_PAUSE_SECONDS = 30.0
BLOCKED_PAUSE_SECONDS = 600.0

READ_BYTES = 65_536
"""Maximum bytes read of an answer."""
UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ACCESS = "give the subscription a valid API token (Pipedrive: Personal preferences, API) as its sinkcredential"
_DISABLES = {
    401: _ACCESS,
    402: "the company account is not open: settle its plan with Pipedrive",
    405: "update the relay",
    410: "update the relay",
    501: "update the relay",
}
_HEAD = re.compile(rb'\s*\{\s*"success"\s*:\s*true\s*,\s*"data"\s*:\s*\{\s*"id"\s*:\s*([1-9][0-9]{0,14})\s*,')
"""The beginning of an answer about one thing, such as a new record. The rest of a long answer is not read."""
_SCOPE = "Scope and URL mismatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(answers.Answer):
    """An answer of Pipedrive.

    data, more  the `data` and `additional_data` of an answer; None in any other
    missing     there is no such thing, or this user may not see it
    """

    data: Any = None
    more: Any = None
    missing: bool = False


def read_answer(response: Response, now: float, *, scope: str) -> Answer:
    """Judges an answer. `scope`: needed by an app for this request."""
    status = response.status_code
    if response.error is not None or status is None or status >= 500:
        outcome = replace(http_outcome(response, now), in_doubt=ledger.is_doubtful(response))
        return Answer(outcome=_disabled(501) if status == 501 and response.error is None else outcome)
    document = read_object(response.excerpt)
    reason = reason_of(status, code_in(document))
    if 200 <= status < 300:
        return _accepted(document, response, status, reason)
    if status == 429:
        return Answer(outcome=Outcome(verdict="retry", reason=reason, retry_after_seconds=_pause(response, now)))
    if status == 403:
        return _forbidden(document, reason, scope)
    if status in _DISABLES:
        return Answer(outcome=_disabled(status))
    if status in (408, 425) or status < 400:  # a login page may follow what was carried out
        return Answer(outcome=replace(http_outcome(response, now), reason=reason, in_doubt=True))
    return Answer.of("dead", reason, missing=status == 404)


def id_in(found: object) -> str | int | None:
    """The id in an object: a number, or in a preview a placeholder."""
    id = found.get("id") if isinstance(found, Mapping) else None
    if isinstance(id, int) and not isinstance(id, bool) and 0 < id < 2**53:
        return id
    return id if isinstance(id, str) and crm.PLACEHOLDER.fullmatch(id) else None


def uuid_in(found: object) -> str | None:
    """The id of a lead in an object."""
    id = found.get("id") if isinstance(found, Mapping) else None
    return id if isinstance(id, str) and (UUID.fullmatch(id) or crm.PLACEHOLDER.fullmatch(id)) else None


def is_cut(response: Response) -> bool:
    """True if an answer is longer than the part that is read. One that broke off is no such answer."""
    whole = response.error is None and len(response.excerpt) >= READ_BYTES
    return whole and read_object(response.excerpt) is None


def _accepted(document: Mapping[str, Any] | None, response: Response, status: int, reason: str) -> Answer:
    head = _HEAD.match(response.excerpt) if document is None and is_cut(response) else None
    if head is not None:
        document = {"success": True, "data": {"id": int(head[1])}}
    if document is not None and document.get("success") is True:
        pause = _number(response, "x-ratelimit-reset") if response.header("x-ratelimit-remaining") == "0" else None
        outcome = Outcome(verdict="delivered", reason=reason_of(status), retry_after_seconds=pause)
        return Answer(outcome=outcome, data=document.get("data"), more=document.get("additional_data"))
    if document is not None and document.get("success") is False:
        return Answer.of("retry", f"{reason}, not_successful")
    return Answer(outcome=replace(not_from("an answer of Pipedrive's API", status), in_doubt=True))


def _forbidden(document: Mapping[str, Any] | None, reason: str, scope: str) -> Answer:
    """403: a page of Cloudflare after too many requests, a scope that an app lacks, a limit of the plan, or something
    that this user may not see."""
    if document is None:
        pause = BLOCKED_PAUSE_SECONDS
        return Answer(outcome=Outcome(verdict="retry", reason="blocked", retry_after_seconds=pause))
    if document.get("error") == _SCOPE:
        detail = f"missing_scope: give the app the scope {scope}, install it again, then resume"
        return Answer.of("disable", detail)
    return Answer.of("dead", reason, missing=not code_in(document))


def _disabled(status: int) -> Outcome:
    return Outcome(verdict="disable", reason=f"http_{status}: {_DISABLES[status]}, then resume")


def _pause(response: Response, now: float) -> float:
    """After 429. With requests left in the window, or none left for the day, the budget of the day is used up."""
    asked = http_outcome(response, now).retry_after_seconds
    if asked is not None:
        return asked
    left, of_day = response.header("x-ratelimit-remaining"), response.header("x-daily-requests-left")
    if of_day == "0" or (left is not None and left != "0"):
        return BUDGET_PAUSE_SECONDS
    return LIMITED_PAUSE_SECONDS if left is None else _number(response, "x-ratelimit-reset") or BURST_PAUSE_SECONDS


def _number(response: Response, name: str) -> float | None:
    text = response.header(name) or ""
    return math.ceil(float(text)) if re.fullmatch(r"[0-9]{1,5}(?:\.[0-9]{1,6})?", text) else None
