"""The drop-in proxy beside direct calls to the same upstream: latency added, rates, memory of large bodies and of
clients that wait. The relay is `relay serve` as it is installed, on SQLite; upstream, callers and relay are processes.

Each figure is the middle one of several rounds, and direct and relayed rounds take turns. The bars of the two kinds
that write to the database only keep them from becoming slower.
"""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import aiohttp
import orjson
from dropin_load import KEY
from dropin_world import AUTHORIZED, HERE, check, cpu_seconds, load, peak_of, relay, resident_bytes, stub

JOBS = "/api/v1/outreach/jobs/"
IN_FLIGHT = 32
RATE = 500
ROUNDS = 5
BIG_BYTES = 100_000_000
CLIENTS = 5_000
DONE = [f"{JOBS}done-{number}" for number in range(100)]
OPEN = [f"{JOBS}open-{number}" for number in range(100)]
OTHERS = ["/api/v1/connect/accounts"]
CREATE = "/api/v1/outreach/dispatches"
FRESH = {"Cache-Control": "no-cache"}
DISPATCH = {
    **{"account_id": "connect_account_xxx", "channel": "email", "action": "outreach"},
    **{"recipient": {"address": "alex@example.com", "name": "Alex"}, "min_channel_task_interval_seconds": 60},
    "content": {"subject": "Quick introduction", "text": "Hi Alex, this is a quick API test."},
}


def track(port: int, ids: list[str]) -> None:
    """Registers jobs, and reads each once through the relay, which is a look at it."""
    body = orjson.dumps({"jobs": [{"id": id} for id in ids]}).decode()
    check(
        load(
            "closed", port, paths=["/v1/jobs/batch"], method="POST", body=body, headers=AUTHORIZED, count=1, in_flight=1
        ),
        "200 direct",
    )
    load("closed", port, paths=[JOBS + id for id in ids], count=len(ids), in_flight=8, raw=True)


def rates(count: int, rounds: int, port: int, pid: int, upstream_port: int, bare_port: int) -> list[dict[str, Any]]:
    """Passed requests beside direct ones by the same usual client, and reads from state beside a bare endpoint."""
    create = {"paths": [CREATE], "method": "POST", "body": orjson.dumps(DISPATCH).decode()}
    plan: list[tuple[str, dict[str, Any], int, str, float]] = [
        ("passed: reads", {"paths": OTHERS}, upstream_port, "200 pass", 0.35),
        ("passed: reads that are looks too", {"paths": OPEN, "headers": FRESH}, upstream_port, "200 pass", 0.10),
        ("passed: creates, durably tracked", create, upstream_port, "202 pass", 0.06),
        ("served: reads of tracked jobs", {"paths": DONE, "raw": True}, bare_port, "200 hit", 0.80),
    ]
    results = []
    for name, spec, beside, expected, bar in plan:
        ours, direct, cpu = [], [], []
        load("closed", port, **spec, count=200, in_flight=IN_FLIGHT)
        for _ in range(rounds):
            found = load("closed", beside, **spec, count=count, in_flight=IN_FLIGHT)
            check(found, f"{expected[:3]} direct")
            direct.append(found["rate"])
            used = cpu_seconds(pid)
            found = load("closed", port, **spec, count=count, in_flight=IN_FLIGHT)
            cpu.append((cpu_seconds(pid) - used) / count)
            check(found, expected)
            ours.append(found["rate"])
        results.append(
            {
                **{
                    "name": name,
                    "unit": f"requests/s ({1e6 * statistics.median(cpu):.0f} us of its CPU each)",
                    "bar": bar,
                },
                **{"ours": statistics.median(ours), "baseline": statistics.median(direct)},
            }
        )
    return results


