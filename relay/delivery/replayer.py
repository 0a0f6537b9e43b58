"""Replays on their way: what is sent again is put behind what is fresh, a bounded number at a time.

`run_once()` is timed by the scheduler; each step is a transaction of its own, so it can be cut off between any two.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from relay.clock import Clock
from relay.core.replay import ReplayStep
from relay.holder import Holder

MAX_STEPS = 50
"""Of one replay, before another one has its turn."""

log = structlog.get_logger("relay.replays")


class Rows(Protocol):
    """What is needed of the store."""

    async def due(self, holder: str, now: float) -> Sequence[str]: ...
    async def advance(self, replay_id: str, holder: str, now: float) -> ReplayStep: ...


class Replayer:
    """Takes the replays further that no other node holds."""

    def __init__(self, rows: Rows, *, clock: Clock, holder: Holder, wake: Callable[[], None]) -> None:
        """`wake` is called when something is due that no event made."""
        self._rows = rows
        self._clock = clock
        self._holder = holder
        self._wake = wake

    async def run_once(self) -> bool:
        """Does what there is to do just now. Returns whether there was anything."""
        due = await self._rows.due(self._holder.name, self._clock())
        for replay_id in due:
            try:
                await self._advance(replay_id)
            except Exception as error:  # it keeps no other replay from going on, and is tried again the next time
                log.error("replay_failed", replay=replay_id, error=str(error) or type(error).__name__)
        return bool(due)

    async def _advance(self, replay_id: str) -> None:
        for _ in range(MAX_STEPS):
            step = await self._rows.advance(replay_id, self._holder.name, self._clock())
            if step.queued:
                self._wake()
            if step.ended:
                log.info("replay_ended", replay=replay_id)
            if not step.more:
                break
