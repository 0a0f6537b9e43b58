"""Reads of tracked jobs: from what the last look showed while another would gain nothing, else from the upstream."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import structlog

from relay.clock import Clock
from relay.core.forwarding import counts_as_poll, readable_only, without_wait
from relay.core.job import TERMINAL, Job
from relay.errors import NoAnswer, NotSent, StoreError
from relay.ids import new_id
from relay.polling.poll_result import PollResult
from relay.polling.poller import Poller, PollInFlight
from relay.proxy.answer_cache import AnswerCache, CachedAnswer
from relay.proxy.answer_cache import Key as JobKey
from relay.proxy.forwarding import BufferedResponse, Definitions, Forwarding, Pollers, Stopping, StreamedResponse, texts
from relay.proxy.transport import MAX_ANSWER_BYTES, plain
from relay.proxy.types import Cache, Caller, ForwardedRequest, ProxyResponse
from relay.signals import Signals
from relay.sources.client import UpstreamClient
from relay.tasks import Tasks

BORROWED_SECONDS = 15.0
"""How long a caller's read keeps us from looking at the job ourselves."""
KNOWN_SECONDS = 60.0
"""How long an answer is given without asking the database whether its job is still tracked."""
WAIT_SLICE_SECONDS = 15.0
ELSEWHERE_SLICE_SECONDS = 1.0

log = structlog.get_logger("relay.dropin")


class Jobs(Protocol):
    """What reads need of the store's jobs."""

    async def find(self, external_id: str, source: str | None = None, account: str | None = None) -> list[Job]: ...


