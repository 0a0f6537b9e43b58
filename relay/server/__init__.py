"""The HTTP/1.1 server that a node listens with: uvicorn, with limits on what a client can cost."""
