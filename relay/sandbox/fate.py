"""A job's fate: its outcome and durations, drawn from a seeded generator when the job is created. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

Final = Literal["succeeded", "failed", "cancelled"]
Waiting = Literal["queued", "scheduled"]

RETRYABLE_BY_CODE: Mapping[str, bool] = {
    "connect_account_reconnect_required": False,
    "insufficient_credits": False,
    "external_api_worker_unavailable": True,
    "external_api_retry_enqueue_failed": True,
    "external_api_billing_retryable": True,
}
"""Revor's error codes of a job: code -> `retryable`."""

TRANSIENT_CODES = ("external_api_worker_unavailable", "external_api_billing_retryable")
"""Error codes of attempts that are retried."""

FINAL_CODES = (*RETRYABLE_BY_CODE,)
_FINAL_CODE_WEIGHTS = (50, 20, 10, 10, 10)

MAX_RUN_SECONDS = 86_400.0
"""Upper limit of a drawn run or start delay."""
RETRY_PAUSES_SECONDS = (30.0, 120.0, 600.0)
"""The pause after each failed attempt, multiplied by U(1, 1.2). Their number limits the retries."""
LANE_GAP_SECONDS = 0.2
"""From the end of a job to the earliest start of the next one in its lane."""
_START_DELAY = (1.0, 0.5)
_RUN = (7.0, 0.6)
"""Lognormal distributions: median in seconds at speed 1, and sigma."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """The share of each fate. Shares are weights: they need not add up to 1."""

    succeeded: float = 0.75
    """Succeeds at the first attempt."""
    retried: float = 0.15
    """One to three attempts fail, then one succeeds."""
    failed: float = 0.07
    """Ends as `failed`: at the first attempt, after a retry, or after every attempt failed."""
    cancelled: float = 0.03
    """Ends as `cancelled` before its first attempt."""
    skipped: float = 0.15
    """Fraction of the successful post-likes that found no matching post, 0 to 1."""

    def __post_init__(self) -> None:
        shares = (self.succeeded, self.retried, self.failed, self.cancelled)
        if any(not math.isfinite(share) or share < 0 for share in shares) or sum(shares) <= 0:
            raise ValueError("the shares of a mix must be 0 or more, and one of them above 0")
        if not 0 <= self.skipped <= 1:
            raise ValueError("skipped must be 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Fixes parts of a fate instead of drawing them. None: drawn. Seconds are at speed 1."""

    final: Final | None = None
    attempt_failures: int | None = None
    """Number of failed attempts that are retried."""
    error_code: str | None = None
    """Code of the final failure."""
    run_seconds: float | None = None
    """Duration of every attempt."""
    start_delay_seconds: float | None = None
    """Start delay of every attempt."""
    retry_pause_seconds: float | None = None
    """Duration of every pause between attempts."""
    waiting_status: Waiting | None = None
    """Status between two attempts."""
    skipped: bool | None = None
    in_lane: bool = True
    """False: the job is outside its lane. It neither waits for other jobs nor delays them."""
    show_scheduled_at: bool = True
    """False: `scheduled_at` is null, as with an upstream that gives no hint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """One job's fate, in seconds at speed 1.

    Attempt i starts `start_delays_seconds[i]` after it may start and runs for `runs_seconds[i]`. Every attempt but the
    last then fails with `failures[i]` and is retried after `pauses_seconds[i]`.
    """

    final: Final
    failures: tuple[str, ...]
    start_delays_seconds: tuple[float, ...]
    runs_seconds: tuple[float, ...]
    pauses_seconds: tuple[float, ...]
    error_code: str | None
    waiting_status: Waiting
    skipped: bool
    cancelled_at_share: float
    """When a cancelled job ends, as a fraction of the time from its creation to its planned start, 0 to 1."""
    message_id: str


def draw_fate(rng: Random, mix: Mix, script: Script) -> Fate:
    """Draws a fate from `rng`. Values in `script` replace the drawn ones, and never shift later draws."""
    final, failure_count, error_code = _outcome(rng, mix)
    waiting: Waiting = "queued" if rng.random() < 0.7 else "scheduled"
    skipped = rng.random() < mix.skipped
    cancelled_at_share = rng.uniform(0.1, 0.9)
    message_id = f"message_{rng.getrandbits(96):024x}"
    if script.final is not None:
        final = script.final
        failure_count = failure_count if final != "cancelled" else 0
    if script.attempt_failures is not None:
        failure_count = script.attempt_failures
    if final == "failed":
        error_code = script.error_code or error_code or FINAL_CODES[0]
    attempts = range(failure_count + 1)
    return Fate(
        final=final,
        failures=tuple(rng.choice(TRANSIENT_CODES) for _ in range(failure_count)),
        start_delays_seconds=tuple(_duration(rng, *_START_DELAY, script.start_delay_seconds) for _ in attempts),
        runs_seconds=tuple(_duration(rng, *_RUN, script.run_seconds) for _ in attempts),
        pauses_seconds=tuple(_pause(rng, script, index) for index in range(failure_count)),
        error_code=error_code if final == "failed" else None,
        waiting_status=script.waiting_status or waiting,
        skipped=skipped if script.skipped is None else script.skipped,
        cancelled_at_share=cancelled_at_share,
        message_id=message_id,
    )


def _outcome(rng: Random, mix: Mix) -> tuple[Final, int, str | None]:
    """The final status, the number of retried attempts, and the final error code."""
    most = len(RETRY_PAUSES_SECONDS)
    kind = rng.choices(range(4), weights=(mix.succeeded, mix.retried, mix.failed, mix.cancelled))[0]
    retries = min(most, rng.choices((1, 2, 3), weights=(70, 22, 8))[0])
    code = rng.choices(FINAL_CODES, weights=_FINAL_CODE_WEIGHTS)[0]
    after_a_retry = rng.random() < 0.2
    if kind == 0:
        return "succeeded", 0, None
    if kind == 1:
        return "succeeded", retries, None
    if kind == 3:
        return "cancelled", 0, None
    if code in TRANSIENT_CODES:  # such an error is final only after the last retry
        return "failed", most, code
    if code == "external_api_retry_enqueue_failed":  # the attempt failed, and queueing its retry failed too
        return "failed", 0, code
    return "failed", 1 if after_a_retry else 0, code


def _duration(rng: Random, median_seconds: float, sigma: float, fixed_seconds: float | None) -> float:
    """The fixed duration, else the lognormal draw."""
    drawn = rng.lognormvariate(math.log(median_seconds), sigma)
    return min(drawn if fixed_seconds is None else fixed_seconds, MAX_RUN_SECONDS)


def _pause(rng: Random, script: Script, index: int) -> float:
    drawn = RETRY_PAUSES_SECONDS[min(index, len(RETRY_PAUSES_SECONDS) - 1)] * rng.uniform(1.0, 1.2)
    return drawn if script.retry_pause_seconds is None else script.retry_pause_seconds
