"""A replay of a million delivered events, drained whole: `relay serve` on SQLite, a sink in a process of its own.

Everything that was ever delivered to a subscription is asked for once more over the HTTP API (`only: all`), and what
the sink gets is counted as it comes: every event once, and those of a job in their order, or the run ends. A tenth as
many are replayed before: an event must cost no more where there are many.

`python replay.py [COUNT]` prints what came of it; `run.py` has it in its table.
"""

import asyncio
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import uvloop
from sqlalchemy import text

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dropin_world import AUTHORIZED, relay
from latency import SINKS_ALLOWED, End, call, end
from two_nodes import NOBODY_PORT

from relay.config.keyring import new_key
from relay.core.subscriptions.subscription import SigningSecret, Subscription
from relay.ids import new_id

COUNT = 1_000_000
BAR = 1 / 1.3
EVENTS_A_JOB = 10
FIRST = 10_000_000
AT_ONCE = 64
SINCE = "2000-01-01T00:00:00Z"
ASK_SECONDS = 1.0
STUCK_SECONDS = 60.0


def filling(count: int, subscription_id: str, now: float) -> Iterator[str]:
    """Ended jobs of ten events each, all of them delivered to the subscription an hour ago."""
    jobs, at = count // EVENTS_A_JOB, now - 3600
    number, job = f"({FIRST} + i)", f"'job_' || ({FIRST} + i / {EVENTS_A_JOB})"
    rows = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
    yield f"""
INSERT INTO jobs (uid, source, account, external_id, status, outcome, sequence, retry_count, running_sent, overdue,
  attempt_count, weight, tracked_at, deadline_at, poll_count, failure_count, missing_count, metadata)
{rows.format(last=jobs - 1)}
SELECT 'job_' || ({FIRST} + i), 'revor', 'default', 'j' || i, 'succeeded', 'succeeded', {EVENTS_A_JOB}, 0, 0, 0, 1, 1.0,
  {at}, {at}, 1, 0, 0, x'7b7d' FROM n"""
    yield f"""
INSERT INTO events (id, job_uid, sequence, type, source, subject, time, recorded_at, body) {rows.format(last=count - 1)}
SELECT 'evt_' || {number}, {job}, i % {EVENTS_A_JOB}, 'ai.revor.job.running', 'revor', {job}, {at}, {at} + i / 1e6,
  CAST('{{"id":"evt_' || {number} || '","type":"ai.revor.job.running","subject":"' || {job} || '"}}' AS BLOB) FROM n"""
    yield f"""
INSERT INTO deliveries (id, event_id, subscription_id, job_uid, sequence, state, priority, due_at, attempt_count,
  made_count, created_at, ended_at) {rows.format(last=count - 1)}
SELECT 'dlv_' || {number}, 'evt_' || {number}, '{subscription_id}', {job}, i % {EVENTS_A_JOB}, 'delivered', 0, {at}, 1,
  1, {at}, {at} FROM n"""


class Ledger:
    """What the sink got: of each job how many events, each of which has to be the next one."""

    def __init__(self, count: int) -> None:
        self._next = bytearray(count // EVENTS_A_JOB)
        self.came = 0

    def read(self, requests: list[tuple[float, str, str, str]]) -> None:
        """Raises RuntimeError for an event that came twice or too soon."""
        for _, event_id, _, _ in requests:
            job, sequence = divmod(int(event_id.removeprefix("evt_")) - FIRST, EVENTS_A_JOB)
            if self._next[job] != sequence:
                raise RuntimeError(f"{event_id} came where event {self._next[job]} of its job was next")
            self._next[job] += 1
            self.came += 1


def progress(port: int, replay_id: str) -> dict[str, Any]:
    """How far the replay is."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/replays/{replay_id}", headers=AUTHORIZED)
    with urllib.request.urlopen(request, timeout=60) as answered:
        found: dict[str, Any] = orjson.loads(answered.read())
    return found


def drained(port: int, subscription_id: str, sink: End, count: int) -> tuple[float, float]:
    """Seconds that the answer to the request took, and until the replay is done."""
    ledger, begun = Ledger(count), time.perf_counter()
    made = call(port, f"/v1/subscriptions/{subscription_id}/replay", {"since": SINCE, "only": "all"})
    answered = time.perf_counter() - begun
    if made["matched"] != count:
        raise RuntimeError(f"{made['matched']} events are to be sent, not {count}")
    moved, reported = time.perf_counter(), 0
    while (found := progress(port, made["replay_id"]))["state"] == "running":
        time.sleep(ASK_SECONDS)
        ledger.read(sink.ask("take"))
        if found["delivered"] > reported:
            moved, reported = time.perf_counter(), found["delivered"]
            print(f"\r{reported:,} of {count:,}", end="", file=sys.stderr, flush=True)
        if time.perf_counter() - moved > STUCK_SECONDS:
            raise RuntimeError(f"the replay does not go on: {found}")
    seconds = time.perf_counter() - begun
    ledger.read(sink.ask("take"))
    if (found["delivered"], found["left"], ledger.came) != (count, 0, count):
        raise RuntimeError(f"the sink got {ledger.came} events: {found}")
    print("\r", end="", file=sys.stderr)
    return answered, seconds


async def measure(count: int = COUNT) -> dict[str, Any]:
    """A row of the table of run.py."""
    _, few = await replayed(count // 10)
    answered, seconds = await replayed(count)
    reported = f"events/s, baseline {count // 10:,} (each once, in order within its job; asked for in {answered:.1f} s)"
    rates = {"ours": count / seconds, "baseline": count / 10 / few}
    return {"name": f"a replay of {count:,} events", "unit": reported, "bar": BAR, **rates}


async def replayed(count: int) -> tuple[float, float]:
    """As `drained`, with a database and a relay of its own."""
    from run import SECRET, node

    key = new_key()
    with end("sink") as sink, tempfile.TemporaryDirectory() as folder:
        async with node(Path(folder), key=key, roles=("api",)) as opened:
            now = time.time()
            subscription = Subscription(
                id=new_id("sub", now),
                sink=f"http://127.0.0.1:{sink.port}/hook",
                state="enabled",
                concurrency=AT_ONCE,
                created_at=now - 7200,
                types=("ai.revor.job.running",),
                secrets=(SigningSecret(value=SECRET),),
            )
            await opened.store.subscriptions.create(subscription)
            for statement in filling(count, subscription.id, now):
                await opened.store.database.write(
                    lambda connection, items: [connection.execute(text(item)) and None for item in items], statement
                )
        environ = {**SINKS_ALLOWED, "DATABASE_URL": f"sqlite:///{folder}/bench.db", "RELAY_ENCRYPTION_KEY": key}

        def run() -> tuple[float, float]:
            with relay(NOBODY_PORT, environ=environ) as (port, _):
                return drained(port, subscription.id, sink, count)

        return await asyncio.to_thread(run)


if __name__ == "__main__":
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    print(uvloop.run(measure(int(sys.argv[1]) if sys.argv[1:] else COUNT)))
