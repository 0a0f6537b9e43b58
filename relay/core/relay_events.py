"""Data of the events that are not about one job, and the schema of every event type.

Incidents: `data_of` in `incidents.py`. Texts of the upstream are cut, so that an event always fits its limit.

The delivery of an event about the relay never causes a `relay.delivery.*`: a dead sink subscribed to these would
produce events without end. An event about a subscription's own failure is harmless: it waits until the sink recovers.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from relay.clock import optional_rfc3339, to_rfc3339
from relay.core.deliveries import ledger
from relay.core.deliveries.dialogue import Memory
from relay.core.events.event import JOB_SCHEMA, Explain, Hint, account_event_kind, job_event_kind, unexplained
from relay.core.events.sentences import cause_of_unknown, create_fix, group_sentence, titled, uncertain_fix, why_failed
from relay.core.jobs.connect_accounts import ConnectAccount
from relay.core.jobs.groups import ENDED_STATES, OTHER, JobGroup
from relay.core.jobs.job import NO_CODE
from relay.core.records import Intent

MAX_FAILURES = 20
"""Maximum number of error codes in an event. The jobs with the rarer ones are counted under OTHER."""
_TEXT_CHARACTERS = 256
TEST_MESSAGE = "This is a test from revor-relay: events will arrive like this"

SCHEMA_NAMES = (
    *(JOB_SCHEMA, "relay-source.v1", "relay-subscription.v1", "relay-delivery.v1", "relay-create.v1"),
    *("relay-credits.v1", "relay-test.v1", "connect-account.v1", "relay-group.v1", "relay-incident.v1"),
)
"""Names of all event schemas: files in `schemas/` without their extension."""

_SCHEMA_BY_PREFIX = {
    "relay.source.": "relay-source.v1",
    "relay.subscription.": "relay-subscription.v1",
    "relay.delivery.": "relay-delivery.v1",
    "relay.create.": "relay-create.v1",
    "relay.credits.": "relay-credits.v1",
    "relay.test": "relay-test.v1",
    "relay.group.": "relay-group.v1",
    "relay.incident.": "relay-incident.v1",
}


def schema_name_for(event_type: str) -> str:
    """Schema name of an event type, such as `job-status.v1`. Raises ValueError for an unknown type."""
    for prefix, name in _SCHEMA_BY_PREFIX.items():
        if event_type.startswith(prefix):
            return name
    if job_event_kind(event_type) is not None:
        return JOB_SCHEMA
    if account_event_kind(event_type) is not None:
        return "connect-account.v1"
    raise ValueError(f"{event_type!r} is not an event type of the relay")


def dataschema_for(event_type: str, base_url: str) -> str:
    """The `dataschema` of an event type. `base_url`: public URL of the relay."""
    return f"{base_url.rstrip('/')}/schemas/{schema_name_for(event_type)}.json"


def source_trouble_data(
    *,
    source: str,
    account: str,
    since: float,
    reason: str,
    code: str | None = None,
    message: str | None = None,
    request_id: str | None = None,
    open_jobs: int | None = None,
    hint: Hint | None = None,
) -> dict[str, Any]:
    """For `relay.source.unauthorized`, `.down` and `.recovered`.

    reason                     one sentence for people
    code, message, request_id  from the last upstream error
    since                      when the trouble began, also if it is over now
    open_jobs                  open jobs of the account
    hint                       meaning of the error, and its fix
    """
    data: dict[str, Any] = {
        "source": source,
        "account": account,
        "since": to_rfc3339(since),
        "reason": reason,
        "code": code,
        "message": message,
        "request_id": request_id,
    }
    if open_jobs is not None:
        data["open_jobs"] = open_jobs
    if hint is not None:
        data["hint"] = hint.document()
    return data


def credits_low_data(
    *, source: str, account: str, available: float, threshold: int, since: float, hint: Hint | None = None
) -> dict[str, Any]:
    """For `relay.credits.low`: an account has fewer credits than the setting `credits_low`.

    available  what is left, by the reading at `since`, the first one below the threshold
    """
    data = {
        "source": source,
        "account": account,
        "available": available,
        "threshold": threshold,
        "since": to_rfc3339(since),
    }
    return data if hint is None else {**data, "hint": hint.document()}


def subscription_data(*, subscription_id: str, sink: str, reason: str, since: float | None) -> dict[str, Any]:
    """For `relay.subscription.disabled` and `.recovered`.

    `sink` is without its path; `since` is when it began to fail, None if it never did (410).
    """
    return {"subscription": subscription_id, "sink": sink, "reason": reason, "since": optional_rfc3339(since)}


def delivery_expired_data(
    *,
    delivery_id: str,
    event_id: str,
    event_type: str,
    subscription_id: str,
    job_id: str | None,
    attempts: int,
    last_error: str | None,
    reason: Literal["exhausted", "refused", "cannot_tell"],
) -> dict[str, Any]:
    """For `relay.delivery.expired`: a delivery is dead.

    `job_id` is the upstream's id of the job. `reason`: the retry schedule is `exhausted`, or the sink `refused` this
    event permanently.
    """
    return {
        "delivery": delivery_id,
        "event": event_id,
        "event_type": event_type,
        "subscription": subscription_id,
        "job": job_id,
        "attempts": attempts,
        "last_error": last_error,
        "reason": reason,
    }


_WORD = re.compile(r"[a-z][a-z_]{0,39}", re.ASCII)
_ID = re.compile(r"[0-9]{1,20}|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|[A-Za-z0-9]{15,18}")
_MAX_TARGETS = 5


def delivery_uncertain_data(
    *, reason: Literal["exhausted", "cannot_tell"], kind: str, memory: Memory, **ended: Any
) -> dict[str, Any]:
    """For `relay.delivery.uncertain`: a write was sent, and only a person can find out its outcome.

    reason  the retry schedule is `exhausted` before the sink could be asked, or the sink `cannot_tell`
    kind    of the subscription
    memory  the subscription's memory of the write; the event contains only its words and ids
    ended   the other arguments of `delivery_expired_data`
    """
    data = delivery_expired_data(reason=reason, **ended)
    record, target = _in_doubt(memory)
    places = [(name, str(id)) for name, id in target.items()]
    fix = uncertain_fix(titled(kind), record or "", places, job=f"{data['job']}", event=data["event"])
    return {**data, "kind": kind, "record": record, "target": target or None, "fix": fix}


def _in_doubt(memory: Memory) -> tuple[str | None, dict[str, str | int]]:
    """The record that may have been written, and its target: fields of the sink with ids."""
    entry = ledger.read_entry(memory)
    record, found = ("", {}) if entry is None else (entry.record, entry.target)
    target = {name: id for name, id in found.items() if _WORD.fullmatch(name) and _is_id(id)}
    return record if _WORD.fullmatch(record) else None, dict(list(target.items())[:_MAX_TARGETS])


def _is_id(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and _ID.fullmatch(str(value)) is not None


def create_unknown_data(intent: Intent) -> dict[str, Any]:
    """For `relay.create.unknown`: a create was sent, and its outcome is unknown.

    reason  one sentence for people; `cause` is the intent's reason
    fix     the next step for a person
    """
    cause = intent.reason or "cut_off"
    fix = create_fix("the upstream", has_key=intent.idempotency_key is not None)
    return {
        "intent": intent.id,
        "source": intent.source,
        "account": intent.account,
        "path": intent.path,
        "channel": intent.channel,
        "connect_account_id": intent.connect_account_id,
        "sent_at": to_rfc3339(intent.created_at),
        "cause": cause,
        "status_code": intent.status_code,
        "idempotency_key_given": intent.idempotency_key is not None,
        "metadata": dict(intent.metadata or {}),
        "request": {"metadata": {}, **(intent.request or {})},
        "reason": f"It is unknown whether a create was carried out: {cause_of_unknown(cause, 'the upstream')}",
        "fix": fix,
    }


def account_data(account: ConnectAccount, *, open_jobs: int, hint: Hint | None = None) -> dict[str, Any]:
    """For the events of a connect account. `open_jobs`: open jobs that name it."""
    data: dict[str, Any] = {
        "account_id": cut(account.id),
        "channel": cut(account.channel),
        "name": cut(account.name),
        "status": cut(account.status),
        "state": account.state,
        "since": to_rfc3339(account.since),
        "open_jobs": open_jobs,
        "source": account.source,
        "account": account.account,
    }
    return data if hint is None else {**data, "hint": hint.document()}


def group_finished_data(group: JobGroup, explain: Explain = unexplained) -> dict[str, Any]:
    """For `relay.group.finished`: a group whose round has finished. `explain`: for its summary."""
    finished_at, reported = group.finished_at or group.last_at, _ranked_failures(group.failures)
    ended = {state: group.counts.get(state, 0) for state in ENDED_STATES}
    figures = {"skipped": group.skipped, "missing": group.missing}
    causes = [(_why(group.source, code, explain), count) for code, count in reported]
    return {
        "group": group.name,
        "source": group.source,
        "account": group.account,
        "round": group.round,
        "counts": group.all_counts,
        **figures,
        "failures": [{"code": code, "count": count} for code, count in reported],
        "first_at": to_rfc3339(group.first_at),
        "finished_at": to_rfc3339(finished_at),
        "duration_seconds": round(max(finished_at - group.first_at, 0.0), 3),
        "summary": group_sentence(group.name, round=group.round, failures=causes, **figures, **ended),
    }


def _why(source: str, code: str, explain: Explain) -> str:
    hint = None if code in (OTHER, NO_CODE) else explain(source, code)
    return why_failed(code, "" if hint is None else cut(hint.meaning) or "", source)


def _ranked_failures(failures: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Error codes with their counts, the largest first; the rarest under OTHER if there are too many."""
    counted = [(cut(code) or NO_CODE, count) for code, count in failures.items() if count]
    ranked = sorted(counted, key=lambda one: (-one[1], one[0]))
    if len(ranked) <= MAX_FAILURES:
        return tuple(ranked)
    kept = ranked[: MAX_FAILURES - 1]
    return (*kept, (OTHER, sum(count for _, count in ranked[len(kept) :])))


def cut(text: str | None) -> str | None:
    """A text of the upstream, cut to its limit in an event."""
    return text if text is None else text[:_TEXT_CHARACTERS]
