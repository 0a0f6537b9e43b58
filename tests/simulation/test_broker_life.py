"""Deliveries to a broker, on a real database with a broker in memory: order, failures, health, crashes."""

import asyncio
from typing import Any

import orjson
import pytest

from relay.core.deliveries.broker import Message
from relay.core.deliveries.delivery import Delivery
from relay.core.deliveries.replay import ReplayRequest
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError, NotRenderable
from relay.ids import new_id
from subscribers import registry
from subscribers.common import brokers
from subscribers.nats import Nats
from tests.support.fake_broker import STORED
from tests.support.simulation_world import World, open_world, seen
from tests.support.store_kit import rows

SINK = "nats://broker.test"


@pytest.fixture(autouse=True)
def _kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.simulation_world.kinds", lambda: {**registry.kinds(), "nats": Nats()})


async def publishing(world: World, **settings: Any) -> Subscription:
    """A subscription of a broker."""
    options = {brokers.SETTINGS: {"subject": "jobs"}, **settings.pop("options", {})}
    return await world.subscribe(kind="nats", sink=SINK, options=options, **settings)


def ended(events: int = 2) -> Any:
    """A job whose first poll proves so many events."""
    return seen("succeeded", started_at=1.0, attempt_count=events - 1)


def places(messages: list[Message]) -> list[tuple[str, int]]:
    """The subject and the sequence of each."""
    documents = [orjson.loads(message.body) for message in messages]
    return [(one["subject"], int(one["sequence"])) for one in documents]


def by_subject(messages: list[Message]) -> dict[str, list[int]]:
    """The sequences of each subject, as a consumer sees them that drops repetitions."""
    found: dict[str, dict[int, None]] = {}
    for subject, sequence in places(messages):
        found.setdefault(subject, {})[sequence] = None
    return {subject: list(sequences) for subject, sequences in found.items()}


async def in_turn(world: World, subscription: Subscription) -> list[Delivery]:
    """The deliveries in the order of their events."""
    found = await rows(
        world.store,
        "SELECT d.id FROM deliveries d JOIN events e ON e.id = d.event_id WHERE d.subscription_id = :id "
        "ORDER BY e.subject, d.sequence",
        id=subscription.id,
    )
    read = [await world.store.deliveries.get(row["id"]) for row in found]
    return [one for one in read if one is not None]


async def states(world: World) -> dict[str, int]:
    found = await rows(world.store, "SELECT state, COUNT(*) AS number FROM deliveries GROUP BY state ORDER BY state")
    return {row["state"]: row["number"] for row in found}


async def test_due_events_are_one_batch_and_each_attempt_says_where_its_message_is(tmp_path: Any) -> None:
    async with open_world(tmp_path) as world:
        subscription = await publishing(world)
        for name in "abc":
            await world.register(name, ended(3))
        await world.step()
        assert [len(batch) for batch in world.broker.batches] in ([9], [1, 8])
        assert by_subject(world.broker.stored) == {name: [1, 2, 3] for name in "abc"}
        assert world.broker.repeated == 0
        found = await in_turn(world, subscription)
        assert {one.state for one in found} == {"delivered"}
        for one in found:
            (attempt,) = one.attempts
            assert str(attempt.decision).startswith("acknowledged: delivered; stream JOBS, sequence ")
            assert attempt.request_headers == (("destination", "jobs"), ("message-id", one.event_id))
            assert (attempt.status_code, attempt.error, attempt.remote_ip) == (None, None, "10.0.0.9")
        assert world.metrics.attempts.labels("nats", "delivered")._value.get() == 9


