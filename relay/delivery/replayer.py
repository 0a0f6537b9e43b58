"""Advances replays: queues their deliveries behind fresh ones, in bounded batches.

The scheduler calls `run_once()`. Each step is one transaction, so a replay can stop between any two and resume on any
node. The steps are in `relay/store/deliveries/replays.py`.
"""

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from relay.delivery.shared import Shared

MAX_STEPS = 50
"""Maximum steps of one replay before the next replay continues."""

log = structlog.get_logger("relay.delivery")


class Replayer:
    """Advances the replays that no other node holds."""

    def __init__(self, shared: "Shared") -> None:
        self._shared = shared
        self._rows = shared.store.replays

    async def run_once(self) -> bool:
        """Advances each due replay. Returns True if there was one."""
        due = await self._rows.due(self._shared.holder.name, self._shared.clock())
        for replay_id in due:
            try:
                await self._advance(replay_id)
            except Exception as error:  # does not stop other replays; tried again in the next run
                log.error("replay_failed", replay=replay_id, error=str(error) or type(error).__name__)
        return bool(due)

    async def _advance(self, replay_id: str) -> None:
        for _ in range(MAX_STEPS):
            step = await self._rows.advance(replay_id, self._shared.holder.name, self._shared.clock())
            if step.queued:
                self._shared.signals.deliveries_due()
            if step.ended:
                log.info("replay_ended", replay=replay_id)
            if not step.more:
                break
