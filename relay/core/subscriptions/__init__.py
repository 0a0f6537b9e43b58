"""Subscriptions: which events match, what signs them, and what is checked before one is stored."""
