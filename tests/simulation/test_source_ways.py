"""What the poller makes of a source's ways: answers that the upstream holds, ETags, results, addresses."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.core.polling.tracking import TrackRequest
from relay.core.records import Intent, Registered
from relay.errors import DecryptError, InvalidRequest, StoreError
from relay.polling import poll_handler
from relay.polling.tracking import Tracking
from relay.sources.client import PLAIN, Ways
from relay.sources.sections import LongPoll
from relay.testing import FakeClock, ScriptedPoll, ScriptedSource
from tests.support.simulation_world import World, open_world, seen

WAIT = LongPoll(query="wait", max_seconds=60)


class Source(ScriptedSource):
    """Keeps how each read asked. A held read is answered `holds` seconds later."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.ways: list[Any] = []
        self.holds = 20.0
        self.results: list[ScriptedPoll] = []
        """Answers to reads of results. The last one repeats."""
        self.addresses: list[object] = []

    async def result(self, address: object, api_key: str) -> ScriptedPoll:
        self.addresses.append(address)
        return self._timed(self.results.pop(0) if len(self.results) > 1 else self.results[0])

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
    world.resource.__dict__.pop("has_addresses", None)  # the copy keeps what was derived
    return source


async def test_running_job_is_read_with_one_request_that_the_upstream_holds(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        source = of_source(world, wait=WAIT)
        started = world.clock()
        running = seen("running", started_at=started)
        await world.register("1", running, running, seen("succeeded", started_at=started, finished_at=started + 30))
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


async def test_stop_waits_for_no_answer_that_the_upstream_holds(tmp_path: Path) -> None:
    """It would keep every caller of the next process waiting."""
    async with open_world(tmp_path) as world:
        source = of_source(world, wait=WAIT)
        running = seen("running", started_at=world.clock())
        await world.register("1", running, running, seen("succeeded"))
        await world.step()
        poll, began = source.poll, asyncio.Event()

        async def held(external_id: str, api_key: str, resource: str = "", ways: Any = PLAIN) -> ScriptedPoll:
            if ways.hold_seconds:
                began.set()
                await asyncio.Event().wait()
            return await poll(external_id, api_key, resource, ways)

        source.poll = held  # type: ignore[method-assign]
        while not began.is_set():
            world.clock.advance(1.0)
            await world.poller.run_once()
            await asyncio.sleep(0.01)
        async with asyncio.timeout(60):
            await world.poller.stop(3600)
        source.poll = poll  # type: ignore[method-assign]
        await world.restart()
        world.poller.account.upstream = source  # type: ignore[assignment]
        await world.run(60)
        assert await world.types() == ["running", "succeeded"]


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
        later = replace(job.progress, sequence=9)
        for other in (replace(job, poll_count=job.poll_count + 1), replace(job, progress=later)):
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


RESULT = {"rows": 3}
URL = "/results/1"
GIVEN = ScriptedPoll(document=RESULT)
LATER = ScriptedPoll(kind="unavailable", status_code=503, detail="answered 503")
LIMITED = ScriptedPoll(kind="rate_limited", status_code=429, headers={"Retry-After": "30"})


async def end_with(world: World, *results: ScriptedPoll, address: object = URL) -> Source:
    """A job that is found succeeded, and whose item has the address of its result."""
    source = of_source(world, result_url=("output", "url"))
    source.results = list(results)
    await world.register("1", at_address(seen("succeeded"), address))
    return source


def at_address(poll: ScriptedPoll, address: object) -> ScriptedPoll:
    """The poll, whose item has the address of a result."""
    assert poll.observation is not None
    item = {"status": poll.observation.status, "output": {"url": address}}
    return replace(poll, observation=replace(poll.observation, upstream=item))


async def ends(world: World) -> list[dict[str, Any]]:
    """The data of every event of a job that has succeeded."""
    events = (await world.store.events.tail(0)).events
    return [event.document()["data"] for _, event in events if event.type.endswith(".succeeded")]


async def test_result_of_a_succeeded_job_is_read_once_and_is_in_its_event(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        source = await end_with(world, GIVEN)
        await world.run(60)
        (data,) = await ends(world)
        assert (data["result"], source.addresses, len(source.polled)) == (RESULT, [URL], 1)
        assert "result_error" not in data


@pytest.mark.parametrize("address", [None, ""])
async def test_job_without_an_address_has_no_result(tmp_path: Path, address: object) -> None:
    async with open_world(tmp_path) as world:
        source = await end_with(world, GIVEN, address=address)
        await world.run(60)
        (data,) = await ends(world)
        assert source.addresses == []
        assert not {"result", "result_error"} & set(data)


@pytest.mark.parametrize("status", ["failed", "cancelled", "running"])
async def test_only_a_succeeded_job_has_a_result(tmp_path: Path, status: str) -> None:
    async with open_world(tmp_path) as world:
        source = await end_with(world, GIVEN)
        source.script("1", at_address(seen(status), URL))
        await world.run(30)
        assert (source.addresses, await ends(world)) == ([], [])


async def test_result_that_is_not_there_yet_is_asked_for_again_with_the_next_poll(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        source = await end_with(world, LATER, LATER, GIVEN)
        await world.step()
        job = (await world.store.jobs.find("1", "revor", "default"))[0]
        assert (job.open, job.failure_count) == (True, 1)
        assert job.last_error is not None
        assert (job.last_error["code"], job.last_error["message"]) == ("result_unread", "answered 503")
        assert await ends(world) == []
        await world.run(60)
        (data,) = await ends(world)
        assert (data["result"], len(source.addresses), len(source.polled)) == (RESULT, 3, 3)
        assert world.poller.state.state == "ok"


async def test_event_goes_without_a_result_that_does_not_come(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        source = await end_with(world, LATER)
        await world.run(600)
        (data,) = await ends(world)
        assert len(source.addresses) == poll_handler.RESULT_READS
        assert (data["result_error"], "result" in data) == ({"code": "unavailable", "message": "answered 503"}, False)
        assert world.poller.state.state == "ok", "the source is well"


@pytest.mark.parametrize(
    "between",
    [
        ScriptedPoll(kind="unavailable", status_code=503),
        ScriptedPoll(kind="rate_limited", status_code=429, headers={"Retry-After": "1"}),
        ScriptedPoll(kind="not_found", status_code=404),
    ],
    ids=lambda poll: poll.kind,
)
async def test_polls_that_fail_in_between_do_not_hold_the_event_for_ever(tmp_path: Path, between: ScriptedPoll) -> None:
    async with open_world(tmp_path) as world:
        source = await end_with(world, LATER)
        source.script("1", *[at_address(seen("succeeded"), URL), between] * 100)
        await world.run(100, seconds=900)
        (data,) = await ends(world)
        assert data["result_error"]["code"] == "unavailable"


async def test_reads_of_callers_do_not_spend_the_reads_of_a_result(tmp_path: Path) -> None:
    """The client that created the job polls it once a second, and knows of no result."""
    async with open_world(tmp_path) as world:
        source = await end_with(world, *[LATER] * 4, GIVEN)
        await world.step()
        for _ in range(200):
            world.clock.advance(1.0)
            job = (await world.store.jobs.find("1", "revor", "default"))[0]
            sent = await world.poller.borrow(job.uid)
            if sent is not None:
                await world.poller.settle(sent, await Source.poll(source, "1", "key"))  # type: ignore[arg-type]
            await world.poller.run_once()
            await world.poller.drain()
        (data,) = await ends(world)
        assert (data["result"], len(source.addresses)) == (RESULT, 5)
        times = [at for at, _ in source.polled]
        assert times[-1] - times[0] > 5


@pytest.mark.parametrize(
    "answer",
    [
        ScriptedPoll(kind="forbidden", status_code=None, detail="the address is on no origin"),
        ScriptedPoll(kind="oversized", detail="too large"),
        ScriptedPoll(kind="malformed", detail="200 text/html: not_json"),
        ScriptedPoll(kind="unauthorized", status_code=401, detail="answered 401"),
        ScriptedPoll(kind="unavailable", status_code=302, detail="answered 302"),
    ],
)
async def test_event_does_not_wait_for_a_result_that_cannot_come(tmp_path: Path, answer: ScriptedPoll) -> None:
    async with open_world(tmp_path) as world:
        await end_with(world, answer)
        await world.run(3)
        (data,) = await ends(world)
        assert data["result_error"]["message"] == answer.detail
        assert world.poller.state.state == "ok", "the key is not judged by it"


@pytest.mark.parametrize("away", ["before_record", "after_failed_read"])
async def test_kill_between_both_requests_makes_one_event_with_its_result(tmp_path: Path, away: str) -> None:
    async with open_world(tmp_path) as world:
        source = await end_with(world, *([LATER, GIVEN] if away == "after_failed_read" else [GIVEN]))
        if away == "before_record":
            read = source.result

            async def killed(address: object, api_key: str) -> ScriptedPoll:
                await read(address, api_key)
                raise RuntimeError("killed")

            source.result = killed  # type: ignore[method-assign]
            await world.step()
            source.result = read  # type: ignore[method-assign]
        else:
            await world.step()
        assert await ends(world) == []
        world.source = source
        await world.restart()
        world.poller.account.upstream = source  # type: ignore[assignment]
        await world.run(60)
        (data,) = await ends(world)
        assert (data["result"], len(source.addresses)) == (RESULT, 2)


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_read_of_a_result_spends_the_budget_where_the_base_url_answers(tmp_path: Path, elsewhere: bool) -> None:
    async with open_world(tmp_path) as world:
        await end_with(world, replace(LIMITED, elsewhere=elsewhere), GIVEN)
        await world.step()
        assert (world.poller.planner.stats(world.clock()).paused_until is None) == elsewhere


async def test_key_that_is_taken_away_in_between_loses_nothing(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        source = await end_with(world, GIVEN)
        poll = source.poll

        async def last(external_id: str, api_key: str, resource: str = "", ways: Any = PLAIN) -> ScriptedPoll:
            world.poller.health.key = None
            return await poll(external_id, api_key, resource, ways)

        source.poll = last  # type: ignore[method-assign]
        await world.step()
        source.poll, world.poller.health.key = poll, "key"  # type: ignore[method-assign]
        await world.run(60)
        (data,) = await ends(world)
        assert data["result"] == RESULT


AT = "https://files.example/operations/1"


async def test_job_is_read_at_the_address_that_an_answer_gave(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        source = of_source(world, follows=("location",))
        running = seen("running", started_at=world.clock())
        await world.register("1", replace(running, moved_to=AT), running)
        await world.run(60)
        assert [ways.address for ways in source.ways][:3] == [None, AT, AT]
        await world.restart()
        world.poller.account.upstream = source  # type: ignore[assignment]
        source.ways.clear()
        await world.run(60)
        assert {ways.address for ways in source.ways} == {AT}


async def test_address_that_cannot_be_decrypted_takes_no_polls_from_other_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path) as world:
        source = of_source(world, follows=("location",))
        running = seen("running", started_at=world.clock())
        for id in ("1", "2"):
            await world.register(id, running)
        await world.step()
        damaged = (await world.store.jobs.find("1"))[0].uid
        read: list[str] = []

        async def status_url(uid: str) -> str | None:
            read.append(uid)
            if uid == damaged:
                raise DecryptError("it is damaged")
            return None

        monkeypatch.setattr(world.polled.jobs, "status_url", status_url)
        source.polled.clear()
        await world.run(300)
        assert 0 < read.count(damaged) < len(source.polled) / 3
        assert {id for _, id in source.polled} == {"2"}


async def test_limit_of_another_origin_concerns_the_job_alone(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        of_source(world, follows=("location",))
        await world.register("1", replace(LIMITED, elsewhere=True), seen("running"))
        await world.step()
        assert world.poller.planner.stats(world.clock()).paused_until is None
        await world.run(20)
        assert await world.types() == [], "its own pause counts"
        await world.run(60)
        assert await world.types() == ["running"]


@pytest.mark.parametrize(
    "answer",
    [
        ScriptedPoll(kind="forbidden", status_code=403, elsewhere=True),
        ScriptedPoll(kind="forbidden", status_code=None, elsewhere=True, detail="refused: a private address"),
        ScriptedPoll(kind="unavailable", status_code=503, elsewhere=True),
        ScriptedPoll(kind="unavailable", status_code=None, elsewhere=True),
        ScriptedPoll(kind="malformed", status_code=None, elsewhere=True, detail="no origin that is listed"),
    ],
    ids=["refused", "guarded", "failing", "silent", "no longer listed"],
)
async def test_trouble_of_another_origin_concerns_its_jobs_alone(tmp_path: Path, answer: ScriptedPoll) -> None:
    async with open_world(tmp_path) as world:
        of_source(world, follows=("location",))
        for number in range(40):
            await world.register(f"elsewhere-{number}", answer)
        for _ in range(12):
            await world.step(10.0)
            assert world.poller.state.state == "ok"
        await world.register("here", seen("running"))
        await world.run(30)
        assert "running" in await world.types()


class Listed(Source):
    """Knows which addresses a registration may name."""

    def address(self, text: object) -> str | None:
        return AT if text == AT else None

    def may_register(self, external_id: str, address: str | None, resource: str) -> bool:
        return address == AT or (address is None and external_id == "operations/1")


@pytest.mark.parametrize(
    ("paths", "url", "code"),
    [
        (("/operations/{id}",), AT, None),
        (("/operations/{id}",), "https://evil.example/1", "status_url_not_listed"),
        ((), AT, "status_url_unused"),
    ],
)
async def test_registration_with_an_address(tmp_path: Path, paths: tuple[str, ...], url: str, code: str | None) -> None:
    async with open_world(tmp_path) as world:
        of_source(world, follows=("location",), status_paths=paths)
        world.poller.account.upstream = Listed(world.clock)  # type: ignore[assignment]
        tracking = Tracking(
            store=world.store,
            pollers={("revor", "default"): world.poller},
            definitions={},
            signals=world.signals,
            clock=world.clock,
        )
        asked = TrackRequest(external_id="1", source="revor", account="default", status_url=url)
        (found,) = await tracking.register([asked])
        if code is None:
            assert isinstance(found, Registered)
            assert await world.store.jobs.status_url(found.job.uid) == AT
            return
        assert isinstance(found, InvalidRequest)
        assert [(error.pointer, error.code) for error in found.errors] == [("/status_url", code)]
        assert url not in str(found)


@pytest.mark.parametrize(
    ("id", "by_create", "refused"),
    [("operations/1", False, False), ("keys", False, True), ("keys", True, False)],
)
async def test_id_that_is_a_path_has_to_be_listed_unless_the_upstream_gave_it(
    tmp_path: Path, id: str, by_create: bool, refused: bool
) -> None:
    async with open_world(tmp_path) as world:
        of_source(world, path="/{+id}", status_paths=("/operations/{id}",))
        world.poller.account.upstream = Listed(world.clock)  # type: ignore[assignment]
        tracking = Tracking(
            store=world.store,
            pollers={("revor", "default"): world.poller},
            definitions={},
            signals=world.signals,
            clock=world.clock,
        )
        made = intent() if by_create else None
        asked = TrackRequest(external_id=id, source="revor", account="default", intent=made)
        for request in (asked, asked._replace(intent=None, resolves=intent())) if refused else (asked,):
            (found,) = await tracking.register([request])
            assert isinstance(found, InvalidRequest) is refused
            if refused:
                assert [(error.pointer, error.code) for error in found.errors] == [("/id", "invalid_id")]


def intent() -> Intent:
    """A create through the drop-in."""
    return Intent(id="int_1", source="revor", account="default", path="/jobs", body_digest="", created_at=0.0)
