"""The relay is stopped between any two steps of a batch that is published, in its second transaction.

The publisher has no answer, and sends the batch again: each event is there once, and goes out in the order of its key.
"""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from relay.api.events.publishing import CHUNK
from relay.cli.demo.environment import listen, served, url_of
from tests.support.kill_points import PUBLISH_POINTS
from tests.support.kill_world import SEED, in_turns, open_world

STOP_SECONDS = 120.0
OWED_SECONDS = 120.0
COUNT = 250
KEYS = 5
TYPE = "com.acme.order.paid"
BATCH = [
    {"specversion": "1.0", "id": str(n), "source": "/shop", "type": TYPE, "partitionkey": f"key {n % KEYS}"}
    for n in range(COUNT)
]
HEADERS = {"Content-Type": "application/cloudevents-batch+json"}


class Receiver:
    """Takes everything. `got`: the relay's id and the publisher's of each request."""

    def __init__(self) -> None:
        self.got: list[tuple[str, int]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = dict(scope["headers"])
        self.got.append((headers[b"webhook-id"].decode(), int(orjson.loads(body)["id"])))
        await send({"type": "http.response.start", "status": 204, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(("database", "point"), in_turns(PUBLISH_POINTS))
async def test_batch_that_is_sent_again_after_a_crash_is_recorded_once(
    tmp_path: Path, database: str, point: str
) -> None:
    receiver = Receiver()
    with contextlib.closing(listen()) as at_receiver:
        async with (
            open_world(tmp_path, f"{SEED}:{point}", database=database) as world,
            served(receiver, at_receiver),
        ):
            await world.relay.serve(stop=(point, 2))
            await world.relay.ready(world.session)
            body = {"sink": f"{url_of(at_receiver)}/hook", "types": [TYPE]}
            async with world.session.post(f"{world.relay.url}/v1/subscriptions", json=body) as response:
                assert response.status == 201, await response.text()
            publish = {"data": orjson.dumps(BATCH), "headers": HEADERS}
            with pytest.raises(aiohttp.ClientError):
                await world.session.post(f"{world.relay.url}/v1/events", **publish)
            await world.relay.killed_itself(STOP_SECONDS)

            await world.relay.serve()
            await world.relay.ready(world.session)
            async with world.session.post(f"{world.relay.url}/v1/events", **publish) as response:
                answer = await response.json()
                assert response.status == 202, answer
            recorded = 2 * CHUNK if point == "publish.committed" else CHUNK
            assert (answer["known"], answer["accepted"]) == (recorded, COUNT - recorded)
            latest = time.monotonic() + OWED_SECONDS
            pending = "/v1/deliveries?state=pending"
            while len({id for _, id in receiver.got}) < COUNT or (await world.get(pending))["items"]:
                assert time.monotonic() < latest, world.relay.log_tail()
                await asyncio.sleep(0.1)

    ids = [one["id"] for one in answer["items"]]
    assert set(receiver.got) == {(ids[n], n) for n in range(COUNT)}
    first = list(dict.fromkeys(id for _, id in receiver.got))
    for key in range(KEYS):
        of_key = [id for id in first if id % KEYS == key]
        assert of_key == sorted(of_key)
