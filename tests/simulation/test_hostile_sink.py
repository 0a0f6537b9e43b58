"""Hostile answers by the thousand, through the whole delivery: floods, drips, bombs, echoes, text that slows redaction.

None stalls the event loop, ends the dispatcher, shows a secret or leaves anything behind. `make soak` sends 2,000,
`make verify` 54: FUZZ_TEST_COUNT and FUZZ_TEST_SEED as in `tests/support/fuzz_kit.py`.
"""

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from structlog.testing import capture_logs

from relay.api.deliveries.deliveries import attempt_view
from relay.config.keyring import Keyring, new_key
from relay.core.access.netguard import GuardPolicy
from relay.core.subscriptions.subscription import SigningSecret
from relay.http.sender import Sender
from relay.store.store import open_store
from tests.support.fuzz_kit import COUNT, SEED
from tests.support.hostile_sink import KINDS, kind_of
from tests.support.loop_watch import LoopWatch
from tests.support.simulation_world import SECRET, World
from tests.support.store_kit import relay_event, subscription

pytestmark = pytest.mark.verify

ANSWERS = max(3 * len(KINDS), COUNT // 10)
AT_ONCE = 60
TIMEOUT_SECONDS = 2.0
MAX_TURN_SECONDS = 0.25
"""No request, poll or delivery waits for longer than that for an answer of another sink."""
MAX_ATTEMPT_BYTES = 40_000
MAX_GROWTH_BYTES = 16 << 20
"""Memory that may be added between the first quarter and the end: caches of at most 4,096 URLs, and no more."""
MAX_PEAK_GROWTH_BYTES = 100 << 20
HUSH = ("hush-path-0123456789", "hush-query-key", "hush-bearer-token")


@asynccontextmanager
async def open_sink() -> AsyncIterator[str]:
    """The sink's process. Yields its URL."""
    command = [sys.executable, "-m", "tests.support.hostile_sink", str(SEED)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = await asyncio.to_thread(process.stdout.readline)
        yield f"http://127.0.0.1:{int(port)}"
    finally:
        process.stdin.close()
        process.stdout.close()
        await asyncio.to_thread(process.wait, 20)


def resources() -> tuple[int, int, int]:
    """Open connections, threads and tasks."""
    return len(psutil.Process().net_connections()), threading.active_count(), len(asyncio.all_tasks())


def resident_bytes() -> int:
    gc.collect()
    resident: int = psutil.Process().memory_info().rss
    return resident


async def deliver(world: World, url: str, numbers: range) -> Counter[str]:
    """One event to a subscription for each case. Returns how the attempts ended."""
    for number in numbers:
        made = subscription(
            f"sub_{number}",
            sink=f"{url}/{HUSH[0]}/{number}?key={HUSH[1]}",
            headers=(("Authorization", f"Bearer {HUSH[2]}"), ("X-Team", "sales")),
            types=("relay.source.down",),
            timeout_seconds=TIMEOUT_SECONDS,
            retry_schedule_seconds=(),
            secrets=(SigningSecret(value=SECRET),),
        )
        await world.store.subscriptions.create(made)
    await world.store.events.record(relay_event(now=world.clock()))
    await world.deliver()
    ends: Counter[str] = Counter()
    for number in numbers:
        case = f"case {number} ({kind_of(number)}) of FUZZ_TEST_SEED={SEED}"
        (delivery,) = (await world.store.deliveries.page(limit=10, subscription_id=f"sub_{number}")).items
        found = await world.store.deliveries.get(delivery.id)
        assert found is not None
        assert len(found.attempts) == 1, case
        (attempt,) = found.attempts
        shown = orjson.dumps(attempt_view(attempt, whole=True)).decode()
        assert len(shown) < MAX_ATTEMPT_BYTES, case
        assert not any(secret in shown for secret in HUSH), (case, shown)
        if found.state == "delivered":
            assert 200 <= (attempt.status_code or 0) < 300, case
        else:
            assert found.state == ("pending" if attempt.status_code == 410 else "dead"), case
        ends[(attempt.error or "status").partition(":")[0]] += 1
        await world.store.subscriptions.remove(f"sub_{number}", world.clock())
    return ends


async def test_hostile_answers_neither_stall_nor_end_nor_leak_anything(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path}/relay.db", Keyring([new_key()]), now=time.time())
    policy = GuardPolicy(allow_http=True, allow_networks=(IPv4Network("127.0.0.1/32"),))
    ends: Counter[str] = Counter()
    resident: list[int] = []
    began = time.perf_counter()
    async with open_sink() as url, Sender(policy, clock=time.time) as sender:
        clock: Any = time.time
        transport: Any = sender
        world = World(store, clock, transport)
        before = resources()
        with capture_logs() as logs:
            async with LoopWatch() as watch:
                for start in range(0, ANSWERS, AT_ONCE):
                    ends += await deliver(world, url, range(start, min(start + AT_ONCE, ANSWERS)))
                    resident.append(resident_bytes())
        async with asyncio.timeout(120):
            while resources()[0] > before[0]:  # noqa: ASYNC110 (pooled connections are closed after some seconds)
                await asyncio.sleep(0.1)
        after = resources()
    await store.close()
    assert sum(ends.values()) == ANSWERS
    odd = {line["event"] for line in logs} - {"attempt"}
    assert not odd, odd
    told = orjson.dumps(logs, default=str).decode()
    assert not any(secret in told for secret in HUSH)
    assert after[2] == before[2]
    assert after[1] <= before[1] + 4, "the database reads in threads"
    growth = resident[-1] - resident[len(resident) // 4]
    figures = (
        f"{ANSWERS:,} hostile answers in {time.perf_counter() - began:.0f} s: {dict(ends.most_common())}; longest turn "
        f"of the loop {watch.longest_cpu_seconds * 1000:.0f} ms of processor time "
        f"({watch.longest_wall_seconds * 1000:.0f} ms by the clock); memory {resident[0] >> 20} MiB at first, "
        f"{max(resident) >> 20} at most, {growth / 2**20:+.1f} from the first quarter to the end"
    )
    print(figures)
    assert watch.longest_cpu_seconds < MAX_TURN_SECONDS, figures
    assert growth < MAX_GROWTH_BYTES, figures
    assert max(resident) - resident[0] < MAX_PEAK_GROWTH_BYTES, figures


@pytest.mark.parametrize("kind", [kind.__name__ for kind in KINDS])
def test_each_kind_of_answer_is_among_the_cases(kind: str) -> None:
    assert kind in {kind_of(number) for number in range(ANSWERS)}
