"""The HTTP API: one file a resource. What it needs of the other rooms it declares in `ports`."""
