"""Job reads: answered from recorded state while a poll would gain nothing, else from the upstream.

A read sent to the upstream counts as a poll where possible (`Poller.borrow`).
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import structlog

from relay.api.http.auth import TOKEN_GONE
from relay.core.access.forwarding import counts_as_poll, readable_only, without_wait
from relay.core.jobs.job import TERMINAL, Job, JobKey
from relay.errors import NoAnswer, NotSent, RequestError, StoreError, Unauthorized
from relay.ids import new_id
from relay.polling.poller import Poller, PollInFlight
from relay.proxy.transport import MAX_ANSWER_BYTES, plain
from relay.proxy.types import Cache, ForwardedRequest, ProxyResponse, QueriedRead, texts
from relay.signals import Signals
from relay.sources.client import PollResult, UpstreamClient
from relay.tasks import Tasks

if TYPE_CHECKING:
    from relay.proxy.gateway import Gateway
    from relay.store.jobs.jobs import JobStore

MAX_BYTES = 64 << 20
OVERHEAD_BYTES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedAnswer:
    """One job's answer. Times are epoch seconds.

    body      None if there is no item to serve yet
    known_at  when the database last showed the job as tracked; its deletion elsewhere may go unnoticed
    ended     the job has ended, so the answer is final
    term      the polling term (`PolledAccount.term`) in which an open job's answer is valid
    due_at    the next planned poll; bounds an open job's answer while another node polls the account
    """

    uid: str
    body: bytes | None = field(repr=False)
    polled_at: float
    known_at: float
    ended: bool
    term: int = 0
    due_at: float | None = None


class AnswerCache:
    """Least recently used answers, bounded in bytes."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._answers: OrderedDict[JobKey, CachedAnswer] = OrderedDict()
        self.size_bytes = 0

    def get(self, key: JobKey) -> CachedAnswer | None:
        """The cached answer; None on a miss."""
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
        return answer

    def put(self, key: JobKey, answer: CachedAnswer) -> None:
        """Stores an answer and evicts the least recently used ones over the limit."""
        self.drop(key)
        self._answers[key] = answer
        self.size_bytes += _size(answer)
        while self.size_bytes > self._max_bytes and len(self._answers) > 1:
            self.drop(next(iter(self._answers)))

    def drop(self, key: JobKey) -> None:
        """Removes one answer."""
        answer = self._answers.pop(key, None)
        if answer is not None:
            self.size_bytes -= _size(answer)

    def clear(self) -> None:
        """Removes all answers: another node may have polled these jobs meanwhile."""
        self._answers.clear()
        self.size_bytes = 0


def _size(answer: CachedAnswer) -> int:
    return OVERHEAD_BYTES + (0 if answer.body is None else len(answer.body))


BORROWED_SECONDS = 15.0
"""Maximum seconds by which a caller's read may delay the relay's own poll of the job."""
KNOWN_SECONDS = 60.0
"""Seconds a cached answer is served before the database is asked if the job is still tracked."""
WAIT_SLICE_SECONDS = 15.0
ELSEWHERE_SLICE_SECONDS = 1.0

log = structlog.get_logger("relay.proxy")


