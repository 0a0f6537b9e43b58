"""Salesforce: a record for each event, made or updated by the event's id, and linked to the person and the deal that it
is about.

The record is a `Job_Event__c`, which `deploy/salesforce` defines, or a Task. Both have the event's id as a unique
external id, so a repeated request updates the record of the first one: nothing needs to be remembered.
`salesforce_records.py` makes the fields, `salesforce_answers.py` judges the answers.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from relay.core.credentials import origin_text
from relay.core.delivery import OutboundRequest, Outcome, Response
from relay.core.dialogue import Ended, Memory, Step, Steps
from relay.core.events import Event
from relay.core.jsontext import dumps
from relay.core.subscription import Incidents, Subscription
from relay.errors import FieldError
from relay.redaction import host_of, split_url, url_without_path
from subscribers import base, templates
from subscribers.salesforce_answers import (
    ID,
    KEY_FIELD,
    NEWEST_VERSION,
    OLDEST_VERSION,
    PEOPLE,
    Answer,
    newest_version,
    read_answer,
)
from subscribers.salesforce_records import JOB_EVENT, TASK, fields, links, meant_by

OBJECT = "object"
"""Option: the object of the records: `Job_Event__c`, `Task`, or one with the fields of the former."""
UNMATCHED = "unmatched"
"""Option: what becomes of an event about nobody whom Salesforce knows: `skip`, `create` (a record without links) or
`fail`."""
API_VERSION = "api_version"
"""Option: such as `62.0`. Without it each delivery asks for the instance's versions first, which costs no API call."""
DRY_RUN = "dry_run"
OPTIONS = (OBJECT, UNMATCHED, API_VERSION, DRY_RUN, *templates.OPTIONS)
TOKEN_PATH = "/services/oauth2/token"  # noqa: S105  (a path)

SKIPPED = "unmatched: skipped, since Salesforce has nobody whom the event is about"
_UNMATCHED = ("skip", "create", "fail")
_TYPES = ("succeeded", "failed", "cancelled", "not_found")
_OBJECT = re.compile(rf"{TASK}|[A-Za-z](?:_?[A-Za-z0-9]){{0,60}}(?:__[A-Za-z][A-Za-z0-9_]{{0,40}})?__c")
_FIELD = re.compile(r"[A-Za-z](?:_{0,2}[A-Za-z0-9]){0,79}")
_VERSION = re.compile(r"(\d{2,3})\.0")
_TOKENS = ("ACCESSTOKEN", "CLIENTCREDENTIALS", "REFRESHTOKEN")
_LOGIN_HOSTS = ("login.salesforce.com", "test.salesforce.com")
_MY_DOMAIN = "https://NAME.my.salesforce.com (Setup, My Domain)"


def _key(event: Event, subscription: Subscription) -> str | None:
    """None: nothing is remembered."""
    return None


def _steps(event: Event, subscription: Subscription, context: base.RenderContext, memory: Memory, now: float) -> Steps:
    """The versions of the instance, unless one is set; the person with the e-mail address, unless an id is known; and
    the record. A record whose links Salesforce refuses is treated as one about nobody."""
    meant, unmatched = meant_by(event), subscription.options.get(UNMATCHED) or "skip"
    if meant.nobody and unmatched != "create":
        return Ended(outcome=_unmatched(unmatched, "the event names nobody"))
    version = subscription.options.get(API_VERSION)
    if version is None:
        answer = read_answer((yield _versions(subscription)), now, subscription, "")
        version = newest_version(answer.document)
        if version is None:
            return Ended(outcome=_no_version(answer))
    person = meant.person
    if person is None and meant.email is not None:
        for object in PEOPLE:
            answer = read_answer(
                (yield _look_up(subscription, version, object, meant.email)), now, subscription, object
            )
            if not answer.ok and not (object == "Lead" and answer.code == "INVALID_TYPE"):  # an org without leads
                return Ended(outcome=answer.outcome)
            person = _found(answer.document, object)
            if person is not None:
                break
    linked = links(_object(subscription), person, meant.deal)
    if linked:
        response = yield _record(event, subscription, context, version, linked)
        answer = read_answer(response, now, subscription, _object(subscription))
        if not answer.unlinked:
            return Ended(outcome=answer.outcome)
        if unmatched != "create":
            return Ended(outcome=_unmatched(unmatched, answer.outcome.reason))
    elif unmatched != "create":
        return Ended(outcome=_unmatched(unmatched, "no Contact and no Lead has the e-mail address"))
    response = yield _record(event, subscription, context, version, {})
    return Ended(outcome=read_answer(response, now, subscription, _object(subscription)).outcome)


RECORDS = base.Dialogue(key=_key, steps=_steps)


