"""`relay deliveries`, `relay replays`."""
