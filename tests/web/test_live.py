"""Live pages: what an open page is sent, how often, and when its stream ends."""

import asyncio
from dataclasses import dataclass, field

import pytest

from relay.core.access.tokens import AccessToken
from relay.errors import NotFound, StoreError, Unauthorized
from relay.web import live
from relay.web.live import LATER_SECONDS, MIN_SECONDS, SHARE, TABS, Key, Live

KEY = Key("session", "/ui/jobs")
LIVE = b"event: live\nretry: 1000\n\n"
BEAT = b"event: beat\n\n"
ACCEPT = {"accept": "text/html, text/event-stream"}


@dataclass
class Clock:
    """Time that passes only in waits."""

    now: float = 0.0
    signals: list[bool] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    async def wait(self, seconds: float) -> bool:
        await asyncio.sleep(0)
        self.waits.append(seconds)
        signalled = bool(self.signals) and self.signals.pop(0)
        self.now += 0.01 if signalled else seconds
        return signalled


@dataclass
class Page:
    """A page that is rendered in `seconds`."""

    clock: Clock
    html: str = "<p>one</p>"
    seconds: float = 0.0
    rendered: int = 0
    error: Exception | None = None

    async def __call__(self) -> str:
        self.rendered += 1
        self.clock.now += self.seconds
        if self.error is not None:
            raise self.error
        return self.html


@pytest.fixture
def clock(monkeypatch):
    made = Clock()

    async def sleep(seconds: float) -> bool:
        await asyncio.sleep(0)
        made.now += seconds
        return False

    monkeypatch.setattr(live, "_sleep", sleep)
    return made


@pytest.fixture
def pages(clock):
    return Live(clock, clock)


async def taken(stream, count):
    """The next frames."""
    return [await anext(stream) for _ in range(count)]


async def test_page_is_sent_at_once_and_then_when_it_differs(pages, clock):
    page = Page(clock)
    stream = pages.frames(KEY, "me", page, clock.wait, lambda: True)
    assert await taken(stream, 3) == [LIVE, b"data: <p>one</p>\n\n", BEAT]
    page.html = "<p>two</p>"
    assert await anext(stream) == b"data: <p>two</p>\n\n"
    await stream.aclose()


async def test_signal_renders_again_but_not_more_often_than_the_least(pages, clock):
    clock.signals = [True] * 50
    page = Page(clock)
    stream = pages.frames(KEY, "me", page, clock.wait, lambda: True)
    began = clock.now
    await taken(stream, 11)
    assert page.rendered == 10
    assert clock.now - began >= 9 * MIN_SECONDS
    await stream.aclose()


async def test_tabs_of_one_page_share_a_rendering(pages, clock):
    page = Page(clock)
    streams = [pages.frames(KEY, "me", page, clock.wait, lambda: True) for _ in range(TABS)]
    for stream in streams:
        await taken(stream, 2)
    assert page.rendered == 1
    other = pages.frames(Key("another", KEY.path), "me", page, clock.wait, lambda: True)
    await taken(other, 2)
    assert page.rendered == 2  # another session's forms have other tokens
    for stream in (*streams, other):
        await stream.aclose()
    assert pages._pages == {}
    assert pages._tabs == {}


async def test_one_tab_more_takes_the_place_of_the_oldest(pages, clock):
    page = Page(clock)
    streams = [pages.frames(Key("session", f"/ui/{n}"), "me", page, clock.wait, lambda: True) for n in range(TABS + 1)]
    other = pages.frames(Key("another", "/ui"), "me", page, clock.wait, lambda: True)
    for stream in (other, *streams):
        await taken(stream, 2)
    rest = [frame async for frame in streams[0]]
    assert rest == [f"event: later\nretry: {LATER_SECONDS * 1000}\n\n".encode()]
    for stream in (other, *streams[1:]):
        assert await anext(stream) == BEAT
        await stream.aclose()
    assert pages._tabs == {}