async def test_failure_holds_back_those_behind_it_and_no_others(tmp_path: Any) -> None:
    async with open_world(tmp_path) as world:
        subscription = await publishing(world, retry_schedule_seconds=(5.0, 50.0))
        fails = {("a", 2)}
        world.broker.answer = lambda message: "nack" if places([message])[0] in fails else STORED
        await world.register("a", ended(4))
        await world.register("b", ended(4))
        await world.step()
        assert by_subject(world.broker.stored) == {"a": [1], "b": [1, 2, 3, 4]}
        of_a = [one for one in await in_turn(world, subscription) if one.subject == "a"]
        assert [one.state for one in of_a] == ["delivered", "pending", "pending", "pending"]
        used = await rows(world.store, "SELECT attempt_count FROM deliveries WHERE state = 'blocked'")
        assert [row["attempt_count"] for row in used] == [0, 0]
        assert [one.waiting_for for one in of_a] == [None, None, of_a[1].id, of_a[1].id]
        assert of_a[1].attempts[-1].decision == "nack (attempt 1 of 3): tried again in 5 s"
        assert str(of_a[2].attempts[-1].decision).startswith("behind: published again after an earlier event")
        assert str(of_a[2].attempts[-1].error).startswith("behind: an earlier event")
        fails.clear()
        before = len(world.broker.batches)
        await world.run(4)
        assert len(world.broker.batches) == before  # not before it is due
        await world.run(2)
        assert by_subject(world.broker.stored) == {"a": [1, 2, 3, 4], "b": [1, 2, 3, 4]}
        assert await states(world) == {"delivered": 8}


async def test_event_that_a_broker_never_takes_uses_up_nothing_of_those_behind_it(tmp_path: Any) -> None:
    async with open_world(tmp_path) as world:
        subscription = await publishing(world, retry_schedule_seconds=(2.0, 2.0))
        world.broker.answer = lambda message: "denied" if places([message])[0] == ("a", 1) else STORED
        await world.register("a", ended(3))
        await world.run(12)
        found = await in_turn(world, subscription)
        assert [one.state for one in found] == ["dead", "delivered", "delivered"]
        assert by_subject(world.broker.stored) == {"a": [2, 3]}


