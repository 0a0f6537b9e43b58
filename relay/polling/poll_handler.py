"""What came of a look at a job: compared, recorded, told to the planner. What is fetched, and when, is the poller's."""

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

import structlog

from relay.clock import Clock
from relay.core.job import Job, Observation, Transition, detect, mark_not_found, mark_overdue
from relay.core.planner import Planner
from relay.core.planner.views import Purpose
from relay.core.records import PollNote
from relay.errors import StaleSequence
from relay.metrics import Metrics
from relay.polling.account_health import AccountHealth
from relay.polling.poll_result import PollResult, problem_of
from relay.polling.recorder import Recorder

NOT_FOUND_POLLS = 5
NOT_FOUND_SECONDS = 120.0
MAX_DETECTIONS = 10
KEPT_REQUEST_IDS = 10_000

log = structlog.get_logger("relay.intake")


class KnownJobs(Protocol):
    """What the intake needs of the store's jobs."""

    async def get(self, uid: str) -> Job | None: ...
    async def note(self, note: PollNote) -> None: ...


class Agenda(Protocol):
    """What is planned of the account's jobs; the planner may be another one at any time."""

    @property
    def planner(self) -> Planner: ...
    def forget(self, uid: str) -> None: ...
    def poll_again(self, uid: str) -> None: ...