async def test_stream_ends_within_a_second_of_its_reason(pages, clock):
    going = True
    stream = pages.frames(KEY, "me", Page(clock), clock.wait, lambda: going)
    await taken(stream, 3)
    at, going = clock.now, False
    assert [frame async for frame in stream] == []
    assert clock.now - at <= 1.0


@pytest.mark.parametrize(
    ("error", "rest"),
    [
        (Unauthorized("the session has ended"), []),
        (NotFound("there is no such job"), [b"event: failed\nretry: 20000\n\n"]),
        (StoreError("the database is locked"), [b"event: failed\nretry: 20000\n\n"]),
        (ValueError("a bug"), [b"event: failed\nretry: 20000\n\n"]),
    ],
)
async def test_page_that_fails_ends_its_stream_and_says_when_to_ask_again(pages, clock, error, rest):
    stream = pages.frames(KEY, "me", Page(clock, error=error), clock.wait, lambda: True)
    assert [frame async for frame in stream] == [LIVE, *rest]
    assert pages._pages == {}


async def test_a_tab_of_a_known_page_finds_room_when_there_is_none_for_others(pages, clock, monkeypatch):
    monkeypatch.setattr(live, "MAX_PAGES", 1)
    stream = pages.frames(KEY, "me", Page(clock), clock.wait, lambda: True)
    await taken(stream, 2)
    assert pages.has_room(KEY)
    assert not pages.has_room(Key("session", "/ui/audit"))
    await stream.aclose()
    assert pages.has_room(Key("session", "/ui/audit"))


# --- through the dashboard


@pytest.fixture
def at_once(monkeypatch):
    """Pages wait for signals only, however slow this machine is."""
    monkeypatch.setattr(live, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(live, "SHARE", 1e9)


async def test_stream_has_the_page_and_ends_with_the_node(at_once, browser, world):
    await world.job("job_1")
    answer = await browser.client.get("/ui/jobs", headers=ACCEPT)  # the node stops at the first wait
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"  # nginx passes it on at once
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.startswith("event: live\n")
    assert "job_1" in answer.text
    assert "<html" not in answer.text
    assert world.signals.open_watches == 0


async def test_stream_ends_when_its_token_is_revoked(at_once, open_as, world):
    browser = await open_as(scopes=["read"])
    found: list[AccessToken] = (await world.store.tokens.all())[1]

    async def revoke() -> bool:
        await world.store.tokens.revoke(found[0].id)
        await world.node.tokens_changed()
        return True

    world.signals.steps = [revoke]
    answer = await browser.client.get("/ui/jobs", headers=ACCEPT)
    assert answer.status_code == 200
    assert not world.node.stopping
    again = await browser.client.get("/ui/jobs", headers=ACCEPT)
    assert again.status_code == 401


@pytest.mark.parametrize(("path", "status"), [("/ui/jobs/job_none", 404), ("/ui/none", 404), ("/ui/tokens", 403)])
async def test_refused_stream_is_no_page(path, status, at_once, open_as):
    """htmx would show it inside the page."""
    browser = await open_as(token="rl_jobs")
    answer = await browser.client.get(path, headers=ACCEPT)
    assert answer.status_code == 200 or (answer.status_code, answer.text) == (status, "")
    assert "<html" not in answer.text


async def test_a_slow_page_of_one_caller_does_not_slow_down_another(pages, clock):
    mine = pages.frames(KEY, "me", Page(clock), clock.wait, lambda: True)
    heavy = pages.frames(Key("other", "/ui/events"), "other", Page(clock, seconds=9.0), clock.wait, lambda: True)
    await taken(mine, 2)
    await taken(heavy, 2)
    assert pages.interval_seconds("me") == MIN_SECONDS
    assert pages.interval_seconds("other") == pytest.approx(9.0 * 2 / SHARE)
    await mine.aclose()
    await heavy.aclose()
