"""Groups against their jobs, by random walks: register, poll, untrack, track again, purge, erase, delete by retention,
close and settle, in any order and in shared transactions. Invariants after each step:

- the counts of each group equal those recounted from the jobs table, and what retention has deleted since;
- each round has at most one event, and exactly one if it finished with jobs.
"""

import asyncio
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from relay import ids
from relay.core.erasure import ErasureRequest
from relay.core.jobs.job import Problem
from relay.errors import Conflict
from relay.store.databases.sqlite import url_of
from relay.store.store import Store, open_store
from tests.support import group_recount
from tests.support.scale import scaled
from tests.support.store_databases import emptied_postgres
from tests.support.store_kit import NOW, ReversingCipher, intent, poll, registration, rows, seen, together

NAMES = ("a", "b", "c", "d", "e", "f")
GROUPS = ("spring", "summer")
OPEN = ("queued", "scheduled", "running", "retrying", "status_unknown")
ENDED = ("succeeded", "skipped", "failed", "other failure", "cancelled", "not_found")
CODES = {"failed": "no_reply", "other failure": None}
SETTLE = 50.0


def operations(seed: int) -> list[tuple[Any, ...]]:
    """A few operations on different jobs and groups, most of them registrations and polls."""
    chance = random.Random(seed)
    found: dict[str, tuple[Any, ...]] = {}
    for _ in range(chance.randint(1, 6)):
        kind = chance.choices(("register", "poll", "untrack", "purge", "close"), (6, 9, 1, 1, 2))[0]
        name = chance.choice(NAMES)
        if kind == "register":
            group, size = chance.choice((None, *GROUPS, *GROUPS)), chance.choice((None, None, None, 1, 2, 4))
            found.setdefault(name, (kind, name, group, size))
        elif kind == "poll":
            found.setdefault(name, (kind, name, chance.choice((*OPEN, "overdue", *ENDED, *ENDED))))
        elif kind == "close":
            found.setdefault(name, (kind, chance.choice(GROUPS), chance.choice((None, 0, 2, 5))))
        else:
            found.setdefault(name, (kind, name))
    return list(found.values())


