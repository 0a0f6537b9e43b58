"""W3C Trace Context: checks `traceparent` and `tracestate`, stores them with a job or an event, passes them on. Pure.

Invalid values are ignored and raise no error. A context that is passed on has version 00 and only the flags of that
version. Sources: Trace Context Level 2, §3.2 (traceparent), §3.3 (tracestate) and §3.4 (what may be changed);
CloudEvents extension Distributed Tracing.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from relay.core.jsontext import loads

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
SAMPLED = 0x01
RANDOM = 0x02
MAX_MEMBERS = 32
MAX_STATE_CHARACTERS = 512
"""A longer value loses whole members: first those over LONG_MEMBER_CHARACTERS, then from the end."""
LONG_MEMBER_CHARACTERS = 128
MAX_READ_CHARACTERS = 8_192
"""A longer value is not read."""

_OWS = " \t"
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_MEMBER = re.compile(r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]")
_IN_EVENTS, _DATA = f'"{TRACEPARENT}":"'.encode(), b',"data":'

Header = tuple[bytes, bytes]


class TraceContext(NamedTuple):
    """A span of a trace. Both texts are valid; `tracestate` is empty if there is none."""

    traceparent: str
    tracestate: str = ""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        """16 hexadecimal digits."""
        return self.traceparent[36:52]

    @property
    def flags(self) -> int:
        """SAMPLED and RANDOM."""
        return int(self.traceparent[53:], 16)

    def fields(self) -> tuple[tuple[str, str], ...]:
        """Its headers, which are attributes of an event too."""
        parent = (TRACEPARENT, self.traceparent)
        return (parent, (TRACESTATE, self.tracestate)) if self.tracestate else (parent,)

    def kept(self) -> str:
        """Its stored form, which `of_kept` reads."""
        return f"{self.traceparent} {self.tracestate}".rstrip(" ")


def span_context(trace_id: str, span_id: str, flags: int, tracestate: str = "") -> TraceContext:
    """The context of a span."""
    return TraceContext(f"00-{trace_id}-{span_id}-{flags & (SAMPLED | RANDOM):02x}", tracestate)


def of_kept(text: str | None) -> TraceContext | None:
    """The context of a stored form; None if that is invalid, such as the form of another version."""
    if text is None:
        return None
    parent, _, state = text.partition(" ")
    return of_values([parent], [state])


def of_values(parents: Sequence[str], states: Iterable[str]) -> TraceContext | None:
    """The context in the values of both headers; None unless there is exactly one traceparent, and it is valid."""
    if len(parents) != 1:
        return None
    found = _PARENT.fullmatch(parents[0][:MAX_READ_CHARACTERS].strip(_OWS))
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest is not None) or not (int(trace_id, 16) and int(span_id, 16)):
        return None
    return span_context(trace_id, span_id, int(flags, 16), _state(states))


def of_headers(headers: Iterable[Header]) -> TraceContext | None:
    """The context of a request. `headers`: names in lower case."""
    parents = [value for name, value in headers if name == b"traceparent"]
    if not parents:
        return None
    states = (value.decode("latin-1") for name, value in headers if name == b"tracestate")
    return of_values([one.decode("latin-1") for one in parents], states)


def of_event(body: bytes) -> TraceContext | None:
    """The context in the attributes of an event, in structured JSON as the relay writes it."""
    end = body.find(_DATA)  # attributes come first; most events have none of these
    if body.find(_IN_EVENTS, 0, end) < 0:
        return None
    return of_attributes(loads(body if end < 0 else body[:end] + b"}"))  # the data may be large


def of_attributes(attributes: Mapping[str, object]) -> TraceContext | None:
    """The context in the attributes of an event."""
    parent, state = attributes.get(TRACEPARENT), attributes.get(TRACESTATE)
    return of_values([parent], [state] if isinstance(state, str) else ()) if isinstance(parent, str) else None


def with_context(headers: Iterable[Header], context: TraceContext) -> list[Header]:
    """The headers of a request with its context replaced."""
    kept = [header for header in headers if header[0] not in (b"traceparent", b"tracestate")]
    return [*kept, *((name.encode(), value.encode()) for name, value in context.fields())]


def _state(values: Iterable[str]) -> str:
    """The values of several headers as one; empty if a member is invalid, or there are too many."""
    text = ",".join(values)
    if len(text) > MAX_READ_CHARACTERS:
        return ""
    members = [member for part in text.split(",") if (member := part.strip(_OWS))]
    if len(members) > MAX_MEMBERS or not all(map(_MEMBER.fullmatch, members)):
        return ""
    over = sum(map(len, members)) + len(members) - 1 - MAX_STATE_CHARACTERS
    for shortest in (LONG_MEMBER_CHARACTERS + 1, 1):
        for place in reversed(range(len(members))):
            if over > 0 and len(members[place]) >= shortest:
                over -= len(members.pop(place)) + 1
    return ",".join(members)
