"""What polls have taught, and the polling policies computed from it."""