class GroupMachine(RuleBasedStateMachine):
    """One store on a database and event loop of its own."""

    new_database: Callable[[Path], str]

    def __init__(self) -> None:
        super().__init__()
        ids._random.seed(0)
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.now = NOW
        self.removed: dict[Any, group_recount.Count] = {}
        self.past_events: set[str] = set()
        """Of groups that are gone: another one of the name begins with the first round."""
        self.ids_before: dict[str, str] = {}

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return self.run(rows(self.store, sql))  # type: ignore[no-any-return]

    @initialize()
    def opened(self) -> None:
        self.store: Store = self.run(open_store(type(self).new_database(self.folder), ReversingCipher(), now=self.now))
        self.store.group_ledger.configure(settle_seconds=SETTLE, base_url="http://relay.example", finished=_nothing)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self.store.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.folder)

    # --- what happens

    @rule(seeds=st.lists(st.integers(0, 1 << 32), min_size=1, max_size=6))
    def operations_in_shared_transactions(self, seeds: list[int]) -> None:
        for seed in seeds:
            self.now += seed % 3
            self._in_one_transaction(operations(seed))
            self.counts_equal_those_of_the_jobs()
            self.each_round_has_one_event()

    def _in_one_transaction(self, wanted: list[tuple[Any, ...]]) -> None:
        known = {row["external_id"]: row for row in self.rows("SELECT * FROM jobs")}
        found = {row["name"] for row in self.rows("SELECT name FROM groups")}
        writes = []
        for kind, name, *details in wanted:
            if kind == "register":
                writes.append(self._register(name, *details))
            elif kind == "close":
                if name in found:
                    writes.append(self._close(name, *details))
            elif name in known:
                job = known[name]
                if kind == "poll":
                    writes.append(self._poll(job, *details))
                elif kind == "untrack":
                    writes.append(self.store.jobs.untrack(job["uid"], self.now))
                else:
                    writes.append(self.store.jobs.purge(job["uid"], self.now))
        for result in self.run(together(self.store, *writes)) if writes else ():
            if isinstance(result, Exception) and not isinstance(result, Conflict):
                assert type(result).__name__ == "StaleSequence", result

    def _register(self, name: str, group: str | None, size: int | None) -> Any:
        fields: dict[str, Any] = {"group": group, "group_size": None if group is None else size}
        if size is not None:
            fields["intent"] = intent(self.now)
        fields["metadata"] = {"person": name}
        return self.store.jobs.register(registration(name, tracked_at=self.now, **fields))

    async def _close(self, name: str, expected: int | None) -> None:
        key = self.keys[name]
        await self.store.groups.close(key, expected, self.now)

    def _poll(self, job: dict[str, Any], status: str) -> Any:
        uid, sequence = job["uid"], job["sequence"]
        if status == "overdue":
            return self.store.jobs.record(poll(uid, sequence, "overdue", now=self.now, seen=None, progress=_same(job)))
        outcome = {"skipped": "succeeded", "other failure": "failed"}.get(status, status)
        if status == "not_found":
            return self.store.jobs.record(poll(uid, sequence, outcome, now=self.now, seen=None, outcome=outcome))
        problem = Problem(code=CODES[status], message="no") if CODES.get(status) else None
        result = {"succeeded": "accepted", "skipped": "skipped"}.get(status)
        observation = seen(outcome, self.now, problem=problem, result_status=result)
        ended = outcome if status in ENDED else None
        return self.store.jobs.record(poll(uid, sequence, outcome, now=self.now, seen=observation, outcome=ended))

    @rule(name=st.sampled_from(NAMES))
    def erase_a_person(self, name: str) -> None:
        self._erase(ErasureRequest(name="person", value=name))

    @rule(group=st.sampled_from(GROUPS))
    def erase_a_group(self, group: str) -> None:
        self._erase(ErasureRequest.of_group(group))
        assert self.rows(f"SELECT id FROM groups WHERE name = '{group}'") == []
        self.removed = {place: count for place, count in self.removed.items() if place[0][2] != group}

    def _erase(self, request: ErasureRequest) -> None:
        cursor = None
        while True:
            cursor = self.run(self.store.erasure.step(request, cursor, self.now)).next_cursor
            if cursor is None:
                return

    @rule(seconds=st.sampled_from([0.0, 5.0, 20.0]))
    def retention(self, seconds: float) -> None:
        before = {row["uid"]: row for row in self.rows(group_recount.JOBS)}
        self.run(self.store.upkeep.delete_jobs(self.now - seconds))
        left = {row["uid"] for row in self.rows(group_recount.JOBS)}
        for uid, job in before.items():
            if uid not in left:
                self.removed.setdefault(group_recount.key_of(job), group_recount.Count()).add(job)
        self.run(self.store.upkeep.delete_groups(self.now - seconds))

    @rule(seconds=st.sampled_from([1.0, 20.0, 200.0]), looks=st.booleans())
    def time_passes(self, seconds: float, looks: bool) -> None:
        self.now += seconds
        if looks:
            self.run(self.store.groups.finish_due(self.now))
            overdue = self.rows("SELECT name, due_at FROM groups WHERE due_at IS NOT NULL")
            assert all(row["due_at"] > self.now for row in overdue)

    # --- what holds

    @invariant()
    def counts_equal_those_of_the_jobs(self) -> None:
        if not hasattr(self, "store"):
            return
        self.keys = {one.name: one for name in GROUPS for one in self.run(self.store.groups.find(name))}
        self.removed = {place: count for place, count in self.removed.items() if place[0][2] in self.keys}
        jobs, found = self.rows(group_recount.JOBS), self.rows(group_recount.GROUPS)
        assert group_recount.mismatches(jobs, found, orjson.loads, self.removed) == []

    @invariant()
    def each_round_has_one_event(self) -> None:
        if not hasattr(self, "store"):
            return
        told: Counter[tuple[str, int]] = Counter()
        finished = self.rows(group_recount.FINISHED)
        self._leave_out_those_of_earlier_groups(finished)
        for row in finished:
            data = orjson.loads(bytes(row["body"]))["data"]
            if data["group"] not in self.keys:
                self.past_events.add(row["id"])
            if row["id"] not in self.past_events:
                told[data["group"], data["round"]] += 1
        assert set(told.values()) <= {1}
        for name, group in self.keys.items():
            if group.finished_at is not None and group.arrived:
                assert told[name, group.round] == 1, (name, group)
            if group.finished_at is None:
                assert told[name, group.round] == 0, (name, group)

    def _leave_out_those_of_earlier_groups(self, finished: list[dict[str, Any]]) -> None:
        """A group can go and come back within one step. Its events so far are those of the one before, but for the
        last if it has finished already."""
        for name, group in self.keys.items():
            if self.ids_before.get(name, group.id) != group.id:
                of_name = [row["id"] for row in finished if orjson.loads(bytes(row["body"]))["data"]["group"] == name]
                self.past_events.update(of_name if group.finished_at is None else of_name[:-1])
        self.ids_before = {name: group.id for name, group in self.keys.items()}


def _same(job: dict[str, Any]) -> Any:
    from relay.core.jobs.job import Progress

    return Progress(status=job["status"], phase=job["phase"], sequence=job["sequence"] + 1, overdue=True)


def _nothing(_ids: Any) -> None:
    return None


class SqliteMachine(GroupMachine):
    """On a file of its own."""

    new_database = staticmethod(lambda folder: url_of(folder / "relay.db"))


class PostgresMachine(GroupMachine):
    """On an emptied database."""

    new_database = staticmethod(lambda _folder: emptied_postgres())


@pytest.mark.parametrize("machine", [SqliteMachine, PostgresMachine])
def test_groups_count_their_jobs_whatever_happens(machine: type[GroupMachine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "_random", random.Random())
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=scaled(14, 150) if machine is SqliteMachine else scaled(4, 40),  # these wait for a server
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
