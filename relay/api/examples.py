"""Examples and header schemas for the OpenAPI description. The tests validate them."""

from typing import Any

from relay.api.idempotency import KEY_PATTERN, MAX_KEY_CHARACTERS
from relay.api.stream import EVENT_ID_PATTERN
from relay.core.events import Origin
from relay.core.samples import sample_event

_JOB_ID = "3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70"
_JOB_UID = "job_01jvpq3m8n0000000000000001"
_SUBSCRIPTION_ID = "sub_01jvpq3m8n0000000000000002"
_EVENT_ID = "evt_01jvpq3m8n0000000000000003"
_DELIVERY_ID = "dlv_01jvpq3m8n0000000000000004"
_INTENT_ID = "int_01jvpq3m8n0000000000000005"
_REPLAY_ID = "rpl_01jvpq3m8n0000000000000006"
_TIME = "2026-05-20T10:00:00.000Z"
_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - the example of the Standard Webhooks specification

_EVENT = sample_event(
    "ai.revor.job.failed",
    event_id=_EVENT_ID,
    now=1779271208.0,
    origin=Origin(
        source="https://upstream.example/api/jobs",
        type_prefix="ai.revor.job",
        dataschema="http://127.0.0.1:8080/schemas/job-status.v1.json",
    ),
    dataschema_base="http://127.0.0.1:8080",
).document()

_JOB = {
    "uid": _JOB_UID,
    "id": _JOB_ID,
    "source": "revor",
    "account": "default",
    "status": "scheduled",
    "outcome": None,
    "open": True,
    "sequence": 1,
    "metadata": {"deal": 42},
    "request": {"metadata": {"sequence": "spring"}},
    "connect_account_id": "acc_1",
    "priority": "normal",
    "tracked_at": _TIME,
    "last_polled_at": "2026-05-20T10:00:01.000Z",
    "next_poll_at": "2026-05-20T10:00:06.000Z",
    "closed_at": None,
    "poll_count": 1,
    "last_error": None,
    "upstream": {"id": _JOB_ID, "status": "scheduled"},
}
_SUBSCRIPTION = {
    "id": _SUBSCRIPTION_ID,
    "sink": "https://receiver.example/hooks",
    "types": ["ai.revor.job.failed"],
    "source": None,
    "protocol": "HTTP",
    "protocolsettings": {"headers": {}, "method": "POST"},
    "config": {
        "kind": "webhook",
        "content_mode": "structured",
        "ordering": "job",
        "start": "now",
        "timeout_seconds": 15.0,
        "retry_schedule": [5.0, 300.0, 1800.0],
        "rate_per_second": None,
        "concurrency": None,
        "metadata_keys": None,
    },
    "description": "The CRM",
    "state": "enabled",
    "disabled_reason": None,
    "state_since": _TIME,
    "state_reason": None,
    "failing_since": None,
    "failing_reason": None,
    "paused_until": None,
    "next_probe_at": None,
    "created_at": _TIME,
}
_ATTEMPT = {
    "number": 1,
    "started_at": _TIME,
    "duration_ms": 84.2,
    "status_code": 200,
    "error": None,
    "timings": {"dns_ms": 2.1, "connect_ms": 18.4, "tls_ms": 21.3, "first_byte_ms": 42.0},
    "decision": "HTTP 200: delivered",
    "next_attempt_at": None,
    "request_headers": {"webhook-id": _EVENT_ID, "webhook-signature": "[redacted]"},
    "response_headers": {"content-type": "text/plain"},
    "response_excerpt": "ok",
    "response_excerpt_encoding": "text",
    "remote_ip": "93.184.215.14",
}
_DELIVERY = {
    "id": _DELIVERY_ID,
    "event_id": _EVENT_ID,
    "event_type": "ai.revor.job.failed",
    "subject": "7d9f3c52-1f0e-4b58-9a3e-2b7f6f0a9c11",
    "subscription_id": _SUBSCRIPTION_ID,
    "sink": "https://receiver.example/hooks",
    "job_uid": _JOB_UID,
    "state": "delivered",
    "attempt_count": 1,
    "next_attempt_at": None,
    "waiting_for": None,
    "reason": None,
    "created_at": _TIME,
    "ended_at": _TIME,
}
_REPLAY = {
    "id": _REPLAY_ID,
    "subscription_id": _SUBSCRIPTION_ID,
    "state": "running",
    "matched": 12840,
    "queued": 1000,
    "delivered": 612,
    "dead": 0,
    "left": 12228,
    "since": "2026-05-19T00:00:00.000Z",
    "until": "2026-05-20T00:00:00.000Z",
    "types": None,
    "only": "undelivered",
    "reason": None,
    "created_at": _TIME,
    "ended_at": None,
}
_INTENT = {
    "id": _INTENT_ID,
    "source": "revor",
    "account": "default",
    "path": "/api/messages",
    "body_digest": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "idempotency_key": "deal-42-invite",
    "sent_at": _TIME,
    "reason": "no_answer",
    "status_code": None,
    "channel": "linkedin",
    "connect_account_id": "acc_1",
    "metadata": {"deal": 42},
    "request": {"metadata": {"sequence": "spring"}},
    "fate": None,
    "job_id": None,
}
_SOURCE = {
    "source": "revor",
    "account": "default",
    "state": "ok",
    "since": None,
    "problem": None,
    "open_jobs": 12,
    "due_jobs": 1,
    "limit": 120,
    "remaining": 97,
    "window_seconds": 60.0,
    "own_requests_per_second": 0.4,
    "others_requests_per_second": 0.1,
    "price_seconds": 0.8,
    "expected_detection_delay_seconds": 1.2,
    "expected_detection_delay_at_double_budget_seconds": 0.6,
    "expected_detection_delay_at_half_budget_seconds": 2.9,
    "paused_until": None,
    "last_completed_at": _TIME,
}

