"""Core values as the JSON of the API. `shapes.py` documents it."""

from collections.abc import Callable, Mapping
from typing import Any

from relay.api.ports import ApiSettings, Tested
from relay.clock import optional_rfc3339, to_rfc3339
from relay.core.delivery import Attempt, Delivery, DeliveryGroup
from relay.core.events import Event
from relay.core.job import Job
from relay.core.records import Intent
from relay.core.replay import Replay
from relay.core.subscription import Subscription
from relay.core.tracking import Explanation, SourceReport
from relay.redaction import is_credential, redact_text

REDACTED = "[redacted]"


def job_view(job: Job) -> dict[str, Any]:
    """A job."""
    return {
        "uid": job.uid,
        "id": job.external_id,
        "source": job.source,
        "account": job.account,
        "status": job.progress.status,
        "outcome": job.outcome,
        "open": job.closed_at is None,
        "sequence": job.progress.sequence,
        "metadata": job.metadata,
        "request": {"metadata": {}, **(job.request or {})},
        "connect_account_id": job.connect_account_id,
        "priority": job.priority,
        "tracked_at": to_rfc3339(job.tracked_at),
        "last_polled_at": optional_rfc3339(job.last_polled_at),
        "next_poll_at": optional_rfc3339(job.next_poll_at) if job.closed_at is None else None,
        "closed_at": optional_rfc3339(job.closed_at),
        "poll_count": job.poll_count,
        "last_error": None if job.last_error is None else _last_error(job.last_error),
        "upstream": job.upstream,
    }


def _last_error(error: Mapping[str, Any]) -> dict[str, Any]:
    at = error.get("at")
    return {
        "code": str(error.get("code") or "unknown"),
        "message": redact_text(str(error.get("message") or "")),
        "request_id": error.get("request_id"),
        "at": to_rfc3339(at) if isinstance(at, int | float) else at,
    }


def intent_view(intent: Intent) -> dict[str, Any]:
    """A create whose fate is unknown."""
    return {
        "id": intent.id,
        "source": intent.source,
        "account": intent.account,
        "path": intent.path,
        "body_digest": f"sha256:{intent.body_digest}",
        "idempotency_key": intent.idempotency_key,
        "sent_at": to_rfc3339(intent.created_at),
        "reason": intent.reason,
        "status_code": intent.status_code,
        "channel": intent.channel,
        "connect_account_id": intent.connect_account_id,
        "metadata": dict(intent.metadata or {}),
        "request": {"metadata": {}, **(intent.request or {})},
        "fate": intent.fate,
        "job_id": intent.job_id,
    }


def explanation_view(job: Job, explanation: Explanation) -> dict[str, Any]:
    """When a job is polled next, and why."""
    return {
        "uid": job.uid,
        "id": job.external_id,
        "status": job.progress.status,
        "open": job.closed_at is None,
        "reason": explanation.reason,
        "sentence": explanation.sentence,
        "waiting_for": explanation.waiting_for,
        "next_poll_at": optional_rfc3339(explanation.next_poll_at),
        "not_before": optional_rfc3339(explanation.not_before),
        "expected_delay_seconds": explanation.expected_delay_seconds,
        "last_polled_at": optional_rfc3339(explanation.last_polled_at),
        "last_request_id": explanation.last_request_id,
        "last_error": None if explanation.last_error is None else _explained_error(explanation.last_error),
    }


def _explained_error(error: Mapping[str, Any]) -> dict[str, Any]:
    return {**_last_error(error), **{name: error[name] for name in ("meaning", "fix", "who")}}


def subscription_view(
    subscription: Subscription,
    redacted_url: Callable[[str, str], str],
    settings: ApiSettings,
    *,
    secret: str | None = None,
) -> dict[str, Any]:
    """A subscription, with the defaults of the settings filled in. `secret` is only shown once, on creation."""
    own_timeout, own_schedule = subscription.timeout_seconds, subscription.retry_schedule_seconds
    config: dict[str, Any] = {
        "kind": subscription.kind,
        "content_mode": "structured",
        "ordering": subscription.ordering,
        "start": start_view(subscription.start_at),
        "timeout_seconds": settings.default_timeout_seconds if own_timeout is None else own_timeout,
        "retry_schedule": list(settings.default_retry_schedule_seconds if own_schedule is None else own_schedule),
        "rate_per_second": subscription.rate_per_second,
        "concurrency": subscription.concurrency,
        "metadata_keys": subscription.options.get("metadata_keys"),
    }
    if secret is not None:
        config["secret"] = secret
    return {
        "id": subscription.id,
        "sink": redacted_url(subscription.kind, subscription.sink),
        "types": None if subscription.types is None else list(subscription.types),
        "source": subscription.source,
        "protocol": "HTTP",
        "protocolsettings": {
            "headers": {name: header_view(name, value) for name, value in subscription.headers},
            "method": subscription.method,
        },
        "config": config,
        "description": subscription.description,
        "state": subscription.state,
        "disabled_reason": subscription.disabled_reason,
        "state_since": to_rfc3339(subscription.state_since or subscription.created_at),
        "state_reason": subscription.state_reason,
        "failing_since": optional_rfc3339(subscription.failing_since),
        "failing_reason": subscription.failing_reason,
        "paused_until": optional_rfc3339(subscription.paused_until),
        "next_probe_at": optional_rfc3339(subscription.probe_at),
        "created_at": to_rfc3339(subscription.created_at),
    }


