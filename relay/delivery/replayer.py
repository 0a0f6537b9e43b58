"""Advances replays: queues their deliveries behind fresh ones, in bounded batches.

The scheduler calls `run_once()`. Each step is one transaction, so a replay can stop between any two and resume on any
node. The steps are in `relay/store/deliveries/replays.py`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from relay.clock import Clock
from relay.holder import Holder

if TYPE_CHECKING:
    from relay.store.deliveries.replays import ReplayStore

MAX_STEPS = 50
"""Maximum steps of one replay before the next replay continues."""

log = structlog.get_logger("relay.delivery")


class Replayer:
    """Advances the replays that no other node holds."""

    def __init__(self, rows: "ReplayStore", *, clock: Clock, holder: Holder, wake: Callable[[], None]) -> None:
        """`wake` is called when deliveries have become due."""
        self._rows = rows
        self._clock = clock
        self._holder = holder
        self._wake = wake

    async def run_once(self) -> bool:
        """Advances each due replay. Returns True if there was one."""
        due = await self._rows.due(self._holder.name, self._clock())
        for replay_id in due:
            try:
                await self._advance(replay_id)
            except Exception as error:  # does not stop other replays; tried again in the next run
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
