"""Pipedrive: a note or an activity on the deal, person or lead that an event is about, written once.

Sources: Pipedrive's OpenAPI documents of API v1 (notes, leads) and v2 (activities, deals, persons), its pages on
responses, status codes, rate limiting and scopes, and the v2 migration guide. An answer is as untrusted as any.
"""

import math
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from relay.clock import from_rfc3339, to_rfc3339
from relay.core import ledger
from relay.core.credentials import TOKEN_HERE
from relay.core.delivery import OutboundRequest, Outcome, Response
from relay.core.dialogue import Ended, Memory, Step, Steps
from relay.core.events import Event
from relay.core.jsontext import dumps
from relay.core.ledger import Entry
from relay.core.retry import http_outcome
from relay.core.subscription import Incidents, Subscription
from relay.errors import FieldError
from relay.redaction import host_of, redacted_url, split_url
from subscribers import base, crm, templates
from subscribers.base import Dialogue, RenderContext
from subscribers.job_wording import job_event_kind

NOTE, ACTIVITY, PERSON = "note", "activity", "person"
DEAL, LEAD = "deal", "lead"
MAX_RECORD_BYTES = 100_000
"""Of the content of a note, and of the note of an activity."""
MAX_SUBJECT = 255
PAGES = (25, 5, 1)
"""Records per page. An answer is read up to 64 KiB, and one note may have 100 KB: then a smaller page is asked for."""
READ_BYTES = 65_536
"""So much of an answer is read."""
MAX_QUESTIONS = 12
"""Maximum number of pages that are read to find a record."""
EARLIER_SECONDS = 86_400.0
"""A page of records that are older than the intention by this much ends the search: clocks differ, and time zones."""
BUDGET_PAUSE_SECONDS = 3600.0
"""Pause once the daily budget is used up: it begins anew at midnight of a time zone that is not documented."""
BURST_PAUSE_SECONDS = 2.0
LIMITED_PAUSE_SECONDS = 30.0
BLOCKED_PAUSE_SECONDS = 600.0

_IDS = {
    "deal_id": re.compile(r"[1-9][0-9]{0,14}"),
    "lead_id": re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
    "person_id": re.compile(r"[1-9][0-9]{0,14}"),
    "contact_id": re.compile(r"[1-9][0-9]{0,14}"),
}
_FIELDS: Mapping[str, frozenset[str]] = {
    NOTE: frozenset(("content", *(f"pinned_to_{kind}_flag" for kind in (DEAL, LEAD, PERSON)))),
    ACTIVITY: frozenset(
        (
            *("subject", "type", "note", "owner_id", "due_date", "due_time", "duration", "done", "busy", "priority"),
            "public_description",
        )
    ),
}
"""What a template may set. What a record is attached to is not among it."""
_HTML = ("content", "note")
_PATHS = {NOTE: "/v1/notes", ACTIVITY: "/api/v2/activities"}
_WRITES = {NOTE: "deals:full or contacts:full", ACTIVITY: "activities:full"}
_READS = {NOTE: "deals:read or contacts:read", ACTIVITY: "activities:read"}
_HOST = re.compile(r"(?!oauth\.|www\.|app\.)[a-z0-9-]{1,63}\.pipedrive\.com")
_SHARED_HOST = "api.pipedrive.com"
_ACCESS = "give the subscription a valid API token (Pipedrive: Personal preferences, API) as its sinkcredential"
_DISABLES = {
    401: _ACCESS,
    402: "the company account is not open: settle its plan with Pipedrive",
    405: "update the relay",
    410: "update the relay",
    501: "update the relay",
}
_SCOPE = "Scope and URL mismatch"

