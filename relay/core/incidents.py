"""Incidents: failures with one cause, reported together. Pure: failures in, the incident and its report out.

An incident is watched until enough failures show one cause, or the first one proves it; then it is open until its cause
is gone. `observe` decides the consequences of failures, `review` those of time alone.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from relay.clock import optional_rfc3339, to_rfc3339
from relay.core.events.event import INCIDENT_CLOSED, INCIDENT_GREW, INCIDENT_OPENED, Event, Hint, Repeat, owner_of
from relay.core.events.sentences import incident_fix, incident_sentence, subscription_to, titled
from relay.core.jobs.job import Observation
from relay.core.jsontext import dumps
from relay.core.records import Intent
from relay.core.relay_events import cut

IncidentKind = Literal["jobs", "creates", "sink"]
ClosedBecause = Literal[
    "account_recovered", "succeeded", "quiet", "subscription_recovered", "subscription_resumed", "subscription_removed"
]
"""Reasons why an incident closed.

account_recovered       its connect account is connected and can send again
succeeded               no failure for a while, and a success that began later
quiet                   no failure for a day
subscription_recovered  a probe of the sink succeeded
subscription_resumed    a person enabled the subscription
subscription_removed    a person removed it
"""
INCIDENT_KINDS: tuple[IncidentKind, ...] = ("jobs", "creates", "sink")
IncidentState = Literal["watching", "open", "closed"]

OPENING_COUNT = 3
"""Failures within WINDOW_SECONDS that open an incident."""
WINDOW_SECONDS = 900.0
QUIET_SECONDS = 86_400.0
"""An incident without a failure for this time is closed."""
LEAST_PAUSE_SECONDS = 60.0
MOST_PAUSE_SECONDS = 900.0
FIRST_GROWTH = 10

_SHARED = ("digest", "kind", "source", "account", "owner", "connect_account_id", "subscription_id", "channel")
"""Attributes that an incident takes from its first failure."""
_RANKS: Mapping[Repeat, int] = {"safe": 0, "useless": 1, "may_send_twice": 2}
_REPEAT: Mapping[str, Repeat | None] = {"jobs": "may_send_twice", "creates": "may_send_twice", "sink": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One failure, at an epoch time.

    kind             jobs: a job failed; creates: the fate of a create is unknown; sink: a delivery was given up, or its
                     subscription disabled
    owner            whose bound tokens may see it, as `owner_of` writes it
    subscription_id  of a sink; `sink`: its address, without the path
    code             the job's error code, the reason of the create's unknown fate, or the sink's last error
    opens            one such failure is enough to open an incident
    event_id         the event that reports it
    """

    kind: IncidentKind
    at: float
    source: str | None = None
    account: str | None = None
    owner: str | None = None
    connect_account_id: str | None = None
    subscription_id: str | None = None
    sink: str | None = None
    code: str | None = None
    channel: str | None = None
    hint: Hint | None = None
    opens: bool = False
    event_id: str | None = None

    @property
    def digest(self) -> str:
        """Equal for failures with one cause. All failures of a sink share one."""
        if self.kind == "sink":
            return digest_of_sink(self.subscription_id)
        return _digest(self.kind, self.source, self.account, self.connect_account_id, self.code)


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Failures with one cause. Times are epoch seconds. Attributes shared with Trouble are those of its failures.

    hint        of its failures; `repeat` is the most careful one of all
    recent      while watching: the times of its failures
    failed      number of failures from `first_failure_at` to `last_failure_at`
    told_count  `failed` when it was last reported
    due_at      when `review` decides whether it is over
    """

    id: str
    digest: str
    kind: IncidentKind
    state: IncidentState = "watching"
    source: str | None = None
    account: str | None = None
    owner: str | None = None
    connect_account_id: str | None = None
    subscription_id: str | None = None
    sink: str | None = None
    code: str | None = None
    channel: str | None = None
    hint: Hint | None = None
    recent: tuple[float, ...] = ()
    failed: int = 0
    told_count: int = 0
    first_failure_at: float
    last_failure_at: float
    opened_at: float | None = None
    closed_at: float | None = None
    closed_because: ClosedBecause | None = None
    due_at: float | None = None

    @property
    def waits_for_account(self) -> bool:
        """True if it ends with the recovery of its connect account."""
        return self.connect_account_id is not None and self.hint is not None and self.hint.points_at is not None


Reported = tuple[Incident, str | None]
"""An incident, and the type of the event that reports its change; None: no event."""


def trouble_of_job(
    seen: Observation,
    *,
    source: str,
    account: str,
    connect_account_id: str | None,
    channel: str | None,
    hint: Hint | None,
    at: float,
    event_id: str | None,
) -> Trouble:
    """The failure of a job. `hint`: the meaning of its error."""
    return Trouble(
        kind="jobs",
        at=at,
        source=source,
        account=account,
        owner=owner_of(source, account),
        connect_account_id=connect_account_id,
        code=seen.error_code,
        channel=channel,
        hint=hint,
        opens=hint is not None and hint.points_at == "connect_account",
        event_id=event_id,
    )


def trouble_of_create(intent: Intent, event: Event) -> Trouble:
    """A create of unknown fate, and the event that reports it."""
    return Trouble(
        kind="creates",
        at=event.recorded_at,
        source=intent.source,
        account=intent.account,
        owner=owner_of(intent.source, intent.account),
        code=intent.reason or "cut_off",
        channel=intent.channel,
        event_id=event.id,
    )


def trouble_of_sink(subscription_id: str, event: Event, *, sink: str, error: str, disabled: bool) -> Trouble:
    """A delivery that was given up or a subscription that was disabled, and the event that reports it."""
    return Trouble(
        kind="sink",
        at=event.recorded_at,
        owner=event.owner,
        subscription_id=subscription_id,
        sink=sink,
        code=error,
        opens=disabled,
        event_id=event.id,
    )


def digest_of_sink(subscription_id: str | None) -> str:
    """The digest of a sink's failures."""
    return _digest("sink", subscription_id)


