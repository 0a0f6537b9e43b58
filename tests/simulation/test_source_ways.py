"""What the poller makes of a source's ways: answers that the upstream holds, and ETags."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.errors import StoreError
from relay.polling import poll_handler
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


def answered(status: str, etag: str | None, status_code: int = 200, **values: Any) -> ScriptedPoll:
    """A poll whose answer has this ETag."""
    poll = seen(status, **values)
    return replace(poll, status_code=status_code, headers={} if etag is None else {"etag": etag})


async def test_read_asks_with_the_etag_of_the_recorded_answer(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        source = of_source(world, etag=True)
        running = seen("running", started_at=world.clock())
        states = [
            replace(running, headers={"etag": '"a"'}),
            replace(running, status_code=304),
            replace(running, status_code=304, headers={"etag": '"a"'}),
            answered("succeeded", '"b"'),
        ]
        await world.register("1", *states)
        await world.run(300)
        assert [ways.etag for ways in source.ways] == [None, '"a"', '"a"', '"a"']
        assert [ways.known for ways in source.ways[1:]] == [running.observation.upstream] * 3  # type: ignore[union-attr]
        assert await world.types() == ["running", "succeeded"]
        assert world.poller.poll_handler._etags == {}, "an ended job is not read again"


@pytest.mark.parametrize("etag", [None, "a", '"' + "x" * 500 + '"', '"a\n"', '"a" "b"', ""])
async def test_etag_that_cannot_be_sent_is_not_kept(tmp_path: Path, etag: str | None) -> None:
    async with open_world(tmp_path) as world:
        source = of_source(world, etag=True)
        await world.register("1", answered("running", etag))
        await world.run(60)
        assert {ways.etag for ways in source.ways} == {None}


async def test_etag_is_not_used_after_a_failure_or_another_record(tmp_path: Path) -> None:
    """What is recorded is not the item that the ETag stands for, as far as is known."""
    async with open_world(tmp_path) as world:
        source = of_source(world, etag=True)
        failed = ScriptedPoll(kind="unavailable", status_code=503)
        await world.register("1", answered("running", '"a"'), failed, answered("running", '"b"'))
        await world.run(60)
        assert [ways.etag for ways in source.ways][:4] == [None, '"a"', None, '"b"']
        job = (await world.store.jobs.find("1", "revor", "default"))[0]
        assert world.poller.poll_handler.etag_of(job) == '"b"'
        for other in (replace(job, poll_count=job.poll_count + 1), replace(job, progress=replace(job.progress, sequence=9))):
            assert world.poller.poll_handler.etag_of(other) is None


async def test_write_that_fails_keeps_no_etag(tmp_path: Path) -> None:
    """An answer 304 would hide for ever what was never recorded."""
    async with open_world(tmp_path) as world:
        source = of_source(world, etag=True)
        await world.register("1", answered("queued", '"a"'), answered("running", '"b"'))
        await world.step()
        record = world.polled.jobs.record

        async def fails(record: Any) -> Any:
            raise StoreError("disk full")

        world.polled.jobs.record = fails  # type: ignore[method-assign]
        await world.run(30)
        assert len(source.ways) > 2
        assert '"b"' not in {ways.etag for ways in source.ways}
        world.polled.jobs.record = record  # type: ignore[method-assign]
        await world.run(30)
        assert await world.types() == ["queued", "running"]


async def test_memory_of_etags_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll_handler, "KEPT_ETAGS", 3)
    async with open_world(tmp_path) as world:
        of_source(world, etag=True)
        for number in range(5):
            await world.register(str(number), answered("running", '"a"'))
        await world.run(30)
        assert len(world.poller.poll_handler._etags) == 3
