"""Progress that an upstream reports of a job, as evidence of when it ends: a pure decision, times in seconds.

The estimate is linear: what is left shrinks at the pace between the last two readings. How wrong it was is measured at
each later reading and at the end. The more wrong, the less it counts beside what was learned of the job's class.
"""

from __future__ import annotations

import math
from typing import NamedTuple

WHOLE = 100.0
"""What is left of a run at its start: percent."""
USELESS_ERROR = 0.5
"""From this error on an estimate does not count; a class begins with it. Standing still, going back and staying at
100 % are an error of 1."""
CLASS_MEMORY = 20.0
"""Readings that the error of a class is averaged over."""
LEAST_SHARE = 0.25
"""Share of the estimated time before which a reading changes nothing: small steps tell no pace."""


class Hint(NamedTuple):
    """One reading of a job's progress.

    left     percent of the run that are left; of a waiting job, its place in the queue
    at       when it was read
    ends_at  when nothing is left at this pace; infinite without a pace
    error    mean error of the job's estimates, as a share of the estimated time
    running  the job ran: places in a queue and percent of a run are not compared
    """

    left: float
    at: float
    ends_at: float
    error: float
    running: bool

    def read(self, left: float, at: float, slack: float) -> tuple[Hint, float | None]:
        """The estimate with a later reading, and how wrong this one was, from 0 to 1; None if that is unknown.
        `slack`: the error in seconds that counts as none."""
        passed, estimated = at - self.at, self.ends_at - self.at
        if passed <= 0 or passed < LEAST_SHARE * estimated < math.inf:
            return self, None
        moved, error = self.left - left, None
        if estimated < math.inf:
            expected = self.left * min(passed / estimated, 1.0) if estimated > 0 else 0.0
            error = _error((moved - expected) / expected * passed, passed, slack) if expected > 0 else 1.0
        kept = self.error if error is None else (self.error + error) / 2
        return Hint(left, at, _ends_at(left, at, moved, passed), kept, self.running), error

    def error_of_end(self, ended_at: float, slack: float) -> float | None:
        """How wrong the estimate was for a job that has ended, from 0 to 1; None if there was none."""
        estimated = self.ends_at - self.at
        return _error(ended_at - self.ends_at, estimated, slack) if 0 < estimated < math.inf else None

    def next_poll(self, learned: float, latest: float, seen: float, price: float) -> float:
        """Time of the next poll of a job last polled at `seen`, where the learned distribution alone says `learned`;
        at most `latest`.

        `price`: seconds of delay that a poll must save. If the doubt is more, a poll before the estimated end pays: it
        leaves less of it. Otherwise one after it finds the job ended.
        """
        weight = 1 - self.error / USELESS_ERROR
        if weight <= 0 or self.ends_at == math.inf:
            return learned
        doubt = self.error * (self.ends_at - self.at)
        expected = min(self.ends_at + (doubt if doubt <= price else -doubt), latest)
        if min(expected, learned) <= seen:
            return learned
        return seen + (learned - seen) * math.pow((expected - seen) / (learned - seen), weight)


def first(left: float, at: float, started: float, error: float, *, running: bool) -> Hint:
    """The first reading of a job. A run's pace is that since its start; `error`: that of its class."""
    ends_at = _ends_at(left, at, WHOLE - left, at - started) if running else math.inf
    return Hint(left, at, ends_at, error, running)


def _ends_at(left: float, at: float, moved: float, passed: float) -> float:
    return at + left * passed / moved if moved > 0 and passed > 0 else math.inf


def _error(seconds: float, estimated: float, slack: float) -> float:
    return min(max(abs(seconds) - slack, 0.0) / estimated, 1.0)
