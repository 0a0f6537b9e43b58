"""The same faults for every broker: killed twice, its port closed for a while, while events are published to it.

A whole node runs in this process, events come in by `POST /v1/events`, and go out to the broker and to a webhook. What
the broker has stored at the end is read with a client that the relay does not use.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from tests.support.brokers.cut import Cut
from tests.support.brokers.process import Process
from tests.support.e2e_world import World, open_e2e_world
from tests.support.scale import scaled

EVENTS = scaled(500, 10_000)
KEYS = 20
CLOSED_SECONDS = scaled(8.0, 20.0)
"""Longer than an attempt may take: 5 s."""
HEALTHY_SECONDS = scaled(1.0, 5.0)
"""Between two faults."""
TICK_SECONDS = 0.25
MAX_DUPLICATES = scaled(0.05, 0.01)
"""Of the events. What two kills can repeat is the same however many there are, and each one is looked at."""
MAX_GROWTH_BYTES = scaled(64, 128) * 1024**2
MAX_WEBHOOK_SECONDS = 30.0
"""How late the webhook may get an event while the broker is away. On a quiet machine it is some milliseconds."""
AROUND_SECONDS = 5.0
"""After a fault has ended, attempts that began in it may still fail."""
END_SECONDS = 300.0
RETRIES = ["0.2s", "0.5s", *["1s"] * 8, *["2s"] * 40]
TYPE = "com.acme.order.paid"


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as the broker has stored it: the event in it, and the id that the broker was given beside it."""

    event: dict[str, Any]
    message_id: str | None

    @property
    def key(self) -> str:
        return str(self.event["partitionkey"])

    @property
    def number(self) -> int:
        return int(self.event["data"]["number"])


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderTest:
    """A broker that runs.

    subscription  body of `POST /v1/subscriptions`; its sink is the port of `port`
    port          in front of the process, so that it can be closed
    stored        reads all messages in the order in which the broker has them, at least per key
    """

    process: Process
    port: Cut
    subscription: dict[str, Any]
    stored: Callable[[], Awaitable[Sequence[Stored]]]


@dataclass(kw_only=True)
class Report:
    """What happened. `faults`: when each began and was over, in epoch seconds."""

    stored: int = 0
    repeated: list[str] = field(default_factory=list)
    grown_bytes: int = 0
    webhook_seconds: float = 0.0
    faults: list[tuple[float, float]] = field(default_factory=list)

    @property
    def figures(self) -> str:
        """For `make soak`, which shows it."""
        seconds = ", ".join(f"{end - begin:.1f}" for begin, end in self.faults)
        grown, late = self.grown_bytes / 1024**2, self.webhook_seconds * 1000
        return (
            f"{self.stored:,} messages stored, {len(self.repeated)} events twice; away for {seconds} s; "
            f"memory grew by {grown:.0f} MiB; a webhook waited {late:.0f} ms at most"
        )


async def check_faults(folder: Path, broker: UnderTest) -> Report:
    """Runs the faults and asserts what is promised. Returns figures."""
    async with open_e2e_world(folder) as world:
        webhook = await world.subscribe(types=[TYPE])
        made = await world.api.post(
            "/v1/subscriptions",
            json={"types": [TYPE], "config": {"retry_schedule": RETRIES, "timeout_seconds": 5}, **broker.subscription},
        )
        assert made.status_code == 201, made.text
        run = _Run(world, broker)
        await run.warm()
        before = psutil.Process().memory_info().rss
        async with asyncio.TaskGroup() as group:
            group.create_task(run.publish())
            group.create_task(run.break_things())
        await run.ended(made.json()["id"])
        await run.ended(webhook["id"])
        run.report.grown_bytes = run.peak - before
        await run.judge()
        print(run.report.figures)
        return run.report


