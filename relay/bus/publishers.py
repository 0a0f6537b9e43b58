"""The connections of a node to brokers: one per broker and login, opened on first use.

After a failed connect, publishing to the broker fails at once for a pause, and so holds no slot. Broken connections and
those that did not answer in time are closed and replaced. Idle ones are closed.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from importlib import import_module
from typing import Any, Protocol

import structlog
from aiohttp.abc import AbstractResolver

from relay.bus.guard import Guard, NotReached, Refused, guarded
from relay.clock import Clock
from relay.core.access.netguard import GuardPolicy
from relay.core.deliveries.broker import Broker, Message, Published, unsent_behind
from relay.core.deliveries.delivery import Response
from relay.core.jsontext import storable
from relay.tasks import Tasks

FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 5.0
"""Maximum pause between connects: short, so that a recovered broker soon gets events. A try costs a dial and a slot."""
MAX_REFUSED_SECONDS = 60.0
"""The same after an error that only a change can fix, such as a wrong credential."""
IDLE_SECONDS = 300.0
"""Longer than the first retry pauses: the connection keeps track of unacknowledged batches."""
DIAL_SECONDS = 12.0
"""Time limit of the trial connection before a subscription is stored."""
MAX_CAUSES = 20
CLOSE_SECONDS = 2.0
"""Time limit for an orderly close."""

log = structlog.get_logger("relay.bus")

_PASSING = frozenset(("connect", "read", "timeout", "blocked"))
_MODULES = {"KAFKA": "relay.bus.kafka", "NATS": "relay.bus.nats", "AMQP": "relay.bus.rabbitmq"}


class CannotConnect(Exception):
    """No connection. `error`: as in `core.deliveries.delivery.Response`; the text is one line without secrets."""

    def __init__(self, error: str, detail: str) -> None:
        super().__init__(detail)
        self.error = error


class Publisher(Protocol):
    """A connection to one broker."""

    @property
    def broken(self) -> bool:
        """True once it cannot publish, or must not: earlier messages may still arrive late."""
        ...

    async def publish(self, messages: Sequence[Message], results: list[Published | None]) -> None:
        """Publishes the messages in order and waits for the broker's acknowledgements, which it stores in `results`,
        one per message. The caller's time-out cancels it: a None in `results` then means no result; acknowledged
        messages are not sent again."""
        ...

    async def missing(self, place: Message) -> Published | None:
        """The error if the destination of a message is missing; None if it exists, or if this cannot be checked."""
        ...

    async def close(self) -> None:
        """Closes it without waiting for acknowledgements."""
        ...


Connect = Callable[[Broker, ssl.SSLContext | None], Any]
"""Connects to a broker. Raises CannotConnect."""


@dataclass(slots=True, eq=False)
class _Link:
    """State of one broker. `lock`: one task connects. `failure`: of the last connect."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    publisher: Publisher | None = None
    guard: Guard | None = None
    users: int = 0
    used_at: float = 0.0
    failures: int = 0
    blocked_until: float = 0.0
    failure: CannotConnect | None = None


