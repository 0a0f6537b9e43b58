"""Parses the fields a planner needs from a job's item, tolerating any other content."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from relay.clock import MAX_EPOCH_SECONDS, from_rfc3339
from relay.core.jobs.job import TERMINAL
from relay.core.planner.learning.retries import MAX_ATTEMPTS


class Reading(NamedTuple):
    """The parsed fields of an item. Times are epoch seconds; None if absent or invalid."""

    known: bool
    terminal: bool = False
    running: bool = False
    cancelled: bool = False
    channel: str = ""
    action: str = ""
    scheduled_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    next_attempt_at: float | None = None
    attempt_count: int = 0

    def shifted(self, seconds: float) -> "Reading":
        """The reading with all times moved by `seconds`."""
        if seconds == 0:
            return self
        at = [None if each is None else each + seconds for each in self[6:10]]
        return self._replace(scheduled_at=at[0], started_at=at[1], finished_at=at[2], next_attempt_at=at[3])


UNKNOWN = Reading(known=False)


def read_time(value: object) -> float | None:
    """Epoch seconds of an RFC 3339 text or a number; None for other values."""
    if isinstance(value, str):
        try:
            return from_rfc3339(value)
        except (ValueError, OverflowError):
            return None
    if not isinstance(value, float | int) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= MAX_EPOCH_SECONDS else None


def read_item(item: object) -> Reading:
    """Parses an item; UNKNOWN if it is not a mapping. Never raises."""
    if not isinstance(item, Mapping):
        return UNKNOWN
    fields: Mapping[str, Any] = item
    status, channel, action = fields.get("status"), fields.get("channel"), fields.get("action")
    attempts = fields.get("attempt_count")
    known = isinstance(status, str)
    return Reading(
        known=True,
        terminal=known and status in TERMINAL,
        running=status == "running",
        cancelled=status == "cancelled",
        channel=channel if isinstance(channel, str) else "",
        action=action if isinstance(action, str) else "",
        scheduled_at=read_time(fields.get("scheduled_at")),
        started_at=read_time(fields.get("started_at")),
        finished_at=read_time(fields.get("finished_at")),
        next_attempt_at=read_time(fields.get("next_attempt_at")),
        attempt_count=min(max(attempts, 0), MAX_ATTEMPTS) if isinstance(attempts, int) else 0,
    )
