"""The sandbox's own endpoints under /_sandbox. They need no key and have no limit and no faults: loopback only.

- `GET /_sandbox`: seed, speed, the time, the number of jobs.
- `GET /_sandbox/jobs[?after=<index>&limit=<n>]`: the true lifecycle of every job, and the digest of the body that
  created it. `next_after` is null on the last page.
- `GET /_sandbox/jobs/{id}`: the same for one job.
- `POST /_sandbox/jobs`: creates jobs with a given fate instead of a drawn one.
- `POST /_sandbox/jobs/{id}/step`: moves a job on to its next status.
- `GET | POST /_sandbox/credits[?account=<name>]`: a Revor account's credits, and how many jobs it may have open.
- `GET | POST /_sandbox/accounts`, `DELETE /_sandbox/accounts/{id}`: lists, breaks, repairs, adds and removes connect
  accounts.
- `GET | POST | DELETE /_sandbox/faults`, `DELETE /_sandbox/faults/{id}`: fault injection.
- `GET | DELETE /_sandbox/requests`: counts of the requests to /api.
"""

from dataclasses import dataclass
from itertools import islice
from typing import Literal, Self

from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.clock import Clock, to_rfc3339
from relay.sandbox.controls import answered, body_of
from relay.sandbox.kinds import JOB_PATHS, RESOURCES, StagedKind, action_of
from relay.sandbox.lifecycle import SandboxJob, Script, accepted_item
from relay.sandbox.requests import Body, Refused, invalid, read
from relay.sandbox.world import DEFAULT_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS, PLACEHOLDER_ACCOUNT_ID, Channel, World

MAX_JOBS_PER_CALL = 10_000


_ACCOUNT = "^[^-]{1,100}$"
_OF_EVERY_KIND = {"resource", "count", "account", "final", "error_code", "run_seconds"}


class _Jobs(Script):
    """The body of `POST /_sandbox/jobs`."""

    resource: Literal["jobs", "jobs_v2", "websets"] = "jobs"
    count: int = Field(1, ge=1, le=MAX_JOBS_PER_CALL)
    account: str = Field("default", pattern=_ACCOUNT)
    connect_account_id: str = PLACEHOLDER_ACCOUNT_ID
    channel: Channel | None = None
    action: Literal["outreach.dispatch", "outreach.linkedin.post_like"] = "outreach.dispatch"
    min_channel_task_interval_seconds: int = Field(DEFAULT_INTERVAL_SECONDS, ge=0, le=MAX_INTERVAL_SECONDS)

    @model_validator(mode="after")
    def _of_outreach(self) -> Self:
        wrong = sorted(self.model_fields_set - _OF_EVERY_KIND)
        if self.resource != "jobs" and wrong:
            raise ValueError(f"{', '.join(wrong)}: only outreach has this. Leave it out for {self.resource}")
        return self


class _Credits(Body):
    """The body of `POST /_sandbox/credits`."""

    account: str = Field("default", pattern=_ACCOUNT)
    available_credits: int | None = Field(None, ge=0, le=1_000_000_000)
    max_open_jobs: int | None = Field(None, ge=0, le=1_000_000)


class _Account(Body):
    """The body of `POST /_sandbox/accounts`."""

    id: str = Field(min_length=1, max_length=200)
    status: Literal["ok", "credentials", "error"] | None = None
    can_send: bool | None = None
    channel: Channel | None = None
    name: str | None = Field(None, min_length=1, max_length=200)


def admin_routes(world: World, clock: Clock) -> list[Route]:
    """The routes under /_sandbox, besides those of `controls`."""
    admin = _Admin(world, clock)
    return [
        Route("/_sandbox", admin.overview, methods=["GET"]),
        Route("/_sandbox/jobs", admin.jobs, methods=["GET", "POST"]),
        Route("/_sandbox/jobs/{job_id}", admin.job, methods=["GET"]),
        Route("/_sandbox/jobs/{job_id}/step", admin.step, methods=["POST"]),
        Route("/_sandbox/credits", admin.credits, methods=["GET", "POST"]),
        Route("/_sandbox/accounts", admin.accounts, methods=["GET", "POST"]),
        Route("/_sandbox/accounts/{account_id}", admin.account, methods=["DELETE"]),
    ]


