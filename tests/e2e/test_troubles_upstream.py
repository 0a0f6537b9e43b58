"""An upstream that refuses connections, redirects, or is the relay itself: real connections of a real node."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.peer import open_peer
from tests.support.relay_world import SETTINGS, RelayWorld, open_relay_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with open_relay_world(tmp_path) as world:
        yield world


async def last_error(world: RelayWorld, job_id: str) -> dict[str, Any]:
    """The job's last error once it has one."""
    found: dict[str, Any] = {}

    async def has_one() -> bool:
        found.update((await world.get(f"/v1/jobs/{job_id}"))["last_error"] or {})
        return bool(found)

    await world.until(has_one)
    return found


@contextlib.asynccontextmanager
async def forwarder(target: list[int]) -> AsyncIterator[int]:
    """Forwards every connection to the port in `target`; answers with a redirect while there is none."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not target:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example.com/\r\nContent-Length: 0\r\n\r\n")
            return
        there, back = await asyncio.open_connection("127.0.0.1", target[0])
        await asyncio.gather(copy(reader, back), copy(there, writer))

    async with open_peer(connected) as port:
        yield port


@pytest.mark.parametrize("what", ["unauthorized", "down"])
async def test_trouble_is_said_before_a_job_is_tracked(world: RelayWorld, what: str) -> None:
    if what == "down":
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        await world.serve(REVOR_BASE_URL=f"http://127.0.0.1:{port}")
    else:
        await world.fault("revoked_key")
        await world.serve()

    async def is_said() -> bool:
        notes = (await world.get("/readyz"))["notes"]
        return any(note.startswith(f"revor/default is {what} since ") for note in notes)

    await world.until(is_said)
    (source,) = (await world.get("/v1/sources"))["items"]
    assert (source["state"], source["open_jobs"]) == (what, 0)
    assert source["problem"]["message"]
    line = "upstream_does_not_answer" if what == "down" else "relay.source.unauthorized"
    assert await world.end() == 0
    assert len([one for one in world.lines if line in one]) == 1


async def test_upstream_refuses_connections(world: RelayWorld) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    await world.serve(REVOR_BASE_URL=f"http://127.0.0.1:{port}")
    status, made = await world.call("POST", "/v1/jobs", {"id": await world.upstream_job()})
    assert status == 201
    error = await last_error(world, made["id"])
    assert error["code"] == "unavailable"
    assert (await world.call("GET", "/readyz"))[0] == 200
    code, lines = await world.run("check", REVOR_API_KEY="sk-revor-test", REVOR_BASE_URL=f"http://127.0.0.1:{port}")
    assert code == 2
    assert any("check the network" in line for line in lines)


async def test_redirect_and_loop(world: RelayWorld) -> None:
    target: list[int] = []
    async with forwarder(target) as port:
        await world.serve(REVOR_BASE_URL=f"http://127.0.0.1:{port}")
        await world.subscribe()
        job_id = await world.job()
        error = await last_error(world, job_id)
        assert error["code"] == "unavailable"
        assert "302" in error["message"]
        target.append(int(world.url.rpartition(":")[2]))

        async def loops() -> bool:
            return (await world.get(f"/v1/jobs/{job_id}"))["last_error"]["code"] == "loop"

        await world.until(loops)
        assert (await world.get(f"/v1/jobs/{job_id}"))["open"]
        assert world.received == []
        target[:] = [int(world.sandbox_url.rpartition(":")[2])]
        await world.until_delivered([job_id])
        assert await world.end() == 0


async def test_relay_refuses_its_own_address_as_upstream(world: RelayWorld) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    world.settings(SETTINGS, more=f"server: {{port: {port}}}\n")
    process = world.start("serve", REVOR_API_KEY="sk-revor-test", REVOR_BASE_URL=f"http://127.0.0.1:{port}/api/v1")
    assert await asyncio.to_thread(process.close) == 2
    (line,) = process.lines
    assert "REVOR_BASE_URL" in line
