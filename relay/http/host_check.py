"""Whether the host of a callback resolves, for a warning at its registration. Answers are kept for a while, so that a
registration waits for a name server once in that time. Deliveries look names up by themselves."""

import asyncio

from aiohttp.abc import AbstractResolver

from relay.clock import Clock

MAX_WAIT_SECONDS = 1.0
"""After this the host counts as found: a warning must be right."""
KEPT_SECONDS = 60.0
MAX_HOSTS = 4096


class HostCheck:
    """Looks hosts up with `resolver`; None if a proxy does that."""

    def __init__(self, resolver: AbstractResolver | None, clock: Clock) -> None:
        self._resolver = resolver
        self._clock = clock
        self._known: dict[str, tuple[float, str | None]] = {}

    async def unresolved(self, host: str) -> str | None:
        """Why the host does not resolve; None if it does, or it is unknown."""
        if self._resolver is None:
            return None
        now = self._clock()
        until, reason = self._known.pop(host, (now, None))
        if not now < until <= now + KEPT_SECONDS:
            until, reason = now + KEPT_SECONDS, await self._looked_up(self._resolver, host)
        self._known[host] = (until, reason)
        if len(self._known) > MAX_HOSTS:
            del self._known[next(iter(self._known))]
        return reason

    async def _looked_up(self, resolver: AbstractResolver, host: str) -> str | None:
        try:
            async with asyncio.timeout(MAX_WAIT_SECONDS):
                await resolver.resolve(host)
        except TimeoutError:
            return None
        except (OSError, UnicodeError) as error:
            return getattr(error, "strerror", None) or "no reason given"
        return None
