"""The content for HubSpot: properties of the contact and the deal, a note, a task; and the definitions of the relay's
properties.

Sources: HubSpot's guides to properties, notes and tasks.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from relay.core.events.event import Event
from relay.core.jsontext import loads
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError, NotRenderable
from subscribers.base import RenderContext
from subscribers.common import crm, templates
from subscribers.hubspot.options import NOTE, PROPERTIES, RECORDS, TASK, HubSpotOptions
from subscribers.wording.jobs import job_kind, metadata_of
from subscribers.wording.text import data_of, mapping, word

KEY_PROPERTY = "relay_event_id"
"""Property with the relay's key of a note or task. Its values are unique if HubSpot allows that."""
UPDATED_AT = "relay_updated_at"
BODIES = {"notes": "hs_note_body", "tasks": "hs_task_body"}
"""The property with the HTML body, which ends with the key."""
MAX_BODY_BYTES = 30_000
"""HubSpot accepts 65,536 characters. The relay reads 65,536 bytes of an answer, which has the body with escapes."""
MAX_TEXT = 65_536
MAX_SUBJECT = 200
MAX_SENTENCE = 1_000
MAX_PROPERTIES = 50

_NOTED = ("succeeded", "failed", "cancelled", "overdue", "not_found")
_TASKED = ("failed", "overdue", "not_found")
_GROUP = "revor_relay"
_OWNER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_OWNER_ID = "hubspot_owner_id"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}", re.ASCII)


def made_of(event: Event, subscription: Subscription) -> tuple[str, ...]:
    """The types of object created for an event: notes, tasks."""
    kind, records = job_kind(event), HubSpotOptions.of(subscription).of_records
    found = (("notes", NOTE, event.published or kind in _NOTED), ("tasks", TASK, kind in _TASKED))
    return tuple(object for object, record, made in found if record in records and made)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The content of an event as properties in HubSpot. `properties` None: none are set; `made`: of new objects."""

    properties: Mapping[str, str] | None = field(repr=False)
    made: Mapping[str, Mapping[str, str]] = field(repr=False)


def content_of(event: Event, subscription: Subscription, context: RenderContext) -> Content:
    """The content of an event: the relay's own properties, overridden by the template's. Raises NotRenderable."""
    given = _from_template(event, subscription, context)
    properties = None
    if PROPERTIES in HubSpotOptions.of(subscription).of_records:
        own = _properties(event, subscription, context) if PROPERTIES not in given else {}
        properties = _texts(crm.merged(own, given.get(PROPERTIES, {})), PROPERTIES)
    made = {}
    for object in made_of(event, subscription):
        part = object.removesuffix("s")
        defaults = (_note if part == NOTE else _task)(event, subscription, context)
        values = _texts(crm.merged({**defaults, **_owner(event)}, given.get(part, {})), part)
        body = crm.with_key(values.get(BODIES[object], ""), event, subscription, MAX_BODY_BYTES)
        made[object] = {**values, BODIES[object]: body}
    return Content(properties=properties, made=made)


def _properties(event: Event, subscription: Subscription, context: RenderContext) -> dict[str, str]:
    document = event.document()
    return {
        "relay_status": word(document.get("status")),
        "relay_outcome": crm.subject_of(event, subscription, context, MAX_SENTENCE),
        "relay_error": word(mapping(data_of(document).get("problem")).get("code")),
        "relay_channel": word(document.get("channel")),
        UPDATED_AT: _moment(event),
    }


def _note(event: Event, subscription: Subscription, context: RenderContext) -> dict[str, str]:
    return {BODIES["notes"]: crm.html_of(event, subscription, context), "hs_timestamp": _moment(event)}


def _task(event: Event, subscription: Subscription, context: RenderContext) -> dict[str, str]:
    lines = crm.html_of(event, subscription, context).split("<br>")
    return {
        "hs_task_subject": crm.subject_of(event, subscription, context, MAX_SUBJECT),
        BODIES["tasks"]: "<br>".join(lines[1:]),  # the subject is the first line
        "hs_task_status": "NOT_STARTED",
        "hs_task_priority": "HIGH",
        "hs_task_type": "TODO",
        "hs_timestamp": _moment(event),
    }


def _owner(event: Event) -> dict[str, str]:
    """The owner of a note or a task from the job's metadata: a task without an owner is in no queue."""
    id = metadata_of(event.document()).get(_OWNER_ID)
    text = str(id) if isinstance(id, int | str) and not isinstance(id, bool) else ""
    return {_OWNER_ID: text} if _OWNER.fullmatch(text) else {}


