"""The story `bus`, small: a real NATS server gets every event once, and nothing is left behind."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from relay.cli.demo.environment import Plan
from tests.stories.bus import open_bus
from tests.stories.bus_report import by_subject


async def test_every_event_is_at_nats_once_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with open_bus(Plan(jobs=6, speed=600.0, seed=3)) as bus:
        report = await bus.run()
        drawn = {width: _drawn(bus.picture(), width) for width in (80, 120)}
        line = bus.progress_line()
    assert report.problems == ()
    assert (report.report.jobs, report.report.lost, report.accepted, report.known) == (6, 0, 12, 12)
    assert report.stored == len(report.arrivals) == len(report.recorded) > 6 * 2 + 12
    assert {"orders.placed", "orders.paid", "orders.shipped"} < {subject for subject, _, _ in by_subject(bus.arrivals)}
    assert line.startswith("6/6 jobs finished, ")
    for width, text in drawn.items():
        assert max(map(len, text.splitlines())) <= width
        assert "jobs.email.succeeded" in text
    assert list(tmp_path.iterdir()) == []


def _drawn(picture: Any, width: int) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(picture)
    return captured.get()
