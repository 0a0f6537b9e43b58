"""Deliveries to brokers: acknowledged, with deliveries and attempts recorded, in turns with a bare client.

The bare client is the one of the broker's own library, as its documentation uses it. It publishes the same bytes to the
same broker and waits for the same acknowledgements: 500 messages, then the next 500.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from relay.node.interpreter import tune

TOGETHER = 500
Publish = Callable[[list[bytes]], Awaitable[None]]
"""Publishes bodies with keys, and waits until all are acknowledged."""


async def measure(count: int, rounds: int = 4) -> list[dict[str, Any]]:
    """Each broker that is there."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    found = []
    for name, bar, opened in (("Kafka", 0.5, kafka), ("NATS JetStream", 0.5, nats), ("RabbitMQ", 0.5, rabbitmq)):
        try:
            found.append(await beside(name, bar, opened, count, rounds))
        except Missing as why:
            print(f"{name} IS NOT MEASURED: {why}", file=sys.stderr)
    return found


class Missing(Exception):
    """There is no such broker on this machine."""


async def beside(name: str, bar: float, broker: Any, count: int, rounds: int) -> dict[str, Any]:
    """Deliveries to one broker on SQLite, in turns with the bare client."""
    from run import drained, node, owe, subscribed

    bare_seconds, our_seconds, total = 0.0, 0.0, 0
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as data:
        async with AsyncExitStack() as stack:
            sink, kind, options, publish = await stack.enter_async_context(broker(Path(data)))
            opened = await stack.enter_async_context(node(Path(folder)))
            subscription_id = await subscribed(opened, sink, 4, kind=kind, options=options)
            tune()
            for turn in range(-1, rounds):
                bodies = await owe(opened, count // rounds, turn)
                begun = time.perf_counter()
                await publish(bodies)
                bare = time.perf_counter() - begun
                ours = await drained(opened, subscription_id, kind)
                if turn >= 0:  # the first turn makes connections and topics
                    bare_seconds, our_seconds, total = bare_seconds + bare, our_seconds + ours, total + len(bodies)
    return {
        **{"name": f"published and acknowledged, {name}", "unit": "messages/s", "bar": bar},
        **{"ours": total / our_seconds, "baseline": total / bare_seconds},
    }


def key_of(body: bytes) -> bytes:
    """The key of an event: its job, as the relay has it."""
    return body[body.index(b"bench-") : body.index(b"bench-") + 12]


@asynccontextmanager
async def kafka(folder: Path) -> AsyncIterator[tuple[str, str, dict[str, Any], Publish]]:
    """Apache Kafka and aiokafka."""
    from aiokafka import AIOKafkaProducer

    from tests.support.brokers.kafka import kafka_server, missing

    if (why := missing()) is not None:
        raise Missing(why)
    async with kafka_server(folder) as server:
        producer = AIOKafkaProducer(
            bootstrap_servers=f"127.0.0.1:{server.port}", acks="all", enable_idempotence=True, max_batch_size=256 * 1024
        )
        await producer.start()

        async def publish(bodies: list[bytes]) -> None:
            for start in range(0, len(bodies), TOGETHER):
                chunk = bodies[start : start + TOGETHER]
                await asyncio.gather(*[await producer.send("bare", body, key=key_of(body)) for body in chunk])

        yield f"kafka://127.0.0.1:{server.port}", "kafka", {"protocolsettings": {"topicname": "ours"}}, publish
        await producer.stop()


@asynccontextmanager
async def nats(folder: Path) -> AsyncIterator[tuple[str, str, dict[str, Any], Publish]]:
    """NATS JetStream with files, and nats-py."""
    import nats as library

    from tests.support.brokers.nats import nats_server

    async with nats_server(folder) as server:
        client = await library.connect(f"nats://127.0.0.1:{server.port}")
        jetstream = client.jetstream(publish_async_max_pending=4000)
        await jetstream.add_stream(name="all", subjects=["bare", "ours"])

        async def publish(bodies: list[bytes]) -> None:
            for start in range(0, len(bodies), TOGETHER):
                chunk = bodies[start : start + TOGETHER]
                numbered = enumerate(chunk, start + int(time.monotonic_ns()))
                headers = [({"Nats-Msg-Id": f"evt_{number}"}, body) for number, body in numbered]
                await asyncio.gather(
                    *[await jetstream.publish_async("bare", body, headers=one) for one, body in headers]
                )

        yield f"nats://127.0.0.1:{server.port}", "nats", {"protocolsettings": {"subject": "ours"}}, publish
        await client.close()


@asynccontextmanager
async def rabbitmq(folder: Path) -> AsyncIterator[tuple[str, str, dict[str, Any], Publish]]:
    """RabbitMQ with a durable queue, and aiormq."""
    import pytest

    from tests.support.brokers.rabbitmq import rabbitmq_root, rabbitmq_server

    try:
        rabbitmq_root()
    except pytest.skip.Exception as why:
        raise Missing(str(why)) from None
    import aiormq

    async with rabbitmq_server(rabbitmq_root(), folder) as server:
        address = f"127.0.0.1:{server.process.port}"
        connection = await aiormq.connect(f"amqp://guest:guest@{address}/")
        channel = await connection.channel(publisher_confirms=True)
        for name in ("bare", "ours"):
            await channel.queue_declare(name, durable=True)
        properties = aiormq.spec.Basic.Properties(delivery_mode=2)

        async def publish(bodies: list[bytes]) -> None:
            for start in range(0, len(bodies), TOGETHER):
                await asyncio.gather(
                    *(
                        channel.basic_publish(
                            body, routing_key="bare", properties=properties, mandatory=True, wait=False
                        )
                        for body in bodies[start : start + TOGETHER]
                    )
                )

        yield f"amqp://{address}", "rabbitmq", {"protocolsettings": {"address": "/queues/ours"}}, publish
        await connection.close()
