"""The operations of `/v1/jobs`."""

from relay.api import jobs, models, shapes
from relay.api.limits import MAX_BATCH_BODY_BYTES
from relay.api.operations import LAST_EVENT_ID, LOCATION, NEXT, READS_JOBS, STREAM, WRITES_JOBS, Answer, Operation
from relay.api.params import PAGE, boolean, choice, text

_WHICH = (
    text("source", "Only jobs of this source. Also selects one of several jobs with the same id."),
    text("account", "Only jobs of this account. Also selects one of several jobs with the same id."),
)
_JOB = Answer(description="The job.", model=shapes.Job)
_AMBIGUOUS = {409: "Several accounts have a job with this id: use `source` and `account`, or the uid."}

JOBS = (
    Operation(
        id="registerJob",
        method="POST",
        path="/v1/jobs",
        tag="Jobs",
        summary="Track a job",
        description="The upstream's answer to a create is also a valid body.",
        handler=jobs.register,
        scopes=WRITES_JOBS,
        body=models.JobRegistration,
        also_bodies=(models.UpstreamAnswer,),
        answers={
            201: Answer(description="The job is now tracked.", model=shapes.Job, headers=LOCATION),
            200: Answer(
                description="The job was already tracked; the callback and metadata of the body were added.",
                model=shapes.Job,
            ),
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
        answers={
            200: Answer(description="The number of jobs created, and the rejected ones.", model=shapes.BatchResult)
        },
    ),
    Operation(
        id="listJobs",
        method="GET",
        path="/v1/jobs",
        tag="Jobs",
        summary="List jobs, newest first",
        handler=jobs.list_jobs,
        scopes=READS_JOBS,
        query=(
            text("status", "The last upstream status."),
            boolean("open", "Whether the relay still polls the job."),
            *_WHICH,
            *PAGE,
        ),
        answers={200: Answer(description="A page.", model=shapes.JobPage, headers=NEXT)},
    ),
    Operation(
        id="getJob",
        method="GET",
        path="/v1/jobs/{id}",
        tag="Jobs",
        summary="Read a job, or wait for it",
        description="By its uid or its upstream id. With `Prefer: wait=N` the response is sent when the job closes, or "
        "with `until=running` when it starts, and after N seconds at the latest.",
        handler=jobs.get_job,
        scopes=READS_JOBS,
        query=(choice("until", "What to wait for.", "closed", "running"), *_WHICH),
        request_headers={"Prefer": "`wait=N`: N seconds, at most 300."},
        answers={
            200: Answer(
                description="The job.",
                model=shapes.Job,
                headers={"Preference-Applied": "`wait=N` with the value used, if the request asked to wait."},
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
        description="No event is sent, and pending deliveries continue. `purge=true` erases the job, its events and "
        "their attempts.",
        handler=jobs.untrack,
        scopes=WRITES_JOBS,
        query=(boolean("purge", "Erase the job, its events and their attempts.", default=False), *_WHICH),
        answers={200: _JOB},
        problems=_AMBIGUOUS,
    ),
    Operation(
        id="refreshJob",
        method="POST",
        path="/v1/jobs/{id}/refresh",
        tag="Jobs",
        summary="Poll a job as soon as the budget allows",
        handler=jobs.refresh,
        scopes=WRITES_JOBS,
        query=_WHICH,
        body=models.Nothing,
        body_optional=True,
        answers={202: Answer(description="The poll is scheduled.", model=shapes.Job)},
        problems={409: "The job is closed, or several accounts have a job with this id."},
    ),
    Operation(
        id="explainJob",
        method="GET",
        path="/v1/jobs/{id}/explain",
        tag="Jobs",
        summary="Explain when a job is polled next",
        handler=jobs.explain,
        scopes=READS_JOBS,
        query=_WHICH,
        answers={200: Answer(description="The explanation, as a sentence and as fields.", model=shapes.Explanation)},
        problems=_AMBIGUOUS,
    ),
    Operation(
        id="listJobEvents",
        method="GET",
        path="/v1/jobs/{id}/events",
        tag="Jobs",
        summary="List or stream a job's events, in order",
        description="With `Accept: text/event-stream`: a stream that ends after the last event of a closed job.",
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
            204: Answer(description="The job is closed, and there are no events after `Last-Event-ID`.", media_type=""),
        },
        problems={**_AMBIGUOUS, 429: "Too many streams are open."},
    ),
)
