"""The sandbox's own calls under /_sandbox: no key, no limit, no faults. For a loopback address only.

- `GET /_sandbox`: seed, speed, the time, how many jobs.
- `GET /_sandbox/jobs[?after=<index>&limit=<n>]`: the true life of every job, and the digest of the body that made it;
  `next_after` is null on the last page.
- `GET /_sandbox/jobs/{id}`: one job's.
- `POST /_sandbox/jobs`: makes jobs whose fate is told instead of drawn.
- `GET | POST | DELETE /_sandbox/faults`, `DELETE /_sandbox/faults/{id}`: the fault book.
- `GET | DELETE /_sandbox/requests`: counts of the requests to /api/v1.
"""

import math
from collections.abc import Mapping
from itertools import islice
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.clock import Clock, to_rfc3339
from relay.sandbox.bodies import CHANNELS, PLACEHOLDER_ACCOUNT_ID, Refused
from relay.sandbox.fate import RETRYABLE_BY_CODE, Script
from relay.sandbox.faults import KINDS, FaultInjector, FaultInvalid, parse_fault
from relay.sandbox.request_counts import RequestCounts
from relay.sandbox.wire import BodyTooLarge, read_body
from relay.sandbox.world import DEFAULT_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS, World, WorldFull

MAX_BODY_BYTES = 64 * 1024
MAX_JOBS_A_CALL = 10_000
MAX_ATTEMPT_FAILURES = 10
MAX_SCRIPT_SECONDS = 86_400.0
_ACTIONS = ("outreach.dispatch", "outreach.linkedin.post_like")
_FINALS = ("succeeded", "failed", "cancelled")
_JOB_FIELDS = frozenset(
    {"count", "account", "channel", "action", "min_channel_task_interval_seconds", *Script.__dataclass_fields__}
)


def admin_routes(world: World, faults: FaultInjector, request_counts: RequestCounts, clock: Clock) -> list[Route]:
    """The routes under /_sandbox."""
    calls = _Calls(world, faults, request_counts, clock)
    return [
        Route("/_sandbox", calls.overview, methods=["GET"]),
        Route("/_sandbox/jobs", calls.jobs, methods=["GET", "POST"]),
        Route("/_sandbox/jobs/{job_id}", calls.job, methods=["GET"]),
        Route("/_sandbox/faults", calls.fault_list, methods=["GET", "POST", "DELETE"]),
        Route("/_sandbox/faults/{fault_id:int}", calls.fault, methods=["DELETE"]),
        Route("/_sandbox/requests", calls.requests, methods=["GET", "DELETE"]),
    ]


class _Calls:
    def __init__(self, world: World, faults: FaultInjector, request_counts: RequestCounts, clock: Clock) -> None:
        self._world = world
        self._faults = faults
        self._request_counts = request_counts
        self._clock = clock

    async def overview(self, request: Request) -> Response:
        world = self._world
        return _json(
            {
                "ok": True,
                "seed": world.seed,
                "speed": world.speed,
                "count_attempts": world.behaviour.count_attempts,
                "now": to_rfc3339(self._clock()),
                "jobs": len(world),
            }
        )

    async def jobs(self, request: Request) -> Response:
        if request.method == "POST":
            try:
                return self._make(await _body(request))
            except Refused as error:
                return _refusal(error)
        now = self._clock()
        try:
            after = int(request.query_params.get("after", -1))
            limit = int(request.query_params.get("limit", MAX_JOBS_A_CALL))
        except ValueError:
            return _refusal(Refused(400, "invalid_request", "after and limit must be whole numbers"))
        limit = min(max(limit, 1), MAX_JOBS_A_CALL)
        page = list(islice((job for job in self._world.jobs() if job.index > after), limit + 1))
        shown = page[:limit]
        return _json(
            {
                "ok": True,
                "now": to_rfc3339(now),
                "seed": self._world.seed,
                "speed": self._world.speed,
                "next_after": shown[-1].index if len(page) > limit else None,
                "jobs": [self._world.truth(job, now) for job in shown],
            }
        )

    async def job(self, request: Request) -> Response:
        job = self._world.job(request.path_params["job_id"])
        if job is None:
            return _refusal(Refused(404, "external_api_job_not_found"))
        return _json({"ok": True, "job": self._world.truth(job, self._clock())})

    def _make(self, body: object) -> Response:
        """Jobs as told; all of a call are made at one moment."""
        fields = _fields(body)
        count = _whole(fields, "count", 1, MAX_JOBS_A_CALL, default=1)
        action = _one_of(fields, "action", _ACTIONS) or _ACTIONS[0]
        channel = _one_of(fields, "channel", CHANNELS) or ("email" if action == _ACTIONS[0] else "linkedin")
        account = fields.get("account", "default")
        if not isinstance(account, str) or not 0 < len(account) <= 100 or "-" in account:
            raise _invalid("account must be a text of 1 to 100 characters without '-'")
        interval = _whole(
            fields, "min_channel_task_interval_seconds", 0, MAX_INTERVAL_SECONDS, default=DEFAULT_INTERVAL_SECONDS
        )
        script = _script(fields)
        now = self._clock()
        try:
            made = [
                self._world.create(
                    account=account,
                    channel=channel,
                    action=action,
                    connect_account_id=PLACEHOLDER_ACCOUNT_ID,
                    interval_seconds=interval,
                    now=now,
                    script=script,
                )
                for _ in range(count)
            ]
        except WorldFull:
            raise Refused(503, "task_unavailable") from None
        return _json({"ok": True, "items": [self._world.accepted_item(job) for job in made]}, 201)

    async def fault_list(self, request: Request) -> Response:
        now = self._clock()
        if request.method == "DELETE":
            return _json({"ok": True, "cleared": self._faults.clear()})
        if request.method == "POST":
            try:
                fault = self._faults.add(parse_fault(await _body(request)), now)
            except FaultInvalid as error:
                return _refusal(Refused(400, "invalid_request", str(error)))
            except Refused as error:
                return _refusal(error)
            return _json({"ok": True, "fault": fault.shown(now)}, 201)
        return _json({"ok": True, "faults": [fault.shown(now) for fault in self._faults.faults()], "kinds": KINDS})

    async def fault(self, request: Request) -> Response:
        return _json({"ok": True, "cleared": self._faults.clear(request.path_params["fault_id"])})

    async def requests(self, request: Request) -> Response:
        if request.method == "DELETE":
            self._request_counts.clear()
        return _json({"ok": True, **self._request_counts.shown()})


