"""Pipedrive's API: notes, activities, persons, deals and leads of one company.

Sources: Pipedrive's OpenAPI documents (https://developers.pipedrive.com/docs/api/v1: v1 `addNote`, `getNotes`, leads,
`getCurrentUser`; v2 `addActivity`, `getActivities`, `searchPersons`, `addPerson`, deals) and, at
https://pipedrive.readme.io/docs/, core-api-concepts-requests, -responses, -http-status-codes, -rate-limiting,
marketplace-scopes-and-permissions-explanations and pipedrive-api-v2-migration-guide.

It refuses what Pipedrive refuses, and also what Pipedrive only ignores: unknown fields and parameters, and a content
type that is not JSON. Where the documents are silent it takes the less convenient side: a new note answers 201, a note
about an unknown deal 400, and a search finds a person only some time after it was added.
"""

import html
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson

from relay.core.deliveries.delivery import Response
from tests.vendors.endpoint import Answer, Api, Fault, Message, Wrong, members

TOKEN = "0123456789abcdef0123456789abcdef01234567"
HOST = "acme.pipedrive.com"
BEARER = "app-token-of-the-stand-in"
MAX_CONTENT_BYTES = 100_000
MAX_SUBJECT = 255
"""Characters of a text field; that the subject is one is not documented."""
WINDOW_SECONDS = 2.0
ALL_SCOPES = frozenset(("base", "deals:full", "contacts:full", "activities:full", "leads:full", "search:read"))

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DATE, _CLOCK = r"\d{4}-\d\d-\d\d", r"\d\d:\d\d(:\d\d)?"
_NOTE = ("lead_id", "deal_id", "person_id")
_ACTIVITY = (
    *("type", "owner_id", "deal_id", "lead_id", "due_date", "due_time", "duration", "busy", "done", "participants"),
    *("person_id", "public_description", "note"),
)
_PERSON = ("emails", "phones")
_INFO = "Please check developers.pipedrive.com for more information about Pipedrive API."
_SCOPES: Mapping[str, tuple[str, ...]] = {
    "GET /v1/users/me": ("base",),
    "POST /v1/notes": ("deals:full", "contacts:full"),
    "GET /v1/notes": ("deals:read", "deals:full", "contacts:read", "contacts:full"),
    "GET /v1/leads": ("leads:read", "leads:full"),
    "GET /v1/leads/": ("leads:read", "leads:full"),
    "POST /api/v2/activities": ("activities:full",),
    "GET /api/v2/activities": ("activities:read", "activities:full"),
    "GET /api/v2/persons/search": ("contacts:read", "contacts:full", "search:read"),
    "POST /api/v2/persons": ("contacts:full",),
    "GET /api/v2/persons": ("contacts:read", "contacts:full"),
    "GET /api/v2/persons/": ("contacts:read", "contacts:full"),
    "GET /api/v2/deals": ("deals:read", "deals:full"),
    "GET /api/v2/deals/": ("deals:read", "deals:full"),
}
"""One of these scopes is needed by the token of an app. A personal token has none and needs none. A path with a final
slash takes an id."""
_LIST = ("sort_by", "sort_direction", "limit", "cursor")
_QUERIES: Mapping[str, tuple[str, ...]] = {
    "GET /v1/notes": ("lead_id", "deal_id", "person_id", "start", "limit", "sort"),
    "GET /v1/leads": ("limit", "person_id", "sort"),
    "GET /api/v2/activities": ("deal_id", "lead_id", "person_id", *_LIST),
    "GET /api/v2/persons/search": ("term", "fields", "exact_match", "limit"),
    "GET /api/v2/persons": _LIST,
    "GET /api/v2/deals": ("person_id", "status", *_LIST),
}
"""Parameters of these calls. Pipedrive knows others, which the relay does not send."""

Row = dict[str, Any]


class _Refused(Exception):
    """A call is not carried out."""

    def __init__(self, status: int, error: str, **more: Any) -> None:
        super().__init__(error)
        self.status, self.document = status, {"success": False, "error": error, **more}


