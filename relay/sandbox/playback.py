"""The sandbox of any source over HTTP: plays its recorded answers under the source's own paths, and has the sandbox's
own endpoints under /_sandbox.

- `GET /_sandbox`: the source, seed, speed, time and number of jobs.
- `GET /_sandbox/jobs`: every job with its fate and the times of its stages.
- `POST /_sandbox/jobs`: makes a job: `resource` and `fate`, both optional.
- `POST /_sandbox/jobs/{id}/step`: moves a job on to its next stage.
- `GET | POST | DELETE /_sandbox/faults`: fault injection.
- `GET | DELETE /_sandbox/requests`: counts of the requests to the source's paths.
"""

from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from relay.clock import Clock, to_rfc3339, wall_clock
from relay.sandbox.controls import Controls, answered, body_of
from relay.sandbox.faults import CORRUPTIONS, REFUSALS, Answer, FaultInjector, FaultSpec, json_answer
from relay.sandbox.limits import RequestCounts
from relay.sandbox.recorded import Calls, RecordedJob, RecordedWorld, Reply, pattern_of
from relay.sandbox.requests import Body, Refused, invalid

MAX_BODY_BYTES = 16 * 1024 * 1024
_KINDS = (*REFUSALS, *CORRUPTIONS)
_MEANINGS = {
    **{"429": "rate_limited", "500": "unavailable", "502": "unavailable", "503": "unavailable"},
    **{"403": "forbidden", "404": "not_found", "revoked_key": "unauthorized"},
}


class _NewJob(Body):
    """The body of `POST /_sandbox/jobs`."""

    resource: str | None = None
    fate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Playback:
    """A source's stand-in. `name`: of the source."""

    name: str
    calls: Calls
    world: RecordedWorld
    faults: FaultInjector
    counts: RequestCounts = field(default_factory=RequestCounts)
    clock: Clock = wall_clock

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/_sandbox", self._overview, methods=["GET"]),
            Route("/_sandbox/jobs", self._jobs, methods=["GET", "POST"]),
            Route("/_sandbox/jobs/{id:path}/step", self._step, methods=["POST"]),
        ]
        return Controls(self.faults, self.counts, self.clock, _KINDS).app(routes, self._handle, MAX_BODY_BYTES)

    # --- the source's calls

    def _handle(self, scope: Scope, body: bytes | None) -> tuple[str, Answer, FaultSpec | None]:
        """See `Handle`. The kinds of calls are job, create, other and unknown."""
        if body is None:
            return "unknown", self._error("invalid", 413), None
        headers, query, now = Headers(scope=scope), QueryParams(scope["query_string"]), self.clock()
        method, path = scope["method"], scope["path"]
        fault = self.faults.draw(method=method, path=path, account=None, now=now)
        if not self.calls.key_of(headers, query):
            return "unknown", self._error("unauthorized", 401), None
        if fault is not None and fault.kind in REFUSALS and not fault.after_effect:
            return "unknown", self._refused(fault), fault
        kind, answer = self._call(method, path, scope["query_string"].decode("latin-1"), headers, body, now)
        if fault is not None and fault.kind in REFUSALS:
            return kind, self._refused(fault), fault
        return kind, answer, fault

    def _call(
        self, method: str, path: str, query: str, headers: Headers, body: bytes, now: float
    ) -> tuple[str, Answer]:
        base = f"http://{headers.get('host', 'localhost')}"
        whole, is_read = f"{path}?{query}" if query else path, False
        for resource, verb, pattern in self.calls.reads:
            found = pattern.fullmatch(path) or pattern.match(whole)
            if method == verb and found is not None and (pattern.fullmatch(path) or "?" in pattern.pattern):
                job, is_read = self.world.job(resource, found["id"]), True
                if job is not None:
                    return "job", _sent(self.world.reply(job, now, base))
        for resource, methods, pattern in self.calls.creates:
            if method in methods and pattern.fullmatch(path):
                made = self.world.create(resource, now, _json_of(body))
                return "create", _sent(self.world.created(made, base))
        for call in self.world.recording.calls:
            verb, _, other = call.call.partition(" ")
            matched = pattern_of(other).fullmatch(path) if verb == method else None
            if matched is None:
                continue
            if call.fate is None:
                return "other", _sent(call)
            known = self.world.named(matched["id"])
            if known is None or call.fate not in self.world.recording.resources[known.resource].fates:
                return "other", self._error("not_found", 404)
            return "other", _sent(self.world.reply(self.world.end(known, call.fate, now), now, base))
        if is_read:
            return "job", self._error("not_found", 404)
        return "unknown", self._error("unknown_call", 404)

    def _error(self, meaning: str, status: int) -> Answer:
        reply = self.world.recording.errors.get(meaning)
        if reply is None:
            reply = Reply(status=status, body={"error": meaning})
        return _sent(reply.model_copy(update={"headers": {**self.world.recording.headers, **reply.headers}}))

    def _refused(self, fault: FaultSpec) -> Answer:
        answer = self._error(_MEANINGS[fault.kind], REFUSALS[fault.kind][0])
        seconds = 1.0 if fault.retry_after_seconds is None and fault.kind == "429" else fault.retry_after_seconds
        if seconds is None:
            return answer
        kept = tuple(one for one in answer.headers if one[0].lower() != "retry-after")
        return Answer(status=answer.status, body=answer.body, headers=(*kept, ("Retry-After", f"{seconds:g}")))

    # --- the sandbox's own

    async def _overview(self, request: Request) -> Response:
        world = self.world
        shown = {"source": self.name, "seed": world.seed, "speed": world.speed, "now": to_rfc3339(self.clock())}
        return answered({"ok": True, **shown, "jobs": len(world.jobs()), "resources": list(world.recording.resources)})

    async def _jobs(self, request: Request) -> Response:
        if request.method == "GET":
            return answered({"ok": True, "jobs": [_truth(job) for job in self.world.jobs()]})
        wanted = await body_of(_NewJob, request)
        recorded = self.world.recording.resources
        resource = wanted.resource or next(iter(recorded))
        if resource not in recorded:
            raise invalid(f"resource: {resource!r:.70} is not recorded: known are {', '.join(recorded)}")
        fates = recorded[resource].fates
        if wanted.fate is not None and wanted.fate not in fates:
            raise invalid(f"fate: {wanted.fate!r:.70} is not recorded: known are {', '.join(fates)}")
        job = self.world.create(resource, self.clock(), fate=wanted.fate)
        return answered({"ok": True, "job": _truth(job)}, 201)

    async def _step(self, request: Request) -> Response:
        job = self.world.named(request.path_params["id"])
        if job is None:
            raise Refused(404, "not_found", "no such job")
        return answered({"ok": True, "job": _truth(self.world.step(job, self.clock()))})


def _truth(job: RecordedJob) -> dict[str, Any]:
    stages = [
        {"at": to_rfc3339(at), "at_epoch_seconds": at, "show": stage.show}
        for at, stage in zip(job.begins, job.stages, strict=True)
    ]
    return {"id": job.id, "resource": job.resource, "fate": job.fate, "stages": stages}


def _sent(reply: Reply) -> Answer:
    headers = tuple(reply.headers.items())
    if reply.body is None:
        return Answer(status=reply.status, body=b"", headers=headers)
    return json_answer(reply.status, reply.body, headers)


def _json_of(body: bytes) -> Any:
    try:
        return orjson.loads(body) if body else None
    except orjson.JSONDecodeError:
        return None
