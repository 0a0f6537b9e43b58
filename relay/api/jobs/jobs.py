"""`/v1/jobs`: register, read, wait, refresh, explain, untrack."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.responses import Response

from relay.api.events.events import EventPage
from relay.api.http import stream
from relay.api.http.auth import READS_JOBS, WRITES_JOBS
from relay.api.http.fields import ID_PATTERN, JOB_ID, JOB_UID, SOURCE, Body, NextCursor, Nothing
from relay.api.http.idempotency import STORED, STORED_BATCH, Repeats, members
from relay.api.http.limits import MAX_BATCH_BODY_BYTES
from relay.api.http.operations import (
    LAST_EVENT_ID,
    LOCATION,
    NEXT,
    STREAM,
    Answer,
    Call,
    Operation,
    json_response,
    page_response,
)
from relay.api.http.params import PAGE, Parameter, boolean, choice, text, time
from relay.api.http.problems import did_you_mean, invalid_parameter
from relay.api.http.shown import (
    JobRequest,
    LastError,
    Shown,
    Time,
    example_of,
    job_request_view,
    last_error_view,
)
from relay.api.http.validation import validate
from relay.api.http.warnings import warnings_of_hosts
from relay.api.jobs import waiting
from relay.api.jobs.registration import (
    JobBatch,
    JobRegistration,
    Rejected,
    UpstreamAnswer,
    read_batch,
    read_registration,
    rejection,
)
from relay.core.jobs import job as core
from relay.core.jobs.job import KNOWN_STATUSES, MAX_VALUE_CHARACTERS, Priority
from relay.core.polling import tracking
from relay.core.polling.tracking import TrackRequest
from relay.core.records import Page
from relay.core.trace_context import TraceContext
from relay.errors import Conflict, NotFound, RequestError
from relay.redaction import redact_text
from relay.store.databases.pages import decode_position, encode_cursor
from relay.store.jobs.job_pages import OfResource
from relay.store.jobs.job_search import FoundJobs
from relay.tasks import Turns
from relay.tracing import request_span

BATCH_CHUNK = 250
"""Jobs of a batch tracked in one transaction. Other requests, and other writes, have their turn between two."""

MAX_METADATA_CHARACTERS = 64 + 1 + MAX_VALUE_CHARACTERS
"""A key of `web.search_keys`, a colon and a value."""

MAX_BULK_IDS = 100

MAX_COUNTED = 1_000
COUNTED: Mapping[str, Mapping[str, Any]] = {
    "all": {},
    "open": {"open": True},
    **{status: {"status": status} for status in ("failed", "cancelled", "succeeded")},
}
"""The filters of `counts`."""

Outcome = Literal["succeeded", "failed", "cancelled", "not_found", "untracked"]


class JobProblem(Shown):
    """The error that a job failed with, and its fix."""

    code: str
    message: str
    meaning: str = Field(description="What the error means, in plain words.")
    fix: str = Field(description="What to do about the cause.")
    who: str = Field(description="Who can do it.")
    repeat: Literal["safe", "useless", "may_send_twice"] = Field(description="The effect of sending its create again.")


class Job(Shown):
    """A tracked job."""

    uid: str = Field(description="The relay's id of the job.", examples=[JOB_UID])
    id: str = Field(description="The upstream's id of the job.", examples=[JOB_ID])
    source: str = Field(examples=[SOURCE])
    account: str = Field(examples=["default"])
    resource: str | None = Field(
        description="The kind of job, by its name in the source's definition; null if the settings no longer have the "
        "source.",
        examples=["jobs"],
    )
    status: str | None = Field(
        description="The last upstream status; null before the first poll.", examples=["scheduled"]
    )
    outcome: Outcome | None
    open: bool = Field(description="True while the relay polls the job.", examples=[True])
    sequence: int = Field(description="The number of events so far.", examples=[1])
    metadata: Mapping[str, Any] = Field(examples=[{"deal": 42}])
    request: JobRequest
    connect_account_id: str | None = Field(description="The upstream's id of the sending account.", examples=["acc_1"])
    connect_account_name: str | None = Field(
        default=None, description="The name of the sending account, if it is known, in lists and where one job is read."
    )
    group: str | None = Field(description="The name of its group.", examples=["Q4 campaign"])
    priority: Priority = Field(examples=["normal"])
    tracked_at: Time
    last_polled_at: Time | None = Field(examples=["2026-05-20T10:00:01.000Z"])
    next_poll_at: Time | None = Field(examples=["2026-05-20T10:00:06.000Z"])
    closed_at: Time | None
    poll_count: int = Field(examples=[1])
    last_error: LastError | None
    action: str | None = Field(description="What it does, as the upstream names it.", examples=["linkedin.invite"])
    channel: str | None = Field(description="The channel, as the upstream names it.", examples=["linkedin"])
    scheduled_at: Time | None = Field(
        description="The earliest time of its start.", examples=["2026-05-20T10:00:05.000Z"]
    )
    started_at: Time | None = Field(description="When its last attempt started.")
    next_attempt_at: Time | None = Field(description="When a retrying job is tried again.")
    result_status: str | None = Field(
        description="How it succeeded, such as `accepted` or `skipped`; null if that is unknown."
    )
    attempt_count: int = Field(description="The number of attempts, as the upstream counts them.")
    deadline_at: Time | None = Field(
        description="After this time an open job is `overdue`.", examples=["2026-05-27T10:00:05.000Z"]
    )
    problem: JobProblem | None = Field(
        description="What it failed with, if its last change was a failure, a cancellation or a failed attempt."
    )
    upstream: Mapping[str, Any] | None = Field(
        description="The upstream's item at the last poll.", examples=[{"id": JOB_ID, "status": "scheduled"}]
    )


class SearchMatch(Shown):
    """What a search was found as."""

    by: Literal["id", "group", "connect_account", "metadata"] = Field(examples=["metadata"])
    value: str = Field(
        description="The id as given, the group's name, the upstream's id of the sending account, or the value.",
        examples=["Ada Lovelace"],
    )
    key: str | None = Field(description="The key of the metadata.", examples=["contact"])
    name: str | None = Field(description="The name of the sending account, if it is known.")


class JobSearch(Shown):
    """What `search` was found as."""

    matches: list[SearchMatch] = Field(
        description="As far as jobs of this page or of later ones have it.", examples=[[example_of(SearchMatch)]]
    )
    more: bool = Field(description="True if more values or ids begin so than are searched: search for more of it.")


class JobCount(Shown):
    """A number of jobs."""

    count: int = Field(examples=[412])
    more: bool = Field(description="True if there may be more: at most 1,000 are counted.")


class JobCounts(Shown):
    """Numbers of the jobs that the other filters find, without `status`, `open` and `search`."""

    all: JobCount = Field(examples=[{"count": 1000, "more": True}])
    open: JobCount
    failed: JobCount
    cancelled: JobCount
    succeeded: JobCount


class JobPage(Shown):
    """One page of jobs."""

    items: list[Job]
    search: JobSearch | None = Field(default=None, description="With `search`.")
    counts: JobCounts | None = Field(default=None, description="With `counts=true`.")
    next_cursor: NextCursor


class BatchResult(Shown):
    """The result of a batch."""

    created: int = Field(examples=[9998])
    existing: int = Field(examples=[1])
    rejected: list[Rejected]
    warnings: list[str] = Field(default=[], description="Hosts of callbacks that do not resolve.")


class BulkChange(Body):
    """A change of several jobs."""

    action: Literal["refresh", "untrack"] = Field(
        description="refresh: poll as soon as the budget allows; untrack: stop tracking."
    )
    ids: list[Annotated[str, Field(pattern=ID_PATTERN)]] = Field(
        min_length=1,
        max_length=MAX_BULK_IDS,
        description="Ids as in the path of one job.",
        examples=[["job-1", JOB_UID]],
    )


class BulkItem(Shown):
    """The result for one job."""

    id: str = Field(description="As it was given.")
    status: int = Field(description="The status that the call for this one job would have had.")
    code: str | None = Field(description="The code of its problem.")
    error: str | None = Field(description="What is wrong, in a sentence.")


class BulkResult(Shown):
    """The result for each job, in the order of `ids`."""

    items: list[BulkItem] = Field(
        examples=[
            [
                {"id": "job-1", "status": 202, "code": None, "error": None},
                {"id": JOB_UID, "status": 404, "code": "job_not_found", "error": f"no job '{JOB_UID}' is tracked here"},
            ]
        ]
    )


class ExplainedError(LastError):
    """The last error, and how to fix it."""

    meaning: str = Field(description="What the error means, in plain words.")
    fix: str = Field(description="What to do about the cause.")
    who: str = Field(description="Who can do it.")


class OutlookPoint(Shown):
    """One known time of a job in the near future."""

    time: Time = Field(examples=["2026-05-20T10:00:06.000Z"])
    hazard_per_second: float = Field(
        description="The rate of the change at this time, if it has not happened before.", examples=[0.9]
    )
    expected_delay_seconds: float = Field(
        description="The mean time for which the job has ended by then without being polled.", examples=[0.3]
    )


class Outlook(Shown):
    """The costs that the next poll was weighed against: a poll is worth a request once the expected delay reaches the
    price."""

    change: Literal["start", "end"] = Field(description="The change that is expected next.", examples=["end"])
    price_seconds: float = Field(description="The seconds of delay that a poll of this job must save.", examples=[0.8])
    points: list[OutlookPoint]


class Explanation(Shown):
    """The time of the next poll, and the reason why it is not earlier."""

    uid: str = Field(examples=[JOB_UID])
    id: str = Field(examples=[JOB_ID])
    status: str | None = Field(examples=["scheduled"])
    open: bool = Field(examples=[True])
    reason: str = Field(examples=["before_anchor"])
    sentence: str = Field(
        examples=[
            "Nothing can happen to it before 10:00:00 UTC; the next poll comes in 5 s, at 10:00:06 UTC, when it is "
            "likely to have ended: polling earlier would take requests from jobs that need them more. Its end is known "
            "about 1.2 s after it happens."
        ]
    )
    waiting_for: str | None
    next_poll_at: Time | None = Field(examples=["2026-05-20T10:00:06.000Z"])
    not_before: Time | None = Field(
        description="The earliest time at which the request budget allows that poll.",
        examples=["2026-05-20T10:00:06.000Z"],
    )
    expected_delay_seconds: float | None = Field(
        description="The expected delay between the job's end and its detection, on average; null if unknown.",
        examples=[1.2],
    )
    last_polled_at: Time | None = Field(examples=["2026-05-20T10:00:01.000Z"])
    last_request_id: str | None = Field(examples=["req_8c1f"])
    last_error: ExplainedError | None = Field(
        description="The error of the account or of the last poll, else the error the job failed with; null if "
        "there is none. `at` is null if unknown."
    )
    outlook: Outlook | None = Field(
        description="Null if the price of requests does not decide the poll.", examples=[example_of(Outlook)]
    )


class RegisteredJob(Job):
    """A job as its registration answers."""

    warnings: list[str] = Field(
        default=[], description="What is likely to be wrong, such as a callback whose host does not resolve."
    )


def job_view(call: Call, job: core.Job) -> dict[str, Any]:
    """A job as this caller sees it."""
    problem = None
    if (found := call.dependencies.tracking.problem_of(job)) is not None:
        failed_with, hint = found
        problem = JobProblem.of(hint, code=failed_with.code, message=redact_text(failed_with.message))
    return Job.of(
        job,
        id=job.external_id,
        resource=call.context.settings.resource_name(job.source, job.resource),
        status=job.progress.status,
        sequence=job.progress.sequence,
        request=job_request_view(job.request),
        next_poll_at=job.next_poll_at if job.open else None,
        last_error=last_error_view(job.last_error),
        next_attempt_at=job.next_attempt_at if job.progress.phase == "retrying" else None,
        problem=problem,
    )


async def shown_jobs(call: Call, jobs: Sequence[core.Job]) -> list[dict[str, Any]]:
    """Many of them. To redact the message of one can take a millisecond, so others have their turn in between."""
    keys = [(job.source, job.account, job.connect_account_id) for job in jobs]
    names = await call.dependencies.store.connect_accounts.names(keys)
    turns, shown = Turns(), list[dict[str, Any]]()
    for job, key in zip(jobs, keys, strict=True):
        name = names.get(key)
        shown.append(job_view(call, job) | ({} if name is None else {"connect_account_name": name}))
        if turns.over:
            await turns.next()
    return shown


def explanation_view(job: core.Job, explanation: tracking.Explanation) -> dict[str, Any]:
    """The time of a job's next poll and its reason, as JSON."""
    error = explanation.last_error
    outlook = explanation.outlook
    shown_error = None if error is None else {**error, **(last_error_view(error) or {})}
    return Explanation.of(
        explanation,
        uid=job.uid,
        id=job.external_id,
        status=job.progress.status,
        open=job.open,
        last_error=shown_error,
        outlook=None
        if outlook is None
        else Outlook.of(outlook, points=[OutlookPoint.of(point, time=point.at) for point in outlook.points]),
    )


