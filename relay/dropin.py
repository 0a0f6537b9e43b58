"""The drop-in proxy but for its HTTP: whose key a call brings, creates that are sent once, reads answered from state.

A create's way: intent written -> sent, once -> answer read -> the job and the end of the intent in one transaction ->
answered. Whatever ends it in between leaves the intent, which says that nobody knows whether something was made.
"""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote

import orjson
import structlog

from relay.adoption import MAX_ADOPTED, name_of
from relay.answers import Answers, Kept
from relay.answers import Key as JobKey
from relay.api.dropin import Body, Cache, Extra, Passing, Reply, Speaker
from relay.api.ports import TrackRequest
from relay.clock import Clock, http_date
from relay.core.job import TERMINAL, Job
from relay.core.passing import Header, fate_of, readable_only, with_key, without_wait
from relay.core.records import Intent, Page
from relay.errors import Conflict, NoAnswer, NotSent, RelayError, RequestError, StoreError
from relay.ids import new_id
from relay.looks import Look
from relay.metrics import Metrics
from relay.poller import Poller
from relay.signals import Signals
from relay.sources.client import UpstreamClient
from relay.sources.definition import SourceDefinition
from relay.sources.mapping import read_error
from relay.sources.passage import Passage, PassedAnswer, PassedRequest, plain
from relay.store.store import Store
from relay.tasks import Tasks
from relay.tracking import Tracking

MAX_ANSWER_BYTES = 1 << 20
"""Of an answer that we have to understand; a longer one is passed on and not understood."""
CREATE_SECONDS = 330.0
"""How long a create is waited for at most."""
LENT_SECONDS = 15.0
"""How long a caller's read keeps us from looking at the job ourselves."""
WAIT_SLICE_SECONDS = 15.0
ELSEWHERE_SLICE_SECONDS = 1.0
LEAST_SPACING_SECONDS = 60.0
MOST_SPACING_SECONDS = 86_400.0
REGISTER_TRIES = 3
AGAIN_SECONDS = 1.0
MAX_UNRECORDED = 1_000
KEYS_KNOWN = 256
"""Digests of keys that are kept: programs come again and again with the same."""
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
JSON_TYPE = (b"content-type", b"application/json")

Value = TypeVar("Value")

log = structlog.get_logger("relay.dropin")


Adopt = Callable[[str, str], Awaitable[None]]
"""By source and key."""


class Stopping(Protocol):
    """The node, as far as those who wait are concerned."""

    @property
    def stopping(self) -> bool: ...


@dataclass(slots=True, kw_only=True)
class Whole:
    """An answer that is here already. See `relay.api.dropin.Reply`."""

    status: int
    headers: list[Header]
    whole: bytes | None = field(repr=False)
    cache: Cache = "pass"
    age_seconds: int | None = None

    async def parts(self) -> AsyncIterator[bytes]:
        """The body."""
        yield self.whole or b""

    def close(self) -> None:
        """There is nothing to close."""


class Streamed:
    """An answer that is still coming, after what was read of it already."""

    def __init__(self, answer: PassedAnswer, cache: Cache, begun: bytes = b"") -> None:
        self.whole: bytes | None = None
        self.age_seconds: int | None = None
        self.status = answer.status
        self.headers = answer.headers
        self.cache: Cache = cache
        self._answer = answer
        self._begun = begun

    async def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        if self._begun:
            yield self._begun
        async for part in self._answer.body():
            yield part

    def close(self) -> None:
        """Ends it."""
        self._answer.close()


