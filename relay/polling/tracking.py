"""Tracked jobs as the API sees them: register, refresh, explain, untrack. Joins the store with the pollers."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import Any

import structlog

from relay.clock import Clock, steady_clock
from relay.core.access.forwarding import escapes_segment
from relay.core.access.netguard import host_of
from relay.core.erasure import ErasureRequest, ErasureStep
from relay.core.events.event import Hint, Repeat, owner_of
from relay.core.jobs.job import NOT_SEEN, POLL, Job, JobKey, Observation, Problem, detect, kind_of_type
from relay.core.planner.outlook import PollExplanation
from relay.core.polling.tracking import (
    CallbackLimits,
    Explanation,
    Registration,
    SourceReport,
    TrackRequest,
    sentence,
)
from relay.core.records import CallbackRoom, Registered, WantedCallback
from relay.errors import Conflict, FieldError, InvalidRequest, RelayError, RequestError
from relay.ids import new_id
from relay.log import shows_deliveries
from relay.polling.poller import Poller
from relay.signals import Signals
from relay.sources.definition import SourceDefinition
from relay.sources.mapping import observe_item
from relay.sources.mapping import registered as read_registered
from relay.sources.sections import Create
from relay.store.jobs.registrations import CALLBACK_REMOVED, too_many_callbacks
from relay.store.store import Store
from relay.tasks import Tasks

CLAIM_AGAIN_SECONDS = 6 * 3600.0
"""A host is noted as used this often. Notes are kept for a day at least."""
MAX_KNOWN_HOSTS = 10_000
MAX_KNOWN_CALLBACKS = 10_000
CALLBACKS_AT_ONCE = 100
"""Callbacks looked up, and made, in one transaction. Other writes have their turn between two."""
REGISTER_TRIES = 3
"""Attempts to register a job whose callback's subscription is removed at the same time."""
REDUCE_SECONDS = 5.0
"""Time limit of the search for a refused part. A refusal comes at once; longer waits mean an unavailable database."""
DEFAULT_LIMITS = CallbackLimits()
FAILURES = frozenset({"failed", "cancelled", "retrying"})
"""Kinds of transitions that have a reason."""

log = structlog.get_logger("relay.polling")