def start_view(start_at: float | None) -> str:
    """The value of `config.start`."""
    if start_at is None:
        return "now"
    return to_rfc3339(start_at) if start_at else "earliest"


def header_view(name: str, value: str) -> str:
    """A custom header's value; REDACTED if its name or form suggests a credential."""
    if is_credential(name) or redact_text(value) != value:
        return REDACTED
    return value


def delivery_view(delivery: Delivery, sink: str | None) -> dict[str, Any]:
    """A delivery as shown in lists. `sink`: redacted, None if the subscription was removed."""
    return {
        "id": delivery.id,
        "event_id": delivery.event_id,
        "event_type": delivery.event_type,
        "subject": delivery.subject,
        "subscription_id": delivery.subscription_id,
        "sink": sink,
        "job_uid": delivery.job_uid,
        "state": delivery.state,
        "attempt_count": delivery.attempt_count,
        "next_attempt_at": optional_rfc3339(delivery.next_attempt_at),
        "waiting_for": delivery.waiting_for,
        "reason": delivery.reason,
        "created_at": to_rfc3339(delivery.created_at),
        "ended_at": optional_rfc3339(delivery.ended_at),
    }


def delivery_group_view(group: DeliveryGroup, sink: str | None) -> dict[str, Any]:
    """A group of deliveries. `sink`: redacted, None if the subscription was removed."""
    return {
        "reason": group.reason,
        "subscription_id": group.subscription_id,
        "sink": sink,
        "day": None if group.day is None else to_rfc3339(group.day)[:10],
        "count": group.count,
        "oldest_at": to_rfc3339(group.oldest_at),
        "newest_at": to_rfc3339(group.newest_at),
        "example_id": group.example_id,
    }


def replay_view(replay: Replay) -> dict[str, Any]:
    """The progress of a replay."""
    return {
        "id": replay.id,
        "subscription_id": replay.subscription_id,
        "state": replay.state,
        "matched": replay.matched,
        "queued": replay.queued,
        "delivered": replay.delivered,
        "dead": replay.dead,
        "left": replay.left,
        "since": to_rfc3339(replay.since),
        "until": to_rfc3339(replay.until),
        "types": None if replay.types is None else list(replay.types),
        "only": replay.only,
        "reason": replay.reason,
        "created_at": to_rfc3339(replay.created_at),
        "ended_at": optional_rfc3339(replay.ended_at),
    }


def attempt_view(attempt: Attempt) -> dict[str, Any]:
    """One attempt. The dispatcher redacts headers that it knows; the rest are redacted here."""
    return {
        "number": attempt.number,
        "started_at": to_rfc3339(attempt.started_at),
        "duration_ms": attempt.duration_ms,
        "status_code": attempt.status_code,
        "error": attempt.error,
        "timings": attempt.timings._asdict(),
        "decision": attempt.decision,
        "next_attempt_at": optional_rfc3339(attempt.next_attempt_at),
        "request_headers": _headers_view(attempt.request_headers),
        "response_headers": _headers_view(attempt.response_headers),
        "response_excerpt": attempt.response_excerpt,
        "response_excerpt_encoding": _excerpt_encoding(attempt),
        "remote_ip": attempt.remote_ip,
    }


def _excerpt_encoding(attempt: Attempt) -> str | None:
    if attempt.response_excerpt is None:
        return None
    return "hex" if attempt.excerpt_is_hex else "text"


def _headers_view(headers: tuple[tuple[str, str], ...]) -> dict[str, str]:
    shown: dict[str, str] = {}
    for name, value in headers:
        seen = header_view(name, value)
        shown[name] = f"{shown[name]}, {seen}" if name in shown else seen
    return shown


def tested_view(event: Event, tested: Tested) -> dict[str, Any]:
    """The result of a test."""
    return {
        "delivered": tested.outcome.verdict == "delivered",
        "verdict": tested.outcome.verdict,
        "reason": tested.outcome.reason,
        "event": event.document(),
        "attempt": attempt_view(tested.attempt),
    }


def report_view(report: SourceReport) -> dict[str, Any]:
    """The polling state of one account."""
    return {
        "source": report.source,
        "account": report.account,
        "state": report.state,
        "since": optional_rfc3339(report.since),
        "problem": None if report.problem is None else _last_error(report.problem),
        "open_jobs": report.open_jobs,
        "due_jobs": report.due_jobs,
        "limit": report.limit,
        "remaining": report.remaining,
        "window_seconds": report.window_seconds,
        "own_requests_per_second": report.own_requests_per_second,
        "others_requests_per_second": report.others_requests_per_second,
        "price_seconds": report.price_seconds,
        "expected_detection_delay_seconds": report.expected_detection_delay_seconds,
        "expected_detection_delay_at_double_budget_seconds": report.expected_detection_delay_at_double_budget_seconds,
        "expected_detection_delay_at_half_budget_seconds": report.expected_detection_delay_at_half_budget_seconds,
        "paused_until": optional_rfc3339(report.paused_until),
        "last_completed_at": optional_rfc3339(report.last_completed_at),
    }
