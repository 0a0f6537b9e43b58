"""A node among others on one database: which accounts it polls, and what it hears from the others.

An account's polling belongs to one node at a time, by a lease that a crash lets expire; its rate limit is one budget
anyway. What others write is heard at once by NOTIFY, and found by a scan when that fails.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

import structlog

from relay.answers import Answers
from relay.clock import Clock
from relay.core.job import PlannedJob
from relay.dispatcher import Dispatcher
from relay.ids import new_id
from relay.poller import Poller
from relay.signals import Signals
from relay.store.notices import ALL
from relay.store.store import Store

LEASE_SECONDS = 10.0
RENEW_SECONDS = 3.0
SCAN_SECONDS = 1.0
UNHEARD_SECONDS = 5.0
LATE_COMMIT_SECONDS = 15.0
RECONCILE_SECONDS = 60.0
SCAN_COUNT = 5_000

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
        answers: Answers,
        clock: Clock,
        node_id: str,
        polls: bool,
    ) -> None:
        self._store = store
        self._pollers = pollers
        self._dispatcher = dispatcher
        self._signals = signals
        self._answers = answers
        self._clock = clock
        self._node_id = node_id
        self._polls = polls
        self._new_jobs = True
        self._gone: set[str] = set()
        """Jobs that are said to be gone, and may have been registered again since."""
        self._scanned_at = 0.0
        self._deaf = True
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._taking: dict[tuple[str, str], asyncio.Task[None]] = {}
        for poller in pollers.values():
            poller.holds = False

    async def start(self) -> None:
        """Takes the accounts that are free, and begins to listen."""
        await self._attempt(self.renew)
        await asyncio.gather(*self._taking.values())
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._renewing()), loop.create_task(self._listening())]
        self._tasks += [loop.create_task(self._scanning()), loop.create_task(self._reconciling())]

    async def stop(self) -> None:
        """Ends its tasks and gives the accounts up."""
        tasks = [*self._tasks, *self._taking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._polls:
            await self._attempt(lambda: self._store.accounts.let_go(self._node_id))

    # --- polling leases

    async def renew(self) -> None:
        """Keeps what it polls, and begins to take what nobody does. Raises TimeoutError when the database is slow."""
        if not self._polls:
            return
        now = self._clock()
        keys = list(self._pollers)  # one may be adopted meanwhile
        async with asyncio.timeout(RENEW_SECONDS):
            held = await asyncio.gather(
                *(self._store.accounts.hold(*key, self._node_id, now, now + LEASE_SECONDS) for key in keys)
            )
        for mine, key in zip(held, keys, strict=True):
            if mine and not self._pollers[key].holds and key not in self._taking:
                self._taking[key] = asyncio.get_running_loop().create_task(self._take(key))
            elif not mine:
                self._let_go(key)

    async def _take(self, key: tuple[str, str]) -> None:
        """In a task of its own: many open jobs take longer to load than a lease lasts."""
        try:
            states = {(state.source, state.name): state for state in await self._store.accounts.all()}
            await self._pollers[key].take_over(states.get(key))
            log.info("polling_taken", source=key[0], account=key[1])
        except Exception as error:
            log.warning("cluster_failed", error=str(error))
        finally:
            del self._taking[key]

    def _let_go(self, key: tuple[str, str]) -> None:
        taking, poller = self._taking.get(key), self._pollers[key]
        if taking is not None:
            taking.cancel()
        if poller.holds:
            poller.let_go()
            self._signals.wake_all()  # whoever waits for a job is not told any more, and has to look by himself
            log.warning("polling_lost", source=key[0], account=key[1])

    async def _renewing(self) -> None:
        renewed_at = self._clock()
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            began_at = self._clock()
            if await self._attempt(self.renew):
                renewed_at = began_at
            elif self._clock() + 2 * RENEW_SECONDS - renewed_at >= LEASE_SECONDS:
                for key in self._pollers:  # another node may have them before the next try has ended
                    self._let_go(key)

    # --- what others wrote

    def heard(self, notice: str) -> None:
        """One notice, see `relay.store.notices`."""
        what, _, rest = notice.partition(" ")
        if what == ALL:
            self._store.subscriptions.changed()
            self._answers.clear()
            self._signals.wake_all()
            self._new_jobs = True
            self._deaf = False
        elif what == "event":
            self._signals.job_changed(rest)
            self._signals.event_recorded()
            self._dispatcher.wake()
        elif what == "subscriptions":
            self._store.subscriptions.changed()
            self._dispatcher.wake()
        elif what == "deliveries":
            self._dispatcher.wake()
        elif what in ("jobs", "look", "weight"):
            self._heard_of_jobs(what, rest)
        elif what == "gone":
            account, uid, external_id = rest.split(" ", 2)
            source, _, name = account.partition("/")
            self._answers.drop((source, name, external_id))
            self._signals.job_changed(uid)
            self._gone.add(uid)
        self._wake.set()

    def _heard_of_jobs(self, what: str, rest: str) -> None:
        account, _, rest = rest.partition(" ")
        uid, _, weight = rest.partition(" ")
        source, _, name = account.partition("/")
        poller = self._pollers.get((source, name))
        if poller is None or not poller.holds:
            return
        if what == "look":
            poller.refresh(uid)
        elif what == "weight":
            poller.weigh(uid, float(weight))
        else:
            self._new_jobs = True

    async def scan(self) -> None:
        """Finds what was registered elsewhere, if there was or should be a notice; while nothing can be heard, wakes
        everybody who waits for anything."""
        if self._deaf:
            self._store.subscriptions.changed()
            self._answers.clear()
            self._signals.wake_all()
            self._dispatcher.wake()
        await self._forget_gone()
        now = self._clock()
        if not (self._deaf or self._new_jobs or now - self._scanned_at >= UNHEARD_SECONDS):
            return
        after, self._new_jobs, self._scanned_at = new_id("job", now - LATE_COMMIT_SECONDS), False, now
        while jobs := await self._store.jobs.opened_since(after, SCAN_COUNT):
            self._find(jobs)
            after = jobs[-1].uid

    async def _forget_gone(self) -> None:
        """Jobs that are not tracked any more are not polled: that would cost a request each to find out."""
        gone = list(self._gone)
        jobs = await asyncio.gather(*map(self._store.jobs.get, gone))
        self._gone.difference_update(gone)
        for uid, job in zip(gone, jobs, strict=True):
            if job is None or not job.open:
                for poller in self._pollers.values():
                    poller.forget(uid)

    async def reconcile(self) -> None:
        """Finds what other nodes changed where the notice of it was lost: subscriptions, and, where the database has
        more open jobs of an account than are planned here, jobs that were taken up again."""
        if await self._store.subscriptions.find_changes():
            self._dispatcher.wake()
        counts = await self._store.jobs.open_counts()
        for (source, account), poller in self._pollers.items():
            if not poller.holds or counts.get((source, account), 0) <= poller.planner.stats(self._clock()).open_jobs:
                continue
            after = ""
            while jobs := await self._store.jobs.open_jobs(source, account, after_uid=after, count=SCAN_COUNT):
                self._find(jobs)
                after = jobs[-1].uid

    def _find(self, jobs: Sequence[PlannedJob]) -> None:
        for job in jobs:
            poller = self._pollers.get((job.source, job.account))
            if poller is not None:
                poller.find(job)

    async def _scanning(self) -> None:
        while True:
            self._wake.clear()
            await self._attempt(self.scan)
            await asyncio.sleep(SCAN_SECONDS / 20)  # notices come in crowds
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SCAN_SECONDS):
                    await self._wake.wait()

    async def _reconciling(self) -> None:
        while True:
            await asyncio.sleep(RECONCILE_SECONDS)
            await self._attempt(self.reconcile)

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
            log.warning("cluster_failed", error=str(error) or type(error).__name__)
            return False
        return True
