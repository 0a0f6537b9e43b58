"""HubSpot: properties of the contact and the deal that a job is about, a note on their timeline, a task for a failure.

Properties are set, which may be repeated. A note or a task is not: that it is about to be made is remembered before the
request, and it carries a property with a unique value, by which HubSpot is asked whether it exists and which HubSpot
accepts only once. So an attempt after a crash or a time-out makes no second one.

Sources: HubSpot's guides to contacts, notes, tasks, properties and error handling, version 2026-09 of its API. Answers
are as untrusted as any; of their texts only codes, scopes and names of properties are shown.
"""

import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any
from urllib.parse import quote

from relay.core import jsontext
from relay.core.delivery import OutboundRequest, Outcome, Response
from relay.core.dialogue import Ended, Memory, Step, Steps
from relay.core.events import Event
from relay.core.jsontext import dumps
from relay.core.retry import http_outcome
from relay.core.subscription import Incidents, Subscription
from relay.errors import FieldError, NotRenderable
from relay.redaction import redacted_url, split_url
from subscribers import base, chat, templates
from subscribers.job_wording import job_event_kind, metadata_of
from subscribers.words import data_of, mapping, one_line, word

RECORD = "record"
"""Option: what is written: `properties`, `note` or `task`, or a list of these."""
UNMATCHED = "unmatched"
"""Option: what becomes of an event that is about nobody in HubSpot: `skip`, `create` or `fail`."""
RECORDS = ("properties", "note", "task")
POLICIES = ("skip", "create", "fail")
OPTIONS = (RECORD, UNMATCHED, *chat.OPTIONS, *templates.OPTIONS)

HOSTS = r"api(-[a-z0-9]{1,10})?\.hubapi\.com"
VERSION = "2026-09"
"""Of the API. HubSpot supports each for at least 18 months; v3 ends in September 2027."""
KEY_PROPERTY = "relay_event_id"
"""The property of notes and tasks with a unique value."""
GROUP = "revor_relay"
"""The group of the properties that the relay makes."""
NOTED = ("succeeded", "failed", "cancelled", "overdue", "not_found")
"""Members of JOB_EVENTS that are noted, and that a subscription gets by default."""
TASKED = ("failed", "overdue", "not_found")
"""Members of JOB_EVENTS for which a task is made."""

MAX_TEXT = 65_536
MAX_SUBJECT = 200
MAX_PROPERTIES = 50
_UNKNOWN = "?"
"""Remembered in place of an id: the request was sent, and its end is not known."""
_EXISTS = "exists"
"""Stands for an id that HubSpot did not tell."""
_ASSOCIATIONS = {
    ("notes", "contacts"): 202,
    ("notes", "deals"): 214,
    ("tasks", "contacts"): 204,
    ("tasks", "deals"): 216,
}
"""`associationTypeId`, defined by HubSpot."""
_SCOPES = {
    "contacts": "crm.objects.contacts.write",
    "deals": "crm.objects.deals.write",
    "notes": "crm.objects.contacts.write",
    "tasks": "crm.objects.contacts.write",
}

_ID = re.compile(r"[1-9][0-9]{0,19}", re.ASCII)
_PLACEHOLDER = re.compile(r"\{id-of-the-[a-z]{1,10}\}")
"""What a preview shows for an id that only HubSpot knows."""
_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[^@\s\x00-\x1f\x7f]{1,189}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}", re.ASCII)
_CODE = re.compile(r"[A-Z][A-Z_0-9]{1,59}", re.ASCII)
_SCOPE = re.compile(r"[a-z][a-z0-9._-]{1,79}", re.ASCII)
_EXISTING = re.compile(r"Existing ID: ([1-9][0-9]{0,19})\b|\b([1-9][0-9]{0,19}) already has that value")
_INVALID = re.compile(r'"error":"([A-Z_]{2,60})","name":"([a-z][a-z0-9_]{0,99})"')

