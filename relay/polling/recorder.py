"""Writes what was detected of a job, with its events, in one transaction. Shared by looks, upkeep and registrations."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import structlog

from relay.clock import Clock
from relay.core.events import Event, Hint, Origin, from_transition
from relay.core.job import Job, Observation, Problem, Progress, Transition
from relay.core.records import Lease, PollRecord, Recorded
from relay.ids import new_id
from relay.metrics import Metrics

log = structlog.get_logger("relay.recorder")

Hints = Callable[[Problem | None, str, str | None], Hint | None]
"""By problem, kind of transition and channel: what a person should know of it; None where nothing is wrong."""


class Jobs(Protocol):
    """What the recorder needs of the store's jobs."""

    async def record(self, record: PollRecord) -> Recorded: ...


class Reservation(Protocol):
    """Delivery slots kept for what is about to be recorded."""

    @property
    def lease(self) -> Lease: ...


class Delivering(Protocol):
    """What it needs of the dispatcher."""

    def reserve(self, events: Sequence[Event]) -> Reservation | None: ...
    def settle(self, reservation: Any, recorded: Recorded) -> None: ...


class Signals(Protocol):
    """Who is told what was recorded."""

    def job_changed(self, uid: str) -> None: ...
    def event_recorded(self) -> None: ...


class Recorder:
    """Writes what was detected, with its events, and hands fresh deliveries over."""

    def __init__(
        self,
        *,
        jobs: Jobs,
        delivering: Delivering,
        signals: Signals,
        metrics: Metrics,
        clock: Clock,
        hint: Hints,
        origin: Origin,
    ) -> None:
        self._jobs = jobs
        self._delivering = delivering
        self._signals = signals
        self._events_of = lru_cache(maxsize=64)(metrics.events.labels)
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
        """The events of transitions of a job; `poll_problem` is why it is taken for lost.

        What is inferred gets no hint: the item's error is of a later attempt.
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
        """One transaction; durable when it returns. Raises StaleSequence.

        `poll_count` is the job's as it was when the poll was sent that proved it, or when it was judged without one;
        None where later polls change nothing.
        """
        problem = None
        if last_error is not None:
            problem = Problem(code=str(last_error.get("code") or ""), message=str(last_error.get("message") or ""))
        events = self.events(job, transitions, seen, poll_problem=problem)
        reservation = self._delivering.reserve(events)
        recorded = Recorded(due=True)  # where it fails nobody knows what was written
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
                )
            )
        finally:
            self._delivering.settle(reservation, recorded)
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
        self.announce(job.uid, events)

    def announce(self, job_uid: str, events: Sequence[Event]) -> None:
        """Wakes whoever waits for the job or its events."""
        self._signals.job_changed(job_uid)
        for event in events:
            self._events_of(event.type).inc()
        if events:
            self._signals.event_recorded()
