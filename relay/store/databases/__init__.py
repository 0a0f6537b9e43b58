"""The two databases: connections, group commit, locks, statements."""
