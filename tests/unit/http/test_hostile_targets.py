"""The client sends to no hostile URL and dials no hostile address, whatever the name servers answer."""

import asyncio
import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay.core.access.netguard import GuardPolicy
from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.http import sender as sender_module
from relay.http.sender import MAX_ADDRESSES, Sender
from tests.support.hostile import NAMES, POLICY, URLS, HostileName, HostileResolver
from tests.support.peer import open_peer

SINK = ipaddress.IPv4Network("127.0.0.1/32")
ANSWER = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"


class WatchedSender(Sender):
    """Keeps the addresses that were dialled."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.dialled: list[str] = []

    def _open_socket(self, address_info: Any) -> socket.socket:
        opened = super()._open_socket(address_info)
        self.dialled.append(address_info[4][0])
        return opened


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(ANSWER)


def outcome(response: Response) -> str:
    return "delivered" if response.status_code == 200 else str(response.error)


async def test_no_hostile_url_is_looked_up_or_dialled() -> None:
    async with WatchedSender(POLICY, clock=lambda: 0.0, resolver=HostileResolver()) as sender:
        for row in URLS:
            response = await sender.send(OutboundRequest(url=row.url), timeout_seconds=5)
            assert response.error == "refused", (row.url, row.why)
            assert row.rule in (response.detail or ""), (row.url, row.why)
    assert not sender.dialled


@pytest.mark.parametrize("row", NAMES, ids=[row.name for row in NAMES])
async def test_hostile_name_is_judged_by_each_address_dialled(row: HostileName) -> None:
    policy = GuardPolicy(allow_http=True, allow_networks=(SINK,))
    resolver = HostileResolver(row)
    async with open_peer(answer) as port, WatchedSender(policy, clock=lambda: 0.0, resolver=resolver) as sender:
        request = OutboundRequest(url=f"http://{row.name}:{port}/hook")
        patience = 0.05 if "hang" in row.answers else 5
        with capture_logs() as logs:
            responses = [await sender.send(request, timeout_seconds=patience) for _ in row.answers]
    assert [outcome(response) for response in responses] == row.outcomes, row.why
    assert set(sender.dialled) <= {"127.0.0.1"}, row.why
    refusals = [response.detail or "" for response in responses if response.error == "refused"]
    told = [line for line in logs if line["event"] == "egress_refused"]
    internal = {address for answers in row.answers if isinstance(answers, list) for address in answers} - {"127.0.0.1"}
    for refusal in refusals:
        assert "/" not in refusal, "the network that it is in would tell the address"
        assert not any(address and address in refusal for address in internal), "the caller learns no internal address"
    if refusals:
        assert {line["host"] for line in told} == {f"{row.name}:{port}"}
        assert {line["ip"] for line in told} <= internal, "the operator's log tells the address"


async def test_mixed_failures_name_no_address() -> None:
    """aiohttp joins the texts of all failures of a name's addresses."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    policy = GuardPolicy(allow_http=True, allow_networks=(SINK,))
    answers = ["10.0.0.1", "127.0.0.1", "fd00::7"]
    row = HostileName(name="mixed.example.com", why="", answers=[answers], outcomes=[])  # type: ignore[list-item]
    async with Sender(policy, clock=lambda: 0.0, resolver=HostileResolver(row)) as sender:
        response = await sender.send(OutboundRequest(url=f"http://mixed.example.com:{port}/"), timeout_seconds=5)
    assert (response.error, response.detail) == ("connect", "no connection: Connection refused")


async def test_thousands_of_records_cost_no_more_than_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def many(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"10.{one >> 8}.{one & 255}.1", port)) for one in range(5000)
        ]

    monkeypatch.setattr(sender_module.socket, "getaddrinfo", many)
    judged: list[str] = []

    class Counting(Sender):
        def _open_socket(self, address_info: Any) -> socket.socket:
            judged.append(address_info[4][0])
            return super()._open_socket(address_info)

    async with Counting(GuardPolicy(), clock=lambda: 0.0) as sender:
        name = f"{'a' * 60}.{'b' * 60}.{'c' * 60}.{'d' * 55}.example.com"
        response = await sender.send(OutboundRequest(url=f"https://{name}/"), timeout_seconds=5)
    assert (response.error, asked) == ("refused", [name])
    assert len(set(judged)) <= MAX_ADDRESSES


async def test_names_whose_servers_never_answer_delay_no_other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ended: list[tuple[str, float]] = []
    release = threading.Event()

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        if "tarpit" in host:
            began = time.monotonic()
            release.wait(30)
            ended.append((host, time.monotonic() - began))
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(sender_module.socket, "getaddrinfo", look_up)
    monkeypatch.setattr(sender_module, "SLOW_DNS_SECONDS", 0.05)
    policy = GuardPolicy(allow_http=True, allow_networks=(SINK,))
    try:
        async with open_peer(answer) as port, Sender(policy, clock=lambda: 0.0) as sender:

            async def send(name: str, patience: float = 5) -> str:
                request = OutboundRequest(url=f"http://{name}.example.com:{port}/")
                return outcome(await sender.send(request, timeout_seconds=patience))

            async def until(true: Callable[[], bool]) -> None:
                async with asyncio.timeout(20):
                    while not true():  # noqa: ASYNC110 (threads signal nothing)
                        await asyncio.sleep(0.01)

            def many(least: int) -> bool:
                return len(asked) >= least

            def known() -> bool:
                """True once each name is known by its last look-up: those that began after the release were fast."""
                waited = {host for host, seconds in dict(ended).items() if seconds > 2 * sender_module.SLOW_DNS_SECONDS}
                all_ended = len(ended) == sum("tarpit" in one for one in asked)
                return all_ended and sender._own_resolver._slow_names.keys() >= waited

            for threads in (100, sender_module.SLOW_DNS_THREADS):
                before = len(asked)
                stuck = [asyncio.create_task(send(f"{one}.tarpit", 0.5)) for one in range(100)]
                await until(partial(many, before + min(threads, 60)))
                assert await send(f"healthy-{threads}") == "delivered"
                assert set(await asyncio.gather(*stuck)) == {"timeout"}
                slow = [one for one in threading.enumerate() if one.name.startswith("relay-slow-dns")]
                release.set()
                await until(known)
                release.clear()
            release.set()
    finally:
        release.set()
    assert len(slow) == sender_module.SLOW_DNS_THREADS, "names known to be slow use these threads only"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://bücher.example/a?b=c", "xn--bcher-kva.example"),
        ("https://ü.straße.example/", "xn--tda.strasse.example"),
        ("https://ü.example:443/ü", "xn--tda.example"),
    ],
)
async def test_name_that_is_dialled_is_the_name_that_was_judged(url: str, host: str) -> None:
    """Python's IDNA 2003 and the HTTP library's IDNA 2008 disagree on some names."""
    row = HostileName(name=host, why="", answers=[["10.0.0.1"]], outcomes=[])
    async with Sender(GuardPolicy(), clock=lambda: 0.0, resolver=HostileResolver(row)) as sender:
        response = await sender.send(OutboundRequest(url=url), timeout_seconds=5)
    assert response.error == "refused", "any other name would be unknown to this resolver"
