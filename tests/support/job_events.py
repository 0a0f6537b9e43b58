"""Events as tests of messages need them: of a job, a connect account, a group, an incident."""

from collections.abc import Mapping
from typing import Any

from relay.core.events.event import Event, Hint, Origin, account_event, from_transition, relay_event
from relay.core.jobs.job import Job, Observation, Problem, Transition
from relay.core.samples import sample_event
from tests.support.summaries import account_data, group_finished_data, incident_data

NOW = 1779271208.0
JOB_ID = "3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70"
ORIGIN = Origin(
    source="https://revor.ai/api/v1/outreach/jobs",
    type_prefix="ai.revor.job",
    dataschema="http://x/schemas/a.json",
    title="Revor",
)
OF_SAMPLES = Origin(
    source="https://api.example/jobs",
    type_prefix="ai.revor.job",
    dataschema="http://x/schemas/job-status.v1.json",
    account_source="https://api.example/accounts",
    title="Revor",
)


def origin_of(type_prefix: str = "ai.revor.job", **more: Any) -> Origin:
    """The attributes of the events of a resource's jobs with these types."""
    own = {"account_source": "https://api.example/accounts", "dataschema": OF_SAMPLES.dataschema, **more}
    return Origin(source="https://api.example/jobs", type_prefix=type_prefix, **own)


SAMPLE_ID = "evt_01jvpq0000000000000000000e"
RECONNECT = Hint(meaning="The account needs reconnecting", fix="Reconnect it", who="account owner", repeat="safe")


def job_event(
    kind: str = "failed",
    *,
    id: str = "evt_1",
    job_id: str = JOB_ID,
    account: str = "default",
    group: str | None = None,
    channel: str | None = "linkedin",
    action: str | None = "outreach.dispatch",
    status: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    hint: Hint | None = None,
    problem: Problem | None = None,
    upstream: Mapping[str, Any] | None = None,
    result_status: str | None = None,
    request_id: str | None = None,
    inferred: bool = False,
    unseen: bool = False,
    at: float = NOW,
    previous: str | None = None,
    sequence: int = 1,
) -> Event:
    """`unseen`: the event is not that of an answer."""
    status = status or kind
    words = {"channel": channel, "action": action}
    job = Job(
        uid=f"job_{job_id}",
        external_id=job_id,
        source="revor",
        account=account,
        metadata=metadata or {},
        group=group,
        **words,
    )
    seen = Observation(
        status=status,
        observed_at=at,
        problem=problem,
        upstream=upstream or {"id": job_id},
        result_status=result_status,
        request_id=request_id,
        **words,
    )
    step = Transition(
        kind=kind,
        status=status,
        previous_status=previous,
        sequence=sequence,
        occurred_at=at,
        detected_at=at,
        inferred=inferred,
    )
    return from_transition(id, job, step, ORIGIN, seen=None if unseen else seen, hint=hint)


def sample(type: str, metadata: Mapping[str, Any] | None = None) -> Event:
    """The sample of a type."""
    return sample_event(
        type, event_id=SAMPLE_ID, now=NOW, origin=OF_SAMPLES, dataschema_base="http://x", metadata=metadata
    )


def account_made(kind: str, **changes: Any) -> Event:
    """An event about a connect account, with these changes of its data."""
    values: dict[str, Any] = {
        **{"account_id": "acc_1", "channel": "linkedin", "name": "Ada Lovelace", "status": "x", "state": "ok"},
        **{"since": NOW, "open_jobs": 37, "source": "revor", "account": "default"},
    }
    data = account_data(**values | changes)
    return account_event("evt_1", kind, NOW, data, ORIGIN, dataschema="http://x/s.json")


def group_made(id: str = "evt_1", at: float = NOW, **changes: Any) -> Event:
    """A group has finished."""
    values: dict[str, Any] = {
        **{"group": "q4-launch", "source": "revor", "account": "default", "round": 1, "skipped": 12, "missing": 0},
        "counts": {"succeeded": 194, "failed": 6},
        "failures": {"reconnect_required": 4, "recipient_not_found": 2},
        **{"first_at": at - 60, "finished_at": at},
    }
    values |= changes
    data = group_finished_data(**values)
    return relay_event(
        id, "relay.group.finished", at, data, dataschema="http://x/s.json", subject="g", owner="revor/default"
    )


def incident_made(what: str = "opened", /, id: str = "evt_1", at: float = NOW, **changes: Any) -> Event:
    """An incident is opened, grows or is closed."""
    closed = what == "closed"
    values: dict[str, Any] = {
        **{"incident": "inc_1", "kind": "jobs", "state": "closed" if closed else "open", "source": "revor"},
        **{"account": "default", "channel": "linkedin", "subscription": None, "sink": None, "failed": 12, "likely": 37},
        **{"connect_account_id": "acc_1", "connect_account_name": "Ada Lovelace", "code": "reconnect_required"},
        **{"hint": RECONNECT, "first_failure_at": NOW - 2100, "last_failure_at": at, "opened_at": NOW - 60},
        **{"closed_at": at if closed else None, "closed_because": "account_recovered" if closed else None},
    }
    values |= changes
    data, type = incident_data(**values), f"relay.incident.{what}"
    subject = values["incident"]
    return relay_event(id, type, at, data, dataschema="http://x/s.json", subject=subject, owner="revor/default")
