"""What the poller makes of a source's ways: answers that the upstream holds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from relay.sources.client import PLAIN, Ways
from relay.sources.definition import LongPoll
from relay.testing import FakeClock, ScriptedPoll, ScriptedSource
from tests.support.simulation_world import World, open_world, seen

WAIT = LongPoll(query="wait", max_seconds=60)


class Source(ScriptedSource):
    """Keeps how each read asked. A held read is answered `holds` seconds later."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.ways: list[Any] = []
        self.holds = 20.0

    async def poll(self, external_id: str, api_key: str, resource: str = "", ways: Any = PLAIN) -> ScriptedPoll:
        self.ways.append(ways)
        sent_at = self.clock()
        if ways.hold_seconds:
            self.clock.advance(self.holds)
        answer = await super().poll(external_id, api_key, resource)
        return replace(answer, sent_at=sent_at, held=ways.hold_seconds > 0)


def of_source(world: World, **changes: Any) -> Source:
    """Lets the world's source have other ways."""
    source = world.source = Source(world.clock)
    account = world.poller.account
    account.upstream = source  # type: ignore[assignment]
    world.resource = world.resource.model_copy(update=changes)
    return source


async def test_running_job_is_read_with_one_request_that_the_upstream_holds(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        source = of_source(world, wait=WAIT)
        started = world.clock()
        running = seen("running", started_at=started)
        await world.register("1", running, running, seen("succeeded", started_at=started, finished_at=started + 15))
        await world.step()
        assert source.ways == [PLAIN], "nothing is known of the job yet"
        for _ in range(100):
            await world.step()
        assert source.ways == [PLAIN, Ways(hold_seconds=60), Ways(hold_seconds=60)]
        assert await world.types() == ["running", "succeeded"]


async def test_job_that_waits_for_its_start_is_read_at_once(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        source = of_source(world, wait=WAIT)
        await world.register("1", seen("queued"))
        await world.run(60)
        assert set(source.ways) == {PLAIN}


async def test_source_without_a_wait_is_read_plainly(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        source = of_source(world)
        await world.register("1", seen("running", started_at=world.clock()))
        await world.run(60)
        assert set(source.ways) == {PLAIN}
