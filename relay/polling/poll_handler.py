"""Poll handler: compares a poll result with the recorded job, writes its transitions and their events in one
transaction, and plans the next poll.

`poller.py` decides what is polled and when.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import structlog

from relay.core.events.event import Event, Hint, from_transition, owner_of
from relay.core.jobs.job import Job, Observation, Problem, Progress, Transition, detect, mark_not_found, mark_overdue
from relay.core.planner.outlook import Purpose
from relay.core.records import PollNote, PollRecord, Recorded
from relay.core.trace_context import TraceContext, of_kept
from relay.errors import StaleSequence
from relay.ids import new_id
from relay.log import shows_deliveries
from relay.polling.account_health import AccountHealth
from relay.polling.agenda import Agenda
from relay.sources.client import NOT_MODIFIED, PollResult, problem_of
from relay.sources.pointers import at

if TYPE_CHECKING:
    from relay.polling.account import PolledAccount
    from relay.tracing import Span, Tracing

NOT_FOUND_POLLS = 5
NOT_FOUND_SECONDS = 120.0
MAX_DETECTIONS = 10
RESULT_READS = 8
"""Reads of a succeeded job's result that fail, before its event goes without one: over two minutes."""
RESULT_UNREAD = "result_unread"
OK = 200
KEPT_REQUEST_IDS = 10_000
LOGGED = frozenset(("failed", "overdue", "not_found", "status_unknown"))
"""Kinds of transitions that an operator finds in the log."""
KEPT_ETAGS = 10_000
_ETAG = re.compile(r'(?:W/)?"[!#-~]{0,200}"')  # RFC 9110, 8.8.3

log = structlog.get_logger("relay.polling")


