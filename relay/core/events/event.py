"""Events: CloudEvents 1.0 in structured JSON, built with the CloudEvents SDK and rendered once.

The SDK checks that required attributes are present. This module checks the rest: name length, types and characters of
values, size on the wire. Sources: CloudEvents 1.0.2, core §3.1 (types), JSON format §2 and §3, HTTP binding §3.2; the
extensions `sequence` and `partitionkey`.
"""

import re
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any, Literal

from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.v1.event import CloudEvent

from relay.clock import to_rfc3339
from relay.core.jobs.job import JOB_EVENTS, OTHER_WORDS, Job, Observation, Transition, kind_of_type
from relay.core.jsontext import dumps, loads
from relay.core.trace_context import TraceContext, of_kept
from relay.core.values import value_class

CONTENT_TYPE = "application/cloudevents+json"
BATCH_CONTENT_TYPE = "application/cloudevents-batch+json"
MAX_EVENT_BYTES = 65_536
"""CloudEvents 1.0.2 §5 (size limits): intermediaries must forward events of up to 64 KiB."""

RELAY_SOURCE = "/relay"
CREATE_UNKNOWN = "relay.create.unknown"
DELIVERY_EXPIRED = "relay.delivery.expired"
DELIVERY_UNCERTAIN = "relay.delivery.uncertain"
SUBSCRIPTION_DISABLED = "relay.subscription.disabled"
SUBSCRIPTION_RECOVERED = "relay.subscription.recovered"
CREDITS_LOW = "relay.credits.low"
SOURCE_TROUBLE = ("relay.source.unauthorized", "relay.source.down", "relay.source.recovered")
GROUP_FINISHED = "relay.group.finished"
INCIDENT_OPENED = "relay.incident.opened"
INCIDENT_GREW = "relay.incident.grew"
INCIDENT_CLOSED = "relay.incident.closed"
INCIDENT_EVENTS = (INCIDENT_OPENED, INCIDENT_GREW, INCIDENT_CLOSED)
RELAY_EVENTS = (
    *(SUBSCRIPTION_DISABLED, SUBSCRIPTION_RECOVERED, *SOURCE_TROUBLE, CREDITS_LOW),
    *(DELIVERY_EXPIRED, DELIVERY_UNCERTAIN, CREATE_UNKNOWN, "relay.test"),
    *(GROUP_FINISHED, *INCIDENT_EVENTS),
)
_UNORDERED = frozenset((DELIVERY_EXPIRED, DELIVERY_UNCERTAIN, CREATE_UNKNOWN, "relay.test"))
"""Events of the relay of which a subject has one only. The others keep the order of their subject."""
ACCOUNT_EVENTS = ("needs_reconnect", "cannot_send", "recovered", "added", "removed")
"""Last words of the event types about a source's connect accounts, such as `ai.revor.account.recovered`."""

JOB_PREFIX = r"(?!relay\.)([a-z0-9]+\.)+(?!account(\.|$))[a-z0-9]+"
"""A pattern of the part of a job event's type before its kind, such as `ai.revor.job`."""
JOB_SCHEMA = "job-status.v1"

_JOB_TYPE = re.compile(rf"{JOB_PREFIX}\.({'|'.join((*JOB_EVENTS, *OTHER_WORDS))})")
_STREAM = "key_"
_NAME = re.compile(r"(?!data\Z)[a-z0-9]{1,20}")
_JSON_TYPE = re.compile(r"(?:application|text)/(?:json|[^;\s]+\+json)\s*(?:;|\Z)", re.ASCII | re.IGNORECASE)
_NOT_ATTRIBUTES = frozenset(("data", "data_base64", "datacontenttype"))
_NO_HEADER_TEXT = re.compile(r'[^!-~]|["%]')
NOT_IN_ATTRIBUTES = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""Characters that no attribute's value may contain: CloudEvents 1.0.2 §3.1."""
_KEPT_TEXT_BYTES = 1536
_WITH_PROBLEM = frozenset(("failed", "cancelled", "retrying"))
_LEFT_OUT: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("request", {"metadata": {}, "truncated": True}),
    ("metadata", {}),
)
"""Data that is dropped, in this order, if an event is too large even with a cut item."""


