"""RabbitMQ, the real server, where Debian's package is. Read with pika, which the relay does not use."""

import asyncio
import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pika
import pytest
from cloudevents.core.bindings import amqp as sdk_amqp
from cloudevents.core.formats.json import JSONFormat

from relay.core.deliveries.broker import Broker, Login, Message, read_sink
from relay.core.events.event import Event
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import Subscription
from subscribers import base
from subscribers.rabbitmq import RabbitMq
from tests.bus.faults import EVENTS, Stored, UnderTest, check_faults
from tests.support.brokers.cut import Cut
from tests.support.brokers.names import Names
from tests.support.brokers.peers import publishers
from tests.support.brokers.process import free_port
from tests.support.brokers.rabbitmq import NOT_SECRET, USERS, RabbitMqServer, rabbitmq_root, rabbitmq_server
from tests.support.certificates import self_signed

RELAY = Login(name="relay", secret=USERS["relay"])
NARROW = Login(name="narrow", secret=NOT_SECRET)


def queue(name: str, host: str = "/", **arguments: Any) -> dict[str, Any]:
    return {"name": name, "vhost": host, "durable": True, "auto_delete": False, "arguments": arguments}


def exchange(name: str) -> dict[str, Any]:
    kind = {"type": "topic", "durable": True, "auto_delete": False, "internal": False}
    return {"name": name, "vhost": "/", **kind, "arguments": {}}


DEFINITIONS = {
    "queues": [
        *(queue(name) for name in ("plain", "orders", "paid", "späte", "again", "blocked")),
        queue("there", "other/host"),
        queue("full", **{"x-max-length": 1, "x-overflow": "reject-publish"}),
    ],
    "exchanges": [exchange("shop"), exchange("allowed"), exchange("forbidden")],
    "bindings": [
        {"source": source, "vhost": "/", "destination": "paid", "destination_type": "queue", "arguments": {}}
        | {"routing_key": key}
        for source, key in (("shop", "order.*"), ("allowed", "#"))
    ],
}


@dataclass(frozen=True)
class Node:
    """A node that runs, and what trusts its certificate."""

    server: RabbitMqServer
    trust: ssl.SSLContext

    @property
    def port(self) -> int:
        return self.server.process.port

    def sink(self, login: Login | None = RELAY, host: str = "") -> Broker:
        found = read_sink(f"amqp://127.0.0.1:{self.port}/{host}", login)
        assert found is not None
        return found

    def take(self, name: str, host: str = "/") -> list[tuple[Any, bytes]]:
        """Takes all messages out of a queue: their properties and bodies."""
        credentials = pika.PlainCredentials(RELAY.name, RELAY.secret)
        parameters = pika.ConnectionParameters("127.0.0.1", self.port, host, credentials)
        connection = pika.BlockingConnection(parameters)
        channel = connection.channel()
        found = []
        while True:
            method, properties, body = channel.basic_get(name, auto_ack=True)
            if method is None:
                connection.close()
                return found
            found.append((properties, body))


@pytest.fixture(scope="module")
def node(tmp_path_factory) -> Iterator[Node]:
    root, folder = rabbitmq_root(), tmp_path_factory.mktemp("rabbitmq")
    certificate, _ = self_signed(folder, "rabbit.example")
    with asyncio.Runner() as runner:
        running = rabbitmq_server(root, folder, DEFINITIONS, certificate=certificate)
        server = runner.run(running.__aenter__())
        yield Node(server, ssl.create_default_context(cafile=str(certificate)))
        runner.run(running.__aexit__(None, None, None))


def messages(count: int, name: str, **changes: Any) -> list[Message]:
    return [
        Message(destination=name, body=b"%d" % n, id=f"evt_{n}", order=f"key {n % 7}", **changes) for n in range(count)
    ]


# --- what arrives