class Salesforce(base.Single):
    """A record per event. Not signed: Salesforce reads no signature."""

    name = "salesforce"
    signed = False
    rate_per_second: float | None = 5.0
    default_incidents: Incidents = "off"

    def default_types(self, type_prefixes: Sequence[str]) -> tuple[str, ...] | None:
        """How jobs ended."""
        return tuple(f"{prefix}.{kind}" for prefix in dict.fromkeys(type_prefixes) for kind in _TYPES)

    def check(self, subscription: Subscription) -> None:
        """Refuses another sink than the base URL of an org, another token endpoint than that of this org, and options
        with mistakes."""
        errors = base.option_errors(subscription, OPTIONS)
        errors += [one for one in base.chat_errors(subscription, "Salesforce") if one.pointer != "/sinkcredential"]
        errors += [one for one in base.receiver_errors(subscription) if one.pointer == "/config/incidents"]
        errors += [*_sink_errors(subscription), *_credential_errors(subscription), *_config_errors(subscription)]
        errors += templates.template_errors(subscription)
        base.refuse(errors)

    def render(self, event: Event, subscription: Subscription, context: base.RenderContext) -> OutboundRequest:
        """The record alone, without links: what `dialogue` sends last."""
        version = subscription.options.get(API_VERSION) or f"{NEWEST_VERSION}.0"
        return _record(event, subscription, context, version, {}).request

    def classify(self, response: Response, now: float) -> Outcome:
        """As of an answer to a record."""
        return read_answer(response, now, Subscription(id="", sink=""), JOB_EVENT).outcome

    def dialogue(self, subscription: Subscription) -> base.Dialogue | None:
        """Look-ups, then the record."""
        return RECORDS

    def redacted_url(self, url: str) -> str:
        """Without a path: it has none."""
        return url_without_path(url).removesuffix("/…")


# --- the requests


def _versions(subscription: Subscription) -> Step:
    expected = dumps([{"label": "…", "url": f"/services/data/v{NEWEST_VERSION}.0", "version": f"{NEWEST_VERSION}.0"}])
    request = OutboundRequest(url=f"{_base(subscription)}/services/data/", method="GET", headers=_ACCEPT)
    return Step(request=request, name="versions", expected=expected)


def _look_up(subscription: Subscription, version: str, object: str, email: str) -> Step:
    """The oldest record with the address: the same one at each attempt."""
    converted = " AND IsConverted = false" if object == "Lead" else ""
    where = f"Email = {soql_text(email)}{converted}"
    query = f"SELECT Id FROM {object} WHERE {where} ORDER BY CreatedDate ASC LIMIT 1"  # noqa: S608  (escaped SOQL)
    url = f"{_base(subscription)}/services/data/v{version}/query?q={quote(query, safe='')}"
    expected = dumps({"totalSize": 1, "done": True, "records": [{"Id": _PLACEHOLDERS[object]}]})
    request = OutboundRequest(url=url, method="GET", headers=_ACCEPT)
    return Step(request=request, name=f"look-up of the {object.lower()}", expected=expected)


def _record(
    event: Event,
    subscription: Subscription,
    context: base.RenderContext,
    version: str,
    linked: Mapping[str, str],
) -> Step:
    object = _object(subscription)
    place = f"/services/data/v{version}/sobjects/{object}/{KEY_FIELD}/{quote(event.id, safe='', errors='replace')}"
    body = dumps({**fields(event, subscription, context, object), **linked})
    request = OutboundRequest(
        url=_base(subscription) + place,
        method="PATCH",
        headers=(*_ACCEPT, ("Content-Type", "application/json")),
        body=body,
    )
    expected = dumps({"id": "{id-of-the-record}", "success": True, "errors": [], "created": True})
    return Step(
        request=request, name=f"{object} by {KEY_FIELD}" + ("" if linked else ", without links"), expected=expected
    )


def soql_text(text: str) -> str:
    """A text in a query: SOQL's Quoted String Escape Sequences."""
    return f"'{text.translate(_SOQL)}'"


