"""Agenda of one account: its open jobs in the planner, their weights, and loading them from the store."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import structlog

from relay.core.jobs.job import NORMAL_WEIGHT, Job, PlannedJob
from relay.core.planner import Planner, PlannerStatistics
from relay.polling.account import PolledAccount

MISSING_HINT = "its jobs are shown and not polled: add it to the definition again, or untrack them"
LOAD_COUNT = 5_000
PLANNED_AT_ONCE = 200
WAITING_CLIENT_WEIGHT = 4.0
"""Factor on a job's own weight while a client waits for it."""

log = structlog.get_logger("relay.polling")


class Agenda:
    """The account's open jobs and when each is polled next."""

    def __init__(self, account: PolledAccount, statistics: PlannerStatistics | None) -> None:
        self.planner = Planner(account.planner_config, statistics)
        """Replaced when another node takes the account over."""
        self.own_next: set[str] = set()
        """Jobs whose borrowed poll showed nothing: the relay makes the next one, so callers cannot prevent polling."""
        self.loading = False
        """True while open jobs are loaded from the store."""
        self._account = account
        self._statistics = statistics
        self._weights: dict[str, float] = {}
        """The jobs' own weights, but not the normal one: a million normal jobs take no memory."""
        self.unplanned: set[str] = set()
        """Open jobs of a resource that the definition lacks."""
        self._missing: set[str] = set()
        """These resources. Each is logged once."""
        self._clients: dict[str, int] = {}
        """Number of clients that wait for a job."""

    def clear(self) -> None:
        """Forgets all jobs, but not the waiting clients."""
        self._weights.clear()
        self.own_next.clear()
        self.unplanned.clear()
        self.planner = Planner(self._account.planner_config, self._statistics)

    def configure(self) -> None:
        """Applies reloaded settings."""
        self.planner.configure(self._account.planner_config)

    async def load(self) -> int:
        """Plans the open jobs in the store while others are registered. Returns their number."""
        self.loading = True
        count, reading = 0, self._read_after("")
        try:
            while jobs := await reading:
                reading = self._read_after(jobs[-1].uid)  # read the next page while this one is planned
                for number, job in enumerate(jobs):
                    if not self.planner.tracks(job.uid):  # it may have been registered meanwhile
                        self._plan(job, self._account.clock())
                    if number % PLANNED_AT_ONCE == 0:
                        await asyncio.sleep(0)  # a million jobs must not block the API
                count += len(jobs)
        finally:
            reading.cancel()
            self.loading = False
            self._account.reschedule()
        return count

    def _read_after(self, uid: str) -> asyncio.Task[list[PlannedJob]]:
        settings, jobs = self._account.settings, self._account.store.jobs
        page = jobs.open_jobs(settings.source, settings.account, after_uid=uid, count=LOAD_COUNT)
        return asyncio.get_running_loop().create_task(page)

    def track(self, jobs: Iterable[Job | PlannedJob]) -> None:
        """Plans open jobs. Of one that is already planned, only the weight can have changed."""
        now = self._account.clock()
        for job in jobs:
            if self.planner.tracks(job.uid):
                self.set_weight(job.uid, job.weight)
            else:
                self._plan(job, now)
        self._account.reschedule()

    def _plan(self, job: Job | PlannedJob, now: float) -> None:
        if job.resource and self._account.settings.definition.lacks(job.resource):
            self.unplanned.add(job.uid)
            if job.resource not in self._missing:
                self._missing.add(job.resource)
                log.warning("resource_missing", **self._account.place, resource=job.resource, hint=MISSING_HINT)
            return
        self._set_own(job.uid, job.weight)
        spacing = job.spacing_seconds
        if spacing is not None:  # scaled as the upstream's durations are: by less than 1 in an accelerated simulation
            spacing *= min(1.0, self._account.planner_config.min_interval_seconds)
        self.planner.track(
            job.uid,
            job.item(),
            now,
            weight=self._effective(job.uid),
            min_interval_seconds=spacing,
            next_poll_at=job.next_poll_at,
            step=job.poll_step,
            seen_at=job.seen_at,
            shortest_seconds=self._account.settings.definition.resource_of(job.resource).min_interval_seconds,
        )

    def forget(self, uid: str) -> None:
        """Stops polling the job."""
        self.own_next.discard(uid)
        self.unplanned.discard(uid)
        self._weights.pop(uid, None)
        self.planner.forget(uid)

    def refresh(self, uid: str) -> None:
        """Makes the job due now."""
        now = self._account.clock()
        self.planner.track(uid, None, now, weight=self._effective(uid), next_poll_at=now)
        self._account.reschedule()

    def poll_again(self, uid: str) -> None:
        """Makes the job due now, if it is planned here and no poll is in flight."""
        if self.planner.next_poll_at(uid) is not None:
            self.refresh(uid)

    def own_weight(self, uid: str) -> float:
        """The job's own weight, without waiting clients."""
        return self._weights.get(uid, NORMAL_WEIGHT)

    def set_weight(self, uid: str, weight: float) -> None:
        """Changes the own weight of a planned job."""
        if self.planner.tracks(uid) and weight != self.own_weight(uid):
            self._set_own(uid, weight)
            self.planner.set_weight(uid, self._effective(uid), self._account.clock())
            self._account.reschedule()

    @contextmanager
    def prioritize(self, uid: str) -> Iterator[None]:
        """Raises the job's weight while a client waits for it."""
        self._clients[uid] = self._clients.get(uid, 0) + 1
        self.planner.set_weight(uid, self._effective(uid), self._account.clock())
        self._account.reschedule()
        try:
            yield
        finally:
            self._clients[uid] -= 1
            if not self._clients[uid]:
                del self._clients[uid]
            self.planner.set_weight(uid, self._effective(uid), self._account.clock())

    def _effective(self, uid: str) -> float:
        """The weight to plan with."""
        return self._weights.get(uid, NORMAL_WEIGHT) * (WAITING_CLIENT_WEIGHT if uid in self._clients else 1.0)

    def _set_own(self, uid: str, weight: float) -> None:
        if weight == NORMAL_WEIGHT:
            self._weights.pop(uid, None)
        else:
            self._weights[uid] = weight