class Tracking:
    """Registers, refreshes, explains and untracks jobs."""

    def __init__(
        self,
        *,
        store: Store,
        pollers: Mapping[tuple[str, str], Poller],
        definitions: Mapping[str, SourceDefinition],
        signals: Signals,
        clock: Clock,
        on_untracked: Callable[[Job], None] = lambda job: None,
        callback_limits: CallbackLimits = DEFAULT_LIMITS,
    ) -> None:
        """`on_untracked` is called with each job that is no longer tracked."""
        self._on_untracked = on_untracked
        self._store = store
        self._pollers = pollers
        self._definitions = definitions
        self._signals = signals
        self._clock = clock
        self._callbacks: dict[tuple[str, str | None], tuple[int, str]] = {}
        """The ids of callback subscriptions by URL and owner, each with the version of the subscriptions."""
        self._callback_limits = callback_limits
        self._hosts: dict[tuple[str, str], float] = {}
        """Until when a caller's host need not be counted again."""
        self._asking = Tasks()
        self._account: tuple[str, str] | None = None

    def within(self, account: tuple[str, str]) -> "Tracking":
        """Tracking as a token bound to the account sees it: other accounts do not exist, and callbacks belong to it."""
        view = copy(self)
        view._account = account
        return view

    def configure(self, callback_limits: CallbackLimits) -> None:
        """Applies new limits to what is registered from now on."""
        self._callback_limits = callback_limits

    def read_answer(
        self,
        source: str,
        body: Mapping[str, Any],
        resource: str = "",
        *,
        create: Create | None = None,
        location: str | None = None,
    ) -> tuple[str, Observation | None] | None:
        """The id and state in an upstream's answer to a create of a resource; None if `body` is not one. `create` and
        `location` as for `relay.sources.mapping.registered`.
        """
        definition = self._definitions.get(source)
        if definition is None:
            return None
        found = read_registered(
            definition, body, now=self._clock(), resource=resource, create=create, location=location
        )
        return None if found is None else (found.external_id, found.observation)

    async def register(self, requests: Sequence[TrackRequest]) -> list[Registered | RequestError]:
        """Tracks jobs; durable on return. One result per request, in order.

        An end that was seen counts if the answer to a forwarded create shows it. Any other body may be partial or old:
        the job is polled at once.
        """
        now = self._clock()
        results: list[Registered | RequestError | None] = [self._refusal(request) for request in requests]
        wanted = {
            index: (request, request.callback_url)
            for index, request in enumerate(requests)
            if request.callback_url is not None and results[index] is None
        }
        callbacks, errors = await self._find_callbacks(wanted, now) if wanted else ({}, {})
        registrations: dict[int, Registration] = {}
        for index, request in enumerate(requests):
            if index in errors and not request.follows_create:
                results[index] = errors[index]
            elif results[index] is None:
                registrations[index] = self._registration(request, callbacks.get(index), now)
        if not registrations:
            return [result for result in results if result is not None]
        try:
            written = await self._store.jobs.register_many(list(registrations.values()))
        except Conflict:
            self._callbacks.clear()  # another node may have removed one
            raise
        tracked: dict[tuple[str, str], list[Job]] = {}
        ended: list[tuple[Job, Observation]] = []
        for (index, registration), result in zip(registrations.items(), written, strict=True):
            if isinstance(result, Registered):
                if index in errors:
                    refused = ("callback", str(errors[index]))
                    result = replace(result, not_attached=(*result.not_attached, refused))
                if result.not_attached or result.resumed or registration.events:
                    self._announce(registration, result)
                tracked.setdefault((result.job.source, result.job.account), []).append(result.job)
                seen = requests[index].seen
                if seen is not None and seen.terminal and requests[index].intent is not None:
                    ended.append((result.job, seen))
            results[index] = result
        for account, jobs in tracked.items():
            self._pollers[account].track(jobs)
        for job, seen in ended:
            self._pollers[job.source, job.account].shown(job, seen)
        if any(one.events or one.callback_subscription_id is not None for one in registrations.values()):
            self._signals.deliveries_due()
        return [result for result in results if result is not None]

    def _announce(self, registration: Registration, result: Registered) -> None:
        """Tells of what a registration has shown."""
        job = result.job
        for part, reason in result.not_attached:
            log.warning("not_attached", job=job.external_id, part=part, reason=reason)
        if result.resumed:
            self._signals.signal(job.uid)
        elif result.created and registration.events:
            self._pollers[job.source, job.account].poll_handler.announce(job, registration.events)
            for event in registration.events if shows_deliveries() else ():  # thousands may be registered at once
                log.info(
                    "transition",
                    job=job.external_id,
                    previous=None,
                    kind=kind_of_type(event.type),
                    sequence=event.sequence,
                    source=job.source,
                    account=job.account,
                    job_uid=job.uid,
                )

    async def register_made(self, request: TrackRequest) -> Registered:
        """Tracks the job that a create has made, if necessary without the parts that the database refuses. One
        transaction, durable on return.

        Raises RequestError for a job that cannot be tracked at all, and what the database raised if nothing can be
        written.
        """
        began = steady_clock()
        try:
            return await self._made(request)
        except Exception as error:
            if isinstance(error, RequestError) and error.code != CALLBACK_REMOVED:
                raise
            first = error
        for parts in request.reductions():
            if steady_clock() - began > REDUCE_SECONDS:
                break
            try:
                tracked = await self._made(request.without(parts))
            except Exception as error:
                log.warning("job_refused", job=request.external_id, without=list(parts), error=str(error))
                continue
            try:
                # The database may have been away until now. A create is resolved once.
                return await self._made(request._replace(resolves=None))
            except Exception as error:
                unknown = None if isinstance(error, RelayError) else error
                log.error(
                    "not_attached", job=request.external_id, parts=list(parts), error=str(error), exc_info=unknown
                )
                reason = str(error) if unknown is None else "unexpected error"
                return replace(tracked, not_attached=(*tracked.not_attached, *((part, reason) for part in parts)))
        raise first

    async def _made(self, request: TrackRequest) -> Registered:
        tries = REGISTER_TRIES
        while True:
            tries -= 1
            try:
                (result,) = await self.register((request,))
            except Conflict as error:
                if error.code != CALLBACK_REMOVED or not tries:
                    raise
                continue
            if isinstance(result, RequestError):
                raise result
            return result

    def _refusal(self, request: TrackRequest) -> RequestError | None:
        """The reason why the job cannot be tracked at all; None if it can."""
        account = request.source, request.account
        if account not in self._pollers or self._account not in (None, account):
            return InvalidRequest(f"there is no account {request.account} of a source {request.source}")
        if escapes_segment(request.external_id):
            detail = "the id has a segment . or .., so a poll could reach another path of the upstream"
            errors = [FieldError(pointer="/id", code="invalid_id", detail=detail)]
            return InvalidRequest(f"/id: {detail}", errors=errors)
        return None if request.intent is not None else self._refusal_of_address(request)

    def _refusal_of_address(self, request: TrackRequest) -> RequestError | None:
        """The reason why a caller may not name what the job is read at: a poll has the account's key."""
        account = self._pollers[request.source, request.account].account
        resource = account.settings.definition.resource_of(request.resource)
        if request.status_url is None and not resource.has_paths_as_ids:
            return None
        pointer = "/id" if request.status_url is None else "/status_url"
        if request.status_url is not None and not resource.status_paths:
            code, detail = "status_url_unused", f"such jobs of {request.source} are read by their ids: leave it out"
        elif account.upstream.may_register(request.external_id, request.status_url, request.resource):
            return None
        else:
            code = "invalid_id" if request.status_url is None else "status_url_not_listed"
            is_elsewhere = request.status_url is not None and account.upstream.address(request.status_url) is None
            where = "is below neither the base URL nor `origins`" if is_elsewhere else "matches none of `status_paths`"
            detail = f"it {where} of the definition of {request.source}"
        errors = [FieldError(pointer=pointer, code=code, detail=detail)]
        return InvalidRequest(f"{pointer}: {detail}", errors=errors)

    async def claim_host(self, url: str, caller: str) -> None:
        """Counts the callback's host for the caller: call it before something is done that cannot be undone. Raises
        InvalidRequest if that is one host too many."""
        request = TrackRequest(external_id="", source="", account="", callback_url=url, caller=caller)
        for error in (await self._claim_hosts(((request, url),), self._clock())).values():
            raise error

    async def _claim_hosts(
        self, callbacks: Iterable[tuple[TrackRequest, str]], now: float
    ) -> dict[tuple[str | None, str], InvalidRequest]:
        """Counts the hosts of callbacks for their callers, before anything is written for them. Returns an error for
        each caller and host that is one too many."""
        wanted: dict[str, dict[str, None]] = {}
        for request, url in callbacks:
            if request.caller is not None and self._hosts.get((request.caller, host_of(url)), 0.0) <= now:
                wanted.setdefault(request.caller, {})[host_of(url)] = None
        refused: dict[tuple[str | None, str], InvalidRequest] = {}
        limit = self._callback_limits.hosts_per_caller
        for caller, hosts in wanted.items():
            over = await self._store.callback_hosts.claim(caller, list(hosts), now, limit)
            refused |= {(caller, host): _too_many_hosts(host, limit) for host in over}
            if len(self._hosts) > MAX_KNOWN_HOSTS:
                self._hosts.clear()
            self._hosts.update({(caller, host): now + CLAIM_AGAIN_SECONDS for host in hosts if host not in over})
        return refused

    def _registration(self, request: TrackRequest, callback: str | None, now: float) -> Registration:
        poller = self._pollers[request.source, request.account]
        if request.seen is not None and (request.seen.terminal or not request.seen.known):
            request = request._replace(seen=None)  # an end is recorded as by a poll, see `register`
        if request.status_url is not None:  # of a create it may be none that can be read
            request = request._replace(status_url=poller.account.upstream.address(request.status_url))
        transitions, progress = ((), NOT_SEEN) if request.seen is None else detect(NOT_SEEN, request.seen)
        job = request.job(new_id("job", now), now, poller.account.settings.deadline_seconds, progress)
        return Registration(
            job=job,
            request=request,
            events=poller.poll_handler.events(job, transitions, request.seen) if transitions else (),
            callback_subscription_id=callback,
            max_callbacks=self._callback_limits.per_job,
        )

    async def _find_callbacks(
        self, wanted: Mapping[int, tuple[TrackRequest, str]], now: float
    ) -> tuple[dict[int, str], dict[int, InvalidRequest]]:
        """The ids of the callbacks' subscriptions, which are made if needed, and the errors of those refused, by index.
        A refused one leaves nothing behind."""
        per_job, owner = self._callback_limits.per_job, None if self._account is None else owner_of(*self._account)
        refused = await self._claim_hosts(wanted.values(), now)
        version = self._store.subscriptions.version  # of now: a callback may be removed while hosts are claimed
        errors = {
            index: refused[request.caller, host_of(url)]
            for index, (request, url) in wanted.items()
            if (request.caller, host_of(url)) in refused
        }
        if len(self._callbacks) > MAX_KNOWN_CALLBACKS:
            self._callbacks.clear()
        found: dict[int, str] = {}
        unknown: list[int] = []
        for index, (_, url) in wanted.items():
            if index in errors:
                continue
            known = self._callbacks.get((url, owner))
            if known is not None and known[0] == version:
                found[index] = known[1]
            else:
                unknown.append(index)
        made: Counter[JobKey] = Counter()
        for start in range(0, len(unknown), CALLBACKS_AT_ONCE):
            part = unknown[start : start + CALLBACKS_AT_ONCE]
            new: list[WantedCallback] = []
            for index in part:
                request, url = wanted[index]
                room = CallbackRoom(request.key, per_job - made[request.key])
                new.append(WantedCallback(url, new_id("sub", now), room))
            ids = await self._store.subscriptions.callbacks_for(new, now, owner)
            for index, one, id in zip(part, new, ids, strict=True):
                if id is None:
                    errors[index] = too_many_callbacks(per_job)
                    continue
                found[index] = id
                if id == one.subscription_id and one.room is not None:
                    made[one.room.job] += 1
                self._callbacks[one.sink, owner] = version, id
        return found, errors

    async def refresh(self, job: Job) -> None:
        """Polls an open job as soon as the budget allows. Raises Conflict if it is closed."""
        if not job.open:
            raise Conflict(f"job {job.external_id} is closed ({job.outcome}): it will not change", code="job_closed")
        poller = self._poller(job)
        if poller.account.holds:
            poller.agenda.refresh(job.uid)
        else:
            await self._store.jobs.ask_for_poll(job)

    async def untrack(self, job: Job) -> Job:
        """Stops tracking the job."""
        closed = await self._store.jobs.untrack(job.uid, self._clock())
        self._stop_polling(job)
        return closed

    async def purge(self, job: Job) -> Job:
        """Erases the job, its events and attempts."""
        erased = await self._store.jobs.purge(job.uid, self._clock())
        self._stop_polling(job)
        return erased

    async def erase(self, request: ErasureRequest, cursor: str | None) -> ErasureStep:
        """The next step of an erasure. Erased jobs are not polled any more. Raises InvalidRequest for the cursor."""
        step = await self._store.erasure.step(request, cursor, self._clock())
        for job in step.jobs:
            self._stop_polling(job)
        return step

    def _stop_polling(self, job: Job) -> None:
        poller = self._pollers.get((job.source, job.account))
        if poller is not None:
            poller.agenda.forget(job.uid)
        self._on_untracked(job)
        self._signals.signal(job.uid)

    def polls(self, job: Job) -> bool:
        """True if this node polls the job's account, and so signals its changes."""
        poller = self._pollers.get((job.source, job.account))
        return poller is not None and poller.account.holds

    @contextmanager
    def prioritize(self, job: Job) -> Iterator[None]:
        """Raises the job's weight while a client waits for it."""
        poller = self._pollers.get((job.source, job.account))
        if poller is None:
            yield
            return
        if not poller.account.holds:
            self._asking.start(self._store.jobs.ask_for_poll(job))
        with poller.agenda.prioritize(job.uid):
            yield

    def explain(self, job: Job) -> Explanation:
        """Explains when the job is polled next, and why not earlier."""
        poller = self._pollers.get((job.source, job.account))
        now = self._clock()
        plan = None if poller is None else poller.planner.explain(job.uid, now)
        error = self._error(job, poller, now)
        definition = self._definitions.get(job.source)
        upstream = job.source if definition is None else definition.title
        reason, words = _why(job, poller, plan, upstream, error, now)
        request_id = None if poller is None else poller.poll_handler.last_request_ids.get(job.uid)
        if request_id is None and job.last_error is not None:
            request_id = job.last_error.get("request_id")
        planned = job.open and plan is not None
        return Explanation(
            reason=reason,
            sentence=words,
            next_poll_at=plan.next_poll_at if planned and plan is not None else None,
            not_before=plan.not_before if planned and plan is not None else None,
            expected_delay_seconds=plan.expected_delay_seconds if planned and plan is not None else None,
            waiting_for=None if plan is None else plan.waiting_for_job_id,
            last_polled_at=job.last_polled_at,
            last_request_id=request_id,
            last_error=error,
            outlook=plan.outlook if planned and plan is not None else None,
        )

    def _error(self, job: Job, poller: Poller | None, now: float) -> dict[str, Any] | None:
        """The current problem: of the account, else of the last poll, else of the job itself."""
        definition = self._definitions.get(job.source)
        if definition is None:
            return None
        error: Mapping[str, Any] | None = job.last_error
        if job.open and poller is not None and poller.state.problem is not None:
            error = poller.state.problem
        elif error is not None and _is_old_refusal(error, poller, definition):
            error = None
        if error is not None:
            problem = Problem(code=str(error.get("code") or "unknown"), message=str(error.get("message") or ""))
            hint = definition.hint_for(problem, POLL, channel=job.channel)
        else:
            seen = _seen(definition, job, now)
            if seen is None or seen.problem is None:
                return None
            kind = seen.status if seen.terminal else "retrying"
            hint = definition.hint_for(seen.problem, kind, channel=job.channel)
            error = {"code": seen.problem.code, "message": seen.problem.message, "at": seen.finished_at}
        return None if hint is None else {**error, "meaning": hint.meaning, "fix": hint.fix, "who": hint.who}

    def problem_of(self, job: Job) -> tuple[Problem, Hint] | None:
        """The error that a job failed with, if its last change was a failure; None if its source is no longer
        configured."""
        kind, definition = job.progress.phase, self._definitions.get(job.source)
        if kind not in FAILURES or definition is None:
            return None
        seen = _seen(definition, job)
        if seen is None or seen.problem is None:
            return None
        hint = definition.hint_for(seen.problem, kind, channel=job.channel)
        return None if hint is None else (seen.problem, hint)

    def explained(self, source: str, code: str) -> Hint | None:
        """The hint for failed jobs of a source with this error code; None if the source is no longer configured."""
        definition = self._definitions.get(source)
        return None if definition is None else definition.explained(code)

    def repeat_of(self, job: Job) -> Repeat | None:
        """The effect of sending the create of a failed job again; None if its source is no longer configured."""
        definition = self._definitions.get(job.source)
        if definition is None:
            return None
        seen = _seen(definition, job)
        problem = None if seen is None else seen.problem
        hint = definition.hint_for(problem, "failed", channel=job.channel)
        return None if hint is None else hint.repeat

    def reports(self) -> list[SourceReport]:
        """One report per account."""
        now = self._clock()
        return [
            _report(source, account, poller, now)
            for (source, account), poller in self._pollers.items()
            if self._account in (None, (source, account))
        ]

    def _poller(self, job: Job) -> Poller:
        poller = self._pollers.get((job.source, job.account))
        if poller is None:
            raise Conflict(
                f"job {job.external_id} belongs to the account {job.account} of {job.source}, "
                "which the settings no longer have: it is not polled",
                code="account_missing",
            )
        if job.resource and poller.account.settings.definition.lacks(job.resource):
            raise Conflict(
                f"job {job.external_id} belongs to {job.resource}, which the definition of {job.source} no longer has: "
                "it is not polled",
                code="resource_missing",
            )
        return poller


