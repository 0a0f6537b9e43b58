"""The dispatcher on a real database with a recording sink: success, retries, order, limits, shutdown."""

import asyncio
import time
from collections import deque
from dataclasses import replace

import orjson
import pytest
from standardwebhooks import Webhook as Verifier

from relay.core.deliveries.delivery import Outcome, Response
from relay.core.subscriptions import comparisons
from relay.delivery import dispatcher, sink_state, slots
from relay.errors import FieldError, NotRenderable, StoreError
from subscribers.webhook import Webhook
from tests.support.pull_kit import SUB, Program
from tests.support.simulation_world import SECRET, crashing, open_world, seen
from tests.support.store_kit import callback_for, claim, rows


def life(*statuses: str):
    return [seen(status) for status in statuses]


async def states(world) -> list[str]:
    page = await world.store.deliveries.page(limit=100)
    return [delivery.state for delivery in reversed(page.items)]


async def attempts(world):
    """The attempts of the newest delivery."""
    return (await world.store.deliveries.get((await world.store.deliveries.page(limit=1)).items[0].id)).attempts


def sequences(world) -> list[str]:

    return [orjson.loads(request.body).get("sequence") for request in world.sink.requests]


async def test_failed_delivery_is_retried_by_schedule_until_it_succeeds(tmp_path):
    async with open_world(tmp_path, 500, 503, 200) as world:
        await world.subscribe(retry_schedule_seconds=(5.0, 60.0))
        await world.register("a", seen("queued"))
        await world.step()
        assert len(world.sink.requests) == 1
        await world.step(4.0)
        assert len(world.sink.requests) == 1
        await world.step(1.5)
        assert len(world.sink.requests) == 2
        await world.step(61)
        assert await states(world) == ["delivered"]
        delivery = await world.store.deliveries.get((await world.store.deliveries.page(limit=1)).items[0].id)
        assert [attempt.status_code for attempt in delivery.attempts] == [500, 503, 200]
        assert [attempt.number for attempt in delivery.attempts] == [1, 2, 3]
        assert len({dict(request.headers)["webhook-id"] for request in world.sink.requests}) == 1


async def test_delivery_is_dead_after_the_last_attempt_with_an_event(tmp_path):
    async with open_world(tmp_path, 500) as world:
        await world.subscribe(retry_schedule_seconds=(1.0,))
        await world.register("a", seen("queued"))
        await world.run(5, 2.0)
        assert await states(world) == ["dead"]
        assert await world.types() == ["queued", "relay.delivery.expired"]
        counted = {cell.name: int(amount[0]) for cell, amount in world.metrics.figures.take(100)}
        assert (counted["deliveries_dead"], counted["attempts"], counted["attempts_failed"]) == (1, 2, 2)


@pytest.mark.parametrize(
    ("raised", "state"),
    [
        (
            NotRenderable([FieldError(pointer="/config/template/a", code="missing", detail="metadata.a is absent")]),
            "dead",
        ),
        (RuntimeError("a mistake of the relay"), "pending"),
    ],
)
async def test_event_that_can_never_be_rendered_is_dead_and_other_failures_are_retried(
    tmp_path, monkeypatch, raised, state
):
    def render(*_):
        raise raised

    monkeypatch.setattr(Webhook, "render", render)
    async with open_world(tmp_path, 200) as world:
        await world.subscribe()
        await world.register("a", seen("queued"))
        await world.step()
        [attempt] = await attempts(world)
        assert not world.sink.requests
        assert await states(world) == [state]
        assert attempt.error.startswith("render: ")
        assert (state == "dead") == ("metadata.a is absent" in attempt.decision)


TEMPLATE = {"status": "{{ event.status }}", "deal": "{{ metadata.deal }}"}


