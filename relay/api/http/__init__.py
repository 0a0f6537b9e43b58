"""What every resource is built from: operations, checks, problems, validation."""
