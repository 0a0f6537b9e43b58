"""HubSpot with a real store, real tokens and deliveries, at a strict stand-in of an account."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson
import pytest

from relay.core.deliveries.credentials import SinkCredential, origin_text
from relay.core.deliveries.ledger import SETTLE_SECONDS
from relay.core.subscriptions.subscription import Subscription
from subscribers import registry
from subscribers.hubspot import HubSpot as Kind
from tests.support import simulation_world
from tests.support.hubspot_account import SINK, prepare
from tests.support.simulation_world import World, deliveries_of, end_job, open_world
from tests.vendors.endpoint import Fault
from tests.vendors.hubspot import TOKEN, HubSpot

EMAIL = "ada@example.com"
GIVEN = {"credentialtype": "ACCESSTOKEN", "accesstoken": TOKEN}


class Account(HubSpot):
    """An account that counts its calls."""

    def operations(self, name: str) -> int:
        return [operation for operation, _ in self.calls].count(name)


@asynccontextmanager
async def open_account(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, keyed: bool = True
) -> AsyncIterator[tuple[World, Account, str]]:
    monkeypatch.setattr(simulation_world, "kinds", lambda: MappingProxyType({**registry.kinds(), "hubspot": Kind()}))
    async with open_world(folder) as world:
        account = Account(burst=1_000, clock=world.clock, now=world.clock)
        prepare(account, keyed=keyed)
        world.sink = account  # type: ignore[assignment]
        await world.restart()
        yield world, account, account.add("contacts", email=EMAIL)


async def subscribe(world: World, given: dict[str, str] = GIVEN, **options: Any) -> Subscription:
    credential = SinkCredential(id="crd_1", origin=origin_text(SINK), fields=given)
    types = ("test.job.succeeded", "test.job.failed")
    options = {"portal": "12345678", **options}
    return await world.subscribe(sink=SINK, kind="hubspot", credential=credential, types=types, options=options)


@pytest.mark.parametrize("keyed", [True, False], ids=["with the key", "without it"])
async def test_lost_answers_crashes_and_replays_make_one_note_and_one_task(tmp_path, monkeypatch, keyed):
    async with open_account(tmp_path, monkeypatch, keyed=keyed) as (world, account, contact):
        of = await subscribe(world)
        account.fail("POST notes", Fault(works=True), Fault(status=502, works=True))
        account.fail("POST tasks", Fault(status=200, body=b"<html>", works=True), Fault())
        await end_job(world, "first", "failed", email=EMAIL)
        await world.restart()
        await world.run(8, 3600.0)
        [one] = await deliveries_of(world, of)
        assert one.state == "delivered"
        assert sorted("hs_task_subject" in made.properties for made in account.timeline("contacts", contact)) == [
            False,
            True,
        ]
        asked = len(account.calls)
        await world.store.deliveries.retry(one.id, world.clock())
        await world.step()
        [one] = await deliveries_of(world, of)
        assert (one.state, one.reason, len(account.calls)) == ("delivered", "already_written", asked)


async def test_note_that_nobody_can_ask_for_is_uncertain_and_told(tmp_path, monkeypatch):
    async with open_account(tmp_path, monkeypatch, keyed=False) as (world, account, contact):
        of = await subscribe(world, record="note")
        refusal = {"status": "error", "category": "VALIDATION_ERROR", "errors": [_UNKNOWN]}
        account.fail("POST notes", Fault(status=400, body=orjson.dumps(refusal)), Fault())
        await end_job(world, "first", "succeeded", contact_id=contact)
        del account.records["contacts"][contact]
        await world.run(10, SETTLE_SECONDS)
        [one] = await deliveries_of(world, of)
        assert (one.state, one.reason) == ("uncertain", "not_found")
        assert account.operations("POST notes") == 2
        assert account.records["notes"] == {}


_UNKNOWN = {"code": "PROPERTY_DOESNT_EXIST", "context": {"propertyName": ["relay_event_id"]}}


async def test_day_that_is_used_up_is_left_alone_for_an_hour(tmp_path, monkeypatch):
    async with open_account(tmp_path, monkeypatch) as (world, account, _):
        of = await subscribe(world)
        account.daily = 2
        await end_job(world, "first", "succeeded", email=EMAIL)
        asked = len(account.calls)
        await end_job(world, "second", "succeeded", email=EMAIL)
        await world.run(50, 60.0)
        assert len(account.calls) == asked == 2
        account.daily = 1_000
        await world.run(20, 60.0)
        assert [one.state for one in await deliveries_of(world, of)] == ["delivered"] * 2
