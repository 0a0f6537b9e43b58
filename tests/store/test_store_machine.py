"""The outbox against a model, by random walks: record, claim one by one and in bundles, end an attempt or a bundle's,
retry, replay, remove and release, in any order and in shared groups. Invariants after each step:

- at most one automatic delivery of a (job, subscription) is pending, and it is the first open one;
- exactly one manual delivery of a (job, subscription) is pending, if any is open;
- no other delivery is blocked without a pending one before it;
- each event has exactly one delivery for each subscription that it matched when it was recorded;
- each delivery has as many attempts as it counts.
"""

import asyncio
import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from relay import ids
from relay.core.deliveries import bundles as core_bundles
from relay.core.deliveries.delivery import Claimed
from relay.core.deliveries.replay import Only, ReplayRequest
from relay.errors import Conflict
from relay.ids import new_id
from relay.store.databases.sqlite import url_of
from relay.store.deliveries import replays
from relay.store.store import Store, open_store
from tests.support.scale import scaled
from tests.support.store_databases import emptied_postgres
from tests.support.store_kit import (
    NOW,
    ReversingCipher,
    callback_for,
    claim,
    claim_bundle,
    deliveries,
    lease,
    poll,
    record_one,
    registration,
    result_of,
    rows,
    subscription,
    together,
    track,
)

KINDS = ("queued", "running", "failed")
JOBS = ("a", "b", "c")
SUBSCRIPTIONS: dict[str, dict[str, Any]] = {
    "sub_all": {},
    "sub_failed": {"types": ("ai.revor.job.failed",)},
    "sub_none": {"ordering": "none"},
}
CALLBACK = "sub_callback"


