"""Random walks of the ledger: two nodes write notes to a CRM, and no note is written twice or lost in silence.

Requests are lost before and after they are carried out, carried out long after the time-out, or refused; nodes freeze
and are killed between any two steps, and others take over; the clock is set back; people retry, replay, settle,
pause and change the portal. FUZZ_TEST_COUNT is the number of walks tried, from FUZZ_TEST_SEED on.
"""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.fuzz_kit import COUNT, SEED
from tests.support.ledger_world import HubSpotAccount, LedgerWorld, PipedriveCompanies, open_ledger_world
from tests.support.scale import scaled

WALKS = max(scaled(1, 40), COUNT // 400)
STEPS = 60
CRMS: dict[str, Any] = {
    "pipedrive note": PipedriveCompanies,
    "pipedrive activity": partial(PipedriveCompanies, record="activity"),
    "pipedrive person": partial(PipedriveCompanies, metadata={"email": "jane@example.com"}),
    "hubspot": HubSpotAccount,
    "hubspot without a unique key": partial(HubSpotAccount, keyed=False),
}


async def walk(world: LedgerWorld) -> None:
    luck = world.random
    await world.subscribe()
    for _ in range(3):
        await world.event()
    for _ in range(STEPS):
        match luck.choices(range(11), (30, 30, 8, 6, 5, 4, 3, 3, 2, 2, 5))[0]:
            case 0:
                await world.advance(luck.choice((0.5, 2.0, 7.0, 20.0, 60.0, 130.0)))
            case 1:
                await luck.choice(world.nodes).scan()
            case 2:
                if len(world.events) < 8:
                    await world.event()
            case 3:
                world.happened["kill"] += 1
                await luck.choice(world.nodes).kill()
            case 4:
                await world.retry_one()
            case 5:
                await world.replay(luck.choice(("all", "undelivered", "delivered", "dead")))
            case 6:
                world.offset -= luck.choice((1.0, 50.0, 119.0, 3600.0))
            case 7:
                await world.move(luck.choice(world.crm.sinks))
            case 8:
                await world.set_state("paused")
                await world.advance(luck.uniform(0, 60))
                await world.set_state("enabled")
            case 9:
                await world.set_state("enabled")
            case 10:
                await world.settle_one()
        for node in world.nodes:
            await node.quiet()


async def judge(world: LedgerWorld) -> Counter[str]:
    """Each event has one note, or somebody was told that it has none or may have one."""
    told = {
        (event.type, event.document()["data"].get("delivery"))
        for _, event in (await world.store.events.tail(0)).events
        if event.type.startswith("relay.")
    }
    subscription = await world.store.subscriptions.get("sub_1")
    assert subscription is not None
    deliveries = await world.deliveries()
    assert set(deliveries) == {event.id for event in world.events}, "an event has no delivery"
    for event in world.events:
        delivery, count = deliveries[event.id], world.crm.count(event, subscription)
        about = f"{delivery.state}, {delivery.reason}, {count} notes\n" + "\n".join(world.log)
        assert count <= 1, f"written twice: {about}"
        match delivery.state:
            case "delivered":
                assert count == 1, f"lost: {about}"
            case "dead":
                assert count == 0, f"given up although it was written: {about}"
                assert ("relay.delivery.expired", delivery.id) in told, f"nobody was told: {about}"
            case "uncertain":
                assert ("relay.delivery.uncertain", delivery.id) in told, f"nobody was told: {about}"
            case _:
                raise AssertionError(f"it did not end: {about}")
    return Counter(one.state for one in deliveries.values())


@pytest.mark.parametrize("crm", CRMS)
async def test_no_note_is_written_twice_or_lost_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crm: str
) -> None:
    states: Counter[str] = Counter()
    happened: Counter[str] = Counter()
    for nth in range(WALKS):
        seed = f"{SEED + nth}:{crm}"
        async with open_ledger_world(tmp_path / str(nth), seed, CRMS[crm], monkeypatch) as world:
            try:
                await walk(world)
                await world.calm_down()
                states += await judge(world)
                await world.replay("all")
                await world.calm_down()
                states += await judge(world)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error}") from error
            happened += world.happened
    print(dict(states), dict(happened))
    assert happened["kill"], "nothing was killed"
    assert happened.total() - happened["kill"] - happened["at once"] >= WALKS, "nothing was lost"