@pytest.mark.parametrize(
    ("strict", "state", "body"), [(None, "delivered", b'{"status":"queued","deal":""}'), (True, "dead", None)]
)
async def test_event_that_lacks_a_name_of_the_template(tmp_path, strict, state, body):
    async with open_world(tmp_path, 200) as world:
        world.clock.now = time.time()
        options = {"template": TEMPLATE, **({"strict": strict} if strict else {})}
        await world.subscribe(options=options, types=("test.job.queued",))
        await world.register("a", seen("queued"))
        await world.run(2)
        assert await states(world) == [state]
        assert [request.body for request in world.sink.requests] == ([body] if body else [])
        for request in world.sink.requests:
            Verifier(SECRET).verify(request.body, dict(request.headers))
            assert dict(request.headers)["Content-Type"] == "application/json"
        if strict:
            [attempt] = await attempts(world)
            assert attempt.decision.startswith("/config/template/deal: metadata.deal is absent (attempt 1 of ")
            delivery = (await world.store.deliveries.page(limit=1)).items[0]
            assert delivery.reason == "/config/template/deal: metadata.deal is absent"
            assert "relay.delivery.expired" in await world.types()


async def test_later_event_of_a_job_waits_only_for_the_earlier_one(tmp_path):
    async with open_world(tmp_path, 500, 200) as world:
        await world.subscribe(retry_schedule_seconds=(30.0,), concurrency=1)
        await world.register("a", *life("queued", "running", "succeeded"))
        await world.register("b", *life("queued", "running", "succeeded"))
        await world.run(20)
        await world.run(40)
        by_job: dict[str, list[str]] = {}

        for request in world.sink.requests:
            event = orjson.loads(request.body)
            by_job.setdefault(event["subject"], []).append(event["sequence"][-1])
        assert by_job in (
            {"a": ["1", "1", "2", "3"], "b": ["1", "2", "3"]},
            {"b": ["1", "1", "2", "3"], "a": ["1", "2", "3"]},
        )


async def test_410_disables_the_subscription_and_holds_its_pending_deliveries(tmp_path):
    async with open_world(tmp_path, 410, 200) as world:
        subscription = await world.subscribe(sink="https://sink.test/in/secret-path?key=secret-key")
        await world.register("a", *life("queued", "running"))
        await world.run(20)
        stored = await world.store.subscriptions.get(subscription.id)
        assert (stored.state, stored.disabled_reason) == ("disabled", "http_410")
        (told,) = [
            event
            for _, event in (await world.store.events.tail(0)).events
            if event.type.startswith("relay.subscription.")
        ]
        assert told.type == "relay.subscription.disabled"
        assert orjson.loads(told.body)["data"]["sink"] == "https://sink.test/…", "any subscriber may get this event"
        assert set(await states(world)) == {"pending"}
        assert len(world.sink.requests) == 1
        await world.store.subscriptions.set_state(subscription.id, "enabled", world.clock())
        await world.run(3)
        assert set(await states(world)) == {"delivered"}
        assert sequences(world) == ["0000000001", "0000000001", "0000000002"]


class SlowSink:
    """A sink whose requests wait until the test answers them."""

    def __init__(self, world) -> None:
        self.world = world
        self.waiting: list[asyncio.Future[Response]] = []
        self.send, world.sink.send = world.sink.send, self.slow

    async def slow(self, request, *, timeout_seconds):
        await self.send(request, timeout_seconds=timeout_seconds)
        self.waiting.append(asyncio.get_running_loop().create_future())
        return await self.waiting[-1]

    async def answer(self, *answers: Response):
        """Answers the waiting requests, once there are as many and no commit is under way."""
        async with asyncio.timeout(25):
            while len(self.waiting) < len(answers) or any(target.committing for target in self.world.dispatcher.slots):
                await asyncio.to_thread(lambda: None)
        for one, given in zip(self.waiting, answers, strict=True):
            one.set_result(given)
        self.waiting.clear()


FINE = Response(started_at=0.0, duration_ms=1.0, status_code=200)


async def begun(world, count: int) -> None:
    """Creates jobs with one event each, and waits until all slots are in use."""
    for name in range(count):
        await world.register(f"job{name}", seen("queued"))
    world.clock.advance(1)
    await world.poller.run_once()
    await world.poller.drain()
    await world.dispatcher.run_once()


async def refused(world, answer: Response) -> None:
    """Answers one of two deliveries in flight while others wait for a slot, and checks that none of these is sent."""
    sink = SlowSink(world)
    await begun(world, 10)
    await sink.answer(FINE, FINE)
    await sink.answer(answer, FINE)
    async with asyncio.timeout(25):
        await world.dispatcher.drain()
    assert len(world.sink.requests) == 4
    assert world.dispatcher.slots.in_flight == 0
    world.sink.send = sink.send


