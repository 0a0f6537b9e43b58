"""`/v1/deliveries`, `/v1/replays`."""
