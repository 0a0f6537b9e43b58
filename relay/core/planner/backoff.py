"""Poll intervals that no statistics decide: after a failed poll, and for jobs of which nothing is expected."""

import math
import zlib

from relay.core.planner.config import PlannerConfig

FAILURE_GROWTH = 2.0
MAX_STEP = 60
SAFETY_SPREAD = 0.3
SPREAD = 0.05


def spread(seed: int, job_id: str, step: int) -> float:
    """A pseudo-random number in [0, 1) for this job and step, the same on every machine and in every run."""
    return zlib.crc32(f"{seed}:{job_id}:{step}".encode("utf-8", "surrogatepass")) / 2**32


def safety_wait(config: PlannerConfig, *, chance: float) -> float:
    """Seconds until the next safety poll: it finds out whether a waiting job was rescheduled or cancelled."""
    return max(config.max_interval_seconds * (1 - SAFETY_SPREAD * chance), config.min_interval_seconds)


def after_failure(config: PlannerConfig, *, now: float, failures: int, chance: float) -> float:
    """Time of the next poll after `failures` (at least 1) consecutive failed polls."""
    wait = config.min_interval_seconds * math.pow(FAILURE_GROWTH, min(failures - 1, MAX_STEP))
    return now + min(wait * (1 + SPREAD * chance), config.max_interval_seconds)
