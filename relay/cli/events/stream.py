"""The stream of events over server-sent events, with reconnection."""

import http.client
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from relay.cli.client import Api, ApiError, Unreachable
from relay.cli.output import note

SILENCE_TIMEOUT_SECONDS = 90.0
MAX_LINE_BYTES = 4 << 20
FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent:
    """One server-sent event. `data` is the exact JSON of the CloudEvent."""

    id: str
    data: bytes


def follow(api: Api, on_ready: Callable[[], None] = lambda: None) -> Iterator[ServerEvent]:
    """Yields every event from now on. After a lost connection it reconnects and continues after the last event.

    Calls `on_ready` once, when the first connection is open: no later event is missed. Raises ApiError if the relay
    refuses, and Unreachable if the first connection fails.
    """
    newest = api.get("/v1/events", {"limit": 1})
    # The starting position, so that an event before the first one received is not lost with the connection.
    last_event_id: str | None = next(iter(newest["ids"]), None)
    pause, is_ready = FIRST_PAUSE_SECONDS, False
    while True:
        reason = "the stream ended"
        try:
            headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
            if last_event_id:
                headers["Last-Event-ID"] = last_event_id
            with api.open("GET", "/v1/events/stream", headers=headers, timeout=SILENCE_TIMEOUT_SECONDS) as response:
                if not is_ready:
                    is_ready = True
                    on_ready()
                for event in _server_events(response):
                    pause = FIRST_PAUSE_SECONDS
                    last_event_id = event.id or last_event_id
                    yield event
        except Unreachable as error:
            if not is_ready:
                raise
            reason = str(error)
        except ApiError as error:
            if error.status < 500 and error.status != 429:
                raise
            reason = str(error)
        note(f"relay: {reason}; reconnecting in {pause:g} s")
        time.sleep(pause)
        pause = min(pause * 2, MAX_PAUSE_SECONDS)


def _server_events(response: http.client.HTTPResponse) -> Iterator[ServerEvent]:
    """The subset of https://html.spec.whatwg.org/multipage/server-sent-events.html that a relay sends."""
    event_id, data = "", list[bytes]()
    while line := response.readline(MAX_LINE_BYTES):
        line = line.rstrip(b"\r\n")
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if data:
                yield ServerEvent(id=event_id, data=b"\n".join(data))
            data = []
        elif name == b"data":
            data.append(value)
        elif name == b"id":
            event_id = value.decode(errors="replace")