@dataclass(frozen=True, slots=True)
class _Admin:
    _world: World
    _clock: Clock

    async def overview(self, request: Request) -> Response:
        world = self._world
        return answered(
            {
                "ok": True,
                "seed": world.seed,
                "speed": world.speed,
                "count_attempts": world.count_attempts,
                "now": to_rfc3339(self._clock()),
                "jobs": len(world),
            }
        )

    async def jobs(self, request: Request) -> Response:
        return self._create(await body_of(_Jobs, request)) if request.method == "POST" else self._list(request)

    async def job(self, request: Request) -> Response:
        return answered({"ok": True, "job": self._world.truth(self._named(request), self._clock())})

    async def step(self, request: Request) -> Response:
        now = self._clock()
        return answered({"ok": True, "job": self._world.truth(self._world.step(self._named(request), now), now)})

    def _named(self, request: Request) -> SandboxJob:
        job = self._world.job(request.path_params["job_id"])
        if job is None:
            raise Refused(404, "external_api_job_not_found")
        return job

    async def credits(self, request: Request) -> Response:
        query = dict(request.query_params)
        body = await body_of(_Credits, request) if request.method == "POST" else read(_Credits, query)
        purse = self._world.purse(body.account, self._clock())
        if body.available_credits is not None:
            purse.available_credits = body.available_credits
        if body.max_open_jobs is not None:
            purse.max_open_jobs = body.max_open_jobs
        shown = {"available_credits": purse.available_credits, "max_open_jobs": purse.max_open_jobs}
        return answered({"ok": True, "account": body.account, **shown, "open_jobs": len(purse.open)})

    def _list(self, request: Request) -> Response:
        now = self._clock()
        try:
            after = int(request.query_params.get("after", -1))
            limit = int(request.query_params.get("limit", MAX_JOBS_PER_CALL))
        except ValueError:
            raise invalid("after and limit must be whole numbers") from None
        limit = min(max(limit, 1), MAX_JOBS_PER_CALL)
        page = list(islice((job for job in self._world.jobs() if job.index > after), limit + 1))
        shown = page[:limit]
        return answered(
            {
                "ok": True,
                "now": to_rfc3339(now),
                "seed": self._world.seed,
                "speed": self._world.speed,
                "next_after": shown[-1].index if len(page) > limit else None,
                "jobs": [self._world.truth(job, now) for job in shown],
            }
        )

    def _create(self, body: _Jobs) -> Response:
        """Creates the jobs of one call, all with the same creation time."""
        kind, now = RESOURCES[body.resource], self._clock()
        if isinstance(kind, StagedKind):
            action = action_of(JOB_PATHS[0])
            jobs = [
                self._world.start(kind, account=body.account, action=action, now=now, script=body)
                for _ in range(body.count)
            ]
            return answered({"ok": True, "items": [self._world.item_at(job, now) for job in jobs]}, 201)
        if body.connect_account_id not in self._world.connect_accounts:
            raise Refused(404, "account_not_found")
        jobs = [
            self._world.create(
                account=body.account,
                channel=body.channel or ("email" if body.action == "outreach.dispatch" else "linkedin"),
                action=body.action,
                connect_account_id=body.connect_account_id,
                interval_seconds=body.min_channel_task_interval_seconds,
                now=now,
                script=body,
            )
            for _ in range(body.count)
        ]
        return answered({"ok": True, "items": [accepted_item(job) for job in jobs]}, 201)

    async def accounts(self, request: Request) -> Response:
        world = self._world
        if request.method == "GET":
            return answered({"ok": True, "accounts": world.connect_accounts.listed()})
        body = await body_of(_Account, request)
        changed = world.set_connect_account(body.id, self._clock(), **body.model_dump(exclude={"id"}))
        return answered({"ok": True, "account": changed})

    async def account(self, request: Request) -> Response:
        self._world.remove_connect_account(request.path_params["account_id"], self._clock())
        return answered({"ok": True})
