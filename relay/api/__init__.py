"""The HTTP API: one file per resource. `ports` lists what it needs from other packages."""
