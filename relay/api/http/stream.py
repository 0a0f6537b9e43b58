"""Events as server-sent events. `id` is the event's id, so that a client can resume with `Last-Event-ID`.

A stream never skips an event: it reads the store from its position, and signals only trigger the next read. The watch
starts before the first read. Signals can get lost, so each heartbeat also reads; while a committed event is still
hidden (see `Tail`), the stream reads again after growing pauses. The stream of a purged job ends, and so does that of a
caller whose token is no longer valid.

A stream holds one page of events, bounded in bytes, and reads the next one only once the client has taken it. The
server ends the connection of a client that does not read (`relay/server/http_server.py`).
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import orjson
from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from relay.api.http.operations import Call
from relay.api.http.problems import invalid_parameter
from relay.core.events.event import Event
from relay.core.jobs.job import Job
from relay.limiter import Limiter
from relay.signals import ALL_EVENTS, Watch

if TYPE_CHECKING:
    from relay.api.events.events import Wanted

MEDIA_TYPE = "text/event-stream"
HEARTBEAT_SECONDS = 15.0
SLICE_SECONDS = 1.0
HIDDEN_SECONDS = 0.05
"""The first pause while an event is hidden. Later pauses double, up to SLICE_SECONDS."""
PAGE_COUNT = 200
PAGE_BYTES = 64 << 10
"""Bytes of the events that a stream reads at once. A larger event is read alone."""

EVENT_ID_PATTERN = "^evt_[0-9a-z]{26}$"

_EVENT_ID = re.compile(EVENT_ID_PATTERN)
_CONNECTED = b": connected\n\n"
_HEARTBEAT = b": still here\n\n"


def is_wanted(headers: Headers) -> bool:
    """True if `Accept` names the stream's media type, and JSON not before it."""
    named = [part.partition(";")[0].strip().lower() for part in ",".join(headers.getlist("accept")).split(",")]
    wanted = [name for name in named if name in (MEDIA_TYPE, "application/json")]
    return bool(wanted) and wanted[0] == MEDIA_TYPE


def fragment(event: Event) -> orjson.Fragment:
    """The stored bytes of an event, for use inside a JSON document."""
    return orjson.Fragment(event.body)


async def of_all(call: Call, wanted: "Wanted") -> Response:
    """`GET /v1/events/stream`, with the events that are wanted."""
    last_id = last_event_id(call.request.headers)
    events = call.dependencies.store.events
    position = await events.newest_position() if last_id is None else await events.position_of(last_id) or 0

    async def frames() -> AsyncGenerator[bytes, None]:
        yield _CONNECTED
        at, pause_seconds = position, HIDDEN_SECONDS
        with call.dependencies.signals.watch(ALL_EVENTS) as watch:
            rest = _Rest(call, watch)
            while rest.goes_on:
                tail = await events.tail(at, PAGE_COUNT, PAGE_BYTES)
                if tail.last != at:
                    at, pause_seconds = tail.last, HIDDEN_SECONDS
                found = [event for _, event in tail.events]
                shown = await wanted.of(found, call.dependencies.admission.filtering, call.caller)
                if shown and rest.goes_on:  # the token may be gone since the reading began
                    yield _frames(shown)
                    rest.spoke()
                elif rest.is_overdue:  # it has read events for long, and none was wanted
                    yield _HEARTBEAT
                    rest.spoke()
                if not tail.more:
                    async for beat in rest.until_signal(pause_seconds if tail.hidden else HEARTBEAT_SECONDS):
                        yield beat
                    pause_seconds = min(2 * pause_seconds, SLICE_SECONDS) if tail.hidden else HIDDEN_SECONDS

    return _response(call, frames())


