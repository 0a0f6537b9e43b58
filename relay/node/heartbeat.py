"""Tells a monitoring service that this node is alive: the alert comes from there when it stops.

`heartbeat.url` gets a GET every minute while the loops of this node move and its database answers. Everything else that
reports trouble is part of the relay, and is silent when the relay is dead.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from ipaddress import IPv4Network, IPv6Network
from urllib.parse import urlsplit

import structlog

from relay.clock import Clock
from relay.core.access.netguard import GuardPolicy
from relay.core.deliveries.delivery import OutboundRequest
from relay.core.values import Movement, Progress
from relay.http.sender import Sender, Transport

EVERY_SECONDS = 60.0
PING_SECONDS = 10.0
DATABASE_SECONDS = 10.0
ANYWHERE = GuardPolicy(allow_http=True, allow_networks=(IPv4Network("0.0.0.0/0"), IPv6Network("::/0")))
"""The operator's own URL, like that of an upstream: their monitoring may be on the same machine or network."""

log = structlog.get_logger("relay.node")


@dataclass(eq=False, repr=False)
class Heartbeat:
    """Pings one URL. Its path is a credential, so only its host is logged. `database_problem`: what is wrong with the
    database, or None."""

    url: str
    _: KW_ONLY
    loops: Callable[[], Mapping[str, Progress]]
    database_problem: Callable[[], Awaitable[str | None]]
    clock: Clock
    steady: Callable[[], float] = time.monotonic
    _movement: Movement = field(default_factory=Movement, init=False)
    _trouble: str | None = field(default=None, init=False)

    @property
    def _host(self) -> str | None:
        return urlsplit(self.url).hostname

    async def run(self) -> None:
        """Repeats `run_once` until it is cancelled."""
        async with Sender(ANYWHERE, clock=self.clock) as sender:
            while True:
                try:
                    await self.run_once(sender)
                except Exception:
                    log.exception("heartbeat_failed", host=self._host)
                await asyncio.sleep(EVERY_SECONDS)

    async def run_once(self, transport: Transport) -> bool:
        """Pings if this node moves. Returns whether the service took it. Logs trouble once, and its end."""
        problem = await self._problem()
        if problem is not None:
            self._note("heartbeat_withheld", problem)
            return False
        response = await transport.send(OutboundRequest(url=self.url, method="GET"), timeout_seconds=PING_SECONDS)
        if response.status_code is not None and 200 <= response.status_code < 300:
            self._note("heartbeat_sent_again", None)
            return True
        answer = f"status {response.status_code}" if response.error is None else f"{response.error}: {response.detail}"
        self._note("heartbeat_failed", answer)
        return False

    async def _problem(self) -> str | None:
        stuck = self._movement.stuck(self.loops(), self.steady())
        if stuck is not None:
            return stuck
        try:
            async with asyncio.timeout(DATABASE_SECONDS):
                return await self.database_problem()
        except TimeoutError:
            return f"the database has not answered for {DATABASE_SECONDS:g} s"

    def _note(self, event: str, problem: str | None) -> None:
        if problem is None:
            if self._trouble is not None:
                log.info(event, host=self._host)
            self._trouble = None
        else:
            if self._trouble != event:
                log.error(event, host=self._host, error=problem)
            self._trouble = event
