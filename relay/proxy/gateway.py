"""The proxy without its HTTP: identifies the caller and classifies the request.

`reads.py`, `creates.py` and `forwarding.py` answer it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from urllib.parse import unquote

from relay.clock import Clock
from relay.core.access.forwarding import Header, with_key
from relay.core.events.event import Event
from relay.metrics import Metrics
from relay.polling.tracking import Tracking
from relay.proxy.creates import Adopt, Creates
from relay.proxy.forwarding import Definitions, Forwarding, Pollers
from relay.proxy.reads import AnswerCache, Reads
from relay.proxy.transport import UpstreamTransport
from relay.proxy.types import Caller, ProxyResponse
from relay.proxy.unrecorded import UnknownCreates
from relay.signals import Signals
from relay.sources.client import UpstreamClient
from relay.store.store import Store


class Gateway:
    """Assembles the proxy of one node."""

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
        stopping: Callable[[], bool],
        clock: Clock,
        recorded: Callable[[Event], None],
        dataschema_base: str,
        adopt: Adopt | None = None,
        capture: Sequence[str] = (),
    ) -> None:
        """`adopt` makes an account of an unknown key; None if adoption is off. `recorded` is called with each event
        recorded here. `capture`: the parts of recipients that creates keep."""
        self.adopts_keys = adopt is not None
        self._pollers = pollers
        self._definitions = definitions
        self._counter = lru_cache(metrics.passed.labels)
        self._callers: dict[str, Caller] = {}  # str hashes are keyed: lookup time reveals no key
        self.forwarding = Forwarding(
            pollers=pollers, definitions=definitions, transports=transports, stopping=stopping, clock=clock
        )
        self.reads = Reads(self.forwarding, jobs=store.jobs, clients=clients, answers=answers, signals=signals)
        self.unknown = UnknownCreates(store.intents, clock=clock, dataschema_base=dataschema_base, recorded=recorded)
        self.creates = Creates(
            self.forwarding,
            intents=store.intents,
            tracking=tracking,
            adopt=adopt,
            unknown=self.unknown,
            capture=capture,
        )

    # --- the caller

    def account_of(self, key: str | None) -> Caller | None:
        """The caller whose key this is, if its account was asked for before. Costs less than `caller_for`."""
        found = None if key is None else self._callers.get(key)
        return found if found is not None and self._pollers[(found.source, found.account or "")].key == key else None

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

    def caller_bound_to(self, account: tuple[str, str]) -> Caller | None:
        """The account that a relay token is bound to; None without a key of it."""
        poller = self._pollers.get(account)
        if poller is None or poller.key is None:
            return None
        return Caller(source=account[0], account=account[1], bound=True, key=poller.key)

    def default_caller(self) -> Caller | None:
        """The account a relay token acts for that is bound to none: the only one with a key, else `default`."""
        having = [(place, poller.key) for place, poller in self._pollers.items() if poller.key is not None]
        if len(having) != 1:
            having = [one for one in having if one[0][1] == "default"]
            if len(having) != 1:
                return None
        ((source, account), key) = having[0]
        known = self._callers.get(key)
        if known is not None and known.account == account and known.source == source:
            return known
        return Caller(source=source, account=account, key=key)

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

    def count(self, kind: str, response: ProxyResponse) -> None:
        """Counts the answer in the metrics."""
        self._counter(kind, response.cache, f"{response.status // 100}xx").inc()

    async def stop(self, timeout_seconds: float) -> None:
        """Lets borrowed polls settle and created jobs be recorded, within the time."""
        await asyncio.gather(
            self.reads.settling.finish(timeout_seconds), self.creates.unrecorded.finish(timeout_seconds)
        )
