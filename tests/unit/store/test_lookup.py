"""Rows requested one by one are read together, and no request waits for more than two reads."""

import asyncio
from typing import Any, cast

import pytest

from relay.store.databases.lookup import Lookup


class HeldDatabase:
    """Each read waits until it is released, and finds the keys in `rows`."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.reads: list[list[str]] = []
        self.held: list[asyncio.Future[None]] = []
        self.glances: list[list[str]] | None = None

    def try_read(self, query: Any, keys: list[str]) -> dict[str, str] | None:
        if self.glances is None:
            return None
        self.glances.append(keys)
        return query(self.rows, keys)  # type: ignore[no-any-return]

    async def read(self, query: Any, keys: list[str]) -> dict[str, str]:
        self.reads.append(keys)
        self.held.append(asyncio.get_running_loop().create_future())
        await self.held[-1]
        return query(self.rows, keys)  # type: ignore[no-any-return]

    async def let_go(self, error: Exception | None = None) -> None:
        """Ends the current read."""
        held = self.held.pop()
        held.set_exception(error) if error is not None else held.set_result(None)
        await turns()


async def turns() -> None:
    """Lets all pending callbacks run."""
    for _ in range(20):
        await asyncio.sleep(0)


def found(rows: dict[str, str], keys: list[str]) -> dict[str, str]:
    return {key: rows[key] for key in keys if key in rows}


@pytest.fixture
def database() -> HeldDatabase:
    return HeldDatabase()


@pytest.fixture
def lookup(database: HeldDatabase) -> Lookup[str]:
    return Lookup(cast(Any, database), cast(Any, found))


async def asked(lookup: Lookup[str], *keys: str) -> list["asyncio.Task[str | None]"]:
    tasks = [asyncio.create_task(lookup.get(key)) for key in keys]
    await turns()
    return tasks


async def test_keys_requested_during_a_read_share_the_next(lookup: Lookup[str], database: HeldDatabase) -> None:
    database.rows = {"a": "1", "b": "2", "c": "3"}
    first = await asked(lookup, "a")
    others = await asked(lookup, "b", "c", "nobody", "b")
    assert database.reads == [["a"]]
    await database.let_go()
    assert [task.result() for task in first] == ["1"]
    assert database.reads == [["a"], ["b", "c", "nobody", "b"]]
    await database.let_go()
    assert [task.result() for task in others] == ["2", "3", None, "2"]


async def test_it_sees_what_was_written_before_it_was_asked(lookup: Lookup[str], database: HeldDatabase) -> None:
    early = await asked(lookup, "a")
    database.rows["a"] = "written while a read was under way"
    late = await asked(lookup, "a")
    await database.let_go()
    await database.let_go()
    assert [task.result() for task in late] == ["written while a read was under way"]
    assert early[0].done()


async def test_cancelled_caller_does_not_cancel_others(lookup: Lookup[str], database: HeldDatabase) -> None:
    database.rows = {"a": "1", "b": "2"}
    (first,) = await asked(lookup, "a")
    (gone, second) = await asked(lookup, "a", "b")
    first.cancel()
    gone.cancel()
    await asyncio.sleep(0)
    await database.let_go()
    await database.let_go()
    assert second.result() == "2"
    assert first.cancelled()
    assert gone.cancelled()


async def test_undecodable_row_fails_only_its_caller(lookup: Lookup[str], database: HeldDatabase) -> None:
    def fragile(rows: dict[str, str], keys: list[str]) -> dict[str, str]:
        if "bad" in keys:
            raise ValueError("this row has no sense")
        return found(rows, keys)

    lookup._query = cast(Any, fragile)
    database.rows = {"a": "1", "b": "2"}
    good, bad, other = await asked(lookup, "a", "bad", "b")
    for _ in range(4):
        await database.let_go()
    assert [good.result(), other.result()] == ["1", "2"]
    with pytest.raises(ValueError, match="no sense"):
        bad.result()


async def test_hanging_read_delays_only_its_own_group(
    lookup: Lookup[str], database: HeldDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.store.databases.lookup.PATIENCE_SECONDS", 0.001)
    database.rows = {"a": "1", "b": "2"}
    (hangs,) = await asked(lookup, "a")
    (other,) = await asked(lookup, "b")
    async with asyncio.timeout(10):
        while len(database.held) < 2:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
    await database.let_go()
    assert other.result() == "2"
    assert not hangs.done()
    await database.let_go()
    assert hangs.result() == "1"
