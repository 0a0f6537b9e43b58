"""A node's statistics and plans are passed to the next node."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from relay.core.planner import Planner
from relay.errors import StoreError
from relay.node.opening import open_node
from relay.node.timetable import UPKEEP_SECONDS
from relay.polling.statistics import SourceStatistics
from tests.support.e2e_world import RELAY_URL, World, open_e2e_world

PLAN = {"price": 0.25}


async def work_once(world: World) -> None:
    (work,) = (work for work in world.node._upkeep() if work.name == "statistics")
    assert work.every_seconds == UPKEEP_SECONDS == 60
    await work.run()


async def test_node_passes_its_statistics_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[tuple[str, float, str]] = []
    given: list[object] = []

    class Scripted:
        def unsaved_rows(self) -> list[tuple[str, float, str]]:
            return [learned.pop()] if learned else []

        def load_row(self, name: str, values: str) -> None:
            given.append((name, values))

    def memory(source: str, _learner: object, **parts: Any) -> SourceStatistics:
        return SourceStatistics(source, Scripted(), **parts)

    monkeypatch.setattr("relay.node.accounts.SourceStatistics", memory)
    monkeypatch.setattr(Planner, "durable_state", lambda self: dict(PLAN))

    def resume(self: Planner, plan: Mapping[str, Any], now: float) -> None:
        given.append(dict(plan))

    monkeypatch.setattr(Planner, "resume", resume)
    async with open_e2e_world(tmp_path) as world:
        store = world.node.store
        assert given == []
        learned.append(("dispatch", 3.0, '{"mean": 4}'))
        await work_once(world)
        assert await store.accounts.plan("revor", "default") == PLAN
        assert [one.name for one in await store.learned.load("revor")] == ["dispatch"]
        learned.append(("at the end", 1.0, "{}"))
    settings = world.settings
    async with open_node(settings, base_url=RELAY_URL, state_dir=tmp_path, roles=("api",)) as node:
        assert given == []  # it polls nothing
        learned.append(("not by this one", 1.0, "{}"))
        assert len(await node.store.learned.load("revor")) == 2
    learned.clear()
    async with open_node(settings, base_url=RELAY_URL, state_dir=tmp_path):
        assert given == [("dispatch", '{"mean": 4}'), ("at the end", "{}"), PLAN]


async def test_failing_database_does_not_block_shutdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Planner, "durable_state", lambda self: dict(PLAN))

    async def full(*_: Any) -> bool:
        raise StoreError("the disk is full")

    async with open_e2e_world(tmp_path) as world:
        monkeypatch.setattr(world.node.store.accounts, "save_plan", full)
    assert "learned_not_kept" in capsys.readouterr().out
