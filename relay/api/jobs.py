"""`/v1/jobs`: register, read, wait, refresh, explain, untrack."""

from typing import Any

from starlette.responses import Response

from relay.api import params, stream, waiting
from relay.api.models import MAX_BATCH_JOBS, JobBatch
from relay.api.operations import Call
from relay.api.problems import did_you_mean, invalid_parameter
from relay.api.registration import read_registration, rejection
from relay.api.resource import json_response, page_response
from relay.api.validation import validate
from relay.api.views import explanation_view, job_view
from relay.core.job import KNOWN_STATUSES, Job
from relay.core.records import Page
from relay.errors import Conflict, InvalidRequest, NotFound, RequestError

BATCH_CHUNK = 1_000


async def register(call: Call) -> Response:
    """`POST /v1/jobs`."""
    request = read_registration(call.document, call.ports.settings, call.ports.tracking)
    result = (await call.ports.tracking.register((request,)))[0]
    if isinstance(result, RequestError):
        raise result
    headers = {"Location": f"/v1/jobs/{result.job.uid}"}
    return json_response(job_view(result.job), 201 if result.created else 200, headers if result.created else None)


async def register_batch(call: Call) -> Response:
    """`POST /v1/jobs/batch`: in chunks, so that a large batch does not block other requests."""
    document = call.document
    entries = document.get("jobs") if type(document) is dict and len(document) == 1 else None
    if type(entries) is list and len(entries) > MAX_BATCH_JOBS:
        detail = f"a batch can have at most {MAX_BATCH_JOBS:,} jobs, this one has {len(entries):,}: send several"
        raise invalid_parameter("/jobs", detail, code="batch_too_long", field_code="too_long")
    if type(entries) is not list:
        entries = validate(JobBatch, document).jobs
    counts = {True: 0, False: 0}
    rejected: list[dict[str, Any]] = []
    for first in range(0, len(entries), BATCH_CHUNK):
        await _register_chunk(call, first, entries[first : first + BATCH_CHUNK], counts, rejected)
    return json_response({"created": counts[True], "existing": counts[False], "rejected": rejected})


async def _register_chunk(
    call: Call, first: int, entries: list[Any], counts: dict[bool, int], rejected: list[dict[str, Any]]
) -> None:
    settings, tracking = call.ports.settings, call.ports.tracking
    indexes, requests, refused = [], [], []
    for index, entry in enumerate(entries, first):
        try:
            requests.append(read_registration(entry, settings, tracking))
        except InvalidRequest as error:
            refused.append(rejection(index, error))
        else:
            indexes.append(index)
    results = await tracking.register(requests) if requests else []
    for index, result in zip(indexes, results, strict=True):
        if isinstance(result, RequestError):
            refused.append(rejection(index, result))
        else:
            counts[result.created] += 1
    rejected.extend(sorted(refused, key=lambda one: int(one["index"])))


async def list_jobs(call: Call) -> Response:
    """`GET /v1/jobs`."""
    page = await call.ports.jobs.page(**call.query)
    status = call.query["status"]
    if status is not None and not page.items and status not in KNOWN_STATUSES:
        # Upstreams may send other statuses, so only an unknown one without jobs counts as a misspelling.
        detail = f"no job has the status {status[:100]!r}{did_you_mean(status, sorted(KNOWN_STATUSES))}"
        raise invalid_parameter("status", detail, code="invalid_parameter", field_code="unknown_value")
    return page_response(
        call.request, Page(items=tuple(job_view(job) for job in page.items), next_cursor=page.next_cursor)
    )


async def get_job(call: Call) -> Response:
    """`GET /v1/jobs/{id}`, optionally with `Prefer: wait`."""
    job = await find_job(call)
    seconds = waiting.preferred_seconds(call.request.headers)
    if seconds is None:
        return json_response(job_view(job))
    job = await waiting.wait_for(call, job, seconds, until_running=call.query["until"] == "running")
    return json_response(job_view(job), headers={"Preference-Applied": f"wait={seconds}"})


async def refresh(call: Call) -> Response:
    """`POST /v1/jobs/{id}/refresh`."""
    job = await find_job(call)
    if not job.open:
        detail = f"job {job.external_id} is closed ({job.outcome}): it is no longer polled"
        raise Conflict(detail, code="job_closed")
    await call.ports.tracking.refresh(job)
    return json_response(job_view(job), 202)


async def explain(call: Call) -> Response:
    """`GET /v1/jobs/{id}/explain`."""
    job = await find_job(call)
    return json_response(explanation_view(job, call.ports.tracking.explain(job)))


async def untrack(call: Call) -> Response:
    """`DELETE /v1/jobs/{id}`."""
    job = await find_job(call)
    tracking = call.ports.tracking
    return json_response(job_view(await (tracking.purge(job) if call.query["purge"] else tracking.untrack(job))))


async def job_events(call: Call) -> Response:
    """`GET /v1/jobs/{id}/events`: a list, or a stream if the caller accepts one."""
    job = await find_job(call)
    if stream.is_wanted(call.request.headers):
        return await stream.of_job(call, job)
    stream.last_event_id(call.request.headers)  # refuses a malformed id here too
    limit = call.query["limit"]
    after = params.decode_cursor(call.query["cursor"])
    found = await call.ports.events.of_job(job.uid, after_sequence=after, count=limit + 1)
    more = len(found) > limit
    shown = found[:limit]
    cursor = params.encode_cursor(shown[-1].sequence or 0) if more else None
    return page_response(call.request, Page(items=stream.fragments(shown), next_cursor=cursor))


async def find_job(call: Call) -> Job:
    """The job of the path. Raises NotFound, or Conflict if several accounts have a job with this id."""
    jobs, id = call.ports.jobs, call.id
    source, account = call.query["source"], call.query["account"]
    if id.startswith("job_"):
        job = await jobs.get(id)
        if job is not None and (source in (None, job.source)) and (account in (None, job.account)):
            return job
    found = await jobs.find(id, source, account)
    if not found:
        raise NotFound(f"no job {id[:200]!r} is tracked here", code="job_not_found")
    if len(found) > 1:
        where = ", ".join(f"?source={job.source}&account={job.account}" for job in found[:5])
        detail = f"{len(found)} accounts have a job {id!r}: choose one with {where}, or use its uid"
        raise Conflict(detail, code="ambiguous_job")
    return found[0]