async def test_both_content_modes_are_read_by_another_client_and_the_sdk(node):
    document = {
        **{"specversion": "1.0", "id": "A-17", "source": "/shop", "type": "com.acme.order.paid", "subject": "Ü 1"},
        **{"datacontenttype": "application/json", "partitionkey": "a", "data": {"total": 42}},
    }
    names: dict[str, Any] = {"source": "/shop", "type": "com.acme.order.paid", "subject": "Ü 1"}
    event = Event(id="evt_1", **names, time=1.0, recorded_at=1.0, body=dumps(document))
    options = {"protocolsettings": {"address": "/exchanges/shop/order.{{ event.subject }}"}}
    structured = Subscription(id="sub_1", sink="amqp://127.0.0.1", kind="rabbitmq", options=options)
    binary = replace(structured, options={**options, "content_mode": "binary"})
    to_queue = replace(structured, options={"protocolsettings": {"address": "/queues/sp%C3%A4te"}})
    made = [RabbitMq().message(event, one, base.RenderContext()) for one in (structured, binary, to_queue)]
    async with publishers() as connections:
        found = await connections.publish(node.sink(), [replace(one, order=None) for one in made], 10.0)
    assert [(one.error, one.detail) for one in found] == [(None, "confirmed")] * 3
    (late,) = await asyncio.to_thread(node.take, "späte")
    first, second = sorted(await asyncio.to_thread(node.take, "paid"), key=lambda one: one[0].content_type)
    assert json.loads(first[1]) == json.loads(late[1]) == document
    assert first[0].content_type == "application/cloudevents+json"
    for properties, _ in (first, second, late):
        assert (properties.delivery_mode, properties.message_id, properties.app_id) == (2, "evt_1", "revor-relay")
    read = sdk_amqp.from_binary(
        sdk_amqp.AMQPMessage(
            properties={"content-type": second[0].content_type},
            application_properties=second[0].headers,
            application_data=second[1],
        ),
        JSONFormat(),
    )
    assert (read.get_id(), read.get_subject(), read.get_data()) == ("A-17", "Ü 1", {"total": 42})


async def test_messages_of_a_key_are_stored_in_their_order(node):
    async with publishers() as made:
        found = await made.publish(node.sink(), messages(300, "plain"), 20.0)
    assert {one.error for one in found} == {None}
    by_key: dict[int, list[int]] = {}
    for _, body in await asyncio.to_thread(node.take, "plain"):
        by_key.setdefault(int(body) % 7, []).append(int(body))
    assert by_key == {key: list(range(key, 300, 7)) for key in range(7)}


async def test_virtual_host_has_queues_of_its_own(node):
    async with publishers() as made:
        (found,) = await made.publish(node.sink(host="other%2Fhost"), messages(1, "there"), 10.0)
        assert found.error is None
        (found,) = await made.publish(node.sink(), messages(1, "there"), 10.0)
        assert found.error == "unroutable"
    assert len(await asyncio.to_thread(node.take, "there", "other/host")) == 1


# --- what is refused


async def test_refusal_is_of_one_message_and_of_those_behind_it(node):
    """A missing exchange closes its channel: what goes to others is not lost with it."""
    given = [
        Message(destination="again", body=b"0", id="0", order="a"),
        Message(exchange="gone", destination="x", body=b"1", id="1", order="a"),
        Message(destination="again", body=b"2", id="2", order="a"),
        Message(exchange="gone", destination="x", body=b"3", id="3"),
        Message(exchange="shop", destination="nowhere", body=b"4", id="4"),
        Message(exchange="shop", destination="order.x", body=b"5", id="5"),
        Message(destination="again", body=b"6", id="6", content_type="x" * 300),
        Message(destination="again", body=b"7", id="7"),
        *(Message(exchange=f"gone {n}", destination="x", body=b"", id=f"gone {n}") for n in range(20)),
    ]
    async with publishers() as made:
        found = await made.publish(node.sink(), given, 10.0)
        words = [one.error for one in found]
        expected = [None, "unknown_exchange", "behind", "unknown_exchange", "unroutable", None, "render", None]
        assert words[:8] == expected, [one.detail for one in found]
        assert set(words[8:]) == {"unknown_exchange"}, [one.detail for one in found]
        assert found[4].detail == "no queue takes the message: bind one to the exchange"
        assert (await made.publish(node.sink(), given[:1], 10.0))[0].error is None, "channels are replaced"
    assert sorted(body for _, body in await asyncio.to_thread(node.take, "again")) == [b"0", b"0", b"7"]
    assert [body for _, body in await asyncio.to_thread(node.take, "paid")] == [b"5"]


async def test_missing_exchange_takes_no_other_with_it_however_many_there_are(node):
    """Whoever publishes events may choose the exchange: more of them than a batch has channels share one."""
    given = [
        *(Message(exchange=f"gone {n % 20}", destination="x", body=b"", id=f"gone {n}") for n in range(400)),
        *(Message(exchange="shop", destination="order.x", body=b"%d" % n, id=f"{n}", order="a") for n in range(3)),
        Message(destination="again", body=b"again", id="again"),
    ]
    async with publishers() as made:
        found = await made.publish(node.sink(), given, 10.0)
        assert [one.error for one in found] == [*["unknown_exchange"] * 400, *[None] * 4]
        assert (await made.publish(node.sink(), given[-1:], 10.0))[0].error is None
    paid = [body for _, body in await asyncio.to_thread(node.take, "paid")]
    assert list(dict.fromkeys(paid)) == [b"0", b"1", b"2"]
    assert {body for _, body in await asyncio.to_thread(node.take, "again")} == {b"again"}