async def of_job(call: Call, job: Job) -> Response:
    """`GET /v1/jobs/{id}/events` as a stream. It ends after the last event of a closed job."""
    last_id = last_event_id(call.request.headers)
    events, jobs = call.dependencies.store.events, call.dependencies.store.jobs
    last = None if last_id is None else await events.get(last_id)
    sequence = last.sequence or 0 if last is not None and last.job_uid == job.uid else 0
    if last_id is not None and not job.open and not await events.of_job(job.uid, after_sequence=sequence, count=1):
        return Response(status_code=204)  # makes an EventSource stop reconnecting

    async def frames() -> AsyncGenerator[bytes, None]:
        yield _CONNECTED
        at = sequence
        with call.dependencies.signals.watch(job.uid) as watch:
            rest = _Rest(call, watch)
            while rest.goes_on:
                # Read the job first: once it is closed, all its events can be read.
                now = await jobs.get(job.uid)
                tail = await events.tail_of_job(job.uid, at, PAGE_COUNT, PAGE_BYTES)
                if tail.events and rest.goes_on:
                    at = tail.events[-1][0]
                    yield _frames([event for _, event in tail.events])
                    rest.spoke()
                if not tail.more:
                    if now is None or not now.open:
                        return
                    async for beat in rest.until_signal(HEARTBEAT_SECONDS):
                        yield beat

    return _response(call, frames())


class _Rest:
    """Waits between two reads, with a heartbeat after each HEARTBEAT_SECONDS of silence."""

    def __init__(self, call: Call, watch: Watch) -> None:
        self._call = call
        self._watch = watch
        self._silent_seconds = 0.0
        self._spoke_at = asyncio.get_running_loop().time()

    @property
    def is_overdue(self) -> bool:
        """True if the last bytes were sent long ago, whatever it has done since."""
        return asyncio.get_running_loop().time() - self._spoke_at >= HEARTBEAT_SECONDS

    @property
    def goes_on(self) -> bool:
        """False once the node stops, or the caller may no longer read."""
        return not self._call.dependencies.node.stopping and self._call.is_allowed

    def spoke(self) -> None:
        """Restarts the time until the next heartbeat."""
        self._silent_seconds = 0.0
        self._spoke_at = asyncio.get_running_loop().time()

    async def until_signal(self, timeout_seconds: float) -> AsyncIterator[bytes]:
        """Yields heartbeats until a signal or the timeout; in slices, so that a stopping node does not wait, and a
        stream ends soon after its token."""
        left, loop = timeout_seconds, asyncio.get_running_loop()
        while left > 0 and self.goes_on:
            turn, began = min(left, SLICE_SECONDS), loop.time()
            signalled = await self._watch.wait(turn)
            # Also before a signal: those of events that this stream does not show must not silence the heartbeat.
            self._silent_seconds += min(turn, loop.time() - began) if signalled else turn
            if self._silent_seconds >= HEARTBEAT_SECONDS:
                self.spoke()
                yield _HEARTBEAT
            if signalled:
                return
            left -= turn


def _response(call: Call, frames: AsyncGenerator[bytes, None]) -> Response:
    headers = {"X-Accel-Buffering": "no"}
    if call.request.method == "HEAD":
        return Response(headers=headers, media_type=MEDIA_TYPE)
    return SlotResponse(frames, call.dependencies.admission.streams, call.caller, MEDIA_TYPE, headers)


class SlotResponse(StreamingResponse):
    """A long response. It takes a slot of its caller, and always frees it and closes its content."""

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        slots: Limiter,
        caller: str,
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        """Raises TooMany if the caller, or all of them, have no slot left."""
        slots.take(caller)
        super().__init__(content, headers=headers, media_type=media_type)
        self._content = content
        self._release = partial(slots.release, caller)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()
            await self._content.aclose()


def _frames(events: Iterable[Event]) -> bytes:
    return b"".join(_frame(event) for event in events)


def _frame(event: Event) -> bytes:
    return b"id: " + event.id.encode() + b"\nevent: " + event.type.encode() + b"\ndata: " + event.body + b"\n\n"


def last_event_id(headers: Headers) -> str | None:
    """The value of `Last-Event-ID`, None without one. Raises InvalidRequest if it is not an event id."""
    given = headers.get("last-event-id")
    if given is None:
        return None
    if _EVENT_ID.fullmatch(given) is None:
        detail = (
            f"Last-Event-ID: {given[:64]!r} is not an event id: send the last `id` of the stream, or omit the header"
        )
        raise invalid_parameter("Last-Event-ID", detail, code="invalid_last_event_id")
    return given
