"""The poller on a real database with a scripted upstream: one job's life, and every failure in it."""

import asyncio
import inspect
import itertools
from contextlib import asynccontextmanager
from dataclasses import replace
from unittest.mock import AsyncMock

import pytest

from relay.core.jobs.job import PRIORITY_WEIGHTS
from relay.core.planner import Planner, PlannerConfig
from relay.errors import StoreError
from relay.node.upkeep import deadlines
from relay.testing import ScriptedError, ScriptedPoll
from tests.support.schema_check import check_event
from tests.support.simulation_world import open_world, seen
from tests.support.store_kit import registration

UNAUTHORIZED = ScriptedPoll(kind="unauthorized", status_code=401, error=ScriptedError(code="key_revoked"))
UNAVAILABLE = ScriptedPoll(kind="unavailable", status_code=503)


async def test_job_goes_from_registration_to_a_signed_event(tmp_path):
    async with open_world(tmp_path) as world:
        await world.subscribe()
        started = world.clock() + 1
        uid = await world.register(
            "a",
            seen("queued"),
            seen("running", started_at=started, attempt_count=1),
            seen("succeeded", started_at=started, finished_at=started + 1, attempt_count=1),
        )
        await world.run(40)
        assert await world.types() == ["queued", "running", "succeeded"]
        job = await world.store.jobs.get(uid)
        assert (job.outcome, job.open, job.progress.sequence) == ("succeeded", False, 3)
        sent = [check_event(request.body) for request in world.sink.requests]
        assert [event["sequence"] for event in sent] == ["0000000001", "0000000002", "0000000003"]
        assert (await world.store.deliveries.pending()).count == 0
        assert world.poller.planner.stats(world.clock()).open_jobs == 0


async def test_unchanged_poll_records_no_event(tmp_path):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", seen("queued"))
        await world.run(60)
        job = await world.store.jobs.get(uid)
        assert await world.types() == ["queued"]
        assert job.poll_count >= 2
        assert job.next_poll_at is not None
        assert job.next_poll_at > world.clock()


async def test_job_is_not_found_only_after_five_polls_over_two_minutes(tmp_path):
    async with open_world(tmp_path) as world:
        uid = await world.register("gone")
        await world.run(90)
        assert await world.types() == []
        await world.run(400)
        job = await world.store.jobs.get(uid)
        assert await world.types() == ["not_found"]
        assert (job.outcome, job.open) == ("not_found", False)
        first, fifth = world.source.polled[0][0], world.source.polled[-1][0]
        assert len(world.source.polled) >= 5
        assert fifth - first >= 120


async def test_early_404_is_forgiven(tmp_path):
    async with open_world(tmp_path) as world:
        missing = ScriptedPoll(kind="not_found", status_code=404)
        await world.register("late", missing, missing, seen("queued"))
        await world.run(60)
        assert await world.types() == ["queued"]


async def test_refused_key_pauses_the_account_and_a_new_key_resumes_it(tmp_path):
    async with open_world(tmp_path) as world:
        await world.register("a", UNAUTHORIZED, seen("queued"))
        await world.step()
        assert world.poller.paused
        assert world.poller.next_request_at() is None
        assert await world.types() == ["relay.source.unauthorized"]
        world.source.key_works = False
        assert not await world.poller.probe()
        await world.run(30)
        assert len(world.source.polled) == 1
        world.source.key_works = True
        assert await world.poller.probe()
        await world.run(60)
        assert await world.types() == ["relay.source.unauthorized", "relay.source.recovered", "queued"]


@pytest.mark.parametrize(("kind", "status"), [("not_found", 404), ("malformed", 400), ("forbidden", 403)])
async def test_probe_that_says_nothing_of_the_key_lets_a_poll_try_it(tmp_path, monkeypatch, kind, status):
    async with open_world(tmp_path) as world:
        probed = AsyncMock(return_value=ScriptedPoll(kind=kind, status_code=status))
        monkeypatch.setattr(world.source, "probe", probed)
        await world.register("a", UNAUTHORIZED, UNAUTHORIZED, seen("queued"))
        await world.step()
        assert world.poller.paused
        assert await world.poller.probe()
        await world.run(60)
        assert len(world.source.polled) == 2
        assert world.poller.paused
        assert await world.types() == ["relay.source.unauthorized"]
        assert await world.poller.probe()
        await world.run(60)
        assert sorted(await world.types()) == ["queued", "relay.source.recovered", "relay.source.unauthorized"]


