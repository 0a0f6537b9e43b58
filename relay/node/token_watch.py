"""Keeps a node's tokens equal to the database's, and stores when they were last used.

A change on another node arrives by NOTIFY; comparing versions every CHECK_SECONDS finds it if the notification is lost.
Requests that wait under a revoked or expired token are woken, and end.

A revocation is found within a second while the database answers a query within 250 ms: it can just miss a check, which
still has to end; then come the pause, the next check, and the reading of the tokens. The queries have a connection of
their own, and no other work runs between them.
"""

import asyncio
import contextlib

import structlog

from relay.api.access.callers import Access
from relay.clock import Clock, steady_clock
from relay.errors import StoreError
from relay.signals import Signals
from relay.store.access.tokens import TokenStore
from relay.tasks import Tasks

CHECK_SECONDS = 0.2
STUCK_SECONDS = 2.0
"""Timeout of a comparison. The next one gets another connection."""
USES_SECONDS = 60.0
"""Interval of storing uses. Requests never wait for it."""
CLOSE_SECONDS = 2.0

log = structlog.get_logger("relay.node")


class TokenWatch:
    """Keeps tokens current: `run` it in the background; call `heard` and `refresh` when tokens have changed."""

    def __init__(self, tokens: TokenStore, access: Access, *, signals: Signals, steady: Clock = steady_clock) -> None:
        self._tokens = tokens
        self._access = access
        self._signals = signals
        self._steady = steady
        self._version = -1
        self._stored_at = steady()
        self._refreshing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._failing = False
        self._storing = Tasks()

    def heard(self) -> None:
        """Another node has changed tokens, or may have."""
        self._wake.set()

    async def refresh(self) -> None:
        """Reads the tokens. Raises StoreError."""
        async with self._refreshing:  # an older answer must not replace a newer one
            self._version, tokens = await self._tokens.all()
            if self._access.load(tokens):
                self._signals.wake_all()

    async def changed(self) -> None:
        """This node has changed tokens. If they cannot be read now, `run` tries again."""
        try:
            await self.refresh()
        except StoreError:
            self.heard()

    async def run_once(self) -> None:
        """Compares versions, and ends requests that wait under expired tokens. Begins to store uses if they are due."""
        if self._access.some_expired():
            self._signals.wake_all()
        if self._steady() - self._stored_at >= USES_SECONDS and not self._storing:
            self._storing.start(self._store_due_uses())
        async with asyncio.timeout(STUCK_SECONDS):
            version = await self._tokens.version()
        if version != self._version:
            await self.refresh()

    async def store_uses(self) -> None:
        """Stores when tokens were last used. Raises StoreError."""
        self._stored_at = self._steady()
        uses = self._access.take_uses()
        if uses:
            await self._tokens.used(uses)

    async def _store_due_uses(self) -> None:
        try:
            await self.store_uses()
        except StoreError as error:
            log.warning("token_uses_not_stored", error=str(error))

    async def run(self) -> None:
        """Repeats `run_once` until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.run_once()
                self._failing = False
            except Exception as error:
                if not self._failing:
                    log.warning("tokens_not_read", error=str(error) or type(error).__name__)
                self._failing = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._wake.wait()

    async def close(self) -> None:
        """Stores the last uses, for a limited time: the database must not delay the stop."""
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._storing.drain()
                await self.store_uses()
        await self._storing.finish(0.0)
