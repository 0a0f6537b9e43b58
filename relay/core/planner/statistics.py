"""What was learned of a source's jobs, by class: the jobs of one action and channel, whatever their account.

Each class has the hazard of its runs, and for each kind of anchor the hazard of the start after it. Plans are made
from a policy: hazards as they were at one moment, and the tables computed from those. A new policy is computed a
table at a time, between decisions, and replaces the old one when it is complete.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator
from typing import Any

from relay.core.planner.hazard import Hazard, exploration, lomax
from relay.core.planner.policy import KINDS, RUN, ClassPolicy

_SCALES = (2.0, 60.0, 4.0, 10.0, 4.0, 2.0, 10.0)
"""The order of magnitude of the time from each kind of anchor to the start, and of a run, before any was seen."""
PRIORS = tuple(lomax(scale) for scale in _SCALES)
LEAN_EVENTS = 50
"""A class with fewer events leans on what is known of all classes together."""
LEARNED_EVENTS = 20
"""With fewer, what is expected of a class is a guess, and not stated."""
GREW = 0.25
LEAST_EVENTS = 2
POLLS_A_REFIT = 200
PSEUDO_CHANGES = 0.01
PSEUDO_WAITED = 1e5
MEMORY_CHANGES = 100
MAX_CLASSES = 1_000
MAX_NAME = 200
OTHER = ("", "")


class ClassStatistics:
    """What was learned of the jobs of one class, and the policy that plans are made from."""

    __slots__ = ("changes", "hazards", "key", "next_policy", "parent", "policy", "queued", "unsaved", "waited")

    def __init__(self, key: tuple[str, str], parent: ClassStatistics | None) -> None:
        self.key = key
        self.parent = parent
        self.hazards: list[Hazard | None] = [None] * len(KINDS)
        self.policy = self.new_policy()
        self.next_policy: tuple[ClassPolicy, list[tuple[int, int]]] | None = None
        self.queued = False
        self.unsaved = False
        self.changes = 0.0
        """Jobs that were cancelled, or moved forward, while they waited."""
        self.waited = 0.0
        """Time in which that could have happened."""

    @property
    def change_rate(self) -> float:
        """How often a waiting job is cancelled or moved, per unit of time; it leans on all classes together."""
        before = PSEUDO_CHANGES / PSEUDO_WAITED if self.parent is None else self.parent.change_rate
        return (self.changes + before * PSEUDO_WAITED) / (self.waited + PSEUDO_WAITED)

    def hazard(self, kind: int) -> Hazard:
        """The hazard of one kind."""
        found = self.hazards[kind]
        if found is None:
            found = self.hazards[kind] = Hazard()
        return found

    def is_learned(self, kind: int) -> bool:
        """Whether enough was seen of this kind of wait, and of runs, for its tables to be more than a guess."""
        found = [self.hazards[each] for each in (kind, RUN)]
        return all(hazard is not None and hazard.count >= LEARNED_EVENTS for hazard in found)

    def fitted_rates(self) -> list[tuple[float, ...]]:
        """The hazards as they are now."""
        return [
            (PRIORS[kind] if self.parent is None else self.parent.policy.rates(kind))
            if hazard is None
            else hazard.rates(self._prior(kind, hazard))
            for kind, hazard in enumerate(self.hazards)
        ]

    def new_policy(self) -> ClassPolicy:
        """An policy of what is known now, without tables yet."""
        run = self.hazards[RUN]
        if self.parent is None or run is None:
            return ClassPolicy(self.fitted_rates())
        return ClassPolicy(self.fitted_rates(), exploration(PRIORS[RUN], run.passed(), run.count))

    def _prior(self, kind: int, hazard: Hazard) -> tuple[float, ...]:
        if self.parent is None or hazard.count >= LEAN_EVENTS:
            return PRIORS[kind]
        return self.parent.policy.rates(kind)

    def needs_refit(self, hazard: Hazard) -> bool:
        """Whether a hazard has learned enough since its last policy for a new one."""
        enough = max(LEAST_EVENTS, GREW * (hazard.effective_count - hazard.since))
        idle_polls = max(POLLS_A_REFIT, 2 * hazard.effective_count)
        return hazard.since >= enough or hazard.polls_since - hazard.since >= idle_polls


class PlannerStatistics:
    """All classes of one source. Ages that it is told are seconds; `unit` is the shortest time that counts."""

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
        """Nothing happened between two ages, in seconds."""
        if age <= since:
            return
        since, age = max(since, 0.0) / self.unit, age / self.unit
        for each in (job_class, self.root):
            hazard = each.hazard(kind)
            hazard.record_survival(since, age)
            self._learned(each, hazard)

    def record_event(self, job_class: ClassStatistics, kind: int, since: float, age: float) -> None:
        """It happened at an age and had not at another, in seconds."""
        age = max(age, 0.0) / self.unit
        since = min(max(since, 0.0) / self.unit, age)
        for each in (job_class, self.root):
            hazard = each.hazard(kind)
            hazard.record_event(since, age)
            self._learned(each, hazard)

    def record_wait(self, job_class: ClassStatistics, seconds: float, *, changed: bool) -> None:
        """A job waited so long since its last look, and was cancelled or moved forward in that time, or not."""
        for each in (job_class, self.root):
            each.waited += max(seconds, 0.0) / self.unit
            each.unsaved = True
            if changed:
                kept = 1 - 1 / MEMORY_CHANGES
                each.changes = each.changes * kept + 1
                each.waited *= kept

    def record_event_between(self, job_class: ClassStatistics, kind: int, since: float, age: float) -> None:
        """It happened at some age between two, in seconds."""
        age = max(age, 0.0) / self.unit
        since = min(max(since, 0.0) / self.unit, age)
        for each in (job_class, self.root):
            hazard = each.hazard(kind)
            hazard.record_event_between(since, age, each.policy.rates(kind))
            self._learned(each, hazard)

    def refit_step(self) -> bool:
        """Does one piece of what is to be done between decisions; returns whether there was any.

        A class that has learned much gets a new policy: first its hazards, then one table a call.
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

    def queue_refit_if_due(self, job_class: ClassStatistics) -> None:
        """Gives the class a new policy when it has learned enough for one."""
        for hazard in job_class.hazards:
            if hazard is not None:
                self._learned(job_class, hazard)

    def _learned(self, job_class: ClassStatistics, hazard: Hazard) -> None:
        job_class.unsaved = True
        if not job_class.queued and job_class.needs_refit(hazard):
            job_class.queued = True
            self._grown.append(job_class)

    # --- kept over a restart

    def unsaved_rows(self) -> list[tuple[str, float, str]]:
        """Name, number of events and values (JSON) of each class that has learned since the last call."""
        found = []
        for each in (self.root, *self._classes.values()):
            if each.unsaved:
                each.unsaved = False
                count = sum(hazard.count for hazard in each.hazards if hazard is not None)
                found.append(
                    (
                        name_of(each.key, root=each is self.root),
                        count,
                        json.dumps({"unit": self.unit, **dump_class(each)}),
                    )
                )
        return found

    def load_row(self, name: str, values: str) -> None:
        """Takes back what `changed` gave; what can not be read is left out."""
        try:
            saved = json.loads(values)
            key = key_of(name)
            if saved["unit"] != self.unit:
                return
            job_class = self.root if key is None else self.of_class(*key)
            load_class(job_class, saved)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            return
        job_class.policy = job_class.new_policy()


