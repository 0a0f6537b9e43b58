"""Subscriptions: matching of events, signatures, and checks before one is stored."""
