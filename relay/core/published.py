"""CloudEvents from other programs: read in the content modes of HTTP, checked, and stored unchanged. Pure.

Sources: CloudEvents 1.0.2, core §3 and §5, HTTP binding §3.1 (binary), §3.2 (structured) and §3.3 (batched), JSON
format §2 to §4.
"""

import re
import unicodedata
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import unquote, unquote_to_bytes

from relay.clock import from_rfc3339
from relay.core.events.event import NOT_IN_ATTRIBUTES, Event, is_json_type
from relay.core.jsontext import dumps, loads
from relay.core.subscriptions.filters import (
    ATTRIBUTE_NAME,
    FREE_TYPE,
    RELAY_PREFIX,
    is_free_type,
    nearest_type,
    reserved_prefix,
)
from relay.core.trace_context import TRACEPARENT, TRACESTATE, TraceContext
from relay.core.values import value_class

MAX_EVENTS = 1_000
MAX_EVENT_BYTES = 256 * 1024
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_TEXT = 1_024
"""Maximum characters of an id, a source, a subject and a partition key."""
MAX_TYPE = 200
MAX_ATTRIBUTE = 4_096
"""Maximum characters of any other attribute."""
MAX_ATTRIBUTES = 64
MAX_NAME = 64

_SCHEME = re.compile(r"(?:https?|wss?):|[a-z][a-z0-9+.-]*:(?=/)")
_DEFAULT_PORT = re.compile(r"\.?(?::(?:80|443)?)?\Z")
_UNSEEN = frozenset(("Cc", "Cf", "Me", "Mn", "Zl", "Zp", "Zs"))
"""General categories of characters that are invisible or only modify another one."""
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and symbols that are blank."""
_URI_REFERENCE = re.compile(r"[^\s<>\"{}|\\^`\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:\s*;[ -~]*)?", re.ASCII)
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:)(\d\d)((?:\.\d+)?(?:Z|[+-]\d\d:\d\d))", re.ASCII | re.IGNORECASE)
_LONGEST = {"id": MAX_TEXT, "source": MAX_TEXT, "subject": MAX_TEXT, "partitionkey": MAX_TEXT, "type": MAX_TYPE}
_FIRST = ("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema")
_NEEDED = ("specversion", "id", "source", "type")
_DATA = ("data", "data_base64")
_OF_TRACES = (TRACEPARENT, TRACESTATE)
_TEXTS = frozenset((*_FIRST, "partitionkey"))
"""Attributes whose values are texts, and not empty."""
_COMPARED = frozenset(("id", "source", "partitionkey"))
"""Attributes that identify events and streams. In them, half a surrogate pair arrives as U+FFFD."""


class Refused(NamedTuple):
    """The reason why an event is refused. `pointer`: into the event as structured JSON."""

    code: str
    detail: str
    pointer: str = ""


class Rules(NamedTuple):
    """Restrictions on a publisher.

    known    the types of the events that only the relay makes
    sources  the CloudEvents sources of these
    account  the account that the publisher is bound to, which its events then name; None: it is not bound
    """

    known: tuple[str, ...]
    sources: frozenset[str]
    account: str | None = None


ACCOUNT_NOT_ALLOWED = "account_not_allowed"


@value_class(frozen=True, slots=True, kw_only=True)
class Draft:
    """An event that can be published.

    id             its CloudEvents id; the relay's own id is made when it is recorded
    time           its `time`, else None
    body           structured JSON, with every attribute that it came with
    partition_key  key of its order; None: unordered
    """

    id: str
    source: str
    type: str
    subject: str | None
    time: float | None
    partition_key: str | None
    body: bytes

    def event(self, event_id: str, now: float, owner: str | None, stream: str | None, sequence: int | None) -> Event:
        """The event to record."""
        return Event(
            id=event_id,
            source=self.source,
            type=self.type,
            subject=self.subject,
            time=now if self.time is None else self.time,
            recorded_at=now,
            body=self.body,
            sequence=sequence,
            stream=stream,
            published=True,
            owner=owner,
        )


class Publication(NamedTuple):
    """An event to record, whose `sequence` is not known yet, and its identity."""

    event: Event
    identity: str


class Taken(NamedTuple):
    """The result of a publication: the recorded event's id, and whether it was recorded before. `same`: False if the
    recorded event has another type."""

    id: str
    known: bool
    same: bool = True


ID_TAKEN = Refused("id_taken", "an event of another type has this source and id already: choose another id", "/id")


def identity_of(owner: str | None, source: str, id: str) -> str:
    """The unique identity of a published event: its source and id (CloudEvents §3.1.1), within its owner."""
    return sha256("\0".join((owner or "", source, id)).encode()).hexdigest()[:48]


def read_document(document: object, rules: Rules, trace: TraceContext | None = None) -> Draft | Refused:
    """Reads an event from parsed structured JSON. `trace`: of the request. The event gets it, unless it has one of its
    own or no room for it."""
    if not isinstance(document, Mapping):
        return Refused("not_an_event", "an event is a JSON object")
    attributes = {name: value for name, value in document.items() if value is not None and name not in _DATA}
    if len(attributes) > MAX_ATTRIBUTES:
        return Refused("too_many_attributes", f"an event has at most {MAX_ATTRIBUTES} attributes")
    for name, value in attributes.items():
        refused = _judged(name, value)
        if refused is not None:
            return refused
    for name in _NEEDED:
        if name not in attributes:
            return Refused("required", f"attribute {name} is needed", f"/{name}")
    refused = (
        _reserved(attributes["type"], rules.known) or _reserved_source(attributes["source"], rules.sources)
    ) or _judged_data(document)
    if refused is not None:
        return refused
    if rules.account is not None and attributes.setdefault("account", rules.account) != rules.account:
        detail = f"the token is bound to the account {rules.account}: leave the attribute account out"
        return Refused(ACCOUNT_NOT_ALLOWED, detail, "/account")
    data = {name: document[name] for name in _DATA if document.get(name) is not None}
    if "data" in document and not data:
        data = {"data": None}
    first = {name: attributes[name] for name in _FIRST if name in attributes}
    added = {} if trace is None or not attributes.keys().isdisjoint(_OF_TRACES) else dict(trace.fields())
    try:
        body = dumps({**first, **attributes, **added, **data})
        if added and len(body) > MAX_EVENT_BYTES:
            body = dumps({**first, **attributes, **data})
    except TypeError:
        return Refused("too_deep", "the data is nested too deeply", "/data")
    if len(body) > MAX_EVENT_BYTES:
        detail = f"an event has at most {MAX_EVENT_BYTES:,} bytes as JSON, this one has {len(body):,}"
        return Refused("too_large", detail)
    return Draft(
        id=attributes["id"],
        source=attributes["source"],
        type=attributes["type"],
        subject=attributes.get("subject"),
        time=None if "time" not in attributes else _time(attributes["time"]),
        partition_key=attributes.get("partitionkey"),
        body=body,
    )


def document_of_binary(headers: Iterable[tuple[str, str]], body: bytes) -> dict[str, Any] | Refused:
    """An event in binary mode as structured JSON: `ce-` headers are its attributes, the body is its data."""
    document: dict[str, Any] = {}
    content_type = None
    for name, value in headers:
        lower = name.lower()
        if lower == "content-type":
            if content_type is not None:
                return Refused("invalid", "header content-type is given twice", "/datacontenttype")
            content_type = value.strip()
        elif lower.startswith("ce-"):
            attribute = lower[3:]
            if attribute in document or attribute in (*_DATA, "datacontenttype"):
                return Refused("invalid", f"header {lower[:70]} is given twice, or names no attribute", f"/{attribute}")
            text = _header_text(value)
            if text is None:
                return Refused("invalid", f"header {lower[:70]} is not percent-encoded UTF-8", f"/{attribute}")
            document[attribute] = text
    if content_type:
        document["datacontenttype"] = content_type
    if not body:
        return document
    if content_type is None or is_json_type(content_type):
        try:
            document["data"] = loads(body)
        except ValueError:
            detail = "the body is not JSON: send it with the Content-Type that it has"
            return Refused("not_json", detail, "/data")
        return document
    text = _text(content_type, body)
    document |= {"data_base64": b64encode(body).decode()} if text is None else {"data": text}
    return document


def _judged(name: str, value: object) -> Refused | None:
    if len(name) > MAX_NAME or not _is_name(name):
        detail = f"{name[:70]!r} is no name of an attribute: 1 to 64 characters of a-z and 0-9"
        return Refused("invalid_name", detail, f"/{name[:70]}")
    if isinstance(value, str):
        longest = _LONGEST.get(name, MAX_ATTRIBUTE)
        if len(value) > longest:
            return Refused("too_long", f"attribute {name} has at most {longest:,} characters", f"/{name}")
        problem_of = _PROBLEMS.get(name)
        if (not value and name in _TEXTS) or NOT_IN_ATTRIBUTES.search(value):
            detail = f"attribute {name} is empty, or has a control character"
        elif name in _COMPARED and "\ufffd" in value:
            detail = f"attribute {name} has a broken character (U+FFFD): two events could be taken for one"
        elif problem_of is not None and (problem := problem_of(value)) is not None:
            detail = f"attribute {name}: {problem}"
        else:
            return None
    elif name in _TEXTS or not isinstance(value, int):
        detail = f"attribute {name} must be a text"
    elif isinstance(value, bool) or -(2**31) <= value < 2**31:
        return None
    else:
        detail = f"attribute {name}: it does not fit 32 bits"
    return Refused("invalid", detail, f"/{name}")


@lru_cache(maxsize=256)
def _is_name(name: str) -> bool:
    return ATTRIBUTE_NAME.fullmatch(name) is not None


@lru_cache(maxsize=16)
def _time(text: str) -> float | None:
    """The epoch seconds; None if the time is not accepted. Called twice for each event."""
    found = _RFC3339.fullmatch(text)
    if found is None:
        return None
    try:
        # RFC 3339 §5.6 and §5.7: T and Z may be lower case, and the second may be a leap second.
        return from_rfc3339("".join((found[1], found[2].replace("60", "59"), found[3])).upper())
    except ValueError:
        return None


_PROBLEMS: Mapping[str, Any] = {
    "specversion": lambda text: None if text == "1.0" else "only 1.0 is known",
    "type": lambda text: (
        None if FREE_TYPE.fullmatch(text) else "use printable ASCII without spaces, and words between the dots"
    ),
    "source": lambda text: None if _URI_REFERENCE.fullmatch(text) else "it is not a URI reference",
    "dataschema": lambda text: None if _URI_REFERENCE.fullmatch(text) else "it is not a URI",
    "datacontenttype": lambda text: None if _MEDIA_TYPE.fullmatch(text) else "it is not a media type",
    "time": lambda text: (
        "use an RFC 3339 time from 1970 to 9999, such as 2026-05-20T10:00:08Z" if _time(text) is None else None
    ),
}
"""Checks of attribute values by the specification: None, or the error."""


def _reserved(type: str, known: tuple[str, ...]) -> Refused | None:
    """The error in a type that subscriptions could not name, or could confuse with another one."""
    if is_free_type(type, known):
        return None
    if "." not in type:
        return Refused("invalid", "attribute type: it has no dot: name it like com.acme.order.paid", "/type")
    prefix = reserved_prefix(type, known)
    what = f"types that begin with {prefix}" if prefix else f"{nearest_type(type, known)} and what can be taken for it"
    return Refused("reserved_type", f"{what} are made by the relay only: choose a name of your own", "/type")


@lru_cache(maxsize=256)
def _reserved_source(source: str, sources: frozenset[str]) -> Refused | None:
    """The error in a source that a reader could mistake for the relay or an upstream."""
    text = _plain(source)
    place = _place(text)
    if text.lstrip("/").startswith(RELAY_PREFIX) or any(
        place == own or place.startswith(f"{own}/") for own in _places(sources)
    ):
        detail = "it can be taken for the relay or an upstream: choose a source of your own, such as /shop"
        return Refused("reserved_source", detail, "/source")
    return None


@lru_cache(maxsize=16)
def _places(sources: frozenset[str]) -> tuple[str, ...]:
    return tuple(_place(_plain(one)) for one in sources)


def _plain(text: str) -> str:
    """The text as a person reads it: without percent-encoding, case, accents, white space and invisible characters."""
    for _ in range(3):
        text = unquote(text)
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    seen = (one for one in text if unicodedata.category(one) not in _UNSEEN and one not in _BLANK)
    return "".join(seen).replace("\\", "/").replace("\u3002", ".")


def _place(text: str) -> str:
    """The host, if any, and the path of a plain source, with one slash between their parts."""
    text = _SCHEME.sub("", re.split(r"[?#]", text, maxsplit=1)[0])
    parts: list[str] = []
    for part in text.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    if parts:
        parts[0] = _DEFAULT_PORT.sub("", parts[0].rpartition("@")[2])
    return "/".join(parts)


def _judged_data(document: Mapping[str, Any]) -> Refused | None:
    encoded = document.get("data_base64")
    if encoded is None:
        return None
    if document.get("data") is not None:
        return Refused("invalid", "an event has data or data_base64, not both", "/data_base64")
    try:
        if isinstance(encoded, str):
            b64decode(encoded, validate=True)
            return None
    except (NotBase64, ValueError):
        pass
    return Refused("invalid", "data_base64 is not base64", "/data_base64")


def _header_text(value: str) -> str | None:
    """HTTP binding §3.1.3.2: optional quotes, then percent-encoding."""
    text = value.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    try:
        return unquote_to_bytes(text.encode("latin-1", "replace")).decode()
    except UnicodeDecodeError:
        return None


def _text(content_type: str, body: bytes) -> str | None:
    """The body as text if it is text in UTF-8; None otherwise."""
    lower = content_type.lower()
    if not (lower.startswith("text/") or "xml" in lower) or ("charset" in lower and "utf-8" not in lower):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
