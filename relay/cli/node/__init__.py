"""Commands of the node and its machine: serve, check, status, support."""
