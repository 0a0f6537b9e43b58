"""Poll handler: compares a poll result with the recorded job, records changes and plans the next poll.

`poller.py` decides what is polled and when.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import structlog

from relay.clock import Clock
from relay.core.events.event import owner_of
from relay.core.jobs.job import Job, Observation, Problem, Transition, detect, mark_not_found, mark_overdue
from relay.core.planner.outlook import Purpose
from relay.core.records import PollNote
from relay.errors import StaleSequence
from relay.metrics import Metrics
from relay.polling.account_health import AccountHealth
from relay.polling.agenda import Agenda
from relay.polling.recorder import Recorder
from relay.sources.client import PollResult, problem_of

if TYPE_CHECKING:
    from relay.store.jobs.jobs import JobStore

NOT_FOUND_POLLS = 5
NOT_FOUND_SECONDS = 120.0
MAX_DETECTIONS = 10
KEPT_REQUEST_IDS = 10_000

log = structlog.get_logger("relay.polling")


class PollHandler:
    """Handles the poll results of one account.

    `polled` is called with each result that was compared: right after its changes were recorded, before the handler
    yields to others, and once more at the end of `handle`, which also covers results without changes. It must be
    idempotent: the drop-in renews the job's answer. `failed` is called with the problem and the channel of each job
    that was found to have failed, or that is retried.
    """

    def __init__(
        self,
        *,
        agenda: Agenda,
        jobs: "JobStore",
        recorder: Recorder,
        health: AccountHealth,
        metrics: Metrics,
        clock: Clock,
        polled: Callable[[Job, PollResult], None],
        failed: Callable[[Problem, str | None], None],
    ) -> None:
        self.last_completed_at: float | None = None
        self.answered = 0
        """Number of polls that have ended."""
        self.last_request_ids: dict[str, str] = {}
        """The upstream's request id of the last poll, by job uid."""
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
        self._failed_with = failed

    async def handle(self, job: Job, result: PollResult) -> None:
        """Compares a result with the recorded job, records what changed and plans the next poll.

        `job` is the job as recorded when the poll was sent. If another poll was recorded since, this result may be
        older: it is dropped, and the job is polled again.
        """
        uid, purpose, now = job.uid, self._agenda.planner.purpose(job.uid), self._clock()
        self._count(job, result, purpose, now)
        if result.kind == "observed" and result.observation is not None:
            observed = await self._observed(job, result, result.observation, purpose)
            if observed is not None:
                self._polled(job, result)
            kinds = observed or []
            await self._health.succeeded(now)
        else:
            kinds = await self._failed(job, result, now)
        (log.debug if result.kind == "observed" else log.info)(
            "poll",
            job_uid=uid,
            job=job.external_id,
            source=job.source,
            account=job.account,
            result=result.kind,
            status_code=result.status_code,
            request_id=result.request_id,
            duration_ms=round(result.duration_ms, 1),
            transitions=kinds,
            next_poll_at=self._agenda.planner.next_poll_at(uid),
        )

    def _count(self, job: Job, result: PollResult, purpose: Purpose, now: float) -> None:
        self.last_completed_at = now
        self.answered += 1
        self._polls_of(job.source, job.account, result.kind, purpose).inc()
        self._seconds_of(job.source, job.account).observe(result.duration_ms / 1000)
        if result.request_id is not None:
            self.last_request_ids.pop(job.uid, None)
            self.last_request_ids[job.uid] = result.request_id
            if len(self.last_request_ids) > KEPT_REQUEST_IDS:
                del self.last_request_ids[next(iter(self.last_request_ids))]

    async def _observed(self, job: Job, result: PollResult, seen: Observation, purpose: Purpose) -> list[str] | None:
        """Records an observation. Returns the kinds of recorded transitions; None if the result was dropped."""
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
                    self._drop(again, result)
                    return None
                job = again
                continue
            recorded, poll_count = transitions, poll_count + 1
            self._polled(job, result)  # clients woken by the record ask immediately
            if seen.problem is not None and transitions:
                self._failed_with(seen.problem, seen.channel or job.channel)
            await asyncio.sleep(0)  # let the new deliveries start first
            break
        now = self._clock()
        self._agenda.planner.observed(job.uid, seen.item(), result.headers, result.sent_at, now)
        if seen.terminal:
            self._agenda.forget(job.uid)
            if seen.finished_at is not None:
                delay = max(0.0, now - max(seen.finished_at, job.tracked_at))
                label = self._metrics.class_of(seen.action or job.action, seen.channel or job.channel)
                self._delays_of(job.source, job.account, label).observe(delay)
                owner = owner_of(job.source, job.account)
                self._metrics.figures.add("detection_delay_seconds", owner, now, delay)
        else:
            await self._note(job.uid, poll_count, polled_at=None if recorded else now)
        return [transition.kind for transition in recorded]

    def _drop(self, job: Job, result: PollResult) -> None:
        log.info("poll_dropped", job_uid=job.uid, reason="polled_meanwhile")
        self._agenda.planner.failed(job.uid, result.status_code, result.headers, self._clock())
        self._agenda.poll_again(job.uid)

    async def _failed(self, job: Job, result: PollResult, now: float) -> list[str]:
        self._agenda.planner.failed(job.uid, result.status_code, result.headers, now)
        problem = problem_of(result, now)
        missing = result.kind in ("not_found", "forbidden")
        missing_count = job.missing_count + 1 if missing else 0
        missing_since = (job.missing_since or now) if missing else None
        if result.kind == "unauthorized":
            await self._health.unauthorized(problem, now)
        elif result.kind == "forbidden":
            await self._health.forbidden(job.uid, problem, now)
        elif result.kind == "not_found":
            await self._health.succeeded(now)
        elif result.kind != "rate_limited":
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
        await self._note(
            job.uid,
            job.poll_count,
            polled_at=now,
            failure_count=job.failure_count + 1,
            missing_count=missing_count,
            missing_since=missing_since,
            last_error=problem,
        )
        return []

    async def _note(self, uid: str, poll_count: int, **fields: Any) -> None:
        """Stores the next poll's time, and `fields` of PollNote."""
        planner = self._agenda.planner
        await self._jobs.note(
            PollNote(
                job_uid=uid,
                expected_poll_count=poll_count,
                next_poll_at=planner.next_poll_at(uid),
                poll_step=planner.step(uid),
                **fields,
            )
        )

    async def overdue(self, job: Job) -> None:
        """Records once that a job has not ended by its deadline. Polling continues."""
        transitions, progress = mark_overdue(job.progress, self._clock())
        if transitions:
            try:
                await self._recorder.record(
                    job, transitions, progress, poll_count=job.poll_count, last_error=job.last_error
                )
            except StaleSequence:
                return  # it changed meanwhile: the next upkeep checks again
