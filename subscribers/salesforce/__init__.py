"""Salesforce: a record for each event, made or updated by its external id, and linked to the person and the deal that
the event is about.

The record is a `Job_Event__c`, which `deploy/salesforce` defines, or a Task. Both have a unique external id, so a
repeated request updates the record of the first one: nothing needs to be remembered, and nothing is ever uncertain.
`render.py` makes the fields, `requests.py` the requests, `answers.py` judges the
answers.
"""

import re
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from relay.core.deliveries.credentials import origin_text
from relay.core.deliveries.delivery import Outcome, Response
from relay.core.deliveries.dialogue import Ended, Memory, Step, Steps
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import PORTAL, Subscription
from relay.errors import FieldError
from relay.redaction import host_of
from subscribers import base
from subscribers.common import crm, templates
from subscribers.salesforce import requests
from subscribers.salesforce.answers import (
    ID,
    KEY_FIELD,
    NEWEST_VERSION,
    NO_WRITING,
    OLDEST_VERSION,
    PEOPLE,
    RESUME,
    Answer,
    Shape,
    newest_version,
    read_answer,
)
from subscribers.salesforce.options import SalesforceOptions
from subscribers.salesforce.render import (
    JOB_EVENT,
    LEAD,
    LINKS,
    PREFIXES,
    TASK,
    Meant,
    fields,
    links,
    meant_by,
    names_of,
)

TOKEN_PATH = "/services/oauth2/token"  # noqa: S105  (a path)

_FIELD = re.compile(r"[A-Za-z](?:_{0,2}[A-Za-z0-9]){0,79}")
_TOKENS = ("ACCESSTOKEN", "CLIENTCREDENTIALS", "REFRESHTOKEN")
_LOGIN_HOSTS = ("login.salesforce.com", "test.salesforce.com")
_MY_DOMAIN = "https://NAME.my.salesforce.com"
_WHERE = f"{_MY_DOMAIN} (Setup, My Domain)"
_UNMATCHED, _AMBIGUOUS = "unmatched", "ambiguous"


class Salesforce(crm.Crm):
    """A record per event."""

    name = "salesforce"
    title = "Salesforce"
    by_name = base.ByName(
        token="consumer secret of the external client app, whose Run As user has the permissions",  # noqa: S106
        home="https://{domain}.my.salesforce.com",
        names="contact_id, lead_id, deal_id, email or phone",
        example='{"email": "jane@example.com"}',
        domain="My Domain, such as acme of https://acme.my.salesforce.com",
        token_path=TOKEN_PATH,
    )
    options = SalesforceOptions

    def check(self, subscription: Subscription) -> None:
        """Refuses another sink than the base URL of an org, another token endpoint than that of this org, and options
        with mistakes."""
        errors = crm.common_errors(subscription, "Salesforce", _WHERE)
        errors += [*_sink_errors(subscription), *_credential_errors(subscription), *_field_errors(subscription)]
        base.refuse(errors + templates.template_errors(SalesforceOptions.of(subscription)))

    def records(self, options: SalesforceOptions) -> str:
        """See `Crm`."""
        return f"a record of {options.of_records}"

    def dialogue(self, subscription: Subscription) -> base.Dialogue | None:
        """Look-ups, then the record."""
        return SALESFORCE

    def portal(self, subscription: Subscription) -> str | None:
        """The org, by its host: the limits of a day are the org's."""
        return host_of(subscription.sink)

    def greeting(self, subscription: Subscription, now: float) -> Steps | None:
        """Asks for the API's versions, the object, and a person, all of which the deliveries need."""
        return _greeting(subscription, now)


