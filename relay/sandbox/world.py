"""The simulated world: jobs in lanes, each with a lifecycle that is fixed at creation.

Pure: time is passed in, randomness comes from the seed. The same seed and order of creates always give the same
lifecycles. Only their position in time depends on `now`.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Literal, get_args
from uuid import UUID

from relay.clock import to_rfc3339
from relay.sandbox.kinds import OUT_OF_CREDITS, StagedKind
from relay.sandbox.lifecycle import (
    LANE_GAP_SECONDS,
    OUTREACH,
    CountAttempts,
    Fate,
    Mix,
    SandboxJob,
    Script,
    draw_fate,
    milliseconds,
    schedule_steps,
    stepped,
    steps_with_outages,
)
from relay.sandbox.requests import Refused

Channel = Literal["email", "linkedin", "whatsapp"]
CHANNELS: tuple[Channel, ...] = get_args(Channel)

PLACEHOLDER_ACCOUNT_ID = "connect_account_xxx"
"""The id in Revor's documentation. Listed as a LinkedIn account, but accepted for a dispatch on any channel, so that
every documented request works unchanged."""

Outage = tuple[float, float]
"""From when until when an account cannot send; `math.inf`: until it is repaired."""


Item = dict[str, Any]
"""A connect account as Revor lists it."""


def _item(account_id: str, channel: str, name: str, identifier: str, *, ok: bool = True) -> Item:
    return {
        "account_id": account_id,
        "channel": channel,
        "name": name,
        "account_identifier": identifier,
        "status": "ok" if ok else "credentials",
        "lifecycle_status": "active",
        "can_send": ok,
        "can_receive": ok,
    }


_AT_START = (
    _item(PLACEHOLDER_ACCOUNT_ID, "linkedin", "LinkedIn Account", "https://www.linkedin.com/in/example/"),
    _item("connect_account_email", "email", "Email Account", "sender@example.com"),
    _item("connect_account_whatsapp", "whatsapp", "WhatsApp Account", "+14155550100"),
    _item(
        "connect_account_signed_out",
        "linkedin",
        "Signed-out LinkedIn Account",
        "https://www.linkedin.com/in/example-signed-out/",
        ok=False,
    ),
)


@dataclass(slots=True)
class ConnectAccounts:
    """The connect accounts by id, and the outages of each that was broken since the start."""

    _accounts: dict[str, Item] = field(default_factory=lambda: {one["account_id"]: one for one in _AT_START})
    _outages: dict[str, list[Outage]] = field(default_factory=dict)

    def __contains__(self, account_id: str) -> bool:
        return account_id in self._accounts

    def listed(self, query: Mapping[str, str] | None = None) -> list[Item]:
        """The items of Revor's listing, filtered by `channel` and `can_send` (true or false)."""
        wanted = query or {}
        channel, can_send = wanted.get("channel") or None, wanted.get("can_send") or None
        if channel not in (None, *CHANNELS):
            raise Refused(400, "invalid_channel")
        if can_send not in (None, "true", "false"):
            raise Refused(400, "invalid_can_send")
        return [
            dict(one)
            for one in self._accounts.values()
            if channel in (None, one["channel"]) and can_send in (None, str(one["can_send"]).lower())
        ]

    def check(self, account_id: str, channel: str) -> None:
        """Raises Refused unless a job of this channel can be created with the account."""
        account = self._accounts.get(account_id)
        if account is None:
            raise Refused(404, "account_not_found")
        # Revor documents status 409 for both cases, but not the codes: these two are the sandbox's own.
        if account["channel"] != channel and account_id != PLACEHOLDER_ACCOUNT_ID:
            raise Refused(409, "account_channel_conflict")
        if not account["can_send"]:
            raise Refused(409, "account_cannot_send")

    def set(self, account_id: str, now: float, **fields: Any) -> Item:
        """Changes an account, or adds one that is given a `channel`. Without `can_send`, `status` decides whether it
        can send. Raises Refused."""
        known = self._accounts.get(account_id)
        if known is None:
            if fields.get("channel") is None:
                raise Refused(404, "account_not_found", f"there is no account {account_id!r}: add it with a channel")
            name = f"{fields['channel'].capitalize()} Account"
            known = _item(account_id, fields["channel"], name, f"{account_id}@example.com")
        if fields.get("status") is not None and fields.get("can_send") is None:
            fields["can_send"] = fields["status"] == "ok"
        changed = known | {name: value for name, value in fields.items() if value is not None}
        changed["can_receive"] = changed["status"] == "ok"
        self._accounts[account_id] = changed
        self._note(account_id, now, can_send=changed["can_send"])
        return changed

    def remove(self, account_id: str, now: float) -> None:
        """Removes an account; its jobs fail as those of a broken one. Raises Refused."""
        if self._accounts.pop(account_id, None) is None:
            raise Refused(404, "account_not_found")
        self._note(account_id, now, can_send=False)

    def outages(self, account_id: str) -> Sequence[Outage]:
        """Times during which the account could not send."""
        return self._outages.get(account_id, ())

    def _note(self, account_id: str, now: float, *, can_send: bool) -> None:
        """Begins or ends an outage, if that changes."""
        outages = self._outages.setdefault(account_id, [])
        is_down = bool(outages) and outages[-1][1] == math.inf
        if is_down and can_send:
            outages[-1] = (outages[-1][0], now)
        elif not is_down and not can_send:
            outages.append((now, math.inf))


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


