"""A node among others on one database: leases the accounts it polls, and follows changes by other nodes.

One node at a time polls an account, under a lease. The leases of a dead node are released at once if the server noticed
its death (see `relay.store.databases.lease_owners`), otherwise when they expire. Changes by other nodes arrive by
NOTIFY; a scan finds those whose notification was lost.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from relay.clock import Clock
from relay.core.jobs.job import Job, PlannedJob
from relay.ids import new_id
from relay.lease_owner import LeaseOwner
from relay.node.token_watch import TokenWatch
from relay.polling.poller import Poller
from relay.proxy.reads import AnswerCache
from relay.signals import DELIVERIES, Signals
from relay.store.databases.notices import ALL
from relay.store.store import Store

LEASE_SECONDS = 10.0
RENEW_SECONDS = 3.0
SCAN_SECONDS = 1.0
WATCH_SECONDS = 0.5
"""Interval of the check whether known nodes have died."""
SURVEY_SECONDS = 5.0
"""Interval of listing the nodes that hold leases, to find those that were never announced."""
INTRODUCE_SECONDS = 2.0
"""Maximum wait of a start for a name that is bound to its connection."""
UNHEARD_SECONDS = 5.0
LATE_COMMIT_SECONDS = 15.0
RECONCILE_SECONDS = 60.0
SCAN_COUNT = 5_000

log = structlog.get_logger("relay.node")


@dataclass(kw_only=True, eq=False, repr=False)
class Cluster:
    """Between `start()` and `stop()`, background tasks renew leases, watch other nodes, listen and scan."""

    store: Store
    pollers: Mapping[tuple[str, str], Poller]
    signals: Signals
    answers: AnswerCache
    clock: Clock
    holder: LeaseOwner
    polls: bool
    tokens: TokenWatch
    _new_jobs: bool = field(default=True, init=False)
    _gone: set[str] = field(default_factory=set, init=False)
    """Jobs announced as untracked or purged. They may have been registered again since."""
    _scanned_at: float = field(default=0.0, init=False)
    _surveyed_at: float = field(default=0.0, init=False)
    _others: set[str] = field(default_factory=set, init=False)
    _not_listening: bool = field(default=True, init=False)
    _ends: bool = field(default=False, init=False)
    _takes: bool = field(default=True, init=False)
    _wake: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _renew_soon: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _introduced: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list, init=False)
    _renewal: asyncio.Task[None] | None = field(default=None, init=False)
    _taking: dict[tuple[str, str], asyncio.Task[None]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for poller in self.pollers.values():
            poller.account.holds = False

    async def introduce(self) -> None:
        """Starts listening and gives this node its name. Call it before anything is leased."""
        self._tasks.append(asyncio.get_running_loop().create_task(self._listening()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INTRODUCE_SECONDS):
                await self._introduced.wait()

    async def start(self) -> None:
        """Leases the accounts that no other node holds. Their jobs are loaded meanwhile: see `taken`."""
        await self._attempt(self.release_dead)
        await self._attempt(self.renew)
        loop = asyncio.get_running_loop()
        self._renewal = loop.create_task(self._renewing())
        for work in (self._watching(), self._scanning(), self._reconciling()):
            self._tasks.append(loop.create_task(work))

    def stop_taking(self) -> None:
        """Takes no more accounts, and ends the reading of those being taken. The others stay with this node."""
        self._takes = False
        for taking in self._taking.values():
            taking.cancel()

    async def taken(self) -> None:
        """Waits until the accounts that were leased are polled."""
        await asyncio.gather(*self._taking.values(), return_exceptions=True)

    async def give_up(self) -> None:
        """Releases the accounts and replays to other nodes, and takes no more."""
        self.polls = False
        renewal = () if self._renewal is None else (self._renewal,)
        await _ended(*renewal, *self._taking.values())
        await self._attempt(lambda: self.store.holders.release_accounts(self.holder.names))

    async def stop(self) -> None:
        """Releases the accounts, unless `give_up` has, and ends the background tasks."""
        self._ends = True
        if self.polls:
            await self.give_up()
        await _ended(*self._tasks)

    def named(self, name: str | None) -> None:
        """Called with the name bound to this node's connection, and with None when that connection ends. Then other
        nodes may take the leases under that name, so polling and sending under it stop."""
        if self._ends:
            return
        if name is not None:
            self.holder.rename(name)
        else:
            self.holder.lose()
            log.warning("name_lost")
            for key in list(self.pollers):
                self._let_go(key)
            self.signals.deliveries_due()
        self._renew_soon.set()

    # --- polling leases

    async def renew(self) -> None:
        """Renews the leases of this node's accounts and takes free ones. Raises TimeoutError."""
        if not self.polls:
            return
        now, name, former = self.clock(), self.holder.name, self.holder.former
        keys = list(self.pollers)  # an account may be adopted meanwhile
        async with asyncio.timeout(RENEW_SECONDS):
            held = await asyncio.gather(
                *(self.store.accounts.hold(*key, name, now, now + LEASE_SECONDS, former) for key in keys)
            )
        if self.holder.has_lost(name):
            return  # the old name is lost: the account is taken again under the new one
        for mine, key in zip(held, keys, strict=True):
            if mine and self._takes and not self.pollers[key].account.holds and key not in self._taking:
                self._taking[key] = asyncio.get_running_loop().create_task(self._take(key))
            elif not mine:
                self._let_go(key)

    async def _take(self, key: tuple[str, str]) -> None:
        """Runs in its own task: loading many open jobs takes longer than a lease lasts."""
        try:
            states = {(state.source, state.name): state for state in await self.store.accounts.all()}
            await self.pollers[key].take_over(states.get(key))
            self._new_jobs = True  # some may have been registered since the last were read
            self._wake.set()
            log.info("polling_taken", source=key[0], account=key[1])
        except Exception as error:
            log.warning("cluster_failed", error=str(error))
        finally:
            del self._taking[key]

    def _let_go(self, key: tuple[str, str]) -> None:
        taking, poller = self._taking.get(key), self.pollers[key]
        if taking is not None:
            taking.cancel()
        if poller.account.holds:
            poller.release()
            self.signals.wake_all()  # waiters get no more signals from this node and must read the store
            log.warning("polling_lost", source=key[0], account=key[1])

    async def _renewing(self) -> None:
        renewed_at = self.clock()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_SECONDS):
                    await self._renew_soon.wait()
            self._renew_soon.clear()
            began_at = self.clock()
            if await self._attempt(self.renew):
                renewed_at = began_at
            elif self.clock() + 2 * RENEW_SECONDS - renewed_at >= LEASE_SECONDS:
                for key in self.pollers:  # another node may take the accounts before the next attempt ends
                    self._let_go(key)

    # --- dead nodes

    async def release_dead(self) -> None:
        """Releases the leases of dead nodes. Skips this node's own former names: it finishes its work under them."""
        now = self.clock()
        if now - self._surveyed_at >= SURVEY_SECONDS:
            self._surveyed_at, self._others = now, set(await self.store.holders.bound())
        if dead := await self.store.holders.dead([*self._others.difference(self.holder.names)]):
            self._others.difference_update(dead)
            leases = await self.store.holders.release(dead, now)
            tell = log.warning if leases else log.info  # a node that is stopped leaves none
            tell("node_gone", holders=dead, leases=leases)
            self.signals.deliveries_due()
            self._renew_soon.set()

    async def _watching(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await self._attempt(self.release_dead)

    # --- changes by other nodes

    def heard(self, notice: str) -> None:
        """Handles one notification, see `relay.store.databases.notices`."""
        what, _, rest = notice.partition(" ")
        if what == ALL:
            self.store.subscriptions.changed()
            self.tokens.heard()
            self.answers.clear()
            self.signals.wake_all()
            self._new_jobs = True
            self._not_listening = False
            self._introduced.set()
        elif what == "event":
            self.signals.signal(rest)
            self.signals.event_recorded()
            self.signals.deliveries_due()
        elif what == "group":
            self.signals.signal(rest)
        elif what == "subscriptions":
            self.store.subscriptions.changed()
            self.signals.deliveries_due()
        elif what == "tokens":
            self.tokens.heard()
        elif what == "deliveries":
            self.signals.deliveries_due()
        elif what == "pulls":
            self.signals.signal(DELIVERIES)
        elif what == "polling":
            self._renew_soon.set()
        elif what == "node":
            self._others.add(rest)
        elif what in ("jobs", "look", "weight"):
            self._heard_of_jobs(what, rest)
        elif what == "gone":
            account, uid, external_id = rest.split(" ", 2)
            source, name, resource = f"{account}/".split("/")[:3]  # without a resource it is of the first one
            self.answers.drop((external_id, source, name, resource))
            self.signals.signal(uid)
            self._gone.add(uid)
        self._wake.set()

    def _heard_of_jobs(self, what: str, rest: str) -> None:
        account, _, rest = rest.partition(" ")
        uid, _, weight = rest.partition(" ")
        source, _, name = account.partition("/")
        poller = self.pollers.get((source, name))
        if poller is None or not poller.account.holds:
            return
        if what == "look":
            poller.agenda.refresh(uid)
        elif what == "weight":
            poller.agenda.set_weight(uid, float(weight))
        else:
            self._new_jobs = True

    async def scan(self) -> None:
        """Finds jobs registered on other nodes, after a notification or at intervals. While the node cannot listen,
        also wakes all waiters."""
        if self._not_listening:
            self.store.subscriptions.changed()
            self.answers.clear()
            self.signals.wake_all()
            self.signals.deliveries_due()
        await self._forget_gone()
        now = self.clock()
        if not (self._not_listening or self._new_jobs or now - self._scanned_at >= UNHEARD_SECONDS):
            return
        after, self._new_jobs, self._scanned_at = new_id("job", now - LATE_COMMIT_SECONDS), False, now
        while jobs := await self.store.jobs.opened_since(after, SCAN_COUNT):
            self._find(jobs)
            after = jobs[-1].uid

    async def _forget_gone(self) -> None:
        """Removes untracked jobs from the plans, which saves one poll for each."""
        gone = list(self._gone)
        jobs = await asyncio.gather(*map(self.store.jobs.get, gone))
        self._gone.difference_update(gone)
        closed = [uid for uid, job in zip(gone, jobs, strict=True) if job is None or not job.open]
        for uid in closed:
            for poller in self.pollers.values():
                poller.agenda.forget(uid)
        # A job may have been registered again after it was read, while it was still planned here.
        again = await asyncio.gather(*map(self.store.jobs.get, closed))
        self._find([job for job in again if job is not None and job.open])

    async def reconcile(self) -> None:
        """Finds changes whose notification was lost: to subscriptions, and jobs that are tracked again, if the database
        has more open jobs of an account than this node has planned."""
        if await self.store.subscriptions.find_changes():
            self.signals.deliveries_due()
        counts = await self.store.jobs.open_counts()
        for (source, account), poller in self.pollers.items():
            planned = poller.planner.stats(self.clock()).open_jobs + len(poller.agenda.unplanned)
            if not poller.account.holds or counts.get((source, account), 0) <= planned:
                continue
            after = ""
            while jobs := await self.store.jobs.open_jobs(source, account, after_uid=after, count=SCAN_COUNT):
                self._find(jobs)
                after = jobs[-1].uid

    def _find(self, jobs: Sequence[Job | PlannedJob]) -> None:
        for job in jobs:
            poller = self.pollers.get((job.source, job.account))
            if poller is not None:
                poller.ensure_planned(job)

    async def _scanning(self) -> None:
        while True:
            self._wake.clear()
            await self._attempt(self.scan)
            await asyncio.sleep(SCAN_SECONDS / 20)  # notifications come in bursts
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
                await self.store.database.listen(self.heard, self.named)
            except Exception as error:
                if not self._not_listening:
                    log.warning("not_listening", error=str(error))
                self._not_listening = True
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