@pytest.mark.parametrize("why", ["too_large", "unrendered"])
async def test_event_that_can_never_be_published_is_dead_and_takes_no_other_with_it(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    async with open_world(tmp_path) as world:
        subscription = await publishing(world)
        if why == "unrendered":
            real = Nats.message

            def message(self: Nats, event: Event, *rest: Any) -> Message:
                if (event.subject, event.sequence) == ("a", 2):
                    raise NotRenderable([FieldError(pointer="/protocolsettings/subject", code="invalid", detail="no")])
                return real(self, event, *rest)

            monkeypatch.setattr(Nats, "message", message)
        else:
            world.broker.answer = lambda message: "too_large" if places([message])[0] == ("a", 2) else STORED
        await world.register("a", ended(4))
        await world.register("b", ended(2))
        await world.run(2)
        assert by_subject(world.broker.stored) == {"a": [1, 3, 4], "b": [1, 2]}
        found = await in_turn(world, subscription)
        assert [one.state for one in found if one.subject == "a"] == ["delivered", "dead", "delivered", "delivered"]


async def test_fault_of_a_kind_holds_back_those_behind_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, real = [True], Nats.message

    def message(self: Nats, event: Event, *rest: Any) -> Message:
        if broken and (event.subject, event.sequence) == ("a", 2):
            raise RuntimeError("a bug")
        return real(self, event, *rest)

    monkeypatch.setattr(Nats, "message", message)
    async with open_world(tmp_path) as world:
        subscription = await publishing(world, retry_schedule_seconds=(2.0, 2.0))
        await world.register("a", ended(4))
        await world.register("b", ended(2))
        await world.step()
        assert by_subject(world.broker.stored) == {"a": [1], "b": [1, 2]}
        behind = (await in_turn(world, subscription))[2]
        assert behind.attempts[-1].error == "behind: an earlier event of its order cannot be rendered yet"
        broken.clear()
        await world.run(3)
        assert by_subject(world.broker.stored) == {"a": [1, 2, 3, 4], "b": [1, 2]}


async def test_away_broker_is_tried_with_one_event_and_sent_the_rest_when_it_is_back(tmp_path: Any) -> None:
    async with open_world(tmp_path) as world:
        subscription = await publishing(world, retry_schedule_seconds=(30.0,) * 9)
        world.broker.answer = lambda message: "connect"
        for nth in range(20):
            await world.register(f"job {nth}", ended(3))
        await world.run(3)
        assert [len(batch) for batch in world.broker.batches[1:] if len(batch) > 1] == []
        failing = await world.store.subscriptions.get(subscription.id)
        assert failing is not None
        assert failing.failing_reason == "connect"
        assert failing.failing_since is not None
        world.broker.answer = lambda message: STORED
        await world.run(40)
        assert await states(world) == {"delivered": 60}
        assert by_subject(world.broker.stored) == {f"job {nth}": [1, 2, 3] for nth in range(20)}
        back = await world.store.subscriptions.get(subscription.id)
        assert back is not None
        assert back.failing_since is None


@pytest.mark.parametrize("only", ["all", "undelivered"])
async def test_replay_is_published_in_the_order_of_each_key(tmp_path: Any, only: Any) -> None:
    async with open_world(tmp_path) as world:
        subscription = await publishing(world, retry_schedule_seconds=())
        world.broker.answer = lambda message: "nack" if only == "undelivered" else STORED
        for nth in range(6):
            await world.register(f"job {nth}", ended(3))
        await world.run(20)
        world.broker.answer = lambda message: STORED
        world.broker.stored.clear()
        before, now = len(world.broker.batches), world.clock()
        replay = ReplayRequest(
            id=new_id("rpl", now), subscription_id=subscription.id, since=0.0, until=now + 1, only=only, now=now
        )
        await world.store.replays.create(replay)
        await world.store.replays.advance(replay.id, "node", now)
        await world.run(3)
        assert by_subject(world.broker.stored) == {f"job {nth}": [1, 2, 3] for nth in range(6)}
        assert max(len(batch) for batch in world.broker.batches[before:]) >= (18 if only == "all" else 17)
        assert await states(world) == {"delivered": 18}


@pytest.mark.parametrize("crash", ["before_publish", "after_publish", "after_record"])
async def test_crash_at_any_step_publishes_again_with_the_same_ids_and_in_order(tmp_path: Any, crash: str) -> None:
    async with open_world(tmp_path) as world:
        await publishing(world)
        real, record = world.broker.publish, world.store.deliveries.record

        async def publish(*given: Any) -> Any:
            if crash == "before_publish":
                raise RuntimeError("crash")
            answer = await real(*given)
            if crash == "after_publish":
                raise RuntimeError("crash")
            return answer

        async def marks(*results: Any) -> Any:
            done = await record(*results)
            if crash == "after_record":
                raise RuntimeError("crash")
            return done

        world.broker.publish = publish  # type: ignore[method-assign]
        world.store.deliveries.record = marks  # type: ignore[method-assign]
        await world.restart()
        for name in "abc":
            await world.register(name, ended(4))
        await world.run(3)
        world.broker.publish = real  # type: ignore[method-assign]
        world.store.deliveries.record = record  # type: ignore[method-assign]
        await world.store.recover_from_crash(world.clock())
        await world.restart()
        await world.run(3)
        assert await states(world) == {"delivered": 12}
        assert by_subject(world.broker.stored) == {name: [1, 2, 3, 4] for name in "abc"}
        assert world.broker.repeated == (12 if crash == "after_publish" else 0)
        found = await rows(world.store, "SELECT delivery_id, COUNT(*) AS number FROM attempts GROUP BY delivery_id")
        assert [row["number"] for row in found] == [1] * 12


async def test_broker_that_never_answers_delays_no_other_sink(tmp_path: Any) -> None:
    async with open_world(tmp_path) as world:
        await publishing(world)
        await world.subscribe()
        world.broker.silent = True
        for nth in range(30):
            await world.register(f"job {nth}", ended(2))
            world.clock.advance(0.1)
            await world.poller.run_once()
            await world.poller.drain()
            async with asyncio.timeout(120):
                while len(world.sink.requests) < 2 * (nth + 1):  # each is sent at its time
                    await world.dispatcher.run_once()
        assert 0 < world.broker.waiting <= 8  # its own slots
        await world.dispatcher.stop(0.0)


async def test_stop_gives_publishing_its_time_and_loses_nothing(tmp_path: Any) -> None:
    async with open_world(tmp_path) as world:
        await publishing(world)
        await world.register("a", ended(3))
        world.broker.silent = True
        world.clock.advance(1.0)
        await world.poller.run_once()
        await world.poller.drain()
        await world.dispatcher.run_once()
        await world.broker.asked.wait()
        await world.dispatcher.stop(0.01)  # it is cut off
        world.broker.silent = False
        await world.store.recover_from_crash(world.clock())
        await world.restart()
        await world.run(2)
        assert by_subject(world.broker.stored) == {"a": [1, 2, 3]}
        assert await states(world) == {"delivered": 3}
