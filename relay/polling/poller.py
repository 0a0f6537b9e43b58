"""Poller of one upstream account.

The planner decides when a job is due; `poll_handler.py` handles the result.
"""

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
from relay.core.planner import Planner, PlannerConfig, PlannerStatistics
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
    """The store's jobs."""

    async def open_jobs(
        self, source: str, account: str, *, after_uid: str = "", count: int = 5_000
    ) -> list[PlannedJob]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSettings:
    """Settings of one upstream account. `read_key` reads the API key again, from its file if it has one."""

    source: str
    account: str
    origin: Origin
    dataschema_base: str
    deadline_seconds: float
    read_key: Callable[[], str | None]
    hint: Hints


@dataclass(frozen=True, slots=True, eq=False)
class PollInFlight:
    """A poll that was sent.

    job   as recorded before it was sent; the result is current only if no other poll was recorded since
    term  see `Poller.term`
    due   when a borrowed poll had been due, in epoch seconds
    """

    job: Job
    term: int
    due: float = 0.0


class Poller:
    """Polls one account. `run_once()` starts every poll that is due and within the budget, each in its own task."""

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
        statistics: PlannerStatistics | None = None,
        changed: Callable[[], None] = lambda: None,
        polled: Callable[[Job, PollResult], None] = lambda job, poll: None,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.recorder = recorder
        self._statistics = statistics
        self.planner = Planner(planner_config, statistics)
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
        """Jobs whose borrowed poll showed nothing: the relay makes the next one, so callers cannot prevent polling."""
        self._waits_since: float | None = None
        self._weights = Weights()
        self._stopping = False
        self._planner_config = planner_config
        self.loading = False
        """True while open jobs are loaded from the store."""
        self.holds = True
        """True while this node polls the account; always True with SQLite."""
        self.term = 0
        """Incremented each time this node takes the account over. State from an earlier term may be stale."""

    # --- the account's jobs and settings

    def release(self) -> None:
        """Hands the account to another node: forgets the plan and drops polls in flight."""
        self.holds = False
        self._forget_all()
        self.health.reset()
        self.changed()

    async def take_over(self, state: AccountState | None) -> None:
        """Takes the account over from another node."""
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
        self.planner = Planner(self._planner_config, self._statistics)

    def ensure_planned(self, job: Job | PlannedJob) -> None:
        """Plans an open job found in the database, unless it is planned."""
        if not self.planner.tracks(job.uid):
            self.track(job)

    async def load(self, state: AccountState | None = None) -> int:
        """Restores the planner and loads the open jobs. Returns their number."""
        await self.restore(state)
        return await self.load_jobs()

    async def restore(self, state: AccountState | None) -> None:
        """Restores the planner and the account's state. Call before any job is planned."""
        if state is not None:
            self.health.state = state
        if self._saved_plan is not None:
            await self._saved_plan.restore(self.planner)

    async def load_jobs(self) -> int:
        """Plans the open jobs in the store while others are registered. Returns their number."""
        self.loading = True
        count, reading = 0, self._read_after("")
        try:
            while jobs := await reading:
                reading = self._read_after(jobs[-1].uid)  # read the next page while this one is planned
                for number, job in enumerate(jobs):
                    if not self.planner.tracks(job.uid):  # it may have been registered meanwhile
                        self._plan(job)
                    if number % PLANNED_AT_ONCE == 0:
                        await asyncio.sleep(0)  # a million jobs must not block the API
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
        """Saves the planner's plan if it changed."""
        if self._saved_plan is not None and self.holds:
            await self._saved_plan.save(self.planner)

    def track(self, job: Job | PlannedJob) -> None:
        """Plans a registered job. If it is already planned, only its weight can have changed."""
        if not job.open or not self.holds:
            return
        if self.planner.tracks(job.uid):
            self.set_weight(job.uid, job.weight)
        else:
            self._plan(job)
            self.changed()

    def set_weight(self, uid: str, weight: float) -> None:
        """Changes the weight of a planned job."""
        if self.planner.tracks(uid) and weight != self._weights.own(uid):
            self._weights.set_own(uid, weight)
            self.planner.set_weight(uid, self._weights.effective(uid), self._clock())
            self.changed()

    def forget(self, uid: str) -> None:
        """Stops polling the job."""
        self._own_next.discard(uid)
        self._weights.forget(uid)
        self.planner.forget(uid)

    def refresh(self, uid: str) -> None:
        """Makes the job due now."""
        now = self._clock()
        self.planner.track(uid, None, now, weight=self._weights.effective(uid), next_poll_at=now)
        self.changed()

    @contextmanager
    def prioritize(self, uid: str) -> Iterator[None]:
        """Raises the job's weight while a client waits for it."""
        self._weights.add_client(uid)
        self.planner.set_weight(uid, self._weights.effective(uid), self._clock())
        self.changed()
        try:
            yield
        finally:
            self._weights.remove_client(uid)
            self.planner.set_weight(uid, self._weights.effective(uid), self._clock())

    def configure(self, settings: AccountSettings, planner_config: PlannerConfig) -> None:
        """Applies reloaded settings: keys and polling."""
        self._planner_config = planner_config
        self.planner = self.planner.reconfigured(planner_config)
        self.settings = settings
        self._key = settings.read_key()
        self.changed()

    @property
    def key(self) -> str | None:
        """The API key."""
        return self._key

    @property
    def paused_by_key(self) -> bool:
        """True if the key is missing or refused."""
        return self._key is None or self.health.key_refused

    @property
    def has_key(self) -> bool:
        """True if there is an API key."""
        return self._key is not None

    @property
    def paused(self) -> bool:
        """True if nothing is polled here: the key is missing or refused, or another node polls."""
        return self.paused_by_key or not self.holds

    @property
    def state(self) -> AccountState:
        """The account's state to show."""
        return self.health.shown_state

    @property
    def last_completed_at(self) -> float | None:
        """When a poll last completed, in epoch seconds."""
        return self._poll_handler.last_completed_at

    @property
    def last_request_ids(self) -> Mapping[str, str]:
        """The upstream's request id of the last poll, for the ten thousand jobs polled last."""
        return self._poll_handler.last_request_ids

    def next_request_at(self) -> float | None:
        """When to call `run_once()` next, in epoch seconds; None until something changes."""
        if self.paused or self._stopping or len(self._in_flight) >= MAX_POLLS_IN_FLIGHT:
            return None
        return self.planner.next_request_at(self._clock())

    def stalled(self, now: float) -> bool:
        """True if polls are due and none has completed for STALLED_SECONDS."""
        if self.planner.stats(now).due_jobs == 0 or not self.has_key:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = self._steady()
        return self._waits_since is not None and self._steady() - self._waits_since >= STALLED_SECONDS

    async def run_once(self) -> bool:
        """Starts the polls that are due. Returns True if there were any."""
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
        """Waits until no poll is in flight."""
        await self._tasks.drain()

    def cut_off(self) -> None:
        """Cancels the polls in flight, regardless of the time `stop` allows."""
        self._tasks.cancel()

    async def stop(self, timeout_seconds: float) -> None:
        """Stops starting polls and lets those in flight end within the time."""
        self._stopping = True
        await self._tasks.finish(timeout_seconds)

    # --- one poll

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
        if self._in_flight.get(uid) is poll:  # else the account was lost and taken over again meanwhile
            del self._in_flight[uid]
        self.changed()

    def _not_written(self, uid: str, error: StoreError) -> None:
        log.error("look_failed", job_uid=uid, error=str(error))
        self._unwritten.add(uid)
        self.planner.failed(uid, OK, {}, self._clock())  # not the upstream's fault

    def _poll_again(self) -> None:
        """The database accepts writes again: polls the jobs whose results it refused."""
        while self._unwritten:
            self.poll_again(self._unwritten.pop())

    def poll_again(self, uid: str) -> None:
        """Makes the job due now, if it is planned here and no poll is in flight."""
        if self.planner.next_poll_at(uid) is not None:
            self.refresh(uid)

    async def poll(self, uid: str) -> None:
        """Polls one job and handles the result."""
        self._own_next.discard(uid)
        term, weight = self.term, self._weights.own(uid)
        job = await self._jobs.get(uid)
        if not self._holds_since(term):
            return
        if job is None or not job.open:
            self.forget(uid)
            return
        if weight == self._weights.own(uid):  # else it changed during the read, which may have missed that
            self.set_weight(uid, job.weight)
        key = self._key
        if key is None:
            self.planner.failed(uid, None, {}, self._clock())
            return
        result = await self._upstream.poll(job.external_id, key)
        if result.kind == "unauthorized" and key != self._key:  # the key was replaced meanwhile
            self.planner.failed(uid, OK, result.headers, self._clock())
            self.poll_again(uid)
            return
        await self._handle(PollInFlight(job, term), result)

    def _holds_since(self, term: int) -> bool:
        return self.holds and self.term == term

    async def _handle(self, sent: PollInFlight, result: PollResult) -> None:
        if not self._holds_since(sent.term):  # the node that polls now knows more
            log.info("poll_dropped", job_uid=sent.job.uid, reason="polling_lost")
            return
        self._waits_since = None
        await self._poll_handler.handle(sent.job, result)

    # --- callers' reads through the proxy

    async def borrow(self, uid: str) -> PollInFlight | None:
        """Lends the job's next poll to a caller's read; pass the result to `settle`.

        None if a poll is in flight, the job is not planned here or cannot be loaded, or the relay has to make the next
        poll itself.
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

    async def settle(self, sent: PollInFlight, result: PollResult | None) -> None:
        """Handles the result of a borrowed poll; None if it is unknown. Raises nothing.

        Only an observation counts. Any other result concerns the caller's request, so the relay polls the job itself
        before it judges the job or the account.
        """
        uid = sent.job.uid
        try:
            if result is None or result.kind != "observed":
                if self._holds_since(sent.term):
                    self._own_next.add(uid)
                self._take_back(uid, sent.due, sent.term, result)
            else:
                await self._handle(sent, result)
        except StoreError as error:
            self._not_written(uid, error)
        finally:
            self._landed(uid, sent)

    def _take_back(self, uid: str, due: float, term: int, result: PollResult | None) -> None:
        if self._holds_since(term):
            now = self._clock()
            status_code, headers = (None, {}) if result is None else (result.status_code, result.headers)
            self.planner.settle(uid, due, status_code, headers, now if result is None else result.sent_at, now)

    def passed(self, status_code: int | None, headers: Mapping[str, str], sent_at: float) -> None:
        """Counts a caller's request on this account's key: it spends the same rate limit."""
        if self.holds:
            self.planner.forwarded(status_code, headers, sent_at, self._clock())

    def is_fresh(self, uid: str, now: float) -> bool:
        """True if the planner expects nothing from polling the job now."""
        return self.planner.is_fresh(uid, now)

    async def overdue(self, job: Job) -> None:
        """Records once that a job has not ended by its deadline. Polling continues."""
        await self._poll_handler.overdue(job)

    async def probe(self) -> bool:
        """While the key is refused: reads it again and tries one cheap call. Returns True if polling continues.

        A refusal of an earlier key does not pause polling; without any job to poll, the call shows that it is over.
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
        result = await self._upstream.probe(self._key)
        log.info("probe", source=self.settings.source, account=self.settings.account, result=result.kind)
        if result.kind == "observed":
            await self.health.recover(self._clock())
            return True
        if result.kind == "unauthorized":
            await self.health.unauthorized(problem_of(result, self._clock()), self._clock())
        return not self.paused

    @property
    def _time_scale(self) -> float:
        """Scale of the upstream's durations: 1, or less in an accelerated simulation."""
        return min(1.0, self._planner_config.min_interval_seconds)

    def _plan(self, job: Job | PlannedJob) -> None:
        self._weights.set_own(job.uid, job.weight)
        self.planner.track(
            job.uid,
            job.item(),
            self._clock(),
            weight=self._weights.effective(job.uid),
            min_interval_seconds=None if job.spacing_seconds is None else job.spacing_seconds * self._time_scale,
            next_poll_at=job.next_poll_at,
            step=job.poll_step,
            seen_at=job.seen_at,
        )
