"""Groups of jobs of the sandbox's own law, polled by a planner in simulated time, and what is forecast of them."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from relay.core.jobs.job import TERMINAL
from relay.core.planner import Planner, PlannerConfig, PlannerStatistics
from relay.core.planner.job_times import durations_from
from relay.core.planner.polls import read_item
from relay.core.planner.statistics import ALL_CLASSES, class_name
from relay.core.polling.group_forecast import (
    DurationsOf,
    EndedJob,
    ExpectedFinish,
    GroupWork,
    OpenJob,
    ReadJobs,
    expected_finish,
)
from relay.sandbox.lifecycle import Mix, Script, accepted_item
from relay.sandbox.world import World as Sandbox
from tests.support.scale import scaled

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from polling_workloads import World
from polling_world import simulate

BEGINNING = 1_800_000_000.0
CHANNELS = ("linkedin", "email", "whatsapp")
PROGRESS = (0.1, 0.5, 0.9)
HISTORY_JOBS = scaled(100, 600)
READ_ENDED = 200
REQUESTS_PER_JOB = 6.0
USUAL = Mix()
NO_TIME = Script(final="succeeded", attempt_failures=0, run_seconds=0.05, start_delay_seconds=0.05)
TROUBLED = Mix(succeeded=0.5, retried=0.4, failed=0.07, cancelled=0.03)


class SimulatedJob:
    """A job of the sandbox as the simulator knows jobs. `is_bare`: it is registered by its id alone."""

    lane = None
    attempts = ()

    def __init__(
        self,
        sandbox: Sandbox,
        channel: str,
        now: float,
        *,
        interval: float = 60.0,
        action: str = "outreach.dispatch",
        script: Script | None = None,
        is_bare: bool = False,
        in_group: bool = True,
        knows_interval: bool = True,
    ) -> None:
        self._sandbox, self.is_bare, self.in_group = sandbox, is_bare, in_group
        self._job = sandbox.create(
            account="acct", channel=channel, now=now, action=action, interval_seconds=interval, script=script
        )
        self.id, self.channel, self.action = self._job.id, channel, action
        self.created_at, self.finished_at = self._job.created_at, self._job.ended_at
        self.spacing = interval if knows_interval else None
        self.min_interval_seconds = interval if knows_interval else 60.0

    def item_at(self, at: float) -> dict[str, Any] | None:
        if at <= self.created_at:
            return None if self.is_bare else accepted_item(self._job)
        return self._sandbox.item_at(self._job, at)


@dataclass(kw_only=True)
class Group:
    """A group's jobs, and others of the same account; `expected`: how many its owner said would come."""

    jobs: list[SimulatedJob]
    expected: int | None = None

    @property
    def own(self) -> list[SimulatedJob]:
        return [job for job in self.jobs if job.in_group]


Kind = Callable[[Random, Sandbox], Group]
Rows = list[tuple[str, float, str]]
"""Name, number of events and values of each class, as the planner stores them."""


def random_interval(rng: Random) -> float:
    return rng.uniform(180.0, 360.0)


def three_channels(rng: Random, sandbox: Sandbox) -> Group:
    size = rng.randint(45, 120)
    wide = rng.random() < 0.5
    return Group(
        jobs=[
            SimulatedJob(sandbox, CHANNELS[n % 3], BEGINNING + n / 10, interval=random_interval(rng) if wide else 60.0)
            for n in range(size)
        ]
    )


def one_channel(rng: Random, sandbox: Sandbox) -> Group:
    size, knows = rng.randint(20, 80), rng.random() < 0.5
    return Group(
        jobs=[
            SimulatedJob(sandbox, "email", BEGINNING + n / 10, interval=random_interval(rng), knows_interval=knows)
            for n in range(size)
        ]
    )


def retries(rng: Random, sandbox: Sandbox) -> Group:
    return Group(jobs=[SimulatedJob(sandbox, CHANNELS[n % 2], BEGINNING + n / 10) for n in range(rng.randint(40, 100))])


