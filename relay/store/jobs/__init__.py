"""Jobs, groups of jobs, creates in flight, learned statistics."""
