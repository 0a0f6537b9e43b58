"""Every address that a broker's client dials is judged."""

import asyncio
import socket
from ipaddress import ip_network

import pytest

from relay.bus.guard import Guard, NotReached, Refused, guarded
from relay.core.access.netguard import GuardPolicy
from tests.support.brokers.names import Names
from tests.support.brokers.process import free_port

LOOPBACK = GuardPolicy(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"),))


async def dial(guard: Guard, host: str, port: int) -> None:
    with guarded(guard):
        _, writer = await asyncio.open_connection(host, port)
    writer.close()
    await writer.wait_closed()


@pytest.fixture
async def port():
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_allowed_address_is_dialled(port):
    guard = Guard(LOOPBACK, Names(broker=("127.0.0.1",)), "KAFKA", secure=False)
    await dial(guard, "broker.example", port)
    assert guard.remote_ip == "127.0.0.1"


@pytest.mark.parametrize(
    ("addresses", "policy", "shown"),
    [
        (("169.254.169.254",), LOOPBACK, "not public"),
        (("10.0.0.1",), GuardPolicy(), "not public"),
        (("127.0.0.1",), GuardPolicy(), "not public"),
    ],
)
async def test_name_of_a_forbidden_address_is_refused_without_telling_it(addresses, policy, shown):
    guard = Guard(policy, Names(broker=addresses), "KAFKA", secure=True)
    with pytest.raises(Refused, match=shown) as caught:
        await dial(guard, "broker.example", 9093)
    assert addresses[0] not in str(caught.value)
    assert guard.refusals == [str(caught.value)]


@pytest.mark.parametrize(
    ("addresses", "why"), [(("127.0.0.1",), "Connection refused"), ((), "the host name does not resolve")]
)
async def test_address_that_takes_no_connection_is_named_with_the_reason(addresses, why):
    guard = Guard(LOOPBACK, Names(broker=addresses), "KAFKA", secure=False)
    closed = free_port()
    with pytest.raises(NotReached) as caught:
        await guard.open("broker.example", closed)
    assert str(caught.value) == guard.failure == f"no connection to broker.example:{closed}: {why}"


@pytest.mark.parametrize(
    ("protocol", "port"), [("KAFKA", 4222), ("KAFKA", 5671), ("NATS", 9093), ("NATS", 5671), ("AMQP", 9093)]
)
async def test_ports_of_other_protocols_are_refused_also_where_a_broker_advertises_them(protocol, port):
    guard = Guard(GuardPolicy(), Names(broker=("1.1.1.1",)), protocol, secure=True)
    with pytest.raises(Refused, match=f"port {port} is not allowed"):
        await guard.open("broker.example", port)
    assert guard.remote_ip is None


async def test_tasks_that_are_started_inside_are_guarded_too():
    guard = Guard(GuardPolicy(), Names(), "KAFKA", secure=True)
    with guarded(guard):
        task = asyncio.create_task(asyncio.open_connection("127.0.0.1", 9))
    with pytest.raises(Refused):
        await task


@pytest.mark.parametrize("options", [{}, {"sock": socket.socket()}])
async def test_client_that_does_not_name_host_and_port_is_refused(options):
    guard = Guard(LOOPBACK, Names(), "KAFKA", secure=False)
    with guarded(guard), pytest.raises(Refused):
        await asyncio.get_running_loop().create_connection(asyncio.Protocol, **options)
    for one in options.values():
        one.close()
