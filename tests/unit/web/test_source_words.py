"""Sources in words: whose turn it is, and what another limit would bring."""

from typing import Any

import pytest

from relay.core.turns import ADMINISTRATOR
from relay.web import source_words
from relay.web.source_words import Delay

LOW = {"low_since": "2026-05-20T10:00:00.000Z"}


def source(
    half: float | None = 2.0, now: float | None = 1.2, double: float | None = 0.6, **more: Any
) -> dict[str, Any]:
    known = {
        **{"title": "Revor", "state": "ok", "credits": None},
        "expected_detection_delay_at_half_budget_seconds": half,
        "expected_detection_delay_seconds": now,
        "expected_detection_delay_at_double_budget_seconds": double,
    }
    return {**known, **more}


@pytest.mark.parametrize(
    ("changes", "turn", "level"),
    [
        ({}, None, ""),
        ({"state": "elsewhere"}, None, ""),
        ({"state": "unauthorized"}, ADMINISTRATOR, "bad"),
        ({"state": "no_key"}, ADMINISTRATOR, "bad"),
        ({"state": "down"}, "Revor", "bad"),
        ({"credits": LOW}, ADMINISTRATOR, "warn"),
        ({"credits": {"low_since": None}}, None, ""),
    ],
)
def test_whose_turn_it_is(changes: dict[str, Any], turn: str | None, level: str) -> None:
    one = source(**changes)
    assert (source_words.turn_of_source(one), source_words.level_of(one)) == (turn, level)
    assert source_words.is_polled(one) == (one["state"] not in ("unauthorized", "no_key"))


def test_delays_with_another_limit_begin_at_zero() -> None:
    assert source_words.delays(source()) == [
        Delay("half", 2.0, 1000),
        Delay("now", 1.2, 600),
        Delay("double", 0.6, 300),
    ]
    assert source_words.delays(source(0.0, 0.0, 0.0)) == []


@pytest.mark.parametrize(
    ("values", "delay", "effect"),
    [
        ((2.0, 1.2, 0.6), "1.2 s", "larger"),
        ((2.0, 1.2, 1.15), "1.2 s", "smaller"),
        ((1.25, 1.2, 1.15), "1.2 s", "neither"),
        ((None, 1.2, 0.6), "1.2 s", None),
        ((None, None, None), None, None),
        ((1.2, 1.2, 1.2), "1.2 s", None),
    ],
)
def test_delay_and_what_another_limit_would_change(
    values: tuple[float | None, ...], delay: str | None, effect: str | None
) -> None:
    one = source(*values)
    assert (source_words.delay_of(one), source_words.effect_of(one)) == (delay, effect)


def test_delay_of_a_source_that_does_not_answer_is_not_known() -> None:
    assert source_words.delay_of(source(state="down")) is None
    assert source_words.delays(source(state="down")) == []


def test_sources_that_do_not_work_come_first() -> None:
    well, low, gone = (source(account=name) | more for name, more in (("a", {}), ("b", {"credits": LOW}), ("c", {})))
    gone["state"] = "no_key"
    assert sorted([well, low, gone], key=source_words.urgency) == [gone, low, well]
