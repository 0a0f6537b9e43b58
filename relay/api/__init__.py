"""The HTTP API: a folder per topic. `http.dependencies` lists what it needs from other packages."""
