"""The parts of every resource: operations, checks, problems, validation."""
