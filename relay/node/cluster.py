"""A node among others on one database: which accounts it polls, and what it hears from the others.

An account's polling belongs to one node at a time, by a lease; its rate limit is one budget anyway. The leases of a
node that has died are free at once where the server knows of its death (see `relay.store.holders`), else when they have
run out. What others write is heard at once by NOTIFY, and found by a scan when that fails.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

import structlog

from relay.clock import Clock
from relay.core.job import Job, PlannedJob
from relay.delivery.dispatcher import Dispatcher
from relay.holder import Holder
from relay.ids import new_id
from relay.polling.poller import Poller
from relay.proxy.answer_cache import AnswerCache
from relay.signals import Signals
from relay.store.notices import ALL
from relay.store.store import Store

LEASE_SECONDS = 10.0
RENEW_SECONDS = 3.0
SCAN_SECONDS = 1.0
WATCH_SECONDS = 0.5
"""How often it is asked which of the nodes that are known have died."""
SURVEY_SECONDS = 5.0
"""How often it is asked which nodes hold something: those that were not heard of."""
INTRODUCE_SECONDS = 2.0
"""A start waits so long for a name that others can tell from a dead node's."""
UNHEARD_SECONDS = 5.0
LATE_COMMIT_SECONDS = 15.0
RECONCILE_SECONDS = 60.0
SCAN_COUNT = 5_000

log = structlog.get_logger("relay.node")


