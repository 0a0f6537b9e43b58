"""Samples of the events about connect accounts, groups and incidents. See `samples`."""

from typing import Any

from relay.core.events.event import (
    GROUP_FINISHED,
    INCIDENT_CLOSED,
    INCIDENT_GREW,
    INCIDENT_OPENED,
    Event,
    Hint,
    Origin,
    account_event,
    account_event_kind,
)
from relay.core.events.summary_events import account_data, group_finished_data, incident_data

_SENDER_ID = "acc_sample"
_CHANNEL = "linkedin"
_NAME = "Ada Lovelace"
_INCIDENT_ID = "inc_01jvpq0000000000000000000f"
_CODE = "sample_error"
_RECONNECT = Hint(
    meaning="The LinkedIn account needs reconnecting", fix="Reconnect it in Revor", who="account owner", repeat="safe"
)
_ACCOUNT_STATES = {
    "needs_reconnect": ("reconnect_required", "needs_reconnect", _RECONNECT),
    "cannot_send": ("connected", "cannot_send", None),
    "recovered": ("connected", "ok", None),
    "added": ("connected", "ok", None),
    "removed": ("connected", "ok", None),
}
_FAILED_SO_FAR = {INCIDENT_OPENED: 3, INCIDENT_GREW: 10, INCIDENT_CLOSED: 40}


def account_sample(
    type: str, event_id: str, now: float, origin: Origin, dataschema: str, source: str, account: str
) -> Event:
    """A sample of an event about a connect account."""
    kind = account_event_kind(type) or ""
    status, state, hint = _ACCOUNT_STATES[kind]
    data = account_data(
        account_id=_SENDER_ID,
        channel=_CHANNEL,
        name=_NAME,
        status=status,
        state=state,
        since=now - 60,
        open_jobs=0 if kind == "added" else 37,
        source=source,
        account=account,
        hint=hint,
    )
    return account_event(event_id, kind, now, data, origin, dataschema=dataschema)


def summary_sample(type: str, now: float, source: str, account: str) -> tuple[dict[str, Any], str]:
    """Data and subject of a sample about a group or an incident."""
    if type == GROUP_FINISHED:
        data = group_finished_data(
            group="sample",
            source=source,
            account=account,
            round=1,
            counts={"succeeded": 194, "failed": 6},
            skipped=12,
            missing=0,
            failures={_CODE: 4, "other": 2},
            first_at=now - 7200,
            finished_at=now,
        )
        return data, "sample"
    closed = type == INCIDENT_CLOSED
    data = incident_data(
        incident=_INCIDENT_ID,
        kind="jobs",
        state="closed" if closed else "open",
        source=source,
        account=account,
        channel=_CHANNEL,
        connect_account_id=_SENDER_ID,
        connect_account_name=_NAME,
        subscription=None,
        sink=None,
        code=_CODE,
        hint=_RECONNECT,
        failed=_FAILED_SO_FAR[type],
        likely=0 if closed else 37,
        first_failure_at=now - 2160,
        last_failure_at=now - 60,
        opened_at=now - 2160,
        closed_at=now if closed else None,
        closed_because="account_recovered" if closed else None,
    )
    return data, _INCIDENT_ID