operation = partial(Operation, tag="Jobs", bound=True, scopes=READS_JOBS)

_WHICH = (
    text("source", "Only jobs of this source. Also selects one of several jobs with the same id."),
    text("account", "Only jobs of this account. Also selects one of several jobs with the same id."),
    text("resource", "Only jobs of this resource, by its name. Also selects one of several jobs with the same id."),
)


def _read_metadata(value: str) -> str:
    if len(value) > MAX_METADATA_CHARACTERS or ":" not in value[1:]:
        raise ValueError("KEY:VALUE is expected, with a value of at most 1,000 characters")
    return value


_METADATA = Parameter(
    name="metadata",
    description="A key of the metadata and its exact value, as `KEY:VALUE`. The key is one of `web.search_keys`; the "
    "value is a string, a number or a boolean.",
    schema={"type": "string", "pattern": "^[^:]+:", "maxLength": MAX_METADATA_CHARACTERS},
    read=_read_metadata,
)


async def _by_uid(call: Call, kept: Mapping[str, Any]) -> dict[str, Any]:
    job = await call.dependencies.store.jobs.get(kept["uid"])
    if job is None:
        raise NotFound("the job was erased", code="job_not_found")
    return job_view(call, job)


_AMBIGUOUS = {409: "Several jobs have this id: use `source`, `account` and `resource`, or the uid."}


