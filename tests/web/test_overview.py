"""The figures of the overview."""

import pytest

from relay.core.figures import Tally, rows_of
from tests.support.web_world import open_browser

HOUR = 3_600.0
ACCOUNT = ("revor", "default")


@pytest.fixture(autouse=True)
def at_a_quarter_past(world):
    world.now += 900.0


async def ended(world, *seconds_ago, name="jobs_ended"):
    tally = Tally()
    for ago in seconds_ago:
        tally.add(name, "/".join(ACCOUNT), world.now - ago)
    await world.store.figures.add(rows_of(tally.take(100)))


async def figure(browser, name):
    """What the card says: its value, and its label if it has one."""
    soup = (await browser.get("/ui")).soup
    card = f"//article[@aria-label='{name}']//p"
    return soup.texts(card)


LONG = [ago * HOUR for ago in range(2, 20)]
"""Ends in so many hours that the relay is not new."""


@pytest.mark.parametrize(
    ("seconds_ago", "count"),
    [
        ([60.0, 1_200.0, 3_400.0], "3"),
        ([60.0, 4_000.0], "1"),
        ([4_000.0 + 300.0 * n for n in range(40)], "0"),  # a minute without an end has no point
        ([*LONG, 60.0, 1_200.0, 3_400.0], "3"),
        (LONG, "0"),
    ],
)
async def test_jobs_ended_in_the_last_hour(browser, world, seconds_ago, count):
    await ended(world, *seconds_ago)
    assert await figure(browser, "Jobs ended in the last hour") == [count]


async def test_it_says_how_many_of_them_failed(browser, world):
    await ended(world, 60.0, 120.0)
    assert await figure(browser, "Jobs ended in the last hour") == ["2"]
    await ended(world, 60.0, 4_000.0, name="jobs_failed")
    assert await figure(browser, "Jobs ended in the last hour") == ["2", "1 failed"]


async def test_one_account_has_the_hour_of_the_clock(world):
    await ended(world, *LONG, 60.0, 600.0, 1_200.0)
    browser = await open_browser(world, scopes=["read"], account=ACCOUNT)
    assert await figure(browser, "Jobs ended in this hour") == ["2"]
    await browser.client.aclose()
