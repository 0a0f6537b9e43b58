"""The HTTP/1.1 server that `relay serve` and `relay sandbox` share: uvicorn's, with limits on what one client can use.

uvicorn accepts a request head of any size and waits for it forever. Here heads, bodies, answers and idle connections
have time limits, and heads and body framing have size limits. `Limits` has them all.
"""

import asyncio
import contextlib
import fcntl
import re
import resource
import socket
import termios
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import Any

import httptools
import structlog
import uvicorn

# Private parts of uvicorn: its protocol, whose attributes and callbacks `Protocol` uses, its request cycle and its flow
# control. tests/unit/server/test_http_protocol.py breaks if they change, so pyproject.toml pins one minor version.
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from relay.core.jsontext import dumps
from relay.errors import PROBLEM_MEDIA_TYPE, PROBLEM_TYPE_PREFIX

SWEEPS_PER_LIMIT = 8
EVICTED_SHARE = 0.02
GRACE_SECONDS = 1.0
"""A client that has waited for less is not judged by how fast it reads."""
DRAIN_SECONDS = 0.02
"""Interval at which a stopping server checks its connections."""
UNREAD_SECONDS = 0.1
"""An idle connection stays open for at least this time after the server has stopped listening."""
FORCED_SECONDS = 0.1
"""Maximum delay until a stopping server notices that it has to stop at once."""
KEPT_SECONDS = 1.0
"""Time that a stopping node waits for the next request of a connection that was in use a moment ago."""
CHUNK_BYTES = 4096
"""Bytes parsed at once. Bounds how many pipelined requests are accepted before the first is answered."""
PIPELINED_BYTES = 4096
"""Memory of a pipelined request that was parsed."""
DISCARD_SECONDS = 2.0
"""Time that input of a refused client is discarded. Closing at once could make it lose the answer."""
DISCARD_BYTES = 1 << 20
HALF_CLOSE_SECONDS = 0.25
"""A client that closes its side within this time of its request still waits for the answer; a later one has left."""
LATE_SECONDS = 0.25
"""Time that input is read after an idle connection was closed on our side, so that a late request meets no reset."""

Fault = tuple[str, str]
"""The status line of an answer that refuses a request, and why."""
VERSIONS = ("1.1", "1.0")
# uri-host [":" port] of RFC 3986; a zone in an IPv6 literal (RFC 6874) passes, an empty host does too (RFC 9112, 3.2)
_AUTHORITY = re.compile(
    rb"(?:\[[0-9A-Za-z:.%~_-]+\]|(?:[0-9A-Za-z._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?"
).fullmatch

_IDLE, _HEAD, _BODY = range(3)
"""The expected input: the first byte of a request, the rest of its head, or the rest of its body."""

_INVALID: Fault = ("400 Bad Request", "this is not an HTTP request")
_FULL: Fault = ("503 Service Unavailable", "too many connections: try again in a second")

log = structlog.get_logger("relay.server")


def fault_of(version: str, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Fault | None:
    """The reason to refuse a head, beyond what the parser refuses; None if there is none. Names of headers are in lower
    case.

    Two servers in a row that read one head differently can be made to see different requests, or a different host. So
    what RFC 9112 forbids is refused, also where the parser could make sense of it.
    """
    if version not in VERSIONS:
        return "505 HTTP Version Not Supported", "send HTTP/1.1 or HTTP/1.0"
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 and (hosts or version == "1.1"):
        return _bad("send exactly one Host header")
    if hosts and _AUTHORITY(hosts[0]) is None:
        return _bad("the Host header is not a host with an optional port")
    for name, value in headers:
        if name == b"transfer-encoding":
            if version == "1.0":
                return _bad("HTTP/1.0 has no Transfer-Encoding")
            if value.lower() != b"chunked":
                return "501 Not Implemented", "the only Transfer-Encoding is chunked"
    if is_absolute(target) and _AUTHORITY(authority_of(target)) is None:
        return _bad("the host in the request target is invalid")
    return None


def is_absolute(target: bytes) -> bool:
    """True if a request target is an absolute URL."""
    return b"://" in target and target[:1] != b"/"


def authority_of(target: bytes) -> bytes:
    """The host, with its port, of an absolute URL."""
    return target.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]


def _bad(why: str) -> Fault:
    return "400 Bad Request", why


