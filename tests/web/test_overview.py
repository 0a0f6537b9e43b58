"""The figures of the overview."""

import pytest

from relay.core.figures import TimeSeries, rows_of

HOUR = 3_600.0
ACCOUNT = ("revor", "default")


@pytest.fixture(autouse=True)
def at_a_quarter_past(world):
    world.now += 900.0


async def ended(world, *seconds_ago, name="jobs_ended"):
    tally = TimeSeries()
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
