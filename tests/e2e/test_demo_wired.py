"""The story `wired`, small: every kind of subscription gets exactly its events."""

import pytest

from relay.cli.demo.environment import Plan
from tests.stories import wired as story
from tests.stories.wired import MIN_JOBS, open_wired
from tests.stories.wired_targets import TARGETS
from tests.vendors.stand_ins import CRMS

PATIENCE_SECONDS = 600.0
"""Far beyond what the events and the last digest of ten seconds take. The demo ends when all has come."""


async def test_every_target_gets_exactly_its_events_and_refuses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "patience_seconds", lambda _plan: PATIENCE_SECONDS)
    async with open_wired(Plan(jobs=MIN_JOBS, speed=120.0, seed=3)) as wired:
        report = await wired.run()
    assert report.problems == ()
    found = {result.name: result for result in report.results}
    assert list(found) == [target.name for target in TARGETS]
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
    (bot,) = (one.stand_in for one in wired.wires if one.target.name == "slack, bot")
    [incident] = [post for post in bot.channel() if " work again: " in post.text]
    [group] = [post for post in bot.channel() if "Campaign q4-launch has finished: " in post.text]
    assert incident.edits
    assert len(group.replies) == 3
