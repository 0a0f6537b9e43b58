"""Apache Kafka, the real one, where Java and Maven are. Read with librdkafka, which the relay does not use."""

import asyncio
import base64
import json
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from relay.bus.publishers import Publishers
from relay.clock import wall_clock
from relay.config.settings import LOOPBACK_NETWORKS
from relay.core.access.netguard import GuardPolicy
from relay.core.deliveries.broker import Broker, Login, Message, read_sink
from tests.bus.faults import EVENTS, Stored, UnderTest, check_faults
from tests.support.brokers.cut import Cut
from tests.support.brokers.kafka import PASSWORD, USER, create_topic, kafka_process, missing, records
from tests.support.brokers.names import Names
from tests.support.brokers.process import Process, free_port
from tests.support.certificates import self_signed

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

POLICY = GuardPolicy(allow_http=True, allow_networks=LOOPBACK_NETWORKS)


@dataclass(frozen=True)
class Cluster:
    """A node that runs. `other`: a port of it whose clients are sent to the port `cut`."""

    process: Process
    other: int
    cut: int
    secure: int
    trust: ssl.SSLContext


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kafka")
    certificate, _ = self_signed(folder, "kafka.example")
    other, cut, secure = free_port(), free_port(), free_port()
    process = kafka_process(folder, other=other, advertised=f"127.0.0.1:{cut}", certificate=certificate, secure=secure)
    asyncio.run(process.start())
    yield Cluster(process, other, cut, secure, ssl.create_default_context(cafile=str(certificate)))
    process.kill()


@pytest.fixture
async def publishers(kafka):
    found = Publishers(POLICY, clock=wall_clock, resolver=Names(wrong=("127.0.0.1",)), tls=kafka.trust)
    yield found
    await found.close()


def broker(sink: str, login: Login | None = None) -> Broker:
    found = read_sink(sink, login)
    assert isinstance(found, Broker)
    return found


def message(n: int, topic: str, key: str | None = "a") -> Message:
    return Message(
        destination=topic,
        body=b"%d" % n,
        id=f"evt_{n}",
        key=key,
        headers=(("content-type", "application/json"), ("ce_subject", "ü")),
        order=key,
    )


# --- what arrives


async def test_record_has_the_key_the_headers_and_the_body(kafka, publishers):
    sink = broker(f"kafka://127.0.0.1:{kafka.process.port}")
    found = await publishers.publish(sink, [message(n, "plain", f"key {n % 5}") for n in range(100)], 30.0)
    assert {one.error for one in found} == {None}
    stored = await asyncio.to_thread(records, kafka.process.port, "plain")
    assert len(stored) == 100
    assert dict(stored[0].headers()) == {"content-type": b"application/json", "ce_subject": "ü".encode()}
    by_key: dict[bytes, list[int]] = {}
    for one in stored:
        by_key.setdefault(one.key(), []).append(int(one.value()))
    assert by_key == {f"key {k}".encode(): list(range(k, 100, 5)) for k in range(5)}


async def test_partition_of_a_key_is_that_of_other_clients(kafka, publishers):
    from confluent_kafka import Producer

    sink = broker(f"kafka://127.0.0.1:{kafka.process.port}")
    await publishers.publish(sink, [message(n, "keys", f"key {n}") for n in range(40)], 30.0)
    other = Producer({"bootstrap.servers": f"127.0.0.1:{kafka.process.port}", "partitioner": "murmur2"})
    for n in range(40):
        other.produce("keys", b"", key=f"key {n}")
    await asyncio.to_thread(other.flush, 10.0)
    partitions: dict[bytes, set[int]] = {}
    for one in await asyncio.to_thread(records, kafka.process.port, "keys"):
        partitions.setdefault(one.key(), set()).add(one.partition())
    assert len(partitions) == 40
    assert all(len(found) == 1 for found in partitions.values())


# --- credentials and TLS


def unsecured_token(subject: str) -> str:
    """A token as Kafka's validator for development takes it: RFC 7519, without a signature."""
    now = time.time()
    parts: Sequence[object] = ({"alg": "none"}, {"sub": subject, "iat": now - 1, "exp": now + 600})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + "."


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "OAUTHBEARER"])
async def test_credential_is_accepted_over_tls(kafka, publishers, mechanism):
    login = Login(name=USER, secret=PASSWORD, mechanism=mechanism)
    if mechanism == "OAUTHBEARER":
        login = Login(secret=unsecured_token(USER), mechanism=mechanism)
    sink = broker(f"kafkas://127.0.0.1:{kafka.secure}", login)
    [found] = await publishers.publish(sink, [message(1, "secure")], 30.0)
    assert (found.error, found.remote_ip) == (None, "127.0.0.1"), found.detail


@pytest.mark.parametrize(
    ("sink", "login", "error", "words"),
    [
        ("kafkas://127.0.0.1:{secure}", Login(name=USER, secret="wrong"), "credential", "does not accept"),
        (
            "kafkas://127.0.0.1:{secure}",
            Login(name=USER, secret="wrong", mechanism="SCRAM-SHA-256"),
            "credential",
            "does not accept",
        ),
        (
            "kafkas://127.0.0.1:{secure}",
            Login(secret="no token", mechanism="OAUTHBEARER"),
            "credential",
            "does not accept",
        ),
        (
            "kafkas://127.0.0.1:{secure}",
            Login(name=USER, secret=PASSWORD, mechanism="SCRAM-SHA-512"),
            "credential",
            "mechanism",
        ),
        ("kafkas://127.0.0.1:{secure}", None, "connect", "no TLS or a credential"),
        ("kafkas://wrong.example:{secure}", Login(name=USER, secret=PASSWORD), "tls", "certificate"),
        ("kafkas://127.0.0.1:{open}", None, "connect", "no TLS or a credential"),
        ("kafka://127.0.0.1:{secure}", None, "protocol|connect", "TLS"),
    ],
)
async def test_connection_that_fails_says_why(kafka, publishers, sink, login, error, words):
    text = sink.format(secure=kafka.secure, open=kafka.process.port)
    [found] = await publishers.publish(broker(text, login), [message(1, "secure")], 15.0)
    assert str(found.error) in error.split("|"), found.detail
    assert words in str(found.detail)
    assert PASSWORD not in str(found.detail)


# --- faults


async def test_no_event_is_lost_or_out_of_order_while_kafka_is_killed_and_cut_off(kafka, tmp_path):
    await asyncio.to_thread(create_topic, kafka.process.port, "orders")
    async with Cut(kafka.cut, kafka.other) as port:

        async def stored() -> list[Stored]:
            return [
                Stored(json.loads(one.value()), dict(one.headers())["webhook-id"].decode())
                for one in await asyncio.to_thread(records, kafka.process.port, "orders", patience_seconds=30.0)
            ]

        under_test = UnderTest(
            process=kafka.process,
            port=port,
            subscription={
                "protocol": "KAFKA",
                "sink": f"kafka://127.0.0.1:{kafka.cut}",
                "protocolsettings": {"topicname": "orders"},
            },
            stored=stored,
        )
        report = await check_faults(tmp_path, under_test)
    assert report.stored >= EVENTS
    assert report.repeated == [], "what was in doubt is stored once"
