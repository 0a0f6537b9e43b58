"""Every kind through the real dispatcher into its stand-in: order, pauses, refusals, holds, samples, redaction."""

from pathlib import Path

import pytest

from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.core.jobs.job import JOB_EVENTS
from tests.support.simulation_world import World, open_world, seen
from tests.vendors.endpoint import Answer, Endpoint, Sent
from tests.vendors.stand_ins import VENDORS

KINDS = tuple(VENDORS)
SECRET_PATH = "T0secretpath0123456789"
SINK = f"https://hooks.test/{SECRET_PATH}"
ALL = tuple(f"test.job.{kind}" for kind in JOB_EVENTS)


def wired(world: World, kind: str) -> Endpoint:
    """An endpoint that gets what the dispatcher sends."""
    endpoint = Endpoint(VENDORS[kind], clock=world.clock)

    async def send(request: OutboundRequest, *, timeout_seconds: float) -> Response:
        headers = {name.lower(): value for name, value in request.headers}
        answer = endpoint.answer(Sent(request.method, request.url.partition("?")[2], headers, request.body))
        return Response(
            started_at=world.clock(),
            duration_ms=1.0,
            status_code=answer.status,
            headers=answer.headers,
            excerpt=answer.body,
        )

    world.sink.send = send  # type: ignore[method-assign]
    return endpoint


@pytest.mark.parametrize("kind", KINDS)
async def test_events_of_a_job_arrive_in_order_after_a_pause_and_a_failure(tmp_path: Path, kind: str) -> None:
    async with open_world(tmp_path) as world:
        endpoint = wired(world, kind)
        await world.subscribe(kind=kind, sink=SINK, types=ALL, retry_schedule_seconds=(5.0,) * 9)
        endpoint.faults += [Answer(503, b"", (("Retry-After", "30"),)), Answer(500)]
        await world.register("a", seen("queued"), seen("running"), seen("failed"))
        await world.step()
        assert (len(endpoint.documents), len(endpoint.refused)) == (0, 1)
        await world.run(9, 3.0)
        assert len(endpoint.refused) == 1, "a pause that the service asked for was cut short"
        await world.run(20, 3.0)
        assert [answer.status for answer in endpoint.refused] == [503, 500]
        words = [message.title.partition(") ")[2].split(" (")[0] for message in endpoint.messages]
        assert words == ["is queued", "is running", "failed"]


@pytest.mark.parametrize("kind", KINDS)
async def test_gone_sink_holds_its_events_until_it_is_resumed(tmp_path: Path, kind: str) -> None:
    async with open_world(tmp_path) as world:
        endpoint = wired(world, kind)
        made = await world.subscribe(kind=kind, sink=SINK, types=ALL)
        endpoint.faults.append(Answer(410, SECRET_PATH.encode()))
        await world.register("a", seen("queued"), seen("failed"))
        await world.run(10)
        held = await world.store.subscriptions.get(made.id)
        assert (held.state, held.probe_at) == ("disabled", None)
        assert endpoint.documents == []
        pending = (await world.store.deliveries.page(limit=5)).items
        assert {one.state for one in pending} == {"pending"}
        shown = [await world.store.deliveries.get(one.id) for one in pending]
        assert SECRET_PATH not in str([one.attempts for one in shown])
        await world.store.subscriptions.set_state(made.id, "enabled", world.clock())
        world.signals.deliveries_due()
        await world.run(20, 2.0)
        assert len(endpoint.documents) == len(pending)


@pytest.mark.parametrize("kind", KINDS)
async def test_message_that_is_refused_for_good_holds_back_no_other(tmp_path: Path, kind: str) -> None:
    async with open_world(tmp_path) as world:
        endpoint = wired(world, kind)
        await world.subscribe(kind=kind, sink=SINK, types=ALL, retry_schedule_seconds=())
        endpoint.faults.append(Answer(400))
        await world.register("a", seen("queued"), seen("failed"))
        await world.run(20, 2.0)
        states = [one.state for one in reversed((await world.store.deliveries.page(limit=5)).items)]
        assert states == ["dead", "delivered"]


@pytest.mark.parametrize("kind", ["slack", "teams", "discord"])
async def test_burst_is_a_digest_and_never_exceeds_the_rate(tmp_path: Path, kind: str) -> None:
    async with open_world(tmp_path) as world:
        endpoint = wired(world, kind)
        options = {"messages_per_minute": 5}
        await world.subscribe(kind=kind, sink=SINK, types=ALL, options=options, rate_per_second=1.0)
        for number in range(30):
            await world.register(f"job {number}", seen("queued"))
        await world.run(80)
        assert endpoint.refused == []
        assert {one.state for one in (await world.store.deliveries.page(limit=50)).items} == {"delivered"}
        assert len(endpoint.documents) <= 7
