"""Live pages: the block `live` of a page, sent again over server-sent events when something has happened.

Tabs that show the same page to the same person share one rendering. All renderings together may take SHARE of the
time, so that many open tabs slow the pages down and never the deliveries. Callers have equal parts of it: one with
expensive pages slows down their own.

A browser opens six connections to a host at most, so each session has TABS live tabs: one more takes the place of the
oldest, which asks again after LATER_SECONDS. `static/relay.js` knows the events: `live` (connected), `beat` (nothing
new), `later` (other tabs have the connections), `failed` (the page could not be made).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from relay.clock import Clock
from relay.errors import RequestError, StoreError, Unauthorized
from relay.web.turns import PageTurns

MIN_SECONDS = 2.0
"""Between two renderings of a page."""
IDLE_SECONDS = 10.0
"""After this long most pages are rendered without a signal: figures and states that have no event change too."""
TOGETHER_SECONDS = 0.1
"""Tabs that one signal wakes come so close together: the rendering of the first one is for all of them."""
SHARE = 0.03
"""Of one processor, for all live pages of a node."""
MAX_PAGES = 500
"""Pages that are open at once, at most. Further tabs are refused."""
TABS = 4
"""Live tabs of a session at once."""
LATER_SECONDS = 20
RETRY_SECONDS = 1
BEAT_SECONDS = 10.0
"""A tab that hears nothing for three times as long takes the connection for lost."""
SLICE_SECONDS = 1.0

Render = Callable[[], Awaitable[str]]
Wait = Callable[[float], Awaitable[bool]]

log = structlog.get_logger()


class Key(NamedTuple):
    """What is rendered once: a page as one session sees it."""

    session: str
    path: str


@dataclass(slots=True)
class _Shared:
    """A page that tabs are open for. `seconds`: of a processor, what its rendering takes."""

    caller: str
    tabs: int = 0
    html: str = ""
    began_at: float = float("-inf")
    seconds: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(slots=True, eq=False)
class _Tab:
    """An open stream. `displaced`: a newer one of the same session has its place."""

    displaced: bool = False


class Live:
    """The live pages of one node."""

    def __init__(self, turns: PageTurns, steady: Clock = time.monotonic, processor: Clock = time.process_time) -> None:
        """`turns`: shared with the pages that are not live. `processor`: the processor time of this process."""
        self._turns = turns
        self._steady = steady
        self._processor = processor
        self._pages: dict[Key, _Shared] = {}
        self._tabs: dict[str, list[_Tab]] = {}

    def interval_seconds(self, caller: str) -> float:
        """How long a page of this caller waits between two renderings."""
        callers = {page.caller for page in self._pages.values()}
        own = sum(page.seconds for page in self._pages.values() if page.caller == caller)
        return max(MIN_SECONDS, own * len(callers) / SHARE)

    def has_room(self, key: Key) -> bool:
        """Whether a tab of this page can be live."""
        return key in self._pages or len(self._pages) < MAX_PAGES

    async def frames(
        self,
        key: Key,
        caller: str,
        render: Render,
        wait: Wait,
        goes_on: Callable[[], bool],
        idle_seconds: float = IDLE_SECONDS,
    ) -> AsyncGenerator[bytes, None]:
        """The page's frames, each when it differs from the one before. `wait` returns True for a signal, False after
        so many seconds; `goes_on` says whether the reader may still see the page; `idle_seconds`: after so long it is
        rendered without a signal."""
        page = self._pages.setdefault(key, _Shared(caller))
        page.tabs += 1
        tab = self._seat(key.session)
        sent = ""
        since = self._steady()  # what was rendered before the tab came may lack what its reader has just done
        heard_at = float("-inf")

        def stays() -> bool:
            return not tab.displaced and goes_on()

        async def hear(seconds: float) -> bool:
            nonlocal heard_at
            if not await wait(seconds):
                return False
            heard_at = self._steady()
            return True

        try:
            yield _event("live", RETRY_SECONDS)
            while stays():
                html = await self._html(page, render, since)
                if not stays():
                    break
                yield _event("beat") if html == sent else _frame(html)
                sent = html
                pause = self.interval_seconds(caller)
                async for beat in _beats(_sleep, pause, stays):
                    yield beat
                if page.began_at >= heard_at - TOGETHER_SECONDS:  # else it lacks what the signal was about
                    async for beat in _beats(hear, max(0.0, idle_seconds - pause), stays):
                        yield beat
                since = self._steady() - MIN_SECONDS / 2
            if tab.displaced:
                yield _event("later", LATER_SECONDS)
        except Unauthorized:
            return  # the browser asks again, and learns it
        except (RequestError, StoreError) as error:
            log.info("live_page_failed", path=key.path, error=str(error))
            yield _event("failed", LATER_SECONDS)
        except Exception:
            log.exception("live_page_failed", path=key.path)
            yield _event("failed", LATER_SECONDS)
        finally:
            self._leave(key, page, tab)

    def _seat(self, session: str) -> _Tab:
        tabs = self._tabs.setdefault(session, [])
        tabs.append(_Tab())
        if len(tabs) > TABS:
            tabs.pop(0).displaced = True
        return tabs[-1]

    def _leave(self, key: Key, page: _Shared, tab: _Tab) -> None:
        page.tabs -= 1
        if page.tabs == 0:
            self._pages.pop(key, None)
        tabs = self._tabs.get(key.session, [])
        if tab in tabs:
            tabs.remove(tab)
        if not tabs:
            self._tabs.pop(key.session, None)

    async def _html(self, page: _Shared, render: Render, since: float) -> str:
        """The page as one rendering shows it that began at this time or later."""
        async with page.lock:
            if page.began_at >= since:
                return page.html
            async with self._turns.turn(page.caller):
                began, used = self._steady(), self._processor()
                page.html = await render()
                page.began_at = began
                # Not what other programs took meanwhile: a busy machine would make all pages slow.
                page.seconds = min(self._steady() - began, self._processor() - used)
                return page.html


async def _sleep(seconds: float) -> bool:
    await asyncio.sleep(seconds)
    return False


async def _beats(wait: Wait, seconds: float, goes_on: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
    """Waits until `wait` returns True, or for so long; no longer than a slice once the page does not go on."""
    silent = 0.0
    while seconds > 0 and goes_on():
        turn = min(seconds, SLICE_SECONDS)
        if await wait(turn):
            return
        seconds -= turn
        silent += turn
        if silent >= BEAT_SECONDS:
            silent = 0.0
            yield _event("beat")


def _event(name: str, retry_seconds: int | None = None) -> bytes:
    """An event without a page. `retry_seconds`: how soon the browser connects again after the stream has ended."""
    retry = "" if retry_seconds is None else f"retry: {retry_seconds * 1000}\n"
    return f"event: {name}\n{retry}\n".encode()


def _frame(html: str) -> bytes:
    lines = html.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "".join(f"data: {line}\n" for line in lines).encode("utf-8", "replace") + b"\n"
