"""Parses rate-limit headers of the upstream's responses, Retry-After included. `request_budget.py` acts on them."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import NamedTuple

from relay.core.deliveries.retry import MAX_RETRY_AFTER_SECONDS, parse_http_date
from relay.core.planner.config import RateLimitHeaders

MIN_WINDOW_SECONDS = 0.001
MAX_WINDOW_SECONDS = 86_400.0


class LimitReading(NamedTuple):
    """Rate-limit values of one response; None if absent. Counts are requests per window."""

    limit: float | None = None
    remaining: float | None = None
    account_limit: float | None = None
    account_remaining: float | None = None
    window_seconds: float | None = None
    retry_after_seconds: float | None = None


SILENT = LimitReading()


class HeaderReader:
    """Finds rate-limit headers by their configured names, case-insensitively."""

    __slots__ = ("_names",)

    def __init__(self, names: RateLimitHeaders) -> None:
        self._names = {name.lower(): meaning for meaning, name in asdict(names).items()}

    def read(self, headers: object, clock: float) -> LimitReading:
        """Parses `headers`. `clock`: now in epoch seconds, for a Retry-After date. Never raises."""
        if not isinstance(headers, Mapping) or not headers:
            return SILENT
        found: dict[str, str] = {}
        for name, value in headers.items():
            if isinstance(name, str) and isinstance(value, str):
                meaning = self._names.get(name.lower())
                if meaning is not None:
                    found[meaning] = value
        if not found:
            return SILENT
        window_ms = _count(found.get("window_ms"))
        return LimitReading(
            limit=_positive(_count(found.get("limit"))),
            remaining=_count(found.get("remaining")),
            account_limit=_positive(_count(found.get("account_limit"))),
            account_remaining=_count(found.get("account_remaining")),
            window_seconds=_window(window_ms),
            retry_after_seconds=_retry_after(found.get("retry_after"), clock),
        )


def _count(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _positive(number: float | None) -> float | None:
    return number or None


def _window(milliseconds: float | None) -> float | None:
    if not milliseconds:
        return None
    return min(max(milliseconds / 1000, MIN_WINDOW_SECONDS), MAX_WINDOW_SECONDS)


def _retry_after(text: str | None, clock: float) -> float | None:
    if text is None:
        return None
    seconds = _count(text)
    if seconds is None:
        moment = parse_http_date(text)
        if moment is None:
            return None
        seconds = moment - clock
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