def _answer_to(fault: Fault, more: str = "") -> bytes:
    """The last answer of a connection, a problem (RFC 9457) as those of the API. `more`: further lines of its head."""
    status, why = fault
    number, _, phrase = status.partition(" ")
    code = phrase.lower().replace(" ", "_")
    problem = {"type": PROBLEM_TYPE_PREFIX + code, "title": phrase.capitalize(), "status": int(number), "detail": why}
    body = dumps({**problem, "code": code, "errors": []})
    head = f"HTTP/1.1 {status}\r\ncontent-type: {PROBLEM_MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n{more}"
    return f"{head}connection: close\r\n\r\n".encode("ascii") + body


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits for one client and for all of them.

    head_bytes   size of request line and headers, and of chunk extensions and trailers between body content
    silent       connections that have not sent a complete head, in total and per address; beyond it the oldest is
                 closed. Connections with a request are not counted per address: behind a proxy all have the same one.
    connections  in total, and at most a third of the process's open files, because a forwarded request needs two
                 more. Beyond it, connections that wait for no answer are closed, longest idle first; if there are
                 none, new ones are refused.
    rate         bytes per second at which a client sends a body and reads an answer at least, on average over
                 `body_seconds`. A slower one is closed.
    unread       bytes of answers in memory because their clients do not read them, and of pipelined requests that wait
                 for them, in total. Beyond it, the connection whose client reads slowest is closed.
    """

    head_bytes: int = 32 * 1024
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    keep_alive_seconds: int = 75
    silent: int = 1_000
    silent_per_address: int = 250
    connections: int = 20_000
    rate: int = 4 * 1024
    unread: int = 128 << 20


class Connections:
    """The open connections of one server. Limits their number and closes those that are overdue."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._all: set[Protocol] = set()
        self.silent: dict[Protocol, None] = {}
        """Connections without a complete head, the oldest first."""
        self._held: dict[Protocol, int] = {}
        self._held_bytes = 0
        self._sweeping: asyncio.TimerHandle | None = None
        self._full_until = 0.0
        self.draining = False
        """True once the server has stopped listening: each connection gets one more answer."""

    async def drain(self, kept_seconds: float) -> None:
        """Returns once all connections have ended. Cancel it to wait no longer.

        Each connection's next answer has `Connection: close`, so its client knows that it was the last. A connection
        that has been idle for `kept_seconds` is closed without: closing one that is in use would lose the request that
        its client is just sending.
        """
        self.draining = True
        for each in self._all:
            each.begin_drain()
        await asyncio.sleep(DRAIN_SECONDS / 2)  # connections that were accepted a moment ago appear
        loop = asyncio.get_running_loop()
        idle_at = loop.time() + min(UNREAD_SECONDS, kept_seconds)
        while self._all:
            now = loop.time()
            for each in list(self._all):
                each.drain(now, idle_at, kept_seconds)
            await asyncio.sleep(DRAIN_SECONDS)

    def admit(self, protocol: "Protocol", now: float) -> bool:
        """Counts a new connection. Returns False if the limit is reached."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if len(self._all) >= min(self.limits.connections, max(files // 3, 1)) and not self._make_room(now):
            return False
        self._all.add(protocol)
        self.silent[protocol] = None
        of_address = [each for each in self.silent if each.address == protocol.address]
        if len(of_address) > self.limits.silent_per_address or len(self.silent) > self.limits.silent:
            oldest = of_address[0] if len(of_address) > self.limits.silent_per_address else next(iter(self.silent))
            # A started node accepts all that wait in the queue of its socket before it reads any.
            if not oldest.has_unread_input:
                oldest.end()
        if self._sweeping is None:
            self._sweep_later(protocol.loop)
        return True

    def hold(self, protocol: "Protocol", size: int, now: float) -> None:
        """Counts the bytes of this connection's unread answers, which wait in memory for its client."""
        self._held_bytes += size - self._held.pop(protocol, 0)
        if size:
            self._held[protocol] = size
        while self._held_bytes > self.limits.unread:
            waiting = [each for each in self._held if now - each.unread_since >= GRACE_SECONDS] or self._held
            min(waiting, key=lambda each: each.read_rate(now)).end()

    def remove(self, protocol: "Protocol") -> None:
        """The connection is closed or about to be."""
        self.silent.pop(protocol, None)
        self._held_bytes -= self._held.pop(protocol, 0)
        self._all.discard(protocol)

    def _make_room(self, now: float) -> bool:
        """Closes the connections that have been idle longest. Returns whether there were any."""
        if now < self._full_until:
            return False
        free = sorted((each.since, id(each), each) for each in self._all if not each.is_busy)
        for _, _, each in free[: max(1, int(len(self._all) * EVICTED_SHARE))]:
            each.end()
        if not free:
            self._full_until = now + 1.0
            log.warning("too_many_connections", connections=len(self._all), hint="new ones are refused for a second")
        return bool(free)

    def _sweep_later(self, loop: asyncio.AbstractEventLoop) -> None:
        seconds = min(self.limits.head_seconds, self.limits.body_seconds) / SWEEPS_PER_LIMIT
        self._sweeping = loop.call_later(seconds, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeping = None
        now = loop.time()
        for each in [each for each in self._all if each.is_overdue(now)]:
            each.time_out()
        if self._all:
            self._sweep_later(loop)


def network_of(host: str) -> str:
    """The client address for limits; for IPv6 its /64 network, since one client can use all of it."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return str(int(address) >> 64) if isinstance(address, IPv6Address) and address.ipv4_mapped is None else host


class Protocol(HttpToolsProtocol):
    """One connection. A request with an `Upgrade` header is read to its end without upgrading.

    Java's client sends `Upgrade: h2c` with every plain-http request. The relay never upgrades, but the parser would end
    such a request after its head and lose the body.
    """

    def __init__(self, connections: Connections, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.address = ""
        self.since = self.loop.time()
        """Loop time at which the current expectation began, or from which the rate of a body is measured."""
        self._connections = connections
        self._expects = _IDLE
        self._answered: RequestResponseCycle | None = None
        """The request that is being answered."""
        self._heads = 0
        """Number of complete heads."""
        self._head_bytes = 0
        self._body_bytes = 0
        """Received bytes of the body since then."""
        self._frame_bytes = 0
        """Bytes of body framing since the last content."""
        self._has_content = False
        self._upgrade_head: bytes | None = None
        self._fault: Fault | None = None
        """The fault of the head that the parser has just read."""
        self._discarding = False
        """True while input is discarded."""
        self._refused = False
        """True once our side is closed, and the client has time to read the answer and close its own."""
        self._closed_idle_at: float | None = None
        self._discarded_bytes = 0
        self._half_closed = False
        self.unread_since = 0.0
        """Loop time since which the speed is measured at which the client reads an answer, later by the time in which
        nothing waited for it."""
        self._unread_bytes = 0
        """Unread bytes of the answer then, and of what has been written since."""
        self._measured = (0.0, 0)
        """Seconds and bytes that were measured when nothing waited for the client any more."""
        self._is_unread = False
        """True while the last answer is complete, and further requests wait until the client has read it."""
        self.pipelined = b""
        """Pipelined requests that are not parsed yet."""

    # --- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admits the connection, or answers 503 and closes it."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self)
        self._gentle = _Gentle(self)
        self.address = network_of(self.client[0]) if self.client else ""
        if not self._connections.admit(self, self.since):
            self.transport.write(_answer_to(_FULL, "retry-after: 1\r\n"))
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended. uvicorn tells the request that came last, which may be waiting behind the one that
        is being answered."""
        self._connections.remove(self)
        self.pipeline.clear()
        self.pipelined = b""
        super().connection_lost(exc)
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client has closed its side. Returns True to keep ours open for the answer it waits for."""
        if self.is_busy and self._expects != _BODY and self.loop.time() - self.since <= HALF_CLOSE_SECONDS:
            self._half_closed = True
            return True
        return None

    def end(self) -> None:
        """Closes the connection without an answer."""
        self._connections.remove(self)
        self._discarding = True
        self.transport.abort()

    def begin_drain(self) -> None:
        """The server has stopped listening: makes the answer that is due the last one, unless its head was sent."""
        if self.is_busy and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def drain(self, now: float, idle_at: float, kept_seconds: float) -> None:
        """Closes our side of an idle connection, and the connection when the client had time to close its own."""
        if self._closed_idle_at is not None:
            if now - self._closed_idle_at > min(LATE_SECONDS, kept_seconds):
                self.end()
        elif self.is_busy or self._discarding or self.transport.is_closing():
            return
        elif self._expects == _IDLE or not kept_seconds:
            if now >= max(idle_at, self.since + kept_seconds) and not self.has_unread_input:
                self._closed_idle_at = now
                self.close_gently()
        elif self._expects == _HEAD and now - self.since > DISCARD_SECONDS:
            self.time_out()

    @property
    def has_unread_input(self) -> bool:
        """True if the client has sent something that the event loop has not read yet."""
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed meanwhile
            descriptor = self.transport.get_extra_info("socket").fileno()
            return fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)) != bytes(4)
        return False

    def close_gently(self) -> None:
        """Closes our side once everything is sent, and reads on until the client has closed its own.

        Closing both at once resets the connection where the client has just sent something, and the reset can
        overtake an answer that it has not read yet.
        """
        self.pipeline.clear()
        self.pipelined = b""
        if self._half_closed or self.transport.is_closing():
            self.transport.close()
            return
        self._discarding = self._refused = True
        self.since = self.loop.time()
        self.flow.resume_reading()
        if self.transport.get_write_buffer_size():
            self.transport.write_eof()
            return
        # At once: the loop would do it in its next turn, and a request that comes before would be discarded.
        connection = socket.socket(fileno=self.transport.get_extra_info("socket").fileno())
        try:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
        finally:
            connection.detach()

    @property
    def is_busy(self) -> bool:
        """True if a request has a complete head and no complete answer."""
        return self.cycle is not None and not self.cycle.response_complete

    def is_overdue(self, now: float) -> bool:
        """True if the client has exceeded a time limit. Time spent not reading or not answering does not count."""
        limits = self._connections.limits
        if self._refused and not self.transport.get_write_buffer_size():
            return now - self.since > min(DISCARD_SECONDS, limits.head_seconds)
        if (self._refused or self._has_unsent) and self._reads_too_slowly(now):
            return True
        if self._refused:
            self.since = now
            return False
        if self._expects == _BODY:
            if self.cycle is not None and self.cycle.response_complete:
                return now - self.since > limits.head_seconds  # answered: the rest of the body is not needed
            if self.flow.read_paused:
                self.since = now
            return now - self.since > limits.body_seconds
        if self.is_busy:
            if self._expects == _HEAD:
                self.since = now
            return False
        return (self._expects == _HEAD or self._heads == 0) and now - self.since > limits.head_seconds

    def read_rate(self, now: float) -> float:
        """Bytes per second at which the client has read the answer that waits for it."""
        read_bytes = self._unread_bytes - self.transport.get_write_buffer_size()
        return read_bytes / max(now - self.unread_since, GRACE_SECONDS)

    def _reads_too_slowly(self, now: float) -> bool:
        limits, left_bytes = self._connections.limits, self.transport.get_write_buffer_size()
        if left_bytes <= self._unread_bytes and now - self.unread_since <= limits.body_seconds:
            return False
        is_slow = 0 <= self._unread_bytes - left_bytes < limits.rate * limits.body_seconds
        self.unread_since, self._unread_bytes = now, left_bytes
        return is_slow

    @property
    def _has_unsent(self) -> bool:
        """True if unsent answers block writing or closing."""
        return self.flow.write_paused or self.transport.is_closing()

    def pause_writing(self) -> None:
        """An answer waits for the client to read it."""
        super().pause_writing()
        seconds, read_bytes = self._measured
        self.unread_since = self.loop.time() - seconds
        self._unread_bytes = self.transport.get_write_buffer_size() + read_bytes
        self._hold()

    def resume_writing(self) -> None:
        """The client has caught up. Its speed is measured on when it must catch up again."""
        super().resume_writing()
        left_bytes = self.transport.get_write_buffer_size()
        self._measured = (self.loop.time() - self.unread_since, self._unread_bytes - left_bytes)
        self._unread_bytes = 0
        self._hold()
        if self._is_unread:
            self.on_response_complete()

    def _hold(self) -> None:
        """Counts what waits in memory."""
        size = len(self.pipelined) + len(self.pipeline) * PIPELINED_BYTES
        if self.flow.write_paused:
            size += self.transport.get_write_buffer_size()
        self._connections.hold(self, size, self.loop.time())

    def time_out(self) -> None:
        """Ends an overdue connection, with 408 where the client can still read it."""
        if self._refused or self._has_unsent or (self._heads == 0 and self._head_bytes == 0):
            self.end()
        else:
            self._refuse("408 Request Timeout", "the rest of the request did not arrive in time")

    # --- input

    def data_received(self, data: bytes) -> None:
        """Parses input; pipelined requests wait unparsed until earlier ones are answered."""
        self._unset_keepalive_if_required()
        if self._discarding:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > DISCARD_BYTES:
                self.end()
        elif self.pipelined:
            self.pipelined += data
            self._hold()
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        at = 0
        while at < len(data) and not self._discarding:
            if self.pipeline or (self._is_unread and self._expects == _IDLE):
                self.pipelined = data[at:]
                self.flow.pause_reading()
                self._hold()
                return
            size = (
                CHUNK_BYTES
                if self._expects == _BODY
                else min(CHUNK_BYTES, self._connections.limits.head_bytes - self._head_bytes)
            )
            part = data[at : at + size]
            at += len(part)
            before, self._has_content = (self._expects, self._heads), False
            try:
                self.parser.feed_data(part)
            except httptools.HttpParserError:
                self._refuse(*self._fault or _INVALID)
                return
            except httptools.HttpParserUpgrade as upgrade:
                head, self._upgrade_head = self._upgrade_head, None
                if head is None:  # CONNECT: answered, and nothing after it is a request
                    self._discarding, self.cycle.keep_alive = True, False
                    return
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self._expects, self._head_bytes = _IDLE, 0
                self._parse(head + part[upgrade.args[0] :] + data[at:])
                return
            self._check_size(part, *before)

    def _check_size(self, part: bytes, expected: int, heads: int) -> None:
        """Refuses a head that is too large, and a body with too much framing."""
        if self._heads != heads:
            return
        if self._expects != _BODY and expected != _BODY:
            self._head_bytes += len(part)
            if self._head_bytes >= self._connections.limits.head_bytes:
                self._refuse("431 Request Header Fields Too Large", "the request line and the headers are too large")
        elif self._expects == _BODY:
            self._frame_bytes = 0 if self._has_content else self._frame_bytes + len(part)
            if self._frame_bytes >= self._connections.limits.head_bytes:
                self._refuse("431 Request Header Fields Too Large", "chunk extensions or trailers are too large")

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._expects, self.since = _HEAD, self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Adds a header, without the spaces behind its value, which the parser leaves. Trailers are ignored: the
        request was already authorized without them."""
        if self._expects == _HEAD:
            super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Starts the request, unless its head must be refused. One with an `Upgrade` header is kept without it, to be
        parsed again."""
        self._fault = fault_of(self.parser.get_http_version(), self.url, self.headers)
        if self._fault is not None:
            raise ValueError(self._fault[1])  # ends the parsing
        self._expects, self._head_bytes, self._body_bytes, self._frame_bytes = _BODY, 0, 0, 0
        self.since = self.loop.time()
        self._upgrade_head = None
        if is_absolute(self.url):
            self._use_host_of_target()
        headers = self.headers
        if self.parser.should_upgrade():
            headers = [header for header in headers if header[0] != b"upgrade"]
        if len(headers) == len(self.headers):
            self._heads += 1
            self._is_unread = False  # it had begun to arrive before the answer was complete, and goes on
            self._connections.silent.pop(self, None)
            try:
                super().on_headers_complete()
            except Exception:  # not a request, so it has no body; the previous one may still be running
                self._expects = _HEAD
                raise
            self.cycle.transport = self._gentle  # type: ignore[assignment]  # has all that a cycle uses
            if self.pipeline:
                self._hold()
            if self._connections.draining:
                self.cycle.keep_alive = False
            return
        line = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        self._upgrade_head = b"\r\n".join([line, *(b"%s: %s" % header for header in headers), b"", b""])

    def _use_host_of_target(self) -> None:
        """RFC 9112, 3.2.2: if the target is an absolute URL, its host replaces the `Host` header."""
        self.headers[:] = [header for header in self.headers if header[0] != b"host"]
        self.headers.append((b"host", authority_of(self.url)))

    def on_body(self, body: bytes) -> None:
        """Body content. The time to bring more begins anew with each part that is as long as that time allows."""
        self._has_content = True
        self._body_bytes += len(body)
        if self._body_bytes >= self._connections.limits.rate * self._connections.limits.body_seconds:
            self.since, self._body_bytes = self.loop.time(), 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Ends the request, unless it is about to be parsed again without its `Upgrade` header."""
        self._expects, self.since = _IDLE, self.loop.time()
        if self._upgrade_head is None:
            super().on_message_complete()

    # --- output

    def on_response_complete(self) -> None:
        """An answer is complete: continues with pipelined requests, once the client has read most of it. Otherwise the
        next answer would wait in memory beside it."""
        self._is_unread = self.flow.write_paused and not self.transport.is_closing()
        if self._is_unread:
            return
        super().on_response_complete()
        self._hold()
        if self._expects == _BODY or not self.is_busy:
            self.since = self.loop.time()
        if self.pipelined and not self.pipeline and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            pipelined, self.pipelined = self.pipelined, b""
            self._hold()
            self._parse(pipelined)
            self.flow.resume_reading()
        if (self._half_closed or self._discarding) and not (self.is_busy or self._refused):
            self.transport.close()

    def _refuse(self, status: str, why: str) -> None:
        """Answers with an error, or lets the answer in progress be the last one."""
        self._discarding = True
        cycle = self.cycle
        if self.is_busy:
            if self._expects != _BODY:
                cycle.keep_alive = False
                return
            cycle.disconnected = True  # the rest of its request will not arrive
            cycle.message_event.set()
            if cycle.response_started or self.pipeline:
                self.transport.close()
                return
        self._answer(status, why)

    def _answer(self, status: str, why: str) -> None:
        """Sends an error, closes our side, and discards further input."""
        self._discarding = self._refused = True
        self.since = self.loop.time()
        self.transport.write(_answer_to((status, why)))
        if self.transport.can_write_eof():
            self.transport.write_eof()


class _Gentle:
    """The transport of an answer: `close` closes gently."""

    def __init__(self, protocol: Protocol) -> None:
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing
        self.close = protocol.close_gently


class _Flow(FlowControl):
    """Does not resume reading while pipelined requests wait."""

    def __init__(self, transport: asyncio.Transport, protocol: Protocol) -> None:
        super().__init__(transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        """Resumes reading unless pipelined requests wait."""
        if not self._protocol.pipelined:
            super().resume_reading()


class Server(uvicorn.Server):
    """uvicorn's server without signal handlers, since the command installs its own, and with another way to stop.

    The listening socket may be shared (`sockets.py`): connections in its queue wait for the next process. Those that
    were accepted are answered before they are closed.
    """

    def __init__(self, config: uvicorn.Config, connections: Connections, kept_seconds: float) -> None:
        super().__init__(config)
        self._connections = connections
        self._kept_seconds = kept_seconds

    def stop(self, within_seconds: float) -> None:
        """Stops listening, and gives requests in flight this time."""
        self.config.timeout_graceful_shutdown = max(1, round(within_seconds))
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops listening and answers what was accepted; what is not answered in time is cancelled."""
        log.info("Shutting down")
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        draining = asyncio.ensure_future(self._drain())
        within = self.config.timeout_graceful_shutdown
        ends_at = None if within is None else asyncio.get_running_loop().time() + within
        try:
            while not draining.done() and not self.force_exit:
                await asyncio.wait([draining], timeout=FORCED_SECONDS)
                if ends_at is not None and asyncio.get_running_loop().time() > ends_at:
                    break
        finally:
            draining.cancel()
        if draining.done():
            draining.result()
        if self.server_state.tasks and not self.force_exit:
            log.warning("requests_cancelled", requests=len(self.server_state.tasks), seconds=within)
            for task in self.server_state.tasks:
                task.cancel()

    async def _drain(self) -> None:
        await self._connections.drain(self._kept_seconds)
        while self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield


def make_server(
    app: Any, *, shutdown_seconds: float, dates: bool = True, limits: Limits | None = None, kept_seconds: float = 0.0
) -> Server:
    """A server for `app` that gives requests in flight `shutdown_seconds` when it stops.

    `dates` adds a `Date` header to every answer; without it `app` does, because forwarded answers have one already.
    `kept_seconds`: see KEPT_SECONDS.
    """
    limits = limits or Limits()
    connections = Connections(limits)
    return Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            loop="uvloop",
            http=partial(Protocol, connections),  # type: ignore[arg-type]  # only called
            ws="none",
            server_header=False,
            date_header=dates,
            proxy_headers=False,
            timeout_keep_alive=limits.keep_alive_seconds,
            timeout_graceful_shutdown=max(1, round(shutdown_seconds)),
        ),
        connections,
        kept_seconds,
    )
