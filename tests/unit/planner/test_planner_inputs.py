"""Reading items and headers: sense where there is some, and never an exception."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.planner.budget import SILENT, LimitReading, read_limits
from relay.core.planner.config import PlannerConfig, RateLimitHeaders
from relay.core.planner.polls import read_item, read_time

NOW = 1_779_271_200.0
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("status", "channel", "action", "scheduled_at", "started_at", "finished_at", "next_attempt_at")
items = st.dictionaries(st.sampled_from(FIELDS), anything)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-05-20T10:00:00.000Z", NOW),
        ("2026-05-20T12:00:00+02:00", NOW),
        (NOW, NOW),
        (1_779_271_200, NOW),
        (0, 0.0),
        ("2026-05-20T10:00:00", None),
        ("soon", None),
        ("", None),
        ("0001-01-01T00:00:00Z", None),
        (-1, None),
        (1e300, None),
        (float("nan"), None),
        (float("inf"), None),
        (True, None),
        (None, None),
        ([], None),
    ],
)
def test_times_are_read_or_unknown(value: object, expected: float | None) -> None:
    assert read_time(value) == expected


@given(anything | items)
def test_no_item_raises(item: Any) -> None:
    reading = read_item(item)
    assert reading.known == isinstance(item, dict)


def test_an_item_is_read() -> None:
    reading = read_item({"status": "running", "channel": "email", "started_at": NOW, "scheduled_at": "nonsense"})
    assert reading.running
    assert not reading.terminal
    assert reading.channel == "email"
    assert (reading.started_at, reading.scheduled_at) == (NOW, None)


def read(headers: object) -> Any:
    return read_limits(headers, RateLimitHeaders().meanings, NOW)


def test_headers_are_read_in_any_case() -> None:
    reported = read(
        {
            "x-ratelimit-limit": "120",
            "X-RATELIMIT-REMAINING": "119",
            "X-RateLimit-Window-Ms": "30000",
            "X-User-RateLimit-Limit": "600",
            "X-User-RateLimit-Remaining": "0",
            "Retry-After": "2.5",
            "Content-Type": "application/json",
        }
    )
    assert reported == LimitReading(120, 119, 600, 0, 30, retry_after_seconds=2.5)


@pytest.mark.parametrize("headers", [{}, None, [], {"Content-Type": "x"}, {b"X-RateLimit-Limit": b"1"}])
def test_headers_that_tell_nothing(headers: object) -> None:
    assert read(headers) == SILENT


@pytest.mark.parametrize("nonsense", ["", "many", "nan", "inf", "-3", "1e999"])
def test_nonsense_in_headers_is_ignored(nonsense: str) -> None:
    names = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Window-Ms", "X-User-RateLimit-Limit")
    assert read(dict.fromkeys((*names, "X-User-RateLimit-Remaining", "Retry-After"), nonsense)) == SILENT


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Wed, 20 May 2026 10:00:30 GMT", 30),
        ("Wed, 20 May 2026 10:00:30 -0000", 30),
        ("Wed, 20 May 2026 09:00:00 GMT", 0),
        ("Thu, 20 May 2027 10:00:00 GMT", 86_400),
        ("1e9", 86_400),
    ],
)
def test_retry_after_is_a_number_or_a_date(text: str, seconds: float) -> None:
    assert read({"Retry-After": text}).retry_after_seconds == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("30", 30), ("0", 0.001), ("1779271230", 30), ("1779271100", 0.001), ("1e9", 0.001), ("99999999999", 86_400)),
        *(("2026-05-20T10:00:30Z", 30), ("2026-05-20T12:00:30+02:00", 30), ("2026-05-20T09:00:00Z", 0.001)),
        *(("Wed, 20 May 2026 10:00:30 GMT", 30), ("soon", None), ("6m0s", None), ("", None), ("-1", None)),
    ],
)
def test_end_of_a_window_is_seconds_an_epoch_second_or_a_date(text: str, seconds: float | None) -> None:
    names = RateLimitHeaders(reset="X-Reset").meanings
    assert read_limits({"x-reset": text}, names, NOW).reset_seconds == seconds


def test_milliseconds_of_retry_after_come_first() -> None:
    names = RateLimitHeaders(retry_after_ms="Retry-After-Ms").meanings
    headers = {"Retry-After": "3", "retry-after-ms": "2500"}
    assert read_limits(headers, names, NOW).retry_after_seconds == 2.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_requests_per_second": 0},
        {"max_requests_per_second": float("inf")},
        {"reserve": 1},
        {"reserve": -0.1},
        {"min_interval_seconds": 0},
        {"min_interval_seconds": 5, "max_interval_seconds": 4},
        {"max_interval_seconds": float("nan")},
    ],
)
def test_a_config_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PlannerConfig(**wrong)
