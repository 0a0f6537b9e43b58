"""HubSpot's CRM API: contacts, deals, notes, tasks, their properties and associations, of one account.

Sources, all under https://developers.hubspot.com/docs: api-reference/latest/crm/objects/contacts/guide,
.../crm/activities/notes/guide and tasks/guide, .../crm/properties/guide, .../error-handling,
developer-tooling/platform/usage-guidelines, and the OpenAPI documents in
https://github.com/HubSpot/HubSpot-public-api-spec-collection (schemas, scopes).

It refuses what HubSpot refuses, and also what HubSpot only ignores: unknown fields and parameters, and values that are
no texts. It speaks the dated versions of the API, and v3 and v4, which HubSpot's own client for Python speaks. It
knows the calls of the relay only.
"""

import html
import math
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

from relay.clock import to_rfc3339
from tests.vendors.endpoint import Answer, Api, Fault, Message, Wrong, items, members, text

TOKEN = "pat-eu1-11111111-2222-3333-4444-of-the-stand-in"
PORTAL = 12345678
CORRELATION = "aeb5f871-7f07-4993-9211-075dc63e7cbf"
READ, WRITE = "crm.objects.contacts.read", "crm.objects.contacts.write"
DEALS_READ, DEALS_WRITE = "crm.objects.deals.read", "crm.objects.deals.write"
SCHEMAS = "crm.schemas.contacts.write"
ALL_SCOPES = frozenset({READ, WRITE, DEALS_READ, DEALS_WRITE, SCHEMAS, "crm.schemas.deals.write"})
"""Notes and tasks have no scopes of their own: those of contacts open them."""

TYPE_IDS = {"contacts": "0-1", "deals": "0-3", "tasks": "0-27", "notes": "0-46"}
_NAMES = {
    **{name: name for name in TYPE_IDS},
    **{name.removesuffix("s"): name for name in TYPE_IDS},
    **{id: name for name, id in TYPE_IDS.items()},
}
ASSOCIATIONS = {
    ("notes", "contacts"): 202,
    ("notes", "deals"): 214,
    ("tasks", "contacts"): 204,
    ("tasks", "deals"): 216,
}
"""`associationTypeId` by the object that is created and the one that it is about."""
GROUPS = {"contacts": "contactinformation", "deals": "dealinformation", "notes": "engagement", "tasks": "task"}

MAX_TEXT = 65_536
MAX_INPUTS = 100
MAX_PAGE = 500
"""Associations in an answer."""
MAX_UNIQUE = 10
"""Properties with unique values of one type of object."""
BURST_SECONDS = 10.0

_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s.]+(?:\.[^@\s.]+)+")
_PROPERTY = re.compile(r"[a-z][a-z0-9_]{0,99}")
_BREAK = re.compile(r"<br>|</?p>")
_TAG = re.compile(r"<[^>]*>")
_MARKUP = re.compile(
    r"</?(?!(?:a|b|br|div|em|i|li|ol|p|span|strong|u|ul)\b)[a-z!][^>]*>|<[^>]*\son[a-z]+\s*=", re.IGNORECASE
)
"""What HubSpot's editor would not have written."""
_PARAMETERS = {"archived", "after", "associations", "idProperty", "limit", "properties", "propertiesWithHistory"}
_MOMENT = re.compile(r"\d{1,13}|\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?Z)?")
_PATHS = (
    (re.compile(r"/crm/objects/20\d\d-\d\d/([^/]+)(/.*)?"), "objects"),
    (re.compile(r"/crm/v[34]/objects/([^/]+)(/.*)?"), "objects"),
    (re.compile(r"/crm/properties/20\d\d-\d\d/([^/]+)(/.*)?"), "properties"),
    (re.compile(r"/crm/v3/properties/([^/]+)(/.*)?"), "properties"),
    (re.compile(r"/account-info/(20\d\d-\d\d|v3)(/details)"), "account"),
)
_FIELD_TYPES = {
    "string": ("text", "textarea", "html", "file", "phonenumber"),
    "number": ("number", "calculation_equation"),
    "date": ("date",),
    "datetime": ("date",),
    "bool": ("booleancheckbox", "calculation_equation"),
    "enumeration": ("booleancheckbox", "checkbox", "radio", "select"),
}
_PROPERTY_FIELDS = (
    *("description", "displayOrder", "externalOptions", "formField", "hasUniqueValue", "hidden", "options"),
    *("calculationFormula", "referencedObjectType", "dataSensitivity"),
)


