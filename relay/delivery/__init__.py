"""Delivery: sends due events to their sinks and records each attempt. Start at `dispatcher.py`."""
