"""A node among others on one database: which accounts it polls, and what it hears from the others.

An account's polling belongs to one node at a time, by a lease that a crash lets expire; its rate limit is one budget
anyway. What others write is heard at once by NOTIFY, and found by a scan when that fails.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import structlog

from relay.clock import Clock
from relay.dispatcher import Dispatcher
from relay.ids import new_id
from relay.poller import Poller
from relay.signals import Signals
from relay.store.notices import ALL
from relay.store.store import Store

LEASE_SECONDS = 10.0
RENEW_SECONDS = 3.0
SCAN_SECONDS = 1.0
LATE_COMMIT_SECONDS = 10.0

log = structlog.get_logger("relay.cluster")


class Cluster:
    """`start()` and `stop()` once each; between them two tasks of its own renew, listen and scan."""

    def __init__(
        self,
        *,
        store: Store,
        pollers: Mapping[tuple[str, str], Poller],
        dispatcher: Dispatcher,
        signals: Signals,
        clock: Clock,
        node_id: str,
        polls: bool,
    ) -> None:
        self._store = store
        self._pollers = pollers
        self._dispatcher = dispatcher
        self._signals = signals
        self._clock = clock
        self._node_id = node_id
        self._polls = polls
        self._new_jobs: set[tuple[str, str]] = set()
        self._deaf = True
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        for poller in pollers.values():
            poller.holds = False

    async def start(self) -> None:
        """Takes the accounts that are free, and begins to listen."""
        await self._attempt(self.renew)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._renewing()), loop.create_task(self._listening())]
        self._tasks.append(loop.create_task(self._scanning()))

    async def stop(self) -> None:
        """Ends its tasks and gives the accounts up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._polls:
            await self._attempt(lambda: self._store.accounts.let_go(self._node_id))

    # --- polling leases

    async def renew(self) -> None:
        """Keeps what it polls, and takes what nobody does."""
        if not self._polls:
            return
        states = None
        for (source, account), poller in self._pollers.items():
            now = self._clock()
            mine = await self._store.accounts.hold(source, account, self._node_id, now, now + LEASE_SECONDS)
            if mine and not poller.holds:
                if states is None:
                    states = {(state.source, state.name): state for state in await self._store.accounts.all()}
                await poller.take_over(states.get((source, account)))
                log.info("polling_taken", source=source, account=account)
            elif not mine and poller.holds:
                poller.let_go()
                log.warning("polling_lost", source=source, account=account)

    async def _renewing(self) -> None:
        renewed_at = self._clock()
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            if await self._attempt(self.renew):
                renewed_at = self._clock()
            elif self._clock() - renewed_at >= LEASE_SECONDS:
                for poller in self._pollers.values():  # another node may have them by now
                    if poller.holds:
                        poller.let_go()

    # --- what others wrote

    def heard(self, notice: str) -> None:
        """One notice, see `relay.store.notices`."""
        what, _, rest = notice.partition(" ")
        if what == ALL:
            self._store.subscriptions.changed()
            self._signals.wake_all()
            self._new_jobs.update(self._pollers)
            self._deaf = False
        elif what == "event":
            self._signals.job_changed(rest)
            self._signals.event_recorded()
            self._dispatcher.wake()
        elif what == "subscriptions":
            self._store.subscriptions.changed()
            self._dispatcher.wake()
        elif what in ("jobs", "look"):
            account, _, uid = rest.partition(" ")
            source, _, name = account.partition("/")
            poller = self._pollers.get((source, name))
            if poller is not None and poller.holds:
                if uid:
                    poller.refresh(uid)
                else:
                    self._new_jobs.add((source, name))
        self._wake.set()

    async def scan(self) -> None:
        """Finds what was registered elsewhere; while nothing can be heard, wakes everybody who waits for anything."""
        if self._deaf:
            self._store.subscriptions.changed()
            self._signals.wake_all()
            self._dispatcher.wake()
            self._new_jobs.update(self._pollers)
        since = new_id("job", self._clock() - LATE_COMMIT_SECONDS)
        while self._new_jobs:
            poller = self._pollers[self._new_jobs.pop()]
            if poller.holds:
                await poller.find_new(since)

    async def _scanning(self) -> None:
        while True:
            self._wake.clear()
            await self._attempt(self.scan)
            await asyncio.sleep(SCAN_SECONDS / 20)  # notices come in crowds
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SCAN_SECONDS):
                    await self._wake.wait()

    async def _listening(self) -> None:
        while True:
            try:
                await self._store.database.listen(self.heard)
            except Exception as error:
                if not self._deaf:
                    log.warning("not_listening", error=str(error))
                self._deaf = True
            await asyncio.sleep(SCAN_SECONDS)

    async def _attempt(self, work: Callable[[], object]) -> bool:
        try:
            await work()  # type: ignore[misc]
        except Exception as error:
            log.warning("cluster_failed", error=str(error))
            return False
        return True
