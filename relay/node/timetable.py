"""How often each piece of upkeep is done on a node."""

from collections.abc import Collection, Mapping

import structlog

from relay.clock import Clock
from relay.config.settings import RetentionSettings
from relay.delivery.dispatcher import Dispatcher
from relay.delivery.replayer import Replayer
from relay.holder import Holder
from relay.metrics import Metrics
from relay.node import upkeep
from relay.node.scheduler import Upkeep
from relay.polling.poller import Poller
from relay.store.store import Store

PROBE_SECONDS = 30.0
UPKEEP_SECONDS = 60.0
DEADLINE_SECONDS = 5.0
STALL_SECONDS = 10.0
REPLAY_SECONDS = 1.0

log = structlog.get_logger("relay.timetable")


def timetable(
    *,
    store: Store,
    pollers: Mapping[tuple[str, str], Poller],
    memories: Collection[upkeep.Memory],
    dispatcher: Dispatcher,
    metrics: Metrics,
    clock: Clock,
    retention: RetentionSettings,
    holder: Holder,
) -> list[Upkeep]:
    """All upkeep of one node."""

    replayer = Replayer(store.replays, clock=clock, holder=holder, wake=dispatcher.wake)

    async def stalls() -> None:
        now = clock()
        for (source, account), poller in pollers.items():
            if poller.stalled(now):
                log.error("polling_stalled", source=source, account=account)

    return [
        Upkeep(
            name="retention",
            every_seconds=UPKEEP_SECONDS,
            run=upkeep.Retention(store.upkeep, metrics, clock, retention).run_once,
        ),
        Upkeep(
            name="strays",
            every_seconds=UPKEEP_SECONDS,
            run=upkeep.Strays(store.upkeep, clock, dispatcher.wake).run_once,
        ),
        Upkeep(
            name="deadlines",
            every_seconds=DEADLINE_SECONDS,
            run=lambda: upkeep.deadlines(store.jobs, pollers, clock),
        ),
        Upkeep(
            name="probes",
            every_seconds=PROBE_SECONDS,
            at_once=True,
            run=lambda: upkeep.probes(pollers),
        ),
        Upkeep(
            name="learned",
            every_seconds=UPKEEP_SECONDS,
            run=lambda: upkeep.learned(memories, list(pollers.values())),
        ),
        Upkeep(name="replays", every_seconds=REPLAY_SECONDS, at_once=True, run=replayer.run_once),
        Upkeep(
            name="measure",
            every_seconds=UPKEEP_SECONDS,
            at_once=True,
            run=lambda: upkeep.measure(store.database, store.deliveries, store.intents, metrics, clock),
        ),
        Upkeep(name="stalls", every_seconds=STALL_SECONDS, run=stalls),
    ]