class Reads:
    """Answers job reads. `clients` by source."""

    def __init__(
        self, gateway: "Gateway", *, jobs: "JobStore", clients: Mapping[str, UpstreamClient], signals: Signals
    ) -> None:
        self._gateway = gateway
        self._jobs = jobs
        self._clients = clients
        self._signals = signals
        self.answers = AnswerCache()
        self.settling = Tasks()
        """Borrowed polls whose results are being recorded."""

    async def read(
        self,
        request: ForwardedRequest,
        place: JobKey,
        *,
        fresh: bool,
        wait_seconds: float,
        queried: QueriedRead | None = None,
    ) -> ProxyResponse:
        """Answers a job read from recorded state if that is current, else from the upstream. Raises Forbidden if the
        job is not tracked and the caller's token is for those only, and Unauthorized if the token ends meanwhile."""
        poller = self._gateway.pollers[place[1:3]]
        try:
            cached = await self._load(place, poller)
            if cached is not None and queried is not None and queried.address is not None:
                known = await self._jobs.status_url(cached.uid)
                if known is None or known != self._clients[place[1]].address(queried.address):
                    cached = None  # another read below the job's path
        except StoreError as error:  # the upstream can still answer
            log.warning("read_without_state", error=str(error))
            cached = None
        if cached is None:
            return await self._untracked(request)
        if fresh:
            return await self._miss(request, place, cached.uid, poller, cache="pass", borrow=not wait_seconds)
        if wait_seconds:
            query = request.query if queried is None else queried.query
            request = replace(request, headers=without_wait(request.headers), query=query)
            if not cached.ended:
                cached = await self._end_of(place, cached, poller, wait_seconds, request)
                if cached is None:  # no longer tracked
                    return await self._untracked(request)
        hit = self._hit(cached, poller)
        if hit is not None:
            return hit
        return await self._miss(request, place, cached.uid, poller, cache="miss")

    async def _untracked(self, request: ForwardedRequest) -> ProxyResponse:
        request.require_upstream("this job is not tracked")
        return await self._gateway.forward(request, None)

    def from_memory(self, place: JobKey, *, ended: bool) -> ProxyResponse | None:
        """The cached answer, if current. Most reads end here, without waiting."""
        poller = self._gateway.pollers[place[1:3]]
        cached = self._valid(place, poller)
        return None if cached is None or (ended and not cached.ended) else self._hit(cached, poller)

    def _hit(self, cached: CachedAnswer, poller: Poller) -> ProxyResponse | None:
        now = self._gateway.clock()
        if cached.body is None or poller.health.paused or not (cached.ended or _is_fresh(cached, poller, now)):
            return None
        return self._gateway.own(200, cached.body, cache="hit", age_seconds=max(0, int(now - cached.polled_at)))

    def _valid(self, place: JobKey, poller: Poller) -> CachedAnswer | None:
        cached = self.answers.get(place)
        if cached is None or not 0 <= self._gateway.clock() - cached.known_at < KNOWN_SECONDS:
            return None
        return cached if cached.ended or (poller.account.holds and cached.term == poller.account.term) else None

    async def _load(self, place: JobKey, poller: Poller) -> CachedAnswer | None:
        cached = self._valid(place, poller)
        if cached is not None:
            return cached
        found = await self._jobs.find(*place)
        if not found or found[0].outcome == "untracked":
            return None
        cached = self._answer_of(found[0], poller)
        self.answers.put(place, cached)
        return cached

    def _answer_of(self, job: Job, poller: Poller, result: PollResult | None = None) -> CachedAnswer:
        item, polled_at = job.upstream, job.last_polled_at
        status, closed = job.progress.status, not job.open
        if result is not None and result.observation is not None:
            item, polled_at = result.observation.upstream, result.received_at
            status, closed = result.observation.status, result.observation.terminal
        body = None
        definition = self._gateway.definitions[job.source]
        # The status 200 of a recorded answer could say that the job has ended.
        if item is not None and polled_at is not None and not definition.resource_of(job.resource).needs_status(item):
            request_id = poller.poll_handler.last_request_ids.get(job.uid) or new_id("req", polled_at)
            body = definition.answer_body(item, request_id, job.resource)
        return CachedAnswer(
            uid=job.uid,
            body=body,
            polled_at=polled_at or 0.0,
            known_at=self._gateway.clock(),
            ended=closed and status in TERMINAL,
            term=poller.account.term,
            due_at=None if job.failure_count else job.next_poll_at,
        )

    async def changed(self, place: JobKey) -> None:
        """A caller's request may have changed the job: its answer is current no more, and it is polled soon."""
        self.answers.drop(place)
        try:
            for job in await self._jobs.find(*place):
                if job.open:
                    await self._gateway.creates.tracking.refresh(job)
        except (StoreError, RequestError) as error:  # its next poll shows the change
            log.warning("change_not_looked_at", error=str(error))

    def polled(self, job: Job, result: PollResult) -> None:
        """A poll or a borrowed read showed the job."""
        if self.answers.get(job.key) is not None:
            self.answers.put(job.key, self._answer_of(job, self._gateway.pollers[job.source, job.account], result))

    async def _end_of(
        self, place: JobKey, cached: CachedAnswer, poller: Poller, seconds: float, request: ForwardedRequest
    ) -> CachedAnswer | None:
        """The job's answer once it has ended, or its answer after `seconds`; None if it is no longer tracked."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + seconds
        with self._signals.watch(cached.uid) as watch, poller.agenda.prioritize(cached.uid):
            while True:
                current = await self._load(place, poller)  # read after the watch began, so no change is missed
                if not self._gateway.access.holds(request.identity):
                    raise Unauthorized(TOKEN_GONE)
                left = ends_at - loop.time()
                if current is None or current.ended or left <= 0 or self._gateway.stopping():
                    return current
                await watch.wait(min(left, WAIT_SLICE_SECONDS if poller.account.holds else ELSEWHERE_SLICE_SECONDS))

    async def _miss(
        self,
        request: ForwardedRequest,
        place: JobKey,
        uid: str,
        poller: Poller,
        *,
        cache: Cache,
        borrow: bool = True,
    ) -> ProxyResponse:
        """Asks the upstream. The answer counts as a poll if none is in flight and the request is as plain as a poll."""
        borrow = borrow and counts_as_poll(request.headers, self._gateway.sent_by_polls(request.caller))
        sent = await poller.borrow(uid) if borrow else None
        borrowed = None if sent is None else _BorrowedPoll(poller, sent, self.settling)
        result: PollResult | None = None
        try:
            request = replace(request, headers=readable_only(request.headers))
            try:
                answer = await self._gateway.send(request, None)
            except (NotSent, NoAnswer) as error:
                return self._gateway.unreachable(request, error)
            try:
                body, is_whole = await self._gateway.unless_stopping(
                    answer.read(MAX_ANSWER_BYTES, seconds=BORROWED_SECONDS)
                )
            except NoAnswer as error:
                answer.close()
                return self._gateway.unreachable(request, error)
            if borrowed is None:
                self._gateway.count_request(request.caller, answer)
            else:
                external_id, source, _, resource = place
                result = self._clients[source].read(
                    external_id,
                    resource,
                    status_code=answer.status,
                    headers=texts(answer.headers),
                    body=plain(body, answer.headers, MAX_ANSWER_BYTES) if is_whole else None,
                    api_key=request.caller.key or "",
                    sent_at=answer.sent_at,
                )
            return ProxyResponse.of(answer, body, complete=is_whole, cache=cache)
        finally:
            if borrowed is not None:
                borrowed.settle(result)


class _BorrowedPoll:
    """A caller's read in place of a poll. Settles after BORROWED_SECONDS at the latest."""

    def __init__(self, poller: Poller, sent: PollInFlight, tasks: Tasks) -> None:
        self._poller = poller
        self._sent = sent
        self._tasks = tasks
        self._over = False
        self._timer = asyncio.get_running_loop().call_later(BORROWED_SECONDS, self.settle, None)

    def settle(self, result: PollResult | None) -> None:
        """Reports the result; None if there is none."""
        if not self._over:
            self._over = True
            self._timer.cancel()
            self._tasks.start(self._poller.settle(self._sent, result))


def _is_fresh(cached: CachedAnswer, poller: Poller, now: float) -> bool:
    if poller.account.holds:
        return poller.planner.is_fresh(cached.uid, now)
    return cached.due_at is not None and cached.due_at > now