async def test_delivery_waiting_for_a_slot_obeys_a_retry_after(tmp_path):
    async with open_world(tmp_path) as world:
        await world.subscribe(concurrency=2)
        await refused(world, replace(FINE, status_code=429, headers=(("Retry-After", "120"),)))
        await world.run(5, 30)
        assert set(await states(world)) == {"delivered"}
        assert len(world.sink.requests) == 11


async def test_delivery_waiting_for_a_slot_is_not_sent_after_a_410_until_resume(tmp_path):
    async with open_world(tmp_path) as world:
        subscription = await world.subscribe(concurrency=2)
        await refused(world, replace(FINE, status_code=410))
        await world.run(5, 30)
        assert len(world.sink.requests) == 4
        await world.store.subscriptions.set_state(subscription.id, "enabled", world.clock())
        await world.run(5, 30)
        assert set(await states(world)) == {"delivered"}
        assert len(world.sink.requests) == 11


async def test_delivery_waiting_for_a_slot_is_not_sent_after_its_subscription_is_removed(tmp_path):
    async with open_world(tmp_path) as world:
        sink = SlowSink(world)
        subscription = await world.subscribe(concurrency=2)
        await begun(world, 10)
        await sink.answer(FINE, FINE)
        async with asyncio.timeout(25):
            while len(sink.waiting) < 2 or not any(target.queue for target in world.dispatcher.slots):
                await asyncio.to_thread(lambda: None)
        await world.store.subscriptions.remove(subscription.id, world.clock())
        await world.dispatcher.run_once()
        assert list(world.dispatcher.slots) == []
        await sink.answer(FINE, FINE)
        async with asyncio.timeout(25):
            await world.dispatcher.drain()
        assert len(world.sink.requests) == 4
        assert world.dispatcher.slots.in_flight == 0


async def test_subscriptions_together_keep_the_host_and_total_limits(tmp_path):
    async with open_world(tmp_path) as world:
        world.dispatcher.configure(replace(world.dispatcher.shared.settings, concurrency=10, per_host=4))
        sink = SlowSink(world)
        for nth in range(30):
            await world.subscribe(sink=f"https://{'one' if nth % 2 else nth}.test/{nth}", ordering="none")
        await begun(world, 3)
        assert world.dispatcher.slots.in_flight == 10
        assert sum("one.test" in request.url for request in world.sink.requests) <= 4
        most = 0
        for _ in range(40):
            async with asyncio.timeout(25):
                while len(sink.waiting) < world.dispatcher.slots.in_flight or any(
                    target.committing for target in world.dispatcher.slots
                ):
                    await asyncio.to_thread(lambda: None)
            most = max(most, len(sink.waiting))
            for one in sink.waiting:
                one.set_result(FINE)
            sink.waiting.clear()
            await asyncio.sleep(0)
            await world.dispatcher.run_once()
        assert most == 10
        assert (await world.store.deliveries.pending()).count == 0


async def test_uncommitted_deliveries_are_bounded(tmp_path):
    """A crash now would resend all of them."""
    async with open_world(tmp_path) as world:
        await world.subscribe(concurrency=4)
        waiting, mark, most = [], world.store.deliveries.record, 0

        async def held(*results):
            waiting.append(asyncio.get_running_loop().create_future())
            await waiting[-1]
            return await mark(*results)

        world.store.deliveries.record = held
        await begun(world, 60)
        while (await world.store.deliveries.pending()).count:
            for _ in range(20):  # all that may go out has gone
                await asyncio.to_thread(lambda: None)
                await world.dispatcher.run_once()
            most = max(most, len(waiting))
            for one in waiting:
                one.set_result(None)
            waiting.clear()
        assert 4 < most <= slots.CLAIMED_PER_SLOT * 4
        subjects = [orjson.loads(request.body)["subject"] for request in world.sink.requests]
        assert len(subjects) == len(set(subjects)) == 60


