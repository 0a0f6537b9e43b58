"""The campaign story of the demo: its figures, what counts as wrong, and the Slack channel that it shows."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import aiohttp
import httpx2 as httpx
import orjson
import pytest
from rich.console import Console
from starlette.applications import Starlette
from starlette.routing import Route

from relay.cli import run
from relay.cli.demo.campaign import open_campaign, speed_for
from relay.cli.demo.campaign_live import drawn
from relay.cli.demo.campaign_report import CampaignReport, Statement, true_counts
from relay.cli.demo.campaign_world import BROKEN, HeldClock, account_of, break_account
from relay.cli.demo.environment import Plan
from relay.cli.demo.report import Receipts, make_report
from relay.cli.demo.slack_channel import PATH, Message, SlackChannel, read_message

TITLES = (
    "3 LinkedIn jobs of Ada Lovelace failed: the account needs reconnecting. 40 more are likely to fail",
    "LinkedIn account Ada Lovelace needs reconnecting: 40 open jobs use it",
    "LinkedIn jobs of Ada Lovelace work again: 13 failed in 6 seconds",
    "Group q4-launch finished: 187 of 200 accepted, 13 failed",
)
GOOD = CampaignReport(
    group="q4-launch",
    name="Ada Lovelace",
    report=make_report([], Receipts(), speed=1.0, upstream_requests=0, elapsed_seconds=1.0),
    titles=TITLES,
    counts={"failed": 13, "succeeded": 187},
    true_counts={"failed": 13, "succeeded": 187},
    broken=13,
    collapsed=13,
    before=Statement(share=0.3, p10=95.0, p50=100.0, p90=105.0),
    while_broken=Statement(share=0.5, note="Ada Lovelace needs reconnecting."),
    after=Statement(share=0.6, p10=98.0, p50=100.0, p90=102.0),
    began_at=0.0,
    finished_at=101.0,
)


def test_a_good_campaign_has_no_problems() -> None:
    assert (GOOD.ok, GOOD.problems) == (True, ())
    text = "\n".join(GOOD.lines())
    assert "In Slack: 4 messages." in text
    assert "stated at 60% for 100.0 s after the start (between 98.0 and 102.0 s), true 101.0 s." in text
    assert "no finish was stated: Ada Lovelace needs reconnecting." in text
    assert text.endswith("Nothing was lost, and everything holds.")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"report": replace(GOOD.report, lost=2)}, "2 events lost, 0 out of order"),
        ({"counts": {"succeeded": 200}}, "the group counts 200 succeeded, in truth 13 failed, 187 succeeded"),
        ({"titles": (*TITLES, *["more"] * 5)}, "9 messages, more than 8"),
        ({"titles": (*TITLES, TITLES[-1])}, "the group finished: told 2 times"),
        ({"titles": TITLES[1:]}, "an incident opened: told 0 times"),
        ({"titles": ()}, "it works again: told 0 times"),
        ({"collapsed": 14}, "14 failures collapsed, but only 13 are of the account"),
        ({"while_broken": GOOD.before}, "a finish was stated while the account was broken"),
        ({"after": Statement(share=0.9, note="too few.")}, "no finish was stated after the repair: too few"),
        ({"finished_at": 120.0}, "the finish came at another time than stated"),
        ({"finished_at": 80.0}, "the finish came at another time than stated"),
    ],
)
def test_what_does_not_hold_is_said(changes: dict[str, Any], problem: str) -> None:
    wrong = replace(GOOD, **changes)
    assert problem in wrong.problems
    assert not wrong.ok
    assert f"Wrong: {problem}." in wrong.lines()


def test_figures_have_the_finish_in_seconds_since_the_start() -> None:
    shown = replace(GOOD, began_at=50.0).shown()
    assert orjson.loads(orjson.dumps(shown)) == shown
    assert (shown["story"], shown["slack_messages"], shown["finish_seconds"]) == ("campaign", 4, 51.0)
    assert shown["stated"]["after"] == {"share": 0.6, "p10": 48.0, "p50": 50.0, "p90": 52.0, "note": None}
    assert shown["stated"]["while_broken"]["p10"] is None


def test_true_counts_are_those_of_the_last_status() -> None:
    truths = [{"transitions": [{"status": "queued"}, {"status": status}]} for status in ("succeeded", "failed")]
    assert true_counts(truths) == {"failed": 1, "succeeded": 1}


@pytest.mark.parametrize(
    "arguments", [["--jobs", "59"], ["--compare", "naive"], ["--speed", "nan"], ["--jobs", "60", "--speed", "61"]]
)
def test_options_that_the_story_cannot_take_exit_with_2(arguments: list[str]) -> None:
    assert run(["demo", "--story", "campaign", *arguments]) == 2


def test_the_speed_makes_the_story_last_half_a_minute() -> None:
    assert speed_for(200) == pytest.approx(114, abs=1)
    assert speed_for(60, 20) == 60
    assert speed_for(1) == 1


PAYLOAD: dict[str, Any] = {
    "text": "a & b",
    "blocks": [
        {
            "type": "section",
            "text": {"type": "mrkdwn", "text": "a &amp; b \u2060_c\u2060_\n<https://x.example/1|Open in x.example>"},
            "fields": [{"type": "mrkdwn", "text": "*How to fix it*\n&lt;so&gt;"}, {"type": "mrkdwn", "text": "plain"}],
        },
        {"type": "context", "elements": [{"type": "mrkdwn", "text": "Job 1"}, {"type": "mrkdwn", "text": "Time 2"}]},
    ],
}


def test_a_message_is_read_as_slack_shows_it() -> None:
    message = read_message(PAYLOAD)
    assert message.title == "a & b _c_\nOpen in x.example (https://x.example/1)"
    assert message.fields == (("How to fix it", "<so>"), ("", "plain"))
    assert message.footer == "Job 1 · Time 2"
    console = Console(width=100, record=True)
    console.print(drawn(message))
    assert "How to fix it: <so>" in console.export_text()


def test_a_digest_is_read_in_the_order_of_its_lines() -> None:
    first, last = PAYLOAD["blocks"]
    header = {"type": "header", "text": {"type": "plain_text", "text": "2 events"}}
    message = read_message({"blocks": [header, last, {"type": "divider"}, first, last]})
    assert message.title.splitlines()[:4] == ["2 events", "Job 1", "Time 2", "a & b _c_"]
    assert message.footer == "Job 1 · Time 2"


async def test_the_channel_keeps_messages_and_refuses_what_is_none() -> None:
    channel = SlackChannel()
    app = Starlette(routes=[Route(PATH, channel.receive, methods=["POST"])])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://slack") as client:
        told = asyncio.ensure_future(channel.told("a & b"))
        assert (await client.post(PATH, json=PAYLOAD)).text == "ok"
        await told
        for body in (b"x", b"[]", b"{}", b'{"blocks": []}', b'{"blocks": [1]}'):
            assert (await client.post(PATH, content=body)).status_code == 400
    assert (len(channel.messages), channel.refused) == (1, 5)
    assert isinstance(channel.messages[0], Message)


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
