"""The HTTP API: by topic, one file per resource. `ports` lists what it needs from other packages."""