@dataclass(frozen=True, kw_only=True)
class Definition:
    """One property of a type of object."""

    name: str
    type: str = "string"
    group: str = ""
    unique: bool = False
    read_only: bool = False
    values: tuple[str, ...] = ()
    most: int = MAX_TEXT


def _defined(*definitions: Definition) -> dict[str, Definition]:
    always = (
        Definition(name="hs_object_id", type="number", read_only=True),
        Definition(name="hs_createdate", type="datetime", read_only=True),
        Definition(name="hs_lastmodifieddate", type="datetime", read_only=True),
        Definition(name="hs_unique_creation_key", unique=True, read_only=True),
    )
    return {one.name: one for one in (*always, *definitions)}


_TASK_STATUS = ("NOT_STARTED", "COMPLETED", "IN_PROGRESS", "WAITING", "DEFERRED")
STANDARD: Mapping[str, Mapping[str, Definition]] = {
    "contacts": _defined(
        Definition(name="email", unique=True),
        *(Definition(name=name) for name in ("firstname", "lastname", "phone", "company", "jobtitle")),
    ),
    "deals": _defined(
        *(Definition(name=name) for name in ("dealname", "dealstage", "pipeline")),
        Definition(name="amount", type="number"),
    ),
    "notes": _defined(
        Definition(name="hs_note_body"),
        Definition(name="hs_timestamp", type="datetime"),
        *(Definition(name=name) for name in ("hubspot_owner_id", "hs_attachment_ids")),
    ),
    "tasks": _defined(
        *(Definition(name=name) for name in ("hs_task_subject", "hs_task_body", "hubspot_owner_id")),
        Definition(name="hs_timestamp", type="datetime"),
        Definition(name="hs_task_reminders", type="datetime"),
        Definition(name="hs_task_status", type="enumeration", values=_TASK_STATUS),
        Definition(name="hs_task_priority", type="enumeration", values=("NONE", "LOW", "MEDIUM", "HIGH")),
        Definition(name="hs_task_type", type="enumeration", values=("EMAIL", "CALL", "TODO")),
    ),
}
"""A few of the properties that every account has."""


@dataclass(kw_only=True)
class Record:
    """One object, and the objects that it is about, as (type, id). `created`: epoch seconds."""

    id: str
    properties: dict[str, str]
    created: float = 0.0
    about: set[tuple[str, str]] = field(default_factory=set)


