"""When to look again: the plain rule, exponential back-off that counts from the moment at which something can happen.

Runs take seconds and their length scatters around a typical one, so the first look comes when the typical run has
ended, and further ones at growing distances. All is counted in units of the shortest interval.
"""

import math
import zlib

from relay.core.planner.config import PlannerConfig

FIRST_LOOK_INTERVALS = 6.0
NEXT_LOOK_INTERVALS = 2.0
GROWTH = 1.25
FAILURE_GROWTH = 2.0
MAX_STEP = 60
SAFETY_SPREAD = 0.1
SPREAD = 0.05


def spread(seed: int, job_id: str, step: int) -> float:
    """A number from 0 to below 1 that belongs to this job and step: the same on every machine and in every run."""
    return zlib.crc32(f"{seed}:{job_id}:{step}".encode("utf-8", "surrogatepass")) / 2**32


def next_look(config: PlannerConfig, *, anchor: float, now: float, step: int, weight: float, chance: float) -> float:
    """When to look at a job to which nothing can happen before `anchor`, after `step` looks since then found nothing.

    Times are seconds of one clock. `weight` shortens the waits, `chance` (0 to 1) spreads them. The result is at
    least a shortest and at most a longest interval away.
    """
    unit = config.min_interval_seconds * (1 + SPREAD * (2 * chance - 1)) / math.sqrt(weight)
    typical_end = anchor + unit * FIRST_LOOK_INTERVALS
    if now <= anchor:
        due = typical_end
    else:
        due = now + unit * NEXT_LOOK_INTERVALS * math.pow(GROWTH, min(step, MAX_STEP))
        if step == 0:
            due = max(due, typical_end)
    due = max(due, now + config.min_interval_seconds)
    return min(due, safety_look(config, now=now, chance=chance))


def safety_look(config: PlannerConfig, *, now: float, chance: float) -> float:
    """When to look at a job of which nothing is expected, in case it was moved or cancelled."""
    wait = config.max_interval_seconds * (1 - SAFETY_SPREAD * chance)
    return now + max(wait, config.min_interval_seconds)


def after_failure(config: PlannerConfig, *, now: float, failures: int, chance: float) -> float:
    """When to look again after `failures` (1 or more) failed looks in a row."""
    wait = config.min_interval_seconds * math.pow(FAILURE_GROWTH, min(failures - 1, MAX_STEP))
    return now + min(wait * (1 + SPREAD * chance), config.max_interval_seconds)