Repeat = Literal["safe", "useless", "may_send_twice"]
PointsAt = Literal["connect_account"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """The meaning of an upstream error, and the fix.

    fix        action that removes the cause
    who        role that can take it
    repeat     effect of repeating the create. safe: nothing was sent, so nothing is sent twice; useless: it fails
               again until the cause is removed; may_send_twice: the first one may have been, or may still be, sent
    points_at  connect_account: the sending account is broken, so all jobs that use it fail until it is reconnected
    """

    meaning: str
    fix: str
    who: str
    repeat: Repeat
    points_at: PointsAt | None = None

    def document(self) -> dict[str, str]:
        """The hint as JSON in an event."""
        return {"meaning": self.meaning, "fix": self.fix, "who": self.who, "repeat": self.repeat}


Explain = Callable[[str, str], Hint | None]
"""The hint for failed jobs, by the source's name in the settings and their error code; empty: it gave none."""


def unexplained(source: str, code: str) -> Hint | None:
    """No hint."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Attributes shared by the events of a resource.

    source, type_prefix, dataschema  of the events of a resource's jobs
    account_source                   CloudEvents `source` of its account events; None: it has none
    title                            the upstream's name, in texts for people
    website                          where people sign in there; None: unknown
    succeeded_as                     the last word of the type of a success
    tells_progress                   True if changes of progress are events
    """

    source: str
    type_prefix: str
    dataschema: str
    account_source: str | None = None
    title: str = "the upstream"
    website: str | None = None
    succeeded_as: str = "succeeded"
    tells_progress: bool = False

    def type_of(self, kind: str) -> str:
        """The type of a job's event of this kind, a member of JOB_EVENTS."""
        return f"{self.type_prefix}.{self.succeeded_as if kind == 'succeeded' else kind}"


@value_class(frozen=True, slots=True, kw_only=True)
class Event:
    """A CloudEvent. `body` is its only rendering: these bytes are stored, signed and sent. Times are epoch seconds."""

    id: str
    source: str
    type: str
    subject: str | None
    time: float
    recorded_at: float
    body: bytes = field(repr=False)
    sequence: int | None = None
    job_uid: str | None = None
    owner: str | None = None
    """The account it is about, as `owner_of` writes it; None if it is about none."""
    stream: str | None = None
    """The stream that keeps the order of an event without a job, see `stream_of`. The event's place in it is its
    `sequence`, once it is recorded."""
    published: bool = False
    """True if another program has published it: its attributes, `id` included, and its data are that program's."""
    compared: dict[str, bool] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Results of comparisons with it, by their keys: see `core/subscriptions/comparisons.py`. Those evaluated to
    reserve a slot are not evaluated again when the event is recorded."""

    @property
    def order_key(self) -> str | None:
        """The job or stream that keeps its order; None: nothing does."""
        return self.job_uid or self.stream

    def document(self) -> dict[str, Any]:
        """The event as a JSON object."""
        document: dict[str, Any] = loads(self.body)
        return document


def stream_of(*key: str | None) -> str:
    """The uid of the stream that keeps the order of the events with this key. No part of it has a NUL."""
    return f"{_STREAM}{sha256(chr(0).join(part or '' for part in key).encode()).hexdigest()[:32]}"


def is_stream(order_key: str | None) -> bool:
    """True if an order is kept by a stream, False if by a job or by nothing."""
    return order_key is not None and order_key.startswith(_STREAM)


def owner_of(source: str, account: str) -> str:
    """An account as one text. Names have no slash."""
    return f"{source}/{account}"


def job_event_kind(event_type: str) -> str | None:
    """The member of JOB_EVENTS that the type of a job's event ends with; None for the other types of the relay. A type
    of another program may look like one."""
    return kind_of_type(event_type) if _JOB_TYPE.fullmatch(event_type) else None


def job_kind_in(document: Mapping[str, Any]) -> str | None:
    """The member of JOB_EVENTS that an event is of, by its JSON; None for others, and for those of other programs."""
    is_ours = str(document.get("dataschema")).endswith(f"/{JOB_SCHEMA}.json")
    return job_event_kind(str(document.get("type"))) if is_ours else None


@lru_cache(maxsize=64)
def job_event_types(origin: Origin) -> tuple[str, ...]:
    """All event types of a resource's jobs."""
    return tuple(origin.type_of(kind) for kind in JOB_EVENTS if kind != "progress" or origin.tells_progress)


@lru_cache(maxsize=64)
def account_event_types(origin: Origin) -> tuple[str, ...]:
    """All event types of a source's connect accounts; none if they are not watched."""
    if origin.account_source is None:
        return ()
    return tuple(f"{account_type_prefix(origin.type_prefix)}.{kind}" for kind in ACCOUNT_EVENTS)


def source_event_types(origin: Origin) -> tuple[str, ...]:
    """All event types of a resource, and of its source's connect accounts."""
    return (*job_event_types(origin), *account_event_types(origin))


def account_type_prefix(prefix: str) -> str:
    """`ai.revor.account` for `ai.revor.job`, and for each other resource of the source."""
    return f"{prefix.rpartition('.')[0]}.account"


def account_event_kind(event_type: str) -> str | None:
    """The member of ACCOUNT_EVENTS that an event type ends with; None for other types."""
    source, _, kind = event_type.rpartition(".account.")
    return kind if source and kind in ACCOUNT_EVENTS else None


def from_transition(
    event_id: str,
    job: Job,
    transition: Transition,
    origin: Origin,
    *,
    seen: Observation | None = None,
    hint: Hint | None = None,
    trace: TraceContext | None = None,
) -> Event:
    """The event of one transition. `seen`: the observation that proves it; None for overdue and not found. `trace`: of
    the span that records it; None: the job's.

    Raises ValueError if an attribute would violate the CloudEvents specification.
    """
    upstream = seen.upstream if seen is not None else (job.upstream or {})
    data: dict[str, Any] = {
        "job": dict(upstream) or {"id": job.external_id},
        "status": transition.status,
        "previous_status": transition.previous_status,
        "occurred_at": to_rfc3339(transition.occurred_at),
        "detected_at": to_rfc3339(transition.detected_at),
        "inferred": transition.inferred,
        "request_id": seen.request_id if seen is not None else None,
        "metadata": dict(job.metadata),
        "request": {"metadata": {}, **(job.request or {})},
        "connect_account_id": (seen.connect_account_id if seen is not None else None) or job.connect_account_id,
    }
    if hint is not None:
        data["hint"] = hint.document()
    if seen is not None and seen.problem is not None and transition.kind in _WITH_PROBLEM:
        data["problem"] = {
            "code": _cut(seen.problem.code),
            "message": _cut(seen.problem.message),
            "retryable": seen.problem.retryable,
        }
    if seen is not None and seen.advance is not None and transition.kind == "progress":
        data["progress"] = {name: getattr(seen.advance, name) for name in ("percent", "done", "total", "stage")}
    if seen is not None and transition.kind == "succeeded":
        if seen.result is not None:
            data["result"] = seen.result
        if seen.result_problem is not None:
            data["result_error"] = {"code": seen.result_problem.code, "message": _cut(seen.result_problem.message)}
    extensions = {
        "sequence": f"{transition.sequence:010d}",
        "account": job.account,
        "group": job.group,
        "channel": (seen.channel if seen is not None else None) or job.channel,
        "action": (seen.action if seen is not None else None) or job.action,
        "status": transition.status,
        "previousstatus": transition.previous_status,
        "resultstatus": seen.result_status if seen is not None and transition.kind == "succeeded" else None,
    }
    trace = trace or of_kept(job.trace)
    event_type = origin.type_of(transition.kind)
    body_of = partial(
        render,
        event_id=event_id,
        source=origin.source,
        type=event_type,
        subject=job.external_id,
        time=transition.occurred_at,
        dataschema=origin.dataschema,
        extensions={
            "partitionkey": job.external_id,
            **{name: _attribute_text(value) for name, value in extensions.items() if value},
            **dict(() if trace is None else trace.fields()),
        },
    )
    body = body_of(data=data)
    if len(body) > MAX_EVENT_BYTES and "result" in data:
        data = {**data, "result": {"truncated": True}}  # the item still says where it is
        body = body_of(data=data)
    if len(body) > MAX_EVENT_BYTES:
        data = _truncated(data, job, seen)
        body = body_of(data=data)
    for name, smaller in _LEFT_OUT:
        if len(body) > MAX_EVENT_BYTES:
            data = {**data, name: smaller}
            body = body_of(data=data)
    return Event(
        id=event_id,
        source=origin.source,
        type=event_type,
        subject=job.external_id,
        time=transition.occurred_at,
        recorded_at=transition.detected_at,
        body=body,
        sequence=transition.sequence,
        job_uid=job.uid,
        owner=owner_of(job.source, job.account),
    )


def relay_event(
    event_id: str,
    type: str,
    now: float,
    data: Mapping[str, Any],
    *,
    dataschema: str,
    subject: str | None = None,
    owner: str | None = None,
    source: str = RELAY_SOURCE,
) -> Event:
    """An event about the relay itself: one of RELAY_EVENTS. `owner`: the account whose bound tokens may see it. Events
    about one subject, such as an incident, keep their order."""
    extensions = {name: _attribute_text(value) for name in ("account", "channel", "group") if (value := data.get(name))}
    body = render(
        event_id=event_id,
        source=source,
        type=type,
        subject=subject,
        time=now,
        dataschema=dataschema,
        extensions=extensions,
        data=data,
    )
    ordered = subject is not None and type not in _UNORDERED
    return Event(
        id=event_id,
        source=source,
        type=type,
        subject=subject,
        time=now,
        recorded_at=now,
        body=body,
        owner=owner,
        stream=stream_of(owner, type.rpartition(".")[0], subject) if ordered else None,
    )


def account_event(
    event_id: str, kind: str, now: float, data: Mapping[str, Any], origin: Origin, *, dataschema: str
) -> Event:
    """An event about a connect account. `kind` is a member of ACCOUNT_EVENTS, `data` as `relay_events.account_data`
    makes it."""
    return relay_event(
        event_id,
        f"{account_type_prefix(origin.type_prefix)}.{kind}",
        now,
        data,
        dataschema=dataschema,
        subject=_attribute_text(data["account_id"]),
        owner=owner_of(data["source"], data["account"]),
        source=origin.account_source or origin.source,
    )


def render(
    *,
    event_id: str,
    source: str,
    type: str,
    subject: str | None,
    time: float,
    dataschema: str,
    extensions: Mapping[str, Any],
    data: Mapping[str, Any],
) -> bytes:
    """Renders one event as structured JSON. Raises ValueError if it would violate the specification."""
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": type,
        "subject": subject,
        "time": datetime.fromtimestamp(time, UTC),
        "datacontenttype": "application/json",
        "dataschema": dataschema,
    }
    if subject is None:
        del attributes["subject"]
    try:
        event = CloudEvent(attributes, dict(data))  # without extensions: it checks their names only
    except CloudEventValidationError as error:
        raise ValueError(str(error)) from None
    document = {**event.get_attributes(), "time": to_rfc3339(time), **extensions}
    for name, value in document.items():
        check_attribute(name, value)
    document["data"] = event.get_data()
    return dumps(document)


