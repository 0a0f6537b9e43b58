"""What against.py measures with: one version of the relay with a database of its own, an upstream, a sink and callers,
each a process; and what the relay's and the database's processes use, from /proc alone."""

import contextlib
import resource
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from os import sysconf
from pathlib import Path
from typing import Any

import orjson
from against_versions import Version
from dropin_world import AUTHORIZED, load, relay
from latency import SINKS_ALLOWED, End, call, end

from relay.config.keyring import new_key
from tests.support.postgres_server import PostgresServer

TICKS = sysconf("SC_CLK_TCK")
DEADLINE_SECONDS = 300.0
"""Ends a wait for what takes seconds."""
QUIET_SECONDS, QUIET_SHARE = 0.3, 0.07
"""A relay is quiet when it and its database use less than this share of a processor for this time."""
RESTLESS_SECONDS = 20.0
"""A relay that is never quiet is measured after this time."""


NO_OPERATION = (404, 405)


class Lacks(Exception):
    """The version has no such operation. The message names it."""


def trees(roots: Sequence[int]) -> dict[int, list[str]]:
    """The fields after the name in /proc/PID/stat, of these processes and all their descendants."""
    fields: dict[int, list[str]] = {}
    children: dict[int, list[int]] = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            pid = int(path.parent.name)
            fields[pid] = path.read_text(errors="replace").rpartition(")")[2].split()
            children[int(fields[pid][1])].append(pid)
    found: dict[int, list[str]] = {}
    left = [pid for pid in roots if pid in fields]
    while left:
        pid = left.pop()
        found[pid] = fields[pid]
        left += children[pid]
    return found


def processor_seconds(roots: Sequence[int]) -> float:
    """Processor time of these processes, their descendants, and those of them that have ended."""
    return sum(int(ticks) for fields in trees(roots).values() for ticks in fields[11:15]) / TICKS


def megabytes(roots: Sequence[int]) -> float:
    """Memory of these processes and their descendants. What several of them share counts once."""
    total = 0.0
    for pid in trees(roots):
        with contextlib.suppress(OSError):
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")) / 1e6
            except (PermissionError, StopIteration):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
    return total