@operation(
    "POST /v1/jobs",
    repeats=Repeats(members("uid"), _by_uid),
    counted="jobs.register",
    scopes=WRITES_JOBS,
    body=JobRegistration,
    also_bodies=(UpstreamAnswer,),
    answers={
        201: Answer("The job is now tracked.", RegisteredJob, headers=LOCATION),
        200: Answer("The job was already tracked; the callback and metadata of the body were added.", RegisteredJob),
    },
    problems={409: "The job belongs to another group."},
)
async def register_job(call: Call) -> Response:
    """Track a job.

    The upstream's answer to a create is also a valid body.
    """
    with request_span(call.dependencies.tracing, "create", "server", call.request.headers.raw) as span:
        response = await _register(call, span.context)
        span.set("http.response.status_code", response.status_code)
        return response


async def _register(call: Call, trace: TraceContext | None) -> Response:
    request = read_registration(call.document, call.dependencies, call.caller)
    if trace is not None:
        request = request._replace(trace=trace.kept())
    (result,) = await call.dependencies.tracking.register((request,))
    if isinstance(result, RequestError):
        raise result
    headers = {"Location": f"/v1/jobs/{result.job.uid}"}
    shown = job_view(call, result.job)
    if warnings := await _warnings(call, [request]):
        shown["warnings"] = warnings
    return json_response(shown, 201 if result.created else 200, headers if result.created else None)


