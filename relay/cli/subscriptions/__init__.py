"""`relay subscriptions`, `relay apply`, `relay export`."""
