"""HTTP/1.1 of the relay's own server: uvicorn's protocol with limits on what a stranger may cost.

uvicorn takes a request's head of any length and waits for it for ever. Here a head, a body and an idle connection have
their time, a head and what frames a body have their size, and connections without a request have their number. Uses
uvicorn's `HttpToolsProtocol` beyond its public face: `tests/unit/server/test_protocol.py` runs over real sockets, and
`pyproject.toml` holds uvicorn to one minor version.
"""

import asyncio
import resource
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any

import httptools
import structlog
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

PART_BYTES = 4096
"""So much is parsed at once: it bounds how many requests sent ahead are taken in before the first is answered."""
LINGER_SECONDS = 2.0
"""A client that was refused may go on to send for so long: if the connection were closed, it might lose the answer."""
LINGER_BYTES = 1 << 20
HALF_CLOSE_SECONDS = 0.25
"""A client that closes its side so soon after its request waits for the answer; one that closes later has left."""
SWEEPS_PER_LIMIT = 8
EVICTED_SHARE = 0.02

_IDLE, _HEAD, _BODY = range(3)
"""What is expected next: the first byte of a request, the rest of its head, the rest of its body."""

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 20\r\nretry-after: 1\r\n"
    b"connection: close\r\n\r\ntoo many connections"
)

