"""Parses the Retry-After header (RFC 9110 section 10.2.3)."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER_SECONDS = 86_400.0
"""Longest pause that a server can request: a day."""

_SECONDS = re.compile(r"([+-]?)([0-9]+(?:\.[0-9]*)?)", re.ASCII)


def parse_retry_after(value: str | None, *, now: float, received_date: str | None = None) -> float | None:
    """The pause in seconds that a Retry-After header asks for, or None if it is invalid.

    Accepts seconds (decimals too, which some servers send) or an HTTP date. A date is measured from the response's own
    Date header if `received_date` is valid, so that a sink's wrong clock does no harm, else from `now` (epoch seconds).
    From 0 to 24 hours.
    """
    if value is None or len(value) > 128:
        return None
    text = value.strip()
    number = _SECONDS.fullmatch(text)
    if number is not None:
        return 0.0 if number[1] == "-" else _bounded(float(number[2]))
    moment = parse_http_date(text)
    if moment is None:
        return None
    sent_at = parse_http_date(received_date) if received_date is not None else None
    return _bounded(moment - (now if sent_at is None else sent_at))


def _bounded(seconds: float) -> float:
    return min(seconds, MAX_RETRY_AFTER_SECONDS) if seconds > 0 else 0.0


def parse_http_date(text: str) -> float | None:
    """Epoch seconds of an HTTP date, read as UTC if it has no zone; None if it is invalid."""
    try:
        moment: datetime = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