class PollHandler:
    """Takes in the looks at one account's jobs.

    looked  told of each answer that was compared, and at once when something of it was recorded
    """

    def __init__(
        self,
        source: str,
        account: str,
        *,
        agenda: Agenda,
        jobs: KnownJobs,
        recorder: Recorder,
        health: AccountHealth,
        metrics: Metrics,
        clock: Clock,
        polled: Callable[[Job, PollResult], None],
    ) -> None:
        self.last_completed_at: float | None = None
        self.last_request_ids: dict[str, str] = {}
        """The upstream's, of the last look at each job."""
        self._source = source
        self._account = account
        self._agenda = agenda
        self._jobs = jobs
        self._recorder = recorder
        self._health = health
        self._metrics = metrics
        self._polls_of = lru_cache(maxsize=64)(metrics.polls.labels)
        self._seconds_of = lru_cache(maxsize=64)(metrics.poll_seconds.labels)
        self._delays_of = lru_cache(maxsize=64)(metrics.detection_delay_seconds.labels)
        self._clock = clock
        self._polled = polled

    async def handle(self, job: Job, poll: PollResult) -> None:
        """Compares what a look has found with what was known, records what is new, and plans the next look.

        `job` is what was known when the look went out. Where another poll of it was recorded since, this one may be
        older: it is dropped, and the job is polled again.
        """
        uid, purpose, now = job.uid, self._agenda.planner.purpose(job.uid), self._clock()
        self.last_completed_at = now
        self._polls_of(self._source, self._account, poll.kind, purpose).inc()
        self._seconds_of(self._source, self._account).observe(poll.duration_ms / 1000)
        if poll.request_id is not None:
            self.last_request_ids.pop(uid, None)
            self.last_request_ids[uid] = poll.request_id
            if len(self.last_request_ids) > KEPT_REQUEST_IDS:
                del self.last_request_ids[next(iter(self.last_request_ids))]
        if poll.kind == "observed" and poll.observation is not None:
            observed = await self._observed(job, poll, poll.observation, purpose)
            if observed is not None:
                self._polled(job, poll)
            kinds = observed or []
            await self._health.succeeded(now)
        else:
            kinds = await self._failed(job, poll, now)
        (log.debug if poll.kind == "observed" else log.info)(
            "look",
            job_uid=uid,
            job=job.external_id,
            source=job.source,
            account=job.account,
            result=poll.kind,
            status_code=poll.status_code,
            request_id=poll.request_id,
            duration_ms=round(poll.duration_ms, 1),
            transitions=kinds,
            next_poll_at=self._agenda.planner.next_poll_at(uid),
        )

    async def _observed(self, job: Job, poll: PollResult, seen: Observation, purpose: Purpose) -> list[str] | None:
        """The kinds of what was recorded; None where the look was dropped."""
        poll_count = job.poll_count
        recorded: Sequence[Transition] = ()
        for _ in range(MAX_DETECTIONS):
            transitions, progress = detect(job.progress, seen)
            if not transitions and progress == job.progress and seen.upstream == job.upstream:
                self._metrics.polls_wasted.labels(job.source, job.account, purpose).inc()
                break
            outcome = progress.status if seen.terminal else None
            try:
                await self._recorder.record(
                    job, transitions, progress, seen=seen, poll_count=poll_count, outcome=outcome
                )
            except StaleSequence:
                again = await self._jobs.get(job.uid)
                if again is None or not again.open:
                    self._agenda.forget(job.uid)
                    return None
                if again.poll_count != poll_count:
                    self._drop(again, poll)
                    return None
                job = again
                continue
            recorded, poll_count = transitions, poll_count + 1
            self._polled(job, poll)  # those whom the record has woken ask at once
            await asyncio.sleep(0)  # what is owed for it goes out first
            break
        now = self._clock()
        self._agenda.planner.observed(job.uid, seen.item(), poll.headers, poll.sent_at, now)
        if seen.terminal:
            self._agenda.forget(job.uid)
            if seen.finished_at is not None:
                delay = max(0.0, now - max(seen.finished_at, job.tracked_at))
                label = self._metrics.class_of(seen.action or job.action, seen.channel or job.channel)
                self._delays_of(job.source, job.account, label).observe(delay)
        else:
            polled_at = None if recorded else now
            await self._jobs.note(
                PollNote(
                    job_uid=job.uid,
                    expected_poll_count=poll_count,
                    next_poll_at=self._agenda.planner.next_poll_at(job.uid),
                    poll_step=self._agenda.planner.step(job.uid),
                    polled_at=polled_at,
                )
            )
        return [transition.kind for transition in recorded]

    def _drop(self, job: Job, poll: PollResult) -> None:
        log.info("poll_dropped", job_uid=job.uid, reason="polled_meanwhile")
        self._agenda.planner.failed(job.uid, poll.status_code, poll.headers, self._clock())
        self._agenda.poll_again(job.uid)

    async def _failed(self, job: Job, poll: PollResult, now: float) -> list[str]:
        self._agenda.planner.failed(job.uid, poll.status_code, poll.headers, now)
        problem = problem_of(poll, now)
        missing = poll.kind in ("not_found", "forbidden")
        missing_count = job.missing_count + 1 if missing else 0
        missing_since = (job.missing_since or now) if missing else None
        if poll.kind == "unauthorized":
            await self._health.unauthorized(problem, now)
        elif poll.kind == "forbidden":
            await self._health.forbidden(job.uid, problem, now)
        elif poll.kind == "not_found":
            await self._health.succeeded(now)
        elif poll.kind != "rate_limited":
            await self._health.failed(problem, now)
        if missing_since is not None and missing_count >= NOT_FOUND_POLLS and now - missing_since >= NOT_FOUND_SECONDS:
            transitions, progress = mark_not_found(job.progress, now)
            try:
                await self._recorder.record(
                    job, transitions, progress, poll_count=job.poll_count, outcome="not_found", last_error=problem
                )
            except StaleSequence:
                return []
            self._agenda.forget(job.uid)
            return ["not_found"]
        await self._jobs.note(
            PollNote(
                job_uid=job.uid,
                expected_poll_count=job.poll_count,
                next_poll_at=self._agenda.planner.next_poll_at(job.uid),
                poll_step=self._agenda.planner.step(job.uid),
                polled_at=now,
                failure_count=job.failure_count + 1,
                missing_count=missing_count,
                missing_since=missing_since,
                last_error=problem,
            )
        )
        return []

    async def overdue(self, job: Job) -> None:
        """Says once that a job has not ended by its deadline; it is looked at on."""
        transitions, progress = mark_overdue(job.progress, self._clock())
        if transitions:
            try:
                await self._recorder.record(
                    job, transitions, progress, poll_count=job.poll_count, last_error=job.last_error
                )
            except StaleSequence:
                return  # it moved on, or was polled meanwhile: the next upkeep looks again