class _Refused(Exception):
    def __init__(self, status: int, category: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.document = {
            "status": "error",
            "message": message,
            "correlationId": CORRELATION,
            "category": category,
            **more,
        }


class HubSpot(Api):
    """One account. `calls` are (operation, document), such as ("PATCH contacts", {…}), accepted or not; `refused` the
    messages of refusals.

    scopes    of the token
    burst     requests that a token may make in ten seconds; `daily` so many more today
    faults    answers to the next calls of each operation
    """

    def __init__(
        self, *, burst: int = 100, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time
    ) -> None:
        self.scopes = set(ALL_SCOPES)
        self.daily = 250_000
        self.tokens = {TOKEN}
        self.burst = burst
        self.records: dict[str, dict[str, Record]] = {name: {} for name in TYPE_IDS}
        self.definitions = {name: dict(known) for name, known in STANDARD.items()}
        self.groups = {name: {group} for name, group in GROUPS.items()}
        self.calls: list[tuple[str, Any]] = []
        self.refused: list[str] = []
        self.faults: dict[str, list[Fault]] = {}
        self._clock, self._now = clock, now
        self._times: deque[float] = deque()
        self._made = 100

    # --- what tests ask

    def add(self, kind: str, **properties: str) -> str:
        """Somebody makes an object in HubSpot. Returns its id."""
        return self._record(kind, dict(properties)).id

    def timeline(self, kind: str, id: str) -> list[Record]:
        """The notes and tasks about an object, the oldest first."""
        found = [one for name in ("notes", "tasks") for one in self.records[name].values() if (kind, id) in one.about]
        return sorted(found, key=lambda one: int(one.id))

    @property
    def mistakes(self) -> list[str]:
        """What it has refused, but for look-ups of what is not there."""
        return [message for message in self.refused if "not found" not in message]

    @property
    def messages(self) -> list[Message]:
        """The notes and tasks as people read them."""
        made = [*self.records["notes"].values(), *self.records["tasks"].values()]
        return [read_record(record) for record in sorted(made, key=lambda one: int(one.id))]

    def fail(self, operation: str, *faults: Fault) -> None:
        """Gives these answers to the next calls of an operation."""
        self.faults.setdefault(operation, []).extend(faults)

    # --- HTTP

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer to a request. Status 0: none."""
        parts = urlsplit(url)
        area, name, rest = _place(parts.path)
        operation = f"{method} {name}{_call(area, rest)}"
        self.calls.append((operation, _loaded(body)))
        waiting = self.faults.get(operation, [])
        fault = waiting.pop(0) if waiting else None
        if fault is not None and not fault.works:
            return fault.answer
        query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        lower = {key.lower(): value for key, value in headers.items()}
        try:
            status, document = self._called(area, name, rest, method, query, lower, body)
            done = Answer.json(status, document, self._limits())
        except _Refused as refusal:
            self.refused.append(str(refusal))
            done = Answer.json(refusal.status, refusal.document, self._limits())
        return done if fault is None else fault.answer

    def _limits(self) -> tuple[tuple[str, str], ...]:
        left = max(self.burst - len(self._times), 0)
        return (
            ("X-HubSpot-RateLimit-Interval-Milliseconds", str(int(BURST_SECONDS * 1000))),
            ("X-HubSpot-RateLimit-Max", str(self.burst)),
            ("X-HubSpot-RateLimit-Remaining", str(left)),
            ("X-HubSpot-RateLimit-Daily-Remaining", str(self.daily)),
        )

    # --- what HubSpot does

    def _called(
        self,
        area: str,
        name: str,
        rest: str,
        method: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> tuple[int, Any]:
        self._authenticate(headers)
        now = self._clock()
        while self._times and self._times[0] <= now - BURST_SECONDS:
            self._times.popleft()
        if len(self._times) >= self.burst:
            raise _limited("TEN_SECONDLY_ROLLING")
        self._times.append(now)
        if self.daily < 1:
            raise _limited("DAILY")
        self.daily -= 1
        if not query.keys() <= _PARAMETERS:
            raise _invalid(f"unknown parameters: {', '.join(sorted(query.keys() - _PARAMETERS))}")
        if area == "account" and method == "GET":
            return 200, {"portalId": PORTAL, "accountType": "STANDARD", "timeZone": "Europe/Paris"}
        kind = _NAMES.get(name)
        if kind is None or area not in ("objects", "properties"):
            raise _Refused(404, "OBJECT_NOT_FOUND", "resource not found")
        document: Any = None
        if method in ("POST", "PATCH"):
            if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise _Refused(415, "VALIDATION_ERROR", "HTTP 415 Unsupported Media Type")
            document = _loaded(body)
            if document is None:
                raise _invalid("Invalid input JSON on line 1, column 1: Unexpected character")
        try:
            if area == "properties":
                return self._properties(kind, rest, method, document)
            return self._objects(kind, rest, method, query, document)
        except Wrong as wrong:
            raise _invalid(f"Invalid input JSON on line 1, column 1: {wrong}") from None

    def _authenticate(self, headers: Mapping[str, str]) -> None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self.tokens:
            message = (
                "Authentication credentials not found. This API supports OAuth 2.0 authentication and you can find "
                "more details at https://developers.hubspot.com/docs/methods/auth/oauth-overview"
            )
            raise _Refused(401, "INVALID_AUTHENTICATION", message)

    def _need(self, *scopes: str) -> None:
        """One of these scopes."""
        if self.scopes.isdisjoint(scopes):
            raise _Refused(
                403,
                "MISSING_SCOPES",
                "This app hasn't been granted all required scopes to make this call. Read more about required scopes "
                "here: https://developers.hubspot.com/scopes.",
                errors=[
                    {
                        "message": "One or more of the following scopes are required.",
                        "context": {"requiredGranularScopes": list(scopes)},
                    }
                ],
                links={"scopes": "https://developers.hubspot.com/scopes"},
            )

    # --- objects

    def _objects(
        self, kind: str, rest: str, method: str, query: Mapping[str, str], document: Any
    ) -> tuple[int, dict[str, Any]]:
        reads, writes = (DEALS_READ, DEALS_WRITE) if kind == "deals" else (READ, WRITE)
        steps = [unquote(step) for step in rest.split("/")[1:]]
        match method, steps:
            case "POST", []:
                self._need(writes)
                return 201, self._create(kind, document)
            case "POST", ["batch", "read"]:
                self._need(reads)
                return self._read_several(kind, document)
            case "GET", [id, "associations", other]:
                self._need(reads)
                return 200, self._associated(kind, id, _NAMES.get(other, other), query)
            case "GET", [id]:
                self._need(reads)
                record, wanted = self._found(kind, id, query.get("idProperty")), query.get("properties")
                return 200, self._shown(kind, record, None if wanted is None else wanted.split(","))
            case "PATCH", [id]:
                self._need(writes)
                given = members(document, "", ("properties",))["properties"]
                record = self._found(kind, id, query.get("idProperty"))
                record.properties |= self._checked(kind, given, record.id)
                return 200, self._shown(kind, record)
            case _:
                raise _Refused(405, "METHOD_NOT_ALLOWED", "HTTP 405 Method Not Allowed")

    def _create(self, kind: str, document: Any) -> dict[str, Any]:
        given = members(document, "", ("properties",), ("associations",))
        properties = self._checked(kind, given["properties"])
        for name in ("hs_timestamp",) if kind in ("notes", "tasks") else ():
            if not properties.get(name):
                raise _invalid(f"Error creating {kind}. Some required properties were not set.")
        about = set()
        for item, at in items(given.get("associations", []), "/associations", 50, 0):
            to = members(members(item, at, ("to", "types"))["to"], f"{at}/to", ("id",))["id"]
            other = text(to, f"{at}/to/id", 20)
            for type, where in items(item["types"], f"{at}/types", 10):
                spec = members(type, where, ("associationCategory", "associationTypeId"))
                about.add((self._target(kind, spec, where, other), other))
        record = self._record(kind, properties)
        record.about = about
        return self._shown(kind, record)

    def _target(self, kind: str, spec: Mapping[str, Any], at: str, id: str) -> str:
        """The type of the object that an association points at."""
        by_number = {number: to for (source, to), number in ASSOCIATIONS.items() if source == kind}
        target = by_number.get(spec["associationTypeId"])
        if target is None:
            raise _invalid(f"{at}: association type id {spec['associationTypeId']} doesn't exist for {kind}")
        if spec["associationCategory"] != "HUBSPOT_DEFINED":
            raise Wrong(f"{at}/associationCategory", "HUBSPOT_DEFINED is expected")
        if id not in self.records[target]:
            raise _Refused(404, "OBJECT_NOT_FOUND", f"Object not found. objectId are usually numeric: {id}")
        return target

    def _associated(self, kind: str, id: str, other: str, query: Mapping[str, str]) -> dict[str, Any]:
        """The notes or tasks about an object, in no order."""
        if (other, kind) not in ASSOCIATIONS:
            raise _invalid(f"No association is defined from {kind} to {other}")
        record = self._found(kind, id, None)
        ids = [one.id for one in self.records[other].values() if (kind, record.id) in one.about]
        limit, after = query.get("limit", str(MAX_PAGE)), query.get("after", "0")
        if not (limit.isdecimal() and after.isdecimal() and 1 <= int(limit) <= MAX_PAGE):
            raise _invalid(f"limit must be between 1 and {MAX_PAGE}")
        page = ids[int(after) : int(after) + int(limit)]
        label = {"category": "HUBSPOT_DEFINED", "typeId": ASSOCIATIONS[other, kind] - 1, "label": None}
        results = [{"toObjectId": id, "associationTypes": [label]} for id in page]
        end = int(after) + len(page)
        return {"results": results, **({"paging": {"next": {"after": str(end)}}} if end < len(ids) else {})}

    def _read_several(self, kind: str, document: Any) -> tuple[int, dict[str, Any]]:
        given = members(document, "", ("inputs", "properties", "propertiesWithHistory"), ("idProperty",))
        ids = [
            text(members(one, at, ("id",))["id"], f"{at}/id", 20)
            for one, at in items(given["inputs"], "/inputs", MAX_INPUTS)
        ]
        known, wanted = self.records[kind], given["properties"]
        whole = {"status": "COMPLETE", "results": [self._shown(kind, known[id], wanted) for id in ids if id in known]}
        gone = [id for id in ids if id not in known]
        if not gone:
            return 200, whole
        error = {"status": "error", "category": "OBJECT_NOT_FOUND", "message": "Could not get some objects"}
        return 207, {**whole, "numErrors": 1, "errors": [{**error, "context": {"ids": gone}}]}

    def _shown(self, kind: str, record: Record, wanted: list[str] | None = None) -> dict[str, Any]:
        """An object; with these of its properties, else all. Times are shown as texts, in whatever form they came."""
        values = {**record.properties, "hs_object_id": record.id}
        for name, known in self.definitions[kind].items():
            if known.type == "datetime" and values.get(name, "").isdecimal():
                values[name] = to_rfc3339(int(values[name]) / 1000)
        shown = values if wanted is None else {name: values.get(name) for name in ("hs_object_id", *wanted)}
        moment = to_rfc3339(record.created)
        return {"id": record.id, "properties": shown, "createdAt": moment, "updatedAt": moment, "archived": False}

    def _record(self, kind: str, properties: dict[str, str]) -> Record:
        self._made += 1
        record = Record(id=str(self._made), properties=properties, created=self._now())
        self.records[kind][record.id] = record
        return record

    def _by(self, kind: str, name: str, value: str) -> Record | None:
        known = self.definitions[kind].get(name)
        if known is None or not known.unique:
            which = f"non-unique {TYPE_IDS[kind]} property {name}"
            raise _invalid(f"Unable to perform update/upsert by {which} in portal ID {PORTAL}")
        wanted = value.lower()
        same = (one for one in self.records[kind].values() if one.properties.get(name, "").lower() == wanted)
        return next(same, None)

    def _found(self, kind: str, id: str, by: str | None) -> Record:
        record = self.records[kind].get(id) if by is None else self._by(kind, by, id)
        if record is None:
            raise _Refused(404, "OBJECT_NOT_FOUND", "resource not found")
        return record

    def _checked(self, kind: str, given: Any, id: str | None = None) -> dict[str, str]:
        """The values for the object `id`; None: for a new one."""
        if not isinstance(given, dict):
            raise Wrong("/properties", "an object is expected")
        problems = []
        for name, value in given.items():
            if not isinstance(value, str):
                raise Wrong(f"/properties/{name}", "a text is expected")
            known = self.definitions[kind].get(name)
            unknown = ("PROPERTY_DOESNT_EXIST", f'Property "{name}" does not exist')
            problem = unknown if known is None else _problem(known, value)
            if problem is None and known is not None and known.unique and value:
                same = self._by(kind, name, value)
                other = same and same.id
                if other is not None and other != id:
                    if name == "email":
                        raise _Refused(409, "CONFLICT", f"Contact already exists. Existing ID: {other}")
                    problem = ("CONFLICTING_UNIQUE_VALUE", f"{other} already has that value.")
            if problem is not None:
                problems.append({"isValid": False, "message": problem[1], "error": problem[0], "name": name})
        if problems:
            listed = orjson.dumps(problems).decode()
            details = [
                {"message": one["message"], "code": one["error"], "context": {"propertyName": [one["name"]]}}
                for one in problems
            ]
            raise _invalid(f"Property values were not valid: {listed}", errors=details)
        return dict(given)

    # --- properties

    def _properties(self, kind: str, rest: str, method: str, document: Any) -> tuple[int, Any]:
        schemas = "crm.schemas.deals.write" if kind == "deals" else SCHEMAS
        steps = [unquote(step) for step in rest.split("/")[1:]]
        match method, steps:
            case "GET", [name] if name != "groups":
                self._need(READ, WRITE, schemas)
                known = self.definitions[kind].get(name)
                if known is None:
                    raise _Refused(404, "OBJECT_NOT_FOUND", f"Property {name} does not exist")
                return 200, _described(known)
            case "POST", ["groups"]:
                self._need(schemas)
                name = text(members(document, "", ("name", "label"), ("displayOrder",))["name"], "/name", 100)
                if name in self.groups[kind]:
                    raise _Refused(409, "OBJECT_ALREADY_EXISTS", f"Property group {name} already exists")
                self.groups[kind].add(name)
                return 201, document
            case "POST", []:
                self._need(schemas)
                known = self._defined(kind, document)
                self.definitions[kind][known.name] = known
                return 201, _described(known)
            case _:
                raise _Refused(405, "METHOD_NOT_ALLOWED", "HTTP 405 Method Not Allowed")

    def _defined(self, kind: str, document: Any) -> Definition:
        given = members(document, "", ("name", "label", "groupName", "type", "fieldType"), _PROPERTY_FIELDS)
        name = text(given["name"], "/name", 100)
        text(given["label"], "/label", 250)
        if not _PROPERTY.fullmatch(name) or name.startswith("hs_"):
            raise _invalid(f"Property name {name} is not valid", subCategory="Properties.INVALID_NAME")
        if given["groupName"] not in self.groups[kind]:
            raise _invalid(f"Property group {given['groupName']} does not exist")
        if given["fieldType"] not in _FIELD_TYPES.get(given["type"], ()):
            raise _invalid(f"{given['fieldType']} is not a valid fieldType of type {given['type']}")
        if name in self.definitions[kind]:
            raise _Refused(409, "OBJECT_ALREADY_EXISTS", f"A property named '{name}' already exists.")
        unique = given.get("hasUniqueValue", False)
        if not isinstance(unique, bool):
            raise Wrong("/hasUniqueValue", "a boolean is expected")
        own = [one for one in self.definitions[kind].values() if one.unique and one.name not in STANDARD[kind]]
        if unique and len(own) >= MAX_UNIQUE:
            raise _invalid(f"There are {MAX_UNIQUE} properties with unique values already")
        values = tuple(option["value"] for option in given.get("options", ()))
        return Definition(name=name, type=given["type"], group=given["groupName"], unique=unique, values=values)


def _place(path: str) -> tuple[str, str, str]:
    """The part of the API, the type of object, and the rest of the path, still encoded."""
    for pattern, area in _PATHS:
        found = pattern.fullmatch(path)
        if found:
            return area, ("account" if area == "account" else found[1]), found[2] or ""
    return "", path, ""


def _call(area: str, rest: str) -> str:
    """What is called of a type of object, beside the objects themselves."""
    if area == "properties":
        return "/groups" if rest == "/groups" else "/properties"
    if "/associations/" in rest:
        return "/associations"
    return rest if rest == "/batch/read" else ""


def _problem(known: Definition, value: str) -> tuple[str, str] | None:
    if known.read_only:
        return "READ_ONLY_VALUE", f'"{known.name}" is a read only property; its value cannot be set.'
    if not value:
        return None
    if known.name == "email" and not _EMAIL.fullmatch(value):
        return "INVALID_EMAIL", f"Email address {value} is invalid"
    if known.type == "enumeration" and value not in known.values:
        return "INVALID_OPTION", f"{value} was not one of the allowed options"
    if known.type == "datetime" and not _MOMENT.fullmatch(value):
        return "INVALID_DATE", f"{value} was not a valid date"
    if known.type == "number" and not _is_number(value):
        return "INVALID_FLOAT", f"{value} was not a valid number"
    if known.name in ("hs_note_body", "hs_task_body") and _MARKUP.search(value):
        return "INVALID_HTML", f"{known.name} has markup that is not allowed"
    if len(value) > known.most:
        return "INVALID_LENGTH", f"{known.name} is too long: at most {known.most} characters"
    return None


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _limited(policy: str) -> _Refused:
    message = f"You have reached your {policy.lower()} limit."
    return _Refused(429, "RATE_LIMITS", message, errorType="RATE_LIMIT", policyName=policy)


def _invalid(message: str, **more: Any) -> _Refused:
    return _Refused(400, "VALIDATION_ERROR", message, **more)


def _loaded(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def read_record(record: Record) -> Message:
    """A note or a task as people read it."""
    properties = record.properties
    markup = properties.get("hs_note_body") or properties.get("hs_task_body") or ""
    lines = [text for line in _BREAK.split(markup) if (text := html.unescape(_TAG.sub("", line)).strip())]
    title, *others = [f"Task: {properties['hs_task_subject']}", *lines] if "hs_task_subject" in properties else lines
    pairs = [(label, value) for line in others[:-1] for label, _, value in [line.partition(": ")] if value]
    return Message(title=title, fields=tuple(pairs), footer=others[-1] if others else "")


def _described(known: Definition) -> dict[str, Any]:
    return {
        "name": known.name,
        "label": known.name,
        "description": "",
        "type": known.type,
        "fieldType": "text",
        "groupName": known.group,
        "hasUniqueValue": known.unique,
        "options": [],
    }
