"""When to look again where nothing was learned from the last look, or nothing is expected of the next."""

import math
import zlib

from relay.core.planner.config import PlannerConfig

FAILURE_GROWTH = 2.0
MAX_STEP = 60
SAFETY_SPREAD = 0.3
SPREAD = 0.05


def spread(seed: int, job_id: str, step: int) -> float:
    """A number from 0 to below 1 that belongs to this job and step: the same on every machine and in every run."""
    return zlib.crc32(f"{seed}:{job_id}:{step}".encode("utf-8", "surrogatepass")) / 2**32


def safety_wait(config: PlannerConfig, *, chance: float) -> float:
    """Seconds after which a job of which nothing is expected is looked at, in case it was moved or cancelled."""
    return max(config.max_interval_seconds * (1 - SAFETY_SPREAD * chance), config.min_interval_seconds)


def after_failure(config: PlannerConfig, *, now: float, failures: int, chance: float) -> float:
    """When to look again after `failures` (1 or more) failed looks in a row."""
    wait = config.min_interval_seconds * math.pow(FAILURE_GROWTH, min(failures - 1, MAX_STEP))
    return now + min(wait * (1 + SPREAD * chance), config.max_interval_seconds)
