"""A node that starts with more open jobs than it can load at once: it answers requests and loads all of them."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from relay.node.node import Node
from relay.node.opening import open_node
from relay.store.jobs.jobs import JobStore
from tests.support.e2e_world import RELAY_URL, open_e2e_world


async def notes_of(node: Node) -> list[str]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=node), base_url=RELAY_URL) as api:
        answer = await api.get("/readyz")
        assert answer.status_code == 200, answer.text
        notes: list[str] = answer.json()["notes"]
        return notes


@pytest.fixture
async def left(tmp_path: Path) -> Any:
    """The settings of a node that stopped with one open job."""
    async with open_e2e_world(tmp_path) as world:
        await world.job(final="succeeded", run_seconds=80_000)
        return world.settings


async def test_node_answers_while_it_loads_open_jobs(
    left: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, go_on = JobStore.open_jobs, asyncio.Event()

    async def slowly(self: JobStore, *place: str, **page: Any) -> Any:
        await go_on.wait()
        return await read(self, *place, **page)

    monkeypatch.setattr(JobStore, "open_jobs", slowly)
    async with open_node(left, base_url=RELAY_URL, state_dir=tmp_path) as node:
        (poller,) = node.pollers.values()
        assert any("still being read" in note for note in await notes_of(node))
        assert poller.planner.stats(0).open_jobs == 0
        go_on.set()
        await node.loaded()
        assert poller.planner.stats(0).open_jobs == 1
        assert not any("still being read" in note for note in await notes_of(node))
