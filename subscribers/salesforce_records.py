"""An event as fields of a Salesforce record, and whom it is about.

The lengths are those of `deploy/salesforce`. Texts are the neutral words that chats show: the upstream's item is not
read, so a record holds no text of a message.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from relay.clock import to_rfc3339
from relay.core import jsontext
from relay.core.events import Event
from relay.core.subscription import Subscription
from subscribers import templates
from subscribers.base import RenderContext
from subscribers.chat import fitted
from subscribers.job_wording import job_event_kind, metadata_of
from subscribers.salesforce_answers import ID
from subscribers.wording import advice, facts, ids, link, sentence
from subscribers.words import data_of, mapping, one_line

JOB_EVENT = "Job_Event__c"
TASK = "Task"

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
_LINKS: Mapping[str, Mapping[str, str]] = {
    TASK: {"003": "WhoId", "00Q": "WhoId", "006": "WhatId"},
    "": {"003": "Contact__c", "00Q": "Lead__c", "006": "Opportunity__c"},
}
"""The field that holds the id of a Contact, a Lead and an Opportunity, by the beginning of the id."""
_PEOPLE, _DEALS = ("003", "00Q"), ("006",)
_EMAIL = re.compile(r"[^\s@\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,64}@[^\s@\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,79}")
_ENDED_WELL = ("succeeded", "cancelled")
_BAD = ("failed", "not_found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Meant:
    """Whom and what an event is about, as far as its metadata say: ids of Salesforce, and an e-mail address."""

    person: str | None
    deal: str | None
    email: str | None

    @property
    def nobody(self) -> bool:
        """True if there is nothing to link a record to."""
        return self.person is None and self.deal is None and self.email is None


def meant_by(event: Event) -> Meant:
    """Whom an event is about. Ids of other CRMs are no ids of Salesforce, and are ignored."""
    metadata = metadata_of(event.document())
    email = metadata.get("email")
    is_email = isinstance(email, str) and len(email) <= MAX_EMAIL_CHARACTERS and _EMAIL.fullmatch(email) is not None
    return Meant(
        person=_id(metadata.get("contact_id"), _PEOPLE),
        deal=_id(metadata.get("deal_id"), _DEALS),
        email=email if is_email else None,
    )


def links(object: str, *found: str | None) -> dict[str, str]:
    """The fields that link a record of an object to these ids."""
    names = _LINKS.get(object, _LINKS[""])
    return {names[id[:3]]: id for id in found if id is not None}


def fields(event: Event, subscription: Subscription, context: RenderContext, object: str) -> dict[str, Any]:
    """The fields of a record but for its links: the defaults, then those of `config.template`, where null leaves a
    default out. Raises NotRenderable."""
    found = _task(event, context) if object == TASK else _job_event(event, context)
    own = templates.own_body(event, subscription, context)
    if own is None:
        return found
    given: dict[str, Any] = jsontext.loads(own)
    return {name: value for name, value in {**found, **given}.items() if value is not None}


def _job_event(event: Event, context: RenderContext) -> dict[str, Any]:
    document = event.document()
    data = data_of(document)
    kind = job_event_kind(event.type)
    error = mapping(mapping(data.get("job")).get("error"))
    found: dict[str, Any] = {name: _text(document.get(source), size) for name, (source, size) in _TEXTS.items()}
    found |= {
        "Status__c": _text(kind or document.get("status"), 40),
        "Sentence__c": fitted(sentence(event, context), 255, str),
        "Occurred_At__c": to_rfc3339(event.time),
        "Sequence__c": event.sequence,
        "Error_Code__c": _text(error.get("code") or data.get("code"), 80),
        "Advice__c": fitted("\n".join(f"{label}: {text}" for label, text in advice(event)), MAX_DESCRIPTION, str),
        "Request_Id__c": _text(data.get("request_id"), 80),
        "Link__c": _short(link(event, context), 255),
    }
    return {name: value for name, value in found.items() if value not in (None, "")}


def _task(event: Event, context: RenderContext) -> dict[str, Any]:
    kind = job_event_kind(event.type)
    lines = [f"{label}: {text}" for label, text in (*advice(event), *facts(event, context), *ids(event))]
    url = link(event, context)
    return {
        "Subject": fitted(sentence(event, context), 255, str),
        "Description": fitted("\n".join([*lines, *([url] if url else [])]), MAX_DESCRIPTION, str),
        "Status": "Completed" if kind in _ENDED_WELL else "Not Started",
        "Priority": "High" if kind in _BAD else "Normal",
        "ActivityDate": to_rfc3339(event.time)[:10],
    }


def _text(value: object, limit: int) -> str:
    return fitted(one_line(value, limit), limit, str)


def _short(value: str | None, limit: int) -> str | None:
    """A URL, if it fits: half of one leads nowhere."""
    return value if value is not None and len(value) <= limit else None


def _id(value: object, prefixes: tuple[str, ...]) -> str | None:
    is_id = isinstance(value, str) and ID.fullmatch(value) is not None
    return value if is_id and isinstance(value, str) and value[:3] in prefixes else None
