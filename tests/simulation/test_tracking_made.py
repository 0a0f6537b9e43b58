"""A job that a create has made is tracked even if something beside it cannot be written."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from relay.core.jobs.job import Observation, Recipient
from relay.core.polling.tracking import CallbackLimits, Registration, TrackRequest
from relay.errors import Conflict, InvalidRequest, StoreError
from relay.store.jobs.registrations import CALLBACK_REMOVED
from tests.simulation.test_tracking_reports import tracking_of
from tests.support.simulation_world import World, open_world
from tests.support.store_kit import intent, rows

CREATE = intent()

Fails = Callable[[Registration], bool]

WITH: dict[str, Fails] = {
    "callback": lambda one: one.callback_subscription_id is not None,
    "group": lambda one: one.request.group is not None,
    "metadata": lambda one: one.request.metadata is not None,
    "recipient": lambda one: one.request.recipient is not None,
    "details": lambda one: one.request.request is not None,
}


def whole(world: World) -> TrackRequest:
    return TrackRequest(
        external_id="job",
        source="revor",
        account="default",
        callback_url="https://crm.example/hook",
        metadata={"deal": 42},
        group="q4",
        group_size=1,
        request={"metadata": {}},
        recipient=Recipient(address="kim@example.com"),
        intent=CREATE,
    )


class Refusing:
    """Registers in the store, but refuses what has such a part, as long as it does."""

    def __init__(self, world: World, fails: Fails, error: Exception) -> None:
        self.fails, self.error, self.tries = fails, error, 0
        self._register_many = world.store.jobs.register_many
        world.store.jobs.register_many = self  # type: ignore[assignment]

    async def __call__(self, registrations: Sequence[Registration]) -> Any:
        self.tries += 1
        if any(map(self.fails, registrations)):
            raise self.error
        return await self._register_many(registrations)


@pytest.mark.parametrize("part", WITH)
@pytest.mark.parametrize(
    ("error", "reason"),
    [(StoreError("this statement always fails"), "this statement always fails"), (KeyError("x"), "unexpected error")],
)
async def test_job_is_tracked_without_the_part_that_fails(tmp_path, part, error, reason):
    async with open_world(tmp_path) as world:
        await world.store.intents.begin(CREATE)
        Refusing(world, WITH[part], error)
        made = await tracking_of(world).register_made(whole(world))
        assert made.not_attached == ((part, reason),)
        (job,) = await world.store.jobs.find("job")
        assert job.open
        assert (job.group, job.metadata) == (
            None if part == "group" else "q4",
            {} if part == "metadata" else {"deal": 42},
        )
        assert await world.store.intents.get(CREATE.id) is None


async def test_job_is_tracked_alone_if_several_parts_fail(tmp_path):
    async with open_world(tmp_path) as world:
        Refusing(world, lambda one: WITH["group"](one) or WITH["callback"](one), StoreError("no"))
        made = await tracking_of(world).register_made(whole(world))
        assert [part for part, _ in made.not_attached] == list(WITH)
        assert [job.uid for job in await world.store.jobs.find("job")] == [made.job.uid]


async def test_nothing_is_left_out_if_the_database_was_away_for_a_moment(tmp_path):
    async with open_world(tmp_path) as world:
        refusing = Refusing(world, lambda _: refusing.tries < 3, StoreError("away"))
        made = await tracking_of(world).register_made(whole(world))
        assert made.not_attached == ()
        assert (made.job.group, made.job.metadata) == ("q4", {"deal": 42})


async def test_callback_that_is_removed_again_and_again_is_left_out(tmp_path):
    async with open_world(tmp_path) as world:
        Refusing(world, WITH["callback"], Conflict("removed meanwhile", code=CALLBACK_REMOVED))
        made = await tracking_of(world).register_made(whole(world))
        assert made.not_attached == (("callback", "removed meanwhile"),)
        assert made.job.group == "q4"


async def test_first_error_is_raised_if_nothing_can_be_written(tmp_path):
    async with open_world(tmp_path) as world:
        await world.store.intents.begin(CREATE)
        refusing = Refusing(world, lambda _: True, StoreError("away"))
        with pytest.raises(StoreError, match="away"):
            await tracking_of(world).register_made(whole(world))
        assert refusing.tries == 1 + len(WITH) + 1
        assert await world.store.jobs.find("job") == []
        assert await world.store.intents.get(CREATE.id) is not None


async def test_job_that_can_never_be_polled_is_refused(tmp_path):
    async with open_world(tmp_path) as world:
        with pytest.raises(InvalidRequest, match=r"the id has a segment"):
            await tracking_of(world).register_made(whole(world)._replace(external_id=".."))


async def test_events_of_a_registration_are_counted_like_those_of_a_poll(tmp_path):
    async with open_world(tmp_path) as world:
        queued = Observation(status="queued", observed_at=world.clock())
        request = TrackRequest(external_id="job", source="revor", account="default", seen=queued)
        (made,) = await tracking_of(world).register([request])
        assert made.job.progress.sequence == 1
        assert [(cell.name, amount[0]) for cell, amount in world.metrics.figures.take(100)] == [("events", 1)]
        (event,) = (await world.store.events.tail(0)).events
        count = world.metrics.registry.get_sample_value("relay_events_total", {"type": event[1].type})
        assert count == 1


def called_back(name: str, host: str, caller: str, **fields: Any) -> TrackRequest:
    url = f"https://{host}/hook"
    return TrackRequest(external_id=name, source="revor", account="default", callback_url=url, caller=caller, **fields)


async def test_callback_that_is_refused_is_not_attached_although_others_use_it(tmp_path):
    async with open_world(tmp_path) as world:
        tracking = tracking_of(world)
        tracking.configure(CallbackLimits(hosts_per_caller=1))
        await tracking.register([called_back("a", "a.example", "crm")])
        for name in ("x", "y"):
            await tracking.register([called_back(name, "b.example", "other")])
        (made,) = await tracking.register([called_back("b", "b.example", "crm", intent=CREATE)])
        assert [part for part, _ in made.not_attached] == ["callback"]
        linked = await rows(world.store, "SELECT j.external_id FROM job_callbacks c JOIN jobs j ON j.uid = c.job_uid")
        assert sorted(one["external_id"] for one in linked) == ["a", "x", "y"]


async def test_callback_that_is_removed_while_hosts_are_counted_is_made_again(tmp_path):
    async with open_world(tmp_path) as world:
        tracking, claim = tracking_of(world), world.store.callback_hosts.claim
        for name in ("x", "y"):
            await tracking.register([called_back(name, "a.example", "crm")])
        (callback,) = (await world.store.subscriptions.page(limit=5, callbacks=True)).items

        async def claimed_late(*given: Any) -> Any:
            over = await claim(*given)
            await world.store.subscriptions.remove(callback.id, world.clock())
            return over

        world.store.callback_hosts.claim = claimed_late  # type: ignore[method-assign]
        made = await tracking.register([called_back(name, "a.example", "other") for name in ("d", "e")])
        assert [one.job.external_id for one in made] == ["d", "e"]
        assert [one.id for one in (await world.store.subscriptions.page(limit=5, callbacks=True)).items] != [
            callback.id
        ]
