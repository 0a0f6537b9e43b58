"""Subscriptions, and their secrets, credentials, callbacks and handshakes."""