async def test_blocked_callbacks_do_not_delay_others(tmp_path, monkeypatch):
    """More callbacks than one page, and older ones."""
    monkeypatch.setattr(dispatcher, "CALLBACKS_PER_SCAN", 5)
    async with open_world(tmp_path) as world:
        for nth in range(23):
            callback = await callback_for(world.store, f"https://cb.test/{nth}", f"sub_{nth:02}", world.clock())
            if nth < 22:
                await world.store.subscriptions.set_state(callback, "paused", world.clock())
            await world.register(f"job{nth}", seen("queued"), callback=callback)
        await world.step()
        assert [request.url for request in world.sink.requests] == ["https://cb.test/22"]
        assert len(list(world.dispatcher.slots)) == 22


async def test_retry_after_pause_survives_a_restart(tmp_path):
    async with open_world(tmp_path, 200) as world:
        await world.subscribe()
        world.sink.answers.clear()
        limited = Response(started_at=0.0, duration_ms=1.0, status_code=429, headers=(("Retry-After", "120"),))
        world.sink.answers.extend([limited, 200])
        await world.register("a", seen("queued"))
        await world.step()
        await world.restart()
        await world.register("b", seen("queued"))
        await world.run(10)
        assert len(world.sink.requests) == 1
        await world.step(120)
        assert len(world.sink.requests) == 3


@pytest.mark.parametrize("sends", [0, 1], ids=["the node that got the Retry-After", "another node"])
@pytest.mark.parametrize("paused", [False, True], ids=["enabled", "paused"])
async def test_resume_ends_a_retry_after_pause_on_every_node(tmp_path, sends, paused):
    async with open_world(tmp_path, 200) as world:
        made = await world.subscribe()
        world.sink.answers.clear()
        limited = Response(started_at=0.0, duration_ms=1.0, status_code=429, headers=(("Retry-After", "7200"),))
        world.sink.answers.extend([limited, 200])
        nodes = (world.dispatcher, world._new_dispatcher())
        await world.register("a", seen("queued"))
        await world.step()
        await world.register("b", seen("queued"))
        await world.run(2)
        for node in nodes:
            await node.run_once()
            await node.drain()
            assert [target.sink.paused_until > world.clock() for target in node.slots] == [True]
        assert len(world.sink.requests) == 1
        if paused:
            await world.store.subscriptions.set_state(made.id, "paused", world.clock())
            await world.step()
        await world.store.subscriptions.set_state(made.id, "enabled", world.clock(), "resumed by hand")
        world.dispatcher = nodes[sends]
        await world.deliver()
        assert len(world.sink.requests) == 3
        assert set(await states(world)) == {"delivered"}


async def test_failing_callback_is_retried_and_a_paused_one_waits(tmp_path):
    async with open_world(tmp_path, 500, 200) as world:
        for nth in range(2):
            callback = await callback_for(world.store, f"https://cb.test/{nth}", f"sub_{nth}", world.clock())
            await world.register(f"job{nth}", seen("queued"), callback=callback)
        await world.store.subscriptions.set_state("sub_1", "paused", world.clock())
        await world.run(3)
        assert [request.url for request in world.sink.requests] == ["https://cb.test/0"]
        await world.run(3, 10.0)
        assert [request.url for request in world.sink.requests] == ["https://cb.test/0"] * 2
        await world.restart()
        await world.store.subscriptions.set_state("sub_1", "enabled", world.clock())
        await world.run(2)
        assert world.sink.requests[-1].url == "https://cb.test/1"
        assert await states(world) == ["delivered"] * 2


async def at_once(world, answer: Response, *, rounds: int, count: int, **settings) -> list[int]:
    """Requests in flight in each round, at a sink that lets all of them wait and then answers one."""
    waiting: list[asyncio.Future[Response]] = []

    async def slow(request, *, timeout_seconds):
        waiting.append(asyncio.get_running_loop().create_future())
        return await waiting[-1]

    def under_way() -> bool:
        queued = sum(len(target.queue) for target in world.dispatcher.slots)
        return len(world.dispatcher._tasks) != len(waiting) + queued

    async def settled():
        """Waits until every delivery with a slot is at the sink, and nothing more is claimed."""
        while True:
            while under_way():
                await asyncio.to_thread(lambda: None)
            if await world.dispatcher.run_once() > 0 and not under_way():
                return

    world.sink.send = slow
    await world.subscribe(ordering="none", retry_schedule_seconds=(0.0,) * 50, **settings)
    for name in range(count):
        await world.register(f"job{name}", seen("queued"))
    world.clock.advance(1)
    await world.poller.run_once()
    await world.poller.drain()
    found = []
    for _ in range(rounds):
        world.clock.advance(1)
        await settled()
        found.append(len(waiting))
        for one in waiting:
            one.set_result(answer)
        waiting.clear()
    world.dispatcher.cut_off()
    return found