_POLICY_SECONDS = {"SECONDLY": 1.0, "TEN_SECONDLY_ROLLING": 10.0, "DAILY": 3600.0}
"""Pause after a 429 by its `policyName`: HubSpot sends no Retry-After. The day ends at midnight in the account's time
zone, which nobody tells, so an hour later is another try."""
_LIMITED_SECONDS = 10.0
_LOCKED_SECONDS = 2.0
_LOCKED, _MIGRATING = 423, 477
_CREATE = "run relay subscriptions add hubspot --create-properties, or create it in HubSpot, then resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Whom and what a job is about, as far as its metadata say."""

    email: str | None = None
    contact_id: str | None = None
    deal_id: str | None = None

    @property
    def targets(self) -> tuple[tuple[str, str, bool], ...]:
        """The objects that are meant: type, id or e-mail address, and True for the latter."""
        contact = self.contact_id or self.email
        found = [("contacts", contact, self.contact_id is None)] if contact else []
        return (*found, ("deals", self.deal_id, False)) if self.deal_id else tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What HubSpot answered.

    id        of the object that was read, written or made
    missing   there is no such object
    existing  the id of an object that has the unique value already; `exists` if HubSpot does not tell it
    certain   HubSpot says that it has not carried out the request
    """

    outcome: Outcome
    id: str | None = None
    missing: bool = False
    existing: str | None = None
    certain: bool = False


Asked = Generator[Step, Response, Answer]


class HubSpot(base.Single):
    """Writes what became of a job to the contact and the deal it is about. Not signed: HubSpot reads no signature."""

    name = "hubspot"
    signed = False
    rate_per_second: float | None = 2.5
    """HubSpot's lowest limit is 100 requests in 10 seconds, and an event takes up to four."""
    default_incidents: Incidents = "off"

    def default_types(self, type_prefixes: Sequence[str]) -> tuple[str, ...] | None:
        """How jobs ended, and which are overdue."""
        return tuple(f"{prefix}.{kind}" for prefix in dict.fromkeys(type_prefixes) for kind in NOTED)

    def check(self, subscription: Subscription) -> None:
        """Refuses URLs with a path, what HubSpot does not read, wrong options, and what is there without a token."""
        errors = base.option_errors(subscription, OPTIONS)
        own = {"/sinkcredential", "/config/handshake"}
        errors += [error for error in base.chat_errors(subscription, "HubSpot") if error.pointer not in own]
        errors += _own_errors(subscription)
        errors += templates.template_errors(subscription)
        base.refuse(errors)

    def render(self, event: Event, subscription: Subscription, context: base.RenderContext) -> OutboundRequest:
        """Never called, since it always delivers by a dialogue."""
        raise NotImplementedError

    def classify(self, response: Response, now: float) -> Outcome:
        """What one answer means."""
        return read_answer(response, now).outcome

    def dialogue(self, subscription: Subscription) -> base.Dialogue | None:
        """Always."""
        return HUBSPOT

    def redacted_url(self, url: str) -> str:
        """The URL holds no secret."""
        return redacted_url(url)


def person_of(event: Event) -> Person:
    """Whom the job of an event is about: `email`, `contact_id` and `deal_id` of its metadata, if well-formed."""
    if job_event_kind(event.type) is None:
        return Person()
    metadata = metadata_of(event.document())
    email = metadata.get("email")
    address = email.strip() if isinstance(email, str) else ""
    return Person(
        email=address if _EMAIL.fullmatch(address) else None,
        contact_id=_id(metadata.get("contact_id")),
        deal_id=_id(metadata.get("deal_id")),
    )


def _key(event: Event, subscription: Subscription) -> str | None:
    """The key of the ledger of an event: what was made of it. None for events about nobody."""
    return f"event/{event.id}" if person_of(event).targets else None


