"""Deliveries: claimed, ended, listed, cancelled, replayed, pulled."""
