"""A server of raw TCP connections for tests: closed whole, so that no socket outlives its test.

`asyncio.Server.close` ends the listening socket only: connections that are still served would be left to the garbage
collector, which reports them as unclosed in whichever test runs then.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

ACCEPTING_TURNS = 5
"""asyncio takes three turns of the loop from accepting a connection to calling its handler."""

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def open_peer(
    talk: Talk, *, tls: ssl.SSLContext | None = None, listener: socket.socket | None = None, **options: int
) -> AsyncIterator[int]:
    """Calls `talk` for each connection, and yields the port: a free one of loopback unless `listener` is given.

    A connection is closed when its `talk` returns. Those still open at the end are cancelled and closed.
    """
    served: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served[task] = writer
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            del served[task]

    listener = listener or socket.create_server(("127.0.0.1", 0))
    server = await asyncio.start_server(connected, sock=listener, ssl=tls, **options)
    try:
        yield listener.getsockname()[1]
    finally:
        server.close()
        for _ in range(ACCEPTING_TURNS):  # a connection that was just accepted starts its `talk`
            await asyncio.sleep(0)
        for writer in served.values():
            writer.transport.abort()
        tasks = list(served)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # an aborted transport closes its socket in the next turn
