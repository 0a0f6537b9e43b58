"""The statistics of a source's jobs, learned from polls, per class: an action and a channel, across all accounts.

Each class has a hazard of runs, and for each kind of anchor a hazard of starts. Plans use a `ClassPolicy`, built from
these hazards. A new policy is built one table at a time, between decisions, and replaces the old one when complete.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from relay.core.planner.hazard import Hazard, exploration, lomax
from relay.core.planner.hints import CLASS_MEMORY, USELESS_ERROR
from relay.core.planner.inspection import KINDS, RUN, ClassPolicy

MAX_ATTEMPTS = 8
"""Later attempts count as this one."""
MAX_PAUSES = 32
"""Number of pauses kept per attempt number, the latest ones."""
MEMORY_ATTEMPTS = 800
PSEUDO_ATTEMPTS = 50.0
"""Weight of all classes in the estimate of one; `ROOT_PSEUDO_ATTEMPTS`: of the prior in that of all classes."""
ROOT_PSEUDO_ATTEMPTS = 2.0
PRIOR = 0.02
"""Share of attempts that are retried, before any has ended."""
LARGEST = 1e9


class Retries:
    """Attempts that ended and those among them that were retried, by number, with exponential forgetting. Pauses are in
    units."""

    __slots__ = ("_ended", "_pauses", "_retried")

    def __init__(self) -> None:
        self._ended = [0.0] * MAX_ATTEMPTS
        self._retried = [0.0] * MAX_ATTEMPTS
        self._pauses: list[list[float]] = [[] for _ in range(MAX_ATTEMPTS)]

    def record_end(self, attempts: int) -> None:
        """Records a job that ended with this attempt: all earlier ones were retried."""
        kept = 1 - 1 / MEMORY_ATTEMPTS
        last = min(attempts, MAX_ATTEMPTS) - 1
        for at in range(last + 1):
            self._ended[at] = self._ended[at] * kept + 1
            self._retried[at] = self._retried[at] * kept + (at < last)

    def record_pause(self, attempt: int, units: float) -> None:
        """Records the pause after a failed attempt (1 is the first)."""
        pauses = self._pauses[min(max(attempt, 1), MAX_ATTEMPTS) - 1]
        pauses.append(units)
        del pauses[:-MAX_PAUSES]

    def chance(self, attempt: int, parent: Retries | None) -> float:
        """Probability that an attempt is retried, with the parent's as the prior. 0 after the last attempt known."""
        if attempt >= MAX_ATTEMPTS:
            return 0.0
        at = max(attempt, 1) - 1
        if parent is None:
            return (self._retried[at] + ROOT_PSEUDO_ATTEMPTS * PRIOR) / (self._ended[at] + ROOT_PSEUDO_ATTEMPTS)
        before = parent.chance(attempt, None)
        return (self._retried[at] + PSEUDO_ATTEMPTS * before) / (self._ended[at] + PSEUDO_ATTEMPTS)

    def pauses(self, attempt: int, parent: Retries | None) -> Sequence[float]:
        """Pauses seen after an attempt of this number, by the class or all classes; else after an earlier one."""
        for at in range(min(max(attempt, 1), MAX_ATTEMPTS) - 1, -1, -1):
            found = self._pauses[at] or (() if parent is None else parent._pauses[at])
            if found:
                return found
        return ()

    def dump(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {"ended": self._ended, "retried": self._retried, "pauses": self._pauses}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Loads the values of `dump`. Raises ValueError, TypeError or KeyError for others."""
        ended, retried = ([float(count) for count in saved[name]] for name in ("ended", "retried"))
        pauses = [[float(units) for units in each] for each in saved["pauses"]]
        if not len(ended) == len(retried) == len(pauses) == MAX_ATTEMPTS or max(map(len, pauses)) > MAX_PAUSES:
            raise ValueError("the retries of another version")
        numbers = (*ended, *retried, *(units for each in pauses for units in each))
        if not all(math.isfinite(number) and 0 <= number <= LARGEST for number in numbers):
            raise ValueError("counts and pauses must be finite and not negative")
        if any(some > every for some, every in zip(retried, ended, strict=True)):
            raise ValueError("more attempts were retried than ended")
        self._ended, self._retried, self._pauses = ended, retried, pauses


_SCALES = (2.0, 60.0, 4.0, 10.0, 4.0, 2.0, 10.0)
"""Prior scale in units: time from each kind of anchor to the start, and duration of a run."""
PRIORS = tuple(lomax(scale) for scale in _SCALES)
LEAN_EVENTS = 50
"""With fewer events a class uses the hazard of all classes as its prior."""
LEARNED_EVENTS = 20
"""With fewer events an expected delay is a guess and is not shown."""
GREW = 0.25
LEAST_EVENTS = 2
POLLS_A_REFIT = 200
PSEUDO_CHANGES = 0.01
PSEUDO_WAITED = 1e5
MEMORY_CHANGES = 100
MAX_CLASSES = 1_000
MAX_NAME = 200
OTHER = ("", "")
ALL_CLASSES = "*"
"""Name of the statistics of all classes together."""


def class_name(action: str, channel: str) -> str:
    """The name under which a class is stored."""
    return json.dumps((action[:MAX_NAME], channel[:MAX_NAME]), ensure_ascii=False, separators=(",", ":"))


class ClassStatistics:
    """Statistics of one job class, and the policy that plans use."""

    __slots__ = (
        *("changes", "hazards", "hint_error", "key", "next_policy", "parent", "policy", "queued", "retries"),
        *("unsaved", "waited"),
    )

    def __init__(self, key: tuple[str, str], parent: ClassStatistics | None) -> None:
        self.key = key
        self.parent = parent
        self.hazards: list[Hazard | None] = [None] * len(KINDS)
        self.policy = self.new_policy()
        self.next_policy: tuple[ClassPolicy, list[tuple[int, int]]] | None = None
        self.queued = False
        self.unsaved = False
        self.retries = Retries()
        self.changes = 0.0
        """Jobs cancelled, or rescheduled to an earlier time, while they waited."""
        self.hint_error = USELESS_ERROR
        """Mean error of what progress told of the ends of its jobs; not kept over a restart."""
        self.waited = 0.0
        """Total waiting time, in units."""

    @property
    def name(self) -> str:
        """The name it is stored under."""
        return ALL_CLASSES if self.parent is None else class_name(*self.key)

    @property
    def change_rate(self) -> float:
        """Rate of such changes per unit of waiting time, with all classes as the prior."""
        before = PSEUDO_CHANGES / PSEUDO_WAITED if self.parent is None else self.parent.change_rate
        return (self.changes + before * PSEUDO_WAITED) / (self.waited + PSEUDO_WAITED)

    def hazard(self, kind: int) -> Hazard:
        """The hazard of one kind."""
        found = self.hazards[kind]
        if found is None:
            found = self.hazards[kind] = Hazard()
        return found

    def is_learned(self, kind: int) -> bool:
        """True if this kind of wait and the runs have enough events for their tables to be meaningful."""
        found = [self.hazards[each] for each in (kind, RUN)]
        return all(hazard is not None and hazard.count >= LEARNED_EVENTS for hazard in found)

    def fitted_rates(self) -> list[tuple[float, ...]]:
        """The current hazards, per kind and bin."""
        return [
            (PRIORS[kind] if self.parent is None else self.parent.policy.rates(kind))
            if hazard is None
            else hazard.rates(
                PRIORS[kind] if self.parent is None or hazard.count >= LEAN_EVENTS else self.parent.policy.rates(kind)
            )
            for kind, hazard in enumerate(self.hazards)
        ]

    def new_policy(self) -> ClassPolicy:
        """An policy of what is known now, without tables yet."""
        run = self.hazards[RUN]
        if self.parent is None or run is None:
            return ClassPolicy(self.fitted_rates())
        return ClassPolicy(self.fitted_rates(), exploration(PRIORS[RUN], run.passed(), run.count))

    def needs_refit(self, hazard: Hazard) -> bool:
        """True if a hazard has enough new data for a new policy."""
        enough = max(LEAST_EVENTS, GREW * (hazard.effective_count - hazard.since))
        idle_polls = max(POLLS_A_REFIT, 2 * hazard.effective_count)
        return hazard.since >= enough or hazard.polls_since - hazard.since >= idle_polls

    def record_hint(self, error: float | None) -> None:
        """Records how wrong progress was, from 0 to 1; None if that is unknown."""
        if error is not None:
            self.hint_error += (error - self.hint_error) / CLASS_MEMORY

    def dump(self) -> dict[str, Any]:
        """The statistics as JSON values."""
        hazards = {KINDS[kind]: hazard.dump() for kind, hazard in enumerate(self.hazards) if hazard is not None}
        return {
            **{"hazards": hazards, "changes": self.changes, "waited": self.waited},
            "retries": self.retries.dump(),
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Loads the values of `dump`. Raises ValueError, TypeError, KeyError or AttributeError for others."""
        changes, waited = float(saved["changes"]), float(saved["waited"])
        if not (0 <= changes < math.inf and 0 <= waited < math.inf):
            raise ValueError("counts and waiting times must not be negative")
        hazards = list(self.hazards)
        for name, values in saved["hazards"].items():
            hazard = hazards[KINDS.index(name)] = Hazard()
            hazard.load(values)
        retries = Retries()
        if "retries" in saved:  # older versions lack it
            retries.load(saved["retries"])
        self.changes, self.waited, self.hazards, self.retries = changes, waited, hazards, retries


class PlannerStatistics:
    """Statistics of one source, shared by the planners of its accounts. Ages are passed in seconds.

    `unit` is the internal unit of time in seconds: the shortest time that counts.
    """

    def __init__(self, unit: float) -> None:
        self.unit = unit
        self.root = ClassStatistics(OTHER, None)
        self._classes: dict[tuple[str, str], ClassStatistics] = {}
        self._grown: deque[ClassStatistics] = deque()

    def __iter__(self) -> Iterator[ClassStatistics]:
        return iter(self._classes.values())

    def of_class(self, action: str, channel: str) -> ClassStatistics:
        """The class of an action and a channel."""
        key = (action[:MAX_NAME], channel[:MAX_NAME])
        found = self._classes.get(key)
        if found is None:
            if len(self._classes) >= MAX_CLASSES:
                key = OTHER
            found = self._classes.setdefault(key, ClassStatistics(key, self.root))
        return found

    def record_survival(self, job_class: ClassStatistics, kind: int, since: float, age: float) -> None:
        """Records time at risk without an event, between two ages."""
        if age <= since:
            return
        since, age = max(since, 0.0) / self.unit, age / self.unit
        for each in (job_class, self.root):
            hazard = each.hazard(kind)
            hazard.record_survival(since, age)
            self._learned(each, hazard)

    def record_event(self, job_class: ClassStatistics, kind: int, since: float, age: float) -> None:
        """Records an event at `age` that had not happened at age `since`."""
        age = max(age, 0.0) / self.unit
        since = min(max(since, 0.0) / self.unit, age)
        for each in (job_class, self.root):
            hazard = each.hazard(kind)
            hazard.record_event(since, age)
            self._learned(each, hazard)

    def record_wait(self, job_class: ClassStatistics, seconds: float, *, changed: bool) -> None:
        """Records waiting time since the last poll. `changed`: the job was cancelled or rescheduled in that time."""
        for each in (job_class, self.root):
            each.waited += max(seconds, 0.0) / self.unit
            each.unsaved = True
            if changed:
                kept = 1 - 1 / MEMORY_CHANGES
                each.changes = each.changes * kept + 1
                each.waited *= kept

    def record_event_between(self, job_class: ClassStatistics, kind: int, since: float, age: float) -> None:
        """Records an event at an unknown age between two."""
        age = max(age, 0.0) / self.unit
        since = min(max(since, 0.0) / self.unit, age)
        for each in (job_class, self.root):
            hazard = each.hazard(kind)
            hazard.record_event_between(since, age, each.policy.rates(kind))
            self._learned(each, hazard)

    def record_attempts(self, job_class: ClassStatistics, attempts: int) -> None:
        """Records the number of attempts of a job that ended."""
        for each in (job_class, self.root):
            each.retries.record_end(attempts)

    def record_pause(self, job_class: ClassStatistics, attempt: int, seconds: float) -> None:
        """Records the pause after a failed attempt."""
        for each in (job_class, self.root):
            each.retries.record_pause(attempt, max(seconds, 0.0) / self.unit)

    def refit_step(self) -> bool:
        """Does one step of building new policies: the hazards, or one table. Returns False if there is none to do.

        Call between decisions: a step takes 1 to 3 ms.
        """
        if not self._grown:
            return False
        first = self._grown[0]
        if first.next_policy is None:
            first.next_policy = first.new_policy(), sorted(first.policy.used, key=lambda each: -each[0])
            return True
        policy, wanted = first.next_policy
        if wanted:
            policy.build(*wanted.pop(0))
            return True
        first.policy, first.next_policy = policy, None
        first.queued = False
        self._grown.popleft()
        return True

    def _learned(self, job_class: ClassStatistics, hazard: Hazard) -> None:
        job_class.unsaved = True
        if not job_class.queued and job_class.needs_refit(hazard):
            job_class.queued = True
            self._grown.append(job_class)

    # --- kept over a restart

    def unsaved_rows(self) -> list[tuple[str, float, str]]:
        """Name, event count and JSON values of each class that has changed since the last call."""
        found = []
        for each in (self.root, *self._classes.values()):
            if each.unsaved:
                each.unsaved = False
                count = sum(hazard.count for hazard in each.hazards if hazard is not None)
                found.append((each.name, count, json.dumps({"unit": self.unit, **each.dump()})))
        return found

    def load_row(self, name: str, values: str) -> None:
        """Loads one row of `unsaved_rows`. A malformed row is ignored."""
        try:
            saved = json.loads(values)
            if saved["unit"] != self.unit:
                return
            job_class = self.named(name)
            job_class.load(saved)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            return
        job_class.policy = job_class.new_policy()

    def named(self, name: str) -> ClassStatistics:
        """The class stored under a name. Raises ValueError or TypeError for an invalid name."""
        if name == self.root.name:
            return self.root
        action, channel = json.loads(name)
        if not isinstance(action, str) or not isinstance(channel, str):
            raise ValueError("a class name is an action and a channel")
        return self.of_class(action, channel)
