"""A node that starts with more open jobs than it can load at once: it delivers what is due and answers requests, and
loads all of them meanwhile."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from relay.config.settings import Settings
from relay.delivery.worker import Worker
from relay.node import cluster
from relay.node.node import Node
from relay.node.opening import open_node
from relay.polling.agenda import Agenda
from relay.store.jobs.jobs import JobStore
from tests.support.e2e_world import PATIENCE_SECONDS, RELAY_URL, client_of, open_e2e_world
from tests.support.store_databases import emptied_postgres


async def notes_of(node: Node) -> list[str]:
    async with client_of(node) as api:
        answer = await api.get("/readyz")
        assert answer.status_code == 200, answer.text
        notes: list[str] = answer.json()["notes"]
        return notes


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """None: a SQLite file."""
    return emptied_postgres() if request.param == "postgresql" else None


@pytest.fixture
async def left(tmp_path: Path, database_url: str | None) -> Settings:
    """The settings of a node that stopped with one open job and one due delivery."""
    async with open_e2e_world(tmp_path, database_url=database_url, roles=("api", "scheduler")) as world:
        await world.job(final="succeeded", run_seconds=80_000)
        await world.subscribe(types=["com.acme.order.paid"])
        published = await world.api.post(
            "/v1/events",
            json={"specversion": "1.0", "id": "1", "source": "/shop", "type": "com.acme.order.paid"},
            headers={"Content-Type": "application/cloudevents+json"},
        )
        assert published.status_code == 202, published.text
        return world.settings


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Open jobs are read once it is set, and no wait of this process ends because of the time."""
    read, wait, go_on = JobStore.open_jobs, asyncio.wait, asyncio.Event()

    async def slowly(self: JobStore, *place: str, **page: Any) -> Any:
        await go_on.wait()
        return await read(self, *place, **page)

    monkeypatch.setattr(JobStore, "open_jobs", slowly)
    monkeypatch.setattr(asyncio, "wait", lambda tasks, timeout=None, **more: wait(tasks, **more))
    return go_on


async def test_node_answers_while_it_loads_open_jobs(left: Settings, tmp_path: Path, reading: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS), open_node(left, base_url=RELAY_URL, state_dir=tmp_path) as node:
        (poller,) = node.pollers.values()
        while not any("still being read" in note for note in await notes_of(node)):  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
        assert poller.planner.stats(0).open_jobs == 0
        reading.set()
        await node.loaded()
        assert poller.planner.stats(0).open_jobs == 1
        assert not any("still being read" in note for note in await notes_of(node))


async def test_due_deliveries_are_sent_before_open_jobs_are_read(
    left: Settings, tmp_path: Path, reading: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Worker.start

    def started(self: Worker, *args: Any, **more: Any) -> None:
        reading.set()
        start(self, *args, **more)

    monkeypatch.setattr(Worker, "start", started)
    async with asyncio.timeout(PATIENCE_SECONDS), open_node(left, base_url=RELAY_URL, state_dir=tmp_path) as node:
        await reading.wait()
        await node.loaded()


async def test_job_registered_after_the_last_ones_were_read_is_planned(
    left: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, opened = Agenda.load, asyncio.get_running_loop().create_future()
    monkeypatch.setattr(cluster, "UNHEARD_SECONDS", 3600.0)

    async def registers_one_more(self: Agenda) -> int:
        count = await load(self)
        async with client_of(await opened) as api:
            assert (await api.post("/v1/jobs", json={"id": "job-late"})).status_code == 201
        return count

    monkeypatch.setattr(Agenda, "load", registers_one_more)
    async with asyncio.timeout(PATIENCE_SECONDS), open_node(left, base_url=RELAY_URL, state_dir=tmp_path) as node:
        opened.set_result(node)
        (poller,) = node.pollers.values()
        while poller.planner.stats(0).open_jobs < 2:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
