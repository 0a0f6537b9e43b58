"""Polling: requests the state of open jobs and records what changed. Start at `poller.py`."""