async def test_sink_that_always_times_out_keeps_one_slot(tmp_path):
    async with open_world(tmp_path) as world:
        answer = Response(started_at=0.0, duration_ms=5_000.0, error="timeout", late=True)
        found = await at_once(world, answer, rounds=4, count=40)
        assert found[0] == 8
        assert found[1:] == [1, 1, 1]


async def test_backlog_gets_few_slots_while_fresh_events_arrive_and_all_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "BACKLOGGED_SLOTS", 2)
    async with open_world(tmp_path) as world:
        await world.subscribe(concurrency=8, retry_schedule_seconds=(20.0,) * 3)
        world.sink.answers = deque((200, 500))  # one shows how soon the sink answers, the others are to be tried again
        await world.register("first", seen("queued"))
        await world.step()
        for name in range(30):
            await world.register(f"job{name}", seen("queued"))
        await world.step()
        sink = SlowSink(world)

        async def out(count: int) -> list[str]:
            """The subjects of the requests in flight, once there are as many and no more follow."""
            async with asyncio.timeout(25):
                while len(sink.waiting) < count or any(target.committing for target in world.dispatcher.slots):
                    await world.dispatcher.run_once()
                    await asyncio.to_thread(lambda: None)
            for _ in range(20):
                await world.dispatcher.run_once()
                await asyncio.to_thread(lambda: None)
            assert len(sink.waiting) == count
            return [orjson.loads(request.body)["subject"] for request in world.sink.requests[-count:]]

        world.clock.advance(21)
        assert len(await out(8)) == 8, "nothing fresh came for long: as many as there are slots"
        await world.register("fresh", seen("queued"))
        world.clock.advance(1)
        await world.poller.run_once()
        await world.poller.drain()
        await sink.answer(*[FINE] * 8)
        subjects = await out(3)
        assert "fresh" in subjects[0], "it is the next, and beside it there is room for two"
        world.clock.advance(slots.FRESH_SECONDS + 1)
        await sink.answer(*[FINE] * 3)
        assert len(await out(8)) == 8
        world.dispatcher.cut_off()


async def test_sink_that_keeps_failing_is_tried_at_a_low_rate_until_it_recovers(tmp_path, monkeypatch):
    monkeypatch.setattr(sink_state, "FAILED_OFTEN", 10)
    async with open_world(tmp_path) as world:
        await world.subscribe(concurrency=4, retry_schedule_seconds=(3600.0,) * 3)
        world.sink.answers = deque((500,))
        for name in range(90):
            await world.register(f"job{name}", seen("queued"))
        await world.step()
        tried = len(world.sink.requests)
        assert 10 <= tried <= 10 + (slots.CLAIMED_PER_SLOT + 1) * 4, (
            "what was claimed when it had failed ten times comes besides"
        )
        for _ in range(15):
            await world.step(0.1)
        assert len(world.sink.requests) - tried <= 1.5 * sink_state.FAILING_PER_SECOND
        world.sink.answers = deque((200,))
        tried = len(world.sink.requests)
        await world.register("fresh", seen("queued"))
        await world.run(4, 0.05)
        subjects = [orjson.loads(request.body)["subject"] for request in world.sink.requests[tried:]]
        assert any("fresh" in subject for subject in subjects[:4]), "what waited for the sink is not fresh any more"
        assert len(subjects) == len(set(subjects)) == 91 - tried, "all that was not tried yet, at once"
        world.clock.advance(3601)
        await world.deliver()
        assert set(await states(world)) == {"delivered"}