def name_of(key: tuple[str, str], *, root: bool) -> str:
    """A class's name as text."""
    return "*" if root else json.dumps(key, ensure_ascii=False, separators=(",", ":"))


def key_of(name: str) -> tuple[str, str] | None:
    """The class that a name stands for; None: that of all together. Raises ValueError for what is no name."""
    if name == "*":
        return None
    action, channel = json.loads(name)
    if not isinstance(action, str) or not isinstance(channel, str):
        raise ValueError("a class is named by its action and channel")
    return action, channel


def dump_class(job_class: ClassStatistics) -> dict[str, Any]:
    """What the class learned, as plain values."""
    hazards = {KINDS[kind]: hazard.dump() for kind, hazard in enumerate(job_class.hazards) if hazard is not None}
    return {"hazards": hazards, "changes": job_class.changes, "waited": job_class.waited}


def load_class(job_class: ClassStatistics, saved: dict[str, Any]) -> None:
    """Takes back what `dump_class` gave. Raises ValueError and the like for anything else."""
    found = []
    changes, waited = float(saved["changes"]), float(saved["waited"])
    if not (0 <= changes < math.inf and 0 <= waited < math.inf):
        raise ValueError("counts and times at risk are not negative")
    for name, values in saved["hazards"].items():
        hazard = Hazard()
        hazard.load(values)
        found.append((KINDS.index(name), hazard))
    job_class.changes, job_class.waited = changes, waited
    for kind, hazard in found:
        job_class.hazards[kind] = hazard