Target = dict[str, str | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What Pipedrive answered.

    data, more  the `data` and `additional_data` of an answer; None in any other
    outcome     what a refusal, or no answer, means; of an answer: delivered
    missing     there is no such thing, or this user may not see it
    """

    outcome: Outcome
    data: Any = None
    more: Any = None
    missing: bool = False

    @property
    def ok(self) -> bool:
        """True if the request was carried out."""
        return self.outcome.verdict == "delivered"


class Pipedrive(base.Single):
    """Notes or activities for people who sell. Not signed: Pipedrive reads no signature."""

    name = "pipedrive"
    signed = False
    rate_per_second: float | None = 5.0
    """Half of what the smallest plan takes: a delivery has up to three requests, and searches have a limit of 5."""
    default_incidents: Incidents = "off"

    def default_types(self, type_prefixes: Sequence[str]) -> tuple[str, ...] | None:
        """What became of an outreach."""
        return crm.default_types(type_prefixes)

    def check(self, subscription: Subscription) -> None:
        """Refuses another URL than a company's, another credential than a token, and unknown options and fields."""
        base.refuse([*_place_errors(subscription), *_setting_errors(subscription)])

    def render(self, event: Event, subscription: Subscription, context: RenderContext) -> OutboundRequest:
        """The request that writes, about a target that only Pipedrive knows."""
        return _write_request(event, subscription, context, {f"{PERSON}_id": f"{{{PERSON}}}"})

    def classify(self, response: Response, now: float) -> Outcome:
        """The outcome of the request that writes."""
        return read_answer(response, now, scope=_WRITES[NOTE]).outcome

    def dialogue(self, subscription: Subscription) -> Dialogue | None:
        """All deliveries: who is meant is looked up, and the record is written once."""
        return PIPEDRIVE

    def redacted_url(self, url: str) -> str:
        """The URL: it holds no secret."""
        return redacted_url(url)


def portal_of(subscription: Subscription) -> str:
    """The company whose limits a subscription shares: by its host, or by the credential where the host is shared."""
    host = host_of(subscription.sink) or ""
    credential = subscription.credential
    return f"{host}/{credential.id}" if host == _SHARED_HOST and credential is not None else host


# --- a delivery


def _key(event: Event, subscription: Subscription) -> str | None:
    return ledger.event_key(event.id)


def _steps(event: Event, subscription: Subscription, context: RenderContext, memory: Memory, now: float) -> Steps:
    """Who is meant is looked up, then the record is written. If an earlier attempt may have written it, Pipedrive is
    asked for it first."""
    entry = ledger.read_entry(memory)
    if entry is not None:
        if entry.portal != portal_of(subscription):
            return Ended(outcome=ledger.uncertain("written_elsewhere"))
        if entry.state == "done":
            return Ended(outcome=ledger.WRITTEN)
    if entry is not None and entry.record in _PATHS:
        asked = yield from _find_record(subscription, entry, crm.key_line(event, subscription).encode(), now)
        if asked is None:
            return Ended(outcome=ledger.WRITTEN, remember=entry.done().memory())
        if not asked.ok:
            return Ended(outcome=asked.outcome)
        if entry.settles_in(now):
            outcome, remember = entry.waiting(now)
            return Ended(outcome=outcome, remember=remember)
        return (yield from _write(event, subscription, context, dict(entry.target), now))
    found = yield from _find_target(event, subscription, context, entry, now)
    return found if isinstance(found, Ended) else (yield from _write(event, subscription, context, found, now))


PIPEDRIVE = Dialogue(key=_key, steps=_steps)
"""The deliveries to Pipedrive."""


def _write(event: Event, subscription: Subscription, context: RenderContext, target: Target, now: float) -> Steps:
    record = _record(subscription)
    entry = Entry(record=record, target=target, portal=portal_of(subscription), at=now)
    request = _write_request(event, subscription, context, target)
    expected = dumps({"success": True, "data": {"id": f"{{{record}}}"}})
    response = yield Step(request=request, name=record, expected=expected, remember=entry.memory(), private=True)
    answer = read_answer(response, now, scope=_WRITES[record])
    id = _id_in(answer.data)
    if answer.ok and id is not None:
        return Ended(outcome=answer.outcome, remember=entry.done(id).memory())
    if answer.ok:  # a 2xx of something else: the record may be there
        return Ended(outcome=_doubt(Outcome(verdict="retry", reason="no_id")))
    if answer.outcome.in_doubt:
        return Ended(outcome=_doubt(answer.outcome))
    outcome = crm.nobody(subscription, "unmatched") if answer.missing else answer.outcome
    return Ended(outcome=outcome, remember=ledger.CLEARED)


def _doubt(outcome: Outcome) -> Outcome:
    """Another attempt asks first, once the record would be there."""
    return replace(outcome, in_doubt=True, wait_seconds=ledger.SETTLE_SECONDS)


# --- who is meant


def _find_target(
    event: Event, subscription: Subscription, context: RenderContext, entry: Entry | None, now: float
) -> Generator[Step, Response, Target | Ended]:
    """What the record is attached to. `entry`: a person may have been created for this event."""
    who, attach = crm.identity(event, context, _IDS), subscription.options.get(crm.ATTACH)
    person: str | int | None = None
    for name, path, reads in (
        ("deal_id", "/api/v2/deals/", "deals:read"),
        ("lead_id", "/v1/leads/", "leads:read"),
        ("person_id", "/api/v2/persons/", "contacts:read"),
        ("contact_id", "/api/v2/persons/", "contacts:read"),
    ):
        id = who.ids.get(name)
        if id is None or (attach == PERSON and name in ("deal_id", "lead_id")):
            continue
        answer = yield from _get(subscription, path + quote(str(id)), name.removesuffix("_id"), reads, now, {"id": id})
        if answer.ok and not _is_gone(answer.data):
            if name in ("deal_id", "lead_id"):
                return {name: int(id) if name == "deal_id" else id}
            person = int(id)
            break
        if not (answer.ok or answer.missing):
            return _looked_up(answer, entry)
    if person is None:
        found = yield from _find_person(subscription, who, entry, now)
        if isinstance(found, Ended):
            return found
        person = found
    if person is None:
        if entry is not None:
            if entry.settles_in(now):
                outcome, remember = entry.waiting(now)
                return Ended(outcome=outcome, remember=remember)
            return Ended(outcome=ledger.uncertain("person_not_found"))
        if subscription.options.get(crm.UNMATCHED) != crm.CREATE or not (who.email or who.phone):
            return Ended(outcome=crm.nobody(subscription, "unmatched"))
        made = yield from _create_person(event, subscription, who, now)
        if isinstance(made, Ended):
            return made
        person = made
    return (yield from _place_of(subscription, person, attach, entry, now))


def _find_person(
    subscription: Subscription, who: crm.Identity, entry: Entry | None, now: float
) -> Generator[Step, Response, str | int | Ended | None]:
    """The one person with this e-mail address or phone number; None: there is none."""
    for field, term in (("email", who.email), ("phone", who.phone)):
        if term is None:
            continue
        query = urlencode({"term": term, "fields": field, "exact_match": "true", "limit": 2})
        path, item = f"/api/v2/persons/search?{query}", {"id": f"{{{PERSON}}}"}
        name, reads = "persons/search", "contacts:read or search:read"
        answer = yield from _get(subscription, path, name, reads, now, {"items": [{"item": item}]})
        if not answer.ok:
            return _looked_up(answer, entry)
        items = answer.data.get("items") if isinstance(answer.data, Mapping) else None
        if not isinstance(items, list):
            return _looked_up(replace(answer, outcome=Outcome(verdict="retry", reason="not_readable")), entry)
        ids = {id for one in items if isinstance(one, Mapping) and (id := _id_in(one.get("item"))) is not None}
        if len(ids) > 1:
            return Ended(outcome=crm.nobody(subscription, "ambiguous"), remember=ledger.CLEARED)
        if ids:
            return ids.pop()
    return None


def _create_person(
    event: Event, subscription: Subscription, who: crm.Identity, now: float
) -> Generator[Step, Response, str | int | Ended]:
    """Creates the person. The ledger says so without the address."""
    entry = Entry(record=PERSON, portal=portal_of(subscription), at=now)
    ways = {"emails": who.email, "phones": who.phone}
    document: dict[str, Any] = {"name": who.email or who.phone}
    document |= {name: [{"value": value, "primary": True}] for name, value in ways.items() if value is not None}
    expected = dumps({"success": True, "data": {"id": f"{{{PERSON}}}"}})
    request = _request(subscription, "/api/v2/persons", document)
    response = yield Step(request=request, name=PERSON, expected=expected, remember=entry.memory(), private=True)
    answer = read_answer(response, now, scope="contacts:full")
    id = _id_in(answer.data)
    if answer.ok and id is not None:
        return id
    if answer.ok or answer.outcome.in_doubt:
        return Ended(outcome=_doubt(Outcome(verdict="retry", reason="no_id") if answer.ok else answer.outcome))
    return Ended(outcome=answer.outcome, remember=ledger.CLEARED)


def _place_of(
    subscription: Subscription, person: str | int, attach: object, entry: Entry | None, now: float
) -> Generator[Step, Response, Target | Ended]:
    """The person's newest open deal or lead if the subscription wants that and there is one, else the person."""
    target: Target = {"person_id": person}
    if attach not in (DEAL, LEAD):
        return target
    if attach == DEAL:
        order = {"sort_by": "update_time", "sort_direction": "desc", "limit": 1}
        path = "/api/v2/deals?" + urlencode({"person_id": person, "status": "open", **order}, safe="{}")
        name, reads = "deals of the person", "deals:read"
    else:
        order = {"sort": "update_time DESC", "limit": 1}
        path = "/v1/leads?" + urlencode({"person_id": person, **order}, safe="{}", quote_via=quote)
        name, reads = "leads of the person", "leads:read"
    answer = yield from _get(subscription, path, name, reads, now, [{"id": f"{{{attach}}}"}])
    if not (answer.ok or answer.missing):
        return _looked_up(answer, entry)
    first = answer.data[0] if isinstance(answer.data, list) and answer.data else None
    id = _uuid_in(first) if attach == LEAD else _id_in(first)
    return target if id is None else {f"{attach}_id": id}


def _looked_up(answer: Answer, entry: Entry | None) -> Ended:
    """What follows from a look-up that failed: nothing was written by this attempt."""
    outcome = replace(answer.outcome, in_doubt=False)
    if answer.missing:  # of a search or a list, which is always there
        outcome = Outcome(verdict="retry", reason=outcome.reason)
    return Ended(outcome=outcome if entry is None else ledger.still_in_doubt(outcome))


# --- was it written?


def _find_record(
    subscription: Subscription, entry: Entry, key: bytes, now: float
) -> Generator[Step, Response, Answer | None]:
    """None if the record is there. Else an answer: ok if it is not there, or why nobody knows."""
    place: dict[str, str | int] = {}
    size = 0
    for _ in range(MAX_QUESTIONS):
        path = _list_path(entry, place, PAGES[size])
        response = yield _get_step(subscription, path, f"{entry.record}s of the target", {"data": []})
        if key in response.excerpt and response.status_code == 200:
            return None
        if _is_cut(response):
            if size + 1 < len(PAGES):
                size += 1
                continue
            if entry.record == NOTE:  # one note that is longer than ours can be
                place = {"start": int(place.get("start", 0)) + 1}
                continue
            return Answer(outcome=ledger.uncertain("not_readable"))
        answer = read_answer(response, now, scope=_READS[entry.record])
        if answer.missing:  # what it was to be attached to is gone, and its records with it
            return Answer(outcome=Outcome(verdict="delivered", reason="absent"))
        if not answer.ok:
            return replace(answer, outcome=ledger.still_in_doubt(answer.outcome))
        records = answer.data if isinstance(answer.data, list) else []
        following = _next_page(entry, answer.more)
        if not following or (records and all(_is_earlier(one, entry.at) for one in records)):
            return Answer(outcome=Outcome(verdict="delivered", reason="absent"))
        if following == place:
            break
        place = following
    return Answer(outcome=ledger.uncertain("not_found_in_time"))


def _is_cut(response: Response) -> bool:
    """Whether an answer is longer than what is read of it. One that broke off is no such answer."""
    whole = response.error is None and response.status_code == 200
    return whole and len(response.excerpt) >= READ_BYTES and crm.read_object(response.excerpt) is None


def _list_path(entry: Entry, place: Mapping[str, str | int], limit: int) -> str:
    """The newest records of the target first."""
    order = {"sort": "id DESC"} if entry.record == NOTE else {"sort_by": "id", "sort_direction": "desc"}
    return f"{_PATHS[entry.record]}?{urlencode({**entry.target, **order, 'limit': limit, **place}, quote_via=quote)}"


def _next_page(entry: Entry, more: Any) -> dict[str, str | int]:
    """Where the next page begins; empty if there is none. Notes are paged by number, activities by a cursor."""
    if not isinstance(more, Mapping):
        return {}
    if entry.record == ACTIVITY:
        cursor = more.get("next_cursor")
        return {"cursor": cursor} if isinstance(cursor, str) and 0 < len(cursor) <= 1000 else {}
    paging = more.get("pagination")
    if not isinstance(paging, Mapping) or paging.get("more_items_in_collection") is not True:
        return {}
    start = paging.get("next_start")
    return {"start": start} if isinstance(start, int) and not isinstance(start, bool) and start > 0 else {"start": 0}


def _is_earlier(record: object, at: float) -> bool:
    """Whether a record was added well before a time. v1 writes times like `2026-05-20 10:00:00`, in UTC."""
    text = record.get("add_time") if isinstance(record, Mapping) else None
    if not isinstance(text, str):
        return False
    try:
        return from_rfc3339(text if text.endswith("Z") else f"{text}Z") < at - EARLIER_SECONDS
    except ValueError:
        return False


# --- requests and answers


def read_answer(response: Response, now: float, *, scope: str) -> Answer:
    """What an answer means. `scope`: what an app needs for this request."""
    status = response.status_code
    if response.error is not None or status is None or status >= 500:
        outcome = replace(http_outcome(response, now), in_doubt=ledger.is_doubtful(response))
        return Answer(outcome=_disabled(501) if status == 501 else outcome)
    document = crm.read_object(response.excerpt)
    code = crm.code_in(document)
    reason = f"http_{status}: {code}" if code else f"http_{status}"
    if 200 <= status < 300:
        if document is not None and document.get("success") is True:
            pause = _number(response, "x-ratelimit-reset") if response.header("x-ratelimit-remaining") == "0" else None
            outcome = Outcome(verdict="delivered", reason=f"http_{status}", retry_after_seconds=pause)
            return Answer(outcome=outcome, data=document.get("data"), more=document.get("additional_data"))
        refused = document is not None and document.get("success") is False
        word = "not_successful" if refused else "not an answer of Pipedrive's API"
        return Answer(outcome=Outcome(verdict="retry", reason=f"{reason}, {word}", in_doubt=not refused))
    if status in (408, 425):
        return Answer(outcome=Outcome(verdict="retry", reason=reason, in_doubt=True))
    if status == 429:
        return Answer(outcome=Outcome(verdict="retry", reason=reason, retry_after_seconds=_pause(response, now)))
    if status == 403:
        return _forbidden(document, reason, scope)
    if status in _DISABLES:
        return Answer(outcome=_disabled(status))
    if status == 404:
        return Answer(outcome=Outcome(verdict="dead", reason=reason), missing=True)
    if 400 <= status < 500:
        return Answer(outcome=Outcome(verdict="dead", reason=reason))
    return Answer(outcome=http_outcome(response, now))


def _forbidden(document: Mapping[str, Any] | None, reason: str, scope: str) -> Answer:
    """403: a page of Cloudflare after too many requests, a scope that an app lacks, a limit of the plan, or something
    that this user may not see."""
    if document is None:
        pause = BLOCKED_PAUSE_SECONDS
        return Answer(outcome=Outcome(verdict="retry", reason="blocked", retry_after_seconds=pause))
    if document.get("error") == _SCOPE:
        detail = f"missing_scope: give the app the scope {scope}, install it again, then resume"
        return Answer(outcome=Outcome(verdict="disable", reason=detail))
    return Answer(outcome=Outcome(verdict="dead", reason=reason), missing=not crm.code_in(document))


def _disabled(status: int) -> Outcome:
    return Outcome(verdict="disable", reason=f"http_{status}: {_DISABLES[status]}, then resume")


def _pause(response: Response, now: float) -> float:
    """After 429. With requests left in the window, or none left for the day, the budget of the day is used up."""
    asked = http_outcome(replace(response, error=None), now).retry_after_seconds
    if asked is not None:
        return asked
    left, of_day = response.header("x-ratelimit-remaining"), response.header("x-daily-requests-left")
    if of_day == "0" or (left is not None and left != "0"):
        return BUDGET_PAUSE_SECONDS
    return LIMITED_PAUSE_SECONDS if left is None else _number(response, "x-ratelimit-reset") or BURST_PAUSE_SECONDS


def _number(response: Response, name: str) -> float | None:
    text = response.header(name) or ""
    return math.ceil(float(text)) if re.fullmatch(r"[0-9]{1,5}(?:\.[0-9]{1,6})?", text) else None


def _get(
    subscription: Subscription, path: str, name: str, scope: str, now: float, expected: Any
) -> Generator[Step, Response, Answer]:
    response = yield _get_step(subscription, path, name, {"data": expected})
    return read_answer(response, now, scope=scope)


def _get_step(subscription: Subscription, path: str, name: str, expected: Mapping[str, Any]) -> Step:
    request = replace(_request(subscription, path, None), method="GET")
    return Step(request=request, name=name, expected=dumps({"success": True, **expected}), private=True)


def _request(subscription: Subscription, path: str, document: Mapping[str, Any] | None) -> OutboundRequest:
    """A personal token has a header of its own; the tokens of apps are bearer tokens."""
    credential = subscription.credential
    own = credential is not None and credential.type == "ACCESSTOKEN"
    headers = (("Accept", "application/json"), *((("x-api-token", TOKEN_HERE),) if own else ()))
    if document is not None:
        headers = (("Content-Type", "application/json"), *headers)
    body = b"" if document is None else dumps(dict(document))
    return OutboundRequest(url=subscription.sink.rstrip("/") + path, headers=headers, body=body)


def _write_request(event: Event, subscription: Subscription, context: RenderContext, target: Target) -> OutboundRequest:
    """Raises NotRenderable."""
    record = _record(subscription)
    given = templates.own_fields(event, subscription, context, _HTML)
    if record == NOTE:
        fields = crm.merged({"content": crm.html_of(event, subscription, context)}, given)
        fields["content"] = crm.with_key(str(fields.get("content", "")), event, subscription, MAX_RECORD_BYTES)
        return _request(subscription, _PATHS[NOTE], {**fields, **target})
    failed = job_event_kind(event.type) in ("failed", "not_found")
    defaults = {
        "subject": crm.subject_of(event, subscription, context, MAX_SUBJECT),
        "type": "task",
        "due_date": to_rfc3339(event.time)[:10],
        "done": not failed,
        "note": crm.html_of(event, subscription, context),
    }
    fields = crm.merged(defaults, given)
    fields["note"] = crm.with_key(str(fields.get("note", "")), event, subscription, MAX_RECORD_BYTES)
    person = target.get("person_id")
    place = target if person is None else {"participants": [{"person_id": person, "primary": True}]}
    return _request(subscription, _PATHS[ACTIVITY], {**fields, **place})


def _record(subscription: Subscription) -> str:
    return ACTIVITY if subscription.options.get(crm.RECORD) == ACTIVITY else NOTE


def _id_in(found: object) -> str | int | None:
    """The id in an object: a number, or in a preview a placeholder."""
    id = found.get("id") if isinstance(found, Mapping) else None
    if isinstance(id, int) and not isinstance(id, bool) and 0 < id < 2**53:
        return id
    return id if isinstance(id, str) and crm.PLACEHOLDER.fullmatch(id) else None


def _uuid_in(found: object) -> str | None:
    id = found.get("id") if isinstance(found, Mapping) else None
    fits = isinstance(id, str) and (_IDS["lead_id"].fullmatch(id) or crm.PLACEHOLDER.fullmatch(id))
    return id if isinstance(id, str) and fits else None


def _is_gone(found: object) -> bool:
    return isinstance(found, Mapping) and found.get("is_deleted") is True


# --- what a subscription may say


def _place_errors(subscription: Subscription) -> list[FieldError]:
    errors = [
        error
        for error in base.chat_errors(subscription, "Pipedrive")
        if error.pointer not in ("/sinkcredential", "/config/handshake")
    ]
    parts = split_url(subscription.sink)
    example = "https://COMPANY.pipedrive.com"
    if parts is None or parts.path not in ("", "/") or urlsplit(subscription.sink).query:
        detail = f"use the address of your company alone, {example}"
        errors.append(FieldError(pointer="/sink", code="sink_unsuitable", detail=detail))
    elif (host_of(subscription.sink) or "").endswith("pipedrive.com") and not _HOST.fullmatch(parts.hostname or ""):
        detail = f"this is not the address of a company: use {example}, as Pipedrive shows it in your browser"
        errors.append(FieldError(pointer="/sink", code="sink_unsuitable", detail=detail))
    if subscription.handshake != "off":
        detail = "Pipedrive answers no handshake, and needs none: only a user of the company has a token"
        errors.append(FieldError(pointer="/config/handshake", code="handshake_unsuitable", detail=detail))
    credential = subscription.credential
    if credential is None:
        example = '{"credentialtype": "ACCESSTOKEN", "accesstoken": "…"}'
        detail = f"an API token is needed (Pipedrive: Personal preferences, API): {example}"
        errors.append(FieldError(pointer="/sinkcredential", code="missing", detail=detail))
    elif credential.type not in ("ACCESSTOKEN", "REFRESHTOKEN") and not (
        credential.type == "HEADER" and credential.fields["name"].lower() == "x-api-token"
    ):
        detail = "Pipedrive takes an ACCESSTOKEN (a personal API token) or a REFRESHTOKEN (of an app)"
        errors.append(FieldError(pointer="/sinkcredential", code="credential_unsuitable", detail=detail))
    return errors


def _setting_errors(subscription: Subscription) -> list[FieldError]:
    errors = base.option_errors(subscription, crm.OPTIONS)
    errors += crm.choice_errors(
        subscription,
        {
            crm.RECORD: (NOTE, ACTIVITY),
            crm.ATTACH: (DEAL, PERSON, LEAD),
            crm.UNMATCHED: (crm.SKIP, crm.CREATE, crm.FAIL),
        },
    )
    if subscription.incidents != "off":
        detail = "incidents are for chat kinds: Pipedrive gets what became of each job"
        errors.append(FieldError(pointer="/config/incidents", code="incidents_unsuitable", detail=detail))
    others = [one for one in subscription.types or () if job_event_kind(one) is None]
    if others:
        detail = f"{others[0]:.100} is about no job, so about nobody in Pipedrive: name types of jobs only"
        errors.append(FieldError(pointer="/types", code="types_unsuitable", detail=detail))
    return errors + crm.template_errors(subscription, _FIELDS[_record(subscription)])