def latency(seconds: float, rounds: int, port: int, upstream_port: int) -> list[dict[str, Any]]:
    """What the relay adds at 500 requests a second, half of them reads of tracked jobs, all passed on."""
    spec = {"paths": [*OPEN, *OTHERS * len(OPEN)], "headers": FRESH, "rate": RATE, "count": int(RATE * seconds)}
    added: dict[int, list[float]] = {50: [], 99: []}
    direct: dict[int, list[float]] = {50: [], 99: []}
    for _ in range(rounds):
        bare = load("paced", upstream_port, **spec)["seconds"]
        found = load("paced", port, **spec)
        check(found, "200 pass")
        for share in added:
            there = bare[len(bare) * share // 100]
            direct[share].append(there)
            added[share].append(found["seconds"][len(found["seconds"]) * share // 100] - there)
    return [
        {
            **{"name": f"added at {RATE} requests/s: p{share}", "at_most": at_most},
            "unit": f"ms (direct {1e3 * statistics.median(direct[share]):.2f})",
            "ours": 1e3 * statistics.median(added[share]),
        }
        for share, at_most in ((50, 1.0), (99, 5.0))
    ]


async def _download(port: int) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"http://127.0.0.1:{port}/api/v1/big/{BIG_BYTES}"
    async with aiohttp.ClientSession(headers=headers) as session, session.get(url) as response:
        count = 0
        async for part in response.content.iter_any():
            count += len(part)
        assert count == BIG_BYTES, count


async def _upload(port: int) -> None:
    async def parts() -> Any:
        for _ in range(BIG_BYTES // 100_000):
            yield bytes(100_000)

    headers = {"Authorization": f"Bearer {KEY}", "Content-Length": str(BIG_BYTES)}
    url = f"http://127.0.0.1:{port}/api/v1/upload"
    async with aiohttp.ClientSession(headers=headers) as session, session.post(url, data=parts()) as response:
        answer = orjson.loads(await response.read())
        assert answer["bytes"] == BIG_BYTES, answer


def large_bodies(port: int, pid: int) -> list[dict[str, Any]]:
    """100 MB down and up: what the relay holds of it at most."""
    results = []
    ways: list[tuple[str, Callable[[int], Any]]] = [("answer", _download), ("request", _upload)]
    for name, move in ways:
        with peak_of(pid) as peak:
            began = time.perf_counter()
            asyncio.run(move(port))
            seconds = time.perf_counter() - began
        results.append(
            {
                **{"name": f"a body of 100 MB in the {name}: adds", "at_most": 20.0, "ours": peak[0] / 1e6},
                "unit": f"MB ({BIG_BYTES / 1e6 / seconds:.0f} MB/s)",
            }
        )
    return results


def waiting(clients: int, jobs: int, upstream_port: int) -> list[dict[str, Any]]:
    """So many clients in `Prefer: wait`, and when the last had its answer after all their jobs had ended."""
    ids = [f"one-{number}" for number in range(jobs)]
    with relay(upstream_port, least=0.2, most=0.2, rate=10.0 * jobs) as (port, pid):
        track(port, ids)
        time.sleep(1.0)
        before = resident_bytes(pid)
        spec = {"way": "wait", "port": port, "headers": {"Prefer": "wait=300"}, "count": clients}
        process = subprocess.Popen(
            [sys.executable, str(HERE / "dropin_load.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(orjson.dumps({**spec, "paths": [JOBS + id for id in ids]}))
        process.stdin.close()
        assert process.stdout.readline() == b"ready\n"
        time.sleep(2.0)
        held = resident_bytes(pid)
        ended_at = asyncio.run(_end(upstream_port))
        found = orjson.loads(process.stdout.read())
        process.wait(30)
    check(found, "200 hit")
    times = sorted(at for at in found["times"] if at >= ended_at)
    if len(times) < clients:
        raise RuntimeError(f"{clients - len(times)} were answered before the end")
    return [
        {
            **{"name": f"{clients:,} clients that wait: each", "unit": "KB", "at_most": 50.0},
            "ours": (held - before) / clients / 1e3,
        },
        {
            **{"name": "all answered after the end", "unit": "s", "at_most": 1.0, "ours": times[-1] - ended_at},
        },
    ]


async def _end(port: int) -> float:
    async with aiohttp.ClientSession() as session, session.post(f"http://127.0.0.1:{port}/_end") as response:
        return float(await response.read())


def measure(scale: float = 1.0, only: str | None = None) -> list[dict[str, Any]]:
    """The results, in the shape of `run.py`."""
    results: list[dict[str, Any]] = []
    rounds = ROUNDS if scale >= 0.5 else 1
    with stub("upstream") as upstream_port, stub("bare") as bare_port:
        with relay(upstream_port) as (port, pid):
            track(port, [path.rpartition("/")[2] for path in (*DONE, *OPEN)])
            if only in (None, "latency"):
                results += latency(4.0 * scale, rounds, port, upstream_port)
            if only in (None, "rates"):
                results += rates(max(500, int(5_000 * scale)), rounds, port, pid, upstream_port, bare_port)
            if only in (None, "bodies"):
                results += large_bodies(port, pid)
        if only in (None, "waiting"):
            results += waiting(CLIENTS, 20, upstream_port)
    return results


if __name__ == "__main__":
    from run import show

    sys.exit(
        not show(measure(float(sys.argv[2]) if len(sys.argv) > 2 else 1.0, sys.argv[1] if len(sys.argv) > 1 else None))
    )
