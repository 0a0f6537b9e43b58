"""When each piece of a node's upkeep runs."""

from collections.abc import Collection
from functools import partial

from relay.config.settings import RetentionSettings
from relay.delivery.pulls import Pulls
from relay.delivery.shared import Shared
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
GROUPS_SECONDS = 5.0
REPLAY_SECONDS = 1.0
PULLS_SECONDS = 10.0
"""How often ends of leases are recorded of programs that do not pull again."""


def timetable(
    *,
    store: Store,
    pollers: upkeep.Pollers,
    statistics: Collection[SourceStatistics],
    delivery: Shared,
    pulls: Pulls,
    gateway: Gateway,
    retention: RetentionSettings,
) -> list[Upkeep]:
    """The upkeep that every node has."""
    clock, metrics, signals = delivery.clock, delivery.metrics, delivery.signals
    delete = upkeep.Retention(store.upkeep, metrics, clock, retention)
    orphans = upkeep.Orphans(store.upkeep, clock, signals)
    return [
        Upkeep("retention", UPKEEP_SECONDS, delete.run_once),
        Upkeep("orphans", UPKEEP_SECONDS, orphans.run_once),
        Upkeep("deadlines", DEADLINE_SECONDS, partial(upkeep.deadlines, store.jobs, pollers, clock)),
        Upkeep("groups", GROUPS_SECONDS, partial(upkeep.settle_groups, store.groups, clock)),
        Upkeep("probes", PROBE_SECONDS, partial(upkeep.probes, pollers), at_once=True),
        Upkeep("statistics", UPKEEP_SECONDS, partial(upkeep.save_statistics, statistics, pollers)),
        Upkeep("replays", REPLAY_SECONDS, partial(upkeep.replays, delivery), at_once=True),
        Upkeep("measure", UPKEEP_SECONDS, partial(upkeep.measure, store, metrics, clock), at_once=True),
        Upkeep("past events", UPKEEP_SECONDS, partial(upkeep.past_events, store.subscriptions, signals), at_once=True),
        Upkeep("pulls", PULLS_SECONDS, partial(upkeep.end_leases, pulls, store.subscriptions)),
        Upkeep("incidents", INCIDENTS_SECONDS, partial(upkeep.incidents, store.incidents, clock)),
        Upkeep("stalls", STALL_SECONDS, partial(upkeep.log_stalls, pollers, clock)),
        Upkeep("creates", CREATES_SECONDS, gateway.unknown.announce, at_once=True),
    ]