async def _warnings(call: Call, requests: Iterable[TrackRequest]) -> list[str]:
    urls = (request.callback_url for request in requests)
    return await warnings_of_hosts(call.dependencies, filter(None, urls), "callback_url")


@operation(
    "POST /v1/jobs/batch",
    repeats=STORED_BATCH,
    counted="jobs.register",
    scopes=WRITES_JOBS,
    body=JobBatch,
    reads_body=True,
    max_body_bytes=MAX_BATCH_BODY_BYTES,
    answers={200: Answer("The number of jobs created, and the rejected ones.", BatchResult)},
    problems={429: "Too many batches are being tracked."},
)
async def register_jobs(call: Call) -> Response:
    """Track up to 10,000 jobs."""
    headers, tracing = call.request.headers.raw, call.dependencies.tracing
    with (
        call.dependencies.admission.batches.held(call.caller),
        request_span(tracing, "create", "server", headers) as span,
    ):
        answer = await _register_batch(call, span.context)
        span.set("relay.job.count", call.count)
        return json_response(answer)


async def _register_batch(call: Call, trace: TraceContext | None) -> dict[str, Any]:
    requests, rejected = await read_batch(call.body, call.dependencies, call.caller)
    if trace is not None:
        kept = trace.kept()
        requests = [(index, request._replace(trace=kept)) for index, request in requests]
    counts = {True: 0, False: 0}
    for first in range(0, len(requests), BATCH_CHUNK):
        chunk = requests[first : first + BATCH_CHUNK]
        outcomes = await call.dependencies.tracking.register([request for _, request in chunk])
        for (index, _), outcome in zip(chunk, outcomes, strict=True):
            if isinstance(outcome, RequestError):
                rejected.append(rejection(index, outcome))
            else:
                counts[outcome.created] += 1
    rejected.sort(key=lambda one: one["index"])
    call.count = counts[True] + counts[False]
    answer: dict[str, Any] = {"created": counts[True], "existing": counts[False], "rejected": rejected}
    if warnings := await _warnings(call, (request for _, request in requests)):
        answer["warnings"] = warnings
    return answer