log = structlog.get_logger("relay.cli")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client, and all of them, may cost.

    head_bytes   request line and headers; also what a body may have of chunk extensions and trailers without content
    silent       connections that have not sent a whole head yet, in all and from one address: the oldest has to go.
                 Connections with a request are not counted by address: a proxy in front brings all of them from one.
    connections  in all; where it is reached those have to go that wait for no answer, the longest first; where all
                 do, new ones are refused. At most a third of the files that the process may open, since a request
                 that is passed on needs two more.
    """

    head_bytes: int = 32 * 1024
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    keep_alive_seconds: int = 75
    silent: int = 1_000
    silent_of_address: int = 250
    connections: int = 20_000


class Door:
    """The connections of one server: counts them, and ends those that take too long."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._all: set[Protocol] = set()
        self._silent: dict[Protocol, None] = {}
        self._silent_of: dict[str, dict[Protocol, None]] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._full_until = 0.0

    def enter(self, protocol: "Protocol", now: float) -> bool:
        """A new connection; False where there is no room for it."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if len(self._all) >= min(self.limits.connections, max(files // 3, 1)) and not self._make_room(now):
            return False
        self._all.add(protocol)
        self._silent[protocol] = None
        of_address = self._silent_of.setdefault(protocol.address, {})
        of_address[protocol] = None
        if len(of_address) > self.limits.silent_of_address:
            next(iter(of_address)).end()
        elif len(self._silent) > self.limits.silent:
            next(iter(self._silent)).end()
        if self._sweeping is None:
            self._sweep_later(protocol.loop)
        return True

    def spoke(self, protocol: "Protocol") -> None:
        """It has sent the whole head of a request."""
        if self._silent.pop(protocol, protocol) is None:
            of_address = self._silent_of[protocol.address]
            del of_address[protocol]
            if not of_address:
                del self._silent_of[protocol.address]

    def leave(self, protocol: "Protocol") -> None:
        """It is closed, or about to be."""
        self.spoke(protocol)
        self._all.discard(protocol)

    def _make_room(self, now: float) -> bool:
        """Ends the connections that have waited for no answer for longest. Returns whether there were any."""
        if now < self._full_until:
            return False
        free = sorted((each.since, id(each), each) for each in self._all if not each.is_busy)
        for _, _, each in free[: max(1, int(len(self._all) * EVICTED_SHARE))]:
            each.end()
        if not free:
            self._full_until = now + 1.0
            log.warning("too_many_connections", connections=len(self._all), hint="new ones are refused for a moment")
        return bool(free)

    def _sweep_later(self, loop: asyncio.AbstractEventLoop) -> None:
        seconds = min(self.limits.head_seconds, self.limits.body_seconds) / SWEEPS_PER_LIMIT
        self._sweeping = loop.call_later(seconds, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeping = None
        now = loop.time()
        for each in [each for each in self._all if each.overstays(now)]:
            each.time_out()
        if self._all:
            self._sweep_later(loop)


class Protocol(HttpToolsProtocol):
    """One connection. A request that offers another protocol is read to its end all the same.

    Java's client offers `Upgrade: h2c` with every request over plain http. Nobody here takes that up; the parser ends
    such a request at its head, and its body would be lost.
    """

    def __init__(self, door: Door, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.address = ""
        self.since = self.loop.time()
        """When what is expected next began to be, or the last byte of a body came."""
        self._door = door
        self._expects = _IDLE
        self._heads = 0
        """How many heads have come whole."""
        self._head_bytes = 0
        self._frame_bytes = 0
        """What came of a body without content in it."""
        self._has_content = False
        self._offering: bytes | None = None
        self._deaf = False
        """Whether nothing more is taken in."""
        self._refused = False
        self._unheard_bytes = 0
        self._half_closed = False
        self._unsent_bytes = -1
        self._unsent_since = 0.0
        """When the client last took something of them."""
        self.held = b""
        """Requests sent ahead that are not parsed yet."""

    # --- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Lets it in, or refuses it."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self)
        self.address = _network_of(self.client[0]) if self.client else ""
        if not self._door.enter(self, self.since):
            self.transport.write(_FULL)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._door.leave(self)
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client sends nothing more. True keeps our side open for the answer it waits for."""
        if self.is_busy and self._expects != _BODY and self.loop.time() - self.since <= HALF_CLOSE_SECONDS:
            self._half_closed = True
            return True
        return None

    def end(self) -> None:
        """Closes it without a word."""
        self._door.leave(self)
        self._deaf = True
        self.transport.abort()

    @property
    def is_busy(self) -> bool:
        """Whether a whole head has come, and its answer has not gone out."""
        return self.cycle is not None and not self.cycle.response_complete

    def overstays(self, now: float) -> bool:
        """Whether it has taken longer than it may. Time in which we do not read, or owe an answer, is not counted."""
        limits = self._door.limits
        if self._refused:
            return now - self.since > min(LINGER_SECONDS, limits.head_seconds)
        if self._has_unsent:
            unsent_bytes = self.transport.get_write_buffer_size()
            if unsent_bytes != self._unsent_bytes:
                self._unsent_bytes, self._unsent_since = unsent_bytes, now
            if now - self._unsent_since > limits.body_seconds:
                return True
        if self._expects == _BODY:
            if self.cycle is not None and self.cycle.response_complete:
                return now - self.since > limits.head_seconds  # answered, and what still comes is read by nobody
            if self.flow.read_paused:
                self.since = now
            return now - self.since > limits.body_seconds
        if self.is_busy:
            if self._expects == _HEAD:
                self.since = now
            return False
        return (self._expects == _HEAD or self._heads == 0) and now - self.since > limits.head_seconds

    @property
    def _has_unsent(self) -> bool:
        """Whether more of its answers waits here than is worth nothing, or holds up its end."""
        return self.flow.write_paused or self.transport.is_closing()

    def pause_writing(self) -> None:
        """The client takes its answers more slowly than they come."""
        super().pause_writing()
        self._unsent_bytes = -1

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._unsent_bytes = -1

    def time_out(self) -> None:
        """It took too long."""
        if self._refused or self._has_unsent or (self._heads == 0 and self._head_bytes == 0):
            self.end()
        else:
            self._refuse("408 Request Timeout", "the rest of the request did not come in time")

    # --- what comes in

    def data_received(self, data: bytes) -> None:
        """Takes in what came; requests sent ahead wait unparsed until those before them are answered."""
        self._unset_keepalive_if_required()
        if self._deaf:
            self._unheard_bytes += len(data)
            if self._unheard_bytes > LINGER_BYTES:
                self.end()
        elif self.held:
            self.held += data
        else:
            self._take_in(data)

    def _take_in(self, data: bytes) -> None:
        if self._expects == _BODY and not self.cycle.response_complete:
            self.since = self.loop.time()
        at = 0
        while at < len(data) and not self._deaf:
            if self.pipeline:
                self.held = data[at:]
                self.flow.pause_reading()
                return
            size = (
                PART_BYTES
                if self._expects == _BODY
                else min(PART_BYTES, self._door.limits.head_bytes - self._head_bytes)
            )
            part = data[at : at + size]
            at += len(part)
            before, self._has_content = (self._expects, self._heads), False
            try:
                self.parser.feed_data(part)
            except httptools.HttpParserError:
                self._refuse("400 Bad Request", "Invalid HTTP request received.")
                return
            except httptools.HttpParserUpgrade as offer:
                head, self._offering = self._offering, None
                if head is None:  # CONNECT: it is answered, and nothing that follows is a request
                    self._deaf, self.cycle.keep_alive = True, False
                    return
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self._expects, self._head_bytes = _IDLE, 0
                self._take_in(head + part[offer.args[0] :] + data[at:])
                return
            self._bound(part, *before)

    def _bound(self, part: bytes, expected: int, heads: int) -> None:
        """Refuses a head that is too large, and a body that is nothing but frame."""
        if self._heads != heads:
            return
        if self._expects != _BODY and expected != _BODY:
            self._head_bytes += len(part)
            if self._head_bytes >= self._door.limits.head_bytes:
                self._refuse("431 Request Header Fields Too Large", "the request line and the headers are too large")
        elif self._expects == _BODY:
            self._frame_bytes = 0 if self._has_content else self._frame_bytes + len(part)
            if self._frame_bytes >= self._door.limits.head_bytes:
                self._refuse("431 Request Header Fields Too Large", "chunk extensions or trailers are too large")

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._expects, self.since = _HEAD, self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. Trailers are not taken in: the request was judged without them."""
        if self._expects == _HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Remembers the head of a request that offers another protocol, without the offer."""
        self._expects, self._head_bytes, self._frame_bytes = _BODY, 0, 0
        self._offering = None
        if b"://" in self.url and self.url[:1] != b"/":
            self._take_host_of_the_target()
        headers = self.headers
        if self.parser.should_upgrade():
            headers = [header for header in headers if header[0] != b"upgrade"]
        if len(headers) == len(self.headers):
            self._heads += 1
            self._door.spoke(self)
            try:
                super().on_headers_complete()
            except Exception:  # it becomes no request, so there is no body of it: the one before may be at work
                self._expects = _HEAD
                raise
            return
        line = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        self._offering = b"\r\n".join([line, *(b"%s: %s" % header for header in headers), b"", b""])

    def _take_host_of_the_target(self) -> None:
        """RFC 9112, 3.2.2: where the target is a whole URL, its host counts and that of `Host` does not."""
        authority = self.url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
        self.headers[:] = [header for header in self.headers if header[0] != b"host"]
        self.headers.append((b"host", authority))

    def on_body(self, body: bytes) -> None:
        """Content."""
        self._has_content = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request; of one that offers another protocol it is not."""
        self._expects, self.since = _IDLE, self.loop.time()
        if self._offering is None:
            super().on_message_complete()

    # --- what goes out

    def on_response_complete(self) -> None:
        """An answer is out: goes on with the requests that wait."""
        super().on_response_complete()
        if self._expects == _BODY:
            self.since = self.loop.time()
        if self.held and not self.pipeline and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            held, self.held = self.held, b""
            self._take_in(held)
            self.flow.resume_reading()
        if (self._half_closed or self._deaf) and not self.is_busy:
            self.transport.close()

    def _refuse(self, status: str, why: str) -> None:
        """Answers so, unless an answer to an earlier request is still under way: then it is the last one."""
        self._deaf = True
        cycle = self.cycle
        if self.is_busy:
            if self._expects != _BODY:
                cycle.keep_alive = False
                return
            cycle.disconnected = True  # the rest of its request will not come
            cycle.message_event.set()
            if cycle.response_started or self.pipeline:
                self.transport.close()
                return
        self._say(status, why)

    def _say(self, status: str, why: str) -> None:
        """Answers, says that nothing more will come, and hears no more."""
        self._deaf = self._refused = True
        self.since = self.loop.time()
        head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {len(why)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n{why}".encode("ascii"))
        if self.transport.can_write_eof():
            self.transport.write_eof()


class _Flow(FlowControl):
    """Does not read on while requests that were sent ahead wait."""

    def __init__(self, transport: asyncio.Transport, protocol: Protocol) -> None:
        super().__init__(transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        """Reads on, unless enough is here."""
        if not self._protocol.held:
            super().resume_reading()


def _network_of(host: str) -> str:
    """What counts as one client address: of IPv6 the network, in which one client has as many as it likes."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return str(int(address) >> 64) if isinstance(address, IPv6Address) and address.ipv4_mapped is None else host
