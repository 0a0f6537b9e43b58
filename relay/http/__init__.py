"""The HTTP client for every URL that a user can choose, with the egress guard inside. Start at `sender.py`."""
