"""`relay demo`: the whole product on loopback in about a minute, with figures at the end. Start at `command.py`."""
