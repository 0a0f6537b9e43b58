"""Conversion of rows into values and back. The only module that knows both."""

from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

from sqlalchemy.engine import Row

from relay.core import jsontext
from relay.core.deliveries.delivery import Attempt, Delivery, Shown, Timings, due_since
from relay.core.events.event import Event, is_stream
from relay.core.jobs.groups import JobGroup
from relay.core.jobs.job import OBSERVED, Job, Observation, Progress, Told
from relay.core.jsontext import dumps
from relay.store.databases.statements import table_of
from relay.store.schema.tables import JobRow

Value = TypeVar("Value")
JOB_COLUMNS = [column for column in table_of(JobRow).c if not column.info.get("sealed")]
"""The columns that `job_from` reads: never an encrypted one."""
_JOB_COLUMNS = tuple(column.name for column in JOB_COLUMNS)


def loads(value: bytes | None) -> Any:
    """The value of JSON bytes; None for None."""
    return None if value is None else jsontext.loads(value)


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind) if field.init)


def made(kind: type[Value], row: Row[Any], **given: Any) -> Value:
    """A value of a row: each attribute that is not given is the column of its name."""
    a_class: Any = kind
    return kind(**{name: getattr(row, name) for name in _names(a_class) if name not in given}, **given)


def columns(value: Any) -> dict[str, Any]:
    """The attributes of a value, for the columns of their names."""
    a_class: Any = type(value)
    return {name: getattr(value, name) for name in _names(a_class)}


PROGRESS = ("status", "phase", "sequence", "retry_count", "running_sent", "running_started_at", "overdue")
"""The columns of a job's progress."""
_OF_ANY_JOB = ("uid", "external_id", "source", "account", "tracked_at", "deadline_at", "deadline_seconds", "weight")
_OF_SOME_JOBS = ("resource", "spacing_seconds", "connect_account_id", "group_round", "trace", *OBSERVED)
_of_any_job, _of_some_jobs = attrgetter(*_OF_ANY_JOB), attrgetter(*_OF_SOME_JOBS)
_beside_metadata = attrgetter(*_OF_SOME_JOBS, "progress", "group", "upstream", "request")
_NOTHING = _beside_metadata(Job(uid="", external_id="", source="", account=""))


def job_from(row: Row[Any]) -> Job:
    """A job, of a row of JOB_COLUMNS."""
    values = dict(zip(_JOB_COLUMNS, row, strict=True))  # ten thousand a second: an attribute of a row costs more
    progress = {name: values.pop(name) for name in PROGRESS}
    progress["running_sent"], progress["overdue"] = bool(progress["running_sent"]), bool(progress["overdue"])
    told = values.pop("told")
    if told is not None:
        progress["told"] = Told(*loads(told))
    for name in ("metadata", "upstream", "request"):
        values[name] = loads(values[name])
    return Job(progress=Progress(**progress), group=values.pop("group_name"), **values)


def progress_values(progress: Progress) -> dict[str, Any]:
    """The columns of any job's progress."""
    found = {name: getattr(progress, name) for name in PROGRESS}
    return {**found, "running_sent": int(progress.running_sent), "overdue": int(progress.overdue)}


def told_values(uid: str, told: Told) -> dict[str, Any]:
    """The values of SET_TOLD."""
    return {"uid": uid, "told": dumps(list(told))}


def observation_values(seen: Observation) -> dict[str, Any]:
    """The columns that an Observation fills."""
    observed = {name: getattr(seen, name) for name in OBSERVED}
    return {**observed, "upstream": dumps(seen.upstream), "connect_account_id": seen.connect_account_id}


PLAIN_JOB_COLUMNS = (*_OF_ANY_JOB, "metadata")
"""The columns of a new job that is plain: it has no group, it was no create of ours, and nothing is known of it yet."""
NEW_JOB_COLUMNS = (*PLAIN_JOB_COLUMNS, *_OF_SOME_JOBS, "group_name", "upstream", "request", *PROGRESS)
"""The columns of any new job, but the encrypted ones."""


def new_job_rows(jobs: Sequence[Job]) -> tuple[bool, list[dict[str, Any]]]:
    """True if all of these new jobs are plain, and their rows: of PLAIN_JOB_COLUMNS if so, else of NEW_JOB_COLUMNS."""
    rows = [dict(zip(PLAIN_JOB_COLUMNS, (*_of_any_job(job), dumps(job.metadata)), strict=True)) for job in jobs]
    if all(_beside_metadata(job) == _NOTHING for job in jobs):
        return True, rows
    for row, job in zip(rows, jobs, strict=True):
        row.update(zip(_OF_SOME_JOBS, _of_some_jobs(job), strict=True), **progress_values(job.progress))
        for name, document in (("upstream", job.upstream), ("request", job.request)):
            row[name] = None if document is None else dumps(document)
        row["group_name"] = job.group
    return False, rows


def group_from(row: Row[Any]) -> JobGroup:
    """A group."""
    return made(JobGroup, row)


def group_values(group: JobGroup) -> dict[str, Any]:
    """The columns of a group."""
    return {**columns(group), "counts": dumps(group.counts).decode(), "failures": dumps(group.failures).decode()}


def event_from(row: Row[Any]) -> Event:
    """An event."""
    return made(Event, row, published=row.identity is not None)


def attempt_values(delivery_id: str, attempt: Attempt) -> tuple[Any, ...]:
    """The row of an attempt, in the order of the table's columns."""
    return (
        delivery_id,
        attempt.number,
        attempt.started_at,
        attempt.duration_ms,
        attempt.status_code,
        _without_nul(attempt.error),
        [
            attempt.request_headers,
            attempt.response_headers,
            list(attempt.timings),
            attempt.next_attempt_at,
            attempt.excerpt_is_hex,
            *(() if attempt.requests is None else ([[one.method, one.url, one.body] for one in attempt.requests],)),
        ],
        _without_nul(attempt.response_excerpt),
        attempt.remote_ip,
        attempt.decision,
    )


def _without_nul(text: str | None) -> str | None:
    """PostgreSQL's text cannot hold NUL, and SQLite's functions stop at it."""
    return None if text is None else text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def attempt_from(row: Row[Any]) -> Attempt:
    """An attempt."""
    details = loads(row.details) or _NO_DETAILS
    request_headers, response_headers, timings, next_attempt_at, excerpt_is_hex, *made_up = details
    return made(
        Attempt,
        row,
        request_headers=tuple((name, value) for name, value in request_headers),
        response_headers=tuple((name, value) for name, value in response_headers),
        excerpt_is_hex=excerpt_is_hex,
        timings=Timings(*timings),
        next_attempt_at=next_attempt_at,
        requests=tuple(Shown(method=method, url=url, body=body) for method, url, body in made_up[0])
        if made_up
        else None,
    )


_NO_DETAILS: tuple[Any, ...] = ([], [], [None] * 4, None, False)


def delivery_from(row: Row[Any], *, waiting_for: str | None = None, attempts: tuple[Attempt, ...] = ()) -> Delivery:
    """A delivery as the API shows it."""
    return made(
        Delivery,
        row,
        event_type=row.type,
        job_uid=None if is_stream(row.job_uid) else row.job_uid,
        state="pending" if row.state in ("pending", "blocked") else row.state,
        attempt_count=row.made_count,
        next_attempt_at=due_since(row.due_at) if row.state == "pending" else None,
        waiting_for=waiting_for,
        attempts=attempts,
        extra={},
    )
