"""Reads registrations: the body of `POST /v1/jobs`, and those of a batch, which may be 48 MiB.

A large body is cut into pieces of whole entries (`limits.elements`). Each is parsed and checked by itself, so no step
takes long, and what a client sends instead of jobs is never in memory as objects all at once.
"""

import re
from collections.abc import AsyncIterator, Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from relay.api.http import limits
from relay.api.http.dependencies import ApiDependencies, ApiSettings
from relay.api.http.fields import (
    FAILED,
    ID_PATTERN,
    JOB_ID,
    MAX_ID_CHARACTERS,
    MAX_TYPES,
    MAX_URL_CHARACTERS,
    PRINTABLE,
    Body,
    GroupName,
)
from relay.api.http.problems import MAX_ERRORS, did_you_mean, few_suggestions, invalid_parameter
from relay.api.http.shown import Shown
from relay.api.http.validation import account_errors, account_meant, event_types, invalid, validate
from relay.core.access.netguard import refusal_of_url
from relay.core.events.event import job_event_types
from relay.core.jobs.job import DEFAULT_SOURCE, Observation, Priority
from relay.core.jsontext import SLICE_BYTES, dumps
from relay.core.polling.tracking import TrackRequest
from relay.core.values import MAX_DURATION_SECONDS
from relay.errors import FieldError, InvalidRequest, RequestError, SinkRefused
from relay.tasks import Turns

MAX_METADATA_BYTES = 16_384
MAX_JOBS = 10_000
MOST_MISTAKES = 3
"""Mistakes named for one entry."""

_BEFORE = re.compile(rb'\{[ \t\r\n]*"jobs"[ \t\r\n]*:[ \t\r\n]*\[')
_AFTER = re.compile(rb"\][ \t\r\n]*\}\Z")
_LONGEST_END = 1_000

is_printable_id = re.compile(f"{PRINTABLE}{{1,{MAX_ID_CHARACTERS}}}").fullmatch
url_refusal = lru_cache(maxsize=4096)(refusal_of_url)
"""`refusal_of_url` with a cache: most jobs of one caller share a callback URL."""


class JobRegistration(Body):
    """A job to track."""

    id: str = Field(
        pattern=ID_PATTERN,
        description="The upstream's id of the job: 1 to 200 printable characters.",
        examples=[JOB_ID],
    )
    source: str = Field(default=DEFAULT_SOURCE, description="A configured source. If there is only one: that one.")
    account: str = Field(
        default="default", description="A configured account of the source. If it has only one: that one."
    )
    resource: str | None = Field(
        default=None, description="The kind of job, by its name in the source's definition. Default: its first one."
    )
    status_url: str | None = Field(
        default=None,
        max_length=MAX_URL_CHARACTERS,
        description="The address at which the upstream shows the job, as it gave it: for sources whose jobs have such "
        "addresses. Kept encrypted and never shown.",
    )
    callback_url: str | None = Field(
        default=None, max_length=MAX_URL_CHARACTERS, description="The URL that this job's events are sent to, signed."
    )
    callback_types: list[str] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TYPES,
        description=f"The event types to send to `callback_url`: full names (`{FAILED}`) or short ones "
        "(`failed`). Default: all, or the current types if the job already has this callback.",
    )
    metadata: dict[str, Any] | None = Field(
        default=None,
        description="Your own data, included in every event of the job. At most 16 KiB of JSON.",
        examples=[{"deal": 42}],
    )
    group: GroupName | None = Field(
        default=None,
        description="The group that the job joins: a campaign, an import, a customer. 1 to 200 printable characters "
        "without `/`. A job keeps its first group.",
    )
    priority: Priority | None = Field(
        default=None,
        description="The weight of the job's delay while the request budget is short: `low` is a quarter of `normal`, "
        "`high` four times. Default: `normal` for a new job; a job that is already tracked keeps its priority.",
    )
    deadline_seconds: float | None = Field(
        default=None,
        gt=0,
        le=MAX_DURATION_SECONDS,
        description="Seconds from the job's scheduled time, or else from now, until it is `overdue`.",
    )


class UpstreamItem(BaseModel):
    """A job as the upstream returns it. All fields are kept."""

    model_config = ConfigDict(extra="allow", defer_build=True, json_schema_extra={"additionalProperties": True})

    id: str = Field(pattern=ID_PATTERN)


