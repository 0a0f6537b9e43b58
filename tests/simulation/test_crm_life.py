"""Every kind that writes to a CRM with a real store and the real dispatcher, at a strict stand-in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from relay.config.keyring import Keyring, new_key
from relay.core.deliveries.credentials import SinkCredential, origin_text
from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.core.jobs.job import Recipient
from relay.core.subscriptions.subscription import Subscription
from tests.support.crm_world import EMAIL, WORLDS, Vendor
from tests.support.job_events import origin_of
from tests.support.simulation_world import World, crashing, deliveries_of, end_job, open_world
from tests.vendors import hubspot, pipedrive, salesforce

every_crm = pytest.mark.parametrize("crm", WORLDS)
TOKEN_URL = "https://login.test/token"
APP_TOKENS = {"pipedrive": pipedrive.BEARER, "salesforce": salesforce.TOKEN}


class Wire:
    """A CRM as a transport, and the token endpoint of its apps.

    lose     so many answers to writes are lost; the CRM has carried these out
    answers  to the next requests, whatever these are, instead of the CRM's
    """

    def __init__(self, vendor: Vendor) -> None:
        self.vendor = vendor
        self.lose = 0
        self.answers: list[tuple[int, bytes]] = []
        self.requests: list[OutboundRequest] = []
        self.tokens = 0

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        self.requests.append(request)
        if request.url == TOKEN_URL:
            self.tokens += 1
            token = APP_TOKENS.get(self.vendor.kind.name, hubspot.TOKEN)
            made = {"access_token": token, "token_type": "Bearer", "expires_in": 3600, "refresh_token": "refresh-2"}
            return _answer(200, orjson.dumps(made))
        if self.answers:
            return _answer(*self.answers.pop(0))
        response = self.vendor.respond(request)
        if self.lose and request.method != "GET":
            self.lose -= 1
            return Response(started_at=0.0, duration_ms=1.0, error="read")
        return response

    @property
    def asked(self) -> int:
        """The number of requests."""
        return len(self.requests)


def _answer(status: int, body: bytes) -> Response:
    return Response(started_at=0.0, duration_ms=1.0, status_code=status, excerpt=body)


@asynccontextmanager
async def open_crm(folder: Path, crm: str) -> AsyncIterator[tuple[World, Wire]]:
    async with open_world(folder) as world:
        wire = Wire(WORLDS[crm](world.clock))
        world.sink = wire  # type: ignore[assignment]
        await world.restart()
        yield world, wire


async def subscribe(world: World, wire: Wire, given: dict[str, str] | None = None, **options: Any) -> Subscription:
    sink = wire.vendor.sink
    given = given or {"credentialtype": "ACCESSTOKEN", "accesstoken": wire.vendor.token}
    credential = SinkCredential(id="crd_1", origin=origin_text(sink), fields=given)
    kind = wire.vendor.kind
    types = kind.default_types([origin_of("test.job")])
    return await world.subscribe(sink=sink, kind=kind.name, credential=credential, options=options, types=types)


@every_crm
async def test_known_people_get_a_record_and_unknown_ones_are_counted(tmp_path: Path, crm: str) -> None:
    async with open_crm(tmp_path, crm) as (world, wire):
        of = await subscribe(world, wire)
        await end_job(world, "first", **wire.vendor.known)
        await end_job(world, "second", **wire.vendor.unknown)
        await world.run(8, 2.0)
        found = await deliveries_of(world, of)
        assert [one.state for one in found] == ["delivered", "cancelled"]
        assert found[1].reason == "unmatched"
        assert (await world.store.deliveries.skipped(of.id)).count == 1
        assert len({one.split()[1] for one in wire.vendor.written()}) == 1
        assert EMAIL not in repr([one.attempts for one in found])


@every_crm
async def test_lost_answers_crashes_and_a_replay_make_no_second_record(tmp_path: Path, crm: str) -> None:
    async with open_crm(tmp_path, crm) as (world, wire):
        of = await subscribe(world, wire)
        wire.lose = 2
        await end_job(world, "first", **wire.vendor.known)
        for step in ("after_send", "after_mark", "before_send"):
            with crashing(world, step):
                await end_job(world, step, **wire.vendor.known)
            await world.restart()
        await world.run(12, 400.0)
        found = await deliveries_of(world, of)
        assert [one.state for one in found] == ["delivered"] * 4, [(one.state, one.reason) for one in found]
        written = wire.vendor.written()
        assert len(written) == len(set(written))
        assert len({one.split()[1] for one in written}) == 4
        for one in found:
            await world.store.deliveries.retry(one.id, world.clock())
        await world.run(6, 60.0)
        assert wire.vendor.written() == written
        assert wire.vendor.refusals() == []


@every_crm
async def test_missing_permission_disables_and_no_event_is_lost(tmp_path: Path, crm: str) -> None:
    async with open_crm(tmp_path, crm) as (world, wire):
        of = await subscribe(world, wire)
        await end_job(world, "first", **wire.vendor.known)
        wire.answers = [wire.vendor.forbidden]
        await end_job(world, "second", **wire.vendor.known)
        held = await world.store.subscriptions.get(of.id)
        assert held.state == "disabled"
        await world.store.subscriptions.set_state(of.id, "enabled", world.clock())
        world.signals.deliveries_due()
        await world.run(8, 5.0)
        assert [one.state for one in await deliveries_of(world, of)] == ["delivered"] * 2


@every_crm
async def test_dry_run_reads_and_writes_nothing_and_shows_what_it_would(tmp_path: Path, crm: str) -> None:
    async with open_crm(tmp_path, crm) as (world, wire):
        of = await subscribe(world, wire, dry_run=True)
        await end_job(world, "first", **wire.vendor.known)
        await end_job(world, "second", recipient=Recipient(address=EMAIL))
        assert wire.requests == []
        for one in await deliveries_of(world, of):
            assert (one.state, one.reason) == ("delivered", "dry_run")
            (attempt,) = one.attempts
            assert attempt.status_code is None
            assert attempt.requests
            assert wire.vendor.token not in repr(attempt)
        assert EMAIL not in repr(attempt), "a captured address is shown by a placeholder"


@every_crm
async def test_captured_recipient_is_looked_up_and_shown_nowhere(tmp_path: Path, crm: str) -> None:
    async with open_crm(tmp_path, crm) as (world, wire):
        of = await subscribe(world, wire)
        await end_job(world, "first", recipient=Recipient(address=EMAIL, profile_url="https://linkedin.com/in/jane"))
        await world.run(4, 2.0)
        (one,) = await deliveries_of(world, of)
        assert one.state == "delivered", one.reason
        assert wire.vendor.written()
        assert "jane" not in repr(one)


@every_crm
async def test_delivery_waits_for_the_key_of_its_recipient(tmp_path: Path, crm: str) -> None:
    async with open_crm(tmp_path, crm) as (world, wire):
        of = await subscribe(world, wire)
        keyring = Keyring([new_key()])
        world.store.jobs._registrar._cipher = keyring  # a node with another first key
        await end_job(world, "first", recipient=Recipient(address=EMAIL))
        await world.run(8, 30.0)
        (one,) = await deliveries_of(world, of)
        assert (one.state, one.attempts, wire.vendor.written()) == ("pending", (), [])
        assert [error.key for error in world.dispatcher.undecryptable.values()] == list(keyring.ids)
        world.store.jobs._cipher = keyring
        await world.run(8, 30.0)
        (one,) = await deliveries_of(world, of)
        assert one.state == "delivered", one.reason
        assert len(set(wire.vendor.written())) == len(wire.vendor.written()) > 0
        assert world.dispatcher.undecryptable == {}
