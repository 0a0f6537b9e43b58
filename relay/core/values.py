"""What all of the core shares: a decorator for values created thousands of times a second, durations and times as users
write them (`5s`, `2h`, `500ms`), and settings as they are in force (`relay/config` makes them, the API shows them)."""

import re
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
    type      the phrase for what it must be
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