@dataclass(slots=True, kw_only=True)
class _Org:
    """Where the requests go, and what the answers say of the day's limit.

    object         of the records
    pause_seconds  that the newest answer asks for
    """

    subscription: Subscription
    now: float
    version: str
    object: str
    pause_seconds: float | None = None

    def ask(self, step: Step, object: str, shape: Shape = "record") -> Generator[Step, Response, Answer]:
        """The answer to a request about an object."""
        answer = read_answer((yield step), self.now, self.subscription, object, shape)
        self.pause_seconds = answer.outcome.retry_after_seconds
        return answer

    def not_matched(self, why: str) -> Outcome:
        """The outcome if the org has no such contact."""
        return replace(crm.not_matched(self.subscription, why), retry_after_seconds=self.pause_seconds)


# --- a delivery


def _key(event: Event, subscription: Subscription) -> str | None:
    """None: nothing is remembered."""
    return None


def _steps(event: Event, subscription: Subscription, context: base.RenderContext, memory: Memory, now: float) -> Steps:
    """The versions of the instance, unless one is set; the person, unless an id is known; and the record. A record
    whose links are all refused counts as unmatched."""
    meant, may_be_alone = meant_by(event, context), SalesforceOptions.of(subscription).unmatched == "create"
    if meant.is_empty and not may_be_alone:
        return Ended(outcome=crm.not_matched(subscription, _UNMATCHED))
    org = yield from _org_of(subscription, now)
    if isinstance(org, Outcome):
        return Ended(outcome=org)
    body = fields(event, subscription, context, org.object)
    ids, why = meant.ids, _UNMATCHED
    if meant.person_known or not meant.searched:
        outcome = yield from _write_linked(org, event, body, ids, {})
        if outcome is not None:
            return Ended(outcome=outcome)
        ids = {}
    if meant.searched:
        person = yield from _find_person(org, meant)
        if isinstance(person, Outcome):
            return Ended(outcome=person)
        found, why = person
        outcome = yield from _write_linked(org, event, body, ids, found)
        if outcome is not None:
            return Ended(outcome=outcome)
    if not may_be_alone:
        return Ended(outcome=org.not_matched(why))
    answer = yield from _write(org, event, body, {})
    return Ended(outcome=answer.outcome)


SALESFORCE = base.Dialogue(key=_key, steps=_steps)
"""The deliveries to Salesforce."""


def _org_of(subscription: Subscription, now: float) -> Generator[Step, Response, _Org | Outcome]:
    """The org with a version of its API, or why there is none."""
    version = SalesforceOptions.of(subscription).api_version
    if version is None:
        response = yield requests.versions(subscription)
        answer = read_answer(response, now, subscription, "", "versions")
        if not answer.ok:
            return answer.outcome
        version = newest_version(answer.document)
        if version is None:
            reason = f"the instance lists no API version from {OLDEST_VERSION}.0 to {NEWEST_VERSION}.0"
            return Outcome(verdict="retry", reason=reason)
    return _Org(subscription=subscription, now=now, version=version, object=_object(subscription))


def _find_person(org: _Org, meant: Meant) -> Generator[Step, Response, tuple[dict[str, str], str] | Outcome]:
    """The one contact, else the one lead, with the address, else with the number. Without one: why."""
    soql = requests.soql_text
    conditions = [] if meant.email is None else [f"Email = {soql(meant.email)}"]
    if meant.phones:
        listed = ", ".join(map(soql, meant.phones))
        conditions.append(f"Phone IN ({listed}) OR MobilePhone IN ({listed})")
    for condition in conditions:
        for object in PEOPLE:
            step = requests.look_up(org.subscription, org.version, object, condition)
            answer = yield from org.ask(step, object, "query")
            if not answer.ok and not (object == LEAD and answer.code == "INVALID_TYPE"):  # an org without leads
                return answer.outcome
            found = _ids_in(answer.document, object)
            if found:
                return ({object: found[0]} if len(found) == 1 else {}), _AMBIGUOUS
    return {}, _UNMATCHED


