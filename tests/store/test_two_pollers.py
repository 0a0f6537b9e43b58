"""Two pollers on one job, while responses and writes are delayed, settings are reloaded, and the lease moves back
and forth.

What is recorded is always a subsequence of the upstream's true states, in order. The two nodes' clocks differ, and a
node that has lost the lease may not know it yet. FUZZ_TEST_COUNT is the number of histories tried, from FUZZ_TEST_SEED
on.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from relay.core.jobs.job import Observation
from relay.core.planner import PlannerConfig
from relay.store.store import Store
from relay.testing import FakeClock, RecordingSink, ScriptedPoll
from tests.support.fuzz_kit import COUNT, SEED
from tests.support.simulation_world import World
from tests.support.store_kit import registration

HISTORIES = max(1, COUNT // 200)
STEPS = 150
OPEN = ("queued", "scheduled", "running")
CLOCK_SKEWS = (0.0, 0.0, 90.0, -90.0, 7_200.0)


class Gate:
    """Every request and every write waits here until the driver releases it."""

    def __init__(self, luck: random.Random) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self._luck = luck

    async def wait(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        await future

    def open_one(self) -> None:
        if self.waiting:
            self.waiting.pop(self._luck.randrange(len(self.waiting))).set_result(None)


@dataclass
class Truth:
    """The upstream's one job: all its states, by version."""

    luck: random.Random
    states: list[str] = field(default_factory=lambda: ["queued"])

    @property
    def ended(self) -> bool:
        return self.states[-1] not in OPEN

    def go_on(self, *, to_its_end: bool = False) -> None:
        if not self.ended:
            others = [state for state in OPEN if state != self.states[-1]]
            self.states.append("succeeded" if to_its_end else self.luck.choice(others))


class LateUpstream:
    """Answers with the state at the moment the request arrives; request and response may be delayed."""

    def __init__(self, truth: Truth, gate: Gate) -> None:
        self._truth = truth
        self._gate = gate

    async def poll(self, external_id: str, api_key: str, resource: str = "", ways: object = None) -> ScriptedPoll:
        await self._gate.wait()
        version = len(self._truth.states) - 1
        status = self._truth.states[version]
        await self._gate.wait()
        seen = Observation(status=status, observed_at=0.0, upstream={"status": status, "version": version})
        return ScriptedPoll(observation=seen)


class LateJobs:
    """The store's jobs for a node with a slow connection to its database."""

    def __init__(self, jobs: Any, gate: Gate) -> None:
        self._jobs = jobs
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._jobs, name)
        if name not in ("get", "record", "note"):
            return method

        async def late(*values: Any) -> Any:
            await self._gate.wait()
            return await method(*values)

        return late