def shared_lanes(rng: Random, sandbox: Sandbox) -> Group:
    size = rng.randint(40, 120)
    before = [
        SimulatedJob(sandbox, rng.choice(CHANNELS), BEGINNING + n / 10, in_group=False)
        for n in range(rng.randint(10, 60))
    ]
    at = before[-1].created_at
    return Group(
        jobs=[
            *before,
            *(
                SimulatedJob(sandbox, rng.choice(CHANNELS), at + n / 2, in_group=rng.random() < 0.6)
                for n in range(1, size)
            ),
        ]
    )


def no_schedule(rng: Random, sandbox: Sandbox) -> Group:
    script = Script(show_scheduled_at=False)
    return Group(
        jobs=[
            SimulatedJob(
                sandbox, "email", BEGINNING + n / 10, interval=random_interval(rng), script=script, knows_interval=False
            )
            for n in range(rng.randint(50, 100))
        ]
    )


def by_id_alone(rng: Random, sandbox: Sandbox) -> Group:
    return Group(
        jobs=[
            SimulatedJob(
                sandbox, CHANNELS[n % 3], BEGINNING + n / 10, interval=60.0, is_bare=True, knows_interval=False
            )
            for n in range(rng.randint(60, 120))
        ]
    )


def in_no_time(rng: Random, sandbox: Sandbox) -> Group:
    return Group(
        jobs=[
            SimulatedJob(sandbox, CHANNELS[n % 3], BEGINNING + n / 10, script=NO_TIME)
            for n in range(rng.randint(40, 100))
        ],
    )


def straggler(rng: Random, sandbox: Sandbox) -> Group:
    group = one_channel(rng, sandbox)
    script = Script(final="succeeded", attempt_failures=0, run_seconds=rng.lognormvariate(8.0, 1.0))
    group.jobs.append(SimulatedJob(sandbox, "linkedin", group.jobs[-1].created_at, script=script))
    return group


def still_coming(rng: Random, sandbox: Sandbox) -> Group:
    """Created over as much time as they take."""
    size = rng.randint(60, 120)
    jobs = [
        SimulatedJob(sandbox, CHANNELS[n % 3], BEGINNING + n * 15.0 + rng.uniform(0, 5), interval=60.0)
        for n in range(size)
    ]
    return Group(jobs=jobs, expected=size)


KINDS: dict[str, tuple[Kind, Mix]] = {
    "three channels": (three_channels, USUAL),
    "one channel": (one_channel, USUAL),
    "retries": (retries, TROUBLED),
    "shared lanes": (shared_lanes, USUAL),
    "no schedule": (no_schedule, USUAL),
    "by id alone": (by_id_alone, USUAL),
    "in no time": (in_no_time, USUAL),
    "straggler": (straggler, USUAL),
    "still coming": (still_coming, USUAL),
}


@dataclass
class Stated:
    """What was said at one progress, and when the group truly finished."""

    kind: str
    progress: float
    now: float
    true: float
    finish: ExpectedFinish | str

    @property
    def is_within(self) -> bool:
        assert isinstance(self.finish, ExpectedFinish)
        return self.finish.p10 <= max(self.true, self.now) <= self.finish.p90