@pytest.mark.parametrize(("kind", "status"), [("unavailable", 503), ("unavailable", None), ("rate_limited", 429)])
async def test_probe_without_a_real_answer_leaves_the_account_paused(tmp_path, monkeypatch, kind, status):
    async with open_world(tmp_path) as world:
        probed = AsyncMock(return_value=ScriptedPoll(kind=kind, status_code=status))
        monkeypatch.setattr(world.source, "probe", probed)
        await world.register("a", UNAUTHORIZED, seen("queued"))
        await world.step()
        assert not await world.poller.probe()
        assert world.poller.paused


async def test_nothing_is_polled_without_a_key(tmp_path):
    async with open_world(tmp_path, key=None) as world:
        await world.register("a", seen("queued"))
        await world.run(5)
        assert world.source.polled == []
        world.key = "new"
        assert await world.poller.probe()
        await world.run(5)
        assert await world.types() == ["queued"]
        assert world.source.probes == 0


async def test_source_is_down_after_five_failures_over_a_minute(tmp_path):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", UNAVAILABLE)
        await world.run(30)
        assert await world.types() == []
        await world.run(600)
        assert await world.types() == ["relay.source.down"]
        job = await world.store.jobs.get(uid)
        assert job.last_error["code"] == "unavailable"
        assert job.failure_count >= 5
        world.source.script("a", seen("queued"))
        await world.run(1000)
        assert await world.types() == [
            "relay.source.down",
            "relay.source.recovered",
            "queued",
        ] or await world.types() == [
            "relay.source.down",
            "queued",
            "relay.source.recovered",
        ]


async def test_one_403_counts_against_the_job_and_five_against_the_key(tmp_path):
    async with open_world(tmp_path) as world:
        forbidden = ScriptedPoll(kind="forbidden", status_code=403)
        for name in "abcd":
            await world.register(name, forbidden)
        await world.run(10)
        assert world.poller.state.state == "ok"
        await world.register("e", forbidden)
        await world.run(10)
        assert world.poller.state.state == "unauthorized"


async def test_429_stops_the_account_until_retry_after(tmp_path):
    async with open_world(tmp_path) as world:
        limited = ScriptedPoll(kind="rate_limited", status_code=429, headers={"retry-after": "30"})
        await world.register("a", limited, seen("queued"))
        await world.register("b", seen("queued"))
        await world.step()
        polled = len(world.source.polled)
        await world.run(28)
        assert len(world.source.polled) <= polled + 1
        await world.run(60)
        assert sorted(await world.types()) == ["queued", "queued"]
        assert world.poller.state.state == "ok"


async def test_unknown_status_is_reported_once_and_tracking_continues(tmp_path):
    async with open_world(tmp_path) as world:
        await world.register("a", seen("settling"), seen("settling"), seen("succeeded", finished_at=5.0))
        await world.run(100)
        assert await world.types() == ["status_unknown", "succeeded"]


async def test_job_past_its_deadline_is_overdue_once(tmp_path):
    async with open_world(tmp_path) as world:
        await world.register("a", seen("running", started_at=1.0))
        await world.step()
        world.clock.advance(4000)
        for count in (1, 0):
            assert await call_overdue(world) == count
        assert await world.types() == ["running", "overdue"]
        world.source.script("a", seen("succeeded", started_at=1.0, finished_at=2.0))
        await world.run(1000)
        assert await world.types() == ["running", "overdue", "succeeded"]


async def call_overdue(world):
    return await deadlines(world.store.jobs, {("revor", "default"): world.poller}, world.clock)


@pytest.mark.parametrize("registered", [False, True])
async def test_deadline_counts_from_the_observed_schedule(tmp_path, registered):
    """One hour, as `register` sets it, or ten minutes after the job is registered again."""
    async with open_world(tmp_path) as world:
        later, sooner = world.clock() + 7200.0, world.clock() + 1800.0
        uid = await world.register("a", seen("scheduled", scheduled_at=later))
        await world.step()
        assert (await world.store.jobs.get(uid)).deadline_at == later + 3600.0
        if registered:
            await world.store.jobs.register(registration("a", deadline_seconds=600.0, deadline_given=True))
            assert (await world.store.jobs.get(uid)).deadline_at == later + 600.0
        world.clock.now = later - 1.0
        assert await call_overdue(world) == 0
        world.source.script("a", seen("scheduled", scheduled_at=sooner))
        world.poller.agenda.refresh(uid)
        await world.step()
        assert (await world.store.jobs.get(uid)).deadline_at == sooner + (600.0 if registered else 3600.0)
        assert await call_overdue(world) == 1
        assert await world.types() == ["scheduled", "overdue"]


