"""Durations as users write them: `5s`, `5m`, `2h`, `1d`, `500ms`."""

import re

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
