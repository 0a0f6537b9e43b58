"""Saves and restores the lasting state of a planner as JSON values. The jobs are loaded from the database."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from relay.core.planner.budget import Budget, Meter
from relay.core.planner.open_jobs import GAPS_REMEMBERED, Lanes

if TYPE_CHECKING:
    from relay.core.planner.planner import Planner

VERSION = 2
MAX_LANES_KEPT = 100


def dump(planner: Planner) -> dict[str, Any]:
    """The state worth keeping across restarts, without jobs."""
    return {
        "version": VERSION,
        "unit": planner.price.unit,
        "price": planner.price.dump(),
        "offset_seconds": planner.timeline.offset,
        "budget": _dump_budget(planner.pacer.budget),
        "lanes": [[lane.name, *lane.dump()] for lane in planner.open_jobs.lanes][-MAX_LANES_KEPT:],
    }


def load(planner: Planner, saved: Mapping[str, Any]) -> bool:
    """Loads the values of `dump` into a new planner. Returns False if they are malformed or of another version;
    a part may be loaded then."""
    try:
        if saved["version"] != VERSION or saved["unit"] != planner.price.unit:
            return False
        offset = _finite(saved["offset_seconds"])
        planner.price.load(*saved["price"])
        _load_budget(planner.pacer.budget, saved["budget"])
        _load_lanes(planner.open_jobs.lanes, saved["lanes"])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return False
    planner.timeline.offset = offset
    return True


def _load_lanes(lanes: Lanes, saved: Any) -> None:
    for name, last_start, _, gaps in saved:
        if not isinstance(name, str):
            raise ValueError("a lane's name is text")
        found = [_finite(gap) for gap in gaps][:GAPS_REMEMBERED]
        lane = lanes.open(name)
        if lane.last_start is None:
            lane.load(None if last_start is None else _finite(last_start), 0, found)
        lanes.close_if_empty(lane)


def _dump_budget(budget: Budget) -> dict[str, Any]:
    return {
        "paused_until": budget.paused_until,
        "key": _dump_meter(budget.key),
        "account": _dump_meter(budget.account),
        "trial_requests_per_second": budget.aimd.rate,
    }


def _dump_meter(meter: Meter) -> dict[str, Any]:
    return {name: getattr(meter, name) for name in Meter.KEPT} if meter.known else {}


def _load_budget(budget: Budget, saved: Mapping[str, Any]) -> None:
    """A lower cap than the saved one is kept. Raises ValueError, TypeError or KeyError for malformed values."""
    paused_until, rate = saved["paused_until"], _finite(saved["trial_requests_per_second"])
    meters = [
        {name: type(getattr(meter, name))(_finite(saved[key][name])) for name in Meter.KEPT} if saved[key] else {}
        for key, meter in (("key", budget.key), ("account", budget.account))
    ]
    if rate <= 0 or any(each and min(each["limit"], each["window_seconds"], each["rate"]) <= 0 for each in meters):
        raise ValueError("rates and windows must be above 0")
    budget.paused_until = None if paused_until is None else _finite(paused_until)
    for meter, values in zip((budget.key, budget.account), meters, strict=True):
        for name, value in values.items():
            setattr(meter, name, value)
    budget.aimd.rate = min(rate, budget.aimd.cap)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"not a finite number: {value!r}")
    return number