async def test_job_is_not_overdue_by_an_outdated_deadline(tmp_path):
    """Upkeep has read the job; before it records anything, a poll shows that the job was rescheduled."""
    async with open_world(tmp_path) as world:
        uid = await world.register("a", seen("scheduled", scheduled_at=world.clock() + 60.0))
        await world.step()
        world.clock.advance(3700.0)
        late = await world.store.jobs.get(uid)
        world.source.script("a", seen("scheduled", scheduled_at=world.clock() + 7200.0))
        world.poller.agenda.refresh(uid)
        await world.step()
        await world.poller.poll_handler.overdue(late)
        assert await world.types() == ["scheduled"]
        assert (await world.store.jobs.get(uid)).deadline_at > world.clock()


async def test_record_keeps_a_deadline_set_meanwhile(tmp_path):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", seen("queued"))
        async with held(world.source) as answer:
            await begin_poll(world, uid)
            await world.store.jobs.register(
                registration("a", tracked_at=world.clock(), deadline_seconds=9.0, deadline_given=True)
            )
            answer.set()
            await world.poller.drain()
        assert await world.types() == ["queued"]
        assert (await world.store.jobs.get(uid)).deadline_at == world.clock() + 9.0


async def test_restart_continues_and_repeats_no_event(tmp_path):
    async with open_world(tmp_path) as world:
        started = world.clock()
        await world.register("a", seen("running", started_at=started))
        await world.step()
        world.poller.planner.forget((await world.store.jobs.find("a"))[0].uid)
        assert await world.poller.load() == 1
        ended = seen("failed", started_at=started, finished_at=started + 9)
        world.source.script("a", seen("running", started_at=started), ended)
        await world.run(200)
        assert await world.types() == ["running", "failed"]


@pytest.mark.parametrize("away_seconds", [0.0, 600.0])
async def test_restart_keeps_the_back_off(tmp_path, away_seconds):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", seen("running", started_at=world.clock()))
        await world.run(100)
        step, planned = world.poller.planner.step(uid), world.poller.planner.next_poll_at(uid)
        polls = len(world.source.polled)
        assert step >= 8
        await world.poller.save_plan()
        await world.restart_poller(away_seconds)
        assert world.poller.planner.step(uid) == step
        assert world.poller.planner.next_poll_at(uid) == pytest.approx(planned, rel=0, abs=1e-4)
        await world.run(60)
        times = [at for at, _ in world.source.polled]
        pauses = [after - before for before, after in itertools.pairwise(times)]
        assert times[polls] == pytest.approx(max(planned, world.clock() - 60), abs=1.0)
        assert min(pauses[polls:]) >= max(pauses[: polls - 1])  # polls become rarer the longer it runs
        assert world.poller.planner.step(uid) == step + len(pauses[polls:]) + 1


async def test_change_resets_the_back_off_also_after_a_restart(tmp_path):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", seen("running", started_at=world.clock()))
        await world.run(100)
        polls = len(world.source.polled)
        world.source.script(
            "a", seen("running", started_at=world.clock() - 100.0, next_attempt_at=world.clock() + 500.0)
        )
        while len(world.source.polled) == polls:
            await world.step()
        assert (await world.store.jobs.get(uid)).poll_step == 0
        await world.restart_poller()
        assert world.poller.planner.step(uid) == 0


async def test_job_marked_overdue_during_a_poll_is_compared_again(tmp_path):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", seen("running", started_at=1.0))
        await world.poller.poll(uid)
        world.source.script("a", seen("succeeded", started_at=1.0, finished_at=3.0))
        async with held(world.source) as answer:
            await begin_poll(world, uid)
            await world.poller.poll_handler.overdue(await world.store.jobs.get(uid))
            answer.set()
            await world.poller.drain()
        assert await world.types() == ["running", "overdue", "succeeded"]


@asynccontextmanager
async def held(source):
    """Holds back the source's next answer, computed when it was requested, until the event is set."""
    real, event = source.poll, asyncio.Event()

    async def late(*asked):
        source.poll = real
        answer = await real(*asked)
        await event.wait()
        return answer

    source.poll = late
    try:
        yield event
    finally:
        event.set()
        source.poll = real


