"""The open connections of an HTTP server: limits for one client and for all of them, and what counts against them."""

import asyncio
import resource
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from relay.server.http_protocol import Protocol

SWEEPS_PER_LIMIT = 8
EVICTED_SHARE = 0.02
GRACE_SECONDS = 1.0
"""A client that has waited for less is not judged by how fast it reads."""
DRAIN_SECONDS = 0.02
"""How often a stopping server looks at its connections."""
UNREAD_SECONDS = 0.1
"""An idle connection stays open for at least this time after the server has stopped listening."""

log = structlog.get_logger("relay.server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits for one client and for all of them.

    head_bytes   size of request line and headers, and of chunk extensions and trailers between body content
    silent       connections that have not sent a complete head, in total and per address; beyond it the oldest is
                 closed. Connections with a request are not counted per address: behind a proxy all have the same one.
    connections  in total, and at most a third of the process's open files, because a forwarded request needs two
                 more. Beyond it, connections that wait for no answer are closed, longest idle first; if there are
                 none, new ones are refused.
    read_rate    bytes per second at which a client reads an answer at least, after `body_seconds`. One that reads
                 slower, or nothing for `body_seconds`, is closed.
    unread       bytes of answers in memory because their clients do not read them, in total. Beyond it, the
                 connection whose client reads slowest is closed.
    """

    head_bytes: int = 32 * 1024
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    keep_alive_seconds: int = 75
    silent: int = 1_000
    silent_per_address: int = 250
    connections: int = 20_000
    read_rate: int = 4 * 1024
    unread: int = 128 << 20


class Connections:
    """The open connections of one server. Limits their number and closes those that are overdue."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._all: set[Protocol] = set()
        self._silent: dict[Protocol, None] = {}
        self._silent_by_address: dict[str, dict[Protocol, None]] = {}
        self._unread: dict[Protocol, int] = {}
        self._unread_bytes = 0
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
        self._silent[protocol] = None
        of_address = self._silent_by_address.setdefault(protocol.address, {})
        of_address[protocol] = None
        if len(of_address) > self.limits.silent_per_address:
            self._end_silent(of_address)
        elif len(self._silent) > self.limits.silent:
            self._end_silent(self._silent)
        if self._sweeping is None:
            self._sweep_later(protocol.loop)
        return True

    @staticmethod
    def _end_silent(silent: "dict[Protocol, None]") -> None:
        """Ends the oldest connection, unless it has sent something that was not read yet: a started node accepts all
        that wait in the queue of its socket before it reads any."""
        oldest = next(iter(silent))
        if not oldest.has_unread_input:
            oldest.end()

    def head_received(self, protocol: "Protocol") -> None:
        """The connection has sent a complete request head."""
        if self._silent.pop(protocol, protocol) is None:
            of_address = self._silent_by_address[protocol.address]
            del of_address[protocol]
            if not of_address:
                del self._silent_by_address[protocol.address]

    def answer_unread(self, protocol: "Protocol", size: int, now: float) -> None:
        """So many bytes of an answer wait in memory for the client to read them."""
        self._unread[protocol] = size
        self._unread_bytes += size
        while self._unread_bytes > self.limits.unread:
            waiting = [each for each in self._unread if now - each.unread_since >= GRACE_SECONDS] or self._unread
            min(waiting, key=lambda each: each.read_rate(now)).end()

    def answer_read(self, protocol: "Protocol") -> None:
        """The client has read them."""
        self._unread_bytes -= self._unread.pop(protocol, 0)

    def remove(self, protocol: "Protocol") -> None:
        """The connection is closed or about to be."""
        self.head_received(protocol)
        self.answer_read(protocol)
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
