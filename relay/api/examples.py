"""Examples for the description; the tests hold them against the schemas."""

from typing import Any

_JOB = {
    "uid": "job_01jvpq3m8n0000000000000001",
    "id": "3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70",
    "source": "revor",
    "account": "default",
    "status": "scheduled",
    "outcome": None,
    "open": True,
    "sequence": 1,
    "metadata": {"deal": 42},
    "tracked_at": "2026-05-20T10:00:00.000Z",
    "last_polled_at": "2026-05-20T10:00:01.000Z",
    "next_poll_at": "2026-05-20T10:00:06.000Z",
    "closed_at": None,
    "poll_count": 1,
    "last_error": None,
    "upstream": {"id": "3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70", "status": "scheduled"},
}
_SUBSCRIPTION = {
    "id": "sub_01jvpq3m8n0000000000000002",
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
    },
    "description": "The CRM",
    "state": "enabled",
    "disabled_reason": None,
    "created_at": "2026-05-20T10:00:00.000Z",
}

BODIES: dict[str, dict[str, Any]] = {
    "JobRegistration": {"id": "3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70", "metadata": {"deal": 42}},
    "UpstreamAnswer": {"ok": True, "item": {"id": "3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70", "status": "scheduled"}},
    "JobBatch": {"jobs": [{"id": "job-1"}, {"id": "job-2", "metadata": {"deal": 43}}]},
    "SubscriptionCreate": {
        "sink": "https://receiver.example/hooks",
        "config": {"retry_schedule": ["5s", "5m", "30m"]},
        "description": "The CRM",
    },
    "SubscriptionReplace": {"sink": "https://receiver.example/hooks", "description": "The new CRM"},
    "TestRequest": {"type": "relay.test"},
    "SecretRotation": {"overlap_seconds": 86400},
    "Nothing": {},
}

ANSWERS: dict[str, dict[str, Any]] = {
    "Job": _JOB,
    "Page[Job]": {"items": [_JOB], "next_cursor": None},
    "BatchResult": {
        "created": 9998,
        "existing": 1,
        "rejected": [{"index": 7, "code": "missing", "detail": "/id: it is missing"}],
    },
    "SubscriptionShape": _SUBSCRIPTION,
    "Page[SubscriptionShape]": {"items": [_SUBSCRIPTION], "next_cursor": None},
}

PATHS = {
    "Jobs": "3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70",
    "Subscriptions": "sub_01jvpq3m8n0000000000000002",
    "Events": "evt_01jvpq3m8n0000000000000003",
    "Deliveries": "dlv_01jvpq3m8n0000000000000004",
    "System": "job-status.v1",
}

HEADER_SCHEMAS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "Prefer": {"type": "string", "examples": ["wait=0"]},
    "Last-Event-ID": {"type": "string", "pattern": "^evt_[0-9a-z]{26}$"},
}
