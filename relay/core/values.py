"""Shared parts of the core: a decorator for values created thousands of times a second, durations and times as users
write them (`5s`, `2h`, `500ms`), settings as they are in force (`relay/config` makes them, the API shows them), and the
progress of a node's loops."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relay.clock import to_rfc3339

if TYPE_CHECKING:
    from dataclasses import dataclass as value_class
else:
    from dataclasses import dataclass

    def value_class(**options):
        """A dataclass frozen only for the type checker: freezing at run time makes creation three times slower."""
        return dataclass(**options | {"frozen": False, "unsafe_hash": True})


__all__ = ["value_class"]


DURATION_PATTERN = "^([0-9]{1,9}(?:\\.[0-9]{1,6})?) ?(ms|s|m|h|d)$"
MAX_DURATION_SECONDS = 366 * 86_400.0
"""The longest duration accepted anywhere: a year."""

_DURATION = re.compile(DURATION_PATTERN)
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration_seconds(text: str) -> float:
    """The duration in seconds; it may exceed MAX_DURATION_SECONDS. Raises ValueError if `text` is not a duration."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("must be a duration such as 5s, 5m, 2h or 1d")
    return float(match[1]) * _UNIT_SECONDS[match[2]]


_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_MINUTE = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d)(:\d\d)?")


def moment(text: str, now: float) -> str:
    """The RFC 3339 time for an age such as `2h`, for a day, or for a day and time, all in UTC. Other text is returned
    unchanged."""
    if _DAY.fullmatch(text):
        return f"{text}T00:00:00Z"
    found = _MINUTE.fullmatch(text)
    if found is not None:
        return f"{found[1]}T{found[2]}{found[3] or ':00'}Z"
    try:
        return to_rfc3339(now - duration_seconds(text))
    except (ValueError, OverflowError, OSError):
        return text


DEFAULT = "default"
"""The place of a value that was not written anywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveSetting:
    """A setting with its value and where that comes from.

    key       such as `server.port`; of an entry of a list `auth.tokens[0].name`
    value     a JSON value; None for a secret, unless it is the default
    secret    whether the value may be a secret
    is_set    whether there is a value: it is neither null nor an empty list
    place     `relay.yaml:12`, a variable, an option such as `--port`, or DEFAULT
    reloaded  whether SIGHUP applies a change
    default   the default, as it is written in relay.yaml
    type      the phrase for its required form
    """

    key: str
    value: object
    secret: bool
    is_set: bool
    place: str
    reloaded: bool
    default: str
    type: str
    meaning: str


TURN_SECONDS = 90.0
"""Maximum time between two turns of a loop. An idle one turns every 30 s."""
WORK_SECONDS = 150.0
"""Maximum time without an end while there is work in flight. A poll or an attempt takes 60 s at most, and recording it
up to 30 s while the database is slow."""


@value_class(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of a loop since it started.

    turns      completed turns
    ended      polls or attempts that ended, whatever their outcome
    in_flight  polls or attempts that have not ended
    """

    turns: int
    ended: int
    in_flight: int


class Movement:
    """Compares the progress of loops over time. An idle loop moves: its turns go on."""

    def __init__(self) -> None:
        self._seen: dict[str, Progress] = {}
        self._turned_at: dict[str, float] = {}
        self._worked_at: dict[str, float] = {}

    def stuck(self, loops: Mapping[str, Progress], now: float) -> str | None:
        """The loop that is stuck, with the reason; None if all move. Call it at least once every TURN_SECONDS.

        A loop that is seen for the first time counts as moving. `now` is in seconds of a clock that is never set.
        """
        problem = None
        for name, progress in loops.items():
            before = self._seen.get(name)
            if before is None or progress.turns != before.turns:
                self._turned_at[name] = now
            if before is None or progress.ended != before.ended or not progress.in_flight or not before.in_flight:
                self._worked_at[name] = now
            self._seen[name] = progress
            still_seconds, held_seconds = now - self._turned_at[name], now - self._worked_at[name]
            if still_seconds > TURN_SECONDS:
                problem = f"{name} has not turned for {still_seconds:.0f} s"
            elif held_seconds > WORK_SECONDS:
                problem = f"{name} has {progress.in_flight} in flight, and none has ended for {held_seconds:.0f} s"
        return problem