async def test_backlog_of_a_sink_that_timed_out_ranks_behind_new_events(tmp_path, monkeypatch):
    monkeypatch.setattr(sink_state, "FAILED", 3)
    async with open_world(tmp_path) as world:
        await world.subscribe(concurrency=1, retry_schedule_seconds=(3600.0,) * 3)
        sink = SlowSink(world)
        await begun(world, 12)
        for _ in range(3):
            world.clock.advance(15)
            await sink.answer(replace(FINE, status_code=None, error="timeout", late=True))
            await world.dispatcher.run_once()
        await world.register("fresh", seen("queued"))
        world.clock.advance(1)
        await world.poller.run_once()
        await world.poller.drain()
        await sink.answer(FINE)
        async with asyncio.timeout(25):
            while not sink.waiting:
                await world.dispatcher.run_once()
                await asyncio.to_thread(lambda: None)
        assert "fresh" in orjson.loads(world.sink.requests[-1].body)["subject"]
        world.dispatcher.cut_off()


async def test_rate_per_second_is_kept(tmp_path):
    async with open_world(tmp_path) as world:
        await world.subscribe(rate_per_second=0.5)
        for name in range(4):
            await world.register(f"job{name}", seen("queued"))
        await world.run(4)
        assert len(world.sink.requests) <= 3
        await world.run(20)
        assert len(world.sink.requests) == 4


async def until_some_wait_for_a_slot(world, sink):
    """Ten deliveries are due and there are two slots: two are at the sink, others are claimed ahead."""
    await world.subscribe(concurrency=2)
    await begun(world, 10)
    await sink.answer(FINE, FINE)
    async with asyncio.timeout(25):
        while len(sink.waiting) < 2 or not any(target.queue for target in world.dispatcher.slots):
            await asyncio.to_thread(lambda: None)


async def leased(world):
    return await rows(world.store, "SELECT id, attempt_count FROM deliveries WHERE lease_token IS NOT NULL")


async def test_unsent_deliveries_are_released_at_shutdown_while_a_sink_still_answers(tmp_path):
    async with open_world(tmp_path) as world:
        sink = SlowSink(world)
        await until_some_wait_for_a_slot(world, sink)
        assert len(await leased(world)) > 2
        stopping = asyncio.ensure_future(world.dispatcher.stop(30.0))
        async with asyncio.timeout(25):
            while len(await leased(world)) > 2:
                await asyncio.to_thread(lambda: None)
        assert not stopping.done()
        await sink.answer(FINE, FINE)
        await stopping
        assert len(world.sink.requests) == 4
        assert await leased(world) == []
        assert sorted(await states(world)) == ["delivered"] * 4 + ["pending"] * 6
        assert world.dispatcher.slots.in_flight == 0


async def test_delivery_claimed_under_a_lost_holder_name_is_not_sent(tmp_path):
    async with open_world(tmp_path) as world:
        sink = SlowSink(world)
        await until_some_wait_for_a_slot(world, sink)
        before = len(world.sink.requests)
        (target,) = world.dispatcher.slots
        world.holder.lose()
        await world.store.recover_from_crash(world.clock())
        taken = await claim(world.store, target.subscription.id, now=world.clock())
        assert len(taken) == 8
        await sink.answer(FINE, FINE)
        async with asyncio.timeout(25):
            await world.dispatcher.drain()
        assert len(world.sink.requests) == before
        assert len(await leased(world)) == 8
        world.sink.send = sink.send
        await world.store.deliveries.release(taken, world.clock())
        await world.run(5)
        assert set(await states(world)) == {"delivered"}


async def test_attempt_under_a_lost_lease_records_nothing(tmp_path):
    async with open_world(tmp_path) as world:
        await world.subscribe()
        real = world.sink.send

        async def stolen(request, *, timeout_seconds):
            await world.store.recover_from_crash(world.clock())
            return await real(request, timeout_seconds=timeout_seconds)

        world.sink.send = stolen
        await world.register("a", seen("queued"))
        world.clock.advance(1)
        await world.poller.run_once()
        await world.poller.drain()
        await world.dispatcher.run_once()
        await world.dispatcher.drain()
        assert await states(world) == ["pending"]
        world.sink.send = real
        await world.step()
        assert await states(world) == ["delivered"]