class _Run:
    def __init__(self, world: World, broker: UnderTest) -> None:
        self.world, self.broker, self.report = world, broker, Report()
        self.sent: list[tuple[str, str, int]] = []
        """Id, key and number of each accepted event."""
        self.sent_at: dict[str, float] = {}
        self.peak = 0
        self.faults_over = False
        self._kill = asyncio.Event()
        self._killed = asyncio.Event()

    # --- events in

    async def warm(self) -> None:
        """The first events make the connections."""
        await self._post(KEYS)

    async def publish(self) -> None:
        """Publishes evenly, until the faults are over and all events are in. A kill comes right behind an answer, when
        its deliveries are on their way."""
        expected_seconds = CLOSED_SECONDS + 5 * HEALTHY_SECONDS
        share = max(1, round(EVENTS / expected_seconds * TICK_SECONDS))
        while len(self.sent) < EVENTS or not self.faults_over:
            left = EVENTS - len(self.sent)
            await self._post(min(share, left if self.faults_over else max(0, left - share)))
            if self._kill.is_set():
                self._kill.clear()
                self.broker.process.kill()
                self._killed.set()
            self.peak = max(self.peak, psutil.Process().memory_info().rss)
            await asyncio.sleep(TICK_SECONDS)

    async def _post(self, count: int) -> None:
        numbers = range(len(self.sent), len(self.sent) + count)
        if not numbers:
            return
        events = [
            {
                **{"specversion": "1.0", "id": f"order-{number}", "source": "/shop", "type": TYPE},
                **{"partitionkey": f"key {number % KEYS}", "data": {"number": number, "text": "ü" * 200}},
            }
            for number in numbers
        ]
        for first in range(0, count, 1000):
            now = time.monotonic()
            answer = await self.world.api.post(
                "/v1/events",
                json=events[first : first + 1000],
                headers={"content-type": "application/cloudevents-batch+json"},
            )
            assert answer.status_code == 202, answer.text
            for event, item in zip(events[first : first + 1000], answer.json()["items"], strict=True):
                self.sent.append((item["id"], event["partitionkey"], event["data"]["number"]))
                self.sent_at[item["id"]] = now

    # --- faults

    async def break_things(self) -> None:
        for _ in range(2):
            await asyncio.sleep(HEALTHY_SECONDS)
            self._kill.set()
            await self._killed.wait()
            self._killed.clear()
            begun = time.time()
            await self.broker.process.start()
            self.report.faults.append((begun, time.time()))
            await self._flows_again()
        await asyncio.sleep(HEALTHY_SECONDS)
        begun = time.time()
        await self.broker.port.close_port()
        await asyncio.sleep(CLOSED_SECONDS)
        await self.broker.port.open_port()
        self.report.faults.append((begun, time.time()))
        await asyncio.sleep(HEALTHY_SECONDS)
        self.faults_over = True

    async def _flows_again(self) -> None:
        """Waits until what was published last is delivered, so that the next fault meets a broker in use."""
        async with asyncio.timeout(END_SECONDS):
            path = f"/v1/deliveries?event={self.sent[-1][0]}"
            while True:
                states = {item["state"] for item in (await self.world.api.get(path)).json()["items"]}
                if states == {"delivered"}:
                    return
                await asyncio.sleep(TICK_SECONDS)

    async def ended(self, subscription: str) -> None:
        """Waits until no delivery of a subscription is pending. None may be dead."""
        async with asyncio.timeout(END_SECONDS):
            while await self._any("pending", subscription):
                self.peak = max(self.peak, psutil.Process().memory_info().rss)
                await asyncio.sleep(TICK_SECONDS)
        assert not await self._any("dead", subscription)

    async def _any(self, state: str, subscription: str) -> bool:
        path = f"/v1/deliveries?state={state}&subscription={subscription}&limit=1"
        return bool((await self.world.api.get(path)).json()["items"])

    # --- what came of it

    async def judge(self) -> None:
        stored = await self.broker.stored()
        self.report.stored = len(stored)
        self._none_lost(stored)
        _in_order(stored)
        await self._few_repeated(stored)
        self._webhook_undisturbed()
        assert self.report.grown_bytes <= MAX_GROWTH_BYTES, self.report

    def _none_lost(self, stored: Sequence[Stored]) -> None:
        owed = {(key, number) for _, key, number in self.sent}
        found = {(one.key, one.number) for one in stored}
        assert found == owed, f"{len(owed - found)} lost, {len(found - owed)} of nobody"
        ids = {number: event_id for event_id, _, number in self.sent}
        assert all(one.message_id in (None, ids[one.number]) for one in stored)

    async def _few_repeated(self, stored: Sequence[Stored]) -> None:
        """Only what was on its way when the broker went may be there twice."""
        seen: dict[int, int] = defaultdict(int)
        for one in stored:
            seen[one.number] += 1
        ids = {number: event_id for event_id, _, number in self.sent}
        self.report.repeated = [ids[number] for number, count in seen.items() if count > 1]
        assert sum(seen.values()) - len(seen) <= MAX_DUPLICATES * len(seen), self.report
        for event_id in self.report.repeated:
            attempts = [one for one in await self._attempts(event_id) if one["error"] is not None]
            assert any(self._around(one) for one in attempts), (event_id, attempts, self.report.faults)

    async def _attempts(self, event_id: str) -> list[dict[str, Any]]:
        found = []
        for item in (await self.world.api.get(f"/v1/deliveries?event={event_id}")).json()["items"]:
            found += (await self.world.api.get(f"/v1/deliveries/{item['id']}")).json()["attempts"]
        return found

    def _around(self, attempt: dict[str, Any]) -> bool:
        began = datetime.fromisoformat(attempt["started_at"]).timestamp()
        over = began + attempt["duration_ms"] / 1000.0
        return any(began <= end + AROUND_SECONDS and over >= start - 1.0 for start, end in self.report.faults)

    def _webhook_undisturbed(self) -> None:
        received = self.world.received["/events"]
        assert len(received) >= len(self.sent)
        late = [one.at - self.sent_at[one.headers["webhook-id"]] for one in received]
        self.report.webhook_seconds = max(late)
        assert self.report.webhook_seconds <= MAX_WEBHOOK_SECONDS, self.report


def _in_order(stored: Sequence[Stored]) -> None:
    """What is new of a key comes in its order; repetitions may come between."""
    newest: dict[str, int] = {}
    seen: set[int] = set()
    for one in stored:
        if one.number in seen:
            continue
        seen.add(one.number)
        assert one.number > newest.get(one.key, -1), f"{one.key}: {one.number} behind {newest[one.key]}"
        newest[one.key] = one.number