def _moment(event: Event) -> str:
    """The event's time, in epoch milliseconds."""
    return str(max(int(event.time * 1000), 0))


def _from_template(event: Event, subscription: Subscription, context: RenderContext) -> Mapping[str, Mapping[str, Any]]:
    """The template's `properties`, which replace the relay's, and the members of `note` and `task`, which override
    single properties. Values of the event are escaped in HTML properties."""
    options = HubSpotOptions.of(subscription)
    template, strict, html = options.template, options.strict is True, set(BODIES.values())
    if template is None:
        return {}
    plain = {part: {name: one for name, one in fields.items() if name not in html} for part, fields in template.items()}
    marked = {part: {name: one for name, one in fields.items() if name in html} for part, fields in template.items()}
    found = loads(templates.render(plain, event, context, strict=strict))
    escaped = loads(templates.render(marked, event, context, strict=strict, escape=templates.HTML))
    return {part: {**fields, **escaped[part]} for part, fields in found.items()}


def _texts(values: Mapping[str, Any], part: str) -> dict[str, str]:
    """Converts values to texts, as HubSpot requires."""
    found = {}
    for name, value in values.items():
        if isinstance(value, list | dict):
            detail = "a property of HubSpot is a text, a number or true or false"
            at = f"{templates.POINTER}/{part}/{name}"
            raise NotRenderable([FieldError(pointer=at, code="unsuitable", detail=detail)])
        text = str(value).lower() if isinstance(value, bool) else str(value)
        found[name] = text if name in BODIES.values() else text[:MAX_TEXT]
    return found


# --- checks, and the definitions of properties


def record_errors(subscription: Subscription) -> list[FieldError]:
    """An error for each mistake in the template."""
    errors = crm.unknown_names(subscription, RECORDS)
    for part, fields in (HubSpotOptions.of(subscription).template or {}).items():
        pointer = f"{templates.POINTER}/{part}"
        if part in RECORDS and (not isinstance(fields, Mapping) or len(fields) > MAX_PROPERTIES):
            detail = f"an object of at most {MAX_PROPERTIES} properties is needed"
            errors.append(FieldError(pointer=pointer, code="invalid", detail=detail))
        elif part in RECORDS:
            errors += crm.field_errors(pointer, fields, (KEY_PROPERTY,), _NAME, "jobtitle")
    return errors + templates.template_errors(HubSpotOptions.of(subscription))


def needed_properties(subscription: Subscription) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Definitions of the properties that deliveries set, by type of object."""
    records, template = HubSpotOptions.of(subscription).of_records, HubSpotOptions.of(subscription).template or {}
    found: dict[str, Sequence[Mapping[str, Any]]] = {}
    if PROPERTIES in records and PROPERTIES not in template:
        found |= {"contacts": OWN_PROPERTIES, "deals": OWN_PROPERTIES}
    found |= {object: (KEY,) for object, record in (("notes", NOTE), ("tasks", TASK)) if record in records}
    return found


def _definition(name: str, label: str, type: str, field: str, about: str) -> dict[str, Any]:
    return {"name": name, "label": label, "type": type, "fieldType": field, "groupName": _GROUP, "description": about}


GROUP: Mapping[str, Any] = {"name": _GROUP, "label": "Revor Relay"}
"""The group of the properties that the relay makes."""
OWN_PROPERTIES = (
    _definition("relay_status", "Outreach status", "string", "text", "Status of the latest job."),
    _definition("relay_outcome", "Outreach outcome", "string", "textarea", "What became of it, in a sentence."),
    _definition("relay_error", "Outreach error", "string", "text", "Code of its error; empty without one."),
    _definition("relay_channel", "Outreach channel", "string", "text", "Channel of the latest job."),
    _definition(UPDATED_AT, "Outreach updated", "datetime", "date", "When that happened."),
)
KEY: Mapping[str, Any] = {
    **_definition(KEY_PROPERTY, "Relay event", "string", "text", "The event that this was made of."),
    "hasUniqueValue": True,
}
