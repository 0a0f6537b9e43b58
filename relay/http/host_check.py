"""Whether the hosts of callbacks and sinks resolve, for a warning at their registration. Answers are kept for a while:
a registration waits for a name server once in that time. Deliveries look names up by themselves."""

import asyncio
from collections.abc import Iterable, Sequence

from aiohttp.abc import AbstractResolver

from relay.clock import Clock

MAX_WAIT_SECONDS = 1.0
"""Of one call, however many hosts it names. One not known by then counts as found: a warning must be right."""
KEPT_SECONDS = 60.0
MAX_HOSTS = 4096
MAX_LOOKED_UP = 32
"""Hosts of one call that are looked up. Others of a large batch count as found."""
MAX_AT_ONCE = 4
"""Look-ups at the same time, also those that no call waits for any more: deliveries use the same threads, and a thread
waits for a dead name server for half a minute."""


class HostCheck:
    """Looks hosts up with `resolver`; None if a proxy does that."""

    def __init__(self, resolver: AbstractResolver | None, clock: Clock) -> None:
        self._resolver = resolver
        self._clock = clock
        self._known: dict[str, tuple[float, str | None]] = {}
        self._turns = asyncio.Semaphore(MAX_AT_ONCE)
        self._left: set[asyncio.Future[object]] = set()
        """Look-ups that took longer than the call that began them."""

    async def unresolved(self, hosts: Iterable[str]) -> dict[str, str]:
        """Why hosts do not resolve. Those that do, and those of which nothing is known, are not in it."""
        if self._resolver is None:
            return {}
        now, different = self._clock(), dict.fromkeys(hosts)
        unknown = [host for host in different if not self._is_known(host, now)][:MAX_LOOKED_UP]
        if unknown and len(self._left) < MAX_AT_ONCE:  # else none would have its turn
            await self._look_up(self._resolver, unknown, now + KEPT_SECONDS)
        found = {host: self._known.get(host, (now, None))[1] for host in different}
        while len(self._known) > MAX_HOSTS:
            del self._known[next(iter(self._known))]
        return {host: reason for host, reason in found.items() if reason is not None}

    def _is_known(self, host: str, now: float) -> bool:
        until, _ = self._known.get(host, (now, None))
        return now < until <= now + KEPT_SECONDS

    async def _look_up(self, resolver: AbstractResolver, hosts: Sequence[str], until: float) -> None:
        tasks = {host: asyncio.create_task(self._reason(resolver, host)) for host in hosts}
        try:
            await asyncio.wait(tasks.values(), timeout=MAX_WAIT_SECONDS)
            for host, task in tasks.items():
                self._known.pop(host, None)
                self._known[host] = (until, task.result() if task.done() else None)
        finally:
            for task in tasks.values():
                task.cancel()

    async def _reason(self, resolver: AbstractResolver, host: str) -> str | None:
        await self._turns.acquire()
        looked_up: asyncio.Future[object] = asyncio.ensure_future(resolver.resolve(host))
        looked_up.add_done_callback(self._ended)
        try:
            await asyncio.shield(looked_up)
        except (OSError, UnicodeError) as error:
            return getattr(error, "strerror", None) or "no reason given"
        except asyncio.CancelledError:
            if not looked_up.done():
                self._left.add(looked_up)
            raise
        return None

    def _ended(self, looked_up: asyncio.Future[object]) -> None:
        self._turns.release()
        self._left.discard(looked_up)
        if not looked_up.cancelled():
            looked_up.exception()  # a call that has ended does not ask for it
