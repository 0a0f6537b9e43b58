"""The records of events in Pipedrive: a note, or an activity.

Sources: Pipedrive's OpenAPI documents of API v1 (notes) and v2 (activities).
"""

from collections.abc import Mapping
from typing import Any

from relay.clock import to_rfc3339
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from subscribers.base import RenderContext
from subscribers.common import crm, templates
from subscribers.pipedrive.options import NOTE, PipedriveOptions, record_of
from subscribers.wording.jobs import job_kind

MAX_RECORD_BYTES = 20_000
"""Of the content of a note, and of the note of an activity. Pipedrive takes 100 KB, but the relay reads 64 KiB of a
list, in which a character may take six bytes, and finds a record by its last line."""
MAX_SUBJECT = 255
_HTML = ("content", "note")

Target = dict[str, str | int]


def content_of(event: Event, subscription: Subscription, context: RenderContext, target: Target) -> dict[str, Any]:
    """The record of an event. Raises NotRenderable."""
    given = templates.own_fields(event, PipedriveOptions.of(subscription), context, _HTML)
    body, markup = "content", crm.html_of(event, subscription, context)
    defaults: dict[str, Any] = {}
    place: Mapping[str, Any] = target
    if record_of(subscription) != NOTE:
        body, person = "note", target.get("person_id")
        if person is not None:  # which is read-only in v2
            place = {"participants": [{"person_id": person, "primary": True}]}
        defaults = {
            "subject": crm.subject_of(event, subscription, context, MAX_SUBJECT),
            "type": "task",
            "due_date": to_rfc3339(event.time)[:10],
            "done": job_kind(event) not in ("failed", "not_found"),
        }
    fields = crm.merged({**defaults, body: markup}, given)
    with_key = crm.with_key(str(fields.get(body, "")), event, subscription, MAX_RECORD_BYTES)
    return {**fields, body: with_key, **place}
