"""`/v1/jobs`, `/v1/groups`, `/v1/intents`."""
