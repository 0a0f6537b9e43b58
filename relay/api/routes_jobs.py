"""The operations of `/v1/jobs`."""

from relay.api import jobs, models, shapes
from relay.api.limits import MAX_BATCH_BODY_BYTES
from relay.api.operations import LAST_EVENT_ID, LOCATION, NEXT, READS_JOBS, STREAM, WRITES_JOBS, Answer, Operation
from relay.api.params import PAGE, boolean, choice, text

_WHICH = (
    text("source", "Only of this source; also chooses one of several jobs of the same id."),
    text("account", "Only of this account; also chooses one of several jobs of the same id."),
)
_JOB = Answer(description="The job.", model=shapes.Job)
_AMBIGUOUS = {409: "Several accounts have a job of this id: choose by `source` and `account`, or take the uid."}

JOBS = (
    Operation(
        id="registerJob",
        method="POST",
        path="/v1/jobs",
        tag="Jobs",
        summary="Track a job",
        description="The upstream's own answer to a create is a valid body too.",
        handler=jobs.register,
        scopes=WRITES_JOBS,
        body=models.JobRegistration,
        also_bodies=(models.UpstreamAnswer,),
        answers={
            201: Answer(description="It is tracked now.", model=shapes.Job, headers=LOCATION),
            200: Answer(description="It was tracked already; what the body brought was added.", model=shapes.Job),
        },
    ),
    Operation(
        id="registerJobs",
        method="POST",
        path="/v1/jobs/batch",
        tag="Jobs",
        summary="Track up to 10,000 jobs",
        handler=jobs.register_batch,
        scopes=WRITES_JOBS,
        body=models.JobBatch,
        max_body_bytes=MAX_BATCH_BODY_BYTES,
        answers={200: Answer(description="What became of them.", model=shapes.BatchResult)},
    ),
    Operation(
        id="listJobs",
        method="GET",
        path="/v1/jobs",
        tag="Jobs",
        summary="List jobs, newest first",
        handler=jobs.list_jobs,
        scopes=READS_JOBS,
        query=(text("status", "The last upstream value."), boolean("open", "Still looked at, or not."), *_WHICH, *PAGE),
        answers={200: Answer(description="A page.", model=shapes.JobPage, headers=NEXT)},
    ),
    Operation(
        id="getJob",
        method="GET",
        path="/v1/jobs/{id}",
        tag="Jobs",
        summary="Read a job, or wait for it",
        description="By its uid or its id upstream. With `Prefer: wait=N` the answer comes when the job is closed (or "
        "has begun to run, with `until=running`), at the latest after N seconds.",
        handler=jobs.get_job,
        scopes=READS_JOBS,
        query=(choice("until", "What to wait for.", "closed", "running"), *_WHICH),
        request_headers={"Prefer": "`wait=N`: seconds, 300 at most."},
        answers={
            200: Answer(
                description="The job.",
                model=shapes.Job,
                headers={"Preference-Applied": "`wait=N`, as it was used, where the request had one."},
            )
        },
        problems={**_AMBIGUOUS, 429: "Too many requests are waiting."},
    ),
    Operation(
        id="untrackJob",
        method="DELETE",
        path="/v1/jobs/{id}",
        tag="Jobs",
        summary="Stop tracking a job",
        description="No event tells of it, and pending deliveries go on. `purge=true` erases the job, its events and "
        "their attempts.",
        handler=jobs.untrack,
        scopes=WRITES_JOBS,
        query=(boolean("purge", "Erase everything about it.", default=False), *_WHICH),
        answers={200: _JOB},
        problems=_AMBIGUOUS,
    ),
    Operation(
        id="refreshJob",
        method="POST",
        path="/v1/jobs/{id}/refresh",
        tag="Jobs",
        summary="Look at a job as soon as the budget allows",
        handler=jobs.refresh,
        scopes=WRITES_JOBS,
        query=_WHICH,
        body=models.Nothing,
        body_optional=True,
        answers={202: Answer(description="It will be looked at.", model=shapes.Job)},
        problems={409: "The job is closed, or several accounts have a job of this id."},
    ),
    Operation(
        id="explainJob",
        method="GET",
        path="/v1/jobs/{id}/explain",
        tag="Jobs",
        summary="Why a job is looked at when it is",
        handler=jobs.explain,
        scopes=READS_JOBS,
        query=_WHICH,
        answers={200: Answer(description="In words and fields.", model=shapes.Explanation)},
        problems=_AMBIGUOUS,
    ),
    Operation(
        id="listJobEvents",
        method="GET",
        path="/v1/jobs/{id}/events",
        tag="Jobs",
        summary="A job's events, in order",
        description="With `Accept: text/event-stream` a stream, which ends once the job is closed and all is said.",
        handler=jobs.job_events,
        scopes=READS_JOBS,
        query=(*_WHICH, *PAGE),
        request_headers=LAST_EVENT_ID,
        answers={
            200: Answer(
                description="A page, or a stream.",
                model=shapes.EventPage,
                headers=NEXT,
                also={STREAM.media_type: STREAM.description},
            ),
            204: Answer(description="The job is closed and nothing came after `Last-Event-ID`.", media_type=""),
        },
        problems={**_AMBIGUOUS, 429: "Too many streams are open."},
    ),
)