async def test_full_queue_refuses_and_takes_messages_again(node):
    given = [replace(one, order="a") for one in messages(3, "full")]
    async with publishers() as made:
        found = await made.publish(node.sink(), given, 10.0)
        assert [one.error for one in found][-1] == "behind"
        assert "nack" in [one.error for one in found]
        held = await asyncio.to_thread(node.take, "full")
        assert [body for _, body in held] == [b"%d" % n for n in range(len(held))], "no later one went ahead"
        assert (await made.publish(node.sink(), given[:1], 10.0))[0].error is None
    await asyncio.to_thread(node.take, "full")


async def test_missing_permission_is_told(node):
    given = [
        Message(exchange="forbidden", destination="x", body=b"", id="1"),
        Message(exchange="allowed", destination="x", body=b"", id="2"),
    ]
    async with publishers() as made:
        found = await made.publish(node.sink(NARROW), given, 10.0)
    assert [one.error for one in found] == ["denied", None]
    await asyncio.to_thread(node.take, "paid")


@pytest.mark.parametrize(
    ("login", "host", "error", "words"),
    [
        (None, "", None, "confirmed"),
        (Login(name="relay", secret="wr0ng"), "", "credential", "does not accept"),
        (Login(name="nobody", secret="wr0ng"), "", "credential", "does not accept"),
        (RELAY, "no-such-host", "denied", "virtual host"),
        (NARROW, "other%2Fhost", "denied", "virtual host"),
    ],
)
async def test_credential_and_virtual_host(node, login, host, error, words):
    async with publishers() as made:
        (found,) = await made.publish(node.sink(login, host), messages(1, "again"), 10.0)
    assert found.error == error, found.detail
    assert words in str(found.detail)
    assert "wr0ng" not in str(found.detail)


async def test_tls_is_verified(node):
    names = Names(rabbit=("127.0.0.1",), other=("127.0.0.1",))
    right, wrong = (read_sink(f"amqps://{name}.example:{node.server.tls_port}", RELAY) for name in ("rabbit", "other"))
    assert right is not None
    assert wrong is not None
    async with publishers(tls=node.trust, resolver=names) as made:
        assert (await made.publish(right, messages(1, "again"), 10.0))[0].error is None
        (found,) = await made.publish(wrong, messages(1, "again"), 10.0)
        assert (found.error, "certificate" in str(found.detail)) == ("tls", True)
    async with publishers(resolver=names) as made:
        (found,) = await made.publish(right, messages(1, "again"), 10.0)
        assert (found.error, "certificate" in str(found.detail)) == ("tls", True)


# --- faults


async def test_blocked_broker_loses_and_repeats_nothing(node):
    """Memory or disk is short: it reads no more from connections that publish (connection.blocked)."""
    now = [0.0]
    async with publishers(now=lambda: now[0]) as made:
        assert (await made.publish(node.sink(), messages(1, "blocked"), 10.0))[0].error is None
        await node.server.set_memory_limit(0.00001)
        try:
            found = await made.publish(node.sink(), messages(20, "blocked"), 2.0)
            assert {one.error for one in found} <= {None, "blocked", "behind"}
            assert "blocked" in {one.error for one in found}
            for _ in range(3):
                now[0] += 100.0
                began = time.monotonic()
                found = await made.publish(node.sink(), messages(20, "blocked"), 600.0)
                assert {one.error for one in found} == {"blocked"}
                assert time.monotonic() - began < 60.0, "it holds no slot until the time-out"
        finally:
            await node.server.set_memory_limit(0.8)
        now[0] += 100.0
        async with asyncio.timeout(120.0):
            while any(one.error for one in await made.publish(node.sink(), messages(20, "blocked"), 10.0)):
                now[0] += 100.0
                await asyncio.sleep(0.2)
    numbers = [int(body) for _, body in await asyncio.to_thread(node.take, "blocked")]
    assert set(numbers) == set(range(20))
    assert len(numbers) <= 1 + 20 + 20, "what waited in the sockets of the broker is not stored once more"


async def test_no_event_is_lost_or_out_of_order_while_rabbitmq_is_killed_and_cut_off(node, tmp_path):
    async with Cut(free_port(), node.port) as port:

        async def stored() -> list[Stored]:
            found = await asyncio.to_thread(node.take, "orders")
            return [Stored(json.loads(body), properties.message_id) for properties, body in found]

        under_test = UnderTest(
            process=node.server.process,
            port=port,
            subscription={
                "protocol": "AMQP",
                "sink": f"amqp://127.0.0.1:{port.port}",
                "protocolsettings": {"address": "/queues/orders"},
            },
            stored=stored,
        )
        report = await check_faults(tmp_path, under_test)
    assert report.stored >= EVENTS