def _write_linked(
    org: _Org, event: Event, body: Mapping[str, Any], ids: Mapping[str, str], found: Mapping[str, str]
) -> Generator[Step, Response, Outcome | None]:
    """The outcome of the record with links to the ids that were given and to those that were found, as many as
    Salesforce takes. None if there is no record to link it to. A link that is refused although the other end is
    there is no sign of that: the record is refused, for a reason that a person has to see."""
    answer = None
    for linked in links(org.object, {**ids, **found}):
        answer = yield from _write(org, event, body, linked)
        if not answer.refuses(linked):
            return answer.outcome
    if answer is None or SalesforceOptions.of(org.subscription).unmatched == "create":
        return None
    for object, id in () if found else ids.items():
        asked = yield from org.ask(
            requests.look_up(org.subscription, org.version, object, f"Id = '{id}'"), object, "query"
        )
        if not asked.ok and asked.code not in ("INVALID_QUERY_FILTER_OPERATOR", "INVALID_TYPE"):  # no valid id
            return asked.outcome
        if _ids_in(asked.document, object):
            return answer.outcome
    return answer.outcome if found else None


def _write(
    org: _Org, event: Event, body: Mapping[str, Any], linked: Mapping[str, str]
) -> Generator[Step, Response, Answer]:
    step = requests.record(event, org.subscription, org.version, org.object, {**body, **linked}, linked=bool(linked))
    return (yield from org.ask(step, org.object))


def _ids_in(document: Any, object: str) -> list[str]:
    """The ids in the answer to a look-up."""
    records = document.get("records") if isinstance(document, Mapping) else None
    ids = [one.get("Id") for one in records[:2] if isinstance(one, Mapping)] if isinstance(records, list) else []
    placeholder, prefix = requests.PLACEHOLDERS[object], PREFIXES[object]
    return [
        id for id in ids if isinstance(id, str) and ((ID.fullmatch(id) and id.startswith(prefix)) or id == placeholder)
    ]


def _object(subscription: Subscription) -> str:
    return SalesforceOptions.of(subscription).of_records


# --- before a subscription is stored


def _greeting(subscription: Subscription, now: float) -> Steps:
    """Checks what the deliveries need, and finds the version that they use."""
    response = yield requests.versions(subscription)
    listed = read_answer(response, now, subscription, "", "versions")
    if not listed.ok:
        return _refused(listed.outcome)
    wanted = SalesforceOptions.of(subscription).api_version
    version = newest_version(listed.document, wanted)
    if version is None:
        reason = f"the instance lists no API version {wanted or f'from {OLDEST_VERSION}.0 to {NEWEST_VERSION}.0'}"
        return _refused(_missing(reason))
    org = _Org(subscription=subscription, now=now, version=version, object=_object(subscription))
    for check in (_check_object, _check_people):
        outcome = yield from check(org)
        if outcome.verdict != "delivered":
            return _refused(outcome)
    return Ended(outcome=listed.outcome, remember={PORTAL: host_of(subscription.sink), "api_version": version})


def _refused(outcome: Outcome) -> Ended:
    """There is no subscription that could be resumed."""
    return Ended(outcome=replace(outcome, reason=outcome.reason.removesuffix(RESUME)))


def _check_object(org: _Org) -> Generator[Step, Response, Outcome]:
    """Whether the user may write records of the object, with all fields. The description of a standard object is larger
    than what is read of an answer, and that of a custom one can be: then the fields are asked for by a query."""
    subscription, object = org.subscription, org.object
    own = SalesforceOptions.of(subscription).template or {}
    names = dict.fromkeys((*names_of(object), *own))
    wanted = (KEY_FIELD, *(name for name in names if own.get(name, name) is not None))
    if object != TASK:
        response = yield requests.description(subscription, org.version, object)
        answer = read_answer(response, org.now, subscription, object, "description")
        if answer.ok:
            return _described(org, answer, wanted)
        if response.status_code != 200:
            return answer.outcome
    answer = yield from org.ask(requests.summary(subscription, org.version, object), object, "summary")
    if not answer.ok:
        return answer.outcome
    if not _is_writable(answer.document["objectDescribe"]):
        return _missing(NO_WRITING.format(object))
    step = requests.fields_of(subscription, org.version, object, wanted, KEY_FIELD)
    return (yield from org.ask(step, object, "query")).outcome