@operation(
    "POST /v1/jobs/bulk",
    repeats=STORED,
    audited="jobs.bulk",
    scopes=WRITES_JOBS,
    body=BulkChange,
    answers={200: Answer("What came of each job.", BulkResult)},
)
async def change_jobs(call: Call) -> Response:
    """Poll up to 100 jobs soon, or stop tracking them.

    Each as with the call for one job, and whatever came of the others.
    """
    body = validate(BulkChange, call.document)
    items = [await _changed(call, body.action, id) for id in body.ids]
    call.note(action=body.action, jobs=len(items), failed=sum(item["status"] >= 400 for item in items))
    return json_response({"items": items})


async def _changed(call: Call, action: str, id: str) -> dict[str, Any]:
    try:
        job = await job_named(call, id)
        if action == "refresh":
            await _refresh(call, job)
        else:
            await call.dependencies.tracking.untrack(job)
    except RequestError as error:
        return {"id": id, "status": error.status, "code": error.code, "error": str(error)}
    return {"id": id, "status": 202 if action == "refresh" else 200, "code": None, "error": None}


@operation(
    "GET /v1/jobs",
    query=(
        text("status", "The last upstream status."),
        boolean("open", "Whether the relay still polls the job."),
        text("group", "The name of its group."),
        text("channel", "The channel, as the upstream names it."),
        text("connect_account", "The upstream's id of the sending account."),
        text(
            "search",
            "A text that finds jobs by an id or its beginning, a group, the name or id of a sending account, or the "
            "beginning of a value of `web.search_keys`, whatever the case of its letters.",
        ),
        _METADATA,
        time("since", "Jobs registered at or after this time."),
        time("until", "Jobs registered before this time."),
        boolean("counts", "Adds the numbers of jobs by state.", default=False),
        *_WHICH,
        *PAGE,
    ),
    answers={
        200: Answer("A page. With filters it can have few items, or none, though others follow.", JobPage, headers=NEXT)
    },
)
async def list_jobs(call: Call) -> Response:
    """List jobs, newest first."""
    query = {**call.query, "metadata": _searched_for(call), "resource": _of_resource(call)}
    searched, counted, jobs = query.pop("search"), query.pop("counts"), call.dependencies.store.jobs
    page: Page[core.Job] | FoundJobs
    if searched is None:
        page = await jobs.page(**query)
    else:
        page = await jobs.search(searched, call.dependencies.settings.search_keys, **query)
    more: dict[str, Any] = {}
    if isinstance(page, FoundJobs):
        matches = [SearchMatch.of(one) for one in page.matches]
        more["search"] = JobSearch.of(page, matches=matches)
    if counted:
        more["counts"] = await _counts(call, query)
    status = call.query["status"]
    nothing = not page.items and page.next_cursor is None and searched is None
    if status is not None and nothing and status not in KNOWN_STATUSES:
        # Upstreams may send other statuses, so only an unknown one without jobs counts as a misspelling.
        detail = f"no job has the status {status[:100]!r}{did_you_mean(status, sorted(KNOWN_STATUSES))}"
        raise invalid_parameter("status", detail, code="invalid_parameter", field_code="unknown_value")
    return page_response(call.request, await shown_jobs(call, page.items), page.next_cursor, more)


