"""Faults over a real connection: answers that time out, stop halfway or trickle, without log errors."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
import uvicorn

from relay.sandbox.server import Sandbox

HEADERS = {"Authorization": "Bearer sk-revor-acme"}
ACCOUNTS = "/api/v1/connect/accounts"
SHORT_SECONDS = 0.2


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    config = uvicorn.Config(Sandbox(seed=1).app(), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    # With the protocol named asyncio turns Nagle's algorithm off; without, every kept connection waits 40 ms a request.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # before the server is up, so that no connection is refused
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session
    server.should_exit = True
    await serving


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def no_complaints(caplog: pytest.LogCaptureFixture) -> bool:
    return not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def fault(session: aiohttp.ClientSession, **body: object) -> None:
    async with session.post("/_sandbox/faults", json=body) as response:
        assert response.status == 201


async def read(session: aiohttp.ClientSession) -> bytes:
    async with session.get(ACCOUNTS, headers=HEADERS) as response:
        assert response.status == 200
        return await response.read()


async def test_timeout_fault_holds_and_then_closes(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    await fault(session, kind="timeout", hold_seconds=SHORT_SECONDS)
    began = time.monotonic()
    with pytest.raises(aiohttp.ServerDisconnectedError):  # not with GET: aiohttp quietly sends that once more
        await session.post("/api/v1/outreach/dispatches", headers=HEADERS, json={})
    assert time.monotonic() - began >= SHORT_SECONDS
    assert no_complaints(caplog)
    assert b"connect_account_xxx" in await read(session)


async def test_timeout_fault_ends_when_the_client_disconnects(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    await fault(session, kind="timeout", hold_seconds=600)
    with pytest.raises(asyncio.TimeoutError):
        async with session.get(ACCOUNTS, headers=HEADERS, timeout=aiohttp.ClientTimeout(total=SHORT_SECONDS)):
            pass
    assert b"connect_account_xxx" in await read(session)
    assert no_complaints(caplog)  # and the fixture's end does not wait 600 s


async def test_truncated_fault_stops_halfway(session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture) -> None:
    whole = await read(session)
    await fault(session, kind="truncated")
    response = await session.get(ACCOUNTS, headers=HEADERS)
    assert response.headers["Content-Length"] == str(len(whole))
    with pytest.raises(aiohttp.ClientPayloadError):
        await response.read()
    assert no_complaints(caplog)
    assert len(await read(session)) == len(whole)


async def test_slow_drip_fault_trickles_the_body(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    whole = await read(session)
    await fault(session, kind="slow_drip", hold_seconds=SHORT_SECONDS)
    began = time.monotonic()
    trickled = await read(session)
    assert time.monotonic() - began >= SHORT_SECONDS
    assert len(trickled) == len(whole)
    assert trickled.endswith(whole[-200:])
    assert no_complaints(caplog)


async def test_slow_drip_ends_when_the_client_disconnects(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    await fault(session, kind="slow_drip", hold_seconds=600)
    with pytest.raises(asyncio.TimeoutError):
        async with session.get(ACCOUNTS, headers=HEADERS, timeout=aiohttp.ClientTimeout(total=SHORT_SECONDS)) as slow:
            await slow.read()
    assert b"connect_account_xxx" in await read(session)
    assert no_complaints(caplog)


async def test_oversized_fault_sends_megabytes(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    await fault(session, kind="oversized", size_bytes=3_000_000)
    assert len(await read(session)) == 3_000_000
    await fault(session, kind="oversized", size_bytes=64 * 1024 * 1024)
    response = await session.get(ACCOUNTS, headers=HEADERS)
    assert len(await response.content.read(1000)) == 1000
    response.close()  # a careful client reads no further
    with contextlib.suppress(aiohttp.ClientError):
        await read(session)
    assert no_complaints(caplog)


async def test_jobs_run_in_real_time(session: aiohttp.ClientSession) -> None:
    script = {
        "account": "acme",
        "final": "succeeded",
        "attempt_failures": 0,
        "start_delay_seconds": 0,
        "run_seconds": 0,
    }
    async with session.post("/_sandbox/jobs", json=script) as response:
        (made,) = (await response.json())["items"]
    async with session.get(f"/api/v1/outreach/jobs/{made['id']}", headers=HEADERS) as response:
        assert (await response.json())["item"]["status"] in {"queued", "succeeded"}