class Driver:
    """Runs one action after the other, and lets everything not held come to rest after each."""

    def __init__(self, stores: list[Store], name: str, seed: str) -> None:
        self.luck = random.Random(seed)
        self.gate = Gate(self.luck)
        self.truth = Truth(self.luck)
        self.name = name
        self.uid = ""
        self.store = stores[0]
        self.nodes: list[World] = []
        self.borrowed: set[asyncio.Task[None]] = set()
        for store in stores:
            clock = FakeClock()
            clock.advance(self.luck.choice(CLOCK_SKEWS))
            source, jobs = LateUpstream(self.truth, self.gate), LateJobs(store.jobs, self.gate)
            node = World(store, clock, RecordingSink(clock), source=source, jobs=jobs)
            node.poller.account.holds = False
            self.nodes.append(node)
        self.holder = self.nodes[0]

    @property
    def node(self) -> World:
        return self.luck.choice(self.nodes)

    async def rest(self) -> None:
        async with asyncio.timeout(30):
            while (  # noqa: ASYNC110 - no event signals that a task is at the gate
                sum(len(node.poller._tasks) for node in self.nodes) + len(self.borrowed) != len(self.gate.waiting)
            ):
                await asyncio.sleep(0)

    # --- what can happen

    async def begin(self) -> None:
        made = await self.store.jobs.register(registration(self.name))
        self.uid = made.job.uid
        await self.holder.poller.take_over(None)

    async def time_passes(self) -> None:
        seconds = self.luck.choice((0.5, 2.0, 30.0, 900.0))
        for node in self.nodes:
            node.clock.advance(seconds)

    async def something_is_due(self) -> None:
        await self.node.poller.run_once()

    async def one_goes_on(self) -> None:
        self.gate.open_one()

    async def the_job_goes_on(self) -> None:
        self.truth.go_on()

    async def settings_are_read_again(self) -> None:
        node = self.node
        node.poller.configure(node.poller.account.settings, PlannerConfig(max_requests_per_second=1000.0))

    async def the_lease_goes_to_the_other(self) -> None:
        """The node that had the lease does not know, or learns it later."""
        self.holder = self.nodes[1 - self.nodes.index(self.holder)]
        if not self.holder.poller.account.holds:
            await self.holder.poller.take_over(None)

    async def a_former_holder_learns_it(self) -> None:
        former = self.nodes[1 - self.nodes.index(self.holder)]
        if former.poller.account.holds:
            former.poller.release()

    async def the_holder_loses_it_for_a_moment(self) -> None:
        self.holder.poller.release()
        await self.holder.poller.take_over(None)

    async def a_caller_reads_it(self) -> None:
        task = asyncio.get_running_loop().create_task(self._read(self.node))
        self.borrowed.add(task)
        task.add_done_callback(self.borrowed.discard)

    async def _read(self, node: World) -> None:
        sent = await node.poller.borrow(self.uid)
        if sent is not None:
            await node.poller.settle(sent, await node.source.poll(self.name, "key"))

    async def somebody_refreshes_it(self) -> None:
        if self.holder.poller.planner.tracks(self.uid):
            self.holder.poller.agenda.refresh(self.uid)

    async def it_is_tracked_anew(self) -> None:
        closed = await self.store.jobs.untrack(self.uid, self.holder.clock())
        self.holder.poller.agenda.forget(self.uid)
        if closed.outcome == "untracked":
            made = await self.store.jobs.register(registration(self.name))
            self.holder.poller.track((made.job,))

    async def run(self) -> None:
        moves: dict[Callable[[], Any], int] = {
            self.one_goes_on: 14,
            self.something_is_due: 6,
            self.the_job_goes_on: 4,
            self.time_passes: 3,
            self.a_caller_reads_it: 2,
            self.somebody_refreshes_it: 2,
            self.settings_are_read_again: 2,
            self.the_lease_goes_to_the_other: 1,
            self.a_former_holder_learns_it: 1,
            self.the_holder_loses_it_for_a_moment: 1,
            self.it_is_tracked_anew: 1,
        }
        await self.begin()
        shown = -1
        for move in self.luck.choices(list(moves), list(moves.values()), k=STEPS):
            await move()
            await self.rest()
            job = await self.store.jobs.get(self.uid)
            assert job is not None
            version = -1 if job.upstream is None else job.upstream["version"]
            assert version >= shown, f"{move.__name__}: the row went from version {shown} back to {version}"
            shown = version
        await self.end()
        await self.judge()

    async def end(self) -> None:
        """All nodes learn who holds the lease, nothing is delayed any more, and the job ends."""
        await self.a_former_holder_learns_it()
        self.truth.go_on(to_its_end=True)
        for _ in range(200):
            while self.gate.waiting:
                self.gate.open_one()
                await self.rest()
            job = await self.store.jobs.get(self.uid)
            if job is not None and not job.open:
                return
            self.holder.clock.advance(60.0)
            await self.holder.poller.run_once()
            await self.rest()
        raise AssertionError("the job has ended, and the relay never saw it")

    async def judge(self) -> None:
        last = -1
        for event in await self.store.events.of_job(self.uid):
            data = event.document()["data"]
            version = data["job"]["version"]
            assert version >= last, f"version {version} was recorded after {last}"
            assert self.truth.states[version] == data["status"]
            last = version
        assert last == len(self.truth.states) - 1


@pytest.mark.parametrize("shared", ["one store", "a store each"])
async def test_events_of_two_pollers_are_a_subsequence_of_the_true_history(
    store: Store, open_again: Callable[..., Any], shared: str
) -> None:
    if shared == "a store each" and not store.database.shared:
        pytest.skip("one process holds a SQLite file")
    other = store if shared == "one store" else await open_again()
    for number in range(HISTORIES):
        seed = f"{SEED} {number}"
        try:
            await Driver([store, other], f"job {number}", seed).run()
        except Exception as error:
            error.add_note(f"history {seed!r}: FUZZ_TEST_SEED={SEED} FUZZ_TEST_COUNT={COUNT}")
            raise
