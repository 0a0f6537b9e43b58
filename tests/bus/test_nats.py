"""NATS JetStream, the real server, read with nats-py."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import nkeys
import pytest

from relay.core.deliveries.broker import Broker, Login, Message, read_sink
from relay.core.events.event import Event
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import Subscription
from subscribers import base
from subscribers.nats import Nats
from tests.bus.faults import EVENTS, Stored, UnderTest, check_faults
from tests.support.brokers.cut import Cut
from tests.support.brokers.names import Names
from tests.support.brokers.nats import nats_server
from tests.support.brokers.peers import publishers
from tests.support.brokers.process import Process, free_port
from tests.support.certificates import self_signed

SEED = b"SUAEL6GG2L2HIF7DUGZJGMRUFKXELGGYFMHF76UO2AYBG3K4YLWR3FKC2Q"
OTHER_SEED = nkeys.encode_seed(b"x" * 32, nkeys.PREFIX_BYTE_USER).decode()
ACCESS = """
max_payload: 4000
authorization { users = [
  {user: relay, password: "s3cr3t/%:@"}
  {nkey: KEY}
  {user: narrow, password: n, permissions: {publish: ["orders.allowed", "$JS.>"], subscribe: ["_INBOX.>"]}}
  {user: deaf, password: d, permissions: {publish: [">"], subscribe: ["orders.>"]}}
] }
"""
RELAY = Login(name="relay", secret="s3cr3t/%:@")


def broker(port: int, login: Login | None = None, scheme: str = "nats", host: str = "127.0.0.1") -> Broker:
    found = read_sink(f"{scheme}://{host}:{port}", login)
    assert found is not None
    return found


def messages(count: int, subject: str = "orders.a", **changes: Any) -> list[Message]:
    return [
        Message(
            destination=subject, body=b"%d" % n, id=f"evt_{n}", delivery=f"dlv_{n}", order=f"key {n % 7}", **changes
        )
        for n in range(count)
    ]


@asynccontextmanager
async def client(port: int, **options: Any) -> AsyncIterator[Any]:
    made = await nats.connect(f"nats://127.0.0.1:{port}", **options)
    try:
        yield made.jetstream()
    finally:
        await made.close()


async def add_stream(port: int, **settings: Any) -> None:
    async with client(port) as jetstream:
        await jetstream.add_stream(**{"name": "ORDERS", "subjects": ["orders.>"], **settings})


async def stored(port: int, **options: Any) -> Sequence[Any]:
    """All messages of the stream, in its order."""
    async with client(port, **options) as jetstream:
        count = (await jetstream.stream_info("ORDERS")).state.messages
        reader = await jetstream.pull_subscribe("orders.>", stream="ORDERS")
        found: list[Any] = []
        while len(found) < count:
            fetched = await reader.fetch(min(500, count - len(found)), timeout=120)
            for one in fetched:
                await one.ack()  # of a thousand that are not, the server sends no more
            found += fetched
        return found


@asynccontextmanager
async def server_with_access(folder: Path) -> AsyncIterator[Process]:
    key = nkeys.from_seed(SEED).public_key.decode()
    (folder / "nats.conf").write_text(ACCESS.replace("KEY", key))
    async with nats_server(folder, "-c", str(folder / "nats.conf")) as server:
        async with client(server.port, user=RELAY.name, password=RELAY.secret) as jetstream:
            await jetstream.add_stream(name="ORDERS", subjects=["orders.>"], max_msg_size=2000)
        yield server


# --- what arrives


async def test_message_is_stored_once_with_its_headers_and_in_order(tmp_path):
    async with nats_server(tmp_path) as server, publishers() as made:
        await add_stream(server.port)
        given = messages(200, headers=(("content-type", "application/json"),))
        first = await made.publish(broker(server.port), given, 10.0)
        again = await made.publish(broker(server.port), given[:5], 10.0)
        assert {one.error for one in (*first, *again)} == {None}
        assert first[0].detail == "stream ORDERS, sequence 1"
        assert again[0].detail == "stream ORDERS, sequence 1, which had it already"
        found = await stored(server.port)
    assert len(found) == 200, "a repeated message is dropped by its Nats-Msg-Id"
    assert found[0].headers == {"content-type": "application/json", "Nats-Msg-Id": "dlv_0"}
    by_key: dict[int, list[int]] = {}
    for one in found:
        by_key.setdefault(int(one.data) % 7, []).append(int(one.data))
    assert by_key == {key: list(range(key, 200, 7)) for key in range(7)}


async def test_both_content_modes_are_read_from_the_stream(tmp_path):
    document = {
        **{"specversion": "1.0", "id": "A-17", "source": "/shop", "type": "com.acme.order.paid", "subject": "Ü 1"},
        **{"datacontenttype": "application/json", "partitionkey": "a", "data": {"total": 42}},
    }
    names: dict[str, Any] = {"source": "/shop", "type": "com.acme.order.paid", "subject": "Ü 1"}
    event = Event(id="evt_1", **names, time=1.0, recorded_at=1.0, body=dumps(document))
    subscription = Subscription(
        id="sub_1",
        sink="nats://127.0.0.1",
        kind="nats",
        options={"protocolsettings": {"subject": "orders.{{ event.type }}"}},
    )
    binary = replace(subscription, options={**subscription.options, "content_mode": "binary"})
    made = [
        replace(Nats().message(event, one, base.RenderContext()), id=id)
        for one, id in ((subscription, "evt_1"), (binary, "evt_2"))
    ]
    async with nats_server(tmp_path) as server, publishers() as connections:
        await add_stream(server.port)
        assert [one.error for one in await connections.publish(broker(server.port), made, 10.0)] == [None, None]
        structured, data = await stored(server.port)
    assert structured.subject == data.subject == "orders.com.acme.order.paid"
    assert json.loads(structured.data) == document
    assert structured.headers == {
        **{"content-type": "application/cloudevents+json", "webhook-id": "evt_1"},
        **{"Nats-Msg-Id": "evt_1"},
    }
    assert json.loads(data.data) == {"total": 42}
    assert data.headers["ce-id"] == "A-17"
    assert data.headers["ce-subject"] == "%C3%9C%201"
    assert data.headers["ce-datacontenttype"] == "application/json"


# --- what is refused


async def test_refusal_is_of_one_message_and_of_those_behind_it(tmp_path):
    async with server_with_access(tmp_path) as server, publishers() as made:
        sink = broker(server.port, RELAY)
        given = [
            Message(destination="orders.a", body=b"1", id="1", order="a"),
            Message(destination="nowhere", body=b"2", id="2", order="a"),
            Message(destination="orders.a", body=b"3", id="3", order="a"),
            Message(destination="orders.a", body=b"x" * 3000, id="4"),
            Message(destination="orders.a", body=b"x" * 3990, id="5"),
            Message(destination="orders.a", body=b"6", id="6", headers=(("a", "\ud800"),)),
            Message(destination="orders.a", body=b"7", id="7"),
        ]
        found = await made.publish(sink, given, 10.0)
        words = [one.error for one in found]
        assert words == [None, "no_stream", "behind", "too_large", "too_large", "render", None]
        assert found[1].detail == "no stream has this subject, or JetStream is off: add one"
        assert "max_payload" in str(found[4].detail), "headers count"
        assert (await made.publish(sink, given[:1], 10.0))[0].error is None, "the connection goes on"


async def test_full_stream_refuses_and_takes_messages_again(tmp_path):
    async with nats_server(tmp_path) as server, publishers() as made:
        await add_stream(server.port, max_msgs=2, discard="new")
        found = await made.publish(broker(server.port), messages(3), 10.0)
        assert sorted(str(one.error) for one in found) == ["None", "None", "nack"]
        assert any("maximum messages exceeded" in str(one.detail) for one in found)
        async with client(server.port) as jetstream:
            await jetstream.purge_stream("ORDERS")
        assert (await made.publish(broker(server.port), messages(1), 10.0))[0].error is None


@pytest.mark.parametrize(
    ("login", "subject", "words"),
    [
        (Login(name="narrow", secret="n"), "orders.Forbidden", "may not publish to the subject"),
        (Login(name="deaf", secret="d"), "orders.a", "may not subscribe to _INBOX.>"),
    ],
)
async def test_missing_permission_is_told_at_once(tmp_path, login, subject, words):
    async with server_with_access(tmp_path) as server, publishers() as made:
        async with asyncio.timeout(60.0):  # not when the time of the attempt is over
            (found,) = await made.publish(broker(server.port, login), messages(1, subject), 600.0)
        assert (found.error, words in str(found.detail)) == ("denied", True), found
        if login.name == "narrow":
            (found,) = await made.publish(broker(server.port, login), messages(1, "orders.allowed"), 10.0)
            assert found.error is None


@pytest.mark.parametrize(
    ("login", "error"),
    [
        (RELAY, None),
        (Login(secret=SEED.decode(), mechanism="NKEY"), None),
        (None, "credential"),
        (Login(name="relay", secret="wrong"), "credential"),
        (Login(secret="a token"), "credential"),
        (Login(secret=OTHER_SEED, mechanism="NKEY"), "credential"),
        (Login(secret="SU", mechanism="NKEY"), "credential"),
    ],
)
async def test_credential(tmp_path, login, error):
    async with server_with_access(tmp_path) as server, publishers() as made:
        (found,) = await made.publish(broker(server.port, login), messages(1), 10.0)
    assert found.error == error, found.detail
    assert not any(secret in str(found.detail) for secret in ("s3cr3t", "wrong", "a token", "SU"))


async def test_token(tmp_path):
    async with nats_server(tmp_path, "--auth", "s3cr3t") as server, publishers() as made:
        async with client(server.port, token="s3cr3t") as jetstream:
            await jetstream.add_stream(name="ORDERS", subjects=["orders.>"])
        right, wrong = Login(secret="s3cr3t"), Login(secret="no")
        assert (await made.publish(broker(server.port, right), messages(1), 10.0))[0].error is None
        assert (await made.publish(broker(server.port, wrong), messages(1), 10.0))[0].error == "credential"


async def test_tls_is_verified(tmp_path):
    certificate, _ = self_signed(tmp_path, "nats.example")
    options = ("--tls", "--tlscert", str(certificate), "--tlskey", str(certificate))
    names = Names(nats=("127.0.0.1",), other=("127.0.0.1",))
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with nats_server(tmp_path, *options) as server:
        async with publishers(tls=trusting, resolver=names) as made:
            (found,) = await made.publish(broker(server.port, scheme="tls", host="nats.example"), messages(1), 10.0)
            assert found.error == "no_stream"
            (found,) = await made.publish(broker(server.port, scheme="tls", host="other.example"), messages(1), 10.0)
            assert (found.error, "certificate" in str(found.detail)) == ("tls", True)
        async with publishers(resolver=names) as made:
            (found,) = await made.publish(broker(server.port, scheme="tls", host="nats.example"), messages(1), 10.0)
            assert (found.error, "certificate" in str(found.detail)) == ("tls", True)


async def test_second_address_is_used_while_the_first_is_down(tmp_path):
    async with nats_server(tmp_path) as server, publishers() as made:
        await add_stream(server.port)
        sink = read_sink(f"nats://127.0.0.1:{free_port()},127.0.0.1:{server.port}")
        assert sink is not None
        assert (await made.publish(sink, messages(1), 10.0))[0].error is None


# --- faults


async def test_no_event_is_lost_or_out_of_order_while_nats_is_killed_and_cut_off(tmp_path):
    folder = tmp_path / "nats"
    folder.mkdir()
    async with nats_server(folder) as server, Cut(free_port(), server.port) as port:
        await add_stream(server.port)

        async def read() -> list[Stored]:
            return [Stored(json.loads(one.data), one.headers["webhook-id"]) for one in await stored(server.port)]

        under_test = UnderTest(
            process=server,
            port=port,
            subscription={
                "protocol": "NATS",
                "sink": f"nats://127.0.0.1:{port.port}",
                "protocolsettings": {"subject": "orders.{{ event.type }}"},
            },
            stored=read,
        )
        report = await check_faults(tmp_path, under_test)
    assert report.stored >= EVENTS
    assert report.repeated == [], "JetStream drops what it has"
