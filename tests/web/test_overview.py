"""The overview: the worst thing, a card for each that needs someone with its buttons, and figures."""

import pytest

from relay.clock import to_rfc3339
from relay.core.figures import TimeSeries, rows_of
from relay.core.polling.tracking import CreditsReading
from relay.web.figures import HOURS, figures_of, first_hour, waiting_now

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


# --- figures


async def figure(browser, name):
    """What the figure says."""
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
    assert await figure(browser, "Ended jobs") == [f"{count} in the last hour", "0 of them failed"]


async def test_figures_say_how_often_they_are_counted(browser, world):
    await ended(world, *LONG, 60.0)
    await ended(world, 60.0, name="jobs_failed")
    assert await figure(browser, "Ended jobs") == ["1 in the last hour", "1 of them failed"]
    section = (await browser.get("/ui")).soup.texts("//section[@aria-labelledby='figures']/p")
    assert [text for text in section if "Ended jobs are counted once a minute." in text]


async def test_a_chart_has_24_points_and_a_label(browser, world):
    await ended(world, 60.0, 2 * HOUR)
    soup = (await browser.get("/ui")).soup
    svg = "//article[@aria-label='Ended jobs']//*[local-name()='svg']"
    assert soup.one(svg).get("aria-label") == "Ended jobs in each of the last 24 hours"
    assert len(soup.all(f"{svg}//*[@class='hover']")) == HOURS
    assert any("since" in text for text in soup.texts("//section[@aria-labelledby='figures']/p"))


async def test_a_new_relay_says_when_the_first_figures_come(browser):
    assert "Nothing is measured yet" in (await browser.get("/ui")).html


def points(name, *values):
    """Hours before NOW, and their point."""
    return {"name": name, "points": [{"time": to_rfc3339(NOW - ago * HOUR), **point} for ago, point in values]}


NOW = 1_800_000_000.0
"""The beginning of an hour."""


def test_hours_without_a_point_are_zero_and_the_first_one_is_named():
    found = figures_of({"items": [points("jobs_ended", (3, {"count": 5}), (0, {"count": 2}))]}, None, NOW + 60)
    assert found is not None
    assert [count for _, count in found.ended] == [0] * 20 + [5, 0, 0, 2]
    assert [at for at, _ in found.ended] == [first_hour(NOW) + hour * HOUR for hour in range(24)]
    assert (found.since, found.ended_lately, found.by_hour) == (NOW - 3 * HOUR, 2, True)


@pytest.mark.parametrize(
    ("items", "since", "p50", "undelivered"),
    [
        ([points("jobs_open", (23, {"total": 3.0}))], None, None, 0),
        ([points("detection_delay_seconds", (1, {"p50": 2.5, "p95": 9.0}))], NOW - HOUR, 2.5, 0),
        ([points("deliveries_undelivered", (2, {"total": 91.6}))], NOW - 2 * HOUR, None, 91.6),
    ],
)
def test_figures_of_a_day(items, since, p50, undelivered):
    found = figures_of({"items": items}, {"items": []}, NOW + 60)
    assert (found.since, found.p50, found.undelivered[-3][1]) == (since, p50, undelivered)


@pytest.mark.parametrize(
    ("pending", "waiting"),
    [
        ([], 0),
        ([{"count": 3, "least": False}, {"count": 4, "least": False}], 7),
        ([{"count": 500, "least": True}], 9_000),
        ([{"count": 9_500, "least": True}], 9_500),
    ],
)
def test_waiting_events_beyond_those_that_are_counted(pending, waiting):
    found = figures_of({"items": [points("deliveries_undelivered", (0, {"total": 9_000.2}))]}, None, NOW + 60)
    assert waiting_now(pending, found) == waiting


def test_without_a_point_there_are_no_figures():
    assert figures_of({"items": [points("jobs_open")]}, None, NOW) is None


# --- cards


async def failing(world, browser):
    """A subscription that fails."""
    sink = {"sink": "https://a.example/x", "protocol": "HTTP", "description": "Data warehouse"}
    id = (await browser.client.post("/v1/subscriptions", json=sink)).json()["id"]
    since = world.now - 3 * HOUR
    await world.store.subscriptions.set_sink_health(
        id, failing_since=since, failing_reason="http_503", paused_until=None
    )
    return id


async def test_the_first_sentence_is_the_worst_and_its_card_has_buttons_that_act(browser, world):
    id = await failing(world, browser)
    soup = (await browser.get("/ui")).soup
    assert soup.texts("//p[@role='status' and contains(@class, 'health')]") == [
        "The Data warehouse receiver has errors (503). Whose turn: whoever runs the receiver."
    ]
    assert soup.texts("//*[contains(@class, 'card')]//p[@class='turn']") == ["Whose turn: whoever runs the receiver"]
    pause, link = f"/ui/subscriptions/{id}/pause", f"/ui/subscriptions/{id}"
    assert soup.attributes("//*[@class='actions']//form", "action") == [pause]
    assert soup.attributes("//*[@class='actions']/a", "href") == [link]
    assert (await browser.post(pause)).path.startswith(link)
    assert "All is well" in (await browser.get("/ui")).html


@pytest.mark.parametrize("path", ["/ui/jobs", "/ui/groups", "/ui/accounts", "/ui/subscriptions"])
async def test_a_page_that_shows_no_card_of_it_names_the_worst(browser, world, path):
    assert not (await browser.get(path)).soup.all("//p[contains(@class, 'worst')]")
    await failing(world, browser)
    overview = (await browser.get("/ui")).soup
    (line,) = (await browser.get(path)).soup.texts("//p[contains(@class, 'worst')]")
    (first,) = overview.texts("//p[contains(@class, 'health')]")
    (why,) = overview.texts("//*[contains(@class, 'card')]//p[@class='why']")
    assert line == f"{first} {why}"
    assert "its log" in why, "what to do"


async def test_a_token_that_may_only_read_gets_no_buttons(open_as, browser, world):
    await failing(world, browser)
    reader = await open_as(scopes=["read"])
    soup = (await reader.get("/ui")).soup
    assert soup.all("//*[@class='actions']//form") == []
    assert soup.texts("//*[@class='actions']/a") == ["Show the subscription"]


async def test_a_link_leads_to_the_upstream(browser, world):
    world.tracking.credits["default"] = CreditsReading(threshold=500, available=120, low_since=world.now)
    soup = (await browser.get("/ui")).soup
    assert soup.texts("//*[@class='actions']/a") == ["Buy credits in Revor", "Show the source"]
    assert soup.attributes("//*[@class='actions']/a", "href") == ["https://revor.ai", "/ui/sources"]


async def test_after_ten_cards_the_others_are_counted(browser, world):
    for _ in range(12):
        await failing(world, browser)
    soup = (await browser.get("/ui")).soup
    assert len(soup.all("//section[contains(@class, 'card')]")) == 10
    assert soup.texts("//*[@class='others']") == [
        "Whose turn: whoever runs the receiver. 11 other things need someone."
    ]
    assert "And 2 more. Show all" in soup.text