@dataclass(eq=False, repr=False)
class Publishers:
    """All connections of a node to brokers. `publish` never raises, except when cancelled.

    clock  time of attempts, in epoch seconds; `now` is monotonic
    tls    trusts other authorities than the system's (tests)
    """

    policy: GuardPolicy
    _: KW_ONLY
    clock: Clock
    resolver: AbstractResolver
    tls: ssl.SSLContext | None = None
    now: Callable[[], float] = time.monotonic
    connect: Mapping[str, Connect] | None = None
    _links: dict[Broker, _Link] = field(default_factory=dict, init=False)
    _tasks: Tasks = field(default_factory=Tasks, init=False)

    async def publish(self, broker: Broker, messages: Sequence[Message], timeout_seconds: float) -> list[Response]:
        """Publishes messages in order. Returns a response for each: without an `error` the broker has stored it."""
        started_at, begun = self.clock(), time.perf_counter()
        results: list[Published | None] = [None] * len(messages)
        link = self._links.setdefault(broker, _Link())
        link.users += 1
        publisher: Publisher | None = None
        late = False
        try:
            async with asyncio.timeout(timeout_seconds):
                publisher = await self._publisher(broker, link)
                with guarded(link.guard):  # a client may dial again at any time
                    await publisher.publish(messages, results)
            link.failures, link.failure = 0, None
        except Exception as error:
            late = isinstance(error, TimeoutError)
            if publisher is None or not late:
                failure = _failure(error, "no connection in time")
                results[:] = [result or failure for result in results]
            if publisher is not None and isinstance(error, CannotConnect):
                self._failed(link, error)
            elif publisher is not None and not late:  # the client's library failed
                log.warning("publish_failed", broker=broker.shown, error=type(error).__name__)
                self._drop(link, publisher)
        finally:
            link.users -= 1
            link.used_at = self.now()
            if publisher is not None and publisher.broken:
                self._drop(link, publisher)
        ms = (time.perf_counter() - begun) * 1000.0
        return [
            Response(
                started_at=started_at,
                duration_ms=ms,
                error=one.error,
                detail=None if one.detail is None else storable(one.detail[:500]),
                remote_ip=None if link.guard is None else link.guard.remote_ip,
                late=late and result is None,
            )
            for one, result in zip(unsent_behind(messages, results), results, strict=True)
        ]

    async def dial(self, broker: Broker, place: Message | None, timeout_seconds: float = DIAL_SECONDS) -> Published:
        """Opens a separate connection and checks that the destination of a message exists. Publishes nothing. Returns
        the first error found; no `error` means that all is well."""
        link = _Link()
        try:
            async with asyncio.timeout(timeout_seconds):
                publisher = await self._publisher(broker, link)
                with guarded(link.guard):
                    return (place and await publisher.missing(place)) or Published()
        except Exception as error:
            return _failure(error, "the broker did not answer in time")
        finally:
            if link.publisher is not None:
                self._drop(link, link.publisher)

    async def _publisher(self, broker: Broker, link: _Link) -> Publisher:
        if link.failure is not None and link.lock.locked():  # another task is connecting: fail at once to free the slot
            raise link.failure
        async with link.lock:
            if link.publisher is not None and link.publisher.broken:
                self._drop(link, link.publisher)
            if link.failure is not None and self.now() < link.blocked_until:
                raise link.failure
            if link.publisher is not None:
                return link.publisher
            link.guard = guard = Guard(self.policy, self.resolver, broker.protocol, secure=broker.secure)
            try:
                with guarded(guard):
                    link.publisher = await self._connector(broker)(broker, self._context(broker))
            except TimeoutError:
                raise self._failed(link, CannotConnect("timeout", "the broker did not answer in time")) from None
            except Exception as error:
                raise self._failed(link, named(error, guard)) from None
            except asyncio.CancelledError:  # the attempt's time-out
                self._failed(link, CannotConnect("timeout", "no connection in time"))
                raise
            return link.publisher

    def _connector(self, broker: Broker) -> Connect:
        if self.connect is not None:
            return self.connect[broker.protocol]
        connect: Connect = import_module(_MODULES[broker.protocol]).connect
        return connect

    def _context(self, broker: Broker) -> ssl.SSLContext | None:
        if not broker.secure:
            return None
        if self.tls is None:
            self.tls = ssl.create_default_context()
        return self.tls

    def _failed(self, link: _Link, why: CannotConnect) -> CannotConnect:
        link.failures += 1
        longest = MAX_PAUSE_SECONDS if why.error in _PASSING else MAX_REFUSED_SECONDS
        pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(link.failures - 1, 10), longest)
        link.blocked_until, link.failure = self.now() + pause, why
        return why

    def _drop(self, link: _Link, publisher: Publisher) -> None:
        """Closes a connection in a background task."""
        if link.publisher is publisher:
            link.publisher = None
        self._tasks.start(_closed(publisher))

    async def close_idle(self) -> None:
        """Closes connections idle for IDLE_SECONDS, and drops the state of idle brokers."""
        now = self.now()
        for broker, link in list(self._links.items()):
            if link.users or link.lock.locked() or now - link.used_at < IDLE_SECONDS or now < link.blocked_until:
                continue
            del self._links[broker]
            if link.publisher is not None:
                self._drop(link, link.publisher)

    async def close(self) -> None:
        """Closes all connections."""
        for link in self._links.values():
            if link.publisher is not None:
                self._drop(link, link.publisher)
        self._links.clear()
        await self._tasks.drain()


async def _closed(publisher: Publisher) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await publisher.close()
    except Exception as error:
        log.debug("close_failed", error=type(error).__name__)


def _failure(error: Exception, late: str) -> Published:
    """The result for an error. `late`: what did not come in time."""
    if isinstance(error, TimeoutError):
        return Published(error="timeout", detail=late)
    if isinstance(error, CannotConnect):
        return Published(error=error.error, detail=str(error))
    return Published(error="protocol", detail=f"the client of the broker failed ({type(error).__name__})")


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, at most MAX_CAUSES: some clients' causes form a cycle."""
    seen: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__


def named(error: Exception, guard: Guard | None = None) -> CannotConnect:
    """The reason for a failed connection. The clients' texts are not used: they may contain secrets. `guard`: supplies
    the refusal if the client has dropped it."""
    for seen in causes_of(error):
        match seen:
            case CannotConnect():
                return seen
            case Refused():
                return CannotConnect("refused", str(seen))
            case NotReached():
                return CannotConnect("connect", str(seen))
            case ssl.SSLCertVerificationError():
                return CannotConnect("tls", f"the certificate does not verify: {_reason(seen, 'verify_message')}")
            case ssl.SSLError():
                return CannotConnect("tls", f"the TLS handshake failed: {_reason(seen, 'reason')}")
    if guard is not None and guard.refusals and guard.remote_ip is None:
        return CannotConnect("refused", guard.refusals[0])
    if guard is not None and guard.refusals:
        return CannotConnect("refused", f"an address that the broker advertises: {guard.refusals[0]}")
    if guard is not None and guard.failure is not None:
        return CannotConnect("connect", guard.failure)
    return CannotConnect("connect", f"no connection: is this the port of the broker? ({type(error).__name__})")


def _reason(error: ssl.SSLError, name: str) -> str:
    return getattr(error, name, None) or "no reason given"