async def test_deliveries_leased_by_a_poll_need_no_scan(tmp_path):
    async with open_world(tmp_path) as world:
        await world.subscribe()
        await world.register("a", *life("queued", "running", "succeeded"))
        await world.dispatcher.run_once()
        world.dispatcher.shared.signals.due.clear()
        for _ in range(3):
            world.clock.advance(60)
            await world.poller.run_once()
            await world.poller.drain()
            await world.dispatcher.drain()
        assert len(world.sink.requests) == 3
        assert not world.dispatcher.shared.signals.due.is_set()


@pytest.mark.parametrize("why", ["a callback", "no free slot", "a new subscription", "the write's answer is lost"])
async def test_deliveries_a_poll_could_not_lease_are_scanned_for(tmp_path, why):
    async with open_world(tmp_path) as world:
        await world.subscribe()
        await world.dispatcher.run_once()
        callback = "sub_callback" if why == "a callback" else None
        if callback:
            await callback_for(world.store, "https://callback.test/", callback, world.clock())
        elif why == "no free slot":
            world.dispatcher.slots.concurrency = 0
        elif why == "a new subscription":
            await world.subscribe(sink="https://other.test/")
        else:
            record = world.store.jobs.record

            async def lost(one):
                await record(one)
                raise StoreError("the connection is gone")

            world.store.jobs.record = lost
        await world.register("a", seen("queued"), callback=callback)
        world.dispatcher.shared.signals.due.clear()
        world.clock.advance(1)
        await world.poller.run_once()
        await world.poller.drain()
        assert world.dispatcher.shared.signals.due.is_set()


async def test_unused_reservation_triggers_a_scan_for_skipped_deliveries(tmp_path):
    async with open_world(tmp_path, 500, 200) as world:
        await world.subscribe(concurrency=1, retry_schedule_seconds=(60.0,))
        await world.register("a", *life("queued", "running"))
        await world.step()
        record = world.store.jobs.record

        async def with_a_scan(one):
            recorded = await record(one)
            world.dispatcher.shared.signals.due.clear()
            await world.dispatcher.run_once()
            return recorded

        world.store.jobs.record = with_a_scan
        world.clock.advance(61)
        await world.poller.run_once()
        await world.poller.drain()
        assert len(world.sink.requests) == 1
        assert world.dispatcher.shared.signals.due.is_set()
        await world.deliver()
        assert await states(world) == ["delivered", "delivered"]


async def test_result_recorded_after_a_database_error_triggers_a_scan(tmp_path, monkeypatch):
    """The job's next delivery is due once the database accepts writes again, and is not claimed yet."""
    monkeypatch.setattr("relay.delivery.worker.DATABASE_RETRY_SECONDS", 0.0)
    async with open_world(tmp_path) as world:
        await world.subscribe()
        await world.dispatcher.run_once()
        mark, refused = world.store.deliveries.record, []

        async def full(*results):
            if not refused:
                refused.append(results)
                raise StoreError("the disk is full")
            return await mark(*results)

        world.store.deliveries.record = full
        await world.register("a", seen("succeeded", attempt_count=1, started_at=world.clock() - 1))
        world.clock.advance(1)
        await world.poller.run_once()
        await world.poller.drain()
        world.dispatcher.shared.signals.due.clear()
        await world.dispatcher.drain()
        assert refused
        assert sorted(await states(world)) == ["delivered", "pending"]
        assert world.dispatcher.shared.signals.due.is_set()
        await world.deliver()
        assert await states(world) == ["delivered", "delivered"]


async def test_event_caused_by_a_delivery_is_scanned_for(tmp_path):
    async with open_world(tmp_path, 500, 200) as world:
        await world.subscribe(retry_schedule_seconds=())
        await world.subscribe(sink="https://other.test/", types=("relay.delivery.expired",))
        await world.dispatcher.run_once()
        await world.register("a", seen("queued"))
        world.dispatcher.shared.signals.due.clear()
        world.clock.advance(1)
        await world.poller.run_once()
        await world.poller.drain()
        await world.dispatcher.drain()
        assert world.dispatcher.shared.signals.due.is_set()
        await world.deliver()
        assert sorted(await states(world)) == ["dead", "delivered"]


