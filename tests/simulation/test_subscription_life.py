"""A subscription with a fake clock: its sink fails, it is disabled, probed at growing intervals, enabled by the first
success, and its backlog is sent at a bounded rate."""

import asyncio
import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.core.subscriptions.subscription import Subscription
from relay.delivery.dispatcher import MAX_EXTRA_ATTEMPTS, MAX_RESCAN_SECONDS, RESCAN_SECONDS, Dispatcher
from relay.installation import install_command
from tests.support.extras import without_templates
from tests.support.simulation_world import World, crashing, open_world, seen
from tests.support.store_kit import rows

HOUR = 3_600.0
DAY = 24 * HOUR
RECOVERED, DISABLED = "relay.subscription.recovered", "relay.subscription.disabled"


async def disable(world: World, *, jobs: int = 1, **settings: Any) -> Subscription:
    """A disabled subscription with `jobs` jobs, whose sink has failed for five days and still fails."""
    made = await world.subscribe(**{"retry_schedule_seconds": (DAY,) * 20, **settings})
    for nth in range(jobs):
        await world.register(f"job {nth}", seen("queued"))
    for _ in range(6):
        await world.step(DAY + 1)
    found = await standing(world, made)
    assert found.state == "disabled"
    world.sink.requests.clear()
    return found


async def standing(world: World, subscription: Subscription) -> Subscription:
    found = await world.store.subscriptions.get(subscription.id)
    assert found is not None
    return found


