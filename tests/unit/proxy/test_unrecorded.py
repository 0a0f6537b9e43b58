"""Jobs that the database has not accepted yet: bounded, recorded once it does, and said."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from relay.core.polling.tracking import TrackRequest
from relay.errors import StoreError
from relay.proxy import unrecorded as unrecorded_module
from relay.proxy.types import Caller
from relay.proxy.unrecorded import MadeJob, Unrecorded
from tests.support.store_kit import intent

AWAY = StoreError("the database is away")


def made(name: str) -> MadeJob:
    request = TrackRequest(external_id=name, source="revor", account="default")
    return MadeJob(intent(), Caller(source="revor", account="default", key="key"), request)


class Database:
    """Accepts jobs once it is back, but never the bad ones."""

    def __init__(self, *bad: str) -> None:
        self.back = False
        self.bad = bad
        self.asked: list[str] = []
        self.has: list[str] = []
        self.tried = asyncio.Event()

    async def record(self, one: MadeJob) -> None:
        name = one.request.external_id
        self.asked.append(name)
        self.tried.set()
        if not self.back or name in self.bad:
            raise AWAY
        self.has.append(name)


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    monkeypatch.setattr(unrecorded_module, "AGAIN_SECONDS", 0.0)
    with structlog.testing.capture_logs() as lines:
        yield lines


async def until_has(database: Database, count: int) -> None:
    async with asyncio.timeout(10):
        while len(database.has) < count:
            database.tried.clear()
            await database.tried.wait()


async def test_jobs_are_recorded_once_the_database_is_back(said: list[Any]) -> None:
    database = Database()
    unrecorded = Unrecorded(database.record)
    for name in ("a", "b"):
        unrecorded.keep(made(name), AWAY)
    async with asyncio.timeout(10):
        await database.tried.wait()
    assert (database.has, len(unrecorded)) == ([], 2)
    database.back = True
    await until_has(database, 2)
    await unrecorded.finish(10)
    assert (sorted(database.has), len(unrecorded)) == (["a", "b"], 0)
    unrecorded.keep(made("c"), AWAY)
    await until_has(database, 3)
    await unrecorded.finish(10)
    assert [(line["event"], line["job"]) for line in said if line["event"] == "job_recorded_late"][2] == (
        "job_recorded_late",
        "c",
    )


async def test_job_that_is_never_accepted_does_not_hold_up_others() -> None:
    database = Database("bad")
    database.back = True
    unrecorded = Unrecorded(database.record)
    for name in ("bad", "a", "b"):
        unrecorded.keep(made(name), AWAY)
    await until_has(database, 2)
    assert (database.has, len(unrecorded)) == (["a", "b"], 1)
    await unrecorded.finish(0)


async def test_database_that_is_away_is_asked_a_few_times_however_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrecorded_module, "AGAIN_SECONDS", 3600.0)
    database = Database()
    unrecorded = Unrecorded(database.record)
    for number in range(100):
        unrecorded.keep(made(str(number)), AWAY)
    await unrecorded._try_all()
    assert database.asked == ["0", "1", "2"]
    await unrecorded._try_all()
    assert database.asked[3:] == ["3", "4", "5"]
    await unrecorded.finish(0)


async def test_one_job_too_many_is_named_in_the_log(monkeypatch: pytest.MonkeyPatch, said: list[Any]) -> None:
    monkeypatch.setattr(unrecorded_module, "MAX_UNRECORDED", 1)
    unrecorded = Unrecorded(Database().record)
    unrecorded.keep(made("a"), AWAY)
    unrecorded.keep(made("b"), AWAY)
    assert len(unrecorded) == 1
    first, second = said
    assert (first["job"], second["job"]) == ("a", "b")
    assert "as soon as the database is back" in first["hint"]
    assert "listed as unknown" in second["hint"]
    await unrecorded.finish(0)


async def test_end_of_the_relay_waits_for_the_database_and_names_what_is_lost(said: list[Any]) -> None:
    database = Database("bad")
    unrecorded = Unrecorded(database.record)
    unrecorded.keep(made("bad"), AWAY)
    unrecorded.keep(made("a"), AWAY)
    ending = asyncio.create_task(unrecorded.finish(1.0))
    async with asyncio.timeout(10):
        await database.tried.wait()
    database.back = True
    await ending
    assert database.has == ["a"]
    assert [line["job"] for line in said if line.get("error") == "the relay stops"] == ["bad"]
    await unrecorded.finish(0)
