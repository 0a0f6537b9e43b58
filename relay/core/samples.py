"""Realistic samples of every event type, for `…/test`, documentation and tests. Their metadata has `sample: true`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from relay.clock import to_rfc3339
from relay.core import relay_events
from relay.core.deliveries.ledger import Entry
from relay.core.events.event import (
    CREDITS_LOW,
    DELIVERY_UNCERTAIN,
    GROUP_FINISHED,
    INCIDENT_CLOSED,
    INCIDENT_EVENTS,
    INCIDENT_GREW,
    INCIDENT_OPENED,
    RELAY_EVENTS,
    SOURCE_TROUBLE,
    Event,
    Hint,
    Origin,
    account_event,
    account_event_kind,
    account_event_types,
    from_transition,
    job_event_types,
    relay_event,
)
from relay.core.incidents import Incident, data_of
from relay.core.jobs.connect_accounts import ConnectAccount
from relay.core.jobs.groups import JobGroup
from relay.core.jobs.job import Advance, Job, Observation, Problem, Transition, kind_of_type
from relay.core.jsontext import dumps
from relay.core.records import Intent
from relay.core.subscriptions.filters import is_free_type, known_types

SAMPLE_SUBJECT = "sample"
SAMPLE_JOB_ID = "3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70"
_JOB_UID = "job_01jvpq0000000000000000000a"
_SUBSCRIPTION_ID = "sub_01jvpq0000000000000000000b"
_DELIVERY_ID = "dlv_01jvpq0000000000000000000c"
_METADATA = {
    "recipient_name": "Alex",
    "deal": "Example Ltd, renewal",
    "owner": "Kim",
    "url": "https://crm.example/deals/42",
    "sample": True,
}
_SENDER_ID = "acc_sample"
_CHANNEL = "linkedin"
_ACTION = "outreach.dispatch"
_HINTS = {
    "failed": Hint(
        meaning="The account needs reconnecting", fix="Reconnect it in {title}", who="account owner", repeat="safe"
    ),
    "retrying": Hint(
        meaning="{title} had no worker free for this job",
        fix="Wait a few minutes",
        who="{title}",
        repeat="may_send_twice",
    ),
    "overdue": Hint(
        meaning="The job has not ended by its deadline; the relay goes on polling, less often",
        fix="Open the job in {title} to see what holds it up",
        who="administrator",
        repeat="may_send_twice",
    ),
    "not_found": Hint(
        meaning="{title} does not know this job, or another account's key made it",
        fix="Check the job's id, and use the key of the account that made it",
        who="developer",
        repeat="may_send_twice",
    ),
    "status_unknown": Hint(
        meaning="{title} reports a status that this version of the relay does not know; the job counts as open",
        fix="Update the relay",
        who="administrator",
        repeat="may_send_twice",
    ),
}

_SOURCE_HINTS = {
    "relay.source.unauthorized": Hint(
        meaning="The {title} API key was revoked",
        fix="Make a new key in {title} and use it",
        who="administrator",
        repeat="useless",
    ),
    "relay.source.down": Hint(
        meaning="{title} does not answer",
        fix="Check the network and the source's address in the settings. If both are right, wait for {title}",
        who="administrator",
        repeat="may_send_twice",
    ),
}
_BUY = Hint(
    meaning="The account at {title} has few credits left",
    fix="Buy credits in {title}",
    who="administrator",
    repeat="safe",
)
_NAME = "Ada Lovelace"
_INCIDENT_ID = "inc_01jvpq0000000000000000000f"
_CODE = "sample_error"
_RECONNECT = Hint(
    meaning="The LinkedIn account needs reconnecting", fix="Reconnect it in {title}", who="account owner", repeat="safe"
)
_ACCOUNT_STATES = {
    "needs_reconnect": ("reconnect_required", "needs_reconnect", _RECONNECT),
    "cannot_send": ("connected", "cannot_send", None),
    "recovered": ("connected", "ok", None),
    "added": ("connected", "ok", None),
    "removed": ("connected", "ok", None),
}
_FAILED_SO_FAR = {INCIDENT_OPENED: 3, INCIDENT_GREW: 10, INCIDENT_CLOSED: 40}


class _Step(NamedTuple):
    """Position of an event in the sample job's life. Times are seconds before now."""

    status: str | None
    previous_status: str | None
    sequence: int
    seen_status: str | None = None
    started_ago_seconds: float | None = None
    finished_ago_seconds: float | None = None
    next_attempt_in_seconds: float | None = None
    attempt_count: int = 0
    explained: bool = False


