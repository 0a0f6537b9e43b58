"""The story `campaign`, small: people are told the right things, and what is stated holds."""

from typing import Any

import pytest

from relay.api.jobs import group_finish
from relay.cli.demo import scenario
from relay.cli.demo.environment import Plan, demo_settings
from relay.config.settings import Settings
from tests.stories.campaign import MIN_JOBS, open_campaign
from tests.support.scale import soak_only


def watched_closely(*given: Any, **options: Any) -> Settings:
    """The demo's settings, but accounts are listed more often: the outage of a small campaign is short."""
    settings = demo_settings(*given, **options)
    source = settings.sources["revor"]
    polling = source.polling.model_copy(update={"connect_accounts_interval_seconds": 0.5})
    return settings.model_copy(update={"sources": {"revor": source.model_copy(update={"polling": polling})}})


@soak_only
async def test_a_campaign_whose_account_breaks_is_told_in_few_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_finish, "FRESH_SECONDS", 0.2)
    monkeypatch.setattr(scenario, "demo_settings", watched_closely)
    async with open_campaign(Plan(jobs=MIN_JOBS, speed=80.0, seed=5)) as campaign:
        report = await campaign.run()
    assert report.problems == ()
    assert 1 <= report.broken <= 4, "four, unless the machine is too slow to break the account in time"
    assert report.counts == {"failed": report.broken + 1, "succeeded": MIN_JOBS - report.broken - 1}
    assert report.collapsed == report.broken
    assert "needs reconnecting" in str(report.while_broken.note)
    assert report.report.lost == report.report.duplicates == report.report.out_of_order == 0
    assert report.after.p10 is not None
    assert report.after.p90 is not None
    assert report.after.p10 <= report.after.p90
