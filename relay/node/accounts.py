"""The upstream accounts of a node: a poller for each, and what all accounts of a source share.

Adopted accounts are added while the node runs; none is removed before it stops.
"""

import asyncio
from collections.abc import Callable

from relay import __version__
from relay.clock import Clock
from relay.config.settings import AccountSettings, SourceSettings
from relay.core.jobs.job import Job
from relay.core.planner import PlannerStatistics
from relay.delivery.dispatcher import Dispatcher
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

MAX_LISTINGS = 16
"""Maximum concurrent listings of connect accounts on a node: at a start every account asks for one."""


class Accounts:
    """Builds and owns the pollers, by source and account, and their connections, by source."""

    def __init__(
        self,
        *,
        store: Store,
        dispatcher: Dispatcher,
        scheduler: Scheduler | None,
        signals: Signals,
        metrics: Metrics,
        clock: Clock,
        holder: LeaseOwner,
        node_id: str,
        polled: Callable[[Job, PollResult], None],
    ) -> None:
        """Without a `scheduler` nothing is polled. `polled` is called after each poll."""
        self._store = store
        self._dispatcher = dispatcher
        self._scheduler = scheduler
        self._signals = signals
        self._metrics = metrics
        self._clock = clock
        self._holder = holder
        self._node_id = node_id
        self._polled = polled
        self.pollers: dict[tuple[str, str], Poller] = {}
        self.clients: dict[str, UpstreamClient] = {}
        self.transports: dict[str, UpstreamTransport] = {}
        self.statistics: dict[str, SourceStatistics] = {}
        self._planner_statistics: dict[str, PlannerStatistics] = {}
        self._listings = asyncio.Semaphore(MAX_LISTINGS)

    def add_source(self, source: SourceSettings, components: ComponentSettings) -> None:
        """Adds a source with its accounts."""
        name, definition = source.name, components.definitions[source.name]
        self.clients[name] = UpstreamClient(
            definition,
            source.base_url,
            clock=self._clock,
            user_agent=f"revor-relay/{__version__}",
            node_id=self._node_id,
        )
        root = definition.root(source.base_url)
        self.transports[name] = UpstreamTransport(root, clock=self._clock, node_id=self._node_id)
        learned = self._planner_statistics[name] = PlannerStatistics(components.of_planner(source).unit_seconds)
        self.statistics[name] = SourceStatistics(name, learned, rows=self._store.learned, clock=self._clock)
        for account in source.accounts.values():
            self.add(source, account, components)

    def add(self, source: SourceSettings, account: AccountSettings, components: ComponentSettings) -> None:
        """Adds one account of a source."""
        shared = self._store.database.shared
        polled = PolledAccount(
            settings=components.of_account(source, account),
            planner_config=components.of_planner(source),
            upstream=self.clients[source.name],
            store=self._store,
            dispatcher=self._dispatcher,
            signals=self._signals,
            metrics=self._metrics,
            clock=self._clock,
            listings=self._listings,
            polled=self._polled,
            holds=not shared,  # on a shared database only under a lease, which the cluster takes
        )
        plan = AccountPlan(
            source.name,
            account.name,
            shared=self.statistics[source.name],
            plans=self._store.accounts,
            clock=self._clock,
            holder=self._holder if shared else None,
        )
        poller = Poller(polled, saved_plan=plan, statistics=self._planner_statistics[source.name])
        self.pollers[(source.name, account.name)] = poller
        if self._scheduler is not None:
            polled.reschedule = self._scheduler.add_account(source.name, account.name, poller)

    async def close(self) -> None:
        """Closes the connections to the upstreams."""
        for client in self.clients.values():
            await client.close()
        for transport in self.transports.values():
            await transport.close()


async def adopted_accounts(store: Store) -> Adopted:
    """The adopted accounts in the database, with their keys."""
    return {(source, name): key for source, name, key in await store.accounts.adopted()}
