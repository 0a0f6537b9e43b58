"""When each piece of a node's upkeep runs."""

from collections.abc import Awaitable, Callable, Collection

from relay.clock import Clock
from relay.config.settings import RetentionSettings
from relay.delivery.dispatcher import Dispatcher
from relay.delivery.pulls import Pulls
from relay.delivery.replayer import Replayer
from relay.metrics import Metrics
from relay.node import upkeep
from relay.node.scheduler import Upkeep
from relay.polling.statistics import SourceStatistics
from relay.proxy.gateway import Gateway
from relay.store.store import Store

UPKEEP_SECONDS = 60.0
PROBE_SECONDS = 30.0
STALL_SECONDS = 10.0
DEADLINE_SECONDS = 5.0
CREATES_SECONDS = 5.0
"""How often creates with an unknown outcome, for example after a crash, are reported."""
INCIDENTS_SECONDS = 10.0
ADOPTED_SECONDS = 5.0
GROUPS_SECONDS = 5.0
REPLAY_SECONDS = 1.0
PULLS_SECONDS = 10.0
"""How often ends of leases are recorded of programs that do not pull again."""


def timetable(
    *,
    store: Store,
    pollers: upkeep.Pollers,
    statistics: Collection[SourceStatistics],
    dispatcher: Dispatcher,
    pulls: Pulls,
    gateway: Gateway,
    metrics: Metrics,
    clock: Clock,
    retention: RetentionSettings,
    find_adopted: Callable[[], Awaitable[None]],
) -> list[Upkeep]:
    """All upkeep of a node. `find_adopted` adds the accounts that other nodes have adopted."""

    async def stalls() -> None:
        upkeep.log_stalls(pollers, clock)

    delete = upkeep.Retention(store.upkeep, metrics, clock, retention)
    orphans = upkeep.Orphans(store.upkeep, clock, dispatcher.wake)
    replayer = Replayer(dispatcher.shared)
    works = [
        Upkeep(name="retention", every_seconds=UPKEEP_SECONDS, run=delete.run_once),
        Upkeep(name="orphans", every_seconds=UPKEEP_SECONDS, run=orphans.run_once),
        Upkeep(
            name="deadlines", every_seconds=DEADLINE_SECONDS, run=lambda: upkeep.deadlines(store.jobs, pollers, clock)
        ),
        Upkeep(name="groups", every_seconds=GROUPS_SECONDS, run=lambda: upkeep.settle_groups(store.groups, clock)),
        Upkeep(name="probes", every_seconds=PROBE_SECONDS, at_once=True, run=lambda: upkeep.probes(pollers)),
        Upkeep(
            name="statistics",
            every_seconds=UPKEEP_SECONDS,
            run=lambda: upkeep.save_statistics(statistics, list(pollers.values())),
        ),
        Upkeep(name="replays", every_seconds=REPLAY_SECONDS, at_once=True, run=replayer.run_once),
        Upkeep(
            name="measure",
            every_seconds=UPKEEP_SECONDS,
            at_once=True,
            run=lambda: upkeep.measure(store, metrics, clock),
        ),
        Upkeep(
            name="past events",
            every_seconds=UPKEEP_SECONDS,
            at_once=True,
            run=lambda: upkeep.past_events(store.subscriptions, dispatcher.wake),
        ),
        Upkeep(name="pulls", every_seconds=PULLS_SECONDS, run=lambda: upkeep.end_leases(pulls, store.subscriptions)),
        Upkeep(name="incidents", every_seconds=INCIDENTS_SECONDS, run=lambda: upkeep.incidents(store.incidents, clock)),
        Upkeep(name="stalls", every_seconds=STALL_SECONDS, run=stalls),
        Upkeep(name="creates", every_seconds=CREATES_SECONDS, at_once=True, run=gateway.unknown.announce),
    ]
    if store.database.shared and gateway.adopts_keys:
        works.append(Upkeep(name="adopted", every_seconds=ADOPTED_SECONDS, run=find_adopted))
    return works
