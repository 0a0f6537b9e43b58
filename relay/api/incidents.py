"""`/v1/incidents`: failures with one cause, and the jobs that failed for it."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field
from starlette.responses import Response

from relay.api.http.fields import INCIDENT_ID, SOURCE
from relay.api.http.operations import NEXT, Answer, Call, Operation, json_response, page_response
from relay.api.http.params import PAGE, choice, text
from relay.api.http.problems import known
from relay.api.http.shown import Shown, Time, page_of
from relay.api.jobs.jobs import Job, shown_jobs
from relay.core.events.event import Repeat
from relay.core.incidents import ClosedBecause, IncidentKind, data_of
from relay.store.outbox.incident_recorder import ShownIncident

MAX_READS = 10
"""Pages of jobs that one request reads to fill a page of those with a certain `repeat`."""


class Incident(Shown):
    """Failures with one cause."""

    id: str = Field(examples=[INCIDENT_ID])
    kind: IncidentKind = Field(
        description="jobs: jobs failed; creates: the fate of creates is unknown; sink: deliveries to a sink were given "
        "up, or it was disabled.",
        examples=["jobs"],
    )
    state: Literal["open", "closed"]
    source: str | None = Field(examples=[SOURCE])
    account: str | None = Field(examples=["default"])
    channel: str | None = Field(examples=["linkedin"])
    connect_account_id: str | None = Field(
        description="The sending account that its jobs have in common.", examples=["acc_1"]
    )
    connect_account_name: str | None = Field(examples=["Ada Lovelace"])
    subscription: str | None = Field(description="Of kind `sink`.")
    sink: str | None = Field(description="The subscription's sink, without its path.")
    code: str | None = Field(
        description="The error code, or why a create's fate is unknown.", examples=["reconnect_required"]
    )
    what: str = Field(
        description="What happened, in a sentence.",
        examples=["12 LinkedIn jobs of Ada Lovelace failed: the account needs reconnecting"],
    )
    who: str = Field(description="Whose turn it is.", examples=["account owner"])
    fix: str = Field(description="What to do about the cause.", examples=["Reconnect the account"])
    repeat: Repeat | None = Field(
        description="The effect of sending the creates again; the most careful one of its jobs.", examples=["safe"]
    )
    failed: int = Field(description="Failures so far.", examples=[12])
    likely: int | None = Field(
        description="Open jobs that are likely to fail too, 10,000 at most; null if unknown.", examples=[40]
    )
    first_failure_at: Time
    last_failure_at: Time = Field(examples=["2026-05-20T10:04:30.000Z"])
    opened_at: Time
    closed_at: Time | None
    closed_because: ClosedBecause | None = Field(
        description="Why it is over: its account or subscription has recovered, something succeeded, or nothing failed "
        "for a day."
    )


IncidentPage = page_of(Incident, "incidents")


class FailedJob(Job):
    """A failed job of an incident."""

    example: ClassVar[Mapping[str, Any]] = {
        **{"status": "failed", "outcome": "failed", "open": False},
        **{"next_poll_at": None, "closed_at": "2026-05-20T10:00:01.000Z"},
    }

    repeat: Repeat | None = Field(
        description="safe: sending its create again cannot run it twice; useless: it fails again until the "
        "cause is gone; may_send_twice: check first whether it was done.",
        examples=["safe"],
    )


FailedJobPage = page_of(FailedJob, "failed jobs")


def incident_view(shown: ShownIncident) -> dict[str, Any]:
    """An incident."""
    data = data_of(shown.incident, name=shown.name, likely=shown.likely)
    return {"id": data.pop("incident"), **data}


operation = partial(Operation, tag="Incidents", bound=True)


@operation(
    "GET /v1/incidents",
    query=(
        choice("state", "Whether it is over.", "open", "closed"),
        text("source", "Only incidents of this source."),
        text("account", "Only incidents of this account."),
        *PAGE,
    ),
    answers={200: Answer("A page.", IncidentPage, headers=NEXT)},
)
async def list_incidents(call: Call) -> Response:
    """List incidents, newest first.

    An incident is what failures with one cause have in common: source, account, sending account and error code. It
    opens at the third failure within 15 minutes, or at the first whose code says that an account needs reconnecting.
    """
    page = await call.dependencies.store.incidents.page(**call.query)
    return page_response(call.request, map(incident_view, page.items), page.next_cursor)


@operation("GET /v1/incidents/{id}", answers={200: Answer("The incident.", Incident)})
async def get_incident(call: Call) -> Response:
    """Read an incident."""
    return json_response(incident_view(await _find(call)))


@operation(
    "GET /v1/incidents/{id}/jobs",
    query=(
        choice(
            "repeat", "Only jobs whose create has this effect when sent again.", "safe", "useless", "may_send_twice"
        ),
        *PAGE,
    ),
    answers={200: Answer("A page.", FailedJobPage, headers=NEXT)},
)
async def list_incident_jobs(call: Call) -> Response:
    """List the failed jobs of an incident, the latest first.

    With those that failed before it opened. Jobs that were erased, or are older than `retention.jobs_days`, are not
    listed. With `repeat` a page may have fewer items than its limit although there are more.
    """
    incident = (await _find(call)).incident
    wanted, limit, cursor = call.query["repeat"], call.query["limit"], call.query["cursor"]
    found: list[dict[str, Any]] = []
    for _ in range(MAX_READS):
        page = await call.dependencies.store.incidents.jobs(incident, limit=limit - len(found), cursor=cursor)
        jobs = [(job, call.dependencies.tracking.repeat_of(job)) for job in page.items]
        jobs = [(job, repeat) for job, repeat in jobs if wanted in (None, repeat)]
        shown = await shown_jobs(call, [job for job, _ in jobs])
        found += [{**view, "repeat": repeat} for view, (_, repeat) in zip(shown, jobs, strict=True)]
        cursor = page.next_cursor
        if wanted is None or cursor is None or len(found) == limit:
            break
    return page_response(call.request, found, cursor)


async def _find(call: Call) -> ShownIncident:
    return known(await call.dependencies.store.incidents.get(call.id), "incident", call.id)