def _too_many_hosts(host: str, limit: int) -> InvalidRequest:
    detail = (
        f"callbacks of this token go to {limit} hosts already (auth.max_callback_hosts_per_token), "
        f"and {host[:100]!r} is none of them"
    )
    errors = [FieldError(pointer="/callback_url", code="too_many_callback_hosts", detail=detail)]
    return InvalidRequest(f"/callback_url: {detail}", code="too_many_callback_hosts", errors=errors)


def _seen(definition: SourceDefinition, job: Job, now: float = 0.0) -> Observation | None:
    """What the job's recorded item says; None if it says nothing, or the definition lacks its resource."""
    if definition.lacks(job.resource):
        return None
    found = observe_item(definition, job.upstream or {}, now=now, resource=job.resource)
    return found if isinstance(found, Observation) else None


def _is_old_refusal(error: Mapping[str, Any], poller: Poller | None, definition: SourceDefinition) -> bool:
    """True if the error is the refusal of a key that has since been replaced."""
    of_the_key = error.get("code") in definition.error.meanings.key_trouble or error.get("code") == "unauthorized"
    return of_the_key and poller is not None and poller.key is not None and not poller.health.key_refused


def _state(poller: Poller) -> str:
    if poller.key is None:
        return "no_key"
    if poller.state.state == "ok" and not poller.account.holds:
        return "elsewhere"
    return poller.state.state


