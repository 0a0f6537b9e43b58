"""The answers of Salesforce's REST API, judged by their code, whatever the status; without one by the status.

Sources: Salesforce's "Status Codes and Error Responses", "Insert or Update (Upsert) a Record Using an External ID",
"API Request Limits and Allocations" and "Limit Info Header". Messages are the org's own texts, with values of records:
they are never shown.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from relay.core.deliveries.delivery import Outcome, Response
from relay.core.deliveries.retry import http_outcome
from relay.core.subscriptions.subscription import Subscription
from subscribers.common import answers
from subscribers.common.answers import UPPER_CODE, code_in, not_from, read_json
from subscribers.wording.text import mapping

KEY_FIELD = "Event_Id__c"
"""The external id of our records: unique, so that the same event makes no second record."""
PEOPLE = ("Contact", "Lead")
"""Objects that are searched for a person, in this order."""
_READ_ONLY = (*PEOPLE, "Opportunity")
ID = re.compile(r"[A-Za-z0-9]{15}(?:[A-Za-z0-9]{3})?")
OLDEST_VERSION = 46
"""Since this version an upsert is answered with a body, which proves that Salesforce answered."""
NEWEST_VERSION = 66
"""The newest version that this was written for. Salesforce keeps each for three years and more."""

DAILY_PAUSE_SECONDS = 900.0
"""Pause after the daily limit, which is counted over the last 24 hours and tells no time at which it ends."""
BUSY_PAUSE_SECONDS = 30.0
RESERVED = 0.05
"""Part of the org's daily requests that is left to its other programs: with less, `DAILY_PAUSE_SECONDS` follow each
delivery."""

Shape = Literal["record", "query", "versions", "description", "summary"]
"""The content of an answer. Another one is not Salesforce's: a login page, or the page of a proxy."""
_SHAPES: Mapping[Shape, str] = {"query": "records", "description": "fields", "summary": "objectDescribe"}

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,79}")
_COLUMN = re.compile(r"No such column '([A-Za-z][A-Za-z0-9_]{0,79})'")
_USAGE = re.compile(r"(?:^|[;,])\s*api-usage=(\d{1,12})/(\d{1,12})")
_VERSION = re.compile(r"(\d{1,3})\.0")
_SHOWN_FIELDS = 5

