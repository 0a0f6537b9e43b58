"""Values that the examples of several resources share."""

JOB_ID = "3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70"
JOB_UID = "job_01jvpq3m8n0000000000000001"
SUBSCRIPTION_ID = "sub_01jvpq3m8n0000000000000002"
EVENT_ID = "evt_01jvpq3m8n0000000000000003"
DELIVERY_ID = "dlv_01jvpq3m8n0000000000000004"
INTENT_ID = "int_01jvpq3m8n0000000000000005"
REPLAY_ID = "rpl_01jvpq3m8n0000000000000006"
TOKEN_ID = "tok_01jvpq3m8n0000000000000007"  # noqa: S105 (an id)
INCIDENT_ID = "inc_01jvpq3m8n0000000000000008"
TIME = "2026-05-20T10:00:00.000Z"

PATHS = {
    "Intents": INTENT_ID,
    "Incidents": INCIDENT_ID,
    "Jobs": JOB_ID,
    "Groups": "Q4 campaign",
    "Subscriptions": SUBSCRIPTION_ID,
    "Events": EVENT_ID,
    "Deliveries": DELIVERY_ID,
    "Replays": REPLAY_ID,
    "Tokens": TOKEN_ID,
    "Audit": "aud_01jvpq3m8n0000000000000007",
    "System": "job-status.v1",
}
"""The example of `{id}`, by tag."""