async def begin_poll(world, uid):
    """One poll of the job is in flight, and no other is due."""
    asked = len(world.source.polled)
    world.poller.agenda.refresh(uid)
    world.clock.advance(1.0)
    assert await world.poller.run_once()
    async with asyncio.timeout(25):
        while len(world.source.polled) == asked:  # noqa: ASYNC110 - the source has no signal
            await asyncio.sleep(0)


RUNNING = seen("running", started_at=1.0)


async def test_reloaded_settings_keep_polls_in_flight(tmp_path):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", seen("queued"), RUNNING)
        async with held(world.source) as answer:
            await begin_poll(world, uid)
            world.poller.configure(world.poller.account.settings, PlannerConfig(max_requests_per_second=1000.0))
            world.clock.advance(900.0)
            assert not await world.poller.run_once(), "its poll is out"
            assert len(world.source.polled) == 1
            answer.set()
            await world.poller.drain()
        await world.run(5)
        assert await world.types() == ["queued", "running"]
        assert world.poller.planner.stats(world.clock()).in_flight == 0


async def test_older_result_is_dropped_and_the_job_polled_again(tmp_path):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", seen("queued"))
        async with held(world.source) as answer:
            await begin_poll(world, uid)
            world.source.script("a", RUNNING)
            other = world.another_poller()  # it has the lease, and this node does not know yet
            await other.take_over(None)
            await other.poll(uid)
            answer.set()
            await world.poller.drain()
        assert await world.types() == ["running"]
        assert world.poller.planner.next_poll_at(uid) <= world.clock(), "it is polled again soon"
        await world.step()
        assert len(world.source.polled) == 3
        assert await world.types() == ["running"]


@pytest.mark.parametrize("again", [False, True])
async def test_result_after_the_lease_was_lost_is_dropped(tmp_path, again):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", seen("queued"), RUNNING)
        async with held(world.source) as answer:
            await begin_poll(world, uid)
            world.poller.release()
            if again:
                await world.poller.take_over(None)
            answer.set()
            await world.poller.drain()
        assert await world.types() == []
        job = await world.store.jobs.get(uid)
        assert (job.poll_count, job.next_poll_at) == (0, None)
        await world.run(5)
        assert await world.types() == (["running"] if again else [])


async def test_job_tracked_again_while_the_account_is_taken_over_is_planned(tmp_path):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", seen("queued"), RUNNING)
        await world.store.jobs.untrack(uid, world.clock())
        world.poller.release()
        load = world.poller.agenda.load

        async def load_first():
            count = await load()
            await world.register("a")  # behind the rows that were read: it keeps its uid
            return count

        world.poller.agenda.load = load_first
        await world.poller.take_over(None)
        await world.run(60)
        assert (await world.types())[-1] == "running"


async def test_job_tracked_again_during_a_poll_stays_planned(tmp_path):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", seen("queued"), RUNNING)
        async with held(world.source) as answer:
            await begin_poll(world, uid)
            await world.store.jobs.untrack(uid, world.clock())
            world.poller.agenda.forget(uid)
            await world.register("a")
            answer.set()
            await world.poller.drain()
        await world.run(60)
        assert (await world.types())[-1] == "running"


async def test_refusal_of_an_old_key_does_not_count_against_the_new_key(tmp_path):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", UNAUTHORIZED, seen("queued"))
        async with held(world.source) as answer:
            await begin_poll(world, uid)
            world.key = "new"
            world.poller.configure(world.poller.account.settings, PlannerConfig(max_requests_per_second=1000.0))
            answer.set()
            await world.poller.drain()
        assert not world.poller.paused
        await world.run(3)
        assert await world.types() == ["queued"]


@pytest.mark.parametrize("why", ["gone", "closed", "unreadable", "lost", "regained"])
async def test_poll_is_not_lent_if_the_read_cannot_stand_for_it(tmp_path, why):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", seen("queued"))
        real = world.store.jobs.get

        async def get(uid):
            if why == "unreadable":
                raise StoreError("the database is away")
            if why in ("lost", "regained"):
                world.poller.release()
            if why == "regained":
                await world.poller.take_over(None)
            job = await real(uid)
            return replace(job, closed_at=1.0) if why == "closed" else None if why == "gone" else job

        world.store.jobs.get = get
        assert await world.poller.borrow(uid) is None
        world.store.jobs.get = real
        planner = world.poller.planner
        assert planner.stats(world.clock()).in_flight == 0
        assert planner.tracks(uid) == (why in ("unreadable", "regained"))
        await world.run(30)
        assert await world.types() == (["queued"] if planner.tracks(uid) else [])


