"""The sandbox over HTTP: Revor's API under /api/v1 and /api/v2, and the sandbox's own endpoints under /_sandbox."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.datastructures import Headers, QueryParams
from starlette.types import Scope

from relay.clock import Clock, wall_clock
from relay.sandbox.admin import admin_routes
from relay.sandbox.bodies import Dispatch, IdempotencyStore, PostLike
from relay.sandbox.controls import Controls
from relay.sandbox.faults import JOB_KINDS, REFUSALS, Answer, FaultInjector, FaultSpec, json_answer
from relay.sandbox.kinds import JOB_PATHS, JOBS_V2, RESOURCES, WEBSETS, StagedKind, action_of
from relay.sandbox.lifecycle import CountAttempts, Kind, SandboxJob, accepted_item
from relay.sandbox.limits import RateLimiter, RequestCounts, Verdict, retry_after_text
from relay.sandbox.requests import Caller, Refused, caller_of, invalid, read
from relay.sandbox.world import World

API_V2 = "/api/v2/"
MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_WAIT_SECONDS = 20
"""Limit of `Prefer: wait`, in real seconds."""

_ROUTES = {
    "/api/v1/connect/accounts": ("GET", "accounts"),
    "/api/v1/outreach/dispatches": ("POST", "dispatch"),
    "/api/v1/outreach/linkedin/post-likes": ("POST", "post_like"),
    API_V2 + "credits": ("GET", "credits"),
    API_V2 + "websets": ("POST", "webset"),
    **{API_V2 + path: ("POST", "job_v2") for path in JOB_PATHS},
}
_BODIES: dict[str, type[Dispatch | PostLike]] = {"dispatch": Dispatch, "post_like": PostLike}
_MADE: dict[str, StagedKind] = {"webset": WEBSETS, "job_v2": JOBS_V2}
_KEPT = ("query", "name", "goal")
"""What a webset shows of the body that created it."""
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,6})", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """The settings of a sandbox. `rate_limit`: requests per key and seconds at speed 1. None: no limit, no headers."""

    seed: int = 0
    speed: float = 1.0
    rate_limit: tuple[int, float] | None = (120, 60.0)
    count_attempts: CountAttempts = "start"
    limit_reads_only: bool = False
    """Count only reads of jobs."""

    def world(self) -> World:
        """A new world with these settings."""
        return World(seed=self.seed, speed=self.speed, count_attempts=self.count_attempts)

    def app(self, *, clock: Clock = wall_clock, world: World | None = None) -> Starlette:
        """The ASGI application, with a new world by default.

        `app.state` gives a program in the same process access to `world`, `faults` and `request_counts`.
        """
        world = self.world() if world is None else world
        faults, counts = FaultInjector(seed=world.seed), RequestCounts()
        upstream = Upstream(world, faults, self._limiter(world.speed), self.limit_reads_only, clock)
        app = Controls(faults, counts, clock).app(admin_routes(world, clock), upstream.handle, MAX_BODY_BYTES)
        app.state.world, app.state.faults, app.state.request_counts = world, faults, counts
        return app

    def _limiter(self, speed: float) -> RateLimiter | None:
        if self.rate_limit is None:
            return None
        requests, seconds = self.rate_limit
        return RateLimiter(limit=requests, window_seconds=seconds / speed)


@dataclass(frozen=True, slots=True)
class _Request:
    """One request. `kind` is job or unknown, or is in `_ROUTES`. `job`: kind and id of a job that the path names."""

    method: str
    path: str
    kind: str
    job: tuple[Kind, str] | None
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes


@dataclass
class Upstream:
    """Revor's API. Computes each answer without an await, so requests never interleave."""

    world: World
    faults: FaultInjector
    limiter: RateLimiter | None
    limit_reads_only: bool
    clock: Clock
    _request_count: int = field(default=0, init=False)
    _idempotency: IdempotencyStore = field(default_factory=IdempotencyStore, init=False, repr=False)

    def handle(self, scope: Scope, body: bytes | None) -> tuple[str, Answer, FaultSpec | None]:
        """See `controls.Handle`."""
        path, method = scope["path"], scope["method"]
        job = _named(path)
        kind = _ROUTES.get(path, ("", "unknown"))[1] if job is None else "job"
        if body is None:
            refusal = self._refusal(invalid(f"the body is larger than {MAX_BODY_BYTES} bytes"))
            return kind, self._with_limit_headers(refusal, self._limit(None, self.clock(), counted=False)), None
        headers, query = Headers(scope=scope), QueryParams(scope["query_string"])
        return kind, *self._answer(_Request(method, path, kind, job, headers, query, body))

    def _answer(self, request: _Request) -> tuple[Answer, FaultSpec | None]:
        """The answer, and the fault that hits it. Order: key, limit, fault, then the call itself."""
        if not request.path.startswith("/api/"):
            return self._refusal(Refused(404, "not_found")), None
        now = self.clock()
        caller: Caller | None = None
        refused: Refused | None = None
        try:
            caller = caller_of(request.headers)
        except Refused as error:
            refused = error
        is_read = request.kind == "job" and request.method == "GET"
        verdict = self._limit(caller, now, counted=is_read or not self.limit_reads_only)
        if verdict is not None and verdict.retry_after_seconds is not None:
            refused = Refused(429, "api_rate_limit_exceeded")
        if caller is None or refused is not None:
            answer, fault = self._refusal(refused or Refused(401, "api_key_invalid")), None
        else:
            answer, fault = self._faulty(request, caller, now)
        if verdict is not None and fault is not None and fault.kind == "429":
            verdict = replace(verdict, remaining=0, account_remaining=0)
        return self._with_limit_headers(answer, verdict), fault

    def _with_limit_headers(self, answer: Answer, verdict: Verdict | None) -> Answer:
        if verdict is None:
            return answer
        headers = verdict.headers(whole_seconds=self.world.speed == 1)
        return replace(answer, headers=(*headers, *answer.headers))

    def _limit(self, caller: Caller | None, now: float, *, counted: bool) -> Verdict | None:
        """The rate limiter's decision. None if there is no limit."""
        if self.limiter is None:
            return None
        if caller is None:
            return self.limiter.peek(None, None, now)
        return (self.limiter.spend if counted else self.limiter.peek)(caller.key, caller.account, now)

    def _faulty(self, request: _Request, caller: Caller, now: float) -> tuple[Answer, FaultSpec | None]:
        """Runs the call, unless a fault prevents it. Returns its answer and the fault."""
        job = None
        if request.kind == "job" and request.method == "GET":
            job = self._job(request, caller)
        impossible: frozenset[str] = frozenset()
        if job is None:
            impossible = JOB_KINDS
        elif job.step_index_at(now) == 0:
            impossible = frozenset({"status_back"})
        fault = self.faults.draw(
            method=request.method, path=request.path, account=caller.account, now=now, impossible=impossible
        )
        if fault is None:
            return self._call(request, caller, now, None), None
        if fault.kind in REFUSALS:
            if fault.after_effect:
                self._call(request, caller, now, None)
            return self._fault_answer(fault), fault
        if fault.kind == "timeout" and not fault.after_effect:
            return Answer(status=0, body=b""), fault
        return self._call(request, caller, now, fault), fault

    def _fault_answer(self, fault: FaultSpec) -> Answer:
        status, code = REFUSALS[fault.kind]
        if fault.kind == "502":  # a proxy in front of an API answers with an HTML page
            page = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
            return Answer(status=502, body=page, content_type="text/html")
        seconds = fault.retry_after_seconds
        if seconds is None and fault.kind == "429":
            seconds = 1.0
        return self._refusal(Refused(status, code, retry_after_seconds=seconds))

    def _call(self, request: _Request, caller: Caller, now: float, fault: FaultSpec | None) -> Answer:
        try:
            wanted = "GET" if request.kind == "job" else _ROUTES.get(request.path, ("", ""))[0]
            if not wanted:
                raise Refused(404, "not_found")
            if request.method not in (wanted, "HEAD" if wanted == "GET" else wanted):
                raise Refused(405, "method_not_allowed")
            if request.kind == "accounts":
                return self._success(200, "items", self.world.connect_accounts.listed(request.query))
            if request.kind == "credits":
                left = self.world.purse(caller.account, now).available_credits
                return self._success(200, "available_credits", left)
            if request.kind == "job":
                return self._read(request, caller, now, fault)
            return self._create(request, caller, now)
        except Refused as error:
            return self._refusal(error)

    def _read(self, request: _Request, caller: Caller, now: float, fault: FaultSpec | None) -> Answer:
        job = self._job(request, caller)
        if job is None:
            raise Refused(404, request.job[0].not_found if request.job else "not_found")
        kind = None if fault is None else fault.kind
        item = self.world.item_at(job, now, steps_back=1 if kind == "status_back" else 0)
        if fault is not None and kind == "unknown_status":
            item["status"] = fault.status_value
        return self._success(200, "item", item)

    def _job(self, request: _Request, caller: Caller) -> SandboxJob | None:
        """The job that the path names, if it is one of its kind and of the caller's account."""
        if request.job is None:
            return None
        kind, job_id = request.job
        job = self.world.job(job_id, account=caller.account)
        return job if job is not None and job.kind is kind else None

    def _create(self, request: _Request, caller: Caller, now: float) -> Answer:
        if not caller.can_create:
            raise Refused(403, "permission_denied")
        try:
            body = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            raise invalid("the body is not JSON") from None
        name = request.headers.get("idempotency-key", "")
        if not name:
            return self._make(body, request, caller, now)
        place = {"api_key": caller.key, "path": request.path, "name": name, "body": body}
        original = self._idempotency.find(**place)
        if original is not None:
            return original
        answer = self._make(body, request, caller, now)
        self._idempotency.keep(answer, **place)
        return answer

    def _make(self, body: Any, request: _Request, caller: Caller, now: float) -> Answer:
        digest = sha256(request.body).hexdigest()
        made = _MADE.get(request.kind)
        if made is not None:
            return self._start(made, body, digest, request, caller, now)
        order: dict[str, Any] = read(_BODIES[request.kind], body).job
        self.world.connect_accounts.check(order["connect_account_id"], order["channel"])
        job = self.world.create(account=caller.account, now=now, body_digest=digest, **order)
        return self._success(202, "item", accepted_item(job))

    def _start(self, kind: StagedKind, body: Any, digest: str, request: _Request, caller: Caller, now: float) -> Answer:
        """Creates a job of API v2. Its answer is held as long as the caller prefers, at most until the job ends."""
        if not isinstance(body, dict):
            raise invalid("the body is not an object")
        self.world.check_credits(caller.account, now)
        job = self.world.start(
            kind,
            account=caller.account,
            action=action_of(request.path.removeprefix(API_V2)),
            now=now,
            body={name: body[name] for name in _KEPT if name in body},
            body_digest=digest,
        )
        if kind is WEBSETS:
            return self._success(202, "webset", {"id": job.id, "status": job.steps[0].status})
        wait = _WAIT.search(request.headers.get("prefer", ""))
        seconds = 0 if wait is None else min(int(wait[1]), MAX_WAIT_SECONDS)
        ready_at = min(now + seconds, job.ended_at)
        status = 200 if ready_at == job.ended_at else 202
        return replace(self._success(status, "item", self.world.item_at(job, ready_at)), ready_at=ready_at)

    def _request_id(self) -> str:
        self._request_count += 1
        return "req_" + sha256(f"{self.world.seed}:{self._request_count}".encode()).hexdigest()[:24]

    def _success(self, status: int, name: str, content: Any) -> Answer:
        return json_answer(status, {"ok": True, "request_id": self._request_id(), name: content})

    def _refusal(self, refused: Refused) -> Answer:
        error = {"code": refused.code, "message": refused.message, "request_id": self._request_id()}
        seconds = refused.retry_after_seconds
        if seconds is None:
            return json_answer(refused.status, {"ok": False, "error": error})
        text = retry_after_text(seconds, whole_seconds=seconds == int(seconds) and seconds >= 1)
        return json_answer(refused.status, {"ok": False, "error": error}, (("Retry-After", text),))


def _named(path: str) -> tuple[Kind, str] | None:
    """The kind and id of the job that a path names."""
    for kind in RESOURCES.values():
        job_id = path.removeprefix(kind.reads)
        if job_id != path and job_id and "/" not in job_id:
            return kind, job_id
    return None
