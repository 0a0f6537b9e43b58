"""The drop-in proxy as the API sees it: whose call it is, what it is, and who answers it."""

from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from functools import lru_cache
from urllib.parse import unquote

from relay.clock import Clock
from relay.core.events import Event
from relay.core.job import Job
from relay.core.passing import Header, with_key
from relay.core.records import Intent, Page, Resolution
from relay.metrics import Metrics
from relay.polling.poll_result import PollResult
from relay.polling.tracking import Tracking
from relay.proxy.answer_cache import Answers
from relay.proxy.creates import Adopt, Creates
from relay.proxy.forwarding import Definitions, Forwarding, Pollers, Stopping
from relay.proxy.passage import Passage
from relay.proxy.reads import Reads
from relay.proxy.types import Body, Extra, Passing, Reply, Speaker
from relay.proxy.unknown import UnknownCreates, resolve
from relay.signals import Signals
from relay.sources.client import UpstreamClient
from relay.store.store import Store


class Gateway:
    """See `relay.proxy.types.DropIn`."""

    def __init__(
        self,
        *,
        store: Store,
        pollers: Pollers,
        definitions: Definitions,
        passages: Mapping[str, Passage],
        clients: Mapping[str, UpstreamClient],
        tracking: Tracking,
        answers: Answers,
        signals: Signals,
        metrics: Metrics,
        node: Stopping,
        clock: Clock,
        recorded: Callable[[Event], None],
        dataschema_base: str,
        adopt: Adopt | None = None,
    ) -> None:
        """`adopt` makes an account of a caller's key; None where that is not wanted. `recorded` is told of each event
        that is recorded here."""
        self.adopts = adopt is not None
        self._intents = store.intents
        self._pollers = pollers
        self._definitions = definitions
        self._clock = clock
        self._counter = lru_cache(metrics.passed.labels)
        self._speakers: dict[
            str, Speaker
        ] = {}  # whose hashes are keyed: how long a look-up takes tells nothing of a key
        self._forwarding = Forwarding(
            pollers=pollers, definitions=definitions, passages=passages, node=node, clock=clock
        )
        self._reads = Reads(
            self._forwarding,
            jobs=store.jobs,
            pollers=pollers,
            definitions=definitions,
            clients=clients,
            answers=answers,
            signals=signals,
            node=node,
            clock=clock,
        )
        self._tracking = tracking
        self.unknown = UnknownCreates(store.intents, clock=clock, dataschema_base=dataschema_base, recorded=recorded)
        self._creates = Creates(
            self._forwarding,
            intents=store.intents,
            tracking=tracking,
            pollers=pollers,
            definitions=definitions,
            node=node,
            clock=clock,
            adopt=adopt,
            unknown=self.unknown,
        )

    # --- whose call it is

    def whose(self, key: str | None) -> Speaker:
        """Whom a request with this key speaks for."""
        if key is not None:
            found = self._speakers.get(key) or self._learn_keys().get(key)
            if found is not None and self._pollers[(found.source, found.account or "")].key == key:
                return found
        return Speaker(source=next(iter(self._definitions)), account=None, key=key)

    def _learn_keys(self) -> dict[str, Speaker]:
        self._speakers = {
            poller.key: Speaker(source=source, account=account, key=poller.key)
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

    # --- who answers it

    def known(self, speaker: Speaker, external_id: str, *, ended: bool) -> Reply | None:
        """The answer to the read of a job where memory has one that is as good as the upstream's."""
        return self._reads.known(speaker, external_id, ended=ended)

    async def read(self, passing: Passing, external_id: str, *, fresh: bool, wait_seconds: float) -> Reply:
        """Answers the read of a job."""
        return await self._reads.read(passing, external_id, fresh=fresh, wait_seconds=wait_seconds)

    async def create(self, passing: Passing, body: Body, extra: Extra) -> Reply:
        """Sends a create once, and tracks the job that it makes."""
        return await self._creates.create(passing, body, extra)

    async def pass_on(self, passing: Passing, body: AsyncIterable[bytes] | None) -> Reply:
        """Passes any other request on."""
        return await self._forwarding.pass_on(passing, body)

    def problem(self, speaker: Speaker, status: int, code: str, message: str, request_id: str) -> Reply:
        """An error of our own in the upstream's shape."""
        return self._forwarding.problem(speaker, status, code, message, request_id)

    def answered(self, kind: str, reply: Reply) -> None:
        """For the metrics."""
        self._counter(kind, reply.cache, f"{reply.status // 100}xx").inc()

    def polled(self, job: Job, poll: PollResult) -> None:
        """A look of ours, or one that was lent, showed the job."""
        self._reads.polled(job, poll)

    # --- what was left open

    async def intents(self, *, limit: int, cursor: str | None = None) -> Page[Intent]:
        """The creates whose fate is unknown, newest first."""
        return await self._intents.page(limit=limit, cursor=cursor, now=self._clock())

    async def dismiss(self, intent_id: str) -> Intent | None:
        """Somebody took care of it. None where there is no such."""
        return await self._intents.dismiss(intent_id, self._clock())

    async def resolve(self, intent_id: str, fate: Resolution, job_id: str | None) -> Intent:
        """What a person found out; a job that was made is tracked as if its answer had come. Raises RequestError."""
        return await resolve(self._intents, self._tracking, intent_id, fate, job_id, now=self._clock())

    async def stop(self, timeout_seconds: float) -> None:
        """Lets what was lent come home, and what is late be recorded."""
        await self._reads.borrowed.finish(timeout_seconds)
        await self._creates.late.finish(timeout_seconds)