async def _counts(call: Call, query: Mapping[str, Any]) -> dict[str, Any]:
    filters = {name: value for name, value in query.items() if name not in ("status", "open", "limit", "cursor")}
    counts = {}
    for name, of_state in COUNTED.items():
        found = await call.dependencies.store.jobs.count(MAX_COUNTED, **filters, **of_state)
        counts[name] = JobCount.of(found, count=found.number)
    return JobCounts.of(None, **counts)


def _of_resource(call: Call) -> OfResource | None:
    """The jobs of the resources with this name. Raises InvalidRequest if no source has one."""
    name, resources = call.query["resource"], call.context.settings.resources
    if name is None:
        return None
    known = sorted({one for names in resources.values() for one in names})
    if name not in known:
        detail = f"no source has a resource {name[:100]!r}{did_you_mean(name, known)}"
        raise invalid_parameter("resource", detail, code="invalid_parameter", field_code="unknown_resource")
    return OfResource(name, tuple(source for source, names in resources.items() if names[0] == name))


def _searched_for(call: Call) -> tuple[str, str] | None:
    """The key and the value of `metadata`. A key may have a colon in it: the longest known one counts."""
    given, keys = call.query["metadata"], call.dependencies.settings.search_keys
    if given is None:
        return None
    key = max((one for one in keys if given.startswith(f"{one}:")), key=len, default=None)
    if key is None:
        name = given.partition(":")[0][:100]
        detail = f"jobs cannot be searched by {name!r}{did_you_mean(name, keys)}"
        detail += "" if keys else ": web.search_keys in the settings is empty"
        raise invalid_parameter("metadata", detail, code="invalid_parameter", field_code="unknown_key")
    return key, given[len(key) + 1 :]


@operation(
    "GET /v1/jobs/{id}",
    query=(choice("until", "What to wait for.", "closed", "running"), *_WHICH),
    request_headers=waiting.PREFER,
    answers={200: Answer("The job.", Job, headers=waiting.APPLIED)},
    problems={**_AMBIGUOUS, 429: "Too many requests are waiting."},
)
async def get_job(call: Call) -> Response:
    """Read a job, or wait for it.

    By its uid or its upstream id. With `Prefer: wait=N` the response is sent when the job closes, or with
    `until=running` when it starts, and after N seconds at the latest.
    """
    job = await find_job(call)
    seconds = waiting.preferred_seconds(call.request.headers)
    if seconds is not None:
        job = await waiting.wait_for(call, job, seconds, until_running=call.query["until"] == "running")
    (shown,) = await shown_jobs(call, [job])
    return json_response(shown, headers=waiting.applied(seconds))


@operation(
    "POST /v1/jobs/{id}/refresh",
    repeats=Repeats(members("uid"), _by_uid),
    counted="jobs.refresh",
    scopes=WRITES_JOBS,
    query=_WHICH,
    body=Nothing,
    answers={202: Answer("The poll is scheduled.", Job)},
    problems={409: "The job is closed, or several jobs have this id."},
)
async def refresh_job(call: Call) -> Response:
    """Poll a job as soon as the budget allows."""
    job = await find_job(call)
    await _refresh(call, job)
    return json_response(job_view(call, job), 202)


async def _refresh(call: Call, job: core.Job) -> None:
    if not job.open:
        detail = f"job {job.external_id} is closed ({job.outcome}): it is no longer polled"
        raise Conflict(detail, code="job_closed")
    await call.dependencies.tracking.refresh(job)


