"""Two nodes that share one PostgreSQL database: deliveries a second beside the bare client of run.py, in turns with it.

The nodes are `relay serve` without the role of the scheduler, each a process of its own, as is the sink. A backlog is
recorded while the subscription is paused; the time goes from when it is enabled, for both at once, until no delivery is
pending. What the sink got is counted: a missing event ends the run; a duplicate is reported.

`python two_nodes.py` prints what came of it; `run.py` has it in its table.
"""

import asyncio
import contextlib
import itertools
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import orjson
from dropin_world import cpu_seconds, relay
from latency import SINKS_ALLOWED, End, end

from relay.config.keyring import new_key
from relay.node.interpreter import tune

BAR = 0.75
ROUNDS = 4
LATEST_SECONDS = 120.0
NODE_OPTIONS = ("--roles", "api,dispatcher")
NOBODY_PORT = 9
"""The upstream's: nothing is polled."""


class Counters:
    """What was delivered, and how long it took."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.twice = 0
        self.cpu: list[float] = []

    def used(self, seconds: list[float]) -> None:
        """The processor time of each node, in one round."""
        self.cpu = [sum(pair) for pair in itertools.zip_longest(self.cpu, seconds, fillvalue=0.0)]

    @property
    def shares(self) -> str:
        """How much of a processor each node had."""
        return " and ".join(f"{100 * each / self.seconds:.0f} %" for each in self.cpu)

    @property
    def rate(self) -> float:
        """Deliveries a second."""
        return self.count / self.seconds if self.seconds else 0.0


async def drained(opened: Any, subscription_id: str, sink: End, bodies: list[bytes], tally: Counters) -> None:
    """Enables the subscription until nothing waits for it, and counts what the sink got. The database is asked only
    when that is all: it costs as much as there is."""
    begun = time.perf_counter()
    await opened.store.subscriptions.set_state(subscription_id, "enabled", time.time())
    while (
        await asyncio.to_thread(sink.ask, "count") < len(bodies) or (await opened.store.deliveries.pending()).count > 0
    ):
        if time.perf_counter() - begun > LATEST_SECONDS:
            raise RuntimeError("the backlog does not drain")
        await asyncio.sleep(0.02)
    tally.seconds += time.perf_counter() - begun
    await opened.store.subscriptions.set_state(subscription_id, "paused", time.time())
    tally.count += len(bodies)
    came = Counter(id for _, id, _, _ in await asyncio.to_thread(sink.ask, "take"))
    lost = {orjson.loads(body)["id"] for body in bodies} - came.keys()
    if lost:
        raise RuntimeError(f"{len(lost)} events were lost")
    tally.twice += sum(came.values()) - len(came)


async def measure(count: int, in_flight: int = 64, rounds: int = ROUNDS) -> dict[str, Any]:
    """A row of the table of run.py; it also reports what one of the nodes does alone, in a round before."""
    from run import bare_client, node, owe, subscribed

    from tests.support.postgres_server import PostgresServer

    alone, both, bare_seconds, key = Counters(), Counters(), 0.0, new_key()
    with (
        PostgresServer(fsync=True) as server,
        end("throughput") as sink,
        tempfile.TemporaryDirectory() as folder,
    ):
        server.create_database("bench")
        url, hook = server.url("bench"), f"http://127.0.0.1:{sink.port}/hook"
        environ = {**SINKS_ALLOWED, "DATABASE_URL": url, "RELAY_ENCRYPTION_KEY": key, "RELAY_DELIVERY__PER_HOST": "256"}
        async with node(Path(folder), database_url=url, key=key, roles=("api",)) as opened:
            subscription_id = await subscribed(opened, hook, in_flight)
            tune()
            with contextlib.ExitStack() as nodes:
                pids: list[int] = []

                async def start() -> None:
                    entered = relay(NOBODY_PORT, environ=environ, options=NODE_OPTIONS)
                    pids.append((await asyncio.to_thread(nodes.enter_context, entered))[1])

                await start()
                for turn in range(1 + rounds):
                    bodies = await owe(opened, count // rounds, turn)
                    if turn:
                        bare_seconds += len(bodies) / await bare_client(hook, bodies, in_flight)
                        await asyncio.to_thread(sink.ask, "take")
                    used = [cpu_seconds(pid) for pid in pids]
                    await drained(opened, subscription_id, sink, bodies, both if turn else alone)
                    used = [cpu_seconds(pid) - before for pid, before in zip(pids, used, strict=True)]
                    (both if turn else alone).used(used)
                    if not turn:
                        await start()
    reported = (
        f"deliveries/s (none lost, {both.twice} of {both.count} twice; {both.shares} of a processor;"
        f" one node alone {alone.rate:.0f}/s with {alone.shares})"
    )
    return {
        **{"name": "durable deliveries, PostgreSQL, 2 nodes", "unit": reported, "bar": BAR},
        **{"ours": both.rate, "baseline": both.count / bare_seconds},
    }


if __name__ == "__main__":
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    print(uvloop.run(measure(int(sys.argv[1]) if sys.argv[1:] else 20_000)))
