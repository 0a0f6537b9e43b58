"""An event as fields of a Salesforce record, and its person.

The lengths are those of `deploy/salesforce`. Texts are the neutral words that chats show: the upstream's item is not
read, so a record holds no text of a message.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from relay.clock import to_rfc3339
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from subscribers.base import RenderContext
from subscribers.common import chat, crm, templates
from subscribers.common.chat import fitted
from subscribers.common.options import CrmOptions
from subscribers.wording.jobs import job_kind
from subscribers.wording.text import data_of, mapping, one_line

JOB_EVENT = "Job_Event__c"
TASK = "Task"
CONTACT, LEAD, OPPORTUNITY = "Contact", "Lead", "Opportunity"

MAX_EMAIL_CHARACTERS = 80
"""Longest value of a field of type Email."""
MAX_DESCRIPTION = 4000
_TEXTS: Mapping[str, tuple[str, int]] = {
    "Job_Id__c": ("subject", 255),
    "Event_Type__c": ("type", 255),
    "Channel__c": ("channel", 40),
    "Action__c": ("action", 80),
    "Account__c": ("account", 80),
    "Group__c": ("group", 255),
}
"""Fields that show an attribute of the event, and their lengths."""
_OTHERS = (
    *("Status__c", "Sentence__c", "Occurred_At__c", "Sequence__c", "Error_Code__c", "Details__c", "Request_Id__c"),
    "Link__c",
)
LINKS: Mapping[str, Mapping[str, str]] = {
    JOB_EVENT: {CONTACT: "Contact__c", LEAD: "Lead__c", OPPORTUNITY: "Opportunity__c"},
    TASK: {CONTACT: "WhoId", LEAD: "WhoId", OPPORTUNITY: "WhatId"},
}
"""The fields that link a record, by the object that they link it to. Other objects have those of the first."""
PREFIXES = {CONTACT: "003", LEAD: "00Q", OPPORTUNITY: "006"}
"""The beginnings of ids, by their object."""
_OBJECTS = {prefix: object for object, prefix in PREFIXES.items()}
_IDS = {
    "deal_id": re.compile(r"006[A-Za-z0-9]{12}(?:[A-Za-z0-9]{3})?"),
    "contact_id": re.compile(r"(?:003|00Q)[A-Za-z0-9]{12}(?:[A-Za-z0-9]{3})?"),
    "lead_id": re.compile(r"00Q[A-Za-z0-9]{12}(?:[A-Za-z0-9]{3})?"),
}
"""Fields of the metadata, and the form of an id of Salesforce there. Ids of other CRMs are ignored."""
_ENDED_WELL = ("succeeded", "cancelled")
_BAD = ("failed", "not_found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Meant:
    """The person and the deal of an event.

    ids     of records, by their object
    email   and `phones`, the ways to write one number: by these a person is found
    """

    ids: Mapping[str, str] = field(repr=False)
    email: str | None = field(repr=False)
    phones: tuple[str, ...] = field(repr=False)

    @property
    def person_known(self) -> bool:
        """True if the person needs no look-up."""
        return CONTACT in self.ids or LEAD in self.ids

    @property
    def searched(self) -> bool:
        """True if a person can be searched by an address or a number."""
        return self.email is not None or bool(self.phones)


def meant_by(event: Event, context: RenderContext) -> Meant:
    """See `Meant`."""
    who = crm.identity(event, context, _IDS)
    ids: dict[str, str] = {}
    for id in map(str, who.ids.values()):
        object = _OBJECTS[id[:3]]
        if object == OPPORTUNITY or not (CONTACT in ids or LEAD in ids):
            ids[object] = id
    email = who.email if who.email is not None and len(who.email) <= MAX_EMAIL_CHARACTERS else None
    return Meant(ids=ids, email=email, phones=() if who.phone is None else phone_forms(who.phone))


def phone_forms(phone: str) -> tuple[str, ...]:
    """The ways in which Salesforce may hold a phone number: as it was typed, and numbers of North America, typed
    without a plus, in a form of their own."""
    if crm.PLACEHOLDER.fullmatch(phone):
        return (phone,)
    digits = re.sub(r"[^0-9]", "", phone)
    national = digits.removeprefix("1") if len(digits) == 11 else digits
    formatted = f"({national[:3]}) {national[3:6]}-{national[6:]}"
    american = (formatted,) if len(national) == 10 and (phone[0] != "+" or digits[0] == "1") else ()
    return tuple(dict.fromkeys((phone, f"+{digits}", digits, *american)))


def links(object: str, ids: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The fields that link a record: to all of these ids and, in case one of them is refused, to each alone. A Task of
    a lead can have no deal, so the deal is linked."""
    names = LINKS.get(object, LINKS[JOB_EVENT])
    linked = {names[one]: id for one, id in ids.items()}
    if object == TASK and LEAD in ids and len(ids) > 1:
        del linked["WhoId"]
    if linked:
        yield linked
    if len(ids) > 1:
        yield from ({names[one]: ids[one]} for one in sorted(ids, reverse=True) if {names[one]: ids[one]} != linked)


def names_of(object: str) -> tuple[str, ...]:
    """The fields that records of an object may have by default, without the external id."""
    if object == TASK:
        return ("Subject", "Description", "Status", "Priority", "ActivityDate", "WhoId", "WhatId")
    return (*_TEXTS, *_OTHERS, *LINKS[JOB_EVENT].values())


def fields(event: Event, subscription: Subscription, context: RenderContext, object: str) -> dict[str, Any]:
    """The fields of a record but for its links: the defaults, then those of `config.template`, where null leaves a
    default out. Raises NotRenderable."""
    message = crm.message(event, subscription, context)
    found = _task(event, message) if object == TASK else _job_event(event, message)
    return crm.merged(found, templates.own_fields(event, CrmOptions.of(subscription), context, ()))


def _job_event(event: Event, message: chat.Message) -> dict[str, Any]:
    document = event.document()
    data = data_of(document)
    error = mapping(data.get("problem"))
    found: dict[str, Any] = {name: _text(document.get(source), size) for name, (source, size) in _TEXTS.items()}
    found |= {
        "Status__c": _text(job_kind(event) or document.get("status"), 40),
        "Sentence__c": fitted(message.sentence, 255, str),
        "Occurred_At__c": to_rfc3339(event.time),
        "Sequence__c": event.sequence,
        "Error_Code__c": _text(error.get("code") or data.get("code"), 80),
        "Details__c": fitted("\n".join(f"{label}: {text}" for label, text in message.pairs), MAX_DESCRIPTION, str),
        "Request_Id__c": _text(data.get("request_id"), 80),
        "Link__c": _short(message.link and message.link.url, 255),
    }
    return {name: value for name, value in found.items() if value not in (None, "")}


def _task(event: Event, message: chat.Message) -> dict[str, Any]:
    kind = job_kind(event)
    lines = [f"{label}: {text}" for label, text in (*message.pairs, *message.place, *message.ids)]
    return {
        "Subject": fitted(message.sentence, 255, str),
        "Description": fitted("\n".join([*lines, *([message.link.url] if message.link else [])]), MAX_DESCRIPTION, str),
        "Status": "Completed" if kind in _ENDED_WELL else "Not Started",
        "Priority": "High" if kind in _BAD else "Normal",
        "ActivityDate": to_rfc3339(event.time)[:10],
    }


def _text(value: object, limit: int) -> str:
    return fitted(one_line(value, limit), limit, str)


def _short(value: str | None, limit: int) -> str | None:
    """A URL, if it fits: half of one leads nowhere."""
    return value if value is not None and len(value) <= limit else None