def _check_people(org: _Org) -> Generator[Step, Response, Outcome]:
    """Whether the user may look for people."""
    object = PEOPLE[0]
    condition = f"Email = {requests.soql_text(requests.CHECK)}"
    step = requests.look_up(org.subscription, org.version, object, condition)
    return (yield from org.ask(step, object, "query")).outcome


def _described(org: _Org, answer: Answer, wanted: Sequence[str]) -> Outcome:
    """What the description of an object says about the user's permissions, and about these fields."""
    object = org.object
    if not _is_writable(answer.document):
        return _missing(NO_WRITING.format(object))
    known = {one["name"]: one for one in answer.document["fields"] if isinstance(one, Mapping) and _has_name(one)}
    absent = [name for name in wanted if name not in known]
    if absent:
        what = f"{object} has not, or this user may not see, {', '.join(absent)}"
        return _missing(f"{what}: deploy it or correct config.template")
    key = known[KEY_FIELD]
    if key.get("externalId") is not True or key.get("unique") is not True:
        return _missing(f"make {object}.{KEY_FIELD} a unique external id, or an event could make two records")
    closed = [name for name in wanted if not _is_writable(known[name])]
    if closed:
        return _missing(f"let the user that the app runs as edit {', '.join(closed)}")
    return answer.outcome


def _has_name(field: Mapping[str, Any]) -> bool:
    name = field.get("name")
    return isinstance(name, str)


def _is_writable(described: Mapping[str, Any]) -> bool:
    return described.get("createable") is True and described.get("updateable") is True


def _missing(what: str) -> Outcome:
    return Outcome(verdict="disable", reason=what)


# --- what is wrong with a subscription


def _sink_errors(subscription: Subscription) -> list[FieldError]:
    host = host_of(subscription.sink)
    if host not in _LOGIN_HOSTS and not host.endswith(".lightning.force.com"):
        return []
    return [FieldError(pointer="/sink", code="sink_unsuitable", detail=f"{host} has no API: use {_WHERE}")]


def _credential_errors(subscription: Subscription) -> list[FieldError]:
    credential = subscription.credential
    if credential is None or credential.type not in _TOKENS:
        detail = (
            'an access token or an external client app is needed: {"credentialtype": "CLIENTCREDENTIALS", "token_url": '
            f'"{_MY_DOMAIN}{TOKEN_PATH}", "client_id": "…", "client_secret": "…"}}'
        )
        code = "missing" if credential is None else "credential_unsuitable"
        return [FieldError(pointer="/sinkcredential", code=code, detail=detail)]
    url = credential.token_url
    if credential.type != "CLIENTCREDENTIALS" or url is None:
        return []
    if origin_text(url) == credential.origin and urlsplit(url).path == TOKEN_PATH:
        return []
    detail = f"the token is valid in the org that issues it only: use {subscription.sink.rstrip('/')}{TOKEN_PATH}"
    return [FieldError(pointer="/sinkcredential/token_url", code="credential_unsuitable", detail=detail)]


def _field_errors(subscription: Subscription) -> list[FieldError]:
    options = SalesforceOptions.of(subscription)
    own = LINKS[TASK if options.of_records == TASK else JOB_EVENT].values()
    found = (_field_error(name, value, own) for name, value in (options.template or {}).items())
    return [error for error in found if error is not None]


def _field_error(name: str, value: object, own: Collection[str]) -> FieldError | None:
    """What is wrong with a field of the template. `own`: the fields that link a record."""
    if name in ("Id", "attributes", KEY_FIELD) or name in own:
        detail = f"the relay sets {name} itself: leave it out"
    elif not _FIELD.fullmatch(name):
        detail = f"{name!r:.100} is not the API name of a field, such as Status__c"
    elif isinstance(value, Mapping | list):
        detail = "a field holds a text, a number, true, false or null"
    else:
        return None
    pointer = "/config/template/" + name.replace("~", "~0").replace("/", "~1")
    return FieldError(pointer=pointer, code="invalid", detail=detail)