class Pipedrive(Api):
    """One company. Calls are in `calls` as (name, query, document), accepted or not; refusals as (status, error).

    notes, activities, persons, deals, leads   what the company has, the oldest first
    scopes       of the app's token
    burst        requests in two seconds; `search_burst` of searches
    index_seconds  after this time a search finds a new person
    faults       answers to the next calls of a name, such as `POST /v1/notes`; "*": of any
    """

    broken = Response(started_at=0.0, duration_ms=1.0, error="timeout", detail="no answer", late=True)

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.notes: list[Row] = []
        self.activities: list[Row] = []
        self.persons: list[Row] = []
        self.deals: list[Row] = []
        self.leads: list[Row] = []
        self.scopes = set(ALL_SCOPES)
        self.burst, self.search_burst = 20, 10
        self.index_seconds = 5.0
        self.calls: list[tuple[str, dict[str, str], Any]] = []
        self.refused: list[tuple[int, str]] = []
        self.faults: dict[str, deque[Fault]] = {}
        self._times: deque[float] = deque()
        self._searches: deque[float] = deque()
        self._made = 0

    # --- what a user does

    def add_deal(self, title: str, person_id: int | None = None, status: str = "open") -> Row:
        """A deal."""
        deal = {"id": self._id(), "title": title, "person_id": person_id, "status": status, "is_deleted": False}
        self.deals.append({**deal, "update_time": self._v2_time()})
        return self.deals[-1]

    def add_person(self, name: str, email: str | None = None, phone: str | None = None) -> Row:
        """A person, whom a search finds at once."""
        emails = [{"value": email, "label": "work", "primary": True}] if email else []
        phones = [{"value": phone, "label": "work", "primary": True}] if phone else []
        person = {"id": self._id(), "name": name, "emails": emails, "phones": phones, "is_deleted": False}
        person["add_time"] = self._v2_time()
        self.persons.append({**person, "indexed_at": 0.0})
        return self.persons[-1]

    def add_lead(self, title: str, person_id: int | None = None) -> Row:
        """A lead."""
        lead = {"id": f"00000000-0000-4000-8000-{self._id():012d}", "title": title, "person_id": person_id}
        self.leads.append({**lead, "update_time": self._v2_time()})
        return self.leads[-1]

    def fail(self, name: str, *faults: Fault) -> None:
        """Gives these answers to the next calls of a name."""
        self.faults.setdefault(name, deque()).extend(faults)

    @property
    def mistakes(self) -> list[str]:
        """What it has refused, but for look-ups of what is not there."""
        return [f"{status} {error}" for status, error in self.refused if status != 404]

    @property
    def messages(self) -> list[Message]:
        """The notes and activities as people read them."""
        return [read_record(one) for one in (*self.notes, *self.activities)]

    # --- HTTP

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        parts = urlsplit(url)
        name, id = _name_of(method, parts.path)
        given = {key.lower(): value for key, value in headers.items()}
        waiting = self.faults.get(name) or self.faults.get("*")
        fault = waiting.popleft() if waiting else None
        if fault is not None and not fault.works:
            self.calls.append((name, dict(parse_qsl(parts.query)), None))
            return fault.answer
        shown = {"Content-Type": "application/json; charset=utf-8"}
        try:
            status, document = self._called(name, id, parts.query, given, body, shown)
        except _Refused as refusal:
            status, document = refusal.status, refusal.document
            self.refused.append((status, document["error"]))
        return Answer(status, orjson.dumps(document), tuple(shown.items())) if fault is None else fault.answer

    def _called(
        self, name: str, id: str, query: str, headers: Mapping[str, str], body: bytes, shown: dict[str, str]
    ) -> tuple[int, Row]:
        if name not in _SCOPES:
            known = any(one.partition(" ")[2] == name.partition(" ")[2] for one in _SCOPES)
            raise _Refused(405 if known else 404, "Incorrect request method" if known else "Unknown method .")
        is_app = self._token(headers)
        if is_app and not self.scopes & set(_SCOPES[name]):
            raise _Refused(403, "Scope and URL mismatch", errorCode=403)
        self._limit(name, shown)
        asked = parse_qsl(query, keep_blank_values=True)
        values = dict(asked)
        document = self._document(name, headers, body)
        self.calls.append((name, values, document))
        unknown = sorted(values.keys() - set(_QUERIES.get(name, ())))
        if unknown or len(asked) != len(values):
            raise _bad(name, f"Parameter {(unknown or list(values))[0]} is not allowed")
        try:
            return _CALLS[name](self, values, id, document)
        except Wrong as wrong:
            raise _bad(name, f"'{wrong.pointer.strip('/') or 'body'}' {wrong.why}") from None

    def _token(self, headers: Mapping[str, str]) -> bool:
        """True for the token of an app."""
        personal, bearer = headers.get("x-api-token"), headers.get("authorization")
        if bearer is None:
            if personal != TOKEN:
                raise _Refused(401, "unauthorized access", errorCode=401)
            return False
        if not re.fullmatch(r"Bearer \S+", bearer) or personal is not None:
            raise _Refused(400, "Invalid request: malformed authorization header", errorCode=400)
        if bearer != f"Bearer {BEARER}":
            raise _Refused(401, "Invalid token: access_token is invalid", errorCode=401)
        return True

    def _limit(self, name: str, shown: dict[str, str]) -> None:
        now = self.clock()
        limits = [(self._times, self.burst)]
        if name.endswith("/search"):
            limits.append((self._searches, self.search_burst))
        for times, _ in limits:
            while times and not 0 <= now - times[0] < WINDOW_SECONDS:
                times.popleft()
        left = min(most - len(times) for times, most in limits)
        first = min((times[0] for times, _ in limits if times), default=now)
        shown |= {
            "x-ratelimit-limit": str(min(most for _, most in limits)),
            "x-ratelimit-remaining": str(max(left - 1, 0)),
            "x-ratelimit-reset": str(max(1, round(first + WINDOW_SECONDS - now))),
        }
        if left <= 0:
            raise _Refused(429, "request over limit", errorCode=429)
        for times, _ in limits:
            times.append(now)

    def _document(self, name: str, headers: Mapping[str, str], body: bytes) -> Any:
        if name.startswith("GET"):
            if body:
                raise _bad(name, "a GET has no body")
            return None
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise _Refused(415, "Feature is not enabled", error_info=_INFO)
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            raise _bad(name, "invalid JSON") from None

    # --- what Pipedrive does

    def _me(self, query: Mapping[str, str], id: str, document: Any) -> tuple[int, Row]:
        company = {"company_id": 1, "company_name": "Acme", "company_domain": "acme"}
        return 200, {"success": True, "data": {"id": 7, "name": "Sam Seller", "is_admin": 0, **company}}

    def _add_note(self, query: Mapping[str, str], id: str, document: Any) -> tuple[int, Row]:
        given = members(document, "", ("content",), _NOTE)
        content = _text(given["content"], "/content", MAX_CONTENT_BYTES)
        places = self._places(given, ("lead_id", "deal_id", "person_id"))
        if not places:
            raise Wrong("", "one of lead_id, deal_id, person_id, org_id, project_id, task_id is required")
        now = self._v2_time()[:19].replace("T", " ")
        note = {"id": self._id(), "active_flag": True, "add_time": now, "update_time": now, "user_id": 7}
        self.notes.append({**note, "content": sanitized(content), **places})
        return 201, {"success": True, "data": self.notes[-1]}

    def _list_notes(self, query: Mapping[str, str], id: str, document: Any) -> tuple[int, Row]:
        start, limit = _number(query, "start", 0, 10**9), _number(query, "limit", 100, 500)
        rows = self._of_place(self.notes, query)
        match query.get("sort"):
            case "id DESC":
                rows = rows[::-1]
            case None | "id ASC":
                pass
            case _:
                raise Wrong("/sort", "is not supported")
        page, more = rows[start : start + limit], start + limit < len(rows)
        paging: Row = {"start": start, "limit": limit, "more_items_in_collection": more}
        if more:
            paging["next_start"] = start + limit
        return 200, {"success": True, "data": page or None, "additional_data": {"pagination": paging}}

    def _add_activity(self, query: Mapping[str, str], id: str, document: Any) -> tuple[int, Row]:
        given = members(document, "", ("subject",), _ACTIVITY)
        if "person_id" in given:
            fix = "is a read-only field. Add a primary participant to set 'person_id' instead"
            raise Wrong("/person_id", fix)
        _text(given["subject"], "/subject", MAX_SUBJECT, in_bytes=False)
        if given.get("type", "task") not in ("task", "call", "email", "meeting", "deadline", "lunch"):
            raise Wrong("/type", "is no type of activity")
        for name in ("done", "busy"):
            if not isinstance(given.get(name, False), bool):
                raise Wrong(f"/{name}", "must be a boolean")
        for name, form in (("due_date", _DATE), ("due_time", _CLOCK), ("duration", _CLOCK)):
            if name in given and not (isinstance(given[name], str) and re.fullmatch(form, given[name])):
                raise Wrong(f"/{name}", "has the wrong format")
        note = _text(given.get("note", "-"), "/note", MAX_CONTENT_BYTES)
        _text(given.get("public_description", "-"), "/public_description", MAX_CONTENT_BYTES)
        places = self._places(given, ("deal_id", "lead_id"))
        if given.get("owner_id", 7) != 7:
            raise Wrong("/owner_id", "is not a user of this company")
        primary = self._participants(given.get("participants", []))
        now = self._v2_time()
        activity = {"id": self._id(), "is_deleted": False, "add_time": now, "update_time": now, "owner_id": 7}
        kept = {name: given.get(name) for name in ("subject", "due_date", "participants")}
        activity |= {**kept, "type": given.get("type", "task"), "done": given.get("done", False)}
        self.activities.append({**activity, "note": sanitized(note), "person_id": primary, **places})
        return 200, {"success": True, "data": self.activities[-1]}

    def _participants(self, given: Any) -> int | None:
        if not isinstance(given, list) or len(given) > 50:
            raise Wrong("/participants", "must be an array")
        primary = None
        for index, one in enumerate(given):
            at = f"/participants/{index}"
            members(one, at, ("person_id",), ("primary",))
            if not isinstance(one.get("primary", False), bool):
                raise Wrong(f"{at}/primary", "must be a boolean")
            self._places(one, ("person_id",), at)
            if one.get("primary"):
                if primary is not None:
                    raise Wrong(at, "only one participant is primary")
                primary = one["person_id"]
        return primary

    def _list_activities(self, query: Mapping[str, str], id: str, document: Any) -> tuple[int, Row]:
        rows = self._of_place(self.activities, query)
        return 200, self._page(rows, query, ("id", "update_time", "add_time", "due_date"))

    def _search_persons(self, query: Mapping[str, str], id: str, document: Any) -> tuple[int, Row]:
        exact = _one_of(query.get("exact_match", "false"), "/exact_match", ("true", "false")) == "true"
        term = query.get("term", "")
        if len(term) < (1 if exact else 2):
            raise Wrong("/term", "is too short")
        fields = _one_of(query.get("fields", "email"), "/fields", ("email", "phone", "name", "notes", "custom_fields"))
        limit, now, found = _number(query, "limit", 100, 500), self.clock(), []
        for person in self.persons:
            values = [one["value"] for one in person.get(f"{fields}s", [])] if fields != "name" else [person["name"]]
            values += person.get("custom_fields", {}).values() if fields == "custom_fields" else []
            fits = any(term.lower() == one.lower() if exact else term.lower() in one.lower() for one in values)
            if fits and not person["is_deleted"] and person["indexed_at"] <= now:
                names = {key: [one["value"] for one in person[key]] for key in ("emails", "phones")}
                found.append({"id": person["id"], "type": "person", "name": person["name"], **names})
        items = [{"result_score": 1.0, "item": one} for one in found[:limit]]
        return 200, {"success": True, "data": {"items": items}, "additional_data": {"next_cursor": None}}

    def _add_person(self, query: Mapping[str, str], id: str, document: Any) -> tuple[int, Row]:
        given = members(document, "", ("name",), _PERSON)
        _text(given["name"], "/name", MAX_SUBJECT, in_bytes=False)
        for name in ("emails", "phones"):
            rows = given.get(name, [])
            if not isinstance(rows, list):
                raise Wrong(f"/{name}", "must be an array")
            for index, one in enumerate(rows):
                members(one, f"/{name}/{index}", ("value",), ("label", "primary"))
                _text(one["value"], f"/{name}/{index}/value", MAX_SUBJECT, in_bytes=False)
        ways = {name: [{"label": "work", **one} for one in given.get(name, [])] for name in ("emails", "phones")}
        person = {"id": self._id(), "name": given["name"], **ways, "is_deleted": False, "add_time": self._v2_time()}
        self.persons.append({**person, "indexed_at": self.clock() + self.index_seconds})
        return 200, {"success": True, "data": person}

    def _list_persons(self, query: Mapping[str, str], id: str, document: Any) -> tuple[int, Row]:
        rows = [{name: value for name, value in one.items() if name != "indexed_at"} for one in self.persons]
        rows = [one for one in rows if not one["is_deleted"]]
        return 200, self._page(rows, query, ("id", "update_time", "add_time"))

    def _person(self, query: Mapping[str, str], id: str, document: Any) -> tuple[int, Row]:
        return self._one(self.persons, id, "Person")

    def _deal(self, query: Mapping[str, str], id: str, document: Any) -> tuple[int, Row]:
        return self._one(self.deals, id, "Deal")

    def _lead(self, query: Mapping[str, str], id: str, document: Any) -> tuple[int, Row]:
        return self._one(self.leads, id, "Lead")

    def _list_deals(self, query: Mapping[str, str], id: str, document: Any) -> tuple[int, Row]:
        person = _number(query, "person_id", 0, 10**15)
        status = _one_of(query.get("status", "open"), "/status", ("open", "won", "lost", "deleted"))
        rows = [one for one in self.deals if one["status"] == status and person in (0, one["person_id"])]
        return 200, self._page(rows, query, ("id", "update_time", "add_time"))

    def _list_leads(self, query: Mapping[str, str], id: str, document: Any) -> tuple[int, Row]:
        person = _number(query, "person_id", 0, 10**15)
        _one_of(query.get("sort", "id"), "/sort", ("id", "update_time DESC"))
        rows = [one for one in self.leads if person in (0, one["person_id"])][::-1]
        return 200, {"success": True, "data": rows[: _number(query, "limit", 100, 500)]}

    # --- helpers

    def _one(self, rows: list[Row], id: str, kind: str) -> tuple[int, Row]:
        found = next((one for one in rows if str(one["id"]) == id), None)
        if found is None:
            raise _Refused(404, f"{kind} not found", error_info=_INFO, data=None, additional_data=None)
        return 200, {"success": True, "data": {name: value for name, value in found.items() if name != "indexed_at"}}

    def _places(self, given: Mapping[str, Any], names: tuple[str, ...], at: str = "") -> Row:
        """The ids of what a record is attached to, which must exist."""
        found = {}
        for name in names:
            if name not in given:
                continue
            id, rows = given[name], {"deal_id": self.deals, "lead_id": self.leads, "person_id": self.persons}[name]
            if name == "lead_id":
                if not isinstance(id, str) or not _UUID.fullmatch(id):
                    raise Wrong(f"{at}/{name}", "must be a uuid")
            elif not isinstance(id, int) or isinstance(id, bool):
                raise Wrong(f"{at}/{name}", "must be a number")
            if not any(one["id"] == id and not one.get("is_deleted") for one in rows):
                raise Wrong(f"{at}/{name}", "is not known")
            found[name] = id
        return found

    def _of_place(self, rows: list[Row], query: Mapping[str, str]) -> list[Row]:
        for name in ("deal_id", "lead_id", "person_id"):
            if name in query:
                rows = [one for one in rows if str(one.get(name)) == query[name]]
        return rows

    def _page(self, rows: list[Row], query: Mapping[str, str], sortable: tuple[str, ...]) -> Row:
        _one_of(query.get("sort_by", "id"), "/sort_by", sortable)
        direction = _one_of(query.get("sort_direction", "asc"), "/sort_direction", ("asc", "desc"))
        rows = rows[::-1] if direction == "desc" else rows
        limit, cursor = _number(query, "limit", 100, 500), query.get("cursor", "c0")
        if not re.fullmatch(r"c[0-9]{1,9}", cursor):
            raise Wrong("/cursor", "is not a cursor")
        start = int(cursor[1:])
        following = f"c{start + limit}" if start + limit < len(rows) else None
        page = rows[start : start + limit]
        return {"success": True, "data": page, "additional_data": {"next_cursor": following}}

    def _id(self) -> int:
        self._made += 1
        return self._made

    def _v2_time(self) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.clock()))


