"""The kinds of jobs of Revor's API v2: jobs of research and customs, and websets. They have no lanes and no retries,
and cost credits when they succeed. Pure."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from relay.sandbox.lifecycle import OUTREACH, Fate, Kind, SandboxJob, Script, Step, milliseconds, step_item

OUT_OF_CREDITS = "insufficient_credits"
_CODES = (OUT_OF_CREDITS, "external_api_worker_unavailable")
"""Error codes of a failure that is not scripted."""

JOB_PATHS = (
    *("research/public-web", "research/contacts"),
    *("customs/company-candidates", "customs/trade-reports", "customs/counterparties"),
    *("customs/categories", "customs/trends", "customs/countries"),
)
"""What creates a job, below /api/v2."""


def action_of(path: str) -> str:
    """The action of a job that is created below /api/v2, in the words of outreach."""
    return path.replace("/", ".").replace("-", "_")


DEFAULT_GOAL, MAX_GOAL = 25, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedKind(Kind):
    """A kind whose jobs go through `stages`: statuses, each with the share of the run at which it begins.

    A run takes `slowness` times as long as one of outreach, within `least_seconds` and `most_seconds`, at speed 1.
    """

    stages: tuple[tuple[str, float], ...]
    success: str
    slowness: float
    least_seconds: float
    most_seconds: float

    def steps(self, fate: Fate, script: Script, speed: float, created_at: float) -> Iterator[Step]:
        """The steps of a job. Credits run out at the end of the last stage; another failure comes before it."""
        drawn = min(max(fate.runs_seconds[0] * self.slowness, self.least_seconds), self.most_seconds)
        run = (drawn if script.run_seconds is None else script.run_seconds) / speed
        code = script.error_code or (fate.error_code if fate.error_code in _CODES else OUT_OF_CREDITS)
        share = 1.0
        if fate.final == "cancelled":
            share = fate.cancelled_at_share
        elif fate.final == "failed" and code != OUT_OF_CREDITS:
            share = self.stages[-1][1]
        started_at: float | None = None
        for status, begins in self.stages:
            at = milliseconds(created_at + run * begins)
            started_at = at if started_at is None and status != "queued" else started_at
            if begins < share:
                yield Step(at=at, status=status, started_at=started_at, attempt_count=int(started_at is not None))
        ended_at = milliseconds(created_at + run * share)
        started_at = None if started_at is None or started_at > ended_at else started_at
        yield Step(
            at=ended_at,
            status=self.success if fate.final == "succeeded" else fate.final,
            started_at=started_at,
            finished_at=ended_at,
            attempt_count=int(started_at is not None),
            error_code=code if fate.final == "failed" else None,
        )


def _found(job: SandboxJob) -> int:
    """How much a job finds if it succeeds, which is what it costs."""
    return Random(job.id).randint(1, 5)  # noqa: S311  (reproducible, not a secret)


def _item(job: SandboxJob, step: Step, now: float) -> dict[str, Any]:
    """The item of `GET /api/v2/jobs/{id}`: that of outreach with `billing`."""
    item = step_item(job, step)
    has_succeeded = step.status == "succeeded"
    item["result"] = {"status": "completed", "found": _found(job)} if has_succeeded else None
    billing = {"credits": _found(job) if has_succeeded else 0, "status": "charged" if has_succeeded else "not_charged"}
    return {**item, "billing": None if step.finished_at is None else billing}


def _goal(job: SandboxJob) -> int:
    goal = job.body.get("goal")
    return min(max(int(goal), 1), MAX_GOAL) if isinstance(goal, int) else DEFAULT_GOAL


def _qualified(job: SandboxJob) -> int:
    """How many of a webset's findings fit at its end: in two of three sets as many as wanted."""
    rng = Random(job.id)  # noqa: S311
    return _goal(job) if rng.random() < 2 / 3 else int(_goal(job) * rng.random())


def _webset(job: SandboxJob, step: Step, now: float) -> dict[str, Any]:
    """The item of `GET /api/v2/websets/{id}`. Progress grows with the time that it has been verifying."""
    begun = [one for one in job.steps if one.at <= step.at and one.finished_at is None]
    share = 0.0
    if begun[-1].status == "verifying":
        ends_at = job.ended_at
        share = 1.0 if now >= ends_at else max(0.0, now - begun[-1].at) / (ends_at - begun[-1].at)
    has_succeeded = step.status == "completed"
    qualified, goal = math.floor(share * _qualified(job)), _goal(job)
    is_full = qualified >= goal
    query = str(job.body.get("query", ""))
    criteria = [f"It fits {query!r}", "It is active", "It has a website"] if len(begun) > 1 else []
    return {
        "id": job.id,
        "status": step.status,
        "name": str(job.body.get("name") or query or "Webset"),
        "query": query,
        "criteria": criteria,
        "progress": {
            "stage": begun[-1].status,
            "goal": goal,
            "verified": math.floor(share * (3 * goal + _found(job))),
            "qualified": qualified,
            "full": is_full,
            "stop_reason": ("goal_reached" if is_full else "exhausted") if has_succeeded else None,
        },
        "failure": None if step.error_code is None else {"code": step.error_code},
    }


JOBS_V2 = StagedKind(
    resource="jobs_v2",
    reads="/api/v2/jobs/",
    not_found=OUTREACH.not_found,
    item=_item,
    cost=_found,
    stages=(("queued", 0.0), ("running", 0.05), ("settling", 0.9)),
    success="succeeded",
    slowness=1.2,
    least_seconds=2,
    most_seconds=40,
)
WEBSETS = StagedKind(
    resource="websets",
    reads="/api/v2/websets/",
    not_found="external_api_webset_not_found",
    item=_webset,
    cost=_qualified,
    stages=(("generating_criteria", 0.0), ("searching", 0.03), ("verifying", 0.2)),
    success="completed",
    slowness=130,
    least_seconds=120,
    most_seconds=3600,
)
RESOURCES: Mapping[str, Kind] = {kind.resource: kind for kind in (OUTREACH, JOBS_V2, WEBSETS)}