def _steps(event: Event, subscription: Subscription, context: base.RenderContext, memory: Memory, now: float) -> Steps:
    """The contact and the deal are written, which tells their ids, then the note and the task are made about them."""
    person = person_of(event)
    if not person.targets:
        return Ended(outcome=_unmatched(subscription, "its metadata name no email, contact_id or deal_id"))
    records = _records(subscription)
    content = _content(event, subscription, context)
    kept = _kept(memory)
    for object, id, by_email in person.targets:
        if object in kept:
            continue
        properties = content.properties if "properties" in records else None
        answer = yield from _written(subscription, object, id, by_email, properties, person, now)
        if answer.id is None and not answer.missing:
            return Ended(outcome=answer.outcome, remember=kept)
        if answer.id is not None:
            kept[object] = answer.id
        elif subscription.options.get(UNMATCHED) == "fail":
            return Ended(outcome=_unmatched(subscription, f"HubSpot has no such object in {object}"), remember=kept)
    about = [(object, kept[object]) for object, _, _ in person.targets if object in kept]
    if not about:
        return Ended(outcome=_unmatched(subscription, "HubSpot has neither the contact nor the deal"))
    kind = job_event_kind(event.type)
    made = [("notes", content.note)] if "note" in records and kind in NOTED else []
    made += [("tasks", content.task)] if "task" in records and kind in TASKED else []
    key = f"{event.id}.{subscription.id}"
    for object, properties in made:
        if kept.get(object, _UNKNOWN) != _UNKNOWN:
            continue
        ended = yield from _made_once(subscription, object, {**properties, KEY_PROPERTY: key}, about, kept, now)
        if ended is not None:
            return ended
    return Ended(outcome=Outcome(verdict="delivered", reason="ok"), remember=kept)


HUBSPOT = base.Dialogue(key=_key, steps=_steps)
"""How an event is delivered."""


def _written(
    subscription: Subscription,
    object: str,
    id: str,
    by_email: bool,
    properties: Mapping[str, str] | None,
    person: Person,
    now: float,
) -> Asked:
    """Sets properties, or reads if there are none to set. A missing contact is created if the subscription says so."""
    answer = yield from _ask(_write(subscription, object, id, properties, by_email=by_email), now)
    if not (answer.missing and object == "contacts" and subscription.options.get(UNMATCHED) == "create"):
        return answer
    if person.email is None:
        return answer
    document = {"properties": {**(properties or {}), "email": person.email}, "associations": []}
    # HubSpot has each address once, so this may be repeated.
    answer = yield from _ask(_post(subscription, "contacts", document), now)
    if answer.existing is None:
        return answer
    if not _ID.fullmatch(answer.existing):
        return Answer(outcome=Outcome(verdict="retry", reason="conflict"))
    return (yield from _ask(_write(subscription, object, answer.existing, properties, by_email=False), now))


def _made_once(
    subscription: Subscription,
    object: str,
    properties: Mapping[str, str],
    about: Sequence[tuple[str, str]],
    kept: dict[str, str],
    now: float,
) -> Generator[Step, Response, Ended | None]:
    """Makes a note or a task, unless HubSpot has it already. None: it is there, and its id in `kept`."""
    if kept.get(object) == _UNKNOWN:
        asked = yield from _ask(_read_by_key(subscription, object, properties[KEY_PROPERTY]), now)
        if not asked.missing:
            return _settled(object, asked, kept)
    associations = [
        {
            "to": {"id": id},
            "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": _ASSOCIATIONS[object, target]}],
        }
        for target, id in about
    ]
    step = _post(subscription, object, {"properties": properties, "associations": associations})
    answer = yield from _ask(replace(step, remember={**kept, object: _UNKNOWN}), now)
    if answer.id is not None or not answer.certain:
        return _settled(object, answer, kept)
    if answer.existing is not None:
        # What HubSpot says then is not documented, and it may be about another property.
        asked = yield from _ask(_read_by_key(subscription, object, properties[KEY_PROPERTY]), now)
        if not asked.missing:
            return _settled(object, asked, kept)
    kept.pop(object, None)
    if not answer.missing:
        return Ended(outcome=answer.outcome, remember=kept)
    # What it is about was deleted since it was written: the next attempt finds that out.
    left = {name: id for name, id in kept.items() if name in ("notes", "tasks")}
    return Ended(outcome=Outcome(verdict="retry", reason="what it is about was deleted"), remember=left)


def _settled(object: str, answer: Answer, kept: dict[str, str]) -> Ended | None:
    """Remembers the id of a note or a task; without one that it is not known whether there is one."""
    if answer.id is not None:
        kept[object] = answer.id
        return None
    kept[object] = _UNKNOWN
    return Ended(outcome=_uncertain(object) if answer.outcome.verdict == "dead" else answer.outcome, remember=kept)


