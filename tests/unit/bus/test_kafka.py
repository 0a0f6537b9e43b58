"""Publishing to Kafka: what a broker answers, what it keeps to itself, and what it says about other nodes."""

import asyncio
import ssl
import struct
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from unittest.mock import Mock

import pytest

from relay.bus import kafka as module
from relay.bus import kafka_wire as wire
from relay.bus.publishers import CannotConnect, Publishers
from relay.core.access.netguard import GuardPolicy
from relay.core.deliveries.broker import Broker, Login, Message, read_sink
from tests.support.brokers.fake_kafka import HANG_UP, IDENTITY, METADATA, PRODUCE, SILENT, VERSIONS, FakeKafka
from tests.support.brokers.names import Names
from tests.support.certificates import self_signed

POLICY = GuardPolicy(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"),), own_address=("127.0.0.1", 8080))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "PAUSES", (0.0,) * 5)


class World:
    """A fake node and the connections of a relay."""

    def __init__(self, node: FakeKafka, **names: tuple[str, ...]) -> None:
        self.node = node
        self.now = 0.0
        self.publishers = Publishers(POLICY, clock=lambda: 1.0, resolver=Names(**names), now=lambda: self.now)

    def broker(self, login: Login | None = None) -> Broker:
        found = read_sink(f"kafka://127.0.0.1:{self.node.port}", login)
        assert found is not None
        return found

    async def publish(self, *messages: Message, seconds: float = 5.0, login: Login | None = None) -> list[str | None]:
        found = await self.publishers.publish(self.broker(login), messages, seconds)
        self.details = [one.detail for one in found]
        self.now += 100.0  # no pause is left
        return [one.error for one in found]

    @property
    def values(self) -> list[bytes]:
        return [value for _, _, value in self.node.stored]


@asynccontextmanager
async def opened(node: FakeKafka | None = None, **names: tuple[str, ...]):
    async with node or FakeKafka() as node:
        world = World(node, **names)
        yield world
        await world.publishers.close()


def message(n: int, key: str | None = "a", topic: str = "orders", body: bytes | None = None) -> Message:
    return Message(destination=topic, body=body or b"%d" % n, id=f"evt_{n}", key=key, order=key)


# --- what is stored


async def test_messages_of_one_key_are_stored_in_their_order():
    async with opened(FakeKafka(topics={"orders": [1, 1, 1, 1]})) as world:
        await asyncio.gather(*(world.publish(*(message(n, f"key {n % 7}") for n in range(50))) for _ in range(3)))
        assert len(world.values) == 150
        by_key: dict[bytes, list[int]] = {}
        places = {(key, partition) for partition, key, _ in world.node.stored}
        assert len(places) == 7, "each key has one partition"
        for _, key, value in world.node.stored:
            by_key.setdefault(key or b"", []).append(int(value))
        assert all(found == sorted(set(found)) * 3 for found in by_key.values())


@pytest.mark.parametrize("step", [HANG_UP, SILENT])
async def test_batch_whose_answer_is_lost_is_stored_once(step):
    async with opened(FakeKafka(steps=[step])) as world:
        first = await world.publish(message(1), message(2), seconds=0.3)
        assert first == ([None, None] if step == HANG_UP else ["timeout", "timeout"])
        assert await world.publish(message(1), message(2), message(3)) == [None] * 3
        assert sorted(set(world.values)) == [b"1", b"2", b"3"]
        if step == SILENT:
            assert world.values == [b"1", b"2", b"3"], "the second attempt knew what was unacknowledged"
            assert world.details[:2] == ["stored by an earlier attempt"] * 2


async def test_unacknowledged_batch_is_settled_by_the_next_one_and_not_sent_again_after_it():
    async with opened(FakeKafka(steps=[SILENT])) as world:
        await world.publish(message(1), seconds=0.3)
        assert await world.publish(message(2, "b")) == [None]
        assert await world.publish(message(1), message(3)) == [None, None]
        assert world.values == [b"1", b"2", b"3"]


async def test_same_message_of_another_subscription_is_not_lost():
    async with opened(FakeKafka(steps=[SILENT])) as world:
        await world.publish(message(1), seconds=0.3)
        await world.publish(message(1, body=b"another shape"))
        await world.publish(message(1))
        await world.publish(message(1))
        assert world.values == [b"1", b"another shape", b"1"]


async def test_unacknowledged_message_stands_for_its_own_delivery_only():
    """Two subscriptions with one topic, or a replay, make records that are the same but for their deliveries."""
    first, other = replace(message(1), delivery="dlv_1"), replace(message(1), delivery="dlv_1.1")
    async with opened(FakeKafka(steps=[SILENT])) as world:
        await world.publish(first, seconds=0.3)
        assert await world.publish(other) == [None]
        assert world.values == [b"1", b"1"]
        assert await world.publish(first) == [None]
        assert world.values == [b"1", b"1"]


async def test_time_out_while_the_broker_makes_an_identity_leaves_nothing_unacknowledged():
    async with opened() as world:
        world.node.raw[IDENTITY] = b""
        assert await world.publish(message(1), seconds=0.3) == ["timeout"]
        del world.node.raw[IDENTITY]
        assert await world.publish(message(2)) == [None]
        assert world.values == [b"2"]


@pytest.mark.parametrize("code", [45, 47, 59])
async def test_producer_that_the_broker_has_forgotten_becomes_another(code):
    async with opened(FakeKafka(steps=[0, code])) as world:
        assert await world.publish(message(1)) == [None]
        assert await world.publish(message(2)) == [None]
        assert await world.publish(message(3)) == [None]
        assert world.values == [b"1", b"2", b"3"]
        assert world.node.batches == [(1001, 0, 1), (1001, 1, 1), (1002, 0, 1), (1002, 1, 1)]


@pytest.mark.parametrize("code", [3, 5, 6, 7, 19, 20, 56])
async def test_error_that_passes_is_tried_again_with_the_same_numbers(code):
    async with opened(FakeKafka(steps=[code, code])) as world:
        assert await world.publish(message(1)) == [None]
        assert world.node.batches == [(1001, 0, 1)] * 3


@pytest.mark.parametrize(
    ("code", "error"),
    [(29, "denied"), (31, "denied"), (17, "unknown_topic"), (87, "nack"), (44, "nack"), (999, "nack")],
)
async def test_refusal_fails_this_attempt_and_no_later_event_takes_its_numbers(code, error):
    async with opened(FakeKafka(steps=[code])) as world:
        assert await world.publish(message(1), message(2, "b")) == [error, error]
        assert await world.publish(message(3)) == [None]
        assert world.node.batches[-1] == (1002, 0, 1)


async def test_batch_that_is_too_large_is_divided_and_only_a_message_that_is_too_large_fails():
    async with opened(FakeKafka(max_records=3)) as world:
        assert await world.publish(*(message(n, f"key {n}") for n in range(20))) == [None] * 20
        assert world.values == [b"%d" % n for n in range(20)]
        world.node.max_records = 0
        assert await world.publish(message(1), message(2), message(3, "b")) == ["too_large", "behind", "too_large"]


async def test_partitions_of_a_node_are_stored_in_one_request():
    async with opened(FakeKafka(topics={"orders": [1] * 12})) as world:
        assert await world.publish(*(message(n, f"key {n}") for n in range(100))) == [None] * 100
        assert world.node.requests.count(PRODUCE) == 1
        assert len({partition for partition, _, _ in world.node.stored}) == 12


async def test_a_request_that_breaks_ends_the_wait_of_each_of_its_lanes(monkeypatch):
    async with opened(FakeKafka(topics={"orders": [1] * 12})) as world:
        monkeypatch.setattr(wire, "stored", Mock(side_effect=KeyError("an answer of another shape")))
        found = await world.publish(*(message(n, f"key {n}") for n in range(100)), seconds=60.0)
        assert set(found) == {"protocol"}


async def test_topic_that_is_missing_fails_alone():
    async with opened() as world:
        assert await world.publish(message(1, topic="none"), message(2, "b"), message(3, "c", topic="none")) == [
            "unknown_topic",
            None,
            "unknown_topic",
        ]
        asked = world.node.requests.count(METADATA)
        await world.publish(message(1, topic="none"))
        assert world.node.requests.count(METADATA) == asked, "it is not asked for again at once"


async def test_partition_without_a_leader_takes_no_other_with_it():
    async with opened(FakeKafka(topics={"orders": [1, -1]})) as world:
        found = await world.publish(*(message(n, f"key {n}") for n in range(10)))
        assert set(found) == {None, "nack"}
        assert len(world.values) == found.count(None)
        assert len(world.node.requests) < 20, "metadata are not asked for again and again"


async def test_broker_that_goes_away_is_left_alone_and_tried_again_later():
    async with opened() as world:
        await world.publish(message(1))
        await world.node.__aexit__()
        assert await world.publish(message(2)) == ["connect"]
        world.now -= 100.0
        assert await world.publish(message(2)) == ["connect"]
        await world.node.__aenter__()
        world.now -= 100.0
        assert await world.publish(message(2)) == ["connect"], "the pause is not over"
        assert await world.publish(message(2)) == [None]


async def test_memory_stays_bounded_while_templates_name_ever_new_topics(monkeypatch):
    monkeypatch.setattr(module, "MAX_TOPICS", 10)
    monkeypatch.setattr(module, "MAX_LANES", 20)
    async with opened() as world:
        world.node.topics = {f"t{n}": [1] for n in range(60)}
        for n in range(60):
            assert await world.publish(message(n, topic=f"t{n}")) == [None]
        kafka = world.publishers._links[world.broker()].publisher
        assert len(kafka._topics) <= 10
        assert len(kafka._lanes) <= 20


async def test_memory_stays_bounded_although_topics_have_many_partitions(monkeypatch):
    monkeypatch.setattr(module, "MAX_PARTITIONS", 100)
    async with opened(FakeKafka(topics={f"t{n}": [1] * 40 for n in range(5)} | {"large": [1] * 500})) as world:
        for topic in ("t0", "t1", "t2", "large", "t3", "t4"):
            assert await world.publish(message(1, topic=topic)) == [None]
            kafka = world.publishers._links[world.broker()].publisher
            kept = {name: len(one.leaders) for name, one in kafka._topics.items()}
            assert topic in kept
            assert sum(kept.values()) <= 100 or list(kept) == ["large"]


@pytest.mark.parametrize("kept", ["_lanes", "_links"])
async def test_what_a_task_waits_for_is_kept_while_it_passes_to_the_task(monkeypatch, kept):
    """Between the release of a lock and its next holder it is not locked."""
    monkeypatch.setattr(module, "MAX_LANES", 10)
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 1)
    async with opened(FakeKafka(topics={"orders": [1], "others": [1]})) as world:
        assert await world.publish(message(1)) == [None]
        kafka = world.publishers._links[world.broker()].publisher
        [(place, one)] = getattr(kafka, kept).items()
        await one.lock.acquire()
        work = kafka._in_lane(place, [0], [message(2)], [None]) if kept == "_lanes" else kafka._to(place)
        waits = asyncio.create_task(work)
        await asyncio.sleep(0)
        one.lock.release()  # the waiter runs in the next turn of the loop
        if kept == "_lanes":
            for partition in range(10):
                kafka._lane(wire.Place("others", partition))
            assert len(kafka._lanes) <= 10
        else:
            kafka._links[("127.0.0.1", 1)] = module._Link()
            with pytest.raises(CannotConnect):
                await kafka._to(("127.0.0.1", 2))
        assert getattr(kafka, kept)[place] is one
        await waits


