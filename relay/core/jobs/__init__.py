"""Jobs and groups of jobs, search and erasure by metadata, and the accounts that jobs are sent from."""
