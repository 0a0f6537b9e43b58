"""The outbox: events and their deliveries, recorded in the transaction that causes them."""
