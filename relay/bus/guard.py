"""The egress guard of brokers: checks every address that their clients dial, also those that a broker advertises.

The clients dial through the event loop, whose `create_connection` is wrapped once. A task that runs `guarded` work, and
each task that it starts, gets sockets from the guard, which resolves the name and checks each address. Other tasks are
not affected. No client takes a socket. If one stops dialling through the loop, tests/unit/bus/test_guard.py and
tests/bus/test_dial.py break.
"""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import structlog
from aiohttp.abc import AbstractResolver

from relay.core.access.netguard import GuardPolicy, refusal_of_address
from relay.core.deliveries.broker import Protocol, for_brokers, guard_scheme, policy_for_brokers, refusal_of_host

MAX_REFUSALS = 10
CONNECT_SECONDS = 5.0
"""Time-out of one address before the next address of the name is tried."""

log = structlog.get_logger("relay.bus")

_guard: ContextVar["Guard | None"] = ContextVar("relay_bus_guard", default=None)
_WRAPPED = "_relay_guards_brokers"


class Refused(OSError):
    """The egress guard forbids this address. The text may be shown to the subscription's owner."""


class NotReached(OSError):
    """No connection. The text names the requested host, and may be shown to the subscription's owner."""


class Guard:
    """Opens sockets to brokers, and records refused addresses. One per attempt to connect.

    protocol  of the broker: its ports are allowed, those of other protocols are not
    secure    TLS
    refusals  why the first MAX_REFUSALS refused addresses were refused, for the subscription's owner
    """

    def __init__(self, policy: GuardPolicy, resolver: AbstractResolver, protocol: Protocol, *, secure: bool) -> None:
        self._given = policy
        self._policy = policy_for_brokers(policy, protocol)
        self._resolver = resolver
        self._protocol: Protocol = protocol
        self._secure = secure
        self.refusals: list[str] = []
        self.remote_ip: str | None = None
        self.failure: str | None = None
        """Error of the first address that could not be reached."""

    async def open(self, host: str, port: int) -> socket.socket:
        """A connected socket. Raises Refused or OSError."""
        try:
            return await self._open(host, port)
        except (Refused, TimeoutError):
            raise
        except OSError as error:
            shown = f"no connection to {host}:{port}: {_reason(error)}"
            self.failure = self.failure or shown
            raise NotReached(shown) from error

    async def _open(self, host: str, port: int) -> socket.socket:
        refusal = refusal_of_host(self._protocol, host, port, self._given, secure=self._secure)
        if refusal is not None:
            raise self._refused(refusal, host=host, reason=refusal)
        error: OSError | None = None
        scheme = guard_scheme(secure=self._secure)
        for found in await self._resolver.resolve(host, port, socket.AF_UNSPEC):
            ip = str(found["host"])
            judged = refusal_of_address(ip, port=port, scheme=scheme, policy=self._policy)
            if judged is not None:
                error = error or self._refused(for_brokers(judged.shown), host=host, ip=ip, reason=judged.detail)
                continue
            try:
                return await self._dial(found["family"], ip, port)
            except OSError as failure:
                error = failure
        raise error or socket.gaierror("no address")

    async def _dial(self, family: int, ip: str, port: int) -> socket.socket:
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(connection, (ip, port))
        except BaseException:
            connection.close()
            raise
        self.remote_ip = ip
        return connection

    def _refused(self, shown: str, **noted: str) -> Refused:
        log.info("egress_refused", **noted)
        if len(self.refusals) < MAX_REFUSALS:
            self.refusals.append(shown)
        return Refused(shown)


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "the host name does not resolve"
    return os.strerror(error.errno) if error.errno is not None and error.errno > 0 else "no reason given"


@contextmanager
def guarded(guard: Guard | None) -> Iterator[None]:
    """Routes connections of the block, and of tasks started in it, through the guard."""
    _wrap(asyncio.get_running_loop())
    token = _guard.set(guard)
    try:
        yield
    finally:
        _guard.reset(token)


def _wrap(loop: asyncio.AbstractEventLoop) -> None:
    if getattr(loop, _WRAPPED, False):
        return
    original = loop.create_connection

    async def create_connection(protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        guard = _guard.get()
        if guard is None:
            return await original(protocol_factory, host, port, **options)
        if host is None or port is None or options.get("sock") is not None:
            raise Refused("a broker's client must name a host and a port")
        connection = await guard.open(str(host), int(port))
        if options.get("ssl"):
            options.setdefault("server_hostname", host)
        try:
            return await original(protocol_factory, sock=connection, **options)
        except BaseException:
            connection.close()
            raise

    setattr(loop, "create_connection", create_connection)  # noqa: B010 - mypy takes no assignment to a method
    setattr(loop, _WRAPPED, True)
