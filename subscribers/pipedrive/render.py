"""Requests to Pipedrive: the record of an event, and the lists of what a target has.

Sources: Pipedrive's OpenAPI documents of API v1 (notes) and v2 (activities), and its v2 migration guide. There is no v2
of notes.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import quote, urlencode

from relay.clock import from_rfc3339, to_rfc3339
from relay.core.deliveries.credentials import TOKEN_HERE
from relay.core.deliveries.delivery import OutboundRequest
from relay.core.deliveries.ledger import Entry
from relay.core.events.event import Event
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import Subscription
from subscribers.base import RenderContext
from subscribers.common import crm, templates
from subscribers.pipedrive.answers import Answer, id_in
from subscribers.pipedrive.options import PipedriveOptions
from subscribers.wording.jobs import job_kind

NOTE, ACTIVITY, PERSON = "note", "activity", "person"
PATHS = {NOTE: "/v1/notes", ACTIVITY: "/api/v2/activities", PERSON: "/api/v2/persons"}
WRITES = {NOTE: "deals:full or contacts:full", ACTIVITY: "activities:full", PERSON: "contacts:full"}
"""Scopes that an app needs to add one."""
READS = {NOTE: "deals:read or contacts:read", ACTIVITY: "activities:read", PERSON: "contacts:read"}
FIELDS: Mapping[str, frozenset[str]] = {
    NOTE: frozenset(("content", *(f"pinned_to_{kind}_flag" for kind in ("deal", "lead", "person")))),
    ACTIVITY: frozenset(
        (
            *("subject", "type", "note", "owner_id", "due_date", "due_time", "duration", "done", "busy", "priority"),
            "public_description",
        )
    ),
}
"""What a template may set. What a record is attached to is not among it."""
MAX_RECORD_BYTES = 20_000
"""Of the content of a note, and of the note of an activity. Pipedrive takes 100 KB, but the relay reads 64 KiB of a
list, in which a character may take six bytes, and finds a record by its last line."""
MAX_SUBJECT = 255
EARLIER_SECONDS = 86_400.0
"""Records that are older than the intention by this much end the search: clocks differ, and time zones."""
_HTML = ("content", "note")

Target = dict[str, str | int]


def record_of(subscription: Subscription) -> str:
    """What a subscription writes."""
    return PipedriveOptions.of(subscription).record or NOTE


def request(
    subscription: Subscription, path: str, document: Mapping[str, Any] | None = None, *, method: str = "POST"
) -> OutboundRequest:
    """A personal token has a header of its own; the tokens of apps are bearer tokens."""
    credential = subscription.credential
    own = credential is not None and credential.type == "ACCESSTOKEN"
    headers = (("Accept", "application/json"), *((("x-api-token", TOKEN_HERE),) if own else ()))
    if document is not None:
        headers = (("Content-Type", "application/json"), *headers)
    body = b"" if document is None else dumps(dict(document))
    return OutboundRequest(url=subscription.sink.rstrip("/") + path, method=method, headers=headers, body=body)


def write_request(event: Event, subscription: Subscription, context: RenderContext, target: Target) -> OutboundRequest:
    """The request that writes the record. Raises NotRenderable."""
    record = record_of(subscription)
    given = templates.own_fields(event, PipedriveOptions.of(subscription), context, _HTML)
    if record == NOTE:
        fields = crm.merged({"content": crm.html_of(event, subscription, context)}, given)
        fields["content"] = crm.with_key(str(fields.get("content", "")), event, subscription, MAX_RECORD_BYTES)
        return request(subscription, PATHS[NOTE], {**fields, **target})
    defaults = {
        "subject": crm.subject_of(event, subscription, context, MAX_SUBJECT),
        "type": "task",
        "due_date": to_rfc3339(event.time)[:10],
        "done": job_kind(event) not in ("failed", "not_found"),
        "note": crm.html_of(event, subscription, context),
    }
    fields = crm.merged(defaults, given)
    fields["note"] = crm.with_key(str(fields.get("note", "")), event, subscription, MAX_RECORD_BYTES)
    person = target.get("person_id")  # which is read-only in v2
    place = target if person is None else {"participants": [{"person_id": person, "primary": True}]}
    return request(subscription, PATHS[ACTIVITY], {**fields, **place})


# --- lists of records, the newest first


def list_path(entry: Entry, place: Mapping[str, str | int], limit: int) -> str:
    """A page of what the target of an entry has."""
    order = {"sort": "id DESC"} if entry.record == NOTE else {"sort_by": "id", "sort_direction": "desc"}
    return f"{PATHS[entry.record]}?{urlencode({**entry.target, **order, 'limit': limit, **place}, quote_via=quote)}"


def records_in(answer: Answer) -> Sequence[Any] | None:
    """The records of a page; None if it is no page. An empty list of v1 is null."""
    found = [] if answer.data is None else answer.data
    return found if isinstance(found, list) else None


def next_page(entry: Entry, place: Mapping[str, str | int], answer: Answer, limit: int) -> dict[str, str | int] | None:
    """Where the page after one of at most `limit` records begins: notes are paged by number, others by a cursor.
    Empty: this is the last page, by the answer or because the page is not full. None: unknown."""
    more, records = answer.more if isinstance(answer.more, Mapping) else {}, records_in(answer) or ()
    cursor, paging = more.get("next_cursor"), more.get("pagination")
    has_more = paging.get("more_items_in_collection") if isinstance(paging, Mapping) else None
    if cursor is None and has_more is not True:
        is_end = "next_cursor" in more or has_more is False or len(records) < limit
        return {} if is_end else None
    if entry.record != NOTE:
        return {"cursor": cursor} if isinstance(cursor, str) and 0 < len(cursor) <= 1000 else None
    return {"start": int(place.get("start", 0)) + len(records)} if records and has_more is True else None


def is_past(records: Sequence[Any], before: int | None, at: float) -> bool:
    """True if these, and so all that follow, were added well before a time. They prove it by their order: each id is
    lower than the one before. `before`: the last id of the page before."""
    found = [id_in(one) for one in records]
    ids = [id for id in (before, *found) if isinstance(id, int)]
    descend = all(one > other for one, other in pairwise(ids))
    known = all(isinstance(id, int) for id in found) and len(ids) > 1
    return known and descend and all(_is_earlier(one, at) for one in records)


def _is_earlier(record: Mapping[str, Any], at: float) -> bool:
    """v1 writes times like `2026-05-20 10:00:00`, in UTC."""
    text = record.get("add_time")
    if not isinstance(text, str):
        return False
    try:
        return from_rfc3339(text if text.endswith("Z") else f"{text}Z") < at - EARLIER_SECONDS
    except ValueError:
        return False