async def sent_at(world: World, seconds: int, dispatchers: tuple[Dispatcher, ...] = ()) -> list[float]:
    """When each request is sent, in seconds from now, checked every twenty seconds."""
    began, times = world.clock(), []
    for _ in range(seconds // 20):
        before = len(world.sink.requests)
        world.clock.advance(20)
        for dispatcher in dispatchers or (world.dispatcher,):
            await dispatcher.run_once()
        for dispatcher in dispatchers or (world.dispatcher,):
            await dispatcher.drain()
        times += [world.clock() - began] * (len(world.sink.requests) - before)
    return times


def subjects(world: World) -> list[str]:
    return [orjson.loads(request.body)["subject"] for request in world.sink.requests]


async def test_failing_subscription_is_disabled_probed_and_enabled(tmp_path):
    async with open_world(tmp_path, 500) as world:
        made = await disable(world, jobs=3)
        assert made.disabled_reason is not None
        assert made.disabled_reason.startswith("only failures for")
        assert made.failing_since is not None
        assert made.failing_reason == "http_500"
        await world.register("later", seen("queued"), seen("running"))
        await world.step(20)
        await world.step(20)
        assert world.sink.requests == []  # recorded, and waiting
        world.sink.answers.clear()
        world.sink.answers.append(200)
        await world.step(20)
        assert subjects(world)[0] in ("job 0", "job 1", "job 2")  # not the one that came later
        assert len(world.sink.requests) <= 2  # and the first one of the drain
        found = await standing(world, made)
        assert (found.state, found.state_reason, found.state_since) == ("enabled", "recovered", world.clock())
        await world.run(20, 0.1)
        assert {one.state for one in (await world.store.deliveries.page(limit=50)).items} == {"delivered"}
        assert Counter(await world.types())[RECOVERED] == 1
        assert Counter(subjects(world)) == {"job 0": 1, "job 1": 1, "job 2": 1, "later": 2}
        assert [
            orjson.loads(request.body)["type"] for request in world.sink.requests if b'"later"' in request.body
        ] == [
            "test.job.queued",
            "test.job.running",
        ]


async def test_probes_send_one_event_at_intervals_that_grow_to_an_hour(tmp_path):
    async with open_world(tmp_path, 500) as world:
        await disable(world, jobs=5)
        times = await sent_at(world, 4 * 3600)
        assert times[:6] == [60, 120, 240, 480, 960, 1920]
        assert {later - before for before, later in itertools.pairwise(times[6:])} == {HOUR}
        assert len(set(subjects(world))) == 1


async def test_probes_do_not_use_up_the_schedule(tmp_path):
    async with open_world(tmp_path, 500) as world:
        await disable(world, retry_schedule_seconds=(DAY,) * 6)
        assert len(await sent_at(world, 20 * 3600)) > 20
        assert [one.state for one in (await world.store.deliveries.page(limit=5)).items] == ["pending"]
        (row,) = await rows(world.store, "SELECT attempt_count, made_count FROM deliveries")
        assert row["attempt_count"] == 6
        assert row["made_count"] > 26


async def test_probe_event_rejected_for_good_is_dead_and_the_next_one_is_probed(tmp_path):
    async with open_world(tmp_path, 500) as world:
        types = ("test.job.queued",)
        made = await disable(world, jobs=2, kind="slack", types=types, rate_per_second=1.0)
        world.sink.answers.clear()
        world.sink.answers.extend([400, Response(started_at=0.0, duration_ms=1.0, status_code=200, excerpt=b"ok")])
        assert len(await sent_at(world, 60)) == 1
        assert (await standing(world, made)).state == "disabled"
        assert len(await sent_at(world, 100)) == 1
        assert (await standing(world, made)).state == "enabled"
        states = Counter(one.state for one in (await world.store.deliveries.page(limit=5)).items)
        assert states == {"dead": 1, "delivered": 1}


async def test_restart_during_a_drain_still_expedites_retries(tmp_path):
    async with open_world(tmp_path, 500) as world:
        await disable(world, jobs=8)
        world.sink.answers.clear()
        world.sink.answers.append(200)
        world.clock.advance(60)
        await world.dispatcher.run_once()
        await world.dispatcher.drain()
        assert len(world.sink.requests) == 1
        await world.restart()
        await world.run(10, 0.2)
        assert sorted(subjects(world)) == [f"job {nth}" for nth in range(8)]


@pytest.mark.parametrize("by_hand", [False, True])
async def test_backlog_drains_at_a_growing_rate(tmp_path, by_hand):
    async with open_world(tmp_path, 500) as world:
        made = await disable(world, jobs=300, concurrency=64)
        world.sink.answers.clear()
        world.sink.answers.append(200)
        if by_hand:
            await world.store.subscriptions.set_state(made.id, "enabled", world.clock())
        else:
            await world.step(60)
        began, sent = world.clock(), [len(world.sink.requests)]
        while len(world.sink.requests) < 300:
            await world.step(0.1)
            sent.append(len(world.sink.requests))
            assert world.clock() < began + 30
        assert sent[10] <= 65  # 50 in the first second
        assert sent[10] >= 40
        assert max(later - before for before, later in itertools.pairwise(sent)) <= 12
        assert len(set(subjects(world))) == 300


async def test_drain_does_not_delay_other_subscriptions(tmp_path):
    async with open_world(tmp_path, 500) as world:
        await disable(world, jobs=200)
        world.sink.answers.clear()
        world.sink.answers.append(200)
        other = await world.subscribe(types=("test.job.running",), sink="https://other.test/")
        await world.step(60)
        for nth in range(10):
            await world.register(f"fresh {nth}", seen("running"))
            await world.step(0.1)
            at_the_other = [one for one in world.sink.requests if one.url == "https://other.test/"]
            assert len(at_the_other) == nth + 1
        assert len(world.sink.requests) < 100
        assert (await standing(world, other)).state == "enabled"


async def test_drain_is_limited_only_by_slots_after_a_minute(tmp_path):
    async with open_world(tmp_path, 500) as world:
        await disable(world)
        world.sink.answers.clear()
        world.sink.answers.append(200)
        await world.step(60)
        await world.step(61)
        for nth in range(60):
            await world.register(f"fresh {nth}", seen("queued"))
        before = len(world.sink.requests)
        await world.step(1)
        assert len(world.sink.requests) - before == 60


async def test_new_sink_does_not_inherit_failures_of_the_old_one(tmp_path):
    async with open_world(tmp_path, 500) as world:
        made = await world.subscribe(retry_schedule_seconds=(4 * DAY, 2 * DAY, DAY, DAY))
        await world.register("a", seen("queued"))
        await world.step()
        await world.step(4 * DAY)
        assert len(world.sink.requests) == 2
        await world.store.subscriptions.replace(replace(made, sink="https://new.test/"), world.clock())
        await world.run(5)
        assert world.sink.requests[-1].url == "https://new.test/"  # the retry did not wait for its two days
        await world.step(2 * DAY)
        found = await standing(world, made)
        assert found.state == "enabled"  # six days of failures, and two of them its own
        assert found.failing_since is not None
        assert found.failing_since > world.clock() - 3 * DAY


@pytest.mark.parametrize("crash", ["before_send", "after_send", "after_mark"])
async def test_crash_at_any_step_of_a_probe_makes_one_recovery(tmp_path, crash):
    async with open_world(tmp_path, 500) as world:
        made = await disable(world, jobs=3)
        world.sink.answers.clear()
        world.sink.answers.append(200)
        with crashing(world, crash):
            world.clock.advance(60)
            await world.dispatcher.run_once()
            await world.dispatcher.drain()
        await world.store.recover_from_crash(world.clock())
        await world.restart()
        await world.run(60)
        assert (await standing(world, made)).state_reason == "recovered"
        assert Counter(await world.types())[RECOVERED] == 1
        assert {one.state for one in (await world.store.deliveries.page(limit=9)).items} == {"delivered"}
        assert len(set(subjects(world))) == 3


async def test_success_at_one_node_counts_for_all(tmp_path):
    async with open_world(tmp_path, 500) as world:
        made = await world.subscribe(retry_schedule_seconds=(1.0,) + (DAY,) * 9)
        other = world._new_dispatcher()
        other._token = "other"
        await world.register("a", seen("queued"))
        await world.step()  # fails here
        await other.run_once()
        assert (await standing(world, made)).failing_since is not None
        world.sink.answers.append(200)
        world.sink.answers.popleft()
        world.clock.advance(61)  # the other hears of it, and delivers what failed here
        await other.run_once()
        await other.drain()
        assert len(world.sink.requests) == 2
        assert (await standing(world, made)).failing_since is None
        await world.dispatcher.run_once()
        world.clock.advance(6 * DAY)
        world.sink.answers.append(500)
        world.sink.answers.popleft()
        await world.register("b", seen("queued"))
        await world.step()
        found = await standing(world, made)
        assert len(world.sink.requests) == 3
        assert found.state == "enabled"  # six days after its last failure here, and it had worked in between
        assert found.failing_since == world.clock()


# --- a sink that answers again


def refuse(world: World, *refused: str) -> None:
    """From now on the sink accepts all events except those of these jobs."""
    send = world.sink.send

    async def judged(request: OutboundRequest, *, timeout_seconds: float) -> Response:
        status = 500 if orjson.loads(request.body)["subject"] in refused else 200
        return replace(await send(request, timeout_seconds=timeout_seconds), status_code=status)

    world.dispatcher.shared.transport.send = judged  # type: ignore[method-assign]


async def test_waiting_retries_are_expedited_when_a_sink_recovers(tmp_path):
    async with open_world(tmp_path, 500) as world:
        await world.subscribe(retry_schedule_seconds=(10.0, DAY, DAY))
        await world.register("a", seen("queued"))
        await world.step()
        await world.step(10)  # the second attempt fails too: the third is a day away
        await world.step(50)
        assert subjects(world) == ["a", "a"]
        refuse(world)
        await world.register("b", seen("queued"))
        await world.run(2)
        assert subjects(world)[2:] == ["b", "a"]


async def test_event_always_rejected_by_a_quiet_sink_gets_a_bounded_number_of_extra_attempts(tmp_path):
    async with open_world(tmp_path, 500) as world:
        await world.subscribe(retry_schedule_seconds=(100.0, 3 * DAY))
        refuse(world, "a")
        await world.register("a", seen("queued"))
        await world.step()
        for nth in range(40):  # each is taken two minutes after the last refusal: a recovery
            await world.step(120)
            await world.register(f"b {nth}", seen("queued"))
            await world.run(2)
        assert 10 < subjects(world).count("a") <= 3 + MAX_EXTRA_ATTEMPTS


async def test_event_that_always_fails_gets_an_attempt_at_each_recovery_and_still_dies(tmp_path):
    async with open_world(tmp_path, 500) as world:
        await world.subscribe(retry_schedule_seconds=(100.0, 3_600.0))
        refuse(world, "a")
        await world.register("a", seen("queued"))
        await world.step()
        for nth in range(80):
            await world.step(100)
            await world.register(f"b {nth}", seen("queued"))
            await world.run(2)
        found = {one.subject: one for one in (await world.store.deliveries.page(limit=500)).items}
        assert found["a"].state == "dead"
        assert 3 < found["a"].attempt_count < 45
        assert {one.state for subject, one in found.items() if subject != "a"} == {"delivered"}


async def test_subscription_of_an_unknown_kind_does_not_delay_others(tmp_path):
    """As after a downgrade: its events wait."""
    async with open_world(tmp_path, 200) as world:
        await world.subscribe(kind="from_a_newer_relay", sink="https://unknown.test/")
        await world.subscribe(sink="https://known.test/")
        await world.register("a", seen("queued"))
        await world.run(2)
        assert [request.url for request in world.sink.requests] == ["https://known.test/"]
        states = {one.subscription_id: one.state for one in (await world.store.deliveries.page(limit=9)).items}
        assert sorted(states.values()) == ["delivered", "pending"]


async def test_scans_that_claim_nothing_become_rare(tmp_path):
    """The clock is set forward during an attempt whose lease follows another clock."""
    async with open_world(tmp_path) as world:
        began, sent, answer, send = world.clock(), asyncio.Event(), asyncio.Event(), world.sink.send

        async def late(request: OutboundRequest, *, timeout_seconds: float) -> Response:
            sent.set()
            await answer.wait()
            return await send(request, timeout_seconds=timeout_seconds)

        shared = world.dispatcher.shared
        shared.lease_clock = lambda: began
        shared.transport.send = late  # type: ignore[method-assign]
        await world.subscribe()
        await world.register("a", seen("queued"))
        world.clock.advance(1)
        await world.poller.run_once()
        await world.poller.drain()
        await world.dispatcher.run_once()
        async with asyncio.timeout(25):
            await sent.wait()
        world.clock.advance(HOUR)
        waits = [await world.dispatcher.run_once() for _ in range(8)]
        assert waits[0] == pytest.approx(RESCAN_SECONDS)
        assert waits[-1] == pytest.approx(MAX_RESCAN_SECONDS)
        answer.set()
        await world.dispatcher.drain()
        assert subjects(world) == ["a"]


@pytest.mark.parametrize(
    ("kind", "options", "ends"),
    [
        (
            "webhook",
            {"template": {"tags": "{% for tag in metadata.tags %}{{ tag }}{% endfor %}"}},
            "(line 1, column 1)",
        ),
        ("flat", {"template": {"tags": "{{ metadata.tags | sort | join }}"}}, ""),
    ],
)
async def test_stored_template_that_cannot_be_read_disables_its_subscription_and_loses_nothing(
    tmp_path: Path, kind: str, options: dict[str, Any], ends: str
) -> None:
    async with open_world(tmp_path) as world:
        made = await world.subscribe(kind=kind, options=options)
        await world.register("job", seen("queued"), seen("running"), seen("succeeded"))
        await world.run(20)
        found = await standing(world, made)
        assert found.disabled_reason is not None
        assert found.disabled_reason.startswith(
            "this version cannot read the template: /config/template/tags: there is no"
        )
        assert found.disabled_reason.endswith(ends)
        assert Counter(await world.types())[DISABLED] == 1
        waiting = (await world.store.deliveries.page(subscription_id=made.id, limit=50)).items
        assert (world.sink.requests, {one.state for one in waiting}) == ([], {"pending"})
        read = [await world.store.deliveries.get(one.id) for one in waiting]
        (attempt,) = [attempt for one in read if one is not None for attempt in one.attempts]
        assert str(attempt.decision).endswith("(attempt 1 of 10): the subscription is disabled; this event waits")

        corrected = {"template": "{{ event.status }}"}
        await world.store.subscriptions.replace(replace(found, options=corrected), world.clock())
        await world.store.subscriptions.set_state(made.id, "enabled", world.clock())
        await world.run(20)
        assert [request.body for request in world.sink.requests] == [b'"queued"', b'"running"', b'"succeeded"']


@pytest.mark.parametrize("kind", ["webhook", "flat"])
async def test_template_without_its_extra_waits_and_its_attempt_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    async with open_world(tmp_path) as world:
        made = await world.subscribe(kind=kind, options={"template": "{{ event.status }}"})
        with monkeypatch.context() as without:
            without_templates(without)
            await world.register("job", seen("queued"))
            await world.run(20)
        assert world.sink.requests == []
        (waiting,) = (await world.store.deliveries.page(subscription_id=made.id, limit=50)).items
        assert (waiting.state, waiting.reason) == ("pending", "extra_missing")
        read = await world.store.deliveries.get(waiting.id)
        assert read is not None
        assert {attempt.error for attempt in read.attempts} == {
            f"extra_missing: templates need the extra templates: {install_command('templates')}"
        }
        await world.step(DAY)
        assert [request.body for request in world.sink.requests] == [b'"queued"']