async def test_polls_that_never_complete_raise_the_alarm(tmp_path):
    async with open_world(tmp_path) as world:
        await world.register("a", seen("queued"))
        world.clock.advance(5)
        assert not world.poller.stalled(world.clock())
        world.steady.advance(61)
        assert world.poller.stalled(world.clock())
        await world.step()
        assert not world.poller.stalled(world.clock())


async def test_clock_set_forward_raises_no_alarm(tmp_path):
    async with open_world(tmp_path) as world:
        await world.register("a", seen("queued"))
        world.clock.advance(5)
        assert not world.poller.stalled(world.clock())
        world.clock.advance(3_600)
        assert not world.poller.stalled(world.clock())
        world.steady.advance(61)
        assert world.poller.stalled(world.clock()), "it has waited since"


@pytest.fixture
def weights(monkeypatch):
    """The weight last set in the planner, by job."""
    weights_set = {}

    def spied(name):
        method = getattr(Planner, name)
        signature = inspect.signature(method)

        def spy(*values, **named):
            given = signature.bind(*values, **named).arguments
            weights_set[given["job_id"]] = given.get("weight", 1.0)
            return method(*values, **named)

        return spy

    for name in ("track", "set_weight"):
        monkeypatch.setattr(Planner, name, spied(name))
    return weights_set


@pytest.mark.parametrize(("priority", "own"), PRIORITY_WEIGHTS.items())
async def test_waiting_client_raises_the_weight_only_while_it_waits(tmp_path, priority, own, weights):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", seen("queued"), priority=priority)
        assert weights[uid] == own
        await world.step()
        with world.poller.agenda.prioritize(uid), world.poller.agenda.prioritize(uid):
            assert weights[uid] == 4 * own
            world.poller.agenda.refresh(uid)
            assert weights[uid] == 4 * own
            await world.step()
            assert weights[uid] == 4 * own
        assert len(world.poller.agenda._weights) == (own != 1.0)
        assert weights[uid] == own
        world.poller.agenda.refresh(uid)
        assert weights[uid] == own
        assert world.poller.next_request_at() <= world.clock() + 1.0
        assert replace(world.poller.state) == world.poller.state


async def test_higher_weight_advances_the_next_poll_immediately(tmp_path, weights):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", seen("running", started_at=world.clock()))
        await world.run(200)
        planned = world.poller.planner.next_poll_at(uid)
        assert await world.register("a", priority="high") == uid
        assert weights[uid] == 4.0
        assert world.poller.planner.next_poll_at(uid) < planned
        with world.poller.agenda.prioritize(uid):
            await world.register("a", priority="low")
            assert weights[uid] == 1.0
        assert weights[uid] == 0.25


async def test_weights_survive_restart_and_take_over(tmp_path, weights):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", seen("queued"), priority="high")
        await world.restart_poller()
        assert weights[uid] == 4.0
        world.poller.release()
        assert len(world.poller.agenda._weights) == 0
        with world.poller.agenda.prioritize(uid):  # the client waits during the take-over
            await world.poller.take_over(None)
            assert weights[uid] == 16.0
        world.poller.agenda.refresh(uid)
        assert weights[uid] == 4.0


async def test_weight_written_by_another_node_is_known_at_the_next_poll(tmp_path, weights):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", seen("queued"))
        world.poller.agenda.set_weight(uid, 0.25)  # as after a notice
        assert weights[uid] == 0.25
        world.poller.agenda.refresh(uid)
        await world.step()
        assert (weights[uid], len(world.poller.agenda._weights)) == (1.0, 0)
        world.poller.agenda.set_weight("job_of_nobody", 4.0)
        assert len(world.poller.agenda._weights) == 0


async def test_job_registered_during_loading_is_planned_once(tmp_path):
    async with open_world(tmp_path) as world:
        for number in range(3):
            await world.register(f"old {number}")
        await world.poller.drain()
        read = world.poller.account.store.jobs.open_jobs
        fresh: list[str] = []

        async def and_meanwhile(*place, after_uid, count):
            jobs = await read(*place, after_uid=after_uid, count=count)
            if not fresh:
                fresh.append(await world.register("new"))
            return jobs

        world.poller.agenda.planner = Planner(world.poller.account.planner_config)
        world.poller.account.store.jobs.open_jobs = and_meanwhile
        assert not world.poller.agenda.loading
        await world.poller.agenda.load()
        assert not world.poller.agenda.loading
        assert world.poller.planner.stats(world.clock()).open_jobs == 4
        assert world.poller.planner.next_poll_at(fresh[0]) is not None
