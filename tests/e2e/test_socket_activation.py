"""A socket that systemd holds: connections wait while the relay restarts, and none is refused, reset or lost."""

import asyncio
import functools
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.server.sockets import listening_socket
from tests.support.peer import open_peer
from tests.support.process_world import API_TOKEN, Start, keep_token, processes
from tests.support.scale import scaled
from tests.support.socket_holder import SocketHolder, socket_holder
from tests.support.steady_load import SteadyLoad
from tests.support.wire import Answer, Client, request

RESTARTS = scaled(2, 10)
RATE = scaled(50, 200)
BEFORE_FIRST_SECONDS = 0.5
BETWEEN_SECONDS = 0.5
BEARER = ("Authorization", f"Bearer {API_TOKEN}")
ACTIVATE = shutil.which("systemd-socket-activate")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    keep_token(tmp_path)
    with processes(tmp_path) as begin:
        yield functools.partial(begin, REVOR_API_KEY="sk-revor-default", REVOR_BASE_URL="http://127.0.0.1:9")


@pytest.fixture
def holder(start: Start) -> Iterator[SocketHolder]:
    with socket_holder(start) as held:
        yield held


def registration(number: int) -> bytes:
    """Half of the requests write, the other half read."""
    if number % 2:
        return request("GET", "/v1/jobs?limit=1", [BEARER])
    body = json.dumps({"id": f"job-{number}"}).encode()
    return request("POST", "/v1/jobs", [BEARER, ("Content-Type", "application/json")], body)


async def test_restarts_under_load_refuse_and_drop_no_request(holder: SocketHolder) -> None:
    statuses: dict[int, int] = {}

    def answered(number: int, answer: Answer) -> None:
        statuses[number] = answer.status

    load = SteadyLoad(holder.url, RATE, registration, answered)
    relay = await holder.served()
    sending = asyncio.create_task(load.run())
    await asyncio.sleep(BEFORE_FIRST_SECONDS)
    gaps: list[float] = []
    for _ in range(RESTARTS):
        began_at = time.monotonic()
        relay.popen.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(relay.close) == 0
        relay = await holder.served()
        gaps.append(time.monotonic() - began_at)
        await load.caught_up()
        await asyncio.sleep(BETWEEN_SECONDS)
    load.stop()
    await sending

    print(
        f"{load.sent} requests over {RESTARTS} restarts of {min(gaps):.2f} to {max(gaps):.2f} s: {len(load.failures)} "
        f"refused or dropped, the longest wait {load.longest_seconds:.2f} s"
    )
    assert load.failures == [], load.summary
    assert len(statuses) == load.sent
    assert {status for number, status in statuses.items() if number % 2} == {200}
    assert {status for number, status in statuses.items() if number % 2 == 0} == {201}
    async with Client(holder.url) as client:
        for number in range(0, load.sent, 2 * RATE):  # what was acknowledged is there
            assert (await client.exchange(request("GET", f"/v1/jobs/job-{number}", [BEARER]))).status == 200


async def test_connections_wait_for_the_first_start(holder: SocketHolder) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(holder.url.rpartition(":")[2]))
    writer.write(request("GET", "/livez", [("Connection", "close")]))
    relay = holder.serve("--port", "1")
    assert (await asyncio.to_thread(relay.until, r"serving (http://\S+)")) == holder.url, "the socket's address counts"
    assert b"200 OK" in await reader.read()
    writer.close()
    assert await asyncio.to_thread(relay.end) == 0


