"""Pulls against a model, by random walks: two programs pull, acknowledge late, early and out of order, nack, give back,
and let leases end, while events are published. Checked at each step:

- an answer has the deliveries of a key in order, and each only behind everything that it follows;
- nothing is handed out while its lease, or that of another one of its key, is another answer's.

At the end each event was acknowledged, or its delivery was given up after its last attempt.
"""

import asyncio
import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.core.deliveries.delivery import Claimed
from relay.store.databases.sqlite import url_of
from relay.store.store import Store, open_store
from tests.support.pull_kit import SUB, TYPES, Program
from tests.support.scale import scaled
from tests.support.store_kit import NOW, ReversingCipher, publication, rows

KEYS = ("a", "b", None)
STEPS = ("publish", "publish", "pull", "pull", "pull", "ack", "ack", "nack", "give back", "tick")


@dataclass
class Walk:
    """The model. `order`: the deliveries of each key as they were first handed out; `held`: of each delivery under a
    lease its answer and the lease's end."""

    store: Store
    programs: Sequence[Program]
    published: int = 0
    known: dict[str, Claimed] = field(default_factory=dict)
    held: dict[str, tuple[int, float]] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)
    answers: int = 0

    @property
    def now(self) -> float:
        return self.programs[0].now

    def live(self, id: str) -> bool:
        return id in self.held and self.held[id][1] > self.now and id not in self.over

    async def publish(self, chance: random.Random) -> None:
        key = chance.choice(KEYS)
        self.published += 1
        await self.store.published.record([publication(str(self.published), key=key)])

    async def pull(self, chance: random.Random) -> None:
        lease_seconds = chance.choice((5.0, 60.0))
        claimed = await chance.choice(self.programs).pull(chance.choice((1, 2, 5)), lease_seconds)
        self.answers += 1
        for one in claimed:
            assert not self.live(one.id), "it is under a lease"
            assert one.id not in self.over, "it has ended"
        for one in claimed:
            self.known[one.id] = one
            self.held[one.id] = (self.answers, self.now + lease_seconds)
        mine = [one.id for one in claimed]
        for place, one in enumerate(claimed):
            if one.order_key is None:
                continue
            of_key = [other for other in self.known.values() if other.order_key == one.order_key]
            for other in of_key:
                first = (other.event.sequence or 0) < (one.event.sequence or 0)
                if other.id not in mine:
                    assert not self.live(other.id), "another answer has its key"
                    assert not first or other.id in self.over or await self.is_dead(other.id)
                elif first:
                    assert other.id in mine[:place], "the order within the answer"

    async def is_dead(self, id: str) -> bool:
        (row,) = await rows(self.store, "SELECT state FROM deliveries WHERE id = :id", id=id)
        return bool(row["state"] == "dead")

    def some(self, chance: random.Random) -> list[Claimed]:
        """A few that were handed out, at any time."""
        found = sorted(self.known, key=lambda id: int(self.known[id].event.document()["id"]))
        return [self.known[id] for id in chance.sample(found, min(len(found), chance.randint(1, 3)))]

    async def ack(self, chance: random.Random) -> None:
        some = self.some(chance)
        if some:
            for one, answer in zip(some, await chance.choice(self.programs).ack(*some), strict=True):
                assert answer == ("already" if one.id in self.over or await self.ended(one.id) else "done")
                self.over.add(one.id)

    async def ended(self, id: str) -> bool:
        (row,) = await rows(self.store, "SELECT state, reason FROM deliveries WHERE id = :id", id=id)
        return bool(row["state"] == "dead")

    async def give_up(self, chance: random.Random, *, untried: bool) -> None:
        some = self.some(chance)
        if not some:
            return
        program = chance.choice(self.programs)
        if untried:
            answers, returned = await program.give_back(*some), ()
        else:
            answers, returned = await program.nack(*some, delay_seconds=chance.choice((0.0, 5.0, None)))
        gone = {one.id for one, answer in zip(some, answers, strict=True) if answer == "done"}
        for id, answer_number in [(id, self.held[id][0]) for id in gone]:
            behind = [
                other
                for other, (number, _) in self.held.items()
                if number == answer_number
                and self.known[other].order_key == self.known[id].order_key is not None
                and (self.known[other].event.sequence or 0) > (self.known[id].event.sequence or 0)
            ]
            for other in behind:
                self.held.pop(other, None)
        for id in gone:
            self.held.pop(id, None)
        assert not gone.intersection(returned)

    async def step(self, kind: str, chance: random.Random) -> None:
        match kind:
            case "publish":
                await self.publish(chance)
            case "pull":
                await self.pull(chance)
            case "ack":
                await self.ack(chance)
            case "nack" | "give back":
                await self.give_up(chance, untried=kind == "give back")
            case _:
                for program in self.programs:
                    program.now += 3.0

    async def finish(self) -> None:
        for _ in range(3 * self.published + 9):
            for program in self.programs:
                program.now += 400.0
            self.held.clear()
            claimed = await self.programs[0].pull(5)
            await self.programs[0].ack(*claimed)
            self.over.update(one.id for one in claimed)
            self.known.update({one.id: one for one in claimed})
        found = await rows(self.store, "SELECT id, state, made_count FROM deliveries")
        assert len(found) == self.published, "none is lost, none is there twice"
        assert {row["state"] for row in found} <= {"delivered", "dead"}
        for row in found:
            assert row["state"] == "delivered" or row["made_count"] >= 3
        counted = await rows(self.store, "SELECT delivery_id, COUNT(*) AS n FROM attempts GROUP BY delivery_id")
        assert {row["delivery_id"]: row["n"] for row in counted} == {row["id"]: row["made_count"] for row in found}


async def walk(store: Store, steps: Sequence[str], seed: int) -> None:
    of = replace(SUB, types=TYPES)
    await store.subscriptions.create(of)
    made = Walk(store, (Program(store, of), Program(store, of)))
    chance = random.Random(seed)
    for kind in steps:
        await made.step(kind, chance)
    await made.finish()


@settings(
    max_examples=scaled(12, 400),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=40), seed=st.integers(0, 1 << 32))
def test_no_event_is_lost_or_overtaken_in_any_order_of_requests(empty_file: Path, steps: list[str], seed: int) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            copied = Path(shutil.copy(empty_file, Path(folder) / "relay.db"))
            store = await open_store(url_of(copied), ReversingCipher(), now=NOW)
            try:
                await walk(store, steps, seed)
            finally:
                await store.close()

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(scaled(1, 20)))
async def test_long_walk_loses_nothing(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    await walk(store, [chance.choice(STEPS) for _ in range(scaled(80, 400))], seed)