class Gateway:
    """See `relay.api.dropin.DropIn`."""

    def __init__(
        self,
        *,
        store: Store,
        pollers: Mapping[tuple[str, str], Poller],
        definitions: Mapping[str, SourceDefinition],
        passages: Mapping[str, Passage],
        clients: Mapping[str, UpstreamClient],
        tracking: Tracking,
        answers: Answers,
        signals: Signals,
        metrics: Metrics,
        node: Stopping,
        clock: Clock,
        adopt: Adopt | None = None,
    ) -> None:
        """`adopt` makes an account of a caller's key; None where that is not wanted."""
        self._adopt = adopt
        self._store = store
        self._pollers = pollers
        self._definitions = definitions
        self._passages = passages
        self._clients = clients
        self._tracking = tracking
        self._answers = answers
        self._signals = signals
        self._counter = lru_cache(metrics.passed.labels)
        self._node = node
        self._clock = clock
        self._speakers: dict[bytes, Speaker] = {}
        self._tasks = Tasks()

    @property
    def adopts(self) -> bool:
        """Whether a create with an unknown key makes an account of it."""
        return self._adopt is not None

    # --- whose call it is

    def whose(self, key: str | None) -> Speaker:
        """Whom a request with this key speaks for."""
        if key is not None:
            digest = _digest(key)
            found = self._speakers.get(digest) or self._learn_keys().get(digest)
            if found is not None and found.account is not None:
                now = self._pollers[(found.source, found.account)].key
                if now is not None and hmac.compare_digest(now.encode(), key.encode()):
                    return found
        return Speaker(source=next(iter(self._definitions)), account=None, key=key)

    def _learn_keys(self) -> dict[bytes, Speaker]:
        self._speakers = {
            _digest(poller.key): Speaker(source=source, account=account, key=poller.key)
            for (source, account), poller in reversed(list(self._pollers.items()))
            if poller.key is not None
        }
        return self._speakers

    def standing(self) -> Speaker | None:
        """The account that a relay token stands for: the only one that has a key, or else `default`."""
        having = [place for place, poller in self._pollers.items() if poller.key is not None]
        chosen = having if len(having) == 1 else [place for place in having if place[1] == "default"]
        if len(chosen) != 1:
            return None
        source, account = chosen[0]
        return Speaker(source=source, account=account, key=self._pollers[chosen[0]].key)

    def with_its_key(self, headers: Sequence[Header], speaker: Speaker) -> list[Header]:
        """The headers with the account's own key in the place of a token of ours."""
        name, value = next(iter(self._definitions[speaker.source].auth_headers(speaker.key or "").items()))
        return with_key(headers, name, value)

    # --- what it is

    def is_create(self, speaker: Speaker, method: str, path: str) -> bool:
        """Whether the request makes a job."""
        return method == "POST" and unquote(path) in self._definitions[speaker.source].creates

    def job_read(self, speaker: Speaker, method: str, path: str, query: str) -> str | None:
        """The id of the job that the request reads; None where it is another request, or nobody's we know."""
        if method != "GET" or query or speaker.account is None:
            return None
        written = self._definitions[speaker.source].job_id_of(path)
        return None if written is None else unquote(written)

    # --- reads

    async def read(self, passing: Passing, external_id: str, *, fresh: bool, wait_seconds: float) -> Reply:
        """Answers the read of a job: from what is known where that is as good, else by asking the upstream."""
        speaker = passing.speaker
        poller = self._pollers[(speaker.source, speaker.account or "")]
        place = (speaker.source, speaker.account or "", external_id)
        try:
            kept = await self._kept(place, poller)
        except StoreError as error:  # the upstream can answer all the same
            log.warning("read_without_state", error=str(error))
            kept = None
        if kept is None:
            return await self.pass_on(passing, None)
        if fresh:
            return await self._miss(passing, external_id, kept.uid, poller, cache="pass", lend=not wait_seconds)
        if wait_seconds:
            passing = replace(passing, headers=without_wait(passing.headers))
            if not kept.ended:
                kept = await self._end_of(place, kept, poller, wait_seconds) or kept
        hit = self._hit(kept, poller)
        if hit is not None:
            return hit
        return await self._miss(passing, external_id, kept.uid, poller, cache="miss")

    def known(self, speaker: Speaker, external_id: str, *, ended: bool) -> Reply | None:
        """The answer where memory has it: most reads need no more, and nothing of them has to be waited for."""
        place = (speaker.source, speaker.account or "", external_id)
        poller = self._pollers[place[:2]]
        kept = self._remembered(place, poller)
        return None if kept is None or (ended and not kept.ended) else self._hit(kept, poller)

    def _hit(self, kept: Kept, poller: Poller) -> Whole | None:
        now = self._clock()
        if kept.body is None or poller.paused_by_key or not (kept.ended or _is_fresh(kept, poller, now)):
            return None
        return self._own(200, kept.body, cache="hit", age_seconds=max(0, int(now - kept.looked_at)))

    def _remembered(self, place: JobKey, poller: Poller) -> Kept | None:
        kept = self._answers.get(place)
        holds = kept is not None and (kept.ended or (poller.holds and kept.term == poller.term))
        return kept if holds else None

    async def _kept(self, place: JobKey, poller: Poller) -> Kept | None:
        kept = self._remembered(place, poller)
        if kept is not None:
            return kept
        source, account, external_id = place
        found = await self._store.jobs.find(external_id, source, account)
        if not found or found[0].outcome == "untracked":
            return None
        kept = self._answer_of(found[0], poller)
        self._answers.put(place, kept)
        return kept

    def _answer_of(self, job: Job, poller: Poller, look: Look | None = None) -> Kept:
        item, looked_at = job.upstream, job.last_polled_at
        status, closed = job.progress.status, not job.open
        if look is not None and look.observation is not None:
            item, looked_at = look.observation.upstream, look.received_at
            status, closed = look.observation.status, look.observation.terminal
        body = None
        if item is not None and looked_at is not None:
            request_id = poller.last_request_ids.get(job.uid) or new_id("req", looked_at)
            body = self._definitions[job.source].answer_body(item, request_id)
        return Kept(
            uid=job.uid,
            body=body,
            looked_at=looked_at or 0.0,
            ended=closed and status in TERMINAL,
            term=poller.term,
            due_at=None if job.failure_count else job.next_poll_at,
        )

    def looked(self, job: Job, look: Look) -> None:
        """A look of ours, or one that was lent, showed the job."""
        poller = self._pollers[(job.source, job.account)]
        self._answers.renew((job.source, job.account, job.external_id), lambda: self._answer_of(job, poller, look))

    async def _end_of(self, place: JobKey, kept: Kept, poller: Poller, seconds: float) -> Kept | None:
        """The job's answer once it has ended, or as it is after that time."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + seconds
        with self._signals.watch_job(kept.uid) as watch, poller.hurry(kept.uid):
            while True:
                now_kept = await self._kept(place, poller)  # after the watch began: nothing in between is missed
                left = ends_at - loop.time()
                if now_kept is None or now_kept.ended or left <= 0 or self._node.stopping:
                    return now_kept
                await watch.wait(min(left, WAIT_SLICE_SECONDS if poller.holds else ELSEWHERE_SLICE_SECONDS))

    async def _miss(
        self, passing: Passing, external_id: str, uid: str, poller: Poller, *, cache: Cache, lend: bool = True
    ) -> Reply:
        """Asks the upstream; its answer counts as a look where none is under way and it may `lend` one."""
        lent = _Lent(poller, uid, self._tasks) if lend and poller.lend(uid) else None
        look: Look | None = None
        try:
            passing = replace(passing, headers=readable_only(passing.headers))
            try:
                answer = await self._send(passing, None)
            except (NotSent, NoAnswer) as error:
                return self._unreachable(passing, error)
            try:
                body, is_whole = await self._until_the_end(answer.read(MAX_ANSWER_BYTES))
            except NoAnswer as error:
                answer.close()
                return self._unreachable(passing, error)
            if lent is None:
                self._note(passing.speaker, answer)
            else:
                look = self._clients[passing.speaker.source].read(
                    external_id,
                    status_code=answer.status,
                    headers=_texts(answer.headers),
                    body=plain(body, answer.headers, MAX_ANSWER_BYTES) if is_whole else None,
                    api_key=passing.speaker.key or "",
                    sent_at=answer.sent_at,
                )
            if not is_whole:
                return Streamed(answer, cache, body)
            answer.close()
            return Whole(status=answer.status, headers=answer.headers, whole=body, cache=cache)
        finally:
            if lent is not None:
                lent.give_back(look)

    # --- creates

    async def create(self, passing: Passing, body: Body, extra: Extra) -> Reply:
        """Sends a create once, and tracks the job that it makes."""
        speaker = passing.speaker
        if speaker.account is None and speaker.key and self.adopts and len(self._pollers) < MAX_ADOPTED:
            passing = replace(passing, speaker=replace(speaker, account=name_of(speaker.key)))
        if passing.speaker.account is None:
            log.warning("untracked_create", path=passing.path, request_id=passing.request_id, hint="its key is unknown")
            return await self.pass_on(passing, body.parts)
        now = self._clock()
        intent = Intent(
            id=new_id("int", now),
            source=passing.speaker.source,
            account=passing.speaker.account,
            path=passing.path,
            body_digest=body.digest,
            idempotency_key=_text_of(passing.headers, b"idempotency-key"),
            created_at=now,
        )
        try:
            await self._store.intents.begin(intent)
        except StoreError as error:
            return self.problem(
                passing.speaker,
                503,
                "relay_database_unavailable",
                f"{error}. Nothing was sent: send it again later",
                passing.request_id,
            )
        passing = replace(passing, headers=readable_only(passing.headers))
        try:
            async with asyncio.timeout(CREATE_SECONDS):
                answer = await self._send(passing, body.start if len(body.start) == body.size_bytes else body.parts)
                content, is_whole = await self._until_the_end(answer.read(MAX_ANSWER_BYTES))
        except NotSent as error:
            await self._settle(intent, None)
            return self._unreachable(passing, error)
        except (NoAnswer, TimeoutError) as error:
            await self._settle(intent, "no_answer")
            late = NoAnswer(f"no answer within {CREATE_SECONDS:g} s")
            return self._unreachable(passing, error if isinstance(error, NoAnswer) else late, intent)
        self._note(passing.speaker, answer)
        if not is_whole:
            await self._settle(intent, "unreadable", answer.status)
            return Streamed(answer, "pass", content)
        answer.close()
        await self._take_in(passing, body, extra, intent, answer, content)
        return Whole(status=answer.status, headers=answer.headers, whole=content)

    async def _take_in(
        self, passing: Passing, body: Body, extra: Extra, intent: Intent, answer: PassedAnswer, content: bytes
    ) -> None:
        """What the answer says of the create's fate, written down before the caller gets it."""
        definition = self._definitions[intent.source]
        readable = plain(content, answer.headers, MAX_ANSWER_BYTES) or b""
        code = read_error(definition, readable).code if answer.status >= 500 else ""
        fate = fate_of(answer.status, says_nothing_done=code in definition.codes.unavailable)
        if fate == "refused":
            await self._settle(intent, None)
        elif fate == "unknown":
            await self._settle(intent, "server_error", answer.status)
        else:
            found = self._tracking.read_answer(intent.source, _object(readable))
            if found is None:
                log.warning("create_not_understood", intent=intent.id, status_code=answer.status, path=intent.path)
                await self._settle(intent, "unreadable", answer.status)
                return
            await self._track(
                passing.speaker.key,
                TrackRequest(
                    external_id=found[0],
                    source=intent.source,
                    account=intent.account,
                    callback_url=extra.callback_url,
                    metadata=extra.metadata,
                    seen=found[1],
                    spacing_seconds=_spacing(definition, body),
                    intent=intent,
                ),
            )

    async def _track(self, api_key: str | None, request: TrackRequest) -> None:
        """Registers the job; where the database does not take it now, it is tried until it does."""
        try:
            await self._register(request, api_key)
        except StoreError as error:
            log.error("job_not_recorded", job=request.external_id, intent=_id_of(request), error=str(error))
            if len(self._tasks) < MAX_UNRECORDED:
                self._tasks.start(self._track_later(api_key, request))

    async def _track_later(self, api_key: str | None, request: TrackRequest) -> None:
        while not self._node.stopping:
            await asyncio.sleep(AGAIN_SECONDS)
            try:
                await self._register(request, api_key)
            except StoreError:
                continue
            log.info("job_recorded_late", job=request.external_id, intent=_id_of(request))
            return

    async def _register(self, request: TrackRequest, api_key: str | None) -> None:
        if self._adopt is not None and api_key is not None and (request.source, request.account) not in self._pollers:
            await self._adopt(request.source, api_key)
        for _ in range(REGISTER_TRIES):  # a callback's subscription may be removed just now
            try:
                result = (await self._tracking.register((request,)))[0]
            except Conflict as error:
                result = error
            if not isinstance(result, RequestError):
                return
        log.error("job_not_tracked", job=request.external_id, intent=_id_of(request), error=str(result))

    async def _settle(self, intent: Intent, reason: str | None, status_code: int | None = None) -> None:
        """The intent's end, or why its fate is unknown. Where that can not be written it stays as it was: in flight,
        and with the next start cut off."""
        try:
            if reason is None:
                await self._store.intents.end(intent.id)
            else:
                await self._store.intents.unknown(intent.id, reason, status_code)
        except StoreError as error:
            log.error("intent_not_settled", intent=intent.id, reason=reason, error=str(error))
        if reason is not None:
            log.warning(
                "create_outcome_unknown",
                intent=intent.id,
                source=intent.source,
                account=intent.account,
                path=intent.path,
                reason=reason,
                status_code=status_code,
            )

    # --- everything else

    async def pass_on(self, passing: Passing, body: AsyncIterable[bytes] | None) -> Reply:
        """Passes any other request on."""
        try:
            answer = await self._send(passing, body)
        except (NotSent, NoAnswer) as error:
            return self._unreachable(passing, error)
        self._note(passing.speaker, answer)
        body_at_hand = answer.at_hand()
        if body_at_hand is None:
            return Streamed(answer, "pass")
        answer.close()
        return Whole(status=answer.status, headers=answer.headers, whole=body_at_hand)

    async def _send(self, passing: Passing, body: bytes | AsyncIterable[bytes] | None) -> PassedAnswer:
        target = f"{passing.path}?{passing.query}" if passing.query else passing.path
        request = PassedRequest(method=passing.method, target=target, headers=passing.headers, body=body)
        return await self._until_the_end(self._passages[passing.speaker.source].send(request))

    async def _until_the_end(self, waiting: Awaitable[Value]) -> Value:
        """Waits for the upstream. Where the relay ends first, that is no answer: the caller is to be told so, and of a
        create the intent."""
        try:
            return await waiting
        except asyncio.CancelledError:
            if not self._node.stopping:
                raise
            raise NoAnswer("no answer before the relay was told to end") from None

    def _note(self, speaker: Speaker, answer: PassedAnswer) -> None:
        """It was sent on the account's key: the planner's budget has to know."""
        if speaker.account is not None:
            poller = self._pollers.get((speaker.source, speaker.account))
            if poller is None:
                return  # an account that is still to be adopted
            poller.passed(answer.status, _texts(answer.headers), answer.sent_at)

    def problem(self, speaker: Speaker, status: int, code: str, message: str, request_id: str) -> Whole:
        """An error of our own in the upstream's shape."""
        body = self._definitions[speaker.source].error_body(code, message, request_id)
        return self._own(status, body)

    def _own(self, status: int, body: bytes, *, cache: Cache = "pass", age_seconds: int | None = None) -> Whole:
        date = http_date(self._clock()).encode()
        headers = [(b"date", date), JSON_TYPE, (b"content-length", b"%d" % len(body))]
        return Whole(status=status, headers=headers, whole=body, cache=cache, age_seconds=age_seconds)

    def _unreachable(self, passing: Passing, error: RelayError, intent: Intent | None = None) -> Whole:
        if isinstance(error, NotSent):
            code, says = "relay_upstream_unreachable", f"{error}. Nothing was sent: it is safe to send it again"
        elif passing.method in SAFE:
            code, says = "relay_upstream_no_answer", f"{error}. It only reads: it is safe to send it again"
        else:
            listed = "" if intent is None else f", listed as {intent.id} at /v1/intents"
            code = "relay_outcome_unknown"
            says = (
                f"{error}. It was sent, and whether it was carried out is unknown{listed}: find out "
                "before it is sent again, or repeat it with the Idempotency-Key that it had"
            )
        log.warning("not_passed_on", code=code, method=passing.method, path=passing.path, error=str(error))
        return self.problem(passing.speaker, 502, code, says, passing.request_id)

    def answered(self, kind: str, reply: Reply) -> None:
        """For the metrics."""
        self._counter(kind, reply.cache, f"{reply.status // 100}xx").inc()

    # --- what was left open

    async def intents(self, *, limit: int, cursor: str | None = None) -> Page[Intent]:
        """The creates whose fate is unknown, newest first."""
        return await self._store.intents.page(limit=limit, cursor=cursor, now=self._clock())

    async def dismiss(self, intent_id: str) -> Intent | None:
        """Somebody took care of it. None where there is no such."""
        return await self._store.intents.dismiss(intent_id, self._clock())

    async def stop(self, timeout_seconds: float) -> None:
        """Lets what was lent come home."""
        await self._tasks.finish(timeout_seconds)


