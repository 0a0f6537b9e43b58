"""Polling: asks the upstream about open jobs and records what changed. Start at `poller.py`."""
