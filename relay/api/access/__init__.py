"""`/v1/tokens`, `/v1/sessions`, `/v1/keys`, `/v1/audit`, and the callers behind a token."""