@pytest.mark.parametrize("crash", ["before_send", "after_send", "after_mark"])
async def test_crash_at_any_step_loses_no_event_and_makes_no_duplicate_event(tmp_path, crash):
    async with open_world(tmp_path) as world:
        await world.subscribe()
        with crashing(world, crash):
            await world.register("a", *life("queued", "running", "succeeded"))
            await world.run(30)
        await world.store.recover_from_crash(world.clock())
        await world.run(3)
        assert await states(world) == ["delivered"] * 3
        assert await world.types() == ["queued", "running", "succeeded"]
        first_of_each = list(dict.fromkeys(sequences(world)))
        assert first_of_each == ["0000000001", "0000000002", "0000000003"]


async def test_an_event_is_evaluated_once_from_its_reservation_to_its_record(tmp_path, monkeypatch):
    evaluated = []
    read = comparisons._read
    monkeypatch.setattr(comparisons, "_read", lambda *about: (evaluated.append(about), read(*about))[1])
    running, queued = ({"exact": {"status": "running"}},), ({"exact": {"status": "queued"}},)
    async with open_world(tmp_path) as world:
        for number in range(10):
            await world.subscribe(sink=f"https://s{number}.test/", filters=running if number % 2 else queued)
        plain = await world.subscribe(sink="https://plain.test/", filters=())
        await world.deliver()  # which loads them
        reserve, reserved = world.dispatcher.reserve, []
        monkeypatch.setattr(
            world.dispatcher, "reserve", lambda events: (reserved.append(reserve(events)), reserved[-1])[1]
        )
        await world.register("a", seen("queued"))
        await world.run(2)
        (reservation,) = (one for one in reserved if one is not None)
        assert len(reservation.targets) == 6  # a slot for each that gets it, and for no other
        assert plain.id in reservation.lease.subscription_ids
        assert len(evaluated) == 1  # one place, for both comparisons and both times
        assert len(world.sink.requests) == 6
        assert world.dispatcher.slots.in_flight == 0
        await world.register("b", seen("running"))
        await world.run(2)
        assert len(world.sink.requests) == 12
        assert len(evaluated) == 2


@pytest.mark.parametrize(
    ("outcome", "state", "skipped"),
    [
        (Outcome(verdict="skip", reason="unmatched"), "cancelled", 1.0),
        (Outcome(verdict="uncertain", reason="not_found_in_time", in_doubt=True), "uncertain", None),
        (Outcome(verdict="dead", reason="http_400"), "dead", None),
    ],
)
async def test_only_skipped_deliveries_are_counted_as_skipped(tmp_path, monkeypatch, outcome, state, skipped):
    monkeypatch.setattr(Webhook, "classify", lambda *_: outcome)
    async with open_world(tmp_path) as world:
        await world.subscribe()
        await world.register("a", seen("queued"))
        await world.step()
        assert await states(world) == [state]
        value = world.metrics.registry.get_sample_value
        assert value("relay_deliveries_skipped_total", {"kind": "webhook"}) == skipped


async def test_dispatcher_leaves_what_programs_pull(tmp_path):
    """Neither fresh events, nor retries, nor leases that have ended; also after it has loaded them anew."""
    async with open_world(tmp_path) as world:
        await world.subscribe()
        await world.store.subscriptions.create(SUB)
        program = Program(world.store)
        await world.register("a", seen("queued"))
        await world.run(3)
        assert len(world.sink.requests) == 1
        program.now = world.clock.now
        (first, *_) = await program.pull(lease_seconds=1)
        await program.nack(first, delay_seconds=0)
        for _ in range(2):
            await world.step(30)
            world.dispatcher.slots.keep(set())
            world.store.subscriptions.changed()
            await world.step(30)
        assert len(world.sink.requests) == 1
        assert world.dispatcher.slots.get(SUB.id) is None
        found = await rows(world.store, "SELECT state, made_count FROM deliveries WHERE subscription_id = 'sub_pull'")
        assert {row["state"] for row in found} <= {"pending", "blocked"}
        assert sum(row["made_count"] for row in found) == 1
        program.now = world.clock.now
        assert len(await program.pull()) == len(found)
