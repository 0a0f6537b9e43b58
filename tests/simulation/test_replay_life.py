"""A replay on a real database, with the dispatcher and a recording sink: its rate, its bounds, a sink that fails."""

from collections.abc import Sequence
from types import SimpleNamespace

from relay.core.deliveries.delivery import Response
from relay.core.deliveries.replay import Replay, ReplayRequest, ReplayStep
from relay.ids import new_id
from relay.node import upkeep
from relay.node.node import REPLAY_SECONDS
from relay.store.deliveries.replays import MAX_UNTRIED
from tests.support.delivery_kit import shared
from tests.support.simulation_world import World, open_world, seen
from tests.support.store_kit import rows

PER_SECOND = 50
"""What a replay reaches at least, where the sink keeps up."""


async def replay(world: World, subscription_id: str) -> Replay:
    now = world.clock()
    values = {"since": 0.0, "until": now + 1, "now": now}
    return await world.store.replays.create(
        ReplayRequest(id=new_id("rpl", now), subscription_id=subscription_id, **values)
    )


async def jobs(world: World, count: int) -> None:
    for number in range(count):
        await world.register(f"job {number}", seen("queued"), seen("running"), seen("succeeded"))
    await world.run(40)


async def test_replay_sends_at_least_fifty_a_second_if_the_sink_keeps_up(tmp_path):
    async with open_world(tmp_path) as world:
        await jobs(world, 100)
        subscription = await world.subscribe()
        made = await replay(world, subscription.id)
        assert made.matched == 300
        for second in range(1, 100):
            world.clock.advance(REPLAY_SECONDS)
            await upkeep.replays(world.dispatcher.shared)
            await world.deliver()
            found = await world.store.replays.get(made.id)
            if found.state == "done":
                break
            assert found.delivered >= min(made.matched, PER_SECOND * second * REPLAY_SECONDS)
        assert (found.state, found.delivered, found.left) == ("done", 300, 0)
        assert len(world.sink.requests) == 300
        assert not await upkeep.replays(world.dispatcher.shared)


class Rows:
    """A replay that never ends."""

    def __init__(self) -> None:
        self.steps = 0

    async def due(self, holder: str, now: float) -> Sequence[str]:
        return ["rpl_1"]

    async def advance(self, replay_id: str, holder: str, now: float) -> ReplayStep:
        self.steps += 1
        return ReplayStep(queued=1, more=True)


async def test_one_replay_does_not_block_others():
    rows_ = Rows()
    of_replays = shared(SimpleNamespace(replays=rows_), lambda: 0.0)
    assert await upkeep.replays(of_replays)
    assert rows_.steps == upkeep.REPLAY_STEPS
    assert of_replays.signals.due.is_set()


async def test_a_step_is_taken_under_the_name_that_the_node_has_then():
    holders: list[str] = []

    class Losing(Rows):
        async def advance(self, replay_id: str, holder: str, now: float) -> ReplayStep:
            holders.append(holder)
            if len(holders) == 1:
                of_replays.holder.lose()
            return ReplayStep(queued=1, more=len(holders) < 3)

    of_replays = shared(SimpleNamespace(replays=Losing()), lambda: 0.0)
    await upkeep.replays(of_replays)
    lost, *later = holders
    assert later == [of_replays.holder.name] * 2
    assert lost not in later


async def test_replay_to_an_unresponsive_sink_stays_bounded(tmp_path):
    async with open_world(tmp_path) as world:
        await jobs(world, 1)
        subscription = await world.subscribe(retry_schedule_seconds=(3600.0,))
        world.sink.answers[0] = Response(started_at=0.0, duration_ms=1.0, error="timeout", late=True)
        made = await replay(world, subscription.id)
        for _ in range(5):
            await upkeep.replays(world.dispatcher.shared)
            await world.step()
        found = await world.store.replays.get(made.id)
        assert (found.state, found.queued, found.left) == ("running", 3, 3)
        open_rows = await rows(world.store, "SELECT state FROM deliveries WHERE ended_at IS NULL")
        assert len(open_rows) == 3 < MAX_UNTRIED