def set_up(subscription: Subscription, *, create: bool, now: float) -> Steps:
    """Checks the token, and that the properties exist that deliveries need; with `create` makes them first."""
    answer = yield from _ask(
        _get(subscription, f"/account-info/{VERSION}/details", "read the account"), now, account=True
    )
    if answer.outcome.verdict != "delivered":
        return Ended(outcome=answer.outcome)
    for object in ("contacts", "deals", "notes", "tasks"):
        path = f"/crm/properties/{VERSION}/{object}"
        if create:
            group = {"name": GROUP, "label": "Revor Relay"}
            request = _request(subscription, "POST", f"{path}/groups", group)
            answer = yield from _ask(Step(request=request, name=f"create the group of {object}"), now, account=True)
            if answer.outcome.verdict != "delivered" and answer.existing is None:
                return Ended(outcome=answer.outcome)
        for definition in definitions(object):
            name = definition["name"]
            if create:
                request = _request(subscription, "POST", path, definition)
                step = Step(request=request, name=f"create {name} of {object}")
            else:
                step = _get(subscription, f"{path}/{name}", f"read {name} of {object}")
            answer = yield from _ask(step, now, account=True)
            if answer.missing:
                reason = f"HubSpot has no property {name} of {object}: {_CREATE}"
                return Ended(outcome=Outcome(verdict="disable", reason=reason))
            if answer.outcome.verdict != "delivered" and answer.existing is None:
                return Ended(outcome=answer.outcome)
    return Ended(outcome=Outcome(verdict="delivered", reason="ok"))


def definitions(object: str) -> tuple[Mapping[str, Any], ...]:
    """The properties that the relay needs of one type of object, as HubSpot wants them defined."""
    if object in ("notes", "tasks"):
        key = _definition(KEY_PROPERTY, "Relay event", "string", "text", "The event that this was made of.")
        return ({**key, "hasUniqueValue": True},)
    return (
        _definition("relay_status", "Outreach status", "string", "text", "Status of the latest job."),
        _definition("relay_outcome", "Outreach outcome", "string", "textarea", "What became of it, in a sentence."),
        _definition("relay_error", "Outreach error", "string", "text", "Code of its error; empty without one."),
        _definition("relay_channel", "Outreach channel", "string", "text", "Channel of the latest job."),
        _definition("relay_updated_at", "Outreach updated", "datetime", "date", "When that happened."),
    )


def _definition(name: str, label: str, type: str, field: str, about: str) -> dict[str, Any]:
    return {"name": name, "label": label, "type": type, "fieldType": field, "groupName": GROUP, "description": about}


# --- what is written


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    properties: Mapping[str, str]
    note: Mapping[str, str]
    task: Mapping[str, str]


def _content(event: Event, subscription: Subscription, context: base.RenderContext) -> _Content:
    """What an event says, as properties of HubSpot: the relay's own, or the template's. Raises NotRenderable."""
    document = event.document()
    data = data_of(document)
    said = chat.message(event, subscription, context)
    moment = str(max(int(event.time * 1000), 0))
    properties = {
        "relay_status": word(document.get("status")),
        "relay_outcome": said.sentence,
        "relay_error": word(mapping(mapping(data.get("job")).get("error")).get("code")),
        "relay_channel": word(document.get("channel")),
        "relay_updated_at": moment,
    }
    lines = [f"<strong>{escape(label)}</strong> {escape(text)}" for label, text in said.pairs]
    if said.link:
        lines.append(f'<a href="{escape(said.link)}">{escape(said.link)}</a>')
    place = escape(chat.footnote((*said.place, *said.ids)))
    detail = "".join(f"<p>{part}</p>" for part in ("<br>".join(lines), place) if part)
    note = {"hs_note_body": f"<p>{escape(said.sentence)}.</p>{detail}", "hs_timestamp": moment}
    task = {
        "hs_task_subject": one_line(said.sentence, MAX_SUBJECT),
        "hs_task_body": detail,
        "hs_task_status": "NOT_STARTED",
        "hs_task_priority": "HIGH",
        "hs_task_type": "TODO",
        "hs_timestamp": moment,
    }
    own = _from_template(event, subscription, context)
    return _Content(
        properties=_merged({}, own["properties"]) if "properties" in own else properties,
        note=_merged(note, own.get("note", {})),
        task=_merged(task, own.get("task", {})),
    )