async def test_messages_known_to_be_stored_are_bounded_over_all_partitions(monkeypatch):
    monkeypatch.setattr(module, "MAX_SETTLED", 2)
    async with opened(FakeKafka(topics={f"t{n}": [1] for n in range(5)})) as world:
        for n in range(5):
            world.node.steps = [SILENT]
            unanswered = asyncio.create_task(world.publish(message(n, topic=f"t{n}"), seconds=60.0))
            await world.node.unanswered.wait()
            world.node.unanswered.clear()
            unanswered.cancel()
            await asyncio.gather(unanswered, return_exceptions=True)
            assert await world.publish(message(10 + n, topic=f"t{n}"), seconds=60.0) == [None]
        kafka = world.publishers._links[world.broker()].publisher
        assert len(kafka._settled) == 2
        assert await world.publish(message(4, topic="t4")) == [None]
        assert world.details == ["stored by an earlier attempt"]


# --- hostile nodes


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("169.254.169.254", 9092, "not public"),
        ("10.0.0.1", 9092, "not public"),
        ("fd00::1", 9092, "PERMITTED|public"),
        ("127.0.0.1", 8080, "itself"),
        ("inside.example", 9092, "not public"),
        ("h" * 5000, 9092, "malformed|name"),
        ("example.com/.inside.example", 9092, "malformed"),
        ("127.0.0.1", 0, "port"),
        ("127.0.0.1", -5, "port"),
        ("", 9092, "malformed"),
    ],
)
async def test_advertised_address_that_is_forbidden_is_refused_in_plain_words(host, port, said):
    async with opened(inside=("10.1.2.3",)) as world:
        world.node.brokers = {1: (host, port)}
        assert await world.publish(message(1)) == ["refused"]
        [detail] = world.details
        assert detail.startswith("an address that the broker advertises: ")
        assert any(word in detail for word in said.split("|")), detail
        assert "10.1.2.3" not in detail
        assert len(detail) <= 500
        assert PRODUCE not in world.node.requests


