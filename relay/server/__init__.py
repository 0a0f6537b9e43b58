"""The HTTP/1.1 server of a node: uvicorn, with limits on what one client can use."""