_STEPS = {
    "queued": _Step("queued", None, 1),
    "scheduled": _Step("scheduled", "queued", 2),
    "running": _Step("running", "scheduled", 3, started_ago_seconds=1, attempt_count=1),
    "succeeded": _Step("succeeded", "running", 4, None, 8, 1, attempt_count=1),
    "failed": _Step("failed", "running", 4, None, 8, 1, attempt_count=1, explained=True),
    "cancelled": _Step("cancelled", "scheduled", 3, finished_ago_seconds=1),
    "retrying": _Step("retrying", "running", 4, "queued", 8, None, 60, 1),
    "overdue": _Step("running", "running", 4),
    "not_found": _Step("not_found", "queued", 2),
    "status_unknown": _Step("on_hold", "queued", 2),
    "progress": _Step("running", "running", 4, started_ago_seconds=8, attempt_count=1),
}


def sample_event(
    type: str,
    *,
    event_id: str,
    now: float,
    origin: Origin,
    dataschema_base: str,
    source: str = "sample",
    account: str = "default",
    metadata: Mapping[str, Any] | None = None,
) -> Event:
    """A sample of one type. `dataschema_base`: public URL of the relay, for the schemas of events that are not a job's;
    `metadata`: added to that of a job.

    Raises ValueError for a type of this source that it does not have.
    """
    if is_free_type(type, known_types([origin])):
        return published_sample(type, event_id, now, metadata or {})
    if type in RELAY_EVENTS:
        data, subject = _relay_sample(type, now, origin, source, account)
        dataschema = relay_events.dataschema_for(type, dataschema_base)
        return relay_event(event_id, type, now, data, dataschema=dataschema, subject=subject)
    if type in account_event_types(origin):
        dataschema = relay_events.dataschema_for(type, dataschema_base)
        return _account_sample(type, event_id, now, origin, dataschema, source, account)
    if type not in job_event_types(origin):
        raise ValueError(f"{type!r} is not an event type of this source")
    return _job_sample(kind_of_type(type), event_id, now, origin, source, account, metadata or {})


def published_sample(type: str, event_id: str, now: float, metadata: Mapping[str, Any]) -> Event:
    """A sample of an event that another program publishes."""
    document = {
        **{"specversion": "1.0", "id": "sample-1", "source": "/sample", "type": type, "subject": SAMPLE_SUBJECT},
        **{"time": to_rfc3339(now), "datacontenttype": "application/json"},
        "data": {"message": "This is a sample", "metadata": {**_METADATA, **metadata}},
    }
    return Event(
        id=event_id,
        source="/sample",
        type=type,
        subject=SAMPLE_SUBJECT,
        time=now,
        recorded_at=now,
        body=dumps(document),
        published=True,
    )


def _job_sample(
    kind: str, event_id: str, now: float, origin: Origin, source: str, account: str, metadata: Mapping[str, Any]
) -> Event:
    step = _STEPS[kind]
    started_at = None if step.started_ago_seconds is None else now - step.started_ago_seconds
    finished_at = None if step.finished_ago_seconds is None else now - step.finished_ago_seconds
    seen = Observation(
        status=step.seen_status or step.status or "queued",
        observed_at=now,
        action=_ACTION,
        channel=_CHANNEL,
        scheduled_at=now - 9,
        started_at=started_at,
        finished_at=finished_at,
        next_attempt_at=None if step.next_attempt_in_seconds is None else now + step.next_attempt_in_seconds,
        attempt_count=step.attempt_count,
        result_status="accepted" if kind == "succeeded" else None,
        advance=Advance(percent=28, done=14, total=50, stage="verifying") if kind == "progress" else None,
        request_id="req_sample",
    )
    problem = Problem(code="sample_error", message="This is a sample", retryable=False) if step.explained else None
    error = None if problem is None else {"code": problem.code, "message": problem.message, "retryable": False}
    result = None if seen.result_status is None else {"status": seen.result_status, "account_id": _SENDER_ID}
    item = {name: to_rfc3339(value) if isinstance(value, float) else value for name, value in seen.item().items()}
    item = {"id": SAMPLE_JOB_ID, **item, "result": result, "error": error}
    job = Job(
        uid=_JOB_UID,
        external_id=SAMPLE_JOB_ID,
        source=source,
        account=account,
        metadata={**_METADATA, **metadata},
        request={"metadata": {"campaign": "sample"}},
        connect_account_id=_SENDER_ID,
        action=_ACTION,
        channel=_CHANNEL,
        upstream=item,
    )
    transition = Transition(
        kind=kind,
        status=step.status,
        previous_status=step.previous_status,
        sequence=step.sequence,
        occurred_at=finished_at or (started_at if kind == "running" else None) or now,
        detected_at=now,
    )
    return from_transition(
        event_id,
        job,
        transition,
        origin,
        seen=None if kind in ("overdue", "not_found") else replace(seen, upstream=item, problem=problem),
        hint=_filled(_HINTS.get(kind), origin, source),
    )


def _filled(hint: Hint | None, origin: Origin, source: str) -> Hint | None:
    """The hint with the upstream's name."""
    if hint is None:
        return None
    words = {"title": origin.title, "source": source}
    return replace(hint, **{name: getattr(hint, name).format(**words) for name in ("meaning", "fix", "who")})