async def test_forbidden_node_does_not_take_the_others_with_it():
    async with opened(FakeKafka(topics={"orders": [1], "inside": [2]})) as world:
        world.node.brokers = {1: ("127.0.0.1", world.node.port), 2: ("10.0.0.1", 9092)}
        assert await world.publish(message(1), message(2, topic="inside")) == [None, "refused"]
        assert await world.publish(message(3)) == [None]


@pytest.mark.parametrize("api", [VERSIONS, METADATA, IDENTITY, PRODUCE])
@pytest.mark.parametrize(
    ("raw", "errors"),
    [
        (struct.pack(">i", 2**31 - 1) + b"x" * 100, ("protocol",)),
        (struct.pack(">i", -1), ("protocol",)),
        (struct.pack(">ii", 4, 77), ("protocol", "connect", "read")),
        (struct.pack(">i", 40) + b"\xff" * 40, ("protocol", "connect", "read")),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ("protocol",)),
    ],
)
async def test_garbage_ends_the_connection_and_not_the_relay(api, raw, errors):
    async with opened() as world:
        world.node.raw[api] = raw
        [error] = await world.publish(message(1))
        assert error in errors, world.details
        world.node.raw.clear()
        assert await world.publish(message(1)) == [None]


async def test_answer_that_comes_byte_by_byte_is_given_up_with_the_attempt(monkeypatch):
    async with opened() as world:
        world.node.raw[METADATA] = struct.pack(">i", 1000) + b"x"
        assert await world.publish(message(1), seconds=0.2) == ["timeout"]
        assert world.details == ["no connection in time"]


