"""When a group is expected to finish, from the database alone; and why there is no answer."""

import asyncio
import math
from random import Random

import pytest

from relay.api.jobs import group_finish
from relay.api.jobs.group_finish import FRESH_SECONDS, GroupForecasts
from relay.clock import from_rfc3339
from relay.core.planner import PlannerStatistics
from relay.core.planner.inspection import RUN
from relay.core.records import SavedStatistics
from tests.support.store_kit import poll, registration, seen

PATH = "/v1/groups/q4"
GAP = 60.0


async def teach(world, runs=100):
    """What polls have taught, as the node that polls stores it."""
    statistics, rng = PlannerStatistics(1.0), Random(1)
    job_class = statistics.of_class("send", "email")
    for _ in range(runs):
        statistics.record_event(job_class, RUN, 0.0, rng.lognormvariate(math.log(7.0), 0.5))
        statistics.record_attempts(job_class, 1)
    rows = [
        SavedStatistics(source="revor", name=name, event_count=count, values=values)
        for name, count, values in statistics.unsaved_rows()
    ]
    await world.store.learned.save(rows, world.now)


async def fill(world, count=10, group="q4", first=0, **fields):
    """Jobs of a group in one lane, a minute apart."""
    found = await world.store.jobs.register_many(
        [registration(f"{group} {first + n}", group=group, tracked_at=world.now) for n in range(count)]
    )
    for number, each in enumerate(found, 1):
        values = {"action": "send", "channel": "email", "scheduled_at": world.now + number * GAP, **fields}
        await world.store.jobs.record(
            poll(each.job.uid, 0, "scheduled", now=world.now, seen=seen("scheduled", world.now, **values))
        )
    return [each.job.uid for each in found]


async def end(world, uid):
    found = seen("succeeded", world.now, channel="email", started_at=world.now - 7)
    await world.store.jobs.record(poll(uid, 1, "succeeded", outcome="succeeded", now=world.now, seen=found))


def seconds(world, found):
    return [from_rfc3339(found["expected_finish"][name]) - world.now for name in ("p10", "p50", "p90")]


async def test_a_group_says_when_it_is_expected_to_finish(client, world):
    await teach(world)
    uids = await fill(world)
    world.now += GAP + 8
    await end(world, uids[0])
    world.now += 2
    found = (await client.get(PATH)).json()
    p10, p50, p90 = seconds(world, found)
    assert 10 * GAP - 70 < p10 < p50 < p90 < 10 * GAP - 70 + 60
    assert found["expected_finish_note"] == "More jobs may come: this is about those known."
    assert found["rate_per_hour"] == pytest.approx(3600 / 70, abs=0.1)
    listed = (await client.get("/v1/groups")).json()["items"][0]
    assert not {"rate_per_hour", "expected_finish", "expected_finish_note"} & set(listed)


async def test_what_is_stated_of_a_group_and_the_end_of_its_last_job_show_at_once(client, world):
    """A forecast is kept, but not one that is about something else."""
    await teach(world)
    await fill(world, 2, scheduled_at=world.now + 7_200)

    async def told(path=PATH):
        found = (await client.get(path)).json()
        return found["expected_finish"], found["expected_finish_note"]

    known, note = await told()
    assert note == "More jobs may come: this is about those known."
    await client.post(f"{PATH}/close")
    assert await told() == (known, None)
    await client.post(f"{PATH}/close", json={"expected": 100})
    assert (await told())[0] != known
    others = await fill(world, 2, "q5", scheduled_at=world.now + 7_200)
    assert (await told("/v1/groups/q5"))[0] is not None
    for uid in others:
        await end(world, uid)
    finish, note = await told("/v1/groups/q5")
    assert (finish, note.partition(".")[0]) == (None, "All of its jobs have ended")


async def ended(world, uids):
    for uid in uids:
        await end(world, uid)


async def test_a_forecast_is_computed_once_for_all_who_ask(world, monkeypatch):
    await teach(world)
    await fill(world)
    reads, forecasts = [], GroupForecasts(world.store.group_work, world.store.learned, lambda: world.now)
    real = type(world.store.group_work).read

    async def read(*values, **named):
        reads.append(values)
        return await real(*values, **named)

    monkeypatch.setattr(type(world.store.group_work), "read", read)
    (group,) = await world.store.groups.find("q4")
    found = await asyncio.gather(*(forecasts.of(group) for _ in range(20)))
    assert len({id(each) for each in found}) == len(reads) == 1
    world.now += FRESH_SECONDS
    await forecasts.of(group)
    assert len(reads) == 2
    await fill(world, 1, group="q4 again")
    (other,) = await world.store.groups.find("q4 again")
    monkeypatch.setattr(group_finish, "MAX_KEPT", 1)
    await forecasts.of(other)
    await forecasts.of(group)
    assert len(reads) == 4
