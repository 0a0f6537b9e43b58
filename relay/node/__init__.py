"""A running node: builds every component from the settings, times them, starts and stops them. Start at `node.py`."""
