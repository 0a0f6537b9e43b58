"""The sandbox's own endpoints under /_sandbox. They need no key and have no limit and no faults: loopback only.

- `GET /_sandbox`: seed, speed, the time, the number of jobs.
- `GET /_sandbox/jobs[?after=<index>&limit=<n>]`: the true lifecycle of every job, and the digest of the body that
  created it. `next_after` is null on the last page.
- `GET /_sandbox/jobs/{id}`: the same for one job.
- `POST /_sandbox/jobs`: creates jobs with a given fate instead of a drawn one.
- `GET | POST /_sandbox/accounts`, `DELETE /_sandbox/accounts/{id}`: lists, breaks, repairs, adds and removes connect
  accounts.
- `GET | POST | DELETE /_sandbox/faults`, `DELETE /_sandbox/faults/{id}`: fault injection.
- `GET | DELETE /_sandbox/requests`: counts of the requests to /api/v1.
"""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.clock import Clock, to_rfc3339
from relay.sandbox.connect_accounts import ACCOUNT_STATUSES, CHANNELS, PLACEHOLDER_ACCOUNT_ID
from relay.sandbox.fate import RETRYABLE_BY_CODE, Script
from relay.sandbox.faults import KINDS, FaultInjector, parse_fault
from relay.sandbox.fields import (
    Fields,
    Refused,
    flag,
    invalid,
    json_object,
    number,
    one_of,
    refuse_unknown,
    required_text,
    text,
    whole_number,
)
from relay.sandbox.lifecycle import accepted_item
from relay.sandbox.limits import RequestCounts
from relay.sandbox.wire import BodyTooLarge, read_body
from relay.sandbox.world import DEFAULT_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS, World

MAX_BODY_BYTES = 64 * 1024
MAX_JOBS_PER_CALL = 10_000
MAX_ATTEMPT_FAILURES = 10
MAX_SCRIPT_SECONDS = 86_400.0
_ACTIONS = ("outreach.dispatch", "outreach.linkedin.post_like")
_FINALS = ("succeeded", "failed", "cancelled")
_JOB_FIELDS = frozenset(
    {
        *("count", "account", "connect_account_id", "channel", "action", "min_channel_task_interval_seconds"),
        *Script.__dataclass_fields__,
    }
)
_ACCOUNT_FIELDS = frozenset({"id", "status", "can_send", "channel", "name"})
_MAX_ACCOUNT_CHARACTERS = 200


def admin_routes(world: World, faults: FaultInjector, request_counts: RequestCounts, clock: Clock) -> list[Route]:
    """The routes under /_sandbox."""
    admin = _Admin(world, faults, request_counts, clock)
    return [
        Route("/_sandbox", admin.overview, methods=["GET"]),
        Route("/_sandbox/jobs", admin.jobs, methods=["GET", "POST"]),
        Route("/_sandbox/jobs/{job_id}", admin.job, methods=["GET"]),
        Route("/_sandbox/accounts", admin.accounts, methods=["GET", "POST"]),
        Route("/_sandbox/accounts/{account_id}", admin.account, methods=["DELETE"]),
        Route("/_sandbox/faults", admin.fault_list, methods=["GET", "POST", "DELETE"]),
        Route("/_sandbox/faults/{fault_id:int}", admin.fault, methods=["DELETE"]),
        Route("/_sandbox/requests", admin.requests, methods=["GET", "DELETE"]),
    ]