BODIES: dict[str, dict[str, Any]] = {
    "IntentResolution": {"fate": "sent", "job_id": _JOB_ID},
    "JobRegistration": {"id": _JOB_ID, "metadata": {"deal": 42}},
    "UpstreamAnswer": {"ok": True, "item": {"id": _JOB_ID, "status": "scheduled"}},
    "JobBatch": {"jobs": [{"id": "job-1", "priority": "high"}, {"id": "job-2", "metadata": {"deal": 43}}]},
    "SubscriptionCreate": {
        "sink": "https://receiver.example/hooks",
        "config": {"retry_schedule": ["5s", "5m", 1800]},
        "description": "The CRM",
    },
    "SubscriptionReplace": {"sink": "https://receiver.example/hooks", "description": "The new CRM"},
    "TestRequest": {"type": "relay.test"},
    "SecretRotation": {"overlap_seconds": 86400},
    "ReplayCreate": {"since": "2026-05-19T00:00:00Z", "until": "2026-05-20T00:00:00Z", "only": "undelivered"},
    "DeliveriesRetry": {"filter": {"subscription": _SUBSCRIPTION_ID, "reason": "http_500"}},
    "Nothing": {},
}

ANSWERS: dict[str, dict[str, Any]] = {
    "Job": _JOB,
    "JobPage": {"items": [_JOB], "next_cursor": None},
    "BatchResult": {
        "created": 9998,
        "existing": 1,
        "rejected": [{"index": 7, "code": "missing", "detail": "/id: it is missing"}],
    },
    "Explanation": {
        "uid": _JOB_UID,
        "id": _JOB_ID,
        "status": "scheduled",
        "open": True,
        "reason": "before_anchor",
        "sentence": "Nothing can happen to it before 10:00:00 UTC; the next poll comes in 5 s, at 10:00:06 UTC, when "
        "it is likely to have ended: polling earlier would take requests from jobs that need them more. Its end is "
        "known about 1.2 s after it happens.",
        "waiting_for": None,
        "next_poll_at": "2026-05-20T10:00:06.000Z",
        "not_before": "2026-05-20T10:00:06.000Z",
        "expected_delay_seconds": 1.2,
        "last_polled_at": "2026-05-20T10:00:01.000Z",
        "last_request_id": "req_8c1f",
        "last_error": None,
    },
    "Subscription": _SUBSCRIPTION,
    "SubscriptionPage": {"items": [_SUBSCRIPTION], "next_cursor": None},
    "TestResult": {
        "delivered": True,
        "verdict": "delivered",
        "reason": "200 OK",
        "event": _EVENT,
        "attempt": _ATTEMPT,
    },
    "SignedRequest": {
        "method": "POST",
        "url": "https://receiver.example/hooks",
        "headers": {"content-type": "application/cloudevents+json", "webhook-id": _EVENT_ID},
        "body": "{}",
    },
    "Secret": {"secret": _SECRET},
    "RotatedSecret": {"secret": _SECRET, "old_secret_expires_at": "2026-05-21T10:00:00.000Z"},
    "CloudEvent": _EVENT,
    "EventPage": {"items": [_EVENT], "next_cursor": "MTI"},
    "DeliveryListing": {"items": [_DELIVERY], "next_cursor": None},
    "DeliveryWithAttempts": {**_DELIVERY, "attempts": [_ATTEMPT]},
    "ReplayStarted": {"replay_id": _REPLAY_ID, "matched": 12840},
    "Replay": _REPLAY,
    "Intent": _INTENT,
    "IntentPage": {"items": [_INTENT], "next_cursor": None},
    "SourcePage": {"items": [_SOURCE], "next_cursor": None},
    "Alive": {"status": "ok"},
    "Ready": {"status": "ok", "problems": [], "notes": [], "checks": {"database": "ok"}},
}

PATHS = {
    "Intents": _INTENT_ID,
    "Jobs": _JOB_ID,
    "Subscriptions": _SUBSCRIPTION_ID,
    "Events": _EVENT_ID,
    "Deliveries": _DELIVERY_ID,
    "Replays": _REPLAY_ID,
    "System": "job-status.v1",
}

HEADER_SCHEMAS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARACTERS, "pattern": KEY_PATTERN},
    "Prefer": {"type": "string", "examples": ["wait=1"]},
    "Last-Event-ID": {"type": "string", "pattern": EVENT_ID_PATTERN},
}
