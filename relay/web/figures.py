"""The figures of the overview and of `relay status`, from the answers of `/v1/figures`: values in, values out.

Each is a number of now or of the last hour, and its last 24 hours. An hour without a point counts as 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relay.clock import from_rfc3339, to_rfc3339
from relay.core.figures import SPAN_SECONDS, Name, began

HOURS = 24
HOUR_SECONDS = SPAN_SECONDS["hour"]
ENDED = "jobs_ended,jobs_failed"
NAMES = f"jobs_open,{ENDED},detection_delay_seconds,deliveries_undelivered"

Points = Sequence[tuple[float, float]]
Answer = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """
    open, ended, delay, undelivered  the last 24 hours; `delay`: the median, in seconds
    ended_lately, failed_lately  of the last 60 minutes; of one account, which has no minutes, of this hour of the clock
    p50, p95     delay of detection in the newest hour that has one, in seconds; None: no job has ended
    since        the first hour with a figure, if it is one of these; None: they all have some, or none has
    """

    open: Points
    ended: Points
    delay: Points
    undelivered: Points
    ended_lately: int
    failed_lately: int
    by_hour: bool
    p50: float | None
    p95: float | None
    since: float | None


def hours_query(now: float) -> Mapping[str, object]:
    """The query of the last 24 hours."""
    return {"name": NAMES, "span": "hour", "since": to_rfc3339(first_hour(now))}


def minutes_query(now: float) -> Mapping[str, object]:
    """The query of the last 60 minutes."""
    return {"name": ENDED, "span": "minute", "since": to_rfc3339(now - HOUR_SECONDS)}


def first_hour(now: float) -> float:
    """The beginning of the oldest of the 24 hours; the newest is the present one."""
    return began(now, "hour") - (HOURS - 1) * HOUR_SECONDS


def figures_of(hours: Answer, minutes: Answer | None, now: float) -> Figures | None:
    """The figures of both answers; None if nothing is measured yet. `minutes`: None if the caller may not read them."""
    by_name = _by_name(hours)
    times = [from_rfc3339(one["time"]) for points in by_name.values() for one in points]
    if not times:
        return None
    lately = by_name if minutes is None else _by_name(minutes)
    after = began(now, "hour") - 1 if minutes is None else now - HOUR_SECONDS
    delays = by_name.get("detection_delay_seconds") or ({"p50": None, "p95": None},)
    return Figures(
        open=day_of(by_name.get("jobs_open", ()), "total", now),
        ended=day_of(by_name.get("jobs_ended", ()), "count", now),
        delay=day_of(by_name.get("detection_delay_seconds", ()), "p50", now),
        undelivered=day_of(by_name.get("deliveries_undelivered", ()), "total", now),
        ended_lately=_total(lately, "jobs_ended", after),
        failed_lately=_total(lately, "jobs_failed", after),
        by_hour=minutes is None,
        p50=delays[-1]["p50"],
        p95=delays[-1]["p95"],
        since=min(times) if min(times) > first_hour(now) else None,
    )


def waiting_now(pending: Sequence[Answer], figures: Figures | None) -> int:
    """The deliveries that wait now, by the groups of those that were counted. If there may be more: the mean of this
    hour, if it is larger."""
    counted: int = sum(one["count"] for one in pending)
    least = any(one["least"] for one in pending)
    return max(counted, round(figures.undelivered[-1][1])) if least and figures is not None else counted


def _by_name(answer: Answer) -> Mapping[Name, Sequence[Answer]]:
    return {one["name"]: one["points"] for one in answer["items"]}


def day_of(points: Sequence[Answer], value: str, now: float, missing: float | None = 0) -> list[tuple[float, Any]]:
    """A value in each of the 24 hours. `missing`: in an hour without a point."""
    known = {from_rfc3339(one["time"]): missing if one[value] is None else one[value] for one in points}
    first = first_hour(now)
    return [(at, known.get(at, missing)) for at in (first + number * HOUR_SECONDS for number in range(HOURS))]


def _total(by_name: Mapping[Name, Sequence[Answer]], name: Name, after: float) -> int:
    """The total of the spans that began later. A span in which nothing happened has no point."""
    return sum(one["count"] for one in by_name.get(name, ()) if from_rfc3339(one["time"]) > after)