def observe(incident: Incident | None, troubles: Sequence[Trouble], now: float, *, new_id: str) -> Reported:
    """The incident after one or more failures with its digest. `incident`: the watched or open one; None: one begins
    with the id `new_id`."""
    known = _begun(troubles[0], new_id) if incident is None else incident
    times = sorted(trouble.at for trouble in troubles)
    last_failure_at = max(known.last_failure_at, times[-1])
    known = replace(
        known,
        **_attributes(known, troubles),
        last_failure_at=last_failure_at,
        due_at=last_failure_at + WINDOW_SECONDS,
    )
    if known.state == "open":
        failed = known.failed + len(times)
        grown = replace(known, failed=failed, first_failure_at=min(known.first_failure_at, times[0]))
        if failed < reported_next_at(known.told_count):
            return grown, None
        return replace(grown, told_count=failed), INCIDENT_GREW
    recent = tuple(at for at in sorted((*known.recent, *times)) if at >= last_failure_at - WINDOW_SECONDS)
    watched = replace(known, recent=recent, failed=len(recent), first_failure_at=recent[0])
    if len(recent) < OPENING_COUNT and not any(trouble.opens for trouble in troubles):
        return watched, None
    return replace(watched, state="open", recent=(), told_count=watched.failed, opened_at=now), INCIDENT_OPENED


def review(incident: Incident, now: float, *, succeeded: bool) -> Reported | None:
    """The incident after a review by time alone. None: it is dropped.

    `succeeded`: a success of its key began after its last failure.
    """
    quiet_seconds = now - incident.last_failure_at
    if incident.state == "watching" and quiet_seconds >= WINDOW_SECONDS:
        return None
    if quiet_seconds < WINDOW_SECONDS:
        return replace(incident, due_at=incident.last_failure_at + WINDOW_SECONDS), None
    if succeeded:
        return close(incident, "succeeded", now)
    if quiet_seconds >= QUIET_SECONDS:
        return close(incident, "quiet", now)
    pause_seconds = min(max(quiet_seconds / 10, LEAST_PAUSE_SECONDS), MOST_PAUSE_SECONDS)
    return replace(incident, due_at=now + pause_seconds), None


def close(incident: Incident, because: ClosedBecause, now: float) -> Reported:
    """Closes an open incident."""
    closed = replace(incident, state="closed", closed_at=now, closed_because=because, due_at=None)
    return replace(closed, told_count=incident.failed), INCIDENT_CLOSED


def data_of(incident: Incident, *, name: str | None, likely: int | None) -> dict[str, Any]:
    """The data of an event about an opened incident; `GET /v1/incidents` shows the same. `name`: of its connect
    account; `likely`: number of open jobs that are likely to fail too, None: unknown."""
    assert incident.opened_at is not None
    kind, hint, subscription, sink = incident.kind, incident.hint, incident.subscription_id, incident.sink
    what = incident_sentence(
        kind,
        failed=incident.failed,
        source=incident.source or "",
        channel=cut(incident.channel) or "",
        account=cut(name or (incident.connect_account_id and f"account {incident.connect_account_id}")) or "",
        sink=subscription_to(sink or "", f"{subscription}"),
        code=cut(incident.code) or "",
        meaning=hint.meaning if hint else "",
    )
    upstream = titled(incident.source or "the upstream")
    return {
        "incident": incident.id,
        "kind": kind,
        "state": "open" if incident.closed_at is None else "closed",
        "source": incident.source,
        "account": incident.account,
        "channel": cut(incident.channel),
        "connect_account_id": cut(incident.connect_account_id),
        "connect_account_name": cut(name),
        "subscription": subscription,
        "sink": sink,
        "code": cut(incident.code),
        "what": what,
        "who": hint.who if hint else "administrator",
        "fix": hint.fix if hint else incident_fix(kind, upstream, incident.code),
        "repeat": hint.repeat if hint else _REPEAT[kind],
        "failed": incident.failed,
        "likely": likely,
        "first_failure_at": to_rfc3339(incident.first_failure_at),
        "last_failure_at": to_rfc3339(incident.last_failure_at),
        "opened_at": to_rfc3339(incident.opened_at),
        "closed_at": optional_rfc3339(incident.closed_at),
        "closed_because": incident.closed_because,
    }


def reported_next_at(told_count: int) -> int:
    """The number of failures at which an incident is next reported to have grown: the next one of 10, 100, 1,000 and so
    on."""
    return max(FIRST_GROWTH, int(10 ** len(str(told_count))))


def _digest(*key: str | None) -> str:
    return hashlib.sha256(dumps(key)).hexdigest()


def _begun(trouble: Trouble, new_id: str) -> Incident:
    shared = {name: getattr(trouble, name) for name in _SHARED}
    return Incident(**shared, id=new_id, first_failure_at=trouble.at, last_failure_at=trouble.at)


def _attributes(known: Incident, troubles: Sequence[Trouble]) -> dict[str, Any]:
    """The attributes of the newest failure, without a channel if the failures have different ones."""
    newest = troubles[-1]
    hint = newest.hint
    if hint is not None:
        hints = (known.hint, *(trouble.hint for trouble in troubles))
        repeat = max((one.repeat for one in hints if one is not None), key=_RANKS.__getitem__)
        hint = replace(hint, repeat=repeat)
    same_channel = {known.channel} == {trouble.channel for trouble in troubles}
    return {
        "sink": newest.sink,
        "code": newest.code,
        "hint": hint,
        "channel": known.channel if same_channel else None,
    }