class _Lent:
    """A look that a caller's read stands for, for so long."""

    def __init__(self, poller: Poller, uid: str, tasks: Tasks) -> None:
        self._poller = poller
        self._uid = uid
        self._tasks = tasks
        self._over = False
        self._timer = asyncio.get_running_loop().call_later(LENT_SECONDS, self.give_back, None)

    def give_back(self, look: Look | None) -> None:
        """What came of it; None: nothing yet, or nobody knows."""
        if not self._over:
            self._over = True
            self._timer.cancel()
            self._tasks.start(self._poller.returned(self._uid, look))


def _is_fresh(kept: Kept, poller: Poller, now: float) -> bool:
    if poller.holds:
        return poller.is_fresh(kept.uid, now)
    return kept.due_at is not None and kept.due_at > now


@lru_cache(maxsize=KEYS_KNOWN)
def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _spacing(definition: SourceDefinition, body: Body) -> float | None:
    """The least seconds to its predecessor that the create asks for; None where it says nothing of the kind."""
    value = _object(body.start).get(definition.spacing_field) if len(body.start) == body.size_bytes else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return min(max(float(value), LEAST_SPACING_SECONDS), MOST_SPACING_SECONDS)


def _texts(headers: Sequence[Header]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def _text_of(headers: Sequence[Header], name: bytes) -> str | None:
    return next((value.decode("latin-1") for one, value in headers if one == name), None)


def _id_of(request: TrackRequest) -> str | None:
    return None if request.intent is None else request.intent.id
