"""Requests to Pipedrive, and its lists.

Sources: Pipedrive's OpenAPI documents of API v1 (notes, leads, users) and v2 (activities, deals, persons), and its v2
migration guide. There is no v2 of notes.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from urllib.parse import quote, urlencode

from relay.core.deliveries.credentials import TOKEN_HERE
from relay.core.deliveries.delivery import Response
from relay.core.deliveries.dialogue import Memory, Step
from relay.core.deliveries.ledger import Entry
from relay.core.subscriptions.subscription import Subscription
from subscribers.common import crm
from subscribers.pipedrive.answers import Answer, id_in, read_answer
from subscribers.pipedrive.options import ACTIVITY, NOTE
from subscribers.wording.text import moment_of

PERSON = "person"
PATHS = {NOTE: "/v1/notes", ACTIVITY: "/api/v2/activities", PERSON: "/api/v2/persons"}
WRITES = {NOTE: "deals:full or contacts:full", ACTIVITY: "activities:full", PERSON: "contacts:full"}
"""Scopes that an app needs to add one."""
READS = {NOTE: "deals:read or contacts:read", ACTIVITY: "activities:read", PERSON: "contacts:read"}
EARLIER_SECONDS = 86_400.0
"""Records that are older than the intention by this much end the search: clocks differ, and time zones."""

Asked = Generator[Step, Response, Answer]


@dataclass(frozen=True, slots=True)
class Company:
    """The requests to a company."""

    subscription: Subscription
    now: float

    def read(self, path: str, name: str, scope: str, expected: Any) -> Asked:
        """Reads something. `scope`: needed by an app for this request."""
        return read_answer((yield self.step(path, name, expected)), self.now, scope=scope)

    def add(
        self, record: str, document: Mapping[str, Any], *, remember: Memory | None = None, share: Memory | None = None
    ) -> Asked:
        """Adds a note, an activity or a person."""
        step = self.step(PATHS[record], record, {"id": f"{{{record}}}"}, document, remember=remember, share=share)
        return read_answer((yield step), self.now, scope=WRITES[record])

    def step(self, path: str, name: str, expected: Any, document: Mapping[str, Any] | None = None, **more: Any) -> Step:
        """A request. A personal token has a header of its own; the tokens of apps are bearer tokens."""
        credential = self.subscription.credential
        own = credential is not None and credential.type == "ACCESSTOKEN"
        headers = (("Accept", "application/json"), *((("x-api-token", TOKEN_HERE),) if own else ()))
        answer = {"success": True, "data": expected}
        return crm.step(self.subscription, path, name, answer, document, headers=headers, **more)


# --- lists of records, the newest first


def list_path(entry: Entry, place: Mapping[str, str | int], limit: int) -> str:
    """A page of the records of the target of an entry."""
    order = {"sort": "id DESC"} if entry.record == NOTE else {"sort_by": "id", "sort_direction": "desc"}
    return f"{PATHS[entry.record]}?{urlencode({**entry.target, **order, 'limit': limit, **place}, quote_via=quote)}"


def records_in(answer: Answer) -> Sequence[Any] | None:
    """The records of a page; None if it is no page. An empty list of v1 is null."""
    found = [] if answer.data is None else answer.data
    return found if isinstance(found, list) else None


def next_page(entry: Entry, place: Mapping[str, str | int], answer: Answer, limit: int) -> dict[str, str | int] | None:
    """The beginning of the page after one of at most `limit` records: notes are paged by number, others by a cursor.
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
    moment = moment_of(f"{text.removesuffix('Z')}Z") if isinstance(text, str) else None
    return moment is not None and moment < at - EARLIER_SECONDS
