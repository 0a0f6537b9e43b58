"""What the events about the relay itself say: the `data` of each, and the schema of every event type.

No `relay.delivery.expired` may be made for the delivery of an event that is itself about the relay: a dead sink that
asked for these would then feed itself without end. An event about a subscription's own trouble is harmless: it waits
until the subscription is there again.
"""

from typing import Any, Literal

from relay.clock import optional_rfc3339, to_rfc3339
from relay.core.events import Hint
from relay.core.job import JOB_EVENTS
from relay.core.records import Intent

TEST_MESSAGE = "This is a test from revor-relay: events will arrive like this"

SCHEMA_NAMES = (
    *("job-status.v1", "relay-source.v1", "relay-subscription.v1", "relay-delivery.v1", "relay-create.v1"),
    "relay-test.v1",
)
"""The schemas of all event types, as files of `schemas/` without their ending."""

_SCHEMA_BY_PREFIX = {
    "relay.source.": "relay-source.v1",
    "relay.subscription.": "relay-subscription.v1",
    "relay.delivery.": "relay-delivery.v1",
    "relay.create.": "relay-create.v1",
    "relay.test": "relay-test.v1",
}


def schema_name_for(event_type: str) -> str:
    """The name of the schema of a type's events, such as `job-status.v1`. Raises ValueError for no type of ours."""
    for prefix, name in _SCHEMA_BY_PREFIX.items():
        if event_type.startswith(prefix):
            return name
    source, job, kind = event_type.rpartition(".job.")
    if source and job and kind in JOB_EVENTS:
        return "job-status.v1"
    raise ValueError(f"{event_type!r} is no event type of the relay")


def dataschema_for(event_type: str, base_url: str) -> str:
    """The `dataschema` of a type's events, where the relay is reached at `base_url`."""
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

    reason                     one sentence for a person
    code, message, request_id  what the upstream last said
    since                      when the trouble began, also where it is over now
    open_jobs                  how many jobs of the account wait for it
    hint                       what the error means, and what to do about it
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


def subscription_data(*, subscription_id: str, sink: str, reason: str, since: float | None) -> dict[str, Any]:
    """For `relay.subscription.disabled` and `.recovered`.

    `sink` is redacted by the subscription's kind; `since` is when it began to fail, None where it never did (410).
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
    reason: Literal["exhausted", "refused"],
) -> dict[str, Any]:
    """For `relay.delivery.expired`: a delivery became dead.

    `job_id` is the upstream's id of the job. `reason`: the retry schedule was `exhausted`, or the sink `refused` this
    one event for good.
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


_CAUSES = {
    "no_answer": "the upstream gave no answer",
    "server_error": "the upstream answered with an error that proves nothing",
    "unreadable": "the upstream took it, and its answer names no job",
    "cut_off": "the relay ended before an answer came",
}


def create_unknown_data(intent: Intent) -> dict[str, Any]:
    """For `relay.create.unknown`: a create went out, and whether it was carried out is unknown.

    reason  one sentence for a person; `cause` is the intent's own word for it
    fix     what to do
    """
    cause = intent.reason or "cut_off"
    if intent.idempotency_key is not None:
        fix = "Send the same request again with the same Idempotency-Key: the upstream answers with the original"
    else:
        fix = (
            "Check in the upstream whether it went out, and send it again only if it did not. Then run "
            f"relay intents resolve {intent.id} --fate sent, or not_sent"
        )
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
        "reason": f"It is unknown whether a create was carried out: {_CAUSES[cause]}",
        "fix": fix,
    }


def relay_test_data(message: str = TEST_MESSAGE) -> dict[str, Any]:
    """For `relay.test`."""
    return {"message": message}
