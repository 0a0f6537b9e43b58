"""Two nodes on one PostgreSQL database take their locks in one order, so that none waits for a deadlock."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from relay.core.published import Publication
from relay.store.databases import postgres_writer
from relay.store.databases.group_commit import each
from relay.store.databases.locks import Key
from relay.store.databases.statements import json_list
from relay.store.store import Store
from tests.support.lock_order import each_statement
from tests.support.pull_kit import SUB, TYPES, Program
from tests.support.store_databases import emptied_postgres
from tests.support.store_kit import (
    NOW,
    job_event,
    poll,
    publication,
    states,
    subscription,
    together,
    track,
)

OWNER = "revor/default"


@pytest.fixture
def database_url() -> str:
    """PostgreSQL only: SQLite has one writer."""
    return emptied_postgres()


@pytest.fixture
async def other(store: Store, open_again: Callable[..., Awaitable[Store]]) -> Store:
    """A second node on the database of `store`."""
    return await open_again()


@pytest.fixture
def conflicts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The conflicts that transactions have met."""
    found: list[str] = []
    is_conflict = postgres_writer.is_conflict

    def counted(error: Exception) -> bool:
        is_one = is_conflict(error)
        found.extend([str(error)] if is_one else [])
        return is_one

    monkeypatch.setattr(postgres_writer, "is_conflict", counted)
    return found


async def test_acknowledgements_of_one_key_at_two_nodes_meet_no_deadlock(
    store: Store, other: Store, conflicts: list[str]
) -> None:
    of = replace(SUB, types=TYPES)
    await store.subscriptions.create(of)
    programs = [Program(node, of) for node in (store, other)]
    for turn in range(3):
        await store.published.record([publication(f"{turn} {n}", key=f"{turn} {n // 3}") for n in range(15)])
        claimed = await programs[0].pull(lease_seconds=10)
        assert len(claimed) >= 15
        acked = (programs[n % 2].ack(one) for n, one in enumerate(claimed[turn:]))
        programs[0].now += 10
        programs[1].now += 10
        await asyncio.gather(*acked, *(program.pulls.end_leases(of) for program in programs))
    assert conflicts == []


async def test_two_nodes_that_publish_the_same_in_any_order_meet_no_deadlock(
    store: Store, other: Store, conflicts: list[str]
) -> None:
    def calls(turn: int) -> list[list[Publication]]:
        return [[publication(f"{turn} {n}", key=f"key {n % 8}" if n % 2 else None)] for n in range(40)]

    await store.subscriptions.create(replace(SUB, types=TYPES))
    for turn in range(4):
        found = await asyncio.gather(
            *(store.published.record(one) for one in calls(turn)),
            *(other.published.record(one) for one in reversed(calls(turn))),
        )
        assert len({taken.id for (taken,) in found}) == 40
        assert sum(not taken.known for (taken,) in found) == 40
    assert conflicts == []
    assert len(await states(store)) == 160


async def test_transaction_of_many_calls_that_publish_runs_the_statements_of_one(store: Store) -> None:
    await store.subscriptions.create(replace(SUB, types=TYPES))
    await store.published.record([publication("0", key="a")])
    ran = []
    for count in (1, 40):
        with statements() as run:
            await asyncio.gather(
                *(store.published.record([publication(f"{count} {n}", key="a")]) for n in range(count))
            )
        ran.append(len(run))
    assert ran == [7, 7]


async def test_group_takes_all_its_locks_in_one_order_before_its_first_statement(store: Store) -> None:
    uid = await track(store)
    for id in ("sub_2", "sub_1"):
        await store.subscriptions.create(subscription(id))
    failed = poll(uid, 0, events=[job_event(uid, 1, "failed", owner=OWNER)], outcome="failed")
    with statements() as run:
        await together(
            store,
            store.jobs.record(failed),
            store.subscriptions.set_sink_health("sub_2", failing_since=NOW, paused_until=None),
            store.subscriptions.set_state("sub_1", "paused", NOW),
        )
    assert run[:3] == [
        f"SELECT pg_advisory_xact_lock({Key.CHANGE})",
        f"SELECT pg_advisory_xact_lock({Key.INCIDENTS}, found.hash) FROM ( {json_list([OWNER, 'sub_1'])}",
        f"SELECT id FROM subscriptions s WHERE id IN {json_list(['sub_1', 'sub_2'])}",
    ]
    assert not any("advisory" in statement or "subscriptions s" in statement for statement in run[3:])


async def test_batch_functions_run_in_one_order_whatever_arrives_first(store: Store) -> None:
    ran: list[str] = []

    @each
    def first(_connection: Connection, item: str) -> None:
        ran.append(item)

    @each
    def second(_connection: Connection, item: str) -> None:
        ran.append(item)

    await together(store, store.database.write(second, "second"), store.database.write(first, "first"))
    await together(store, store.database.write(first, "first"), store.database.write(second, "second"))
    assert ran == ["first", "second"] * 2


@contextmanager
def statements() -> Iterator[list[str]]:
    """The statements that run meanwhile, as far as their first parameter, which follows."""
    run: list[str] = []

    def note(_connection: Any, statement: str, parameters: Any) -> None:
        shown, *_ = " ".join(statement.split()).split("SELECT DISTINCT")[0].split("(SELECT")
        if "pg_current_xact_id" not in shown and "pg_notify" not in shown:  # what follows each group
            run.append(f"{shown}{parameters[0]}" if parameters else shown)

    with each_statement(note):
        yield run