# --- credentials and TLS


@pytest.mark.parametrize(("advertised", "error"), [("first.example", None), ("other.example", "tls")])
async def test_certificate_must_be_for_the_name_that_the_broker_advertises(tmp_path, advertised, error):
    certificate, context = self_signed(tmp_path, "first.example")
    async with FakeKafka(tls=context) as node:
        node.brokers = {1: (advertised, node.port)}
        found = Publishers(
            POLICY,
            clock=lambda: 1.0,
            resolver=Names(first=("127.0.0.1",), other=("127.0.0.1",)),
            tls=ssl.create_default_context(cafile=str(certificate)),
        )
        sink = read_sink(f"kafkas://first.example:{node.port}")
        assert isinstance(sink, Broker)
        [response] = await found.publish(sink, [message(1)], 5.0)
        await found.close()
        assert response.error == error, response.detail
        assert (PRODUCE in node.requests) == (error is None)


async def test_password_is_not_sent_without_tls():
    async with opened() as world:
        for mechanism in ("PLAIN", "OAUTHBEARER"):
            login = Login(name="relay", secret="s3cr3t", mechanism=mechanism)
            assert await world.publish(message(1), login=login) == ["credential"]
            assert "use kafkas:// (TLS), or SCRAM" in world.details[0]
        assert world.node.requests == []


@pytest.mark.parametrize(
    ("mechanism", "first", "error", "detail"),
    [
        ("SCRAM-SHA-256", None, "credential", "the broker does not accept the credential"),
        ("SCRAM-SHA-512", None, "credential", "the broker does not take this mechanism of SASL on this port"),
        ("SCRAM-SHA-256", b"r=%s,s=c2FsdA==,i=2000000000", "protocol", "2,000,000,000 rounds"),
        ("SCRAM-SHA-256", b"r=%s,s=c2FsdA==,i=1", "protocol", "asks for 1 rounds"),
        ("SCRAM-SHA-256", b"r=other,s=c2FsdA==,i=4096", "protocol", "makes no sense"),
        ("SCRAM-SHA-256", b"\xff\xfe", "protocol", "makes no sense"),
    ],
)
async def test_login_that_fails_says_why_without_the_secret(mechanism, first, error, detail):
    def secrets(said: bytes) -> bytes | None:
        nonce = said.rpartition(b"r=")[2]
        return first % nonce if first is not None and b"%s" in first else first

    async with opened(FakeKafka(secrets=secrets)) as world:
        login = Login(name="relay", secret="s3cr3t", mechanism=mechanism)
        assert await world.publish(message(1), login=login) == [error]
        assert detail in world.details[0]
        assert "s3cr3t" not in world.details[0]


# --- the wire


def test_partitions_of_keys_are_those_of_other_clients():
    """From the tests of Kafka's own client (`UtilsTest.testMurmur2`)."""
    known = {"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536}
    assert {key: wire.hash_of(key) for key in known} == {key: number & 0x7FFFFFFF for key, number in known.items()}
