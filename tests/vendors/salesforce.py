"""One Salesforce org: its token endpoint, and the records of the REST API that the relay reads and writes.

Sources: https://developer.salesforce.com/docs/platform/api-rest/guide, pages dome-versions, dome-upsert,
dome-sobject-create, resources-query, errorcodes and headers-api-usage; SOQL's quoted string escape sequences;
"Publish Event Messages with Salesforce APIs"; Salesforce Help, "OAuth 2.0 Client Credentials Flow". Where a page has
no example, answers that public code quotes.

It refuses what Salesforce refuses, and also what Salesforce forgives: an id in the body, a key that comes twice, a
query that it does not understand.
"""

import json
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

from relay.core.deliveries.delivery import OutboundRequest, Response
from tests.vendors.endpoint import Answer, Api, Message

ORIGIN = "https://acme.my.salesforce.com"
CLIENT_ID, CLIENT_SECRET = "3MVG9.consumer-key-of-the-stand-in", "CONSUMER-SECRET-OF-THE-STAND-IN"
TOKEN = "00Dxx0000000001!of-the-stand-in"
VERSIONS = tuple(f"{number}.0" for number in range(31, 69))
MAX_BODY_BYTES = 1_000_000
PREFIXES = {**{"Contact": "003", "Lead": "00Q", "Opportunity": "006", "Task": "00T"}, "Job_Event__c": "a00"}
"""Of ids, by object."""


class Field(NamedTuple):
    """A field. `refers`: the objects whose ids it holds; `unique` ones are external ids too."""

    type: str
    length: int = 0
    required: bool = False
    unique: bool = False
    refers: tuple[str, ...] = ()


def _text(length: int, *, required: bool = False, unique: bool = False) -> Field:
    return Field("string", length, required, unique)


JOB_EVENT: Mapping[str, Field] = {
    "Event_Id__c": _text(255, required=True, unique=True),
    "Job_Id__c": _text(255),
    "Event_Type__c": _text(255),
    "Status__c": _text(40),
    "Sentence__c": _text(255),
    "Occurred_At__c": Field("datetime"),
    "Sequence__c": Field("double"),
    "Channel__c": _text(40),
    "Action__c": _text(80),
    "Account__c": _text(80),
    "Group__c": _text(255),
    "Error_Code__c": _text(80),
    "Details__c": Field("textarea", 4000),
    "Request_Id__c": _text(80),
    "Link__c": Field("url", 255),
    "Contact__c": Field("reference", 18, refers=("Contact",)),
    "Lead__c": Field("reference", 18, refers=("Lead",)),
    "Opportunity__c": Field("reference", 18, refers=("Opportunity",)),
}
"""As `deploy/salesforce` defines it."""
TASK: Mapping[str, Field] = {
    "Event_Id__c": _text(255, unique=True),
    "Subject": _text(255),
    "Description": Field("textarea", 32_000),
    "Status": _text(255),
    "Priority": _text(20),
    "ActivityDate": Field("date"),
    "WhoId": Field("reference", 18, refers=("Contact", "Lead")),
    "WhatId": Field("reference", 18, refers=("Opportunity",)),
}
PERSON = {
    **{"FirstName": _text(40), "LastName": _text(80, required=True), "Email": Field("email", 80)},
    **{"Phone": Field("phone", 40), "MobilePhone": Field("phone", 40)},
}


def objects() -> dict[str, dict[str, Field]]:
    """The objects of an org in which the relay's definitions are deployed."""
    return {
        "Job_Event__c": dict(JOB_EVENT),
        "Task": dict(TASK),
        "Contact": dict(PERSON),
        "Lead": {**PERSON, "Company": _text(255, required=True), "IsConverted": Field("boolean")},
        "Opportunity": {"Name": _text(120, required=True)},
    }


