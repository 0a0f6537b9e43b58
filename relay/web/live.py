"""Live pages: the block `live` of a page, sent again over server-sent events when something has happened.

Tabs that show the same page to the same person share one rendering. All renderings together may take SHARE of the
time, so that many open tabs slow the pages down and never the deliveries.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

from relay.clock import Clock

MIN_SECONDS = 2.0
"""Between two renderings of a page."""
IDLE_SECONDS = 10.0
"""After this long a page is rendered without a signal: figures and states that have no event change too."""
SHARE = 0.03
"""Of one processor, for all live pages of a node."""
MAX_PAGES = 500
"""Pages that are open at once, at most. Further tabs are refused."""
SLICE_SECONDS = 1.0
HEARTBEAT = b": still here\n\n"

Key = tuple[str, ...]
Render = Callable[[], Awaitable[str]]


@dataclass(slots=True)
class _Shared:
    """A page that tabs are open for. `seconds`: what its rendering takes."""

    tabs: int = 0
    html: str = ""
    rendered_at: float = float("-inf")
    seconds: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Live:
    """The live pages of one node."""

    def __init__(self, steady: Clock = time.monotonic) -> None:
        self._steady = steady
        self._pages: OrderedDict[Key, _Shared] = OrderedDict()

    @property
    def interval_seconds(self) -> float:
        """How long a page waits between two renderings."""
        return max(MIN_SECONDS, sum(page.seconds for page in self._pages.values()) / SHARE)

    @property
    def is_full(self) -> bool:
        """Whether no further page can be live."""
        return len(self._pages) >= MAX_PAGES

    async def frames(
        self, key: Key, render: Render, wait: Callable[[float], Awaitable[bool]], goes_on: Callable[[], bool]
    ) -> AsyncGenerator[bytes, None]:
        """The page's frames, each when it differs from the one before. `wait` returns True for a signal, False after
        so many seconds; `goes_on` says whether the reader may still see the page."""
        page = self._pages.setdefault(key, _Shared())
        page.tabs += 1
        sent = ""
        try:
            yield HEARTBEAT
            while goes_on():
                html = await self._html(page, render)
                if not goes_on():
                    return
                yield HEARTBEAT if html == sent else _frame(html)
                sent = html
                pause = self.interval_seconds
                await _in_slices(asyncio.sleep, pause, goes_on)
                await _in_slices(wait, max(0.0, IDLE_SECONDS - pause), goes_on)
        finally:
            page.tabs -= 1
            if page.tabs == 0:
                self._pages.pop(key, None)

    async def _html(self, page: _Shared, render: Render) -> str:
        async with page.lock:
            if self._steady() - page.rendered_at >= MIN_SECONDS / 2:
                began = self._steady()
                page.html = await render()
                page.rendered_at = self._steady()
                page.seconds = page.rendered_at - began
            return page.html


async def _in_slices(wait: Callable[[float], Awaitable[object]], seconds: float, goes_on: Callable[[], bool]) -> None:
    """Waits until `wait` returns True, or for so long; no longer than a slice once the page does not go on."""
    while seconds > 0 and goes_on():
        turn = min(seconds, SLICE_SECONDS)
        if await wait(turn):
            return
        seconds -= turn


def _frame(html: str) -> bytes:
    lines = html.replace("\r", "").split("\n")
    return "".join(f"data: {line}\n" for line in lines if line.strip()).encode("utf-8", "replace") + b"\n"