class UpstreamAnswer(Body):
    """The upstream's answer to a create, unchanged. Fields of a registration can be added, except `priority`."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"additionalProperties": True, "not": {"required": ["id"]}}
    )

    ok: Literal[True]
    item: UpstreamItem = Field(examples=[{"id": JOB_ID, "status": "scheduled"}])
    source: str = JobRegistration.model_fields["source"].default
    account: str = JobRegistration.model_fields["account"].default
    resource: str | None = None
    status_url: str | None = Field(default=None, max_length=MAX_URL_CHARACTERS)
    callback_url: str | None = Field(default=None, max_length=MAX_URL_CHARACTERS)
    callback_types: list[str] | None = Field(default=None, min_length=1, max_length=MAX_TYPES)
    metadata: dict[str, Any] | None = None
    group: GroupName | None = None
    deadline_seconds: float | None = Field(default=None, gt=0, le=MAX_DURATION_SECONDS)


class JobBatch(Body):
    """Jobs to track, each as for `POST /v1/jobs`. An invalid job does not affect the others."""

    jobs: list[Any] = Field(
        max_length=MAX_JOBS,
        json_schema_extra={
            "items": {
                "description": "A body of `POST /v1/jobs`. Invalid ones are listed in `rejected`.",
                "anyOf": [{"$ref": "#/components/schemas/JobRegistration"}, {}],
            }
        },
        examples=[[{"id": "job-1", "priority": "high"}, {"id": "job-2", "metadata": {"deal": 43}}]],
    )


class Rejected(Shown):
    """A job of a batch that is not tracked."""

    index: int = Field(examples=[7])
    code: str = Field(examples=["missing"])
    detail: str = Field(examples=["/id: it is missing"])


_BESIDE_ANSWER = frozenset(JobRegistration.model_fields) - {"priority"}  # an upstream may have a field of this name


def read_registration(
    document: Any, dependencies: ApiDependencies, caller: str, max_errors: int = MAX_ERRORS
) -> TrackRequest:
    """The job to track, from a request body. Raises InvalidRequest, or SinkRefused for its callback URL."""
    settings, seen = dependencies.settings, None
    if isinstance(document, dict):
        source, account = settings.account or account_meant(settings.accounts, document.get("source"))
        if "id" not in document:
            document, seen = _from_upstream(document, document.get("source", source), dependencies)
        document = {"source": source, "account": account, **document}
    job = validate(JobRegistration, document, max_errors)
    errors = account_errors(job.source, job.account, settings.accounts)
    resource = settings.resource_key(job.source, job.resource)
    if resource is None and not errors:
        errors.append(_unknown_resource(job, settings))
    if job.metadata is not None and len(dumps(job.metadata)) > MAX_METADATA_BYTES:
        detail = f"it is larger than {MAX_METADATA_BYTES:,} bytes of JSON: keep it in your own system, by the job's id"
        errors.append(FieldError(pointer="/metadata", code="too_large", detail=detail))
    types = None
    if job.callback_types is not None and not errors:
        types, errors = callback_types(job.callback_types, (job.source, resource or ""), settings)
        if job.callback_url is None:
            detail = "there is no callback_url that these events could go to: send that too"
            errors.append(FieldError(pointer="/callback_types", code="missing_callback", detail=detail))
    if errors:
        raise invalid(*errors)
    if job.callback_url is not None:
        check_sink(job.callback_url, settings, "/callback_url")
    return TrackRequest(
        external_id=job.id,
        source=job.source,
        account=job.account,
        resource=resource or "",
        status_url=job.status_url,
        callback_url=job.callback_url,
        callback_types=types,
        metadata=job.metadata,
        deadline_seconds=job.deadline_seconds,
        priority=job.priority,
        group=job.group,
        seen=seen,
        caller=caller,
    )


def _from_upstream(
    document: dict[str, Any], source: object, dependencies: ApiDependencies
) -> tuple[dict[str, Any], Observation | None]:
    """The registration in the upstream's own answer to a create, and the job's state in it.

    Other fields of a registration may stand beside the answer. A body that is not such an answer is returned unchanged.
    """
    if not isinstance(source, str) or source not in dependencies.settings.accounts:
        return document, None
    name = document.get("resource")
    resource = dependencies.settings.resource_key(source, name if isinstance(name, str) else None)
    found = dependencies.tracking.read_answer(source, document, resource or "")
    if found is None:
        if "item" not in document:
            return document, None
        detail = 'no job can be read from this: send the upstream\'s answer as it came, or {"id": …}'
        raise invalid(FieldError(pointer="/item", code="invalid_answer", detail=detail))
    external_id, seen = found
    if is_printable_id(external_id) is None:
        detail = f"the job's id must be 1 to {MAX_ID_CHARACTERS} printable characters"
        raise invalid(FieldError(pointer="", code="invalid_text", detail=detail))
    ours = {name: value for name, value in document.items() if name in _BESIDE_ANSWER}
    return {**ours, "id": external_id}, seen


def _unknown_resource(job: JobRegistration, settings: ApiSettings) -> FieldError:
    names = settings.resources.get(job.source, ())
    wanted = (job.resource or "")[:100]
    detail = f"{job.source} has no resource {wanted!r}{did_you_mean(wanted, names)}"
    return FieldError(pointer="/resource", code="unknown_resource", detail=detail)


def callback_types(
    names: Sequence[str], resource: tuple[str, str], settings: ApiSettings
) -> tuple[tuple[str, ...], list[FieldError]]:
    """The full types of the events of a resource's jobs for these names, and an error for each unknown name.
    `resource`: its source and its key."""
    return event_types(names, job_event_types(settings.origins[resource]), "/callback_types", free=False)


def check_sink(url: str, settings: ApiSettings, pointer: str) -> None:
    """Raises SinkRefused if the egress guard forbids this URL."""
    why = url_refusal(url, settings.guard)
    if why is not None:
        raise SinkRefused(why, errors=[FieldError(pointer=pointer, code="sink_refused", detail=why)])


def rejection(index: int, error: RequestError) -> dict[str, Any]:
    """The entry in `rejected` for a job of a batch that was not tracked."""
    code = error.errors[0].code if error.errors else error.code
    return {"index": index, "code": code, "detail": str(error)}


async def read_batch(
    body: bytes, dependencies: ApiDependencies, caller: str
) -> tuple[list[tuple[int, TrackRequest]], list[dict[str, Any]]]:
    """The valid jobs of a batch with their indexes, and the others. Raises InvalidRequest if the body is no batch.

    Nothing is tracked before the whole body has been read.
    """
    requests: list[tuple[int, TrackRequest]] = []
    rejected: list[dict[str, Any]] = []
    turns, index = Turns(), 0
    with few_suggestions():
        async for entries in _pieces(body, turns):
            if index + len(entries) > MAX_JOBS:
                detail = f"a batch can have at most {MAX_JOBS:,} jobs, this one has more: send several"
                raise invalid_parameter("/jobs", detail, code="batch_too_long", field_code="too_long")
            for entry in entries:
                if isinstance(entry, RequestError):  # raising it here would make a cycle that keeps the body in memory
                    rejected.append(rejection(index, entry))
                else:
                    try:
                        requests.append((index, read_registration(entry, dependencies, caller, MOST_MISTAKES)))
                    except RequestError as error:
                        rejected.append(rejection(index, error))
                index += 1
                if turns.over:
                    await turns.next()
    return requests, rejected


async def _pieces(body: bytes, turns: Turns) -> AsyncIterator[list[Any]]:
    body = body.strip(b" \t\r\n")
    before = _BEFORE.match(body)
    after = _AFTER.search(body, max(len(body) - _LONGEST_END, 0))
    if len(body) <= SLICE_BYTES or before is None or after is None or after.start() < before.end():
        yield _plain(body)
        return
    async for values in limits.elements(body, before.end(), after.start(), depth=2, turns=turns):
        yield values


def _plain(body: bytes) -> list[Any]:
    """The entries of a small body, or of one that has another shape."""
    if len(body) > limits.MAX_BODY_BYTES:
        detail = f'a body of more than {limits.MAX_BODY_BYTES:,} bytes must be {{"jobs": […]}} and nothing else'
        raise InvalidRequest(detail, code="not_json", status=400)
    document = limits.parse_json(body)
    entries = document.get("jobs") if type(document) is dict and len(document) == 1 else None
    if type(entries) is list and len(entries) > MAX_JOBS:
        detail = f"a batch can have at most {MAX_JOBS:,} jobs, this one has {len(entries):,}: send several"
        raise invalid_parameter("/jobs", detail, code="batch_too_long", field_code="too_long")
    return entries if type(entries) is list else validate(JobBatch, document).jobs
