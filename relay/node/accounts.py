"""The upstream accounts of a node: a poller for each, and what all accounts of a source share.

Adopted accounts are added while the node runs; none is removed before it stops.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from relay import __version__
from relay.clock import Clock
from relay.config.settings import AccountSettings, SourceSettings
from relay.core.jobs.job import Job
from relay.core.planner import PlannerStatistics
from relay.delivery.dispatcher import Dispatcher
from relay.http.sender import Transport
from relay.lease_owner import LeaseOwner
from relay.metrics import Metrics
from relay.node.component_settings import ComponentSettings
from relay.node.scheduler import Scheduler
from relay.polling.account import PolledAccount
from relay.polling.poller import Poller
from relay.polling.statistics import AccountPlan, SourceStatistics
from relay.proxy.transport import UpstreamTransport
from relay.proxy.types import Adopted
from relay.signals import Signals
from relay.sources.client import PollResult, UpstreamClient
from relay.store.store import Store
from relay.tracing import Tracing

MAX_LISTINGS = 16
"""Maximum concurrent listings of connect accounts on a node: at a start every account asks for one."""


@dataclass(kw_only=True, eq=False, repr=False)
class Accounts:
    """Builds and owns the pollers, by source and account, and their connections, by source.

    scheduler  None: nothing is polled
    polled     called after each poll
    """

    store: Store
    dispatcher: Dispatcher
    scheduler: Scheduler | None
    signals: Signals
    metrics: Metrics
    clock: Clock
    holder: LeaseOwner
    node_id: str
    sender: Transport
    polled: Callable[[Job, PollResult], None]
    tracing: Tracing | None = None
    pollers: dict[tuple[str, str], Poller] = field(default_factory=dict, init=False)
    clients: dict[str, UpstreamClient] = field(default_factory=dict, init=False)
    transports: dict[str, UpstreamTransport] = field(default_factory=dict, init=False)
    statistics: dict[str, SourceStatistics] = field(default_factory=dict, init=False)
    _planner_statistics: dict[str, PlannerStatistics] = field(default_factory=dict, init=False)
    _listings: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_LISTINGS), init=False)

    def add_source(self, source: SourceSettings, components: ComponentSettings) -> None:
        """Adds a source with its accounts."""
        name, definition = source.name, components.definitions[source.name]
        self.clients[name] = UpstreamClient(
            definition,
            source.base_url,
            clock=self.clock,
            user_agent=f"revor-relay/{__version__}",
            node_id=self.node_id,
            sender=self.sender,
        )
        root = definition.root(source.base_url)
        self.transports[name] = UpstreamTransport(root, clock=self.clock, node_id=self.node_id)
        learned = self._planner_statistics[name] = PlannerStatistics(components.of_planner(source).unit_seconds)
        self.statistics[name] = SourceStatistics(name, learned, rows=self.store.learned, clock=self.clock)
        for account in source.accounts.values():
            self.add(source, account, components)

    def add(self, source: SourceSettings, account: AccountSettings, components: ComponentSettings) -> None:
        """Adds one account of a source."""
        shared = self.store.database.shared
        polled = PolledAccount(
            settings=components.of_account(source, account),
            planner_config=components.of_planner(source),
            upstream=self.clients[source.name],
            store=self.store,
            dispatcher=self.dispatcher,
            signals=self.signals,
            metrics=self.metrics,
            clock=self.clock,
            listings=self._listings,
            polled=self.polled,
            tracing=self.tracing,
            holds=not shared,  # on a shared database only under a lease, which the cluster takes
        )
        plan = AccountPlan(
            source.name,
            account.name,
            shared=self.statistics[source.name],
            plans=self.store.accounts,
            clock=self.clock,
            holder=self.holder if shared else None,
        )
        poller = Poller(polled, saved_plan=plan, statistics=self._planner_statistics[source.name])
        self.pollers[(source.name, account.name)] = poller
        if self.scheduler is not None:
            polled.reschedule = self.scheduler.add_account(source.name, account.name, poller)

    async def close(self) -> None:
        """Closes the connections to the upstreams."""
        for client in self.clients.values():
            await client.close()
        for transport in self.transports.values():
            await transport.close()


async def adopted_accounts(store: Store) -> Adopted:
    """The adopted accounts in the database, with their keys."""
    return {(source, name): key for source, name, key in await store.accounts.adopted()}