RETRY_AFTER_SECONDS = 5.0
"""When to try again while too many jobs are open, at speed 1."""


@dataclass(slots=True, kw_only=True)
class Purse:
    """The credits of one Revor account, and its open jobs that cost some, of which it may have `max_open_jobs`."""

    available_credits: int = 10_000
    max_open_jobs: int = 100
    open: dict[str, SandboxJob] = field(default_factory=dict, repr=False)

    def settle(self, now: float) -> None:
        """Charges the jobs that have succeeded."""
        for job in [job for job in self.open.values() if job.ended_at <= now]:
            del self.open[job.id]
            if job.fate.final == "succeeded":
                self.available_credits = max(0, self.available_credits - job.kind.cost(job))


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
    speed: float = 1.0
    count_attempts: CountAttempts = "start"
    mix: Mix = field(default_factory=Mix)
    max_jobs: int = 200_000
    connect_accounts: ConnectAccounts = field(default_factory=ConnectAccounts, init=False, repr=False)
    created_count: int = field(default=0, init=False)
    _jobs: OrderedDict[str, SandboxJob] = field(default_factory=OrderedDict, init=False, repr=False)
    _lanes: dict[tuple[str, str], _Lane] = field(default_factory=dict, init=False, repr=False)
    _purses: dict[str, Purse] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.speed) and 0 < self.speed <= MAX_SPEED):
            raise ValueError(f"speed must be above 0 and at most {MAX_SPEED:.0f}, not {self.speed}")

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
        script = script or Script()
        index, job_id, fate = self._drawn(script, now)
        created_at = milliseconds(now)
        lane = self._lanes.setdefault((account, channel), _Lane()) if script.in_lane else _Lane()
        scheduled_at, start_at = self._place(lane, fate, interval_seconds, created_at)
        steps = schedule_steps(fate, self.speed, self.count_attempts, created_at, scheduled_at, start_at)
        planned = tuple(steps)
        job = SandboxJob(
            index=index,
            id=job_id,
            kind=OUTREACH,
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
        return self._put(job)

    def start(
        self,
        kind: StagedKind,
        *,
        account: str,
        action: str,
        now: float,
        script: Script | None = None,
        **of_create: Any,
    ) -> SandboxJob:
        """Creates a job of API v2, which starts at once. `of_create`: its `body` and `body_digest`. Raises Refused as
        `create` does."""
        script = script or Script()
        index, job_id, fate = self._drawn(script, now)
        steps = tuple(kind.steps(fate, script, self.speed, milliseconds(now)))
        job = SandboxJob(
            index=index,
            id=job_id,
            kind=kind,
            account=account,
            action=action,
            created_at=steps[0].at,
            fate=fate,
            planned=steps,
            steps=steps,
            **of_create,
        )
        return self._put(job)

    def step(self, job: SandboxJob, now: float) -> SandboxJob:
        """Moves a job to its next status, now. One that has ended stays as it is."""
        place = job.step_index_at(now) + 1
        if place == len(job.steps):
            return job
        planned = stepped(job.planned, place, now)
        outages = self.connect_accounts.outages(job.connect_account_id)
        return self._put(replace(job, planned=planned, steps=steps_with_outages(planned, outages)))

    def purse(self, account: str, now: float) -> Purse:
        """The account's credits. Changes to it count."""
        purse = self._purses.setdefault(account, Purse())
        purse.settle(now)
        return purse

    def check_credits(self, account: str, now: float) -> None:
        """Raises Refused unless the account can pay for another job, and may have one more open."""
        purse = self.purse(account, now)
        if purse.available_credits <= 0:
            raise Refused(402, OUT_OF_CREDITS)
        if len(purse.open) >= purse.max_open_jobs:
            seconds = RETRY_AFTER_SECONDS / self.speed
            raise Refused(429, "external_api_job_concurrency_limit_exceeded", retry_after_seconds=seconds)

    def _drawn(self, script: Script, now: float) -> tuple[int, str, Fate]:
        """The number, id and fate of a new job."""
        self._make_room(now)
        index, self.created_count = self.created_count, self.created_count + 1
        rng = Random(f"{self.seed}:{index}")  # noqa: S311  (reproducible, not a secret)
        return index, str(UUID(int=rng.getrandbits(128), version=4)), draw_fate(rng, self.mix, script)

    def _put(self, job: SandboxJob) -> SandboxJob:
        self._jobs[job.id] = job
        if job.kind is not OUTREACH:
            self._purses.setdefault(job.account, Purse()).open[job.id] = job
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
        return job.kind.item(job, job.steps[index], now)

    def truth(self, job: SandboxJob, now: float) -> dict[str, Any]:
        """All transitions of a job, future ones included, to measure a poller against."""
        return {
            "id": job.id,
            "index": job.index,
            "resource": job.kind.resource,
            "account": job.account,
            "channel": job.channel,
            "action": job.action,
            "created_at": to_rfc3339(job.created_at),
            "created_at_epoch_seconds": job.created_at,
            "body_digest": None if job.body_digest is None else f"sha256:{job.body_digest}",
            "finished": job.ended_at <= now,
            "failed_attempts": sum(step.failed_attempt is not None for step in job.steps),
            "final_item": job.kind.item(job, job.steps[-1], math.inf),
            "transitions": [
                {
                    "status": step.status,
                    "at": to_rfc3339(step.at),
                    "at_epoch_seconds": step.at,
                    "failed_attempt": step.failed_attempt,
                }
                for step in job.steps
            ],
        }
