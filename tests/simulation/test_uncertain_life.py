"""A record that may or may not have been written: told to chats, listed, settled by a person, never doubled."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson

from relay.core.deliveries.credentials import SinkCredential, origin_text
from relay.core.deliveries.delivery import Delivery, OutboundRequest, Response
from relay.core.deliveries.ledger import SETTLE_SECONDS
from relay.testing import RecordingSink
from tests.support.schema_check import check_event
from tests.support.simulation_world import World, open_world, seen
from tests.support.store_kit import registration
from tests.vendors.endpoint import Fault
from tests.vendors.pipedrive import HOST, TOKEN, Pipedrive

SINK = f"https://{HOST}"


class Sinks:
    """A transport: a company at Pipedrive, and a sink for everything else."""

    def __init__(self, company: Pipedrive, chat: RecordingSink) -> None:
        self.company, self.chat = company, chat

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        sink = self.company if request.url.startswith(SINK) else self.chat
        return await sink.send(request, timeout_seconds=timeout_seconds)


@asynccontextmanager
async def open_company(folder: Path) -> AsyncIterator[tuple[World, Pipedrive]]:
    async with open_world(folder) as world:
        company = Pipedrive(world.clock)
        company.add_person("Jane Doe", "jane@example.com", None)
        company.add_deal("Deal", person_id=1)
        world.chat = world.sink  # type: ignore[attr-defined]
        world.sink = Sinks(company, world.sink)  # type: ignore[assignment]
        await world.restart()
        credential = SinkCredential(
            id="crd_1", origin=origin_text(SINK), fields={"credentialtype": "ACCESSTOKEN", "accesstoken": TOKEN}
        )
        await world.subscribe(
            id="sub_crm", sink=SINK, kind="pipedrive", credential=credential, types=("test.job.failed",)
        )
        await world.subscribe(
            id="sub_chat", kind="slack", sink="https://hooks.slack.com/services/T0/B0/x",
            types=("relay.delivery.uncertain",),
        )  # fmt: skip
        yield world, company


async def job(world: World, **metadata: int) -> None:
    """A job that fails at once."""
    now = world.clock()
    world.source.script("a", seen("failed"))
    made = registration("a", tracked_at=now, deadline_seconds=3600.0, metadata=metadata)
    world.poller.track(((await world.store.jobs.register(made)).job,))
    await world.step()


async def delivery(world: World) -> Delivery:
    (row,) = (await world.store.deliveries.page(limit=5, subscription_id="sub_crm")).items
    found = await world.store.deliveries.get(row.id)
    assert found is not None
    return found


async def doubtful(world: World, company: Pipedrive, fault: Fault) -> None:
    """A note whose fate nobody knows: the answer was lost, and Pipedrive did not find the deal when it was asked."""
    company.fail("POST /v1/notes", fault)
    company.fail("GET /v1/notes", Fault(status=404, body=b'{"success": false, "error": "Deal not found"}'))
    await job(world, deal_id=2)
    assert (await delivery(world)).state == "pending"
    await world.step(SETTLE_SECONDS + 5.0)


async def test_uncertain_record_is_told_in_words_and_without_addresses(tmp_path):
    async with open_company(tmp_path) as (world, company):
        await doubtful(world, company, Fault(status=0))
        one = await delivery(world)
        assert (one.state, one.reason) == ("uncertain", "target_gone")
        await world.step()
        (event,) = (await world.store.events.page(limit=5, types=("relay.delivery.uncertain",))).items
        data = check_event(event.body)["data"]
        assert (data["delivery"], data["event"], data["kind"]) == (one.id, one.event_id, "pipedrive")
        assert (data["record"], data["target"], data["reason"]) == ("note", {"deal_id": 2}, "cannot_tell")
        (message,) = world.chat.requests  # type: ignore[attr-defined]
        text = orjson.dumps(orjson.loads(message.body)).decode()
        assert "A note in Pipedrive about a failed job may or may not have been written" in text
        assert f"Look in Pipedrive for a note of deal 2 that names {one.event_id}" in text
        assert f"Delivery {one.id}" in text
        assert "jane" not in text + event.body.decode()
        assert await world.store.deliveries.uncertain() == 1


async def test_settled_as_sent_it_is_never_written_again(tmp_path):
    async with open_company(tmp_path) as (world, company):
        await doubtful(world, company, Fault(status=0, works=True))
        one = await delivery(world)
        settled = await world.store.deliveries.settle(one.id, "sent", world.clock())
        assert (settled.state, settled.reason) == ("delivered", "settled")
        calls = len(company.calls)
        await world.store.deliveries.retry(one.id, world.clock())
        await world.step(60.0)
        assert ((await delivery(world)).state, (await delivery(world)).reason) == ("delivered", "already_written")
        assert (len(company.notes), len(company.calls)) == (1, calls)


async def test_settled_as_not_sent_it_is_written_once(tmp_path):
    async with open_company(tmp_path) as (world, company):
        await doubtful(world, company, Fault(status=0))
        one = await delivery(world)
        assert company.notes == []
        assert (await world.store.deliveries.settle(one.id, "not_sent", world.clock())).state == "pending"
        await world.step(60.0)
        assert (await delivery(world)).state == "delivered"
        assert len(company.notes) == 1


async def test_retry_asks_and_writes_nothing_if_the_record_is_there(tmp_path):
    async with open_company(tmp_path) as (world, company):
        await doubtful(world, company, Fault(status=0, works=True))
        one = await delivery(world)
        assert one.state == "uncertain"
        await world.store.deliveries.retry(one.id, world.clock())
        await world.step(60.0)
        assert ((await delivery(world)).state, len(company.notes)) == ("delivered", 1)
