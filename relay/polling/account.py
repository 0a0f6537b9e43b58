"""One upstream account: its settings, and what the components that poll it share."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from relay.clock import Clock
from relay.core.events.event import Origin
from relay.core.planner import PlannerConfig
from relay.metrics import Metrics
from relay.signals import Signals
from relay.sources.definition import SourceDefinition

if TYPE_CHECKING:
    from relay.core.jobs.job import Job
    from relay.delivery.dispatcher import Dispatcher
    from relay.polling.account_watch import AccountWatch, CreditsWatch
    from relay.sources.client import PollResult, UpstreamClient
    from relay.store.store import Store
    from relay.tracing import Tracing


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSettings:
    """Settings of one upstream account.

    origin, more_origins      of the events of the first resource, and of the others by their keys
    read_key                  reads the API key again, from its file if it has one
    listing_interval_seconds  time between two listings of its connect accounts, and between two readings of its credits
    credits_low               below it they are low; None: they are not read
    """

    source: str
    account: str
    definition: SourceDefinition
    origin: Origin
    dataschema_base: str
    deadline_seconds: float
    read_key: Callable[[], str | None]
    listing_interval_seconds: float = 300.0
    credits_low: int | None = None
    more_origins: Mapping[str, Origin] = field(default_factory=dict)

    def origin_of(self, resource: str) -> Origin:
        """That of the events of jobs of a resource, by its key."""
        return self.more_origins.get(resource, self.origin)


@dataclass(kw_only=True, eq=False)
class PolledAccount:
    """Shared by the components that poll one account. A reload replaces `settings` and `planner_config`.

    listings    bounds the concurrent requests of the watches of all accounts of a node
    polled      called with each result that was compared: right after its changes were recorded, before other tasks
                run, and once more when it is handled, which also covers results without changes. It must be idempotent:
                the drop-in renews the job's answer
    reschedule  called when the next request may be due earlier; the scheduler sets it
    watch       watches its connect accounts; None: the source has none
    credits     watches its credits; None: the settings do not ask for that
    holds       True while this node polls the account; always True with SQLite
    tracing     makes spans of polls that found a change, and of its recording; None: there are no spans
    term        incremented each time this node takes the account over. State from an earlier term may be stale
    """

    settings: AccountSettings
    planner_config: PlannerConfig
    upstream: "UpstreamClient"
    store: "Store"
    dispatcher: "Dispatcher"
    signals: Signals
    metrics: Metrics
    clock: Clock
    listings: asyncio.Semaphore = field(default_factory=asyncio.Semaphore)
    polled: "Callable[[Job, PollResult], None]" = lambda job, result: None
    reschedule: Callable[[], None] = lambda: None
    watch: "AccountWatch | None" = None
    credits: "CreditsWatch | None" = None
    holds: bool = True
    term: int = 0
    stopping: bool = False
    tracing: "Tracing | None" = None

    @property
    def place(self) -> dict[str, str]:
        """The account's source and name, for logs and stores."""
        return {"source": self.settings.source, "account": self.settings.account}

    def holds_since(self, term: int) -> bool:
        """True if this node has polled the account without a break since this term."""
        return self.holds and self.term == term

    def polls_since(self, term: int) -> bool:
        """The same, and this node is not stopping."""
        return self.holds_since(term) and not self.stopping
