"""Publishing to three nodes that librdkafka plays in this process, so also where there is no Java."""

from collections import defaultdict

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from relay.bus.publishers import Publishers
from relay.clock import wall_clock
from relay.config.settings import LOOPBACK_NETWORKS
from relay.core.access.netguard import GuardPolicy
from relay.core.deliveries.broker import Broker, Message, read_sink
from tests.support.brokers.names import Names

EVENTS, KEYS, PARTITIONS = 1000, 20, 4


@pytest.fixture
def nodes():
    """The addresses of the nodes. They run for as long as their producer is there."""
    owner = Producer({"test.mock.num.brokers": 3, "bootstrap.servers": "ignored", "log_level": 0})
    found = owner.list_topics(timeout=10.0).brokers.values()
    yield [f"127.0.0.1:{node.port}" for node in found]
    del owner


async def test_events_reach_their_partitions_on_all_nodes_in_order(nodes):
    publishers = Publishers(
        GuardPolicy(allow_http=True, allow_networks=LOOPBACK_NETWORKS), clock=wall_clock, resolver=Names()
    )
    sink = read_sink(f"kafka://{','.join(nodes)}")
    assert isinstance(sink, Broker)
    messages = [
        Message(destination="orders", body=b"%d" % n, id=f"evt_{n}", key=f"key {n % KEYS}", order=f"key {n % KEYS}")
        for n in range(EVENTS)
    ]
    for start in range(0, EVENTS, 250):
        responses = await publishers.publish(sink, messages[start : start + 250], 20.0)
        assert {one.error for one in responses} == {None}, responses[0].detail
    await publishers.close()
    by_key: dict[bytes, list[int]] = defaultdict(list)
    for one in read(nodes):
        by_key[one.key()].append(int(one.value()))
    assert by_key == {f"key {k}".encode(): list(range(k, EVENTS, KEYS)) for k in range(KEYS)}


def read(nodes):
    """All records, in the order of each partition."""
    reader = Consumer({"bootstrap.servers": ",".join(nodes), "group.id": "reader", "log_level": 0})
    reader.assign([TopicPartition("orders", partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)])
    found = []
    while len(found) < EVENTS:
        more = reader.consume(num_messages=EVENTS - len(found), timeout=10.0)
        assert more, f"{len(found)} of {EVENTS} records"
        found += more
    reader.close()
    assert {one.partition() for one in found} == set(range(PARTITIONS))
    return found
