"""From the answer that shows a job's end to the POST at the sink: `relay serve` on SQLite, the upstream and the sink
are processes of their own that note the time of the one clock of the machine.

read       from when the relay had read the answer (`recorded_at` of the event): what docs and bars are about
written    from when the upstream wrote it, reported beside: the way to the relay, and its turn of the loop

light      ten jobs a second start and end at moments of their own; all open ones are looked at again and again
sustained  a relay is started that has many open jobs, all of which have ended: ends a second that reach the sink. Each
           takes one look, one commit, one POST, one mark
at 80 %    the same with looks paced at 0.8 of that rate; what is shown in the first seconds is left out, in which the
           jobs are read

All are in turns, since the machine may be slower at one moment than at the next; each percentile is of all turns.
Between the answer and the POST is a commit, so the time of a commit is reported beside: TMPDIR chooses the disk.
`python latency.py` prints what came of it; `run.py` has it in its table.
"""

import contextlib
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import orjson
from dropin_world import AUTHORIZED, HERE, ROOT, cpu_seconds, relay

SINKS_ALLOWED = {"RELAY_SECURITY__ALLOW_HTTP": "true", "RELAY_SECURITY__ALLOW_NETWORKS": '["127.0.0.0/8"]'}
ENDED_TYPE = "ai.revor.job.succeeded"
LIGHT_RATE = 10
LIGHT_POLLS = 100
LIGHT_SECONDS = 15.0
SETTLED_SECONDS = 6.0
"""From the registration to the first end: by then all jobs have been looked at once."""
UNBOUNDED_POLLS = 10_000
SUSTAINED_JOBS = 6_000
LOAD = 0.8
REACHED = 0.95
LOAD_SECONDS = 14.0
QUIET_SECONDS = 4.0
TURNS = 3
WARM_SHARE = 0.1
"""What came first is left out: connections are opened, and what is built at the first use is built."""
BATCH = 5_000
SYNCED_COUNT = 300
LATEST_SECONDS = 120.0


class End:
    """The upstream or the sink: see latency_ends.py."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.port = port

    def ask(self, word: str) -> Any:
        """The answer to a line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return orjson.loads(self._process.stdout.readline())


@contextlib.contextmanager
def end(kind: str) -> Iterator[End]:
    """`upstream`, `sink` or `throughput` of latency_ends.py."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "latency_ends.py"), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield End(process, int(process.stdout.readline()))
    finally:
        try:
            process.communicate("", timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()


def call(port: int, path: str, body: Any = None) -> Any:
    """The relay's answer to a POST."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", orjson.dumps(body or {}), {"Content-Type": "application/json", **AUTHORIZED}
    )
    with urllib.request.urlopen(request, timeout=30) as answered:
        return orjson.loads(answered.read())


def ended(count: int) -> list[str]:
    """The ids of jobs that have ended."""
    return [f"0-{number}" for number in range(count)]


def ending(count: int) -> list[str]:
    """The ids of jobs that end one after the other, soon."""
    first = time.time() + SETTLED_SECONDS
    return [f"{first + number / LIGHT_RATE:.3f}-{number}" for number in range(count)]


def register(port: int, sink: End, ids: list[str]) -> None:
    """Has a relay track these, and tell the sink of their ends."""
    call(port, "/v1/subscriptions", {"sink": f"http://127.0.0.1:{sink.port}/hook", "types": [ENDED_TYPE]})
    for start in range(0, len(ids), BATCH):
        tracked = call(port, "/v1/jobs/batch", {"jobs": [{"id": id} for id in ids[start : start + BATCH]]})
        assert not tracked["rejected"], tracked


def read_at(folder: Path) -> dict[str, float]:
    """When the relay had read of each job's end, by its database."""
    (path,) = folder.glob("*.db")
    with contextlib.closing(sqlite3.connect(path)) as database:
        return dict(database.execute("SELECT subject, recorded_at FROM events WHERE type = ?", (ENDED_TYPE,)))


