"""Sources in words, from the items of `GET /v1/sources`: values in, values out."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from relay.core.polling.budget_effect import budget_effect
from relay.core.turns import turn_of
from relay.web.rendering import duration

Source = Mapping[str, Any]

_KEYLESS = ("unauthorized", "no_key")
SILENT = (*_KEYLESS, "down")
"""States in which polls are late or not made."""


class Delay(NamedTuple):
    """An expected delay. `budget`: half, now or double; `share`: of the longest one, in thousandths."""

    budget: str
    seconds: float
    share: int


def is_polled(source: Source) -> bool:
    """True if its key works, as far as is known."""
    return source["state"] not in _KEYLESS


def turn_of_source(source: Source) -> str | None:
    """Whose turn it is; None if nothing is wrong."""
    if source["state"] in _KEYLESS:
        return turn_of("key")
    if source["state"] == "down":
        return turn_of("down", source["title"])
    credits = source["credits"]
    return turn_of("credits") if credits is not None and credits["low_since"] else None


def level_of(source: Source) -> str:
    """The kind of its card: bad, warn, or none."""
    if turn_of_source(source) is None:
        return ""
    return "bad" if source["state"] != "ok" else "warn"


def urgency(source: Source) -> tuple[int, str]:
    """Sorts sources: those that do not work come first, then those that need someone."""
    return ("bad", "warn", "").index(level_of(source)), f"{source['title']} {source['account']}"


def delays(source: Source) -> list[Delay]:
    """The expected delays with half of today's budget, with today's and with twice of it; none unless all are known and
    differ."""
    found = {
        "half": source["expected_detection_delay_at_half_budget_seconds"],
        "now": source["expected_detection_delay_seconds"],
        "double": source["expected_detection_delay_at_double_budget_seconds"],
    }
    if any(seconds is None for seconds in found.values()):
        return []
    if source["state"] == "down" or len({duration(seconds) for seconds in found.values()}) == 1:
        return []  # three equal bars say nothing
    top = max(found.values()) or 1.0
    return [Delay(budget, seconds, round(seconds / top * 1000)) for budget, seconds in found.items()]


def delay_of(source: Source) -> str | None:
    """How soon the end of a job is known; None without enough data, or if another node polls."""
    seconds = source["expected_detection_delay_seconds"]
    return None if seconds is None or source["state"] == "down" else duration(seconds)


def effect_of(source: Source) -> str | None:
    """The effect of another budget: larger, smaller or neither; None if it is unknown."""
    found = delays(source)
    return budget_effect(found[1].seconds, found[0].seconds, found[2].seconds) if found else None


WORDS: Mapping[str, Callable[[Source], object]] = {
    one.__name__: one for one in (is_polled, turn_of_source, level_of, delays, delay_of, effect_of)
}
"""Functions for templates."""