async def test_requests_are_answered_while_a_delivery_ends(holder: SocketHolder, start: Start, tmp_path: Path) -> None:
    """The next process starts only after the slow delivery, so this one goes on answering."""
    hung = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        hung.set()
        await reader.read()

    async with open_peer(hang) as port:
        (tmp_path / "relay.yaml").write_text(
            'security: {allow_http: true, allow_networks: ["127.0.0.0/8"]}\nserver: {shutdown_seconds: 4}\n'
        )
        sandbox = start("sandbox", "--port", "0", "--speed", "200")
        upstream = await asyncio.to_thread(sandbox.until, r"serving (http://\S+)")
        relay = await holder.served(REVOR_BASE_URL=upstream)
        json_type = ("Content-Type", "application/json")
        async with Client(upstream) as client:
            script = json.dumps({"start_delay_seconds": 0, "run_seconds": 0, "attempt_failures": 0}).encode()
            made = await client.exchange(request("POST", "/_sandbox/jobs", [json_type], script))
            tracked = json.dumps({"id": made.json["items"][0]["id"]}).encode()
        async with Client(holder.url) as client:
            sub = json.dumps({"sink": f"http://127.0.0.1:{port}/hook"}).encode()
            assert (await client.exchange(request("POST", "/v1/subscriptions", [BEARER, json_type], sub))).status == 201
            assert (await client.exchange(request("POST", "/v1/jobs", [BEARER, json_type], tracked))).status == 201
        await asyncio.wait_for(hung.wait(), 20)
        relay.popen.send_signal(signal.SIGTERM)
        async with Client(holder.url) as client:
            assert (await client.exchange(request("GET", "/livez"))).status == 200
        assert await asyncio.to_thread(relay.close) == 0


@pytest.mark.parametrize(
    ("fds", "problem"),
    [("many", "LISTEN_FDS must be a number of sockets"), ("2", "file descriptor 4 is no socket")],
)
def test_wrong_sockets_end_the_start_with_one_line(holder: SocketHolder, start: Start, fds: str, problem: str) -> None:
    number = str(holder._held.fileno())
    script = f'exec 3<&"$0" 4<&-; export LISTEN_FDS={fds} LISTEN_PID=$$; exec "$@"'
    program = ("bash", "-c", script, number, sys.executable, "-m", "relay", "serve")
    relay = start(program=program, pass_fds=(int(number),))
    assert relay.close() == 2
    (line,) = relay.lines
    assert problem in line


def test_dev_mode_is_refused_on_a_socket_that_others_can_reach(start: Start) -> None:
    """The setting says loopback; the socket that is passed does not."""
    with listening_socket("0.0.0.0", 0) as reachable:
        relay = SocketHolder(start, reachable).serve("--dev")
        assert relay.close() == 2
        (line,) = relay.lines
        assert "--dev needs no token from this machine" in line


async def test_state_is_reported_to_the_service_manager(holder: SocketHolder, tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(60)
        relay = holder.serve(NOTIFY_SOCKET=str(path), WATCHDOG_USEC="200000")
        assert [await asyncio.to_thread(manager.recv, 100) for _ in range(3)] == [b"READY=1", *[b"WATCHDOG=1"] * 2]
        relay.popen.send_signal(signal.SIGTERM)
        while (state := await asyncio.to_thread(manager.recv, 100)) == b"WATCHDOG=1":
            pass
        assert state == b"STOPPING=1"
        assert await asyncio.to_thread(relay.close) == 0


@pytest.mark.skipif(ACTIVATE is None, reason="SOCKET ACTIVATION NOT CHECKED: systemd-socket-activate is not here")
async def test_systemd_s_own_tool_starts_the_relay_with_its_socket(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kept = [f"--setenv={name}" for name in ("XDG_STATE_HOME", "REVOR_API_KEY", "REVOR_BASE_URL", "PYTHONPATH")]
    command = (ACTIVATE or "", f"--listen=127.0.0.1:{port}", *kept, sys.executable, "-m", "relay", "serve")
    activated = start(program=command)
    await asyncio.to_thread(activated.until, "Listening on")
    async with Client(f"http://127.0.0.1:{port}") as client:
        assert (await client.exchange(request("GET", "/livez"))).status == 200
    await asyncio.to_thread(activated.until, "relay: serving")
    assert os.path.exists(f"/proc/{activated.popen.pid}")
    assert await asyncio.to_thread(activated.end) == 0