def in_binary_mode(event: Event) -> tuple[tuple[tuple[str, str], ...], bytes]:
    """The headers and the body of an event in binary mode: HTTP binding §3.1. Its attributes are headers, and its data
    is the body."""
    document = event.document()
    content_type, data = content_of(document)
    headers = [] if content_type is None else [("Content-Type", content_type)]
    headers += [(f"ce-{name}", header_text(value)) for name, value in attributes_of(document)]
    return tuple(headers), data


def attributes_of(document: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The attributes of an event in structured JSON, but not the content type of its data."""
    return [(name, value) for name, value in document.items() if name not in _NOT_ATTRIBUTES]


def content_of(document: Mapping[str, Any]) -> tuple[str | None, bytes]:
    """The content type and the data of an event in structured JSON, as binary mode has them: JSON format §3.1. Without
    data there may be no type."""
    content_type = document.get("datacontenttype")
    if "data_base64" in document:
        return content_type, b64decode(document["data_base64"])
    if "data" not in document:
        return content_type, b""
    data, content_type = document["data"], content_type or "application/json"
    is_text = isinstance(data, str) and not is_json_type(content_type)
    return content_type, data.encode() if is_text else dumps(data)


def is_json_type(content_type: str) -> bool:
    """True if data of this media type is JSON."""
    return _JSON_TYPE.match(content_type) is not None


def header_text(value: object) -> str:
    """An attribute's value as a header: HTTP binding §3.1.3.2, NATS binding §3.1.3.2."""
    return _NO_HEADER_TEXT.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), canonical(value))


