"""`/v1/subscriptions`."""