@dataclass(frozen=True, slots=True)
class _Admin:
    _world: World
    _faults: FaultInjector
    _request_counts: RequestCounts
    _clock: Clock

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
        try:
            if request.method == "POST":
                return self._create(await _body(request))
            return self._list(request)
        except Refused as error:
            return _refusal(error)

    async def job(self, request: Request) -> Response:
        job = self._world.job(request.path_params["job_id"])
        if job is None:
            return _refusal(Refused(404, "external_api_job_not_found"))
        return _json({"ok": True, "job": self._world.truth(job, self._clock())})

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

    def _create(self, body: object) -> Response:
        """Creates the jobs of one call, all with the same creation time."""
        fields = json_object(body, "the body")
        refuse_unknown(fields, _JOB_FIELDS)
        count = whole_number(fields, "count", 1, MAX_JOBS_PER_CALL) or 1
        action = one_of(fields, "action", _ACTIONS) or _ACTIONS[0]
        channel = one_of(fields, "channel", CHANNELS) or ("email" if action == _ACTIONS[0] else "linkedin")
        account = fields.get("account", "default")
        if not isinstance(account, str) or not 0 < len(account) <= 100 or "-" in account:
            raise invalid("account must be a text of 1 to 100 characters without '-'")
        connect_account_id = text(fields, "connect_account_id") or PLACEHOLDER_ACCOUNT_ID
        if connect_account_id not in self._world.connect_accounts:
            raise Refused(404, "account_not_found")
        interval = whole_number(fields, "min_channel_task_interval_seconds", 0, MAX_INTERVAL_SECONDS)
        script = _script(fields)
        now = self._clock()
        jobs = [
            self._world.create(
                account=account,
                channel=channel,
                action=action,
                connect_account_id=connect_account_id,
                interval_seconds=DEFAULT_INTERVAL_SECONDS if interval is None else interval,
                now=now,
                script=script,
            )
            for _ in range(count)
        ]
        return _json({"ok": True, "items": [accepted_item(job) for job in jobs]}, 201)

    async def accounts(self, request: Request) -> Response:
        world = self._world
        if request.method == "GET":
            return _json({"ok": True, "accounts": world.connect_accounts.listed()})
        try:
            fields = json_object(await _body(request), "the body")
            refuse_unknown(fields, _ACCOUNT_FIELDS)
            account_id = required_text(fields, "id")
            text(fields, "id", max_characters=_MAX_ACCOUNT_CHARACTERS)
            changed = world.set_connect_account(
                account_id,
                self._clock(),
                status=one_of(fields, "status", ACCOUNT_STATUSES),
                can_send=flag(fields, "can_send"),
                channel=one_of(fields, "channel", CHANNELS),
                name=text(fields, "name", max_characters=_MAX_ACCOUNT_CHARACTERS),
            )
        except Refused as error:
            return _refusal(error)
        return _json({"ok": True, "account": changed})

    async def account(self, request: Request) -> Response:
        try:
            self._world.remove_connect_account(request.path_params["account_id"], self._clock())
        except Refused as error:
            return _refusal(error)
        return _json({"ok": True})

    async def fault_list(self, request: Request) -> Response:
        now = self._clock()
        if request.method == "DELETE":
            return _json({"ok": True, "cleared": self._faults.clear()})
        if request.method == "POST":
            try:
                fault = self._faults.add(parse_fault(await _body(request)), now)
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


def _script(fields: Fields) -> Script:
    final = one_of(fields, "final", _FINALS)
    failures = whole_number(fields, "attempt_failures", 0, MAX_ATTEMPT_FAILURES)
    if final == "cancelled" and failures:
        raise invalid("a cancelled job has no attempts: leave out attempt_failures")
    return Script(
        final=final,
        attempt_failures=failures,
        error_code=one_of(fields, "error_code", tuple(RETRYABLE_BY_CODE)),
        run_seconds=_seconds(fields, "run_seconds"),
        start_delay_seconds=_seconds(fields, "start_delay_seconds"),
        retry_pause_seconds=_seconds(fields, "retry_pause_seconds"),
        waiting_status=one_of(fields, "waiting_status", ("queued", "scheduled")),
        skipped=flag(fields, "skipped"),
        in_lane=flag(fields, "in_lane") is not False,
        show_scheduled_at=flag(fields, "show_scheduled_at") is not False,
    )


def _seconds(fields: Fields, name: str) -> float | None:
    return number(fields, name, 0, MAX_SCRIPT_SECONDS)


async def _body(request: Request) -> object:
    try:
        found: object = orjson.loads(await read_body(request.receive, max_bytes=MAX_BODY_BYTES))
    except BodyTooLarge:
        raise invalid(f"the body is larger than {MAX_BODY_BYTES} bytes") from None
    except orjson.JSONDecodeError:
        raise invalid("the body is not JSON") from None
    return found


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


def _refusal(error: Refused) -> Response:
    return _json({"ok": False, "error": {"code": error.code, "message": error.message}}, error.status)