class PollHandler:
    """Handles the poll results of one account, and records transitions with their events. Registrations make their
    first events here, and write them with the job."""

    def __init__(self, account: "PolledAccount", agenda: Agenda, health: AccountHealth) -> None:
        self.last_completed_at: float | None = None
        self.answered = 0
        """Number of polls that have ended."""
        self.last_request_ids: dict[str, str] = {}
        """The upstream's request id of the last poll, by job uid."""
        self._etags: dict[str, tuple[str, int, int]] = {}
        """By job uid: the ETag of the last answer, and the poll count and sequence that were recorded with it."""
        self._account = account
        self._agenda = agenda
        self._health = health
        metrics = account.metrics
        self._polls_of = lru_cache(maxsize=64)(metrics.polls.labels)
        self._wasted_of = lru_cache(maxsize=64)(metrics.polls_wasted.labels)
        self._seconds_of = lru_cache(maxsize=64)(metrics.poll_seconds.labels)
        self._delays_of = lru_cache(maxsize=64)(metrics.detection_delay_seconds.labels)

    async def handle(self, job: Job, result: PollResult) -> None:
        """Compares a result with the recorded job, records what changed and plans the next poll.

        `job` is the job as recorded when the poll was sent. If another poll was recorded since, this result may be
        older: it is dropped, and the job is polled again.
        """
        uid, purpose, now = job.uid, self._agenda.planner.purpose(job.uid), self._account.clock()
        self.last_completed_at = now
        self.answered += 1
        self._polls_of(job.source, job.account, result.kind, purpose).inc()
        self._seconds_of(job.source, job.account).observe(result.duration_ms / 1000)
        if result.request_id is not None:
            self.last_request_ids.pop(uid, None)
            self.last_request_ids[uid] = result.request_id
            if len(self.last_request_ids) > KEPT_REQUEST_IDS:
                del self.last_request_ids[next(iter(self.last_request_ids))]
        seen = result.observation if result.kind == "observed" else None
        place = self._account.settings.definition.resource_of(job.resource).result_url
        if place is not None and seen is not None and seen.status == "succeeded":
            if purpose == "passed" and _waits_for_result(job):
                # A client may read as often as it likes, and the relay reads the result at its own pace.
                due = job.next_poll_at or now
                self._agenda.planner.settle(uid, due, result.status_code, result.headers, result.sent_at, now)
                return
            seen = await self._with_result(job, result, seen, at(seen.upstream, place))
            if seen is None:
                await self._health.succeeded(now)
                return
        if seen is not None:
            if result.moved_to is not None:
                await self._account.store.jobs.set_status_url(uid, result.moved_to)
            observed = await self._observed(job, result, seen, purpose)
            if observed is not None:
                self._account.polled(job, result)
            kinds = observed or []
            await self._health.succeeded(now)
        else:
            kinds = await self._failed(job, result, now)
        if result.kind == "observed" and not shows_deliveries():
            return
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
            # Of our own words: that of other results may have the upstream's.
            **({"detail": result.detail} if result.kind == "malformed" and result.error is None else {}),
        )

    async def _observed(self, job: Job, result: PollResult, seen: Observation, purpose: Purpose) -> list[str] | None:
        """Records an observation. Returns the kinds of recorded transitions; None if the result was dropped."""
        poll_count = job.poll_count
        recorded: Sequence[Transition] = ()
        is_recorded = False
        for _ in range(MAX_DETECTIONS):
            transitions, progress = detect(job.progress, seen)
            if not transitions and progress == job.progress and seen.upstream == job.upstream:
                self._wasted_of(job.source, job.account, purpose).inc()
                is_recorded = True
                break
            outcome = progress.status if seen.terminal else None
            try:
                await self.record(
                    job, transitions, progress, seen=seen, poll_count=poll_count, outcome=outcome, result=result
                )
            except StaleSequence:
                again = await self._account.store.jobs.get(job.uid)
                if again is None or not again.open:
                    self._agenda.forget(job.uid)
                    return None
                if again.poll_count != poll_count:
                    log.info("poll_dropped", job_uid=job.uid, reason="polled_meanwhile")
                    self._agenda.planner.failed(job.uid, result.status_code, result.headers, self._account.clock())
                    self._agenda.poll_again(job.uid)
                    return None
                job = again
                continue
            recorded, poll_count = transitions, poll_count + 1
            self._account.polled(job, result)  # clients woken by the record ask immediately
            if seen.problem is not None and transitions and self._account.watch is not None:
                hint = self._hint(seen.problem, "failed", seen.channel or job.channel)
                if hint is not None and hint.points_at == "connect_account":
                    self._account.watch.ask()  # brings the next listing forward
                    self._account.reschedule()
            await asyncio.sleep(0)  # let the new deliveries start first
            is_recorded = True
            break
        now = self._account.clock()
        self._agenda.planner.observed(
            job.uid,
            seen.item(),
            result.headers,
            result.sent_at,
            now,
            as_of=result.received_at if result.held else None,
            free=result.status_code == NOT_MODIFIED,
        )
        if seen.terminal:
            self._agenda.forget(job.uid)
            if seen.finished_at is not None:
                delay = max(0.0, now - max(seen.finished_at, job.tracked_at))
                label = self._account.metrics.class_of(seen.action or job.action, seen.channel or job.channel)
                self._delays_of(job.source, job.account, label).observe(delay)
                owner = owner_of(job.source, job.account)
                self._account.metrics.figures.add("detection_delay_seconds", owner, now, delay)
        else:
            await self._note(job.uid, poll_count, polled_at=None if recorded else now)
        if is_recorded and self._account.settings.definition.resource_of(job.resource).etag:
            self._keep_etag(job.uid, seen, result, poll_count + (not recorded), progress.sequence)
        return [transition.kind for transition in recorded]

    def _keep_etag(self, uid: str, seen: Observation, result: PollResult, poll_count: int, sequence: int) -> None:
        """Keeps the ETag of an answer whose item is recorded. `poll_count`, `sequence`: as recorded."""
        known = self._etags.pop(uid, None)
        etag = result.headers.get("etag", "")
        if not etag and known is not None and result.status_code == NOT_MODIFIED:
            etag = known[0]
        if seen.terminal or result.moved_to is not None or not _ETAG.fullmatch(etag):
            return
        self._etags[uid] = etag, poll_count, sequence
        if len(self._etags) > KEPT_ETAGS:
            del self._etags[next(iter(self._etags))]

    def etag_of(self, job: Job) -> str | None:
        """The ETag of the answer that showed the job's recorded item; None if it is unknown, or if the job was recorded
        by others since."""
        kept = self._etags.get(job.uid)
        return kept[0] if kept is not None and kept[1:] == (job.poll_count, job.progress.sequence) else None

    async def _with_result(
        self, job: Job, polled: PollResult, seen: Observation, address: object
    ) -> Observation | None:
        """The observation with the result that the item names the address of, or with the reason why it has none.

        None: the read of the result has failed. Nothing is recorded, so the next poll, planned as after a failure,
        finds the job's end again. After RESULT_READS, and at once where another read would not help, the event goes
        without the result.
        """
        if not address:
            return seen
        key = self._health.key
        if key is None:  # it was taken away meanwhile
            self._agenda.planner.failed(job.uid, OK, polled.headers, self._account.clock())
            return None
        got = await self._account.upstream.result(address, key)
        now = self._account.clock()
        if not got.elsewhere:
            self._agenda.planner.forwarded(got.status_code, got.headers, got.sent_at, now)
        if got.kind == "observed":
            return replace(seen, result=got.document)
        problem, reads = problem_of(got, now), 1 + (job.failure_count if _waits_for_result(job) else 0)
        may_come = got.kind in ("unavailable", "rate_limited", "not_found") and (got.status_code or 500) >= 400
        if not may_come or reads >= RESULT_READS:
            return replace(seen, result_problem=Problem(code=problem["code"], message=problem["message"]))
        log.info("result_unread", job_uid=job.uid, **self._account.place, result=got.kind, detail=got.detail)
        self._agenda.planner.failed(job.uid, OK, polled.headers, now)  # the upstream is well
        await self._note(
            job.uid,
            job.poll_count,
            polled_at=now,
            failure_count=reads,
            last_error={**problem, "code": RESULT_UNREAD},
        )
        return None

    async def _failed(self, job: Job, result: PollResult, now: float) -> list[str]:
        # What another origin refuses or fails to answer says nothing of the account: it concerns the job alone.
        status_code = OK if result.elsewhere and result.kind != "not_found" else result.status_code
        self._agenda.planner.failed(job.uid, status_code, result.headers, now)
        problem = problem_of(result, now)
        missing = result.kind in ("not_found", "forbidden")
        missing_count = job.missing_count + 1 if missing else 0
        missing_since = (job.missing_since or now) if missing else None
        if result.elsewhere:
            pass
        elif result.kind == "unauthorized":
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
                await self.record(
                    job,
                    transitions,
                    progress,
                    poll_count=job.poll_count,
                    outcome="not_found",
                    last_error=problem,
                    result=result,
                )
            except StaleSequence:
                return []
            self._agenda.forget(job.uid)
            return ["not_found"]
        await self._note(
            job.uid,
            job.poll_count,
            polled_at=now,
            failure_count=job.failure_count + (not _waits_for_result(job)),  # else it counts the reads of the result
            missing_count=missing_count,
            missing_since=missing_since,
            last_error={**problem, "code": RESULT_UNREAD} if _waits_for_result(job) else problem,
        )
        return []

    async def _note(self, uid: str, poll_count: int, **fields: Any) -> None:
        """Stores the next poll's time, and `fields` of PollNote."""
        planner = self._agenda.planner
        await self._account.store.jobs.note(
            PollNote(
                job_uid=uid,
                expected_poll_count=poll_count,
                next_poll_at=planner.next_poll_at(uid),
                poll_step=planner.step(uid),
                **fields,
            )
        )

    async def overdue(self, job: Job) -> None:
        """Records once that a job has not ended by its deadline. Polling continues. One of a resource that the
        definition lacks has no type of event."""
        if job.resource and self._account.settings.definition.lacks(job.resource):
            return
        transitions, progress = mark_overdue(job.progress, self._account.clock())
        if transitions:
            try:
                await self.record(job, transitions, progress, poll_count=job.poll_count, last_error=job.last_error)
            except StaleSequence:
                return  # it changed meanwhile: the next upkeep checks again

    def _hint(self, problem: Problem | None, kind: str, channel: str | None) -> Hint | None:
        return self._account.settings.definition.hint_for(problem, kind, channel=channel)

    # --- recording

    def events(
        self,
        job: Job,
        transitions: Sequence[Transition],
        seen: Observation | None,
        *,
        poll_problem: Problem | None = None,
        trace: TraceContext | None = None,
    ) -> tuple[Event, ...]:
        """The events of a job's transitions. `poll_problem` is why the job counts as not found; `trace` as for
        `from_transition`.

        Inferred transitions get no hint: the item's error belongs to a later attempt.
        """
        channel = (seen.channel if seen is not None else None) or job.channel
        problem = seen.problem if seen is not None else poll_problem
        now, origin = self._account.clock(), self._account.settings.origin_of(job.resource)
        return tuple(
            from_transition(
                new_id("evt", now),
                job,
                transition,
                origin,
                seen=seen,
                hint=None if transition.inferred else self._hint(problem, transition.kind, channel),
                trace=trace,
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
        result: PollResult | None = None,
    ) -> None:
        """Records transitions in one transaction; durable on return. Raises StaleSequence.

        `poll_count` is the job's count when the proving poll was sent, or when the job was judged without a poll; None
        if later polls do not matter. `result`: of the poll that proves the transitions, if there was one.
        """
        problem = None
        if last_error is not None:
            problem = Problem(code=str(last_error.get("code") or ""), message=str(last_error.get("message") or ""))
        tracing = self._account.tracing
        spans = () if tracing is None or not transitions else _spans(tracing, job, result)
        trace = spans[-1].context if spans else None
        events = self.events(job, transitions, seen, poll_problem=problem, trace=trace)
        hint = None
        if outcome == "failed" and seen is not None:
            hint = self._hint(seen.problem, "failed", seen.channel or job.channel)
        reservation = self._account.dispatcher.reserve(events)
        recorded = Recorded(due=True)  # after a failure it is unknown what was written
        try:
            recorded = await self._account.store.jobs.record(
                PollRecord(
                    job_uid=job.uid,
                    expected_sequence=job.progress.sequence,
                    expected_poll_count=poll_count,
                    progress=progress,
                    events=events,
                    now=self._account.clock(),
                    seen=seen,
                    outcome=outcome,
                    lease=None if reservation is None else reservation.lease,
                    last_error=last_error,
                    hint=hint,
                )
            )
        finally:
            self._account.dispatcher.settle(reservation, recorded)
        for span in spans:  # not reached if recording fails: then no span is exported
            span.end(None if span is spans[-1] or result is None else result.received_at)
        trace = trace or of_kept(job.trace)
        for transition in transitions:
            if transition.kind not in LOGGED and not shows_deliveries():  # a line costs a sixth of a poll
                continue
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
                **({} if trace is None else {"trace_id": trace.trace_id}),
            )
        self.announce(job, events, outcome)

    def announce(self, job: Job, events: Sequence[Event], outcome: str | None = None) -> None:
        """Counts what was recorded of a job, and wakes readers of the job and its events. `outcome`: it has ended."""
        if outcome is not None:
            label, now = owner_of(job.source, job.account), self._account.clock()
            self._account.metrics.figures.add("jobs_ended", label, now)
            if outcome == "failed":
                self._account.metrics.figures.add("jobs_failed", label, now)
        self._account.signals.signal(job.uid)
        for event in events:
            self._account.metrics.count_event(event)
        if events:
            self._account.signals.event_recorded()


def _spans(tracing: "Tracing", job: Job, result: PollResult | None) -> "Sequence[Span]":
    """The spans of the poll, if there was one, and of recording its changes. They continue the job's trace."""
    parent, attributes = of_kept(job.trace), {"relay.source": job.source, "relay.job.uid": job.uid}
    if result is None:
        return (tracing.begin("record", "producer", parent, attributes),)
    status = {} if result.status_code is None else {"http.response.status_code": result.status_code}
    poll = tracing.begin("poll", "client", parent, {**attributes, **status}, at=result.sent_at)
    return poll, tracing.begin("record", "producer", poll.context, attributes)


def _waits_for_result(job: Job) -> bool:
    """True if the job was found succeeded, and its result could not be read yet."""
    return (job.last_error or {}).get("code") == RESULT_UNREAD
