"""Durations: what is accepted, and in which unit."""

import pytest

from relay.core.values import duration_seconds, moment


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5), ("5m", 300), ("2h", 7_200), ("1d", 86_400), ("500ms", 0.5), ("1.5 h", 5_400)]
)
def test_each_unit_is_read_as_seconds(text: str, seconds: float) -> None:
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5w", "-5s", "s", "5s5s", "1e3s", "5s\n", "1234567890s", "1.1234567s", "٥s"])
def test_other_text_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration such as 5s"):
        duration_seconds(text)


def test_times_are_read_as_people_type_them() -> None:
    for typed, meant in [
        ("2h", "2027-01-15T06:00:00.000Z"),
        ("2027-01-14", "2027-01-14T00:00:00Z"),
        ("2027-01-14 10:30", "2027-01-14T10:30:00Z"),
        ("2027-01-14T10:30:05", "2027-01-14T10:30:05Z"),
        ("2027-01-14T10:30:05+02:00", "2027-01-14T10:30:05+02:00"),
        ("yesterday", "yesterday"),
        ("999999999d", "999999999d"),
    ]:
        assert moment(typed, 1_800_000_000.0) == meant
