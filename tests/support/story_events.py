"""Events of one campaign: a LinkedIn account breaks, jobs fail, an incident opens and closes, the group finishes."""

from relay.clock import from_rfc3339
from relay.core.events.event import Event, Hint, Origin, from_transition, relay_event
from relay.core.jobs.job import Job, Observation, Problem, Transition
from tests.support.summaries import group_finished_data, incident_data

ORIGIN = Origin(source="https://revor.ai/jobs", type_prefix="ai.revor.job", dataschema="http://x/s.json", title="Revor")
RECONNECT = Hint(
    meaning="The LinkedIn account needs reconnecting", fix="Reconnect it in Revor", who="account owner", repeat="safe"
)
CREDITS = Hint(
    meaning="The Revor account has too few credits", fix="Add credits in Revor", who="administrator", repeat="safe"
)
OVERDUE = Hint(
    meaning="The job has not ended by its deadline; the relay goes on polling, less often",
    fix="Open the job in Revor to see what holds it up",
    who="administrator",
    repeat="may_send_twice",
)
CODE = "connect_account_reconnect_required"


def at(clock: str) -> float:
    """A time on the day of the campaign."""
    return from_rfc3339(f"2026-05-20T{clock}Z")


def of_job(
    kind: str,
    clock: str,
    name: str,
    *,
    hint: Hint | None = None,
    code: str | None = None,
    sender: str | None = None,
    account: str = "default",
    channel: str = "linkedin",
    group: str | None = None,
    **metadata: str | None,
) -> Event:
    """A job about `name` whose status became `kind`."""
    given = {"recipient_name": name} | {key: value for key, value in metadata.items() if value is not None}
    job = Job(
        uid=f"job_{name.lower()}",
        external_id="3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70",
        source="revor",
        account=account,
        channel=channel,
        action="outreach.dispatch",
        metadata=given,
        connect_account_id=sender,
        group=group,
        upstream={"id": name},
    )
    seen = Observation(
        status=kind,
        observed_at=at(clock),
        channel=channel,
        action="outreach.dispatch",
        problem=None if code is None else Problem(code=code, message=""),
        upstream={"id": name},
        connect_account_id=sender,
    )
    transition = Transition(
        kind=kind, status=kind, previous_status="running", sequence=3, occurred_at=at(clock), detected_at=at(clock)
    )
    shown = None if kind in ("overdue", "not_found") else seen
    return from_transition(f"evt_01jvpq{name.lower():0>20}", job, transition, ORIGIN, seen=shown, hint=hint)


def of_incident(what: str, clock: str, failed: int, likely: int, *, id: str = "inc_01jvq4") -> Event:
    """The incident of that account is opened, grows or is closed."""
    closed = what == "closed"
    data = incident_data(
        incident=id,
        kind="jobs",
        state="closed" if closed else "open",
        source="revor",
        account="default",
        channel="linkedin",
        connect_account_id="acc_17",
        connect_account_name="Ada Lovelace",
        subscription=None,
        sink=None,
        code=CODE,
        hint=RECONNECT,
        failed=failed,
        likely=likely,
        first_failure_at=at("10:23:10"),
        last_failure_at=at(clock),
        opened_at=at("10:23:10"),
        closed_at=at(clock) if closed else None,
        closed_because="account_recovered" if closed else None,
    )
    return relay_event(
        f"evt_01jvpq{id[4:].lower():0>20}",
        f"relay.incident.{what}",
        at(clock),
        data,
        dataschema="http://x/s.json",
        subject=id,
    )


def finished(clock: str = "11:08:40", group: str = "q4-launch") -> Event:
    """The group has finished."""
    data = group_finished_data(
        group=group,
        source="revor",
        account="default",
        round=1,
        counts={"succeeded": 186, "failed": 14},
        skipped=0,
        missing=0,
        failures={CODE: 13, "insufficient_credits": 1},
        first_at=at("10:00:00"),
        finished_at=at(clock),
    )
    return relay_event(
        f"evt_01jvpq{group:0>20}",
        "relay.group.finished",
        at(clock),
        data,
        dataschema="http://x/s.json",
        subject=group,
    )