@dataclass(kw_only=True)
class Fault:
    """An answer in place of Salesforce's own. `status` 0: the connection breaks. `works`: the call is carried out
    first. `code`: of the error, in the form of the API."""

    status: int = 0
    code: str | None = None
    message: str = "told to fail"
    fields: tuple[str, ...] = ()
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    works: bool = False

    @property
    def answer(self) -> Answer:
        """The answer."""
        if self.body is None and self.code is not None:
            return _no(self.status, self.code, self.message, list(self.fields))._replace(headers=self.headers)
        return Answer(self.status, self.body or b"", self.headers)


class _Refused(Exception):
    """An error of the API."""

    def __init__(self, status: int, code: str, message: str, fields: list[str] | None = None) -> None:
        super().__init__(code)
        self.answer = _no(status, code, message, fields)


@dataclass(kw_only=True)
class Salesforce(Api):
    """One org. Calls are in `calls` as (method, path), accepted or not; codes of refused ones in `refused`.

    objects      its objects and their fields
    read_only    objects that the user may not create or edit
    hidden       fields, as `Object.Field`, that the user may not see
    instance     `instance_url` of tokens
    api_used     requests in the last 24 hours, of `api_limit`
    faults       answers to the next calls, whatever these are
    """

    origin: str = ORIGIN
    instance: str = ORIGIN
    versions: tuple[str, ...] = VERSIONS
    objects: dict[str, dict[str, Field]] = field(default_factory=objects)
    read_only: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    run_as: bool = True
    api_used: int = 0
    api_limit: int = 15_000
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    _made: int = field(default=0, init=False, repr=False)

    def add(self, object: str, **values: Any) -> str:
        """Adds a record that people made, and returns its id."""
        self._made += 1
        id = _id_18(f"{PREFIXES.get(object, 'a01')}xx{self._made:010}")
        self.records.setdefault(object, []).append({"Id": id, **values})
        return id

    def rows(self, object: str = "Job_Event__c") -> list[dict[str, Any]]:
        """The records of an object."""
        return self.records.get(object, [])

    def take(self, request: OutboundRequest, token: str | None = TOKEN) -> Response:
        """The response to a request, as the relay gets it; with a token, if it has none itself."""
        headers = tuple(request.headers)
        if token is not None and "authorization" not in {name.lower() for name, _ in headers}:
            headers = (*headers, ("Authorization", f"Bearer {token}"))
        return super().take(replace(request, headers=headers))

    @property
    def mistakes(self) -> list[str]:
        """What it has refused, but for look-ups of what is not there."""
        return [code for code in self.refused if code != "NOT_FOUND"]

    @property
    def messages(self) -> list[Message]:
        """The Job Events and tasks as people read them."""
        made = [read_record(row, JOB_EVENT) for row in self.rows("Job_Event__c")]
        return made + [read_record(row, TASK) for row in self.rows("Task")]

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer to a request. Status 0: none."""
        parts = urlsplit(url)
        self.calls.append((method, parts.path))
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None and not fault.works:
            return fault.answer
        given = {name.lower(): value for name, value in headers.items()}
        try:
            answer = self._answered(method, parts.path, parts.query, given, body)
        except _Refused as refusal:
            answer = refusal.answer
        if answer.status >= 300:
            self.refused.append(_code_of(answer.body))
        return answer if fault is None else fault.answer

    # --- what Salesforce does

    def _answered(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if path == "/services/oauth2/token":
            return self._token(method, headers, body)
        if path.rstrip("/") == "/services/data":
            listed = [{"label": f"Version {one}", "url": f"/services/data/v{one}", "version": one} for one in VERSIONS]
            return Answer.json(200, [one for one in listed if one["version"] in self.versions])
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self.tokens:
            raise _Refused(401, "INVALID_SESSION_ID", "Session expired or invalid")
        if self.api_used >= self.api_limit:
            raise _Refused(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
        self.api_used += 1
        usage = ("Sforce-Limit-Info", f"api-usage={self.api_used}/{self.api_limit}")
        try:
            answer = self._called(method, path, query, headers, body)
        except _Refused as refusal:
            answer = refusal.answer
        return answer._replace(headers=(*answer.headers, usage))

    def _called(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Answer:
        found = re.fullmatch(r"/services/data/v(\d{2}\.0)/(query|sobjects/(\w+))/?(.*)", path)
        if found is None or found[1] not in self.versions:
            raise _not_found()
        version, kind, object, rest = int(found[1].partition(".")[0]), found[2], found[3], found[4]
        if kind == "query":
            return self._query(method, rest, query)
        if object not in self.objects:
            raise _not_found()
        pieces = rest.split("/") if rest else []
        if any("%" not in piece and unquote(piece) != piece for piece in pieces):
            raise _not_found()
        match method, [unquote(piece) for piece in pieces]:
            case "GET", ["describe"]:
                return Answer.json(200, self._description(object))
            case "GET", []:
                described = {name: value for name, value in self._description(object).items() if name != "fields"}
                return Answer.json(200, {"objectDescribe": described, "recentItems": []})
            case "PATCH", [name, value]:
                return self._upsert(object, name, value, _document(headers, body), version)
        raise _Refused(405, "METHOD_NOT_ALLOWED", f"HTTP Method '{method}' not allowed. Allowed are HEAD,GET,POST")

    def _token(self, method: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if method != "POST" or not headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return _no_token("invalid_request", "must use HTTP POST")
        form = {name: values[0] for name, values in parse_qs(body.decode("ascii", "replace")).items()}
        if form.get("grant_type") != "client_credentials":
            return _no_token("unsupported_grant_type", "grant type not supported")
        id, secret = form.get("client_id"), form.get("client_secret")
        scheme, _, encoded = headers.get("authorization", "").partition(" ")
        if scheme == "Basic":
            given = b64decode(encoded).decode().partition(":")
            id, secret = unquote(given[0]), unquote(given[2])
        if id != CLIENT_ID:
            return _no_token("invalid_client_id", "client identifier invalid")
        if secret != CLIENT_SECRET:
            return _no_token("invalid_client", "invalid client credentials")
        if not self.run_as:
            return _no_token("invalid_grant", "no client credentials user enabled")
        self._made += 1
        token = f"{TOKEN}.{self._made}"
        self.tokens.add(token)
        made = {
            **{"access_token": token, "signature": "c2lnbmF0dXJl", "scope": "api", "instance_url": self.instance},
            **{"id": f"{self.origin}/id/00Dxx0000000001EAA/005xx000001SwiU", "token_type": "Bearer"},
            "issued_at": "1779271208000",
        }
        return Answer.json(200, made)

    def _visible(self, object: str) -> dict[str, Field]:
        return {name: one for name, one in self.objects[object].items() if f"{object}.{name}" not in self.hidden}

    def _description(self, object: str) -> dict[str, Any]:
        may = object not in self.read_only
        shown = [
            {
                **{"name": name, "type": one.type, "length": one.length, "createable": may, "updateable": may},
                **{"externalId": one.unique, "unique": one.unique, "nillable": not one.required},
                **{"custom": name.endswith("__c"), "referenceTo": list(one.refers)},
            }
            for name, one in self._visible(object).items()
        ]
        return {"name": object, "createable": may, "updateable": may, "queryable": True, "fields": shown}

    def _matching(self, object: str, name: str, value: str) -> list[dict[str, Any]]:
        known = self._visible(object).get(name)
        if known is None or not known.unique:
            message = f"Provided external ID field does not exist or is not accessible: {name}"
            raise _Refused(404, "NOT_FOUND", message)
        return [row for row in self.rows(object) if row.get(name) == value]

    def _upsert(self, object: str, name: str, value: str, given: dict[str, Any], version: int) -> Answer:
        found = self._matching(object, name, value)
        if name in given:
            raise _Refused(400, "INVALID_FIELD", f"The {name} field should not be specified in the sobject data.")
        if not value or len(value) > self.objects[object][name].length:
            raise _Refused(400, "STRING_TOO_LONG", f"{name}: data value too large: {value} (max length=255)", [name])
        if len(found) > 1:
            place = f"/services/data/v{version}.0/sobjects/{object}"
            return Answer.json(300, [f"{place}/{row['Id']}" for row in found])
        self._check(object, given, is_new=not found, also={name: value})
        if found:
            found[0].update(given)
            return Answer.json(200, {"id": found[0]["Id"], "success": True, "errors": [], "created": False})
        id = self.add(object, **{name: value}, **given)
        return Answer.json(201, {"id": id, "success": True, "errors": [], "created": True})

    def _check(
        self, object: str, given: Mapping[str, Any], *, is_new: bool, also: Mapping[str, str] | None = None
    ) -> None:
        """Raises an error unless the user may write these values, and they are valid."""
        known = self.objects[object]
        for name in given:
            if name in ("Id", "id"):
                raise _Refused(400, "INVALID_FIELD", "The Id field should not be specified in the sobject data.")
            if name not in known:
                raise _Refused(400, "INVALID_FIELD", f"No such column '{name}' on sobject of type {object}")
        if object in self.read_only:
            if is_new:
                message = f"entity type cannot be inserted: {object}"
                raise _Refused(400, "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", message, [])
            raise _Refused(400, "INSUFFICIENT_ACCESS_OR_READONLY", "insufficient access rights on object id", [])
        closed = [name for name in given if f"{object}.{name}" in self.hidden]
        if closed:
            message = f"Unable to create/update fields: {', '.join(closed)}. Please check the security settings of …"
            raise _Refused(400, "INVALID_FIELD_FOR_INSERT_UPDATE", message, closed)
        for name, value in given.items():
            self._check_value(name, known[name], value)
        if object == "Task" and given.get("WhatId") and str(given.get("WhoId")).startswith(PREFIXES["Lead"]):
            message = "related to ID: a task of a lead cannot be related to anything"
            raise _Refused(400, "FIELD_INTEGRITY_EXCEPTION", message, ["WhatId"])
        values = {**given, **(also or {})}
        missing = [name for name, one in known.items() if one.required and is_new and values.get(name) in (None, "")]
        if missing:
            message = f"Required fields are missing: [{', '.join(missing)}]"
            raise _Refused(400, "REQUIRED_FIELD_MISSING", message, missing)

    def _check_value(self, name: str, known: Field, value: Any) -> None:
        if value is None:
            return
        if known.type in ("double", "boolean"):
            wanted = (int, float) if known.type == "double" else bool
            if not isinstance(value, wanted) or (known.type == "double" and isinstance(value, bool)):
                raise _unreadable(known.type, value)
            return
        if not isinstance(value, str):
            raise _unreadable(known.type, value)
        if known.type in ("date", "datetime"):
            _check_time(known.type, value)
        elif known.refers:
            self._check_reference(name, known, value)
        elif len(value.encode("utf-16-le", "surrogatepass")) // 2 > known.length:
            message = f"{name}: data value too large: {value} (max length={known.length})"
            raise _Refused(400, "STRING_TOO_LONG", message, [name])

    def _check_reference(self, name: str, known: Field, value: str) -> None:
        wanted = [object for object in known.refers if value[:3] == PREFIXES[object]]
        if not wanted:
            raise _Refused(400, "MALFORMED_ID", f"{name}: id value of incorrect type: {value}", [name])
        if _is_malformed(value):
            raise _Refused(400, "MALFORMED_ID", f"{name}: malformed id {value}", [name])
        found = [row for row in self.rows(wanted[0]) if row["Id"][:15] == value[:15]]
        if not found:
            raise _Refused(400, "INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id", [])
        if found[0].get("IsConverted") is True:
            raise _Refused(400, "CANNOT_UPDATE_CONVERTED_LEAD", "cannot reference converted lead", [])

    # --- queries

    def _query(self, method: str, rest: str, query: str) -> Answer:
        asked = parse_qs(query, strict_parsing=True, keep_blank_values=True) if query else {}
        if method != "GET" or rest or list(asked) != ["q"]:
            raise _Refused(400, "MALFORMED_QUERY", "A query string has to be specified")
        if len(query) > 16_000:
            return Answer(414)
        found = _SELECT.fullmatch(asked["q"][0])
        if found is None:
            raise _malformed()
        names, object = [name.strip() for name in found["names"].split(",")], found["object"]
        if object not in self.objects:
            raise _Refused(400, "INVALID_TYPE", f"sObject type '{object}' is not supported.")
        known = {"Id", "CreatedDate", *self._visible(object)}
        where = _Where(found["where"])
        for name in (*names, *where.names):
            if name not in known:
                raise _Refused(400, "INVALID_FIELD", f"No such column '{name}' on entity '{object}'.")
        rows = [row for row in self.rows(object) if where.holds(row)]
        place = f"/services/data/v60.0/sobjects/{object}"
        shown = [
            {"attributes": {"type": object, "url": f"{place}/{row['Id']}"}, **{name: row.get(name) for name in names}}
            for row in rows[: int(found["limit"] or 2000)]
        ]
        return Answer.json(200, {"totalSize": len(shown), "done": True, "records": shown})


def read_record(row: Mapping[str, Any], known: Mapping[str, Field]) -> Message:
    """A record as its page shows it: the sentence, the lines below it, and what it is linked to."""
    lines = str(row.get("Details__c") or row.get("Description") or "").splitlines()
    pairs = [tuple(line.partition(": ")[::2]) for line in lines if ": " in line]
    pairs += [("Link", str(row["Link__c"]))] if row.get("Link__c") else []
    linked = [f"{name}: {row[name]}" for name, one in known.items() if one.refers and row.get(name)]
    title = str(row.get("Sentence__c") or row.get("Subject"))
    footer = " · ".join([*linked, str(row["Event_Id__c"])])
    return Message(title=title, fields=tuple((label, text) for label, text in pairs), footer=footer)


_QUOTED = r"'(?:[^'\\]|\\[nNrRtTbBfF\"'\\]|\\u[0-9a-fA-F]{4})*'"
_SELECT = re.compile(
    r"SELECT\s+(?P<names>\w+(?:\s*,\s*\w+)*)\s+FROM\s+(?P<object>\w+)"
    rf"(?:\s+WHERE\s+(?P<where>(?:{_QUOTED}|[^'])+?))?"
    r"(?:\s+LIMIT\s+(?P<limit>\d{1,4}))?",
    re.DOTALL,
)
_TOKEN = re.compile(rf"\s*(?:(?P<text>{_QUOTED})|(?P<word>\w+)|(?P<sign>[=(),]))", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_SINGLE = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_VALUES: Mapping[str, object] = {"true": True, "false": False, "null": None}
_Test = Callable[[Mapping[str, Any]], bool]


class _Where:
    """The condition of a query: `=` and `IN`, joined by AND or by OR; both together need parentheses."""

    def __init__(self, text: str | None) -> None:
        self.names: list[str] = []
        self._tokens: list[str] = []
        at = 0
        while text is not None and at < len(text.rstrip()):
            found = _TOKEN.match(text, at)
            if found is None:
                raise _malformed()
            self._tokens.append(found[0].strip() if found["text"] is None else found["text"])
            at = found.end()
        self.holds: _Test = (lambda row: True) if text is None else self._joined()
        if self._tokens:
            raise _malformed()

    def _next(self, wanted: str | None = None) -> str:
        token = self._tokens.pop(0) if self._tokens else ""
        if not token or wanted not in (None, token.upper()):
            raise _malformed()
        return token

    def _joined(self) -> _Test:
        tests, word = [self._one()], ""
        while self._tokens and self._tokens[0].upper() in ("AND", "OR"):
            following = self._next().upper()
            if word not in ("", following):
                raise _malformed()
            word = following
            tests.append(self._one())
        return lambda row: any(test(row) for test in tests) if word == "OR" else all(test(row) for test in tests)

    def _one(self) -> _Test:
        name = self._next()
        if name == "(":
            test = self._joined()
            self._next(")")
            return test
        if not re.fullmatch(r"\w+", name):
            raise _malformed()
        self.names.append(name)
        sign = self._next()
        if sign == "=":
            values = [self._value()]
        elif sign.upper() == "IN":
            self._next("(")
            values = [self._value()]
            while self._tokens[:1] == [","]:
                self._next(",")
                values.append(self._value())
            self._next(")")
        else:
            raise _malformed()
        if name == "Id":
            if any(_is_malformed(value) for value in values):
                raise _Refused(400, "INVALID_QUERY_FILTER_OPERATOR", "invalid ID field: …")
            return lambda row: row["Id"][:15] in {str(value)[:15] for value in values}
        return lambda row: any(_equal(row.get(name), value) for value in values)

    def _value(self) -> object:
        token = self._next()
        if not token.startswith("'"):
            if token not in _VALUES:
                raise _malformed()
            return _VALUES[token]
        return _ESCAPE.sub(_unescaped, token[1:-1])


def _unescaped(one: re.Match[str]) -> str:
    return chr(int(one[1][1:], 16)) if len(one[1]) > 1 else _SINGLE.get(one[1].lower(), one[1])


def _malformed() -> _Refused:
    return _Refused(400, "MALFORMED_QUERY", "unexpected token")


def _equal(stored: object, wanted: object) -> bool:
    """Texts are compared without case, as SOQL does; a check box that nobody ticked is false."""
    if isinstance(stored, str) and isinstance(wanted, str):
        return stored.lower() == wanted.lower()
    return stored == wanted or (stored is None and wanted is False)


def _document(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _Refused(415, "UNSUPPORTED_MEDIA_TYPE", "Content type not supported")
    if len(body) > MAX_BODY_BYTES:
        raise _Refused(413, "REQUEST_ENTITY_TOO_LARGE", "too large")
    try:
        given = json.loads(body, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        raise _Refused(400, "JSON_PARSER_ERROR", f"Unexpected character: {type(error).__name__}") from None
    if not isinstance(given, dict):
        raise _Refused(400, "JSON_PARSER_ERROR", "Cannot deserialize instance of sobject")
    return given


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def _check_time(type: str, value: str) -> None:
    try:
        if type == "date":
            date.fromisoformat(value)
            good = re.fullmatch(r"\d{4}-\d\d-\d\d", value) is not None
        else:
            good = datetime.fromisoformat(value).astimezone(UTC).year >= 1700 and "T" in value and len(value) > 19
    except ValueError:
        good = False
    if not good:
        raise _unreadable(type, value)


def _unreadable(type: str, value: object) -> _Refused:
    kind = {str: "VALUE_STRING", bool: "VALUE_TRUE", int: "VALUE_NUMBER_INT", dict: "START_OBJECT"}
    found = kind.get(value.__class__, "START_ARRAY")
    return _Refused(400, "JSON_PARSER_ERROR", f"Cannot deserialize instance of {type} from {found} value")


def _is_malformed(id: object) -> bool:
    is_id = isinstance(id, str) and re.fullmatch(r"\w{15}|\w{18}", id, re.ASCII) is not None
    return not is_id or (len(str(id)) == 18 and _id_18(str(id)[:15]) != id)


def _id_18(id: str) -> str:
    """An id of 15 characters with the three that tell upper case from lower."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
    chunks = (id[start : start + 5] for start in (0, 5, 10))
    return id + "".join(letters[sum("A" <= one <= "Z" and 1 << at for at, one in enumerate(part))] for part in chunks)


def _not_found() -> _Refused:
    return _Refused(404, "NOT_FOUND", "The requested resource does not exist")


def _no(status: int, code: str, message: str, fields: list[str] | None = None) -> Answer:
    error = {"message": message, "errorCode": code}
    return Answer.json(status, [error if fields is None else {**error, "fields": fields}])


def _no_token(error: str, description: str) -> Answer:
    return Answer.json(400, {"error": error, "error_description": description})


def _code_of(body: bytes) -> str:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    if isinstance(found, dict):
        return str(found.get("error", ""))
    first = found[0] if isinstance(found, list) and found else None
    return str(first.get("errorCode", "")) if isinstance(first, dict) else ""
