"""The proxy without its HTTP: identifies the caller, classifies the request and picks what answers it."""

from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from functools import lru_cache
from urllib.parse import unquote

from relay.clock import Clock
from relay.core.events import Event
from relay.core.forwarding import Header, with_key
from relay.core.job import Job
from relay.metrics import Metrics
from relay.polling.poll_result import PollResult
from relay.polling.tracking import Tracking
from relay.proxy.answer_cache import AnswerCache
from relay.proxy.creates import Adopt, Creates
from relay.proxy.forwarding import Definitions, Forwarding, Pollers, Stopping
from relay.proxy.reads import Reads
from relay.proxy.transport import UpstreamTransport
from relay.proxy.types import Caller, CreateBody, ForwardedRequest, ProxyResponse, TrackingOptions
from relay.proxy.unknown_creates import UnknownCreates
from relay.signals import Signals
from relay.sources.client import UpstreamClient
from relay.store.store import Store


class Gateway:
    """Implements `relay.proxy.types.DropIn`."""

    def __init__(
        self,
        *,
        store: Store,
        pollers: Pollers,
        definitions: Definitions,
        transports: Mapping[str, UpstreamTransport],
        clients: Mapping[str, UpstreamClient],
        tracking: Tracking,
        answers: AnswerCache,
        signals: Signals,
        metrics: Metrics,
        node: Stopping,
        clock: Clock,
        recorded: Callable[[Event], None],
        dataschema_base: str,
        adopt: Adopt | None = None,
    ) -> None:
        """`adopt` makes an account of an unknown key; None if adoption is off. `recorded` is called with each event
        recorded here."""
        self.adopts_keys = adopt is not None
        self._intents = store.intents
        self._pollers = pollers
        self._definitions = definitions
        self._clock = clock
        self._counter = lru_cache(metrics.passed.labels)
        self._callers: dict[str, Caller] = {}  # str hashes are keyed: lookup time reveals no key
        self._forwarding = Forwarding(
            pollers=pollers, definitions=definitions, transports=transports, node=node, clock=clock
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

    # --- the caller

    def caller_for(self, key: str | None) -> Caller:
        """The caller with this key."""
        if key is not None:
            found = self._callers.get(key) or self._learn_keys().get(key)
            if found is not None and self._pollers[(found.source, found.account or "")].key == key:
                return found
        return Caller(source=next(iter(self._definitions)), account=None, key=key)

    def _learn_keys(self) -> dict[str, Caller]:
        self._callers = {
            poller.key: Caller(source=source, account=account, key=poller.key)
            for (source, account), poller in reversed(list(self._pollers.items()))
            if poller.key is not None
        }
        return self._callers

    def default_caller(self) -> Caller | None:
        """The account a relay token acts for: the only one with a key, else `default`."""
        having = [place for place, poller in self._pollers.items() if poller.key is not None]
        chosen = having if len(having) == 1 else [place for place in having if place[1] == "default"]
        if len(chosen) != 1:
            return None
        source, account = chosen[0]
        return Caller(source=source, account=account, key=self._pollers[chosen[0]].key)

    def with_account_key(self, headers: Sequence[Header], caller: Caller) -> list[Header]:
        """The headers with the relay token replaced by the account's own key."""
        name, value = next(iter(self._definitions[caller.source].auth_headers(caller.key or "").items()))
        return with_key(headers, name, value)

    # --- the request

    def is_create(self, caller: Caller, method: str, path: str) -> bool:
        """True if the request creates a job."""
        return method == "POST" and unquote(path) in self._definitions[caller.source].creates

    def job_read(self, caller: Caller, method: str, path: str, query: str) -> str | None:
        """The id of the job the request reads; None for any other request or an unknown caller."""
        if method != "GET" or query or caller.account is None:
            return None
        written = self._definitions[caller.source].job_id_of(path)
        return None if written is None else unquote(written)

    # --- the answer

    def from_memory(self, caller: Caller, external_id: str, *, ended: bool) -> ProxyResponse | None:
        """The cached answer to a job read, if it is as current as the upstream's own."""
        return self._reads.from_memory(caller, external_id, ended=ended)

    async def read(
        self, request: ForwardedRequest, external_id: str, *, fresh: bool, wait_seconds: float
    ) -> ProxyResponse:
        """Answers a job read."""
        return await self._reads.read(request, external_id, fresh=fresh, wait_seconds=wait_seconds)

    async def create(self, request: ForwardedRequest, body: CreateBody, options: TrackingOptions) -> ProxyResponse:
        """Sends a create once and tracks the job it makes."""
        return await self._creates.create(request, body, options)

    async def forward(self, request: ForwardedRequest, body: AsyncIterable[bytes] | None) -> ProxyResponse:
        """Forwards any other request."""
        return await self._forwarding.forward(request, body)

    def problem(self, caller: Caller, status: int, code: str, message: str, request_id: str) -> ProxyResponse:
        """A relay error in the upstream's shape."""
        return self._forwarding.problem(caller, status, code, message, request_id)

    def count(self, kind: str, response: ProxyResponse) -> None:
        """Counts the answer in the metrics."""
        self._counter(kind, response.cache, f"{response.status // 100}xx").inc()

    def polled(self, job: Job, result: PollResult) -> None:
        """A poll or a borrowed read showed the job."""
        self._reads.polled(job, result)

    async def stop(self, timeout_seconds: float) -> None:
        """Lets borrowed polls settle and created jobs be recorded, within the time."""
        await self._reads.settling.finish(timeout_seconds)
        await self._creates.unrecorded.finish(timeout_seconds)
