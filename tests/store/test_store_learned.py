"""Learned statistics and the plans of accounts, across restarts and nodes."""

import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from relay.core.records import AccountState, SavedStatistics
from relay.store.store import Store
from tests.support.store_kit import NOW, execute, rows

PLAN = {"price": 0.1, "windows": [{"limit": 120, "seconds": 60.0}], "odd": 'ä"\0 ключ', "nothing": None}


def learned(
    name: str = "dispatch", event_count: float = 1.0, values: str = "{}", source: str = "revor"
) -> SavedStatistics:
    return SavedStatistics(source=source, name=name, event_count=event_count, values=values)


async def test_what_was_learned_is_there_after_a_restart(
    store: Store, open_again: Callable[..., Awaitable[Store]]
) -> None:
    known = [learned("b", 2.5, '{"odd": "\\u0000 ä"}'), learned("a", 0.1 + 0.2, '[1e-300, "x"]'), learned("", 0.0)]
    await store.learned.save([*known, learned("a", 9.0, source="other")], NOW)
    await store.close()
    again = await open_again()
    assert await again.learned.load("revor") == known
    assert await again.learned.load("other") == [learned("a", 9.0, source="other")]
    assert await again.learned.load("nobody") == []
    assert {row["updated_at"] for row in await rows(again, "SELECT updated_at FROM hazards")} == {NOW}


@pytest.mark.parametrize(("event_count", "wins"), [(4.9, False), (5.0, True), (6.0, True), (0.0, False)])
async def test_row_based_on_more_events_wins(store: Store, event_count: float, wins: bool) -> None:
    await store.learned.save([learned(event_count=5.0, values='"first"')], NOW)
    await store.learned.save([learned(event_count=event_count, values='"second"')], NOW + 1)
    (kept,) = await store.learned.load("revor")
    assert (kept.event_count, kept.values) == ((event_count, '"second"') if wins else (5.0, '"first"'))
    assert [row["updated_at"] for row in await rows(store, "SELECT updated_at FROM hazards")] == [NOW + wins]


async def test_statistics_that_the_database_cannot_store_are_skipped(store: Store) -> None:
    odd = [
        learned("x" * 201),
        learned("a\0b"),
        learned(values="\0"),
        learned(values="\ud800"),
        learned("\ud800"),
        learned(event_count=math.nan),
        learned(event_count=math.inf),
    ]
    await store.learned.save([*odd, learned("ä" * 200)], NOW)
    assert [one.name for one in await store.learned.load("revor")] == ["ä" * 200]
    await store.learned.save(odd, NOW)
    await store.learned.save([], NOW)


async def test_a_plan_is_there_after_a_restart_and_changes_nothing_else(
    store: Store, open_again: Callable[..., Awaitable[Store]]
) -> None:
    assert await store.accounts.plan("revor", "default") is None
    state = AccountState(source="revor", name="default", state="down", since=NOW, problem={"code": "503"})
    await store.accounts.set(state)
    assert await store.accounts.plan("revor", "default") is None
    assert await store.accounts.save_plan("revor", "default", PLAN, None)
    assert await store.accounts.save_plan("revor", "new", {}, None)
    await store.close()
    again = await open_again()
    assert await again.accounts.plan("revor", "default") == PLAN
    assert await again.accounts.plan("revor", "new") == {}
    assert await again.accounts.plan("revor", "nobody") is None
    states = sorted(await again.accounts.all(), key=lambda one: one.name)
    assert states == [state, AccountState(source="revor", name="new")]
    await again.accounts.set(AccountState(source="revor", name="default"))
    assert await again.accounts.plan("revor", "default") == PLAN


async def test_of_several_nodes_only_the_holder_writes_a_plan(store: Store) -> None:
    others_are_refused = store.database.shared  # a SQLite file has one node
    assert await store.accounts.hold("revor", "default", "node 1", NOW, NOW + 15)
    assert await store.accounts.save_plan("revor", "default", {"by": 1}, "node 1")
    assert await store.accounts.save_plan("revor", "default", {"by": 2}, "node 2") is not others_are_refused
    assert await store.accounts.save_plan("revor", "unheld", {"by": 2}, "node 2") is not others_are_refused
    assert await store.accounts.plan("revor", "default") == {"by": 1 if others_are_refused else 2}
    assert await store.accounts.plan("revor", "unheld") == (None if others_are_refused else {"by": 2})
    (row,) = await rows(store, "SELECT state, holder, held_until FROM accounts WHERE name = 'default'")
    assert row == {"state": "ok", "holder": "node 1", "held_until": NOW + 15}
    assert await store.accounts.hold("revor", "default", "node 2", NOW + 15, NOW + 30)
    assert await store.accounts.save_plan("revor", "default", {"by": 1}, "node 1") is not others_are_refused
    assert await store.accounts.save_plan("revor", "default", {"by": 2}, "node 2")
    assert await store.accounts.plan("revor", "default") == {"by": 2}


@pytest.mark.parametrize("broken", ["", "{", "[1]", "5", "null", '"x"', "{}}", '{"a": NaN}'])
async def test_unreadable_plan_is_none(store: Store, broken: Any) -> None:
    await store.accounts.save_plan("revor", "default", PLAN, None)
    await execute(store, "UPDATE accounts SET plan = :broken", broken=broken)
    assert await store.accounts.plan("revor", "default") is None
    assert await store.accounts.save_plan("revor", "default", PLAN, None)
    assert await store.accounts.plan("revor", "default") == PLAN