_WHOSE = "an answer of Salesforce's API"
CUT = not_from(_WHOSE, 200)
"""The outcome of an answer that is longer than the part that is read."""
_Error = tuple[str, str, list[str]]
"""Its code, message and names of fields."""
RESUME = ", then resume the subscription"
_UNLINKED = (
    *("INVALID_CROSS_REFERENCE_KEY", "INSUFFICIENT_ACCESS_ON_CROSS_REFERENCE_ENTITY", "MALFORMED_ID"),
    *("ENTITY_IS_DELETED", "INVALID_ID_FIELD", "CANNOT_UPDATE_CONVERTED_LEAD"),
)
"""Errors of a person or deal that the record was to be linked to."""
_DEAD = (
    *("REQUIRED_FIELD_MISSING", "STRING_TOO_LONG", "JSON_PARSER_ERROR", "NUMBER_OUTSIDE_VALID_RANGE"),
    *("FIELD_CUSTOM_VALIDATION_EXCEPTION", "FIELD_INTEGRITY_EXCEPTION", "FIELD_FILTER_VALIDATION_EXCEPTION"),
    *("INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", "INVALID_TYPE_ON_FIELD_IN_RECORD", "INVALID_EMAIL_ADDRESS"),
    *("CANNOT_EXECUTE_FLOW_TRIGGER", "DUPLICATES_DETECTED", "DUPLICATE_VALUE", "INVALID_MARKUP"),
    *("CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", "INVALID_URL_FIELD"),
)
"""Errors of one record: it would be refused again."""
_BUSY = ("UNABLE_TO_LOCK_ROW", "SERVER_UNAVAILABLE", "REQUEST_RUNNING_TOO_LONG", "QUERY_TIMEOUT")
NO_WRITING = "give the user that the app runs as the permissions Create and Edit on {}"
_NO_API = "give the user that the app runs as the permission “API Enabled”"
_DISABLES: Mapping[str, str] = {
    "API_DISABLED_FOR_ORG": "this edition of Salesforce has no API: ask Salesforce to enable it",
    **dict.fromkeys(("API_CURRENTLY_DISABLED", "FUNCTIONALITY_NOT_ENABLED"), _NO_API),
    **dict.fromkeys(("UNSUPPORTED_APIVERSION", "UNSUPPORTED_API_VERSION", "GONE"), "raise config.api_version"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(answers.Answer):
    """An answer of Salesforce.

    document  its body as JSON; None if it has none or the request was not carried out
    code      the first error's
    fields    that the errors name
    """

    document: Any = None
    code: str | None = None
    fields: tuple[str, ...] = ()

    def refuses(self, links: Collection[str]) -> bool:
        """True if a person or deal that these fields link the record to is not there, or not for this user. The
        template may link it to others, in other fields."""
        return self.code in _UNLINKED and (not self.fields or not set(links).isdisjoint(self.fields))


def read_answer(
    response: Response, now: float, subscription: Subscription, object: str, shape: Shape = "record"
) -> Answer:
    """Judges an answer. `object`: the name of the object that the request was about."""
    status = response.status_code
    if response.error is not None or status is None:
        return Answer(outcome=http_outcome(response, now))
    document = read_json(response.excerpt)
    if 200 <= status < 300:
        return _accepted(status, document, response, subscription, object, shape)
    if status == 300:
        reason = f"http_300: several records of {object} have this {KEY_FIELD}, which must be unique"
        return Answer.of("dead", reason)
    errors = _errors(document)
    if not errors or status >= 500:
        is_refused = status == 401
        return Answer(outcome=_unauthorized("http_401", subscription) if is_refused else http_outcome(response, now))
    return _refused(errors, subscription, object)


def newest_version(document: Any, wanted: str | None = None) -> str | None:
    """The newest version that both the instance and this relay know, such as `62.0`; None if there is none. `wanted`:
    no other one."""
    listed = document if isinstance(document, list) else []
    texts = [one.get("version") for one in listed[:500] if isinstance(one, Mapping)]
    numbers = [int(found[1]) for text in texts if isinstance(text, str) and (found := _VERSION.fullmatch(text))]
    fitting = [number for number in numbers if OLDEST_VERSION <= number <= NEWEST_VERSION]
    fitting = [number for number in fitting if wanted in (None, f"{number}.0")]
    return f"{max(fitting)}.0" if fitting else None


def _accepted(
    status: int, document: Any, response: Response, subscription: Subscription, object: str, shape: Shape
) -> Answer:
    """A platform event succeeds with an entry in `errors`, so only `success` counts."""
    given = mapping(document)
    if shape == "record" and given.get("success") is False:
        errors = _errors(given.get("errors"), "statusCode")
        return _refused(errors, subscription, object) if errors else Answer(outcome=not_from(_WHOSE, status))
    if shape == "record":
        is_known = given.get("success") is True or status == 204
    elif shape == "versions":
        is_known = isinstance(document, list)
    else:
        is_known = isinstance(given.get(_SHAPES[shape]), Mapping if shape == "summary" else list)
    if not is_known:
        return Answer(outcome=not_from(_WHOSE, status))
    pause = DAILY_PAUSE_SECONDS if is_short(response) else None
    outcome = Outcome(verdict="delivered", reason=f"http_{status}", retry_after_seconds=pause)
    return Answer(outcome=outcome, document=document)


def is_short(response: Response) -> bool:
    """True if the org has little left of its requests of the last 24 hours."""
    usage = _USAGE.search(response.header("sforce-limit-info") or "")
    return usage is not None and 0 < int(usage[2]) <= int(usage[1]) + RESERVED * int(usage[2])


def _unauthorized(code: str, subscription: Subscription) -> Outcome:
    """A token that was given cannot become valid again. One that is fetched was renewed before: the session may have
    been ended, so it is tried again."""
    credential = subscription.credential
    if credential is not None and credential.type == "ACCESSTOKEN":
        detail = f"give the subscription a valid access token as its sinkcredential{RESUME}"
        return Outcome(verdict="disable", reason=f"{code}: {detail}")
    return Outcome(verdict="retry", reason=code)


def _refused(errors: Sequence[_Error], subscription: Subscription, object: str) -> Answer:
    code, message, _ = errors[0]
    fields = tuple(dict.fromkeys(name for _, _, names in errors for name in names))[:_SHOWN_FIELDS]
    return Answer(outcome=_outcome_of(code, message, fields, subscription, object), code=code, fields=fields)


def _outcome_of(code: str, message: str, fields: Sequence[str], subscription: Subscription, object: str) -> Outcome:
    disable = _repair_of(code, message, fields, object)
    if disable is not None:
        return Outcome(verdict="disable", reason=f"{code}: {disable}{RESUME}")
    if code == "INVALID_SESSION_ID":
        return _unauthorized(code, subscription)
    if code == "REQUEST_LIMIT_EXCEEDED":  # too many long requests at once, or too many in a day
        pause = BUSY_PAUSE_SECONDS if message.startswith("Concurrent") else DAILY_PAUSE_SECONDS
        return Outcome(verdict="retry", reason=code, retry_after_seconds=pause)
    if code == "STORAGE_LIMIT_EXCEEDED":
        return Outcome(verdict="retry", reason=code, retry_after_seconds=DAILY_PAUSE_SECONDS)
    if code in _BUSY or (code == "DUPLICATE_VALUE" and KEY_FIELD in message):  # another request makes this record
        return Outcome(verdict="retry", reason=code)
    return Outcome(
        verdict="dead" if code in (*_DEAD, *_UNLINKED) else "retry",
        reason=f"{code}: {', '.join(fields)}" if fields else code,
    )


def _repair_of(code: str, message: str, fields: Sequence[str], object: str) -> str | None:
    """The remedy for an error with which Salesforce accepts no record at all; None for other errors."""
    if code in _DISABLES:
        return _DISABLES[code]
    is_closed = code in ("INSUFFICIENT_ACCESS", "INSUFFICIENT_ACCESS_OR_READONLY") or (
        code == "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY" and message.startswith("entity type cannot be")
    )
    is_absent = code in ("NOT_FOUND", "INVALID_TYPE")
    if (is_closed or is_absent) and not object:
        return _NO_API if is_closed else "correct the sink: it is no org with a REST API"
    if (is_closed or is_absent) and object in _READ_ONLY:
        return f"give the user that the app runs as the permission Read on {object}"
    if is_closed:
        return NO_WRITING.format(object)
    if is_absent:
        return f"deploy {object} with the field {KEY_FIELD}, and let the user that the app runs as see both"
    if code == "INVALID_FIELD":
        column = _COLUMN.search(message)
        field = "a field that the message names" if column is None else f"the field {column[1]}"
        if object in _READ_ONLY:
            return f"let the user that the app runs as read {field} of {object}"
        return f"{object} has not, or this user may not see, {field}: deploy it or correct config.template"
    if code == "INVALID_FIELD_FOR_INSERT_UPDATE":
        return f"let the user that the app runs as edit {', '.join(fields) or f'the fields of {object}'}"
    return None


def _errors(document: Any, code_name: str = "errorCode") -> list[_Error]:
    """The errors of an answer."""
    found: list[_Error] = []
    for one in (document if isinstance(document, list) else [])[:20]:
        code, message, fields = (
            code_in(one, code_name, UPPER_CODE),
            mapping(one).get("message"),
            mapping(one).get("fields"),
        )
        if code:
            listed = fields[:20] if isinstance(fields, list) else []
            names = [name for name in listed if isinstance(name, str) and _NAME.fullmatch(name)]
            found.append((code, message if isinstance(message, str) else "", names))
    return found
