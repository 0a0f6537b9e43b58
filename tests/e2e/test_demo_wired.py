"""`relay demo --wired`, small: every kind gets exactly its events, and without the extras two targets are left out."""

import sys

import aiohttp
import pytest

from relay.cli.demo import wired as wired_demo
from relay.cli.demo.environment import Plan
from relay.cli.demo.vendors import CRMS
from relay.cli.demo.wired import MIN_JOBS, open_wired, run_wired, subscribe_all
from relay.cli.demo.wired_targets import TARGETS
from relay.installation import install_command

PATIENCE_SECONDS = 600.0
"""Far beyond what the events and the last digest of ten seconds take. The demo ends when all has come."""


@pytest.mark.slow
async def test_every_target_gets_exactly_its_events_and_refuses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wired_demo, "patience_seconds", lambda _plan: PATIENCE_SECONDS)
    async with open_wired(Plan(jobs=MIN_JOBS, speed=120.0, seed=3)) as wired:
        report = await run_wired(wired)
    assert report.problems == ()
    found = {result.name: result for result in report.results}
    assert list(found) == [target.name for target in TARGETS]
    assert report.skipped == ()
    for result in report.results:
        assert (result.refused, len(result.got)) == (0, len(result.due)), result.name
    of_jobs = report.of_jobs
    for name in ("webhook, structured", "webhook, binary", "flat"):
        assert (found[name].requests, len(found[name].due)) == (of_jobs, of_jobs)
    assert found["webhook, batch"].requests < of_jobs == len(found["webhook, batch"].due)
    assert 0 < len(found["webhook, range"].due) < len(found["webhook, filter"].due) < of_jobs
    assert found["webhook, template"].requests == MIN_JOBS
    for name in ("slack, webhook", "slack_workflow", "teams", "discord"):
        assert found[name].due == found["slack, bot"].due
        assert found[name].requests == len(found[name].due)
    assert found["slack, digest"].requests < len(found["slack, digest"].due)
    for name in CRMS:
        assert (len(found[name].due), found[name].skipped, found[name].lost) == (MIN_JOBS - 1, 1, 1), name
    [incident, group] = found["slack, bot"].messages
    assert " work again: " in incident.title
    assert "Group q4-launch finished: " in group.title
    assert [label for label, _ in group.fields].count("In its thread") == 3


async def test_targets_that_need_extras_which_are_missing_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "liquid" or name == "relay.expressions.liquid"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("relay.expressions.liquid", None, raising=False)
    monkeypatch.delattr("relay.expressions.liquid")
    monkeypatch.setitem(sys.modules, "liquid", None)
    needy = [target for target in TARGETS if target.name in ("webhook, template", "teams")]
    async with open_wired(Plan(), needy) as wired, aiohttp.ClientSession() as session:
        await subscribe_all(wired, session)
        assert [one.target.name for one in wired.live] == ["teams"]
        assert [one.skipped for one in wired.wires[:1]] == [
            f"templates need the extra templates: {install_command('templates')}",
        ]
