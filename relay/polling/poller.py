"""Poller of one upstream account: one poll from due to handled.

`account.py` has what its parts share. `agenda.py` knows when jobs are due, `poll_handler.py` handles results,
`account_health.py` has the key and its state.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import structlog

from relay.core.jobs.job import Job, Observation, PlannedJob
from relay.core.planner import Planner, PlannerConfig, PlannerStatistics
from relay.core.polling.tracking import CreditsReading
from relay.core.records import AccountState
from relay.core.values import Progress
from relay.errors import DecryptError, StoreError
from relay.polling.account import AccountSettings, PolledAccount
from relay.polling.account_health import AccountHealth
from relay.polling.account_watch import AccountWatch, CreditsWatch, Watch
from relay.polling.agenda import Agenda
from relay.polling.poll_handler import PollHandler
from relay.polling.statistics import AccountPlan
from relay.sources.client import PLAIN, PollResult, Ways
from relay.tasks import Tasks

STALLED_SECONDS = 60.0
MAX_POLLS_IN_FLIGHT = 64
OK = 200

log = structlog.get_logger("relay.polling")


@dataclass(frozen=True, slots=True, eq=False)
class PollInFlight:
    """A poll that was sent.

    job   as recorded before it was sent; the result is current only if no other poll was recorded since
    term  see `PolledAccount.term`
    due   when a borrowed poll had been due, in epoch seconds
    """

    job: Job
    term: int
    due: float = 0.0


class Poller:
    """Polls one account.

    A poll, step by step:
    1. `run_once` takes the due jobs from the planner, while the budget and MAX_POLLS_IN_FLIGHT allow.
    2. `poll` loads the job and requests its state from the upstream.
    3. `PollHandler.handle` compares the result with the job, records what changed and plans the next poll.
    4. `_run` frees the slot, and the scheduler asks `next_request_at` again.

    A caller's read through the proxy can take the place of a poll: `borrow` takes the job from the planner and loads
    it, the proxy sends the caller's request, and `settle` handles the result.
    """

    def __init__(
        self,
        account: PolledAccount,
        *,
        saved_plan: AccountPlan | None = None,
        statistics: PlannerStatistics | None = None,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.account = account
        self.agenda = Agenda(account, statistics)
        self.health = AccountHealth(account, self.agenda)
        self.poll_handler = PollHandler(account, self.agenda, self.health)
        if account.settings.definition.connect_accounts is not None:
            account.watch = AccountWatch(account, self.agenda)
        self._watch_credits()
        self._saved_plan = saved_plan
        self._clock = account.clock
        self._steady = steady
        self._tasks = Tasks()
        self._in_flight: dict[str, object] = {}
        self._held: set[asyncio.Task[None] | None] = set()
        """Polls whose answer the upstream holds."""
        self._unwritten: set[str] = set()
        self._late: list[Job | PlannedJob] | None = None
        """Jobs registered here while the account is being taken over: their rows may have been read before."""
        self._waits_since: float | None = None
        self._turns = 0
        self._ended = 0
        """Number of polls that ended, borrowed ones included."""

    # --- the account

    @property
    def planner(self) -> Planner:
        """The account's planner."""
        return self.agenda.planner

    @property
    def key(self) -> str | None:
        """The API key."""
        return self.health.key

    @property
    def paused(self) -> bool:
        """True if nothing is polled here: the key is missing or refused, or another node polls."""
        return self.health.paused or not self.account.holds

    @property
    def state(self) -> AccountState:
        """The account's state to show."""
        return self.health.shown_state

    @property
    def credits(self) -> CreditsReading | None:
        """What is known of the account's credits; None: they are not watched here."""
        watch = self.account.credits
        return watch.reading if watch is not None and self.account.holds else None

    def release(self) -> None:
        """Hands the account to another node: forgets the plan and drops polls in flight."""
        self.account.holds = False
        self._clear()
        self.health.reset()
        self.account.reschedule()

    async def take_over(self, state: AccountState | None) -> None:
        """Takes the account over from another node."""
        self._clear()
        late: list[Job | PlannedJob] = []
        self._late = late
        try:
            await self.load(
                state or AccountState(source=self.account.settings.source, name=self.account.settings.account)
            )
        finally:
            self._late = None
        self.account.holds = True
        self.account.term += 1
        self.track(late)
        self.account.reschedule()

    def _clear(self) -> None:
        self.agenda.clear()
        self._in_flight.clear()
        self._unwritten.clear()
        if self.account.watch is not None:
            self.account.watch.reset()
        self._watch_credits()

    async def load(self, state: AccountState | None = None) -> int:
        """Restores the planner and loads the open jobs. Returns their number."""
        await self.restore(state)
        return await self.agenda.load()

    async def restore(self, state: AccountState | None) -> None:
        """Restores the planner and the account's state. Call before any job is planned."""
        if state is not None:
            self.health.state = state
        self._try_key()
        if self._saved_plan is not None:
            await self._saved_plan.restore(self.planner)

    async def save_plan(self) -> None:
        """Saves the planner's plan if it changed."""
        if self._saved_plan is not None and self.account.holds:
            await self._saved_plan.save(self.planner)

    def configure(self, settings: AccountSettings, planner_config: PlannerConfig) -> None:
        """Applies reloaded settings: keys and polling."""
        self.account.settings, self.account.planner_config = settings, planner_config
        self.agenda.configure()
        self.health.configure()
        if self.account.watch is not None:
            self.account.watch.reset()
        self._watch_credits()
        if not self.health.is_proven:
            self._try_key()
        self.account.reschedule()

    def _watch_credits(self) -> None:
        """Begins anew to watch the credits, if the settings ask for it."""
        low = self.account.settings.credits_low
        self.account.credits = None if low is None else CreditsWatch(self.account, self.agenda, low)

    def _try_key(self) -> None:
        """Asks for a listing of the connect accounts soon. It shows a wrong key, or an upstream that does not answer,
        before a job is tracked."""
        if self.account.watch is not None:
            self.account.watch.ask()

    def track(self, jobs: Iterable[Job | PlannedJob]) -> None:
        """Plans the open ones of registered jobs. Of one that is already planned, only the weight can have changed."""
        if self.account.holds:
            self.agenda.track(job for job in jobs if job.open)
        elif self._late is not None:
            self._late += jobs

    def ensure_planned(self, job: Job | PlannedJob) -> None:
        """Plans an open job found in the database, unless it is planned."""
        if not self.planner.tracks(job.uid):
            self.track((job,))

    async def probe(self) -> bool:
        """While the key is refused: tries it again with one cheap call. Returns True if polling continues."""
        return self.account.holds and await self.health.probe() and not self.paused

    def stalled(self, now: float) -> bool:
        """True if polls are due and none has completed for STALLED_SECONDS."""
        if self.planner.stats(now).due_jobs == 0 or self.key is None:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = self._steady()
        return self._waits_since is not None and self._steady() - self._waits_since >= STALLED_SECONDS

    def progress(self) -> Progress:
        """The work done so far."""
        return Progress(turns=self._turns, ended=self._ended, in_flight=len(self._in_flight))

    async def drain(self) -> None:
        """Waits until no poll is in flight."""
        await self._tasks.drain()

    async def stop(self, timeout_seconds: float) -> None:
        """Stops starting polls and lets those in flight end within the time. Those that the upstream holds are given
        up: they may take a minute, and the next process asks again."""
        self.account.stopping = True
        for task in filter(None, self._held):
            task.cancel()
        await self._tasks.finish(timeout_seconds)

    def cut_off(self) -> None:
        """Cancels the polls in flight, regardless of the time `stop` allows."""
        self._tasks.cancel()

    # --- one poll

    def next_request_at(self) -> float | None:
        """The time of the next call of `run_once()`, in epoch seconds; None until something changes."""
        if self.paused or self.account.stopping or len(self._in_flight) >= MAX_POLLS_IN_FLIGHT:
            return None
        poll_at = self.planner.next_request_at(self._clock())
        watch, credits = self.account.watch, self.account.credits
        listing_at = None if watch is None else watch.next_at()
        reading_at = None if credits is None else credits.next_at()
        return min((at for at in (poll_at, listing_at, reading_at) if at is not None), default=None)

    async def run_once(self) -> bool:
        """Starts the polls that are due, each in its own task, and the requests of the watches that are due. Returns
        True if there were any polls."""
        key = self.key
        for watch in (self.account.watch, self.account.credits):
            if watch is None or key is None or self.paused or self.account.stopping:
                continue
            at = watch.next_at()
            if at is not None and at <= self._clock():
                # First of all that is due: where requests are scarce, polls would take every one.
                self._tasks.start(self._run_watch(watch, key))
        started = False
        while not self.paused and not self.account.stopping and len(self._in_flight) < MAX_POLLS_IN_FLIGHT:
            uid = self.planner.take(self._clock())
            if uid is None:
                break
            self._in_flight[uid] = slot = object()
            self._tasks.start(self._run(uid, slot))
            started = True
        self._turns += 1
        return started

    async def _run_watch(self, watch: Watch, key: str) -> None:
        term = self.account.term
        result = await watch.run_once(key)
        tries_key = watch is self.account.watch and not self.health.is_proven and key == self.key
        if result is not None and tries_key and self.account.holds_since(term):
            try:
                await self.health.key_tried(result, self._clock())
            except StoreError as error:
                log.error("state_not_recorded", **self.account.place, error=str(error))
        self.account.reschedule()

    async def _run(self, uid: str, slot: object) -> None:
        try:
            await self.poll(uid)
            while self._unwritten:  # the database accepts writes again
                self.agenda.poll_again(self._unwritten.pop())
        except DecryptError as error:  # reading it again soon does not help
            log.error("job_poll_failed", job_uid=uid, error=str(error))
            self.planner.failed(uid, OK, {}, self._clock())
        except StoreError as error:
            self._not_written(uid, error)
        except Exception:
            log.exception("job_poll_failed", job_uid=uid)
            self.planner.failed(uid, None, {}, self._clock())
        finally:
            self._free(uid, slot)

    async def poll(self, uid: str) -> None:
        """Polls one job and handles the result."""
        self.agenda.own_next.discard(uid)
        term, weight = self.account.term, self.agenda.own_weight(uid)
        job = await self.account.store.jobs.get(uid)
        if not self.account.holds_since(term):
            return
        if job is None or not job.open:
            self.agenda.forget(uid)
            return
        if weight == self.agenda.own_weight(uid):  # else it changed during the read, which may have missed that
            self.agenda.set_weight(uid, job.weight)
        key = self.key
        if key is None:
            self.planner.failed(uid, None, {}, self._clock())
            return
        ways = self._ways(job)
        if self.account.settings.definition.resource_of(job.resource).has_addresses:
            ways = replace(ways, address=await self.account.store.jobs.status_url(uid))
        task = asyncio.current_task()
        if ways.hold_seconds:
            self._held.add(task)
        try:
            result = await self.account.upstream.poll(job.external_id, key, job.resource, ways)
        finally:
            self._held.discard(task)
        if result.kind == "unauthorized" and key != self.key:  # the key was replaced meanwhile
            self.planner.failed(uid, OK, result.headers, self._clock())
            self.agenda.poll_again(uid)
            return
        await self._handle(PollInFlight(job, term), result)

    def _ways(self, job: Job) -> Ways:
        """How to read the job, by its source."""
        resource = self.account.settings.definition.resource_of(job.resource)
        wait, etag = resource.wait, self.poll_handler.etag_of(job) if resource.etag else None
        holds = (
            wait is not None
            and not self.account.stopping
            and self.planner.expects_end(job.uid, wait.max_seconds, self._clock())
        )
        if etag is None and not holds:
            return PLAIN
        seconds = wait.max_seconds if wait is not None and holds else 0.0
        return Ways(hold_seconds=seconds, etag=etag, known=None if etag is None else job.upstream)

    async def _handle(self, sent: PollInFlight, result: PollResult) -> None:
        if not self.account.holds_since(sent.term):  # the node that polls now knows more
            log.info("poll_dropped", job_uid=sent.job.uid, reason="polling_lost")
            return
        self._waits_since = None
        await self.poll_handler.handle(sent.job, result)

    def _not_written(self, uid: str, error: StoreError) -> None:
        log.error("job_poll_failed", job_uid=uid, error=str(error))
        self._unwritten.add(uid)
        self.planner.failed(uid, OK, {}, self._clock())  # not the upstream's fault

    def _free(self, uid: str, slot: object) -> None:
        self._ended += 1
        if self._in_flight.get(uid) is slot:  # else the account was lost and taken over again meanwhile
            del self._in_flight[uid]
        self.account.reschedule()

    # --- callers' reads through the proxy

    async def borrow(self, uid: str) -> PollInFlight | None:
        """Lends the job's next poll to a caller's read; pass the result to `settle`.

        None if a poll is in flight, the job is not planned here or cannot be loaded, or the relay has to make the next
        poll itself.
        """
        due = self._lend(uid)
        if due is None:
            return None
        self._in_flight[uid] = slot = object()
        sent: PollInFlight | None = None
        term = self.account.term
        try:
            job = await self.account.store.jobs.get(uid)
            if job is None or not job.open:
                self.agenda.forget(uid)
            elif self.account.holds_since(term):
                self._in_flight[uid] = sent = PollInFlight(job, term, due)
        except StoreError as error:
            log.warning("not_lent", job_uid=uid, error=str(error))
        finally:
            if sent is None:
                self._give_back(uid, due, term, None)
                self._free(uid, slot)
        return sent

    def _lend(self, uid: str) -> float | None:
        """Takes the job from the planner. Returns when its poll is due; None if it cannot be lent."""
        due, account = self.planner.next_poll_at(uid), self.account
        if due is None or not account.holds or account.stopping or uid in self._in_flight:
            return None
        return due if uid not in self.agenda.own_next and self.planner.borrow(uid, self._clock()) else None

    def shown(self, job: Job, seen: Observation) -> None:
        """Records what the answer to a job's create shows, in place of the job's next poll. A job that is not planned
        here is polled where it is."""
        due, at = self._lend(job.uid), seen.observed_at
        if due is not None:
            self._in_flight[job.uid] = sent = PollInFlight(job, self.account.term, due)
            result = PollResult(kind="observed", observation=seen, sent_at=at, received_at=at, duration_ms=0.0)
            self._tasks.start(self.settle(sent, result))

    async def settle(self, sent: PollInFlight, result: PollResult | None) -> None:
        """Handles the result of a borrowed poll; None if it is unknown. Raises nothing.

        Only an observation counts. Any other result concerns the caller's request, so the relay polls the job itself
        before it judges the job or the account.
        """
        uid = sent.job.uid
        try:
            if result is None or result.kind != "observed":
                if self.account.holds_since(sent.term):
                    self.agenda.own_next.add(uid)
                self._give_back(uid, sent.due, sent.term, result)
            else:
                await self._handle(sent, result)
        except StoreError as error:
            self._not_written(uid, error)
        finally:
            self._free(uid, sent)

    def _give_back(self, uid: str, due: float, term: int, result: PollResult | None) -> None:
        if self.account.holds_since(term):
            now = self._clock()
            status_code, headers = (None, {}) if result is None else (result.status_code, result.headers)
            self.planner.settle(uid, due, status_code, headers, now if result is None else result.sent_at, now)

    def forwarded(self, status_code: int | None, headers: Mapping[str, str], sent_at: float) -> None:
        """Counts a caller's request on this account's key: it spends the same rate limit."""
        if self.account.holds:
            self.planner.forwarded(status_code, headers, sent_at, self._clock())
