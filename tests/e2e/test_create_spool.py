"""Large creates at a whole relay: what they may hold together, and what is left of them after a kill."""

import asyncio
import signal
import sys
from pathlib import Path

from tests.support.process_world import API_TOKEN, Start
from tests.support.wire import Client, open_stub, request

MEBIBYTE = 1 << 20
DISPATCHES = "/api/v1/outreach/dispatches"
HEADERS = [("Authorization", f"Bearer {API_TOKEN}"), ("Content-Type", "application/json")]
SETTINGS = f"auth: {{tokens: [{{name: tests, token: {API_TOKEN}, scopes: [admin]}}]}}\n"
SMALL_TOTAL = "import relay.api.http.limits as l; l.MAX_SPOOLED_BYTES = 16 << 20; from relay.cli import main; main()"


async def begin(client: Client, count: int) -> None:
    """Begins a create of 64 MiB and sends so many bytes of it."""
    head = request("POST", DISPATCHES, [*HEADERS, ("Content-Length", str(64 * MEBIBYTE))])
    client.writer.write(head + bytes(count))
    await client.writer.drain()


def held_bytes(pid: int, folder: Path) -> int:
    """The size of the files in a folder that the process has open and that have no name."""
    found = [file for file in Path(f"/proc/{pid}/fd").iterdir() if str(folder) in str(file.readlink())]
    return sum(file.stat().st_size for file in found)


async def until_held(pid: int, folder: Path, count: int) -> None:
    async with asyncio.timeout(300):
        while held_bytes(pid, folder) < count:  # noqa: ASYNC110 (of another process)
            await asyncio.sleep(0.02)


async def test_creates_hold_a_limited_part_of_the_disk_and_nothing_after_a_kill(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    (tmp_path / "relay.yaml").write_text(SETTINGS)
    async with open_stub() as stub:
        relay = start(
            *("serve", "--port", "0"),
            program=(sys.executable, "-c", SMALL_TOTAL),
            TMPDIR=str(folder),
            REVOR_API_KEY="sk-test",
            REVOR_BASE_URL=stub.url,
        )
        url = await asyncio.to_thread(relay.until, r"serving (http://\S+)")
        async with Client(url) as first, Client(url) as second:
            await begin(first, 12 * MEBIBYTE)
            await until_held(relay.popen.pid, folder, 12 * MEBIBYTE)
            assert list(folder.iterdir()) == []
            await begin(second, 12 * MEBIBYTE)
            answer = await second.answer(b"POST")
            assert (answer.status, answer.code) == (503, "relay_busy")
            assert answer.one("retry-after") is not None
            async with Client(url) as third:
                small = await third.exchange(request("POST", DISPATCHES, HEADERS, b"{}"))
            assert small.status == 200
            assert len(stub.of(DISPATCHES)) == 1
            assert relay.end(signal.SIGKILL) != 0
            assert list(folder.iterdir()) == []
            await first.vanish()