@dataclass(kw_only=True)
class World:
    """A version on a new database, with an upstream and a sink.

    postmaster  of the version's own PostgreSQL server; None: SQLite
    polls       requests a second that the relay may send to the upstream
    least, most seconds between two polls of a job
    """

    version: Version
    folder: Path
    database_url: str
    postmaster: int | None
    upstream: End
    sink: End
    polls: float
    least: float = 1.0
    most: float = 900.0
    key: str = field(default_factory=new_key)
    port: int = 0
    pid: int = 0
    subscription: str = ""
    fresh: int = 0
    """How many ids were made."""

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Runs `relay serve` while inside."""
        environ = {
            **SINKS_ALLOWED,
            **{"DATABASE_URL": self.database_url, "RELAY_ENCRYPTION_KEY": self.key},
            "RELAY_DELIVERY__PER_HOST": "256",
        }
        with relay(
            self.upstream.port,
            least=self.least,
            most=self.most,
            rate=self.polls,
            environ=environ,
            options=() if self.postmaster is None else ("--auto-migrate",),
            folder=str(self.folder),
            root=self.version.root,
            python=self.version.python,
        ) as (self.port, self.pid):
            yield

    @property
    def roots(self) -> list[int]:
        """The processes that are measured, with their descendants."""
        return [self.pid, *([] if self.postmaster is None else [self.postmaster])]

    def ids(self, prefix: str, count: int) -> list[str]:
        """New ids, which begin so."""
        first, self.fresh = self.fresh, self.fresh + count
        return [f"{prefix}-{number}" for number in range(first, first + count)]

    def post(self, path: str, body: Any = None) -> Any:
        """The answer to a POST. Raises Lacks if there is no such operation, RuntimeError if it is refused."""
        try:
            return call(self.port, path, body)
        except urllib.error.HTTPError as error:
            with error:
                if error.code in NO_OPERATION:
                    raise Lacks(f"POST {path}") from None
                raise RuntimeError(f"{self.version}: POST {path}: {error.code} {error.read().decode()[:500]}") from None

    def get(self, path: str) -> Any:
        """The answer to a GET."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=AUTHORIZED)
        with urllib.request.urlopen(request, timeout=30) as answered:
            return orjson.loads(answered.read())

    def subscribe(self, types: Sequence[str], **more: Any) -> None:
        """Has these events sent to the sink. `more`: other settings. Raises Lacks if the version does not know one."""
        body = {"sink": f"http://127.0.0.1:{self.sink.port}/hook", "types": list(types), **more}
        try:
            self.subscription = self.post("/v1/subscriptions", body)["id"]
        except RuntimeError as refused:
            raise Lacks(str(refused)) if more else refused from None

    def load(self, way: str, *expected: str, **spec: Any) -> dict[str, Any]:
        """What came of these calls, all of which are answered as expected. Raises Lacks if there is no such operation,
        RuntimeError for other answers: the figure would mean nothing."""
        if way != "wait" and "bodies" in spec:
            spec["count"] = len(spec["bodies"])
        spec = {"headers": AUTHORIZED, "raw": True, **spec}
        found = load(way, self.port, **spec)
        answers: dict[str, int] = found["answers"]
        if any(int(answer[:3]) in NO_OPERATION for answer in answers):
            raise Lacks(f"{spec.get('method', 'GET')} {spec['paths'][0]}")
        good = sum(answers.get(answer, 0) for answer in expected)
        if good < spec["count"]:
            wanted = f"{spec['count']} times {' or '.join(expected)}"
            raise RuntimeError(f"{self.version}: {spec['paths'][0]}: expected {wanted}, got {answers}")
        return found

    def until(self, what: str, reached: Callable[[], bool]) -> None:
        """Waits for this. Raises RuntimeError if it does not come."""
        ends_at = time.monotonic() + DEADLINE_SECONDS
        while not reached():
            if time.monotonic() > ends_at:
                raise RuntimeError(f"{self.version}: {what} did not come")
            time.sleep(0.02)

    def quiet(self) -> None:
        """Waits until the relay and its database have done what there was to do."""
        ends_at = time.monotonic() + RESTLESS_SECONDS
        used = processor_seconds(self.roots)
        while time.monotonic() < ends_at:
            time.sleep(QUIET_SECONDS)
            before, used = used, processor_seconds(self.roots)
            if used - before <= QUIET_SECONDS * QUIET_SHARE:
                return

    @contextlib.contextmanager
    def spending(self, thousands: float) -> Iterator[dict[str, float]]:
        """Measures the processor time of what is done inside, with what it leaves to do: seconds for a thousand."""
        found: dict[str, float] = {}
        self.quiet()
        before = processor_seconds(self.roots)
        yield found
        self.quiet()
        found["processor"] = (processor_seconds(self.roots) - before) / thousands


@contextlib.contextmanager
def databases(kind: str, version: Version) -> Iterator[Callable[[], tuple[str, int | None]]]:
    """What makes an empty database: its URL, and the process id of its server. PostgreSQL runs a server for each
    version, so that its processor time is known."""
    if kind == "SQLite":
        yield lambda: ("sqlite:///relay.db", None)
        return
    made = 0
    with PostgresServer(fsync=True) as server:

        def make() -> tuple[str, int | None]:
            nonlocal made
            made += 1
            server.create_database(f"{version.name.lower()}{made}")
            return server.url(f"{version.name.lower()}{made}"), server.pid

        yield make


@contextlib.contextmanager
def world(version: Version, database: tuple[str, int | None], **settings: Any) -> Iterator[World]:
    """A new world, whose relay does not run yet."""
    with (
        tempfile.TemporaryDirectory() as folder,
        end("upstream") as upstream,
        end("throughput") as sink,
    ):
        yield World(
            version=version,
            folder=Path(folder),
            database_url=database[0],
            postmaster=database[1],
            upstream=upstream,
            sink=sink,
            **settings,
        )