_ACCEPT = (("Accept", "application/json"),)
_PLACEHOLDERS = {"Contact": "003{id-of-the-contact}", "Lead": "00Q{id-of-the-lead}"}
_SOQL = str.maketrans(
    {"\\": "\\\\", "'": "\\'", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
)


def _found(document: Any, object: str) -> str | None:
    """The id in the answer to a query; None if nobody was found."""
    records = document.get("records") if isinstance(document, Mapping) else None
    first = records[0] if isinstance(records, list) and records else None
    id = first.get("Id") if isinstance(first, Mapping) else None
    is_id = isinstance(id, str) and (ID.fullmatch(id) is not None or id == _PLACEHOLDERS[object])
    return id if is_id and isinstance(id, str) and id.startswith(_PLACEHOLDERS[object][:3]) else None


def _unmatched(policy: str, why: str) -> Outcome:
    if policy == "fail":
        return Outcome(verdict="dead", reason=f"unmatched: {why}")
    return Outcome(verdict="delivered", reason=SKIPPED)


def _no_version(answer: Answer) -> Outcome:
    if not answer.ok:
        return answer.outcome
    reason = f"the instance lists no API version from {OLDEST_VERSION}.0 to {NEWEST_VERSION}.0"
    return Outcome(verdict="retry", reason=reason)


def _object(subscription: Subscription) -> str:
    object: str = subscription.options.get(OBJECT) or JOB_EVENT
    return object


def _base(subscription: Subscription) -> str:
    return subscription.sink.rstrip("/")


# --- what is wrong with a subscription


def _sink_errors(subscription: Subscription) -> list[FieldError]:
    parts, host = split_url(subscription.sink), host_of(subscription.sink)
    if parts is None:
        return []
    if parts.path not in ("", "/") or parts.query:
        detail = f"only the base URL of the org is needed, without a path: {_MY_DOMAIN}"
    elif host in _LOGIN_HOSTS or host.endswith(".lightning.force.com"):
        detail = f"{host} has no API: use {_MY_DOMAIN}"
    else:
        return []
    return [FieldError(pointer="/sink", code="sink_unsuitable", detail=detail)]


def _credential_errors(subscription: Subscription) -> list[FieldError]:
    credential = subscription.credential
    if credential is None or credential.type not in _TOKENS:
        detail = (
            'an access token or an external client app is needed: {"credentialtype": "CLIENTCREDENTIALS", "token_url": '
            f'"https://NAME.my.salesforce.com{TOKEN_PATH}", "client_id": "…", "client_secret": "…"}}'
        )
        code = "missing" if credential is None else "credential_unsuitable"
        return [FieldError(pointer="/sinkcredential", code=code, detail=detail)]
    url = credential.token_url
    if credential.type != "CLIENTCREDENTIALS" or url is None:
        return []
    if origin_text(url) == credential.origin and urlsplit(url).path == TOKEN_PATH:
        return []
    detail = f"the token is valid in the org that issues it only: use {_base(subscription)}{TOKEN_PATH}"
    return [FieldError(pointer="/sinkcredential/token_url", code="credential_unsuitable", detail=detail)]


def _config_errors(subscription: Subscription) -> list[FieldError]:
    object, unmatched, version, dry_run, template = (
        subscription.options.get(name) for name in (OBJECT, UNMATCHED, API_VERSION, DRY_RUN, templates.TEMPLATE)
    )
    number = _VERSION.fullmatch(version) if isinstance(version, str) else None
    found = [
        (
            object is not None and not (isinstance(object, str) and _OBJECT.fullmatch(object)),
            OBJECT,
            f"{object!r:.100} is not {JOB_EVENT}, {TASK} or the API name of another custom object, such as My_Event__c",
        ),
        (
            unmatched is not None and unmatched not in _UNMATCHED,
            UNMATCHED,
            f"{unmatched!r:.100} is not one of {', '.join(_UNMATCHED)}",
        ),
        (
            version is not None and (number is None or not OLDEST_VERSION <= int(number[1]) <= NEWEST_VERSION),
            API_VERSION,
            f"{version!r:.100} is not a version from {OLDEST_VERSION}.0 to {NEWEST_VERSION}.0, such as 62.0",
        ),
        (dry_run is not None and not isinstance(dry_run, bool), DRY_RUN, "true or false is expected"),
        (
            template is not None and not isinstance(template, Mapping),
            templates.TEMPLATE,
            'an object of fields is expected, such as {"Status__c": "{{ job.status }}"}',
        ),
    ]
    errors = [FieldError(pointer=f"/config/{name}", code="invalid", detail=why) for wrong, name, why in found if wrong]
    given = template if isinstance(template, Mapping) else {}
    return errors + [error for name, value in given.items() if (error := _field_error(name, value)) is not None]


def _field_error(name: str, value: object) -> FieldError | None:
    if name in ("Id", "attributes", KEY_FIELD):
        detail = f"the relay sets {name} itself: leave it out"
    elif not _FIELD.fullmatch(name):
        detail = f"{name!r:.100} is not the API name of a field, such as Status__c"
    elif isinstance(value, Mapping | list):
        detail = "a field holds a text, a number, true, false or null"
    else:
        return None
    pointer = "/config/template/" + name.replace("~", "~0").replace("/", "~1")
    return FieldError(pointer=pointer, code="invalid", detail=detail)