def _from_template(
    event: Event, subscription: Subscription, context: base.RenderContext
) -> Mapping[str, Mapping[str, str | None]]:
    """The template's `properties`, which replace the relay's, and members of `note` and `task`, which change them."""
    body = templates.own_body(event, subscription, context)
    if body is None:
        return {}
    rendered = mapping(jsontext.loads(body))
    return {part: _texts(mapping(rendered[part]), part) for part in ("properties", "note", "task") if part in rendered}


def _merged(own: Mapping[str, str], given: Mapping[str, str | None]) -> dict[str, str]:
    """The values that are given over the relay's own; None removes one."""
    return {name: value for name, value in {**own, **given}.items() if value is not None}


def _texts(given: Mapping[str, Any], part: str) -> dict[str, str | None]:
    """Values as HubSpot wants them: texts."""
    found: dict[str, str | None] = {}
    for name, value in list(given.items())[:MAX_PROPERTIES]:
        if isinstance(value, list | dict):
            pointer = f"/config/{templates.TEMPLATE}/{part}/{name}"
            detail = "a property of HubSpot is a text, a number or true or false"
            raise NotRenderable([FieldError(pointer=pointer, code="unsuitable", detail=detail)])
        text = str(value).lower() if isinstance(value, bool) else str(value)
        found[name] = None if value is None else text[:MAX_TEXT]
    return found


# --- requests


def _expected(one: str) -> bytes:
    """The answer that a preview imagines."""
    return dumps({"id": f"{{id-of-the-{one}}}"})


def _write(
    subscription: Subscription, object: str, id: str, properties: Mapping[str, str] | None, *, by_email: bool
) -> Step:
    path = f"/crm/objects/{VERSION}/{object}/{quote(id, safe='')}"
    query = ["idProperty=email"] if by_email else []
    one = object.removesuffix("s")
    if properties is None:
        url = "&".join([*query, "properties=hs_object_id"])
        return _get(subscription, f"{path}?{url}", f"find the {one}", one)
    request = _request(subscription, "PATCH", "?".join([path, *query]), {"properties": dict(properties)})
    return Step(request=request, name=f"update the {one}", expected=_expected(one))


def _read_by_key(subscription: Subscription, object: str, key: str) -> Step:
    query = f"idProperty={KEY_PROPERTY}&properties=hs_object_id"
    path = f"/crm/objects/{VERSION}/{object}/{quote(key, safe='')}?{query}"
    one = object.removesuffix("s")
    return _get(subscription, path, f"ask for the {one}", one)


def _post(subscription: Subscription, object: str, document: Mapping[str, Any]) -> Step:
    request = _request(subscription, "POST", f"/crm/objects/{VERSION}/{object}", document)
    one = object.removesuffix("s")
    return Step(request=request, name=f"create the {one}", expected=_expected(one))


def _get(subscription: Subscription, path: str, name: str, one: str = "account") -> Step:
    request = OutboundRequest(url=_base(subscription) + path, method="GET")
    return Step(request=request, name=name, expected=_expected(one))


def _request(subscription: Subscription, method: str, path: str, document: Mapping[str, Any]) -> OutboundRequest:
    headers = (("Content-Type", "application/json"),)
    return OutboundRequest(url=_base(subscription) + path, method=method, headers=headers, body=dumps(dict(document)))


def _base(subscription: Subscription) -> str:
    return subscription.sink.rstrip("/")


def _ask(step: Step, now: float, *, account: bool = False) -> Asked:
    return read_answer((yield step), now, account=account)


# --- answers


