"""Digests through the real dispatcher into the stand-ins of chats."""

from pathlib import Path

import pytest

from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.core.jobs.job import JOB_EVENTS
from tests.support.simulation_world import World, open_world, seen
from tests.vendors.endpoint import Endpoint, Sent
from tests.vendors.stand_ins import VENDORS

SINK = "https://hooks.test/secret"
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