class Reads:
    """Answers reads of jobs. `clients` by source."""

    def __init__(
        self,
        forwarding: Forwarding,
        *,
        jobs: Jobs,
        pollers: Pollers,
        definitions: Definitions,
        clients: Mapping[str, UpstreamClient],
        answers: AnswerCache,
        signals: Signals,
        node: Stopping,
        clock: Clock,
    ) -> None:
        self._forwarding = forwarding
        self._jobs = jobs
        self._pollers = pollers
        self._definitions = definitions
        self._clients = clients
        self._answers = answers
        self._signals = signals
        self._node = node
        self._clock = clock
        self.borrowed = Tasks()
        """Reads whose answers are still to be recorded."""

    async def read(
        self, request: ForwardedRequest, external_id: str, *, fresh: bool, wait_seconds: float
    ) -> ProxyResponse:
        """Answers the read of a job: from what is known where that is as good, else by asking the upstream."""
        caller = request.caller
        poller = self._pollers[(caller.source, caller.account or "")]
        place = (caller.source, caller.account or "", external_id)
        try:
            kept = await self._kept(place, poller)
        except StoreError as error:  # the upstream can answer all the same
            log.warning("read_without_state", error=str(error))
            kept = None
        if kept is None:
            return await self._forwarding.pass_on(request, None)
        if fresh:
            return await self._miss(request, external_id, kept.uid, poller, cache="pass", borrow=not wait_seconds)
        if wait_seconds:
            request = replace(request, headers=without_wait(request.headers))
            if not kept.ended:
                kept = await self._end_of(place, kept, poller, wait_seconds)
                if kept is None:  # it is not tracked any more
                    return await self._forwarding.pass_on(request, None)
        hit = self._hit(kept, poller)
        if hit is not None:
            return hit
        return await self._miss(request, external_id, kept.uid, poller, cache="miss")

    def from_memory(self, caller: Caller, external_id: str, *, ended: bool) -> ProxyResponse | None:
        """The answer where memory has it: most reads need no more, and nothing of them has to be waited for."""
        place = (caller.source, caller.account or "", external_id)
        poller = self._pollers[place[:2]]
        kept = self._remembered(place, poller)
        return None if kept is None or (ended and not kept.ended) else self._hit(kept, poller)

    def _hit(self, kept: CachedAnswer, poller: Poller) -> BufferedResponse | None:
        now = self._clock()
        if kept.body is None or poller.paused_by_key or not (kept.ended or _is_fresh(kept, poller, now)):
            return None
        return self._forwarding.own(200, kept.body, cache="hit", age_seconds=max(0, int(now - kept.polled_at)))

    def _remembered(self, place: JobKey, poller: Poller) -> CachedAnswer | None:
        kept = self._answers.get(place)
        if kept is None or not 0 <= self._clock() - kept.known_at < KNOWN_SECONDS:
            return None
        return kept if kept.ended or (poller.holds and kept.term == poller.term) else None

    async def _kept(self, place: JobKey, poller: Poller) -> CachedAnswer | None:
        kept = self._remembered(place, poller)
        if kept is not None:
            return kept
        source, account, external_id = place
        found = await self._jobs.find(external_id, source, account)
        if not found or found[0].outcome == "untracked":
            return None
        kept = self._answer_of(found[0], poller)
        self._answers.put(place, kept)
        return kept

    def _answer_of(self, job: Job, poller: Poller, poll: PollResult | None = None) -> CachedAnswer:
        item, polled_at = job.upstream, job.last_polled_at
        status, closed = job.progress.status, not job.open
        if poll is not None and poll.observation is not None:
            item, polled_at = poll.observation.upstream, poll.received_at
            status, closed = poll.observation.status, poll.observation.terminal
        body = None
        if item is not None and polled_at is not None:
            request_id = poller.last_request_ids.get(job.uid) or new_id("req", polled_at)
            body = self._definitions[job.source].answer_body(item, request_id)
        return CachedAnswer(
            uid=job.uid,
            body=body,
            polled_at=polled_at or 0.0,
            known_at=self._clock(),
            ended=closed and status in TERMINAL,
            term=poller.term,
            due_at=None if job.failure_count else job.next_poll_at,
        )

    def polled(self, job: Job, poll: PollResult) -> None:
        """A look of ours, or one that was lent, showed the job."""
        poller = self._pollers[(job.source, job.account)]
        self._answers.renew((job.source, job.account, job.external_id), lambda: self._answer_of(job, poller, poll))

    async def _end_of(self, place: JobKey, kept: CachedAnswer, poller: Poller, seconds: float) -> CachedAnswer | None:
        """The job's answer once it has ended, or as it is after that time."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + seconds
        with self._signals.watch_job(kept.uid) as watch, poller.prioritize(kept.uid):
            while True:
                now_kept = await self._kept(place, poller)  # after the watch began: nothing in between is missed
                left = ends_at - loop.time()
                if now_kept is None or now_kept.ended or left <= 0 or self._node.stopping:
                    return now_kept
                await watch.wait(min(left, WAIT_SLICE_SECONDS if poller.holds else ELSEWHERE_SLICE_SECONDS))

    async def _miss(
        self,
        request: ForwardedRequest,
        external_id: str,
        uid: str,
        poller: Poller,
        *,
        cache: Cache,
        borrow: bool = True,
    ) -> ProxyResponse:
        """Asks the upstream; its answer counts as a look where none is under way and the request is as plain as one."""
        sent = await poller.borrow(uid) if borrow and counts_as_poll(request.headers) else None
        borrowed = None if sent is None else _Borrowed(poller, sent, self.borrowed)
        poll: PollResult | None = None
        try:
            request = replace(request, headers=readable_only(request.headers))
            try:
                answer = await self._forwarding.send(request, None)
            except (NotSent, NoAnswer) as error:
                return self._forwarding.unreachable(request, error)
            try:
                body, is_whole = await self._forwarding.until_the_end(answer.read(MAX_ANSWER_BYTES))
            except NoAnswer as error:
                answer.close()
                return self._forwarding.unreachable(request, error)
            if borrowed is None:
                self._forwarding.note(request.caller, answer)
            else:
                poll = self._clients[request.caller.source].read(
                    external_id,
                    status_code=answer.status,
                    headers=texts(answer.headers),
                    body=plain(body, answer.headers, MAX_ANSWER_BYTES) if is_whole else None,
                    api_key=request.caller.key or "",
                    sent_at=answer.sent_at,
                )
            if not is_whole:
                return StreamedResponse(answer, cache, body)
            answer.close()
            return BufferedResponse(status=answer.status, headers=answer.headers, whole=body, cache=cache)
        finally:
            if borrowed is not None:
                borrowed.give_back(poll)


class _Borrowed:
    """A look that a caller's read stands for, for so long."""

    def __init__(self, poller: Poller, sent: PollInFlight, tasks: Tasks) -> None:
        self._poller = poller
        self._sent = sent
        self._tasks = tasks
        self._over = False
        self._timer = asyncio.get_running_loop().call_later(BORROWED_SECONDS, self.give_back, None)

    def give_back(self, poll: PollResult | None) -> None:
        """What came of it; None: nothing yet, or nobody knows."""
        if not self._over:
            self._over = True
            self._timer.cancel()
            self._tasks.start(self._poller.settle(self._sent, poll))


def _is_fresh(kept: CachedAnswer, poller: Poller, now: float) -> bool:
    if poller.holds:
        return poller.is_fresh(kept.uid, now)
    return kept.due_at is not None and kept.due_at > now