def read_answer(response: Response, now: float, *, account: bool = False) -> Answer:
    """What an answer means. `account`: it is about the account or a property, which have no ids."""
    status = response.status_code
    if response.error is not None or status is None:
        return Answer(outcome=http_outcome(response, now))
    document = _object(response.excerpt)
    if 200 <= status < 300:
        return _accepted(status, document, account=account)
    if status == 429:
        return Answer(outcome=_limited(document, response, now), certain=True)
    known = _code(document.get("category")) or document.get("status") == "error"
    if status >= 500 or not known:
        migrating = status == _MIGRATING
        outcome = http_outcome(replace(response, status_code=503) if migrating else response, now)
        return Answer(outcome=replace(outcome, reason=f"http_{status}"), certain=migrating)
    return _refused(status, document)


def _accepted(status: int, document: Mapping[str, Any], *, account: bool) -> Answer:
    errors = document.get("errors")
    if isinstance(errors, list) and errors:  # 207: carried out in part
        return _refused(400, mapping(errors[0]))
    given = document.get("id")
    id = given if isinstance(given, str) and _PLACEHOLDER.fullmatch(given) else _id(given)
    if id is None and not (account and document):
        reason = f"http_{status}, but the body is not an answer of HubSpot's API"
        return Answer(outcome=Outcome(verdict="retry", reason=reason))
    return Answer(outcome=Outcome(verdict="delivered", reason="ok"), id=id)


def _limited(document: Mapping[str, Any], response: Response, now: float) -> Outcome:
    outcome = http_outcome(response, now)
    policy = _code(document.get("policyName"))
    seconds = outcome.retry_after_seconds
    if seconds is None:
        seconds = _POLICY_SECONDS.get(policy, _LIMITED_SECONDS)
    reason = f"http_429: {policy}" if policy else "http_429"
    return Outcome(verdict="retry", reason=reason, retry_after_seconds=seconds)


def _refused(status: int, document: Mapping[str, Any]) -> Answer:
    category = _code(document.get("category"))
    reason = f"http_{status}: {category}" if category else f"http_{status}"
    if status == 401:
        detail = "give the subscription a valid token as its sinkcredential, then resume it"
        return _no("disable", f"{reason}: {detail}")
    if status == 403:
        scopes = _scopes(document)
        lacks = f"add the scope {' or '.join(scopes)} to the service key or app" if scopes else "ask an administrator"
        return _no("disable", f"{reason}: {lacks}, then resume")
    if status == 404:
        return replace(_no("dead", reason), missing=True)
    if status == _LOCKED:
        return Answer(
            outcome=Outcome(verdict="retry", reason=reason, retry_after_seconds=_LOCKED_SECONDS), certain=True
        )
    problems = _problems(document)
    existing = _EXISTING.search(str(document.get("message"))[:2_000])
    if existing or category == "OBJECT_ALREADY_EXISTS" or "CONFLICTING_UNIQUE_VALUE" in problems:
        found = existing and (existing[1] or existing[2])
        return replace(_no("dead", f"{reason}: a value is not unique"), existing=found or _EXISTS)
    if status in (408, 409):
        return Answer(outcome=Outcome(verdict="retry", reason=reason))
    unknown = [name for code, names in problems.items() for name in names if code == "PROPERTY_DOESNT_EXIST"]
    if unknown:
        return _no("disable", f"{reason}: HubSpot has no property {', '.join(unknown[:3])}: {_CREATE}")
    told = "; ".join(f"{code} {', '.join(names[:3])}".strip() for code, names in list(problems.items())[:3])
    return _no("dead", f"{reason}: {told}" if told else reason)


def _no(verdict: Any, reason: str) -> Answer:
    return Answer(outcome=Outcome(verdict=verdict, reason=reason), certain=True)


