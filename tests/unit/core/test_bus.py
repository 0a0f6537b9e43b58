"""Brokers and messages: what a sink names, what the guard says, and the order of failures."""

import pytest

from relay.core.access.netguard import GuardPolicy
from relay.core.deliveries.broker import (
    Broker,
    Login,
    Message,
    Published,
    order_of,
    origin_of_broker,
    protocol_of,
    read_sink,
    refusal_of_broker,
    refusal_of_host,
    scheme_of,
    unsent_behind,
)
from relay.core.subscriptions.subscription import Subscription
from tests.support.store_kit import job_event

ACKNOWLEDGED = Published(detail="stored")


@pytest.mark.parametrize(
    ("sink", "broker"),
    [
        ("kafka://a.example", Broker(protocol="KAFKA", addresses=(("a.example", 9092),), secure=False)),
        (
            "kafkas://A.example:1,[2001:DB8::1]:2,b.example/",
            Broker(
                protocol="KAFKA", addresses=(("a.example", 1), ("2001:db8::1", 2), ("b.example", 9093)), secure=True
            ),
        ),
        ("nats://a.example", Broker(protocol="NATS", addresses=(("a.example", 4222),), secure=False)),
        ("tls://a.example:4443", Broker(protocol="NATS", addresses=(("a.example", 4443),), secure=True)),
        ("amqp://a.example", Broker(protocol="AMQP", addresses=(("a.example", 5672),), secure=False)),
        (
            "amqps://a.example/sales%2Feu",
            Broker(protocol="AMQP", addresses=(("a.example", 5671),), secure=True, virtual_host="sales/eu"),
        ),
    ],
)
def test_sink_names_a_broker(sink, broker):
    assert read_sink(sink) == broker


@pytest.mark.parametrize(
    "sink",
    [
        *("https://a.example", "kafka:a.example", "kafka://", "kafka:///x", "kafka://a.example/topic", "kafka://a b"),
        *("nats://user:secret@a.example", "nats://a.example?x=1", "amqp://a.example#x", "kafka://a.example:0"),
        *("kafka://a.example:65536", "kafka://a,,b", "kafka://ü.example", "nats://a.example/x"),
        "kafka://" + ",".join(f"a{n}.example" for n in range(17)),
    ],
)
def test_other_sinks_name_none(sink):
    assert read_sink(sink) is None


@pytest.mark.parametrize(
    ("sink", "why"),
    [
        ("https://a.example", "names no broker"),
        ("kafkas://" + "a" * 2048, "at most 2048 characters"),
        ("kafkas://a.example\n", "white space"),
        ("kafkas://a.example,b\u3002example", "address 2 is malformed"),
        ("amqps://a.example/\ud800", "white space"),
        ("amqps://a.example/%0A", "virtual host"),
        ("kafka://a.example,10.0.0.1", "address 1: kafka:// has no TLS: use kafkas://"),
        ("amqp://a.example", "amqp:// has no TLS: use amqps://"),
        ("kafka://10.0.0.1", "not public"),
        ("kafkas://a.example,10.0.0.1", "address 2: address 10.0.0.1 is in 10.0.0.0/8"),
    ],
)
def test_refusal_of_a_broker_says_which_address_and_why(sink, why):
    assert why in str(refusal_of_broker(sink, GuardPolicy()))


def test_broker_that_the_guard_allows_is_not_refused():
    assert refusal_of_broker("kafkas://a.example,b.example:9092", GuardPolicy()) is None


def test_credential_is_bound_to_all_addresses_and_the_virtual_host():
    assert origin_of_broker("KAFKAS://A.example,b.example") == "kafkas://a.example:9093,b.example:9093/%2F"
    assert origin_of_broker("amqps://a.example/sales") == "amqps://a.example:5671/sales"
    assert origin_of_broker("https://a.example") is None


def test_scheme_is_read_of_any_text():
    assert [scheme_of(sink) for sink in ("KAFKA://a", "x", "http://[")] == ["kafka", "", "http"]
    assert [protocol_of(sink) for sink in ("KAFKA://a", "tls://a", "amqps://a", "https://a")] == [
        *("KAFKA", "NATS", "AMQP"),
        None,
    ]


def test_broker_is_shown_without_its_login():
    broker = read_sink("nats://[::1]:1,a.example", Login(name="me", secret="s3cr3t"))
    assert broker is not None
    assert broker.shown == "[::1]:1,a.example:4222"
    assert "s3cr3t" not in repr(broker)


@pytest.mark.parametrize(
    ("protocol", "allowed"), [("KAFKA", {443, 9092, 9093}), ("NATS", {443, 4222}), ("AMQP", {443, 5671, 5672})]
)
def test_guard_allows_the_ports_of_a_protocol_and_no_other(protocol, allowed):
    ports = {443, 4222, 5671, 5672, 8080, 9092, 9093}
    refusals = {port: refusal_of_host(protocol, "a.example", port, GuardPolicy(), secure=True) for port in ports}
    assert {port for port, why in refusals.items() if why is None} == allowed
    assert all(f"port {port} is not allowed" in str(refusals[port]) for port in ports - allowed)


@pytest.mark.parametrize(
    ("host", "secure", "policy", "why"),
    [
        ("a.example", False, GuardPolicy(), "without TLS is not allowed: use kafkas, tls or amqps"),
        ("a.example/.b.example", True, GuardPolicy(allow_hosts=("a.example",)), "malformed"),
        ("a" * 300, True, GuardPolicy(), "malformed"),
        ("169.254.169.254", True, GuardPolicy(), "link-local|not public"),
        ("::1", True, GuardPolicy(), "public addresses"),
        ("a.example", True, GuardPolicy(deny_hosts=("a.example",)), "deny_hosts"),
        ("a.example", True, GuardPolicy(by_proxy=True), "egress_proxy"),
    ],
)
def test_guard_refuses(host, secure, policy, why):
    refusal = refusal_of_host("KAFKA", host, 9093, policy, secure=secure)
    assert refusal is not None
    assert any(part in refusal for part in why.split("|"))


@pytest.mark.parametrize(("ordering", "order"), [("job", "job_1"), ("none", None)])
def test_order_is_kept_by_the_job_unless_it_is_lifted(ordering, order):
    made = Subscription(id="sub_1", sink="nats://a.example", created_at=0.0, ordering=ordering)
    assert order_of(job_event("job_1", 1), made) == order


def message(order: str | None) -> Message:
    return Message(destination="jobs", body=b"{}", id="evt_1", order=order)


FAILED = Published(error="nack", detail="no")


@pytest.mark.parametrize(
    ("orders", "results", "errors"),
    [
        (("a", "a"), (ACKNOWLEDGED, ACKNOWLEDGED), [None, None]),
        (("a", "b", "a", "a"), (FAILED, ACKNOWLEDGED, ACKNOWLEDGED, FAILED), ["nack", None, "behind", "nack"]),
        ((None, None), (FAILED, ACKNOWLEDGED), ["nack", None]),
        (("a", "a"), (None, ACKNOWLEDGED), ["timeout", "behind"]),
        (("a", "a"), (ACKNOWLEDGED, None), [None, "timeout"]),
    ],
)
def test_what_follows_a_failure_of_its_order_failed_too(orders, results, errors):
    found = unsent_behind([message(order) for order in orders], results)
    assert [one.error for one in found] == errors