class Cluster:
    """`start()` and `stop()` once each; between them tasks of its own renew, watch, listen and scan."""

    def __init__(
        self,
        *,
        store: Store,
        pollers: Mapping[tuple[str, str], Poller],
        dispatcher: Dispatcher,
        signals: Signals,
        answers: AnswerCache,
        clock: Clock,
        holder: Holder,
        polls: bool,
    ) -> None:
        self._store = store
        self._pollers = pollers
        self._dispatcher = dispatcher
        self._signals = signals
        self._answers = answers
        self._clock = clock
        self._holder = holder
        self._polls = polls
        self._new_jobs = True
        self._gone: set[str] = set()
        """Jobs that are said to be gone, and may have been registered again since."""
        self._scanned_at = 0.0
        self._surveyed_at = 0.0
        self._others: set[str] = set()
        self._deaf = True
        self._ends = False
        self._wake = asyncio.Event()
        self._renew_soon = asyncio.Event()
        self._introduced = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._renewal: asyncio.Task[None] | None = None
        self._taking: dict[tuple[str, str], asyncio.Task[None]] = {}
        for poller in pollers.values():
            poller.holds = False

    async def introduce(self) -> None:
        """Begins to listen, and gives this node its name. Call it before anything is leased."""
        self._tasks.append(asyncio.get_running_loop().create_task(self._listening()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INTRODUCE_SECONDS):
                await self._introduced.wait()

    async def start(self) -> None:
        """Takes the accounts that are free."""
        await self._attempt(self.release_dead)
        await self._attempt(self.renew)
        await asyncio.gather(*self._taking.values())
        loop = asyncio.get_running_loop()
        self._renewal = loop.create_task(self._renewing())
        for work in (self._watching(), self._scanning(), self._reconciling()):
            self._tasks.append(loop.create_task(work))

    async def give_up(self) -> None:
        """Leaves the accounts and the replays to other nodes, and takes none any more."""
        self._polls = False
        renewal = () if self._renewal is None else (self._renewal,)
        await _ended(*renewal, *self._taking.values())
        await self._attempt(lambda: self._store.holders.release_accounts(self._holder.names))

    async def stop(self) -> None:
        """Ends its tasks, and gives the accounts up unless it has done so."""
        self._ends = True
        if self._polls:
            await self.give_up()
        await _ended(*self._tasks)

    def named(self, name: str | None) -> None:
        """A name was bound to this node's connection; None: that has ended, and others may take at once what the name
        holds. Nothing more is polled or sent under it."""
        if self._ends:
            return
        if name is not None:
            self._holder.rename(name)
        else:
            self._holder.lose()
            log.warning("name_lost")
            for key in list(self._pollers):
                self._let_go(key)
            self._dispatcher.wake()
        self._renew_soon.set()

    # --- polling leases

    async def renew(self) -> None:
        """Keeps what it polls, and begins to take what nobody does. Raises TimeoutError when the database is slow."""
        if not self._polls:
            return
        now, name, former = self._clock(), self._holder.name, self._holder.former
        keys = list(self._pollers)  # one may be adopted meanwhile
        async with asyncio.timeout(RENEW_SECONDS):
            held = await asyncio.gather(
                *(self._store.accounts.hold(*key, name, now, now + LEASE_SECONDS, former) for key in keys)
            )
        if self._holder.has_lost(name):
            return  # meanwhile: it is taken again under the new one
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
            poller.release()
            self._signals.wake_all()  # whoever waits for a job is not told any more, and has to look by himself
            log.warning("polling_lost", source=key[0], account=key[1])

    async def _renewing(self) -> None:
        renewed_at = self._clock()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_SECONDS):
                    await self._renew_soon.wait()
            self._renew_soon.clear()
            began_at = self._clock()
            if await self._attempt(self.renew):
                renewed_at = began_at
            elif self._clock() + 2 * RENEW_SECONDS - renewed_at >= LEASE_SECONDS:
                for key in self._pollers:  # another node may have them before the next try has ended
                    self._let_go(key)

    # --- dead nodes

    async def release_dead(self) -> None:
        """Frees what dead nodes hold. This node's own names are left out: what it still does under one it has lost, it
        ends."""
        now = self._clock()
        if now - self._surveyed_at >= SURVEY_SECONDS:
            self._surveyed_at, self._others = now, set(await self._store.holders.bound())
        if dead := await self._store.holders.dead([*self._others.difference(self._holder.names)]):
            self._others.difference_update(dead)
            count = await self._store.holders.release(dead, now)
            log.warning("node_died", holders=dead, deliveries=count)
            self._dispatcher.wake()
            self._renew_soon.set()

    async def _watching(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await self._attempt(self.release_dead)

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
            self._introduced.set()
        elif what == "event":
            self._signals.job_changed(rest)
            self._signals.event_recorded()
            self._dispatcher.wake()
        elif what == "subscriptions":
            self._store.subscriptions.changed()
            self._dispatcher.wake()
        elif what == "deliveries":
            self._dispatcher.wake()
        elif what == "polling":
            self._renew_soon.set()
        elif what == "node":
            self._others.add(rest)
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
            poller.agenda.refresh(uid)
        elif what == "weight":
            poller.agenda.set_weight(uid, float(weight))
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
        closed = [uid for uid, job in zip(gone, jobs, strict=True) if job is None or not job.open]
        for uid in closed:
            for poller in self._pollers.values():
                poller.agenda.forget(uid)
        # One may have been registered again after it was read, when it was still planned here.
        again = await asyncio.gather(*map(self._store.jobs.get, closed))
        self._find([job for job in again if job is not None and job.open])

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

    def _find(self, jobs: Sequence[Job | PlannedJob]) -> None:
        for job in jobs:
            poller = self._pollers.get((job.source, job.account))
            if poller is not None:
                poller.ensure_planned(job)

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
                await self._store.database.listen(self.heard, self.named)
            except Exception as error:
                if not self._deaf:
                    log.warning("not_listening", error=str(error))
                self._deaf = True
            self._introduced.set()
            await asyncio.sleep(SCAN_SECONDS)

    async def _attempt(self, work: Callable[[], object]) -> bool:
        try:
            await work()  # type: ignore[misc]
        except Exception as error:
            log.warning("cluster_failed", error=str(error) or type(error).__name__)
            return False
        return True


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
