"""Looks at the jobs of one upstream account. When is the planner's decision; what comes of it is for `intake.py`."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog

from relay.clock import Clock
from relay.core.events import Origin
from relay.core.job import Job, PlannedJob
from relay.core.planner import Book, Planner, PlannerConfig
from relay.core.records import AccountState
from relay.errors import StoreError
from relay.metrics import Metrics
from relay.polling.account_health import AccountHealth, Accounts, Delivering, Signals
from relay.polling.poll_handler import KnownJobs, PollHandler
from relay.polling.poll_result import PollResult, Upstream, problem_of
from relay.polling.recorder import Hints, Recorder
from relay.polling.statistics import AccountPlan
from relay.polling.weights import Weights
from relay.tasks import Tasks

STALLED_SECONDS = 60.0
MAX_POLLS_IN_FLIGHT = 64
LOAD_COUNT = 5_000
PLANNED_AT_ONCE = 200
OK = 200

log = structlog.get_logger("relay.poller")


class Jobs(KnownJobs, Protocol):
    """What the poller needs of the store's jobs."""

    async def open_jobs(
        self, source: str, account: str, *, after_uid: str = "", count: int = 5_000
    ) -> list[PlannedJob]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSettings:
    """One upstream account as the poller knows it. `read_key` reads the key again, from its file where it has one."""

    source: str
    account: str
    origin: Origin
    dataschema_base: str
    deadline_seconds: float
    read_key: Callable[[], str | None]
    hint: Hints


@dataclass(frozen=True, slots=True, eq=False)
class PollInFlight:
    """A request for a job's state that is out. `job` is what was recorded before it went out: only while no other poll
    of the job has been recorded since is its answer the newest. `term`: see `Poller.term`. `due`: when a poll that was
    lent had been due."""

    job: Job
    term: int
    due: float = 0.0