def _problems(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of properties by the code of what is wrong with them."""
    found: dict[str, list[str]] = {}
    for detail in _listed(document.get("errors")):
        code = _code(detail.get("code"))
        names = mapping(detail.get("context")).get("propertyName")
        listed = names if isinstance(names, list) else [names]
        named = [name for name in listed if isinstance(name, str) and _NAME.fullmatch(name)]
        if code:
            found.setdefault(code, []).extend(named)
    for code, name in _INVALID.findall(str(document.get("message"))[:20_000]):
        found.setdefault(code, []).append(name)
    return {code: list(dict.fromkeys(names)) for code, names in found.items()}


def _scopes(document: Mapping[str, Any]) -> list[str]:
    """The scopes of which one is missing; those that the relay asks for first, and at most three."""
    contexts = [document.get("context"), *(detail.get("context") for detail in _listed(document.get("errors")))]
    found: dict[str, None] = {}
    for context in contexts:
        for name in ("requiredGranularScopes", "requiredScopes", "missingScopes"):
            listed = mapping(context).get(name)
            for scope in listed if isinstance(listed, list) else ():
                if isinstance(scope, str) and _SCOPE.fullmatch(scope):
                    found[scope] = None
    own = [scope for scope in found if scope in _SCOPES.values()]
    return own or list(found)[:3]


def _unmatched(subscription: Subscription, why: str) -> Outcome:
    """The outcome of an event that is about nobody in HubSpot."""
    policy = subscription.options.get(UNMATCHED, "skip")
    return Outcome(verdict="delivered" if policy == "skip" else "dead", reason=f"unmatched: {why}")


def _uncertain(object: str) -> Outcome:
    """The outcome if HubSpot cannot tell whether a note or a task was made."""
    reason = f"uncertain: a {object.removesuffix('s')} may have been made, and {KEY_PROPERTY} has no unique value"
    return Outcome(verdict="dead", reason=reason)


def _kept(memory: Memory) -> dict[str, str]:
    """What was remembered, as far as it makes sense."""
    return {
        object: value
        for object, value in memory.items()
        if object in _SCOPES and isinstance(value, str) and (_ID.fullmatch(value) or value == _UNKNOWN)
    }


def _records(subscription: Subscription) -> Sequence[Any]:
    """What is written."""
    given = subscription.options.get(RECORD, RECORDS)
    return given if isinstance(given, list | tuple) else (given,)


def _own_errors(subscription: Subscription) -> Iterable[FieldError]:
    parts = split_url(subscription.sink)
    options = subscription.options
    credential = subscription.credential
    records = _records(subscription)
    template = options.get(templates.TEMPLATE)
    example = '{"credentialtype": "ACCESSTOKEN", "accesstoken": "pat-…"}'
    wrong_record = not records or not all(isinstance(one, str) and one in RECORDS for one in records)
    wrong_template = template is not None and not (
        isinstance(template, Mapping) and template and template.keys() <= {"properties", "note", "task"}
    )
    found = (
        (
            parts is None or bool(parts.path.strip("/") or parts.query),
            ("/sink", "sink_unsuitable", "use the base URL of HubSpot's API: https://api.hubapi.com"),
        ),
        (
            subscription.handshake != "off",
            ("/config/handshake", "handshake_unsuitable", "HubSpot answers no handshake: the token proves consent"),
        ),
        (
            credential is None or credential.type not in ("ACCESSTOKEN", "REFRESHTOKEN"),
            ("/sinkcredential", "missing", f"the token of a service key or a private app is needed: {example}"),
        ),
        (wrong_record, (f"/config/{RECORD}", "invalid", f"one or a list of {', '.join(RECORDS)} is expected")),
        (
            options.get(UNMATCHED, "skip") not in POLICIES,
            (f"/config/{UNMATCHED}", "invalid", f"one of {', '.join(POLICIES)} is expected"),
        ),
        (
            wrong_template,
            (f"/config/{templates.TEMPLATE}", "invalid", "an object with properties, note and task is expected"),
        ),
    )
    return [FieldError(pointer=at, code=code, detail=detail) for wrong, (at, code, detail) in found if wrong]


def _id(value: object) -> str | None:
    """An id of HubSpot, which is a number."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**20:
        return str(value)
    text = value if isinstance(value, str) else ""
    return text if _ID.fullmatch(text) else None


def _code(value: object) -> str:
    return value if isinstance(value, str) and _CODE.fullmatch(value) else ""


def _listed(value: object) -> list[Mapping[str, Any]]:
    return [mapping(one) for one in value[:20]] if isinstance(value, list) else []


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        value = jsontext.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
