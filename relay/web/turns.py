"""Limits how many pages of one caller are rendered at once.

Rendering a page takes milliseconds of the event loop. A hundred at once would each take them in every round of the
loop, and all other work, such as deliveries, would wait for the whole round.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from relay.errors import TooMany

AT_ONCE = 2
MAX_WAITING = 200
"""Maximum waiting pages of one caller. Further ones are refused."""


@dataclass(slots=True)
class _Caller:
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    pages: int = 0


class PageTurns:
    """The pages being rendered, by caller."""

    def __init__(self) -> None:
        self._callers: dict[str, _Caller] = {}

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """Waits until a page of this caller can be rendered, and holds its place while inside. Raises TooMany."""
        found = self._callers.setdefault(caller, _Caller())
        if found.pages >= AT_ONCE + MAX_WAITING:
            raise TooMany("too many pages of this token are being made: try again later", headers={"Retry-After": "5"})
        found.pages += 1
        try:
            async with found.turns:
                yield
        finally:
            found.pages -= 1
            if not found.pages:
                del self._callers[caller]