class Poller:
    """Polls one account. `run_once()` starts every look that is due and within the budget, each in its own task."""

    def __init__(
        self,
        settings: AccountSettings,
        *,
        upstream: Upstream,
        jobs: Jobs,
        accounts: Accounts,
        recorder: Recorder,
        signals: Signals,
        delivering: Delivering,
        metrics: Metrics,
        clock: Clock,
        planner_config: PlannerConfig,
        saved_plan: AccountPlan | None = None,
        book: Book | None = None,
        changed: Callable[[], None] = lambda: None,
        polled: Callable[[Job, PollResult], None] = lambda job, poll: None,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.recorder = recorder
        self._book = book
        self.planner = Planner(planner_config, book)
        self.health = AccountHealth(
            settings.source,
            settings.account,
            accounts=accounts,
            signals=signals,
            delivering=delivering,
            metrics=metrics,
            clock=clock,
            dataschema_base=settings.dataschema_base,
            open_jobs=lambda: self.planner.stats(self._clock()).open_jobs,
            changed=lambda: self.changed(),
            hint=settings.hint,
            key=lambda: self._key,
        )
        self._upstream = upstream
        self._jobs = jobs
        self._saved_plan = saved_plan
        self._clock = clock
        self._steady = steady
        self.changed = changed
        self._poll_handler = PollHandler(
            settings.source,
            settings.account,
            agenda=self,
            jobs=jobs,
            recorder=recorder,
            health=self.health,
            metrics=metrics,
            clock=clock,
            polled=polled,
        )
        self._key = settings.read_key()
        self._tasks = Tasks()
        self._in_flight: dict[str, object] = {}
        self._unwritten: set[str] = set()
        self._own_next: set[str] = set()
        """Jobs whose lent poll showed nothing: the next one is our own, so that callers cannot keep us from polling."""
        self._waits_since: float | None = None
        self._weights = Weights()
        self._stopping = False
        self._planner_config = planner_config
        self.loading = False
        """Whether open jobs are still read from the store."""
        self.holds = True
        """Whether the account's polling is this node's; with SQLite it always is."""
        self.term = 0
        """How often it has become so: what was known, or asked, in an earlier term may be old."""

    # --- life

    def release(self) -> None:
        """Another node polls the account now: what is planned here is forgotten, and what is in flight is dropped."""
        self.holds = False
        self._forget_all()
        self.health.reset()
        self.changed()

    async def take_over(self, state: AccountState | None) -> None:
        """The account's polling is this node's from now on."""
        self._forget_all()
        await self.load(state or AccountState(source=self.settings.source, name=self.settings.account))
        self.holds = True
        self.term += 1
        self.changed()

    def _forget_all(self) -> None:
        self._weights.forget_all()
        self._in_flight.clear()
        self._unwritten.clear()
        self._own_next.clear()
        self.planner = Planner(self._planner_config, self._book)

    def ensure_planned(self, job: Job | PlannedJob) -> None:
        """An open job in the database: planned, unless it is."""
        if not self.planner.tracks(job.uid):
            self.track(job)

    async def load(self, state: AccountState | None = None) -> int:
        """Plans the open jobs that the store knows, with what was learned before. Returns how many there are."""
        await self.restore(state)
        return await self.load_jobs()

    async def restore(self, state: AccountState | None) -> None:
        """Goes on with what was learned before, and with how the account was; before any job is planned."""
        if state is not None:
            self.health.state = state
        if self._saved_plan is not None:
            await self._saved_plan.restore(self.planner)

    async def load_jobs(self) -> int:
        """Plans the open jobs that the store knows; others may be registered meanwhile. Returns how many there are."""
        self.loading = True
        count, reading = 0, self._read_after("")
        try:
            while jobs := await reading:
                reading = self._read_after(jobs[-1].uid)  # while these are planned the next ones are read
                for number, job in enumerate(jobs):
                    if not self.planner.tracks(job.uid):  # it may have been registered meanwhile
                        self._plan(job)
                    if number % PLANNED_AT_ONCE == 0:
                        await asyncio.sleep(0)  # a million jobs must not hold up the API
                count += len(jobs)
        finally:
            reading.cancel()
            self.loading = False
            self.changed()
        return count

    def _read_after(self, uid: str) -> asyncio.Task[list[PlannedJob]]:
        place = (self.settings.source, self.settings.account)
        return asyncio.get_running_loop().create_task(self._jobs.open_jobs(*place, after_uid=uid, count=LOAD_COUNT))

    async def save_plan(self) -> None:
        """Writes down what the planner keeps over a restart besides its jobs, where it changed."""
        if self._saved_plan is not None and self.holds:
            await self._saved_plan.save(self.planner)

    def track(self, job: Job | PlannedJob) -> None:
        """Plans looks at a job that was just registered; of one that is planned already, only the weight can be new."""
        if not job.open or not self.holds:
            return
        if self.planner.tracks(job.uid):
            self.set_weight(job.uid, job.weight)
        else:
            self._plan(job)
            self.changed()

    def set_weight(self, uid: str, weight: float) -> None:
        """The weight of a planned job is another one now."""
        if self.planner.tracks(uid) and weight != self._weights.own(uid):
            self._weights.set_own(uid, weight)
            self.planner.set_weight(uid, self._weights.effective(uid), self._clock())
            self.changed()

    def forget(self, uid: str) -> None:
        """Plans no more looks at it."""
        self._own_next.discard(uid)
        self._weights.forget(uid)
        self.planner.forget(uid)

    def refresh(self, uid: str) -> None:
        """A look at it is wanted now."""
        now = self._clock()
        self.planner.track(uid, None, now, weight=self._weights.effective(uid), next_poll_at=now)
        self.changed()

    @contextmanager
    def prioritize(self, uid: str) -> Iterator[None]:
        """While inside, a client waits for the job: it weighs more."""
        self._weights.add_client(uid)
        self.planner.set_weight(uid, self._weights.effective(uid), self._clock())
        self.changed()
        try:
            yield
        finally:
            self._weights.remove_client(uid)
            self.planner.set_weight(uid, self._weights.effective(uid), self._clock())

    def configure(self, settings: AccountSettings, planner_config: PlannerConfig) -> None:
        """Takes over settings that were read again: keys and polling."""
        self._planner_config = planner_config
        self.planner = self.planner.reconfigured(planner_config)
        self.settings = settings
        self._key = settings.read_key()
        self.changed()

    @property
    def key(self) -> str | None:
        """The API key to poll with."""
        return self._key

    @property
    def paused_by_key(self) -> bool:
        """Whether the key is missing or refused."""
        return self._key is None or self.health.key_refused

    @property
    def has_key(self) -> bool:
        """Whether there is an API key to poll with."""
        return self._key is not None

    @property
    def paused(self) -> bool:
        """Whether the key is refused or missing, or another node polls: then nothing is looked at."""
        return self.paused_by_key or not self.holds

    @property
    def state(self) -> AccountState:
        """How the polling goes."""
        return self.health.shown_state

    @property
    def last_completed_at(self) -> float | None:
        """When a look was last answered, in epoch seconds."""
        return self._poll_handler.last_completed_at

    @property
    def last_request_ids(self) -> Mapping[str, str]:
        """The upstream's request id of the last look at each job, of the last ten thousand."""
        return self._poll_handler.last_request_ids

    def next_request_at(self) -> float | None:
        """When to call `run_once()` next, in epoch seconds; None: not before something changes."""
        if self.paused or self._stopping or len(self._in_flight) >= MAX_POLLS_IN_FLIGHT:
            return None
        return self.planner.next_request_at(self._clock())

    def stalled(self, now: float) -> bool:
        """Whether looks are due, and none has completed for a minute: something is wrong that nobody would see."""
        if self.planner.stats(now).due_jobs == 0 or not self.has_key:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = self._steady()
        return self._waits_since is not None and self._steady() - self._waits_since >= STALLED_SECONDS

    async def run_once(self) -> bool:
        """Starts the looks that are due now. Returns whether there were any."""
        started = False
        while not self.paused and not self._stopping and len(self._in_flight) < MAX_POLLS_IN_FLIGHT:
            uid = self.planner.take(self._clock())
            if uid is None:
                break
            self._in_flight[uid] = poll = object()
            self._tasks.start(self._poll_task(uid, poll))
            started = True
        return started

    async def drain(self) -> None:
        """Waits until no look is under way."""
        await self._tasks.drain()

    def cut_off(self) -> None:
        """Ends what is in flight, whatever time `stop` gave it."""
        self._tasks.cancel()

    async def stop(self, timeout_seconds: float) -> None:
        """Starts no more looks, and lets those under way end within the time."""
        self._stopping = True
        await self._tasks.finish(timeout_seconds)

    # --- one look

    async def _poll_task(self, uid: str, poll: object) -> None:
        try:
            await self.poll(uid)
            self._poll_again()
        except StoreError as error:
            self._not_written(uid, error)
        except Exception:
            log.exception("look_failed", job_uid=uid)
            self.planner.failed(uid, None, {}, self._clock())
        finally:
            self._landed(uid, poll)

    def _landed(self, uid: str, poll: object) -> None:
        if self._in_flight.get(uid) is poll:  # else this node has lost the account meanwhile, and polls it again
            del self._in_flight[uid]
        self.changed()

    def _not_written(self, uid: str, error: StoreError) -> None:
        log.error("look_failed", job_uid=uid, error=str(error))
        self._unwritten.add(uid)
        self.planner.failed(uid, OK, {}, self._clock())  # the upstream has done nothing wrong

    def _poll_again(self) -> None:
        """The database takes writes: what it refused to write of other jobs is looked at once more."""
        while self._unwritten:
            self.poll_again(self._unwritten.pop())

    def poll_again(self, uid: str) -> None:
        """A poll at the job is wanted now, where it is planned here and none is under way."""
        if self.planner.next_poll_at(uid) is not None:
            self.refresh(uid)

    async def poll(self, uid: str) -> None:
        """Looks at one job: fetches, detects, records, and tells the planner."""
        self._own_next.discard(uid)
        term, weight = self.term, self._weights.own(uid)
        job = await self._jobs.get(uid)
        if not self._holds_since(term):
            return
        if job is None or not job.open:
            self.forget(uid)
            return
        if weight == self._weights.own(uid):  # else it was changed during the read, which may have missed that
            self.set_weight(uid, job.weight)
        key = self._key
        if key is None:
            self.planner.failed(uid, None, {}, self._clock())
            return
        poll = await self._upstream.poll(job.external_id, key)
        if poll.kind == "unauthorized" and key != self._key:  # another one was read meanwhile: this says nothing of it
            self.planner.failed(uid, OK, poll.headers, self._clock())
            self.poll_again(uid)
            return
        await self._take_in(PollInFlight(job, term), poll)

    def _holds_since(self, term: int) -> bool:
        return self.holds and self.term == term

    async def _take_in(self, sent: PollInFlight, poll: PollResult) -> None:
        if not self._holds_since(sent.term):  # the node that has polled since knows more
            log.info("poll_dropped", job_uid=sent.job.uid, reason="polling_lost")
            return
        self._waits_since = None
        await self._poll_handler.handle(sent.job, poll)

    # --- reads of callers that came through the relay

    async def borrow(self, uid: str) -> PollInFlight | None:
        """A caller's own read of the job goes out next and counts as a look: its answer goes to `returned`.

        None where a look is under way already, the job is not planned here or can not be read, or the next poll has to
        be our own.
        """
        due = self.planner.next_poll_at(uid)
        if due is None or not self.holds or self._stopping or uid in self._in_flight or uid in self._own_next:
            return None
        if not self.planner.borrow(uid, self._clock()):
            return None
        self._in_flight[uid] = reading = object()
        sent: PollInFlight | None = None
        term = self.term
        try:
            job = await self._jobs.get(uid)
            if job is None or not job.open:
                self.forget(uid)
            elif self._holds_since(term):
                self._in_flight[uid] = sent = PollInFlight(job, term, due)
        except StoreError as error:
            log.warning("not_lent", job_uid=uid, error=str(error))
        finally:
            if sent is None:
                self._take_back(uid, due, term, None)
                self._landed(uid, reading)
        return sent

    async def settle(self, sent: PollInFlight, poll: PollResult | None) -> None:
        """What came of a read that was lent; None: nobody knows. Raises nothing.

        It counts only where it shows the job. Whatever else came of it concerns the caller's request; what it means
        for the job and the account is for a poll of our own to say.
        """
        uid = sent.job.uid
        try:
            if poll is None or poll.kind != "observed":
                if self._holds_since(sent.term):
                    self._own_next.add(uid)
                self._take_back(uid, sent.due, sent.term, poll)
            else:
                await self._take_in(sent, poll)
        except StoreError as error:
            self._not_written(uid, error)
        finally:
            self._landed(uid, sent)

    def _take_back(self, uid: str, due: float, term: int, poll: PollResult | None) -> None:
        if self._holds_since(term):
            now = self._clock()
            status_code, headers = (None, {}) if poll is None else (poll.status_code, poll.headers)
            self.planner.take_back(uid, due, status_code, headers, now if poll is None else poll.sent_at, now)

    def passed(self, status_code: int | None, headers: Mapping[str, str], sent_at: float) -> None:
        """A caller's own request on this account's key was answered so: both spend the same limit."""
        if self.holds:
            self.planner.passed(status_code, headers, sent_at, self._clock())

    def is_fresh(self, uid: str, now: float) -> bool:
        """Whether the planner would gain nothing by looking at the job now."""
        return self.planner.is_fresh(uid, now)

    async def overdue(self, job: Job) -> None:
        """Says once that a job has not ended by its deadline; it is looked at on."""
        await self._poll_handler.overdue(job)

    async def probe(self) -> bool:
        """While the key is refused: reads it again and tries one cheap call. Returns whether polling goes on.

        A refusal of another key does not pause polling; the call shows, where no job is polled, that it is over.
        """
        if not self.paused and self.health.state.state != "unauthorized":
            return True
        if not self.holds:
            return False
        self._key = self.settings.read_key()
        if self._key is None:
            return False
        if not self.health.key_refused:
            self.changed()
            if self.health.state.state != "unauthorized":
                return True
        poll = await self._upstream.probe(self._key)
        log.info("probe", source=self.settings.source, account=self.settings.account, result=poll.kind)
        if poll.kind == "observed":
            await self.health.recover(self._clock())
            return True
        if poll.kind == "unauthorized":
            await self.health.unauthorized(problem_of(poll, self._clock()), self._clock())
        return not self.paused

    @property
    def _unit(self) -> float:
        """How much slower the upstream is than its own times say: 1 but in a world that runs faster."""
        return min(1.0, self._planner_config.min_interval_seconds)

    def _plan(self, job: Job | PlannedJob) -> None:
        self._weights.set_own(job.uid, job.weight)
        self.planner.track(
            job.uid,
            job.item(),
            self._clock(),
            weight=self._weights.effective(job.uid),
            min_interval_seconds=None if job.spacing_seconds is None else job.spacing_seconds * self._unit,
            next_poll_at=job.next_poll_at,
            step=job.poll_step,
            seen_at=job.seen_at,
        )
