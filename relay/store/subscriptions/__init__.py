"""Subscriptions and what belongs to them: secrets, credentials, callbacks, handshakes."""
