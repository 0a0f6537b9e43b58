"""Drop-in proxy: forwards requests to the upstream, tracks the jobs they create, answers reads. Start at `asgi.py`."""
