"""Jobs and groups of jobs: their values, what finds them, and the accounts that they are sent from."""
