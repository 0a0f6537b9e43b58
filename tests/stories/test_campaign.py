"""The story `campaign`: what counts as wrong, and its clock."""

import time
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from relay.cli.demo.environment import Plan
from relay.cli.demo.report import Receipts, make_report
from tests.stories.campaign import open_campaign
from tests.stories.campaign_report import CampaignReport, Statement, true_counts
from tests.stories.world import BROKEN, HeldClock, account_of, break_account
from tests.vendors.endpoint import Message

TITLES: tuple[str, ...] = (
    "3 LinkedIn jobs of Ada Lovelace failed: the account needs reconnecting. 40 more are likely to fail",
    "LinkedIn account Ada Lovelace needs reconnecting: 40 open jobs use it",
    "LinkedIn jobs of Ada Lovelace work again: 13 failed in 6 seconds",
    "Group q4-launch finished: 187 of 200 accepted, 13 failed",
)
MESSAGES = tuple(map(Message, TITLES))
GOOD = CampaignReport(
    group="q4-launch",
    name="Ada Lovelace",
    report=make_report([], Receipts(), speed=1.0, upstream_requests=0, elapsed_seconds=1.0),
    messages=MESSAGES,
    refused=0,
    counts={"failed": 13, "succeeded": 187},
    true_counts={"failed": 13, "succeeded": 187},
    broken=13,
    collapsed=13,
    while_broken=Statement(share=0.5, note="Ada Lovelace needs reconnecting."),
    after=Statement(share=0.6, p10=98.0, p50=100.0, p90=102.0),
    began_at=0.0,
    finished_at=101.0,
)


def test_a_good_campaign_has_no_problems() -> None:
    assert GOOD.problems == ()
    text = "\n".join(GOOD.lines())
    assert "In Slack: 4 messages." in text
    assert "stated at 60% for 100.0 s after the start (between 98.0 and 102.0 s), true 101.0 s." in text
    assert "no finish was stated: Ada Lovelace needs reconnecting." in text
    assert text.endswith("Everything holds.")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"report": replace(GOOD.report, lost=2)}, "events of jobs: 2 lost"),
        ({"counts": {"succeeded": 200}}, "the group counts 200 succeeded, in truth 13 failed, 187 succeeded"),
        ({"messages": (*MESSAGES, *[Message("more")] * 5)}, "9 messages, more than 8"),
        ({"messages": (*MESSAGES, MESSAGES[-1])}, "the group finished: told 2 times"),
        ({"messages": MESSAGES[1:]}, "an incident opened: told 0 times"),
        ({"messages": ()}, "it works again: told 0 times"),
        ({"refused": 1}, "1 messages refused by the channel"),
        ({"collapsed": 14}, "14 failures collapsed, but only 13 are of the account"),
        ({"while_broken": GOOD.after}, "a finish was stated while the account was broken"),
        ({"after": Statement(share=0.9, note="too few.")}, "no finish was stated after the repair: too few"),
        ({"finished_at": 120.0}, "the finish came at another time than stated"),
        ({"finished_at": 80.0}, "the finish came at another time than stated"),
    ],
)
def test_what_does_not_hold_is_said(changes: dict[str, Any], problem: str) -> None:
    wrong = replace(GOOD, **changes)
    assert problem in wrong.problems
    assert f"Wrong: {problem}." in wrong.lines()


def test_true_counts_are_those_of_the_last_status() -> None:
    truths = [{"transitions": [{"status": "queued"}, {"status": status}]} for status in ("succeeded", "failed")]
    assert true_counts(truths) == {"failed": 1, "succeeded": 1}


async def test_the_account_breaks_between_the_starts_of_two_jobs() -> None:
    async with open_campaign(Plan(jobs=60, speed=1000)) as campaign:
        for _ in range(20):
            campaign.world.create(account="demo", channel=BROKEN, now=1000.0, connect_account_id=account_of(BROKEN))
        starts = sorted(job.first_started_at or 0.0 for job in campaign.world.jobs())
        breaks_at, repaired_at = campaign.outage(1000.0)
        assert starts[6] < breaks_at < starts[7]
        assert starts[10] < repaired_at < starts[11]
        breaks_at, repaired_at = campaign.outage(starts[9])
        assert starts[10] < breaks_at < starts[11], "the first seven have started already"
        assert starts[14] < repaired_at < starts[15]
        breaks_at, repaired_at = campaign.outage(starts[19])
        assert starts[17] < breaks_at < starts[18] < repaired_at < starts[19]


async def test_the_sandbox_stands_still_until_the_account_is_broken() -> None:
    """However late the request comes: its jobs do not start meanwhile."""
    async with open_campaign(Plan(jobs=60, speed=1000)) as campaign, aiohttp.ClientSession() as session:
        breaks_at = campaign.clock() + 0.05
        set_connect_account, seen = campaign.world.set_connect_account, []

        def late(account_id: str, now: float, **fields: Any) -> Any:
            while time.time() < breaks_at + 0.2:  # a slow machine
                seen.append(campaign.clock())
            return set_connect_account(account_id, now, **fields)

        campaign.world.set_connect_account = late  # type: ignore[method-assign]
        await break_account(campaign, session, breaks_at)
        assert max(seen) == breaks_at
        assert campaign.clock() >= breaks_at + 0.2


def test_the_clock_stands_until_its_time_has_come() -> None:
    clock = HeldClock()
    assert clock() == pytest.approx(time.time(), abs=5)
    clock.until = time.time() + 60
    assert clock() == clock.until