def _script(fields: Mapping[str, Any]) -> Script:
    final = _one_of(fields, "final", _FINALS)
    failures = _whole(fields, "attempt_failures", 0, MAX_ATTEMPT_FAILURES, default=None)
    if final == "cancelled" and failures:
        raise _invalid("a cancelled job has no attempts: leave out attempt_failures")
    return Script(
        final=final,  # type: ignore[arg-type]  # checked just above
        attempt_failures=failures,
        error_code=_one_of(fields, "error_code", tuple(RETRYABLE_BY_CODE)),
        run_seconds=_seconds(fields, "run_seconds"),
        start_delay_seconds=_seconds(fields, "start_delay_seconds"),
        retry_pause_seconds=_seconds(fields, "retry_pause_seconds"),
        waiting_status=_one_of(fields, "waiting_status", ("queued", "scheduled")),  # type: ignore[arg-type]
        skipped=_flag(fields, "skipped", None),
        in_lane=_flag(fields, "in_lane", True) is not False,
        show_scheduled_at=_flag(fields, "show_scheduled_at", True) is not False,
    )


async def _body(request: Request) -> object:
    try:
        found: object = orjson.loads(await read_body(request.receive, max_bytes=MAX_BODY_BYTES))
    except BodyTooLarge:
        raise _invalid(f"the body is larger than {MAX_BODY_BYTES} bytes") from None
    except orjson.JSONDecodeError:
        raise _invalid("the body is not JSON") from None
    return found


def _fields(body: object) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise _invalid("the body must be a JSON object")
    unknown = sorted(set(body) - _JOB_FIELDS)
    if unknown:
        raise _invalid(f"unknown field {unknown[0]!r}")
    return body


def _whole(fields: Mapping[str, Any], name: str, least: int, most: int, *, default: Any) -> Any:
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _invalid(f"{name} must be a whole number, {least} to {most}")
    return value


def _seconds(fields: Mapping[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _invalid(f"{name} must be a number of seconds")
    if not 0 <= value <= MAX_SCRIPT_SECONDS:
        raise _invalid(f"{name} must be 0 to {MAX_SCRIPT_SECONDS:.0f}")
    return float(value)


def _one_of(fields: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> str | None:
    value = fields.get(name)
    if value is not None and value not in allowed:
        raise _invalid(f"{name} must be one of {', '.join(allowed)}")
    return value


def _flag(fields: Mapping[str, Any], name: str, default: bool | None) -> bool | None:
    value = fields.get(name, default)
    if value is not None and not isinstance(value, bool):
        raise _invalid(f"{name} must be true or false")
    return value


def _invalid(message: str) -> Refused:
    return Refused(400, "invalid_request", message)


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


def _refusal(error: Refused) -> Response:
    return _json({"ok": False, "error": {"code": error.code, "message": error.message}}, error.status)