@operation(
    "GET /v1/jobs/{id}/explain",
    query=_WHICH,
    answers={200: Answer("The explanation, as a sentence and as fields.", Explanation)},
    problems=_AMBIGUOUS,
)
async def explain_job(call: Call) -> Response:
    """Explain when a job is polled next."""
    job = await find_job(call)
    return json_response(explanation_view(job, call.dependencies.tracking.explain(job)))


@operation(
    "DELETE /v1/jobs/{id}",
    audited=lambda query: "jobs.purge" if query["purge"] else None,
    counted="jobs.untrack",
    scopes=WRITES_JOBS,
    query=(boolean("purge", "Erase the job, its events and their attempts.", default=False), *_WHICH),
    answers={200: Answer("The job.", Job)},
    problems=_AMBIGUOUS,
)
async def untrack_job(call: Call) -> Response:
    """Stop tracking a job.

    No event is sent, and pending deliveries continue. `purge=true` erases the job, its events and their attempts.
    """
    job = await find_job(call)
    end = call.dependencies.tracking.purge if call.query["purge"] else call.dependencies.tracking.untrack
    return json_response(job_view(call, await end(job)))


@operation(
    "GET /v1/jobs/{id}/events",
    query=(*_WHICH, *PAGE),
    request_headers=LAST_EVENT_ID,
    answers={
        200: Answer("A page, or a stream.", EventPage, headers=NEXT, also={STREAM.media_type: STREAM.description}),
        204: Answer("The job is closed, and there are no events after `Last-Event-ID`.", media_type=""),
    },
    problems={**_AMBIGUOUS, 429: "Too many streams are open."},
)
async def list_job_events(call: Call) -> Response:
    """List or stream a job's events, in order.

    With `Accept: text/event-stream`: a stream that ends after the last event of a closed job.
    """
    job = await find_job(call)
    if stream.is_wanted(call.request.headers):
        return await stream.of_job(call, job)
    stream.last_event_id(call.request.headers)  # refuses a malformed id here too
    limit = call.query["limit"]
    after = decode_position(call.query["cursor"])
    tail = await call.dependencies.store.events.tail_of_job(job.uid, after, limit + 1)
    shown = tail.events[:limit]
    cursor = encode_cursor(shown[-1][0]) if tail.more else None
    ids = [event.id for _, event in shown]
    return page_response(call.request, [stream.fragment(event) for _, event in shown], cursor, {"ids": ids})


async def find_job(call: Call) -> core.Job:
    """The job of the path. Raises NotFound, or Conflict if several jobs have this id."""
    return await job_named(call, call.id, call.query["source"], call.query["account"], call.query["resource"])


async def job_named(
    call: Call, id: str, source: str | None = None, account: str | None = None, resource: str | None = None
) -> core.Job:
    """The job with this uid, or this id upstream. `resource`: by its name. Raises like `find_job`."""
    jobs, names = call.dependencies.store.jobs, call.context.settings.resource_name
    if id.startswith("job_"):
        job = await jobs.get(id)
        is_meant = job is not None and source in (None, job.source) and account in (None, job.account)
        if job is not None and is_meant and resource in (None, names(job.source, job.resource)):
            return job
    found = await jobs.find(id, source, account)
    found = [job for job in found if resource in (None, names(job.source, job.resource))]
    if not found:
        raise NotFound(f"no job {id[:200]!r} is tracked here", code="job_not_found")
    refuse_ambiguous(call, id, found)
    return found[0]


def refuse_ambiguous(call: Call, id: str, found: Sequence[core.Job]) -> None:
    """Raises Conflict if there are several jobs with this id."""
    if len(found) > 1:
        accounts = {(job.source, job.account) for job in found}
        places = []
        for job in found[:5]:
            name = call.context.settings.resource_name(job.source, job.resource)
            of_resource = "" if name is None or len(accounts) == len(found) else f"&resource={name}"
            places.append(f"?source={job.source}&account={job.account}{of_resource}")
        have = f"{len(found)} accounts have a job" if len(accounts) == len(found) else f"{len(found)} jobs have the id"
        raise Conflict(f"{have} {id!r}: choose one with {', '.join(places)}, or use its uid", code="ambiguous_job")
