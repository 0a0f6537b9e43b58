"""Deliveries: requests, outcomes, retries, and the credentials of sinks."""
