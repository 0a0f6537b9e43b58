"""Times typed into a form."""

import re

from relay.clock import to_rfc3339
from relay.core.durations import duration_seconds

_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_MINUTE = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d)(:\d\d)?")


def moment(text: str, now: float) -> str:
    """The RFC 3339 time for an age such as `2h`, for a day, or for a day and time, all in UTC. Other text is returned
    unchanged: the API reports what is wrong with it."""
    if _DAY.fullmatch(text):
        return f"{text}T00:00:00Z"
    found = _MINUTE.fullmatch(text)
    if found is not None:
        return f"{found[1]}T{found[2]}{found[3] or ':00'}Z"
    try:
        return to_rfc3339(now - duration_seconds(text))
    except (ValueError, OverflowError, OSError):
        return text
