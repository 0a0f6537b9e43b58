"""Writes a job's transitions and their events in one transaction. Registrations make their first events here, and
write them with the job."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from relay.clock import Clock
from relay.core.events.event import Event, Hint, Origin, from_transition, owner_of
from relay.core.jobs.job import Job, Observation, Problem, Progress, Transition
from relay.core.records import PollRecord, Recorded
from relay.ids import new_id
from relay.metrics import Metrics

if TYPE_CHECKING:
    from relay.delivery.dispatcher import Dispatcher
    from relay.signals import Signals
    from relay.store.jobs.jobs import JobStore

log = structlog.get_logger("relay.polling")

Hints = Callable[[Problem | None, str, str | None], Hint | None]
"""(problem, kind of transition, channel) -> hint; None if nothing is wrong."""


class Recorder:
    """Writes transitions with their events and passes the new deliveries to the dispatcher."""

    def __init__(
        self,
        *,
        jobs: "JobStore",
        dispatcher: "Dispatcher",
        signals: "Signals",
        metrics: Metrics,
        clock: Clock,
        hint: Hints,
        origin: Origin,
    ) -> None:
        self._jobs = jobs
        self._dispatcher = dispatcher
        self._signals = signals
        self._metrics = metrics
        self._clock = clock
        self._hint = hint
        self._origin = origin

    def events(
        self,
        job: Job,
        transitions: Sequence[Transition],
        seen: Observation | None,
        *,
        poll_problem: Problem | None = None,
    ) -> tuple[Event, ...]:
        """The events of a job's transitions. `poll_problem` is why the job counts as not found.

        Inferred transitions get no hint: the item's error belongs to a later attempt.
        """
        channel = (seen.channel if seen is not None else None) or job.channel
        problem = seen.problem if seen is not None else poll_problem
        now = self._clock()
        return tuple(
            from_transition(
                new_id("evt", now),
                job,
                transition,
                self._origin,
                seen=seen,
                hint=None if transition.inferred else self._hint(problem, transition.kind, channel),
            )
            for transition in transitions
        )

    async def record(
        self,
        job: Job,
        transitions: Sequence[Transition],
        progress: Progress,
        *,
        seen: Observation | None = None,
        poll_count: int | None = None,
        outcome: str | None = None,
        last_error: Mapping[str, Any] | None = None,
    ) -> None:
        """Records transitions in one transaction; durable on return. Raises StaleSequence.

        `poll_count` is the job's count when the proving poll was sent, or when the job was judged without a poll; None
        if later polls do not matter.
        """
        problem = None
        if last_error is not None:
            problem = Problem(code=str(last_error.get("code") or ""), message=str(last_error.get("message") or ""))
        events = self.events(job, transitions, seen, poll_problem=problem)
        reservation = self._dispatcher.reserve(events)
        recorded = Recorded(due=True)  # after a failure it is unknown what was written
        try:
            recorded = await self._jobs.record(
                PollRecord(
                    job_uid=job.uid,
                    expected_sequence=job.progress.sequence,
                    expected_poll_count=poll_count,
                    progress=progress,
                    events=events,
                    now=self._clock(),
                    seen=seen,
                    outcome=outcome,
                    lease=None if reservation is None else reservation.lease,
                    last_error=last_error,
                    hint=self._hint_of_failure(job, seen) if outcome == "failed" else None,
                )
            )
        finally:
            self._dispatcher.settle(reservation, recorded)
        for transition in transitions:
            log.info(
                "transition",
                job=job.external_id,
                previous=transition.previous_status,
                kind=transition.kind,
                sequence=transition.sequence,
                source=job.source,
                account=job.account,
                job_uid=job.uid,
                request_id=None if seen is None else seen.request_id,
            )
        self.announce(job, events, outcome)

    def _hint_of_failure(self, job: Job, seen: Observation | None) -> Hint | None:
        return None if seen is None else self._hint(seen.problem, "failed", seen.channel or job.channel)

    def announce(self, job: Job, events: Sequence[Event], outcome: str | None = None) -> None:
        """Counts what was recorded of a job, and wakes readers of the job and its events. `outcome`: it has ended."""
        if outcome is not None:
            label, now = owner_of(job.source, job.account), self._clock()
            self._metrics.figures.add("jobs_ended", label, now)
            if outcome == "failed":
                self._metrics.figures.add("jobs_failed", label, now)
        self._signals.job_changed(job.uid)
        for event in events:
            self._metrics.count_event(event)
        if events:
            self._signals.event_recorded()