_CALLS: Mapping[str, Callable[[Pipedrive, Mapping[str, str], str, Any], tuple[int, Row]]] = {
    "GET /v1/users/me": Pipedrive._me,
    "POST /v1/notes": Pipedrive._add_note,
    "GET /v1/notes": Pipedrive._list_notes,
    "GET /v1/leads": Pipedrive._list_leads,
    "GET /v1/leads/": Pipedrive._lead,
    "POST /api/v2/activities": Pipedrive._add_activity,
    "GET /api/v2/activities": Pipedrive._list_activities,
    "GET /api/v2/persons/search": Pipedrive._search_persons,
    "POST /api/v2/persons": Pipedrive._add_person,
    "GET /api/v2/persons": Pipedrive._list_persons,
    "GET /api/v2/persons/": Pipedrive._person,
    "GET /api/v2/deals": Pipedrive._list_deals,
    "GET /api/v2/deals/": Pipedrive._deal,
}

_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)([^<>]*)>")
_BREAK = re.compile(r"<br\s*/?>|</?p>", re.IGNORECASE)


def sanitized(markup: str) -> str:
    """HTML without scripts, comments and attributes but `href`, as a back-end may leave it."""
    markup = re.sub(r"(?is)<(script|style)\b.*?</\1>|<!--.*?-->", "", markup)

    def kept(found: re.Match[str]) -> str:
        closing, name, attributes = found[1], found[2].lower(), found[3]
        if name not in ("b", "i", "u", "a", "p", "br", "ul", "ol", "li", "strong", "em"):
            return ""
        link = re.search(r'href="(https?://[^"]*)"', attributes) if name == "a" and not closing else None
        return f"<{closing}{name}{f' href={chr(34)}{link[1]}{chr(34)}' if link else ''}>"

    return _TAG.sub(kept, markup)