class OutboxMachine(RuleBasedStateMachine):
    """One store on a database and event loop of its own."""

    new_database: Callable[[Path], str]
    claimed: Bundle[Claimed] = Bundle("claimed")
    bundles: Bundle[tuple[Claimed, ...]] = Bundle("bundles")
    replays: Bundle[str] = Bundle("replays")

    def __init__(self) -> None:
        super().__init__()
        ids._random.seed(0)  # what is claimed first of what is due at once depends on ids: the same ones again
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.now = NOW
        self.sequences: dict[str, int] = {}
        self.callbacks: set[str] = set()
        self.alive = set(SUBSCRIPTIONS)
        self.expected: dict[tuple[str, str], list[tuple[str, int]]] = defaultdict(list)
        self.delivered_first: dict[tuple[str, str], list[int]] = defaultdict(list)

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    @initialize()
    def opened(self) -> None:
        self.store: Store = self.run(open_store(type(self).new_database(self.folder), ReversingCipher(), now=self.now))
        for name, fields in SUBSCRIPTIONS.items():
            self.run(self.store.subscriptions.create(subscription(name, **fields)))
        self.run(callback_for(self.store, "https://callback.example", CALLBACK, self.now))
        self.uids = {name: self.run(track(self.store, name)) for name in JOBS}
        self.sequences = dict.fromkeys(JOBS, 0)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self.store.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.folder)

    # --- what happens

    def _record(self, job: str, kinds: list[str], leased: bool) -> Any:
        """The write, and the model's expectation."""
        taking = lease(*SUBSCRIPTIONS, CALLBACK, until=self.now + 45) if leased else None
        for nth, kind in enumerate(kinds, 1):
            wanted = {"sub_all", "sub_none"} | ({"sub_failed"} if kind == "failed" else set())
            for name in wanted & self.alive:
                self.expected[job, name].append((name, self.sequences[job] + nth))
            if job in self.callbacks:
                self.expected[job, CALLBACK].append((CALLBACK, self.sequences[job] + nth))
        record = poll(self.uids[job], self.sequences[job], *kinds, now=self.now, lease=taking)
        self.sequences[job] += len(kinds)
        return self.store.jobs.record(record)

    @rule(
        target=claimed,
        job=st.sampled_from(JOBS),
        kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
        leased=st.booleans(),
    )
    def record(self, job: str, kinds: list[str], leased: bool) -> Any:
        return multiple(*self.run(self._record(job, kinds, leased)).claimed)

    @rule(job=st.sampled_from(JOBS))
    def add_callback(self, job: str) -> None:
        if job not in self.callbacks:
            self.callbacks.add(job)
            self.expected[job, CALLBACK] += [(CALLBACK, nth) for nth in range(1, self.sequences[job] + 1)]
        wanted = registration(job, callback_subscription_id=CALLBACK, tracked_at=self.now)
        self.run(self.store.jobs.register(wanted))

    @rule(target=claimed, name=st.sampled_from([*SUBSCRIPTIONS, CALLBACK]), count=st.integers(0, 4))
    def claim(self, name: str, count: int) -> Any:
        return multiple(*self.run(claim(self.store, name, count, now=self.now)))

    @rule(
        target=claimed,
        one=consumes(claimed),
        state=st.sampled_from(["delivered", "dead", "pending"]),
        goes_on=st.integers(0, 3),
    )
    def mark(self, one: Claimed, state: str, goes_on: int) -> Any:
        marked = self.run(record_one(self.store, self._mark(one, state, goes_on)))
        self._note_end(one, state, marked.kept)
        return multiple(*marked.next)

    @rule(
        target=bundles,
        name=st.sampled_from([*SUBSCRIPTIONS, CALLBACK]),
        priorities=st.sampled_from([(0, 1, 2), (1, 2), (2,)]),
        max_events=st.integers(1, 5),
        wait_seconds=st.sampled_from([0.0, 2.0]),
        requests=st.integers(1, 3),
        singles=st.sampled_from([0, 0, 2]),
    )
    def claim_bundle(
        self,
        name: str,
        priorities: tuple[int, ...],
        max_events: int,
        wait_seconds: float,
        requests: int,
        singles: int,
    ) -> Any:
        limits = core_bundles.Bundle(max_events=max_events, wait_seconds=wait_seconds, max_bytes=1_000)
        room = core_bundles.Room(count=singles)
        held = lease(until=self.now + 45)
        found = self.run(claim_bundle(self.store, name, priorities, limits, room, requests, self.now, held))
        for request in found.requests:
            assert len(request) <= max_events
            for job_uid in {one.order_key for one in request}:
                sequences = [one.event.sequence for one in request if one.order_key == job_uid]
                assert sequences == sorted(sequences)
        return multiple(*found.requests)

    @rule(
        target=claimed,
        one=consumes(bundles),
        state=st.sampled_from(["delivered", "pending"]),
        alone=st.booleans(),
        job=st.sampled_from(JOBS),
        kind=st.sampled_from([None, *KINDS]),
        order=st.permutations(range(2)),
    )
    def mark_bundle(
        self, one: tuple[Claimed, ...], state: str, alone: bool, job: str, kind: str | None, order: list[int]
    ) -> Any:
        due_at = self.now + 3 if state == "pending" else None
        results = [result_of(member, state, now=self.now, due_at=due_at, alone=alone) for member in one]
        writes = [self.store.deliveries.record(*results)]
        if kind is not None:
            writes.append(self._record(job, [kind], alone))
        order = [nth for nth in order if nth < len(writes)]
        made = dict(zip(order, self.run(together(self.store, *(writes[nth] for nth in order))), strict=True))
        assert not any(isinstance(result, Exception) for result in made.values())
        for member, recorded in zip(one, made[0], strict=True):
            self._note_end(member, state, recorded.kept)
        return multiple(*made[1].claimed) if kind is not None else multiple()

    @rule(one=consumes(bundles))
    def release_bundle(self, one: tuple[Claimed, ...]) -> None:
        self.run(self.store.deliveries.release(one, self.now))

    @rule(
        target=claimed,
        one=consumes(claimed),
        other=consumes(claimed),
        job=st.sampled_from(JOBS),
        kind=st.sampled_from(KINDS),
        leased=st.booleans(),
        order=st.permutations(range(3)),
        state=st.sampled_from(["delivered", "dead"]),
    )
    def mark_and_record_in_one_group(
        self, one: Claimed, other: Claimed, job: str, kind: str, leased: bool, order: list[int], state: str
    ) -> Any:
        writes = [
            record_one(self.store, self._mark(one, state, leased)),
            record_one(self.store, self._mark(other, "delivered", not leased)),
            self._record(job, [kind], leased),
        ]
        results = dict(zip(order, self.run(together(self.store, *(writes[nth] for nth in order))), strict=True))
        assert not any(isinstance(result, Exception) for result in results.values())
        self._note_end(one, state, results[0].kept)
        self._note_end(other, "delivered", results[1].kept)
        return multiple(*results[0].next, *results[1].next, *results[2].claimed)

    @rule(one=consumes(claimed))
    def release(self, one: Claimed) -> None:
        self.run(self.store.deliveries.release([one], self.now))

    @rule(data=st.data(), ended=st.booleans())
    def retry(self, data: st.DataObject, ended: bool) -> None:
        names = {uid: name for name, uid in self.uids.items()}
        rows = self.run(deliveries(self.store))  # uids are random: what is drawn from must be in the same order again
        rows.sort(key=lambda row: (names[row["job_uid"]], row["sequence"], row["subscription_id"]))
        if ended:
            rows = [row for row in rows if row["ended_at"] is not None]
        if rows:
            row = data.draw(st.sampled_from(rows))
            try:
                self.run(self.store.deliveries.retry(row["id"], self.now))
            except Conflict:
                leased = row["lease_token"] is not None and row["due_at"] > self.now
                assert row["state"] == "blocked" or leased or row["subscription_id"] not in (*self.alive, CALLBACK)

    @rule(
        target=replays,
        name=st.sampled_from([*SUBSCRIPTIONS, CALLBACK, None]),
        everything=st.booleans(),
    )
    def replay(self, name: str | None, everything: bool) -> Any:
        if name is not None and name not in (*self.alive, CALLBACK):
            return multiple()
        only: Only = ("all" if everything else "undelivered") if name else ("delivered" if everything else "dead")
        values: dict[str, Any] = {"since": 0.0, "until": self.now + 1, "now": self.now}
        request = ReplayRequest(id=new_id("rpl", self.now), subscription_id=name, only=only, **values)
        self.run(self.store.replays.create(request))
        return request.id

    @rule(id=replays, times=st.integers(1, 3))
    def go_on_with_a_replay(self, id: str, times: int) -> None:
        for _ in range(times):
            self.run(self.store.replays.advance(id, "node", self.now))

    @rule(id=consumes(replays))
    def stop_a_replay(self, id: str) -> None:
        assert self.run(self.store.replays.stop(id, self.now)).state != "running"

    @rule(id=replays)
    def what_a_replay_says_adds_up(self, id: str) -> None:
        found = self.run(self.store.replays.get(id))
        assert found.left <= found.matched
        assert found.delivered + found.dead <= found.queued

    @rule(seconds=st.sampled_from([1.0, 46.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: len(self.alive) > 2)
    @rule(name=st.sampled_from(sorted(SUBSCRIPTIONS)))
    def remove(self, name: str) -> None:
        if name in self.alive:
            self.alive.discard(name)
            self.run(self.store.subscriptions.remove(name, self.now))

    @rule()
    def no_head_is_missed(self) -> None:
        promoted, _ = self.run(self.store.upkeep.promote_heads(self.now))
        assert promoted == 0

    def _mark(self, one: Claimed, state: str, goes_on: int) -> Any:
        going = lease(until=self.now + 45) if goes_on else None
        due_at = self.now + 3 if state == "pending" else None
        goes: dict[str, Any] = {"next_lease": going, "next_count": max(1, goes_on), "next_backlogged": goes_on != 2}
        return result_of(one, state, now=self.now, due_at=due_at, **goes)

    def _note_end(self, one: Claimed, state: str, kept: bool) -> None:
        if kept and state != "pending" and one.event.sequence is not None:
            self.delivered_first[str(one.order_key), one.subscription_id].append(one.event.sequence)

    # --- what holds

    @invariant()
    def heads_and_followers(self) -> None:
        if not hasattr(self, "store"):
            return
        pairs: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        manual: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in self.run(deliveries(self.store)):
            if row["state"] in ("pending", "blocked"):
                chain = pairs if row["priority"] < 2 else manual
                chain[row["job_uid"], row["subscription_id"]].append(row)
        for (_, name), found in manual.items():
            pending = [row["state"] for row in found].count("pending")
            assert pending == (len(found) if name == "sub_none" else 1), found
        for (_, name), found in pairs.items():
            if name == "sub_none":
                assert {row["state"] for row in found} == {"pending"}
                continue
            assert [row["state"] for row in found] == ["pending"] + ["blocked"] * (len(found) - 1), found

    @invariant()
    def one_delivery_for_each_event_and_subscription(self) -> None:
        if not hasattr(self, "store"):
            return
        found: dict[tuple[str, str], list[tuple[str, int]]] = defaultdict(list)
        names = {uid: name for name, uid in self.uids.items()}
        for row in self.run(deliveries(self.store)):
            found[names[row["job_uid"]], row["subscription_id"]].append((row["subscription_id"], row["sequence"]))
        assert found == self.expected or {k: v for k, v in self.expected.items() if v} == found

    @invariant()
    def attempts_are_those_counted(self) -> None:
        if hasattr(self, "store"):
            statement = "SELECT id FROM deliveries d WHERE made_count <> (SELECT COUNT(*) FROM attempts a WHERE "
            assert self.run(rows(self.store, f"{statement} a.delivery_id = d.id)")) == []

    @invariant()
    def first_ends_come_in_order(self) -> None:
        for (_, name), sequences in self.delivered_first.items():
            firsts = list(dict.fromkeys(sequences))
            assert name == "sub_none" or firsts == sorted(firsts)


class SqliteMachine(OutboxMachine):
    """On a file of its own."""

    new_database = staticmethod(lambda folder: url_of(folder / "relay.db"))


class PostgresMachine(OutboxMachine):
    """On an emptied database."""

    new_database = staticmethod(lambda _folder: emptied_postgres())


@pytest.mark.parametrize("machine", [SqliteMachine, PostgresMachine])
def test_the_outbox_keeps_its_order_whatever_happens(
    machine: type[OutboxMachine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "_random", random.Random())
    monkeypatch.setattr(replays, "SLICE", 3)
    monkeypatch.setattr(replays, "SLICE_OF_ALL", 2)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=scaled(10, 60) if machine is SqliteMachine else scaled(5, 20),  # these wait for a server
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