def _report(source: str, account: str, poller: Poller, now: float) -> SourceReport:
    stats = poller.planner.stats(now)
    return SourceReport(
        source=source,
        account=account,
        state=_state(poller),
        since=poller.state.since,
        problem=poller.state.problem,
        open_jobs=stats.open_jobs,
        due_jobs=stats.due_jobs,
        limit=None if stats.limit is None else int(stats.limit),
        remaining=None if stats.remaining is None else int(stats.remaining),
        window_seconds=stats.window_seconds,
        own_requests_per_second=stats.requests_per_second,
        others_requests_per_second=stats.others_requests_per_second,
        price_seconds=stats.price_seconds if poller.account.holds else None,
        expected_detection_delay_seconds=stats.expected_delay_seconds,
        expected_detection_delay_at_double_budget_seconds=stats.expected_delay_at_double_seconds,
        expected_detection_delay_at_half_budget_seconds=stats.expected_delay_at_half_seconds,
        paused_until=stats.paused_until,
        last_completed_at=poller.poll_handler.last_completed_at,
        accounts_listed_at=None if poller.account.watch is None else poller.account.watch.listed_at,
        credits=poller.credits,
    )


def _why(
    job: Job,
    poller: Poller | None,
    plan: PollExplanation | None,
    upstream: str,
    error: Mapping[str, Any] | None,
    now: float,
) -> tuple[str, str]:
    """The reason as a code and a sentence."""
    meaning = None if error is None else str(error["meaning"])
    because = "" if meaning is None else f": {meaning}"
    if not job.open:
        return "closed", f"The job is closed ({job.outcome}){because}. It is not polled any more."
    if poller is None:
        return "account_missing", f"The settings have no account {job.account} of {job.source}: it is not polled."
    if job.resource and poller.account.settings.definition.lacks(job.resource):
        return "resource_missing", f"The definition of {job.source} has no {job.resource} any more: it is not polled."
    if poller.key is None:
        return "no_key", f"There is no API key for the account {job.account}: set one, and polling starts by itself."
    if poller.health.key_refused:
        whose = "" if job.account == "default" else f" of {job.account}"
        refused = f"{upstream} refuses the API key{whose}{because}."
        return "unauthorized", f"{refused} Polling resumes when the key works again or another one is set."
    if not poller.account.holds:
        return "elsewhere", "Another node polls this account: ask it for the reason, or see next_poll_at of the job."
    if plan is None:
        return "not_planned", "The job is not planned on this node."
    return plan.reason, sentence(job, plan, now, meaning)