def canonical(value: object) -> str:
    """An attribute's value as text: CloudEvents 1.0.2 §3.1."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_attribute(name: str, value: object) -> None:
    """Raises ValueError if CloudEvents 1.0.2 §3.1 does not allow the attribute's name or value."""
    if not is_attribute_name(name):
        raise ValueError(f"attribute name {name!r}: use 1 to 20 characters of a-z and 0-9, but not data")
    if isinstance(value, str):
        if not value or NOT_IN_ATTRIBUTES.search(value):
            raise ValueError(f"attribute {name}: empty, or has a control character")
    elif not isinstance(value, int):
        raise ValueError(f"attribute {name}: {type(value).__name__} is not an attribute type")
    elif not -(2**31) <= value < 2**31:  # a boolean fits too
        raise ValueError(f"attribute {name}: {value} does not fit 32 bits")


@lru_cache(maxsize=256)
def is_attribute_name(name: str) -> bool:
    """True if CloudEvents 1.0.2 §3 allows an attribute of this name."""
    return _NAME.fullmatch(name) is not None


def _attribute_text(value: object) -> str:
    """Upstream text as an allowed attribute value: control characters become spaces."""
    return NOT_IN_ATTRIBUTES.sub(" ", str(value))[:256].strip() or "-"


def _truncated(data: Mapping[str, Any], job: Job, seen: Observation | None) -> dict[str, Any]:
    """The data with only the fields of the item that the relay reads, each cut so that the event always fits."""
    kept: dict[str, Any] = {"id": job.external_id}
    if seen is not None:
        for place in seen.read_fields:
            _keep(kept, place, seen.upstream)
    return {**data, "job": kept, "truncated": True}


def _keep(kept: dict[str, Any], place: Sequence[str], item: Mapping[str, Any]) -> None:
    """Copies the scalar at a place, names of objects from the outermost, if there is one."""
    name, *inner = place
    if inner:
        nested = item.get(name)
        if isinstance(nested, Mapping):
            _keep(kept.setdefault(name, {}), inner, nested)
    elif name in item:
        value = item[name]
        if isinstance(value, str):
            kept[name] = _cut(value)
        elif value is None or isinstance(value, bool | int | float):
            kept[name] = value


def _cut(text: str) -> str:
    """The text cut to at most _KEPT_TEXT_BYTES of JSON, where a character takes up to six bytes."""
    text = text[:_KEPT_TEXT_BYTES]
    return text if len(dumps(text)) <= _KEPT_TEXT_BYTES else text[: _KEPT_TEXT_BYTES // 6]
