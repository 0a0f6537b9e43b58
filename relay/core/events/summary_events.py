"""Data of the events about what many jobs have in common: connect accounts, groups, incidents.

Texts of the upstream are cut, so that an event always fits its limit.
"""

from collections.abc import Mapping
from typing import Any, Literal

from relay.clock import optional_rfc3339, to_rfc3339
from relay.core.events.event import Hint, Repeat
from relay.core.events.sentences import group_sentence, incident_sentence, titled
from relay.core.jobs.groups import OTHER, STATES

MAX_FAILURES = 20
"""Maximum number of error codes in an event. The jobs with the rarer ones are counted under OTHER."""

IncidentKind = Literal["jobs", "creates", "sink"]
ClosedBecause = Literal[
    "account_recovered", "succeeded", "quiet", "subscription_recovered", "subscription_resumed", "subscription_removed"
]
"""Why an incident closed.

account_recovered       its connect account is connected and can send again
succeeded               no failure for a while, and a success that began later
quiet                   no failure for a day
subscription_recovered  a probe of the sink succeeded
subscription_resumed    a person enabled the subscription
subscription_removed    a person removed it
"""

_TEXT_CHARACTERS = 256
_FIX = {
    "jobs": "Open one of its jobs in {upstream} to see why it failed",
    "creates": "Check in {upstream} which of them went out: relay intents list",
    "sink": "Fix the receiver. If the subscription is disabled, resume it (relay subscriptions resume {subscription}). "
    "Then send again what was given up (relay deliveries retry --state dead --subscription {subscription})",
}
"""What to do. Of a sink it holds in every state: an enabled subscription retries by itself, and neither that nor a
resume sends again what was given up."""
_WHO = {"jobs": "account owner", "creates": "account owner", "sink": "administrator"}
_REPEAT: Mapping[str, Repeat | None] = {"jobs": "may_send_twice", "creates": "may_send_twice", "sink": None}


def account_data(
    *,
    account_id: str,
    channel: str | None,
    name: str | None,
    status: str | None,
    state: str,
    since: float,
    open_jobs: int,
    source: str,
    account: str,
    hint: Hint | None = None,
) -> dict[str, Any]:
    """For the events of a connect account.

    account_id    the upstream's id of the connect account; `name` and `status`: the upstream's own
    state, since  what the relay makes of it, and since when
    open_jobs     open jobs that name it
    account       the account in the relay's settings that lists it
    """
    data: dict[str, Any] = {
        "account_id": _cut(account_id),
        "channel": _cut(channel),
        "name": _cut(name),
        "status": _cut(status),
        "state": state,
        "since": to_rfc3339(since),
        "open_jobs": open_jobs,
        "source": source,
        "account": account,
    }
    return data if hint is None else {**data, "hint": hint.document()}


def group_finished_data(
    *,
    group: str,
    source: str,
    account: str,
    round: int,
    counts: Mapping[str, int],
    skipped: int,
    missing: int,
    failures: Mapping[str, int],
    first_at: float,
    finished_at: float,
) -> dict[str, Any]:
    """For `relay.group.finished`.

    counts    jobs by state; absent ones are 0
    skipped   succeeded jobs that had nothing to do
    missing   how many fewer came than were expected
    failures  failed jobs by error code
    """
    every = {state: counts.get(state, 0) for state in STATES}
    reported = ranked_failures(failures)
    ended = {state: every[state] for state in ("succeeded", "failed", "cancelled", "not_found", "untracked")}
    return {
        "group": group,
        "source": source,
        "account": account,
        "round": round,
        "counts": every,
        "skipped": skipped,
        "missing": missing,
        "failures": [{"code": code, "count": count} for code, count in reported],
        "first_at": to_rfc3339(first_at),
        "finished_at": to_rfc3339(finished_at),
        "duration_seconds": round_seconds(finished_at - first_at),
        "summary": group_sentence(group, round=round, skipped=skipped, missing=missing, failures=reported, **ended),
    }


def ranked_failures(failures: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Error codes with their counts, the largest first; the rarest under OTHER if there are too many."""
    counted = [(_cut(code) or "unknown", count) for code, count in failures.items() if count]
    ranked = sorted(counted, key=lambda one: (-one[1], one[0]))
    if len(ranked) <= MAX_FAILURES:
        return tuple(ranked)
    kept = ranked[: MAX_FAILURES - 1]
    return (*kept, (OTHER, sum(count for _, count in ranked[len(kept) :])))


def incident_data(
    *,
    incident: str,
    kind: IncidentKind,
    state: Literal["open", "closed"],
    source: str | None,
    account: str | None,
    channel: str | None,
    connect_account_id: str | None,
    connect_account_name: str | None,
    subscription: str | None,
    sink: str | None,
    code: str | None,
    hint: Hint | None,
    failed: int,
    likely: int | None,
    first_failure_at: float,
    last_failure_at: float,
    opened_at: float,
    closed_at: float | None = None,
    closed_because: ClosedBecause | None = None,
) -> dict[str, Any]:
    """For the events of an incident; `GET /v1/incidents` shows the same.

    incident  its id
    sink      of a sink incident: the subscription's sink without its path
    code      the error code; of creates: the intent's reason
    hint      of the error
    failed    how many failed so far
    likely    how many open jobs are likely to fail too; None: unknown
    """
    name = connect_account_name or (connect_account_id and f"account {connect_account_id}")
    what = incident_sentence(
        kind,
        failed=failed,
        source=source or "",
        channel=_cut(channel) or "",
        account=_cut(name) or "",
        sink=f"{subscription} to {sink}" if sink else f"{subscription}",
        code=_cut(code) or "",
        meaning=hint.meaning if hint else "",
    )
    return {
        "incident": incident,
        "kind": kind,
        "state": state,
        "source": source,
        "account": account,
        "channel": _cut(channel),
        "connect_account_id": _cut(connect_account_id),
        "connect_account_name": _cut(connect_account_name),
        "subscription": subscription,
        "sink": sink,
        "code": _cut(code),
        "what": what,
        "who": hint.who if hint else _WHO[kind],
        "fix": hint.fix
        if hint
        else _FIX[kind].format(subscription=subscription, upstream=titled(source or "the upstream")),
        "repeat": hint.repeat if hint else _REPEAT[kind],
        "failed": failed,
        "likely": likely,
        "first_failure_at": to_rfc3339(first_failure_at),
        "last_failure_at": to_rfc3339(last_failure_at),
        "opened_at": to_rfc3339(opened_at),
        "closed_at": optional_rfc3339(closed_at),
        "closed_because": closed_because,
    }


def round_seconds(seconds: float) -> float:
    """A duration in milliseconds precision, never negative."""
    return round(max(seconds, 0.0), 3)


def _cut(text: Any) -> Any:
    return text[:_TEXT_CHARACTERS] if isinstance(text, str) else text