def _relay_sample(type: str, now: float, origin: Origin, source: str, account: str) -> tuple[dict[str, Any], str]:
    """Data and subject of a sample about the relay."""
    if type == GROUP_FINISHED or type in INCIDENT_EVENTS:
        return _summary_sample(type, now, origin, source, account)
    if type in SOURCE_TROUBLE:
        reasons = {
            "relay.source.unauthorized": "the key is invalid or was revoked",
            "relay.source.down": "five requests in a row were not answered",
            "relay.source.recovered": "a request was answered",
        }
        data = relay_events.source_trouble_data(
            source=source,
            account=account,
            since=now - 300,
            reason=reasons[type],
            code="sample_error",
            message="This is a sample",
            request_id="req_sample",
            open_jobs=3,
            hint=_filled(_SOURCE_HINTS.get(type), origin, source),
        )
        return data, f"{source}/{account}"
    if type == CREDITS_LOW:
        hint = _filled(_BUY, origin, source)
        data = relay_events.credits_low_data(
            source=source, account=account, available=120, threshold=500, since=now, hint=hint
        )
        return data, f"{source}/{account}"
    if type in ("relay.delivery.expired", DELIVERY_UNCERTAIN):
        ended: dict[str, Any] = {
            **{"delivery_id": _DELIVERY_ID, "event_id": "evt_01jvpq0000000000000000000d", "job_id": SAMPLE_JOB_ID},
            "subscription_id": _SUBSCRIPTION_ID,
        }
        if type == "relay.delivery.expired":
            ended |= {"event_type": origin.type_of("failed"), "last_error": "503 Service Unavailable"}
            return relay_events.delivery_expired_data(reason="exhausted", attempts=10, **ended), _DELIVERY_ID
        ended |= {"event_type": origin.type_of("succeeded"), "last_error": "not_found_in_time", "attempts": 2}
        memory = Entry(record="note", target={"deal_id": 42}, portal="sample", at=now - 150).memory()
        data = relay_events.delivery_uncertain_data(reason="cannot_tell", kind="pipedrive", memory=memory, **ended)
        return data, _DELIVERY_ID
    if type == "relay.create.unknown":
        intent = Intent(
            id="int_01jvpq0000000000000000000e",
            source=source,
            account=account,
            path="/sample/create",
            body_digest="0" * 64,
            created_at=now - 60,
            reason="no_answer",
            channel=_CHANNEL,
            connect_account_id=_SENDER_ID,
            request={"metadata": {"campaign": "sample"}},
            metadata=_METADATA,
        )
        return relay_events.create_unknown_data(intent), intent.id
    if type == "relay.test":
        return {"message": relay_events.TEST_MESSAGE}, _SUBSCRIPTION_ID
    reason = "410 Gone" if type == "relay.subscription.disabled" else "an attempt succeeded"
    data = relay_events.subscription_data(
        subscription_id=_SUBSCRIPTION_ID, sink="https://receiver.example/hooks", reason=reason, since=now - 300
    )
    return data, _SUBSCRIPTION_ID


def _account_sample(
    type: str, event_id: str, now: float, origin: Origin, dataschema: str, source: str, account: str
) -> Event:
    kind = account_event_kind(type) or ""
    status, state, hint = _ACCOUNT_STATES[kind]
    one = ConnectAccount(
        source=source,
        account=account,
        id=_SENDER_ID,
        channel=_CHANNEL,
        name=_NAME,
        status=status,
        state=state,
        since=now - 60,
        told_state=state,
    )
    data = relay_events.account_data(one, open_jobs=0 if kind == "added" else 37, hint=_filled(hint, origin, source))
    return account_event(event_id, kind, now, data, origin, dataschema=dataschema)


def _summary_sample(type: str, now: float, origin: Origin, source: str, account: str) -> tuple[dict[str, Any], str]:
    """Data and subject of a sample about a group or an incident."""
    if type == GROUP_FINISHED:
        group = JobGroup(
            id="grp_sample",
            source=source,
            account=account,
            name="sample",
            counts={"succeeded": 194, "failed": 6},
            skipped=12,
            failures={_CODE: 4, "other": 2},
            first_at=now - 7200,
            last_at=now,
            finished_at=now,
        )
        return relay_events.group_finished_data(group), group.name
    closed = type == INCIDENT_CLOSED
    incident = Incident(
        id=_INCIDENT_ID,
        digest="",
        kind="jobs",
        source=source,
        account=account,
        channel=_CHANNEL,
        connect_account_id=_SENDER_ID,
        code=_CODE,
        hint=_filled(_RECONNECT, origin, source),
        failed=_FAILED_SO_FAR[type],
        first_failure_at=now - 2160,
        last_failure_at=now - 60,
        opened_at=now - 2160,
        closed_at=now if closed else None,
        closed_because="account_recovered" if closed else None,
    )
    return data_of(incident, name=_NAME, likely=0 if closed else 37), incident.id
