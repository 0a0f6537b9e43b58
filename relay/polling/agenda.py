"""Agenda of one account: its open jobs in the planner, their weights, and loading them from the store."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from relay.clock import Clock
from relay.core.jobs.job import NORMAL_WEIGHT, Job, PlannedJob
from relay.core.planner import Planner, PlannerConfig, PlannerStatistics

if TYPE_CHECKING:
    from relay.store.jobs.jobs import JobStore

LOAD_COUNT = 5_000
PLANNED_AT_ONCE = 200


class Agenda:
    """The account's open jobs and when each is polled next. `reschedule` is called when a poll may be due earlier."""

    def __init__(
        self,
        source: str,
        account: str,
        *,
        jobs: "JobStore",
        clock: Clock,
        planner_config: PlannerConfig,
        statistics: PlannerStatistics | None,
        reschedule: Callable[[], None],
    ) -> None:
        self.planner = Planner(planner_config, statistics)
        self.own_next: set[str] = set()
        """Jobs whose borrowed poll showed nothing: the relay makes the next one, so callers cannot prevent polling."""
        self.loading = False
        """True while open jobs are loaded from the store."""
        self._source = source
        self._account = account
        self._jobs = jobs
        self._clock = clock
        self._planner_config = planner_config
        self._statistics = statistics
        self._reschedule = reschedule
        self._weights = Weights()

    def clear(self) -> None:
        """Forgets all jobs."""
        self._weights.forget_all()
        self.own_next.clear()
        self.planner = Planner(self._planner_config, self._statistics)

    def configure(self, planner_config: PlannerConfig) -> None:
        """Applies reloaded settings."""
        self._planner_config = planner_config
        self.planner = self.planner.reconfigured(planner_config)

    async def load(self) -> int:
        """Plans the open jobs in the store while others are registered. Returns their number."""
        self.loading = True
        count, reading = 0, self._read_after("")
        try:
            while jobs := await reading:
                reading = self._read_after(jobs[-1].uid)  # read the next page while this one is planned
                for number, job in enumerate(jobs):
                    if not self.planner.tracks(job.uid):  # it may have been registered meanwhile
                        self._plan(job)
                    if number % PLANNED_AT_ONCE == 0:
                        await asyncio.sleep(0)  # a million jobs must not block the API
                count += len(jobs)
        finally:
            reading.cancel()
            self.loading = False
            self._reschedule()
        return count

    def _read_after(self, uid: str) -> asyncio.Task[list[PlannedJob]]:
        page = self._jobs.open_jobs(self._source, self._account, after_uid=uid, count=LOAD_COUNT)
        return asyncio.get_running_loop().create_task(page)

    def track(self, job: Job | PlannedJob) -> None:
        """Plans an open job. If it is already planned, only its weight can have changed."""
        if self.planner.tracks(job.uid):
            self.set_weight(job.uid, job.weight)
        else:
            self._plan(job)
            self._reschedule()

    def _plan(self, job: Job | PlannedJob) -> None:
        self._weights.set_own(job.uid, job.weight)
        # Scale of the upstream's durations: 1, or less in an accelerated simulation.
        time_scale = min(1.0, self._planner_config.min_interval_seconds)
        self.planner.track(
            job.uid,
            job.item(),
            self._clock(),
            weight=self._weights.effective(job.uid),
            min_interval_seconds=None if job.spacing_seconds is None else job.spacing_seconds * time_scale,
            next_poll_at=job.next_poll_at,
            step=job.poll_step,
            seen_at=job.seen_at,
        )

    def forget(self, uid: str) -> None:
        """Stops polling the job."""
        self.own_next.discard(uid)
        self._weights.forget(uid)
        self.planner.forget(uid)

    def refresh(self, uid: str) -> None:
        """Makes the job due now."""
        now = self._clock()
        self.planner.track(uid, None, now, weight=self._weights.effective(uid), next_poll_at=now)
        self._reschedule()

    def poll_again(self, uid: str) -> None:
        """Makes the job due now, if it is planned here and no poll is in flight."""
        if self.planner.next_poll_at(uid) is not None:
            self.refresh(uid)

    def own_weight(self, uid: str) -> float:
        """The job's own weight, without waiting clients."""
        return self._weights.own(uid)

    def set_weight(self, uid: str, weight: float) -> None:
        """Changes the own weight of a planned job."""
        if self.planner.tracks(uid) and weight != self._weights.own(uid):
            self._weights.set_own(uid, weight)
            self.planner.set_weight(uid, self._weights.effective(uid), self._clock())
            self._reschedule()

    @contextmanager
    def prioritize(self, uid: str) -> Iterator[None]:
        """Raises the job's weight while a client waits for it."""
        self._weights.add_client(uid)
        self.planner.set_weight(uid, self._weights.effective(uid), self._clock())
        self._reschedule()
        try:
            yield
        finally:
            self._weights.remove_client(uid)
            self.planner.set_weight(uid, self._weights.effective(uid), self._clock())


WAITING_CLIENT_WEIGHT = 4.0
"""Factor on a job's own weight while a client waits for it."""


class Weights:
    """Stores only weights other than the normal one, so a million normal jobs take no memory."""

    def __init__(self) -> None:
        self._own: dict[str, float] = {}
        self._clients: dict[str, int] = {}

    def __len__(self) -> int:
        """The number of jobs with an entry."""
        return len(self._own.keys() | self._clients.keys())

    def own(self, uid: str) -> float:
        """The job's own weight, without waiting clients."""
        return self._own.get(uid, NORMAL_WEIGHT)

    def effective(self, uid: str) -> float:
        """The weight to plan with."""
        return self.own(uid) * WAITING_CLIENT_WEIGHT if uid in self._clients else self.own(uid)

    def set_own(self, uid: str, weight: float) -> None:
        """Sets the job's own weight."""
        if weight == NORMAL_WEIGHT:
            self._own.pop(uid, None)
        else:
            self._own[uid] = weight

    def forget(self, uid: str) -> None:
        """Drops the job's own weight. Waiting clients still count."""
        self._own.pop(uid, None)

    def forget_all(self) -> None:
        """Drops every own weight."""
        self._own.clear()

    def add_client(self, uid: str) -> None:
        """A client starts to wait for the job."""
        self._clients[uid] = self._clients.get(uid, 0) + 1

    def remove_client(self, uid: str) -> None:
        """A client stops waiting for the job."""
        left = self._clients.pop(uid) - 1
        if left:
            self._clients[uid] = left
