"""Live pages: the block `live` of a page, sent again over server-sent events after a change.

Tabs that show the same page to the same person share one rendering. All renderings together may take SHARE of the time,
so that many open tabs slow down the pages and never the deliveries. The share is divided equally among callers: one
with expensive pages slows down only their own.

A browser opens at most six connections to a host, so each session has TABS live tabs: one more replaces the oldest,
which reconnects after LATER_SECONDS. `static/relay.js` handles the events: `live` (connected), `beat` (nothing new),
`later` (other tabs have the connections), `failed` (the page could not be rendered).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from relay.clock import Clock
from relay.errors import RequestError, StoreError, Unauthorized
from relay.limiter import Limiter

MIN_SECONDS = 2.0
"""Minimum time between two renderings of a page."""
IDLE_SECONDS = 10.0
"""Most pages are rendered again after this time even without a signal: some figures and states change without an
event."""
TOGETHER_SECONDS = 0.1
"""Tabs woken by one signal ask within this time of each other and share the first one's rendering."""
SHARE = 0.03
"""Share of one processor, for all live pages of a node."""
MAX_PAGES = 500
"""Maximum pages open at once. Further tabs are refused."""
AT_ONCE = 2
"""Pages of one caller that are rendered at once."""
MAX_WAITING = 200
"""Maximum waiting pages of one caller. Further ones are refused."""
TABS = 4
"""Live tabs of a session at once."""
LATER_SECONDS = 20
RETRY_SECONDS = 1
BEAT_SECONDS = 10.0
"""Heartbeat interval. A tab that receives nothing for three intervals reconnects."""
SLICE_SECONDS = 1.0

Render = Callable[[], Awaitable[str]]
Wait = Callable[[float], Awaitable[bool]]

log = structlog.get_logger()


class Key(NamedTuple):
    """The key of a shared rendering: a page as one session sees it."""

    session: str
    path: str


@dataclass(slots=True)
class _Shared:
    """A page with open tabs. `seconds`: processor time that its rendering takes."""

    caller: str
    tabs: int = 0
    html: str = ""
    began_at: float = float("-inf")
    seconds: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(slots=True, eq=False)
class _Tab:
    """An open stream. `displaced`: a newer one of the same session has replaced it."""

    displaced: bool = False


class Live:
    """The live pages of one node."""

    def __init__(self, steady: Clock = time.monotonic, processor: Clock = time.process_time) -> None:
        """`processor`: the processor time of this process."""
        self.renderings = Limiter("pages", limit_of_owner=AT_ONCE + MAX_WAITING, at_once_of_owner=AT_ONCE)
        """Limits renderings, those of pages that are not live included. Each takes milliseconds of the event loop: a
        hundred at once would delay all other work, such as deliveries, by as many in each round of the loop."""
        self._steady = steady
        self._processor = processor
        self._pages: dict[Key, _Shared] = {}
        self._tabs: dict[str, list[_Tab]] = {}

    def interval_seconds(self, caller: str) -> float:
        """Time between two renderings of a page of this caller."""
        callers = {page.caller for page in self._pages.values()}
        own = sum(page.seconds for page in self._pages.values() if page.caller == caller)
        return max(MIN_SECONDS, own * len(callers) / SHARE)

    def has_room(self, key: Key) -> bool:
        """True if one more tab of this page can be live."""
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
        """The page's frames, each sent if it differs from the one before. `wait` returns True after a signal, False
        after the given seconds; `goes_on` returns False once the reader may no longer see the page; `idle_seconds`:
        maximum time between renderings without a signal."""
        page = self._pages.setdefault(key, _Shared(caller))
        page.tabs += 1
        tab = self._seat(key.session)
        sent = ""
        since = self._steady()  # an older rendering may lack the reader's last action
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
                if page.began_at >= heard_at - TOGETHER_SECONDS:  # else the rendering is older than the signal
                    async for beat in _beats(hear, max(0.0, idle_seconds - pause), stays):
                        yield beat
                since = self._steady() - MIN_SECONDS / 2
            if tab.displaced:
                yield _event("later", LATER_SECONDS)
        except Unauthorized:
            return  # the browser reconnects and gets the error then
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
        """The page from a rendering begun at or after `since`."""
        async with page.lock:
            if page.began_at >= since:
                return page.html
            async with self.renderings.turn(page.caller):
                began, used = self._steady(), self._processor()
                page.html = await render()
                page.began_at = began
                # Excludes time taken by other programs: a busy machine would make all pages slow.
                page.seconds = min(self._steady() - began, self._processor() - used)
                return page.html


async def _sleep(seconds: float) -> bool:
    await asyncio.sleep(seconds)
    return False


async def _beats(wait: Wait, seconds: float, goes_on: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
    """Waits until `wait` returns True or the time is over, with heartbeats. Ends within SLICE_SECONDS once `goes_on` is
    False."""
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
    """An event without a page. `retry_seconds`: the browser's delay before it reconnects."""
    retry = "" if retry_seconds is None else f"retry: {retry_seconds * 1000}\n"
    return f"event: {name}\n{retry}\n".encode()


def _frame(html: str) -> bytes:
    lines = html.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "".join(f"data: {line}\n" for line in lines).encode("utf-8", "replace") + b"\n"
