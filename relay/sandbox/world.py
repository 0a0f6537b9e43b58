"""The simulated world: jobs in lanes, each with a lifecycle that is fixed at creation.

Pure: time is passed in, randomness comes from the seed. The same seed and order of creates always give the same
lifecycles. Only their position in time depends on `now`.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any
from uuid import UUID

from relay.sandbox.connect_accounts import PLACEHOLDER_ACCOUNT_ID, ConnectAccounts, Item
from relay.sandbox.fate import LANE_GAP_SECONDS, Fate, Mix, Script, draw_fate
from relay.sandbox.fields import Refused
from relay.sandbox.lifecycle import (
    Behaviour,
    SandboxJob,
    milliseconds,
    schedule_steps,
    step_item,
    steps_with_outages,
    truth,
)

MIN_INTERVAL_SECONDS = 60
MAX_INTERVAL_SECONDS = 86_400
DEFAULT_INTERVAL_SECONDS = 60
MAX_SPEED = 1_000_000.0


@dataclass(slots=True)
class _Lane:
    """The last job of one (Revor account, channel), which the next one follows. Times are epoch seconds."""

    scheduled_at: float = -math.inf
    started_at: float = -math.inf
    ended_at: float = -math.inf


@dataclass(kw_only=True)
class World:
    """A seeded world of jobs.

    `speed` divides every duration. At `max_jobs` the oldest finished job is dropped to make room.

    **Lanes.** The jobs of one (Revor account, channel) run one after another. `scheduled_at` is set at creation: now,
    or the job's interval after the `scheduled_at` of the previous job. A job starts at the latest of `scheduled_at` +
    LN(1, .5), the end of the previous job + 0.2 s, and its interval after that job's start. A retried job therefore
    delays the following ones, while their `scheduled_at` does not change.

    **Connect accounts.** An attempt that starts while the job's connect account cannot send ends the job as failed.
    """

    seed: int = 0
    behaviour: Behaviour = field(default_factory=Behaviour)
    mix: Mix = field(default_factory=Mix)
    max_jobs: int = 200_000
    max_lanes: int = 100_000
    connect_accounts: ConnectAccounts = field(default_factory=ConnectAccounts, init=False, repr=False)
    created_count: int = field(default=0, init=False)
    _jobs: OrderedDict[str, SandboxJob] = field(default_factory=OrderedDict, init=False, repr=False)
    _lanes: OrderedDict[tuple[str, str], _Lane] = field(default_factory=OrderedDict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.behaviour.speed) and 0 < self.behaviour.speed <= MAX_SPEED):
            raise ValueError(f"speed must be above 0 and at most {MAX_SPEED:.0f}, not {self.behaviour.speed}")

    @property
    def speed(self) -> float:
        """The divisor of every duration."""
        return self.behaviour.speed

    def __len__(self) -> int:
        return len(self._jobs)

    def create(
        self,
        *,
        account: str,
        channel: str,
        now: float,
        action: str = "outreach.dispatch",
        connect_account_id: str = PLACEHOLDER_ACCOUNT_ID,
        interval_seconds: float = DEFAULT_INTERVAL_SECONDS,
        script: Script | None = None,
        body_digest: str | None = None,
    ) -> SandboxJob:
        """Creates a job and its whole lifecycle. `interval_seconds` (at speed 1) is raised to at least 60.

        Raises Refused (503) if there are `max_jobs` jobs and the oldest is not finished.
        """
        self._make_room(now)
        script = script or Script()
        index = self.created_count
        rng = Random(f"{self.seed}:{index}")  # noqa: S311  (reproducible, not a secret)
        job_id = str(UUID(int=rng.getrandbits(128), version=4))
        fate = draw_fate(rng, self.mix, script)
        created_at = milliseconds(now)
        lane = self._lane(account, channel) if script.in_lane else _Lane()
        scheduled_at, start_at = self._place(lane, fate, interval_seconds, created_at)
        planned = schedule_steps(
            fate, self.behaviour, created_at=created_at, scheduled_at=scheduled_at, start_at=start_at
        )
        job = SandboxJob(
            index=index,
            id=job_id,
            account=account,
            connect_account_id=connect_account_id,
            channel=channel,
            action=action,
            created_at=created_at,
            scheduled_at=scheduled_at if script.show_scheduled_at else None,
            fate=fate,
            planned=planned,
            steps=steps_with_outages(planned, self.connect_accounts.outages(connect_account_id)),
            body_digest=body_digest,
        )
        lane.scheduled_at = scheduled_at
        if job.first_started_at is not None:  # a cancelled job delays no other
            lane.started_at, lane.ended_at = job.first_started_at, job.ended_at
        self.created_count += 1
        self._jobs[job.id] = job
        return job

    def set_connect_account(self, account_id: str, now: float, **fields: Any) -> Item:
        """Changes or adds a connect account, and with it what becomes of its jobs. Raises Refused."""
        changed = self.connect_accounts.set(account_id, now, **fields)
        self._reconsider(account_id, now)
        return changed

    def remove_connect_account(self, account_id: str, now: float) -> None:
        """Removes a connect account. Raises Refused."""
        self.connect_accounts.remove(account_id, now)
        self._reconsider(account_id, now)

    def _reconsider(self, account_id: str, now: float) -> None:
        """Plans the rest of the account's open jobs again. What has happened does not change."""
        outages = self.connect_accounts.outages(account_id)
        for job in self._jobs.values():
            if job.connect_account_id == account_id and job.ended_at > now:
                self._jobs[job.id] = replace(job, steps=steps_with_outages(job.planned, outages))

    def _place(self, lane: _Lane, fate: Fate, interval_seconds: float, created_at: float) -> tuple[float, float]:
        """`scheduled_at` and the start of the first attempt. `scheduled_at` must not reveal what happens later."""
        speed = self.speed
        interval = min(max(interval_seconds, MIN_INTERVAL_SECONDS), MAX_INTERVAL_SECONDS) / speed
        known_start = lane.started_at if lane.started_at <= created_at else -math.inf
        scheduled_at = milliseconds(max(created_at, lane.scheduled_at + interval, known_start + interval))
        start_at = max(
            scheduled_at + fate.start_delays_seconds[0] / speed,
            lane.ended_at + LANE_GAP_SECONDS / speed,
            lane.started_at + interval,
        )
        return scheduled_at, milliseconds(start_at)

    def _lane(self, account: str, channel: str) -> _Lane:
        lane = self._lanes.setdefault((account, channel), _Lane())
        self._lanes.move_to_end((account, channel))
        if len(self._lanes) > self.max_lanes:
            self._lanes.popitem(last=False)
        return lane

    def _make_room(self, now: float) -> None:
        if len(self._jobs) < self.max_jobs:
            return
        oldest = next(iter(self._jobs.values()))
        if oldest.ended_at > now:
            raise Refused(503, "task_unavailable")
        del self._jobs[oldest.id]

    def job(self, job_id: str, *, account: str | None = None) -> SandboxJob | None:
        """The job with this id. None if there is none, or if `account` is given and does not own it."""
        job = self._jobs.get(job_id)
        return None if job is None or (account is not None and job.account != account) else job

    def jobs(self) -> Iterator[SandboxJob]:
        """Every job, in order of creation."""
        return iter(self._jobs.values())

    def item_at(self, job: SandboxJob, now: float, *, steps_back: int = 0) -> dict[str, Any]:
        """The item as Revor would return it at `now`, or as it was `steps_back` steps earlier."""
        index = max(0, job.step_index_at(now) - steps_back)
        return step_item(job, job.steps[index])

    def truth(self, job: SandboxJob, now: float) -> dict[str, Any]:
        """The complete lifecycle: id, creation, final item, true transitions, and whether it is finished at `now`."""
        return truth(job, now)