def read_record(record: Mapping[str, Any]) -> Message:
    """A note or an activity as people read it."""
    markup = record.get("content") or record.get("note") or ""
    first, *others = (html.unescape(_TAG.sub("", line)) for line in _BREAK.split(markup))
    pairs = [(label, text) for line in others[:-1] for label, _, text in [line.partition(": ")] if text]
    return Message(title=first, fields=tuple(pairs), footer=others[-1] if others else "")


def _name_of(method: str, path: str) -> tuple[str, str]:
    """The call and the id in its path. `/api/v1` is another way to say `/v1`."""
    path = path.replace("/api/v1/", "/v1/", 1) if path.startswith("/api/v1/") else path
    name = f"{method} {path}"
    if name in _SCOPES:
        return name, ""
    parent, _, id = path.rpartition("/")
    return (f"{method} {parent}/", id) if id and f"{method} {parent}/" in _SCOPES else (name, "")


def _bad(name: str, error: str) -> _Refused:
    if "/api/v2/" in name:
        return _Refused(400, error, code="ERR_BAD_REQUEST")
    return _Refused(400, error, error_info=_INFO, data=None, additional_data=None)


def _text(value: Any, at: str, most: int, *, in_bytes: bool = True) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Wrong(at, "must be a text")
    if len(value.encode("utf-8", "surrogatepass") if in_bytes else value) > most:
        raise Wrong(at, "is too long")
    return value


def _number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,15}", text) or int(text) > most:
        raise Wrong(f"/{name}", f"must be a number of at most {most}")
    return int(text)


def _one_of(value: str, at: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise Wrong(at, f"must be one of {', '.join(allowed)}")
    return value