@dataclass
class Watched:
    """A planner, and what is forecast of a group at each progress."""

    planner: Planner
    group: Group
    durations_of: DurationsOf
    stated: list[tuple[float, float, ExpectedFinish | str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._by_id = {job.id: job for job in self.group.jobs}
        self._open: dict[str, tuple[float, float, Any]] = {}
        self._ended: list[EndedJob] = []
        self._came: list[float] = []
        self._left = list(PROGRESS)

    def track(self, job_id: str, item: Any, now: float, *rest: Any) -> None:
        self._open[job_id] = (now, now, item)
        if self._by_id[job_id].in_group:
            self._came.append(now)
        self.planner.track(job_id, item, now, *rest)

    def observed(self, job_id: str, item: Any, headers: Any, sent_at: float, now: float) -> None:
        self.planner.observed(job_id, item, headers, sent_at, now)
        if job_id not in self._open:
            return
        self._open[job_id] = (self._open[job_id][0], (sent_at + now) / 2, item)
        if item["status"] not in TERMINAL:
            return
        del self._open[job_id]
        job = self._by_id[job_id]
        reading = read_item(item)
        self._ended.append(EndedJob(job.channel or None, reading.started_at, now, job.in_group))
        done = sum(each.in_group for each in self._ended) / len(self.group.own)
        while job.in_group and self._left and done >= self._left[0]:
            self.stated.append((self._left.pop(0), now, expected_finish(self.work(), self.durations_of, now)))

    def work(self) -> GroupWork:
        own: dict[str | None, list[OpenJob]] = {}
        others = []
        for job_id, (tracked_at, seen_at, item) in self._open.items():
            job = self._by_id[job_id]
            open_job = _open_job(job, tracked_at, seen_at, item)
            if job.in_group:
                own.setdefault(open_job.channel, []).append(open_job)
            else:
                others.append(open_job)
        return GroupWork(
            jobs=[ReadJobs(channel=channel, first=tuple(jobs)) for channel, jobs in own.items()],
            open_count=sum(map(len, own.values())),
            others=others,
            ended=self._ended[-READ_ENDED:],
            missing=0 if self.group.expected is None else self.group.expected - len(self._came),
            first_at=self._came[0],
            last_at=self._came[-1],
            came_count=len(self._came),
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.planner, name)


def _open_job(job: SimulatedJob, tracked_at: float, seen_at: float, item: Any) -> OpenJob:
    reading = read_item(item)
    return OpenJob(
        status=None if item is None else item["status"],
        action=reading.action or None,
        channel=reading.channel or None,
        scheduled_at=reading.scheduled_at,
        started_at=reading.started_at,
        next_attempt_at=reading.next_attempt_at,
        spacing_seconds=job.spacing,
        tracked_at=tracked_at,
        seen_at=seen_at,
    )


def _planner(world: World, statistics: PlannerStatistics) -> Planner:
    rate = world.requests_per_second(REQUESTS_PER_JOB, arrivals=False)
    return Planner(PlannerConfig(max_requests_per_second=rate, seed=1), statistics=statistics)


def learned(kind: str, seed: int = 0) -> Rows:
    """What the planner stores of earlier jobs of the kind's world: three channels, sent over some hours."""
    mix, script = KINDS[kind][1], NO_TIME if kind == "in no time" else None
    sandbox, rng = Sandbox(seed=seed, mix=mix), Random(f"{seed}:earlier")
    at, jobs = BEGINNING, []
    for number in range(HISTORY_JOBS):
        at += rng.expovariate(1 / 25)
        jobs.append(SimulatedJob(sandbox, CHANNELS[number % 3], at, script=script))
    statistics, world = PlannerStatistics(1.0), World("earlier", tuple(jobs))  # type: ignore[arg-type]
    simulate(world, _planner(world, statistics), seed=seed)
    return statistics.unsaved_rows()


def _loaded(rows: Rows) -> PlannerStatistics:
    statistics = PlannerStatistics(1.0)
    for name, _, values in sorted(rows):
        statistics.load_row(name, values)
    return statistics


def durations_of_rows(rows: Rows) -> DurationsOf:
    """The durations of each class, from the rows that the planner stores."""
    stored = {name: values for name, _, values in rows}

    def durations_of(action: str, channel: str) -> Sequence[float]:
        own = stored.get(class_name(action, channel), "")
        found = durations_from(stored[ALL_CLASSES], own, action, channel)
        assert found is not None
        return found

    return durations_of


def statements(kind: str, seeds: range, rows: Rows) -> Iterator[Stated]:
    """What is said of groups of a kind at each progress."""
    make, mix = KINDS[kind]
    statistics = _loaded(rows)  # polling goes on to learn; the forecasts know the rows alone
    durations_of = durations_of_rows(rows)
    for seed in seeds:
        rng = Random(f"{kind}:{seed}:group")
        group = make(rng, Sandbox(seed=rng.getrandbits(32), mix=mix))
        world = World(kind, tuple(group.jobs))  # type: ignore[arg-type]
        watched = Watched(_planner(world, statistics), group, durations_of)
        simulate(world, watched, seed=seed)
        true = max(job.finished_at for job in group.own)
        for progress, now, finish in watched.stated:
            yield Stated(kind, progress, now, true, finish)