def lates(
    count: int, made: Callable[[int], list[str]], polls: float, *, before: bool = False, quiet_seconds: float = 0.0
) -> dict[str, Any]:
    """Has a relay that may send so many requests a second look at so many jobs, until the sink has all their ends: each
    one's seconds from the answer, read or written, to the POST, ends a second, looks an end, processor time a second.
    `before`: they are registered before it is started. What is shown in its first `quiet_seconds` is left out of the
    first."""
    with (
        end("upstream") as upstream,
        end("sink") as sink,
        tempfile.TemporaryDirectory() as folder,
        contextlib.ExitStack() as stack,
    ):
        world: dict[str, Any] = {"least": 1.0, "rate": polls, "environ": SINKS_ALLOWED, "folder": folder}
        if before:
            with relay(upstream.port, options=("--roles", "api"), **world) as (port, _):
                register(port, sink, made(count))
        counted_from = time.time() + quiet_seconds
        port, pid = stack.enter_context(relay(upstream.port, **world))
        begun, cpu = time.monotonic(), cpu_seconds(pid)
        if not before:
            register(port, sink, made(count))
        while sink.ask("count") < count:
            if time.monotonic() - begun > LATEST_SECONDS:
                raise RuntimeError(f"the sink got {sink.ask('count')} of {count}")
            time.sleep(0.1)
        cpu = (cpu_seconds(pid) - cpu) / (time.monotonic() - begun)
        seen, came = upstream.ask("take"), sink.ask("take")
        stack.close()
        read = read_at(Path(folder))
    arrived: dict[str, float] = {}
    for at, _, _, subject in came:
        arrived.setdefault(subject, at)
    shown = sorted(
        ((id, at) for id, at in seen["shown"].items() if at >= counted_from), key=lambda pair: float(pair[1])
    )
    shown = shown[int(WARM_SHARE * len(shown)) :]
    times = sorted(arrived.values())
    tenth = len(times) // 10
    return {
        "read": [arrived[id] - read[id] for id, _ in shown],
        "written": [arrived[id] - at for id, at in shown],
        "rate": (len(times) - 2 * tenth) / (times[-tenth - 1] - times[tenth]),
        "looks": seen["reads"] / count,
        "cpu": cpu,
    }


def others() -> float:
    """How many processors other work uses just now."""

    def read() -> tuple[float, float]:
        fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    before, idle_before = read()
    time.sleep(1.0)
    after, idle_after = read()
    return (os.cpu_count() or 1) * (1.0 - (idle_after - idle_before) / (after - before))


def synced() -> list[float]:
    """Seconds that the disk takes to make 8 KB of a growing file durable, as a commit does."""
    found = []
    with tempfile.TemporaryFile(buffering=0) as file:
        for _ in range(SYNCED_COUNT):
            file.write(bytes(8192))
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            found.append(time.perf_counter() - begun)
            time.sleep(0.005)
    return found


def percentiles(late: list[float]) -> tuple[float, float]:
    """The middle and the 99th percentile, in ms."""
    cuts = statistics.quantiles(late, n=100)
    return 1e3 * cuts[49], 1e3 * cuts[98]


def rows(name: str, turns: list[dict[str, Any]], bars: tuple[float, float]) -> list[dict[str, Any]]:
    """The percentiles of all turns together, for the table of run.py."""
    rate, polls, cpu = (statistics.median(found[what] for found in turns) for what in ("rate", "looks", "cpu"))
    reported = f"{rate:.0f} ends/s, {polls:.1f} looks each, {100 * cpu:.0f} % of a processor"
    read, written = (percentiles([one for found in turns for one in found[since]]) for since in ("read", "written"))
    return [
        {
            **{"name": f"answer read to POST, {name}: p{which}", "ours": ours, "at_most": bar},
            "unit": f"ms ({other:.1f} from when it was written; {reported})",
        }
        for which, ours, other, bar in zip((50, 99), read, written, bars, strict=True)
    ]


def measure(scale: float = 1.0) -> list[dict[str, Any]]:
    """Rows of the table of run.py."""
    lights, loads = [], []
    for _ in range(max(1, round(TURNS * scale))):
        disk = statistics.quantiles(synced(), n=100)
        said = f"the disk syncs in {1e3 * disk[49]:.1f} ms, p99 {1e3 * disk[98]:.1f} ms"
        print(f"{said}; other work uses {others():.1f} processors", file=sys.stderr)
        light = lates(int(LIGHT_RATE * LIGHT_SECONDS), ending, LIGHT_POLLS)
        most = lates(SUSTAINED_JOBS, ended, UNBOUNDED_POLLS, before=True)
        rate = LOAD * most["rate"]
        load = lates(int(rate * LOAD_SECONDS), ended, rate, before=True, quiet_seconds=QUIET_SECONDS)
        if load["rate"] < REACHED * rate:
            print(f"it did {load['rate']:.0f} of the {rate:.0f} ends a second that were asked for", file=sys.stderr)
        for said, found in (("light", light), (f"of {most['rate']:.0f} ends a second", load)):
            p50, p99 = percentiles(found["read"])
            reported = f"{said}: {found['rate']:.0f}: p50 {p50:.1f}, p99 {p99:.1f} ms"
            print(f"{reported}, {100 * found['cpu']:.0f} % of a processor", file=sys.stderr)
        lights.append(light)
        loads.append(load)
    return [*rows("light load", lights, (2.0, 15.0)), *rows("80 % load", loads, (10.0, 40.0))]


if __name__ == "__main__":
    for row in measure(float(sys.argv[1]) if sys.argv[1:] else 1.0):
        print(row)
