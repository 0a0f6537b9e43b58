"""The listening socket and the server that `relay serve` and `relay sandbox` share."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import structlog
import uvicorn

from relay.errors import UsageError
from relay.server.connections import Connections, Limits
from relay.server.http_protocol import Protocol

BACKLOG = 2048
FORCED_SECONDS = 0.1
"""How soon a stopping server notices that it has to stop at once."""
KEPT_SECONDS = 1.0
"""How long a stopping node waits for the next request of a connection that was in use a moment ago."""

log = structlog.get_logger("relay.server")


class Server(uvicorn.Server):
    """uvicorn's server without signal handlers, since the command installs its own, and with another way to stop.

    The listening socket may be shared (`systemd.py`): connections in its queue wait for the next process. Those that
    were accepted are answered before they are closed.
    """

    def __init__(self, config: uvicorn.Config, connections: Connections, kept_seconds: float) -> None:
        super().__init__(config)
        self._connections = connections
        self._kept_seconds = kept_seconds

    def stop(self, within_seconds: float) -> None:
        """Stops listening, and gives requests in flight this time."""
        self.config.timeout_graceful_shutdown = max(1, round(within_seconds))
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops listening and answers what was accepted; what is not answered in time is cancelled."""
        log.info("Shutting down")
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        draining = asyncio.ensure_future(self._drain())
        within = self.config.timeout_graceful_shutdown
        ends_at = None if within is None else asyncio.get_running_loop().time() + within
        try:
            while not draining.done() and not self.force_exit:
                await asyncio.wait([draining], timeout=FORCED_SECONDS)
                if ends_at is not None and asyncio.get_running_loop().time() > ends_at:
                    break
        finally:
            draining.cancel()
        if draining.done():
            draining.result()
        if self.server_state.tasks and not self.force_exit:
            log.warning("requests_cancelled", requests=len(self.server_state.tasks), seconds=within)
            for task in self.server_state.tasks:
                task.cancel()

    async def _drain(self) -> None:
        await self._connections.drain(self._kept_seconds)
        while self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield


def make_server(
    app: Any, *, shutdown_seconds: float, dates: bool = True, limits: Limits | None = None, kept_seconds: float = 0.0
) -> Server:
    """A server for `app` that gives requests in flight `shutdown_seconds` when it stops.

    `dates` adds a `Date` header to every answer; without it `app` does, because forwarded answers have one already.
    `kept_seconds`: see KEPT_SECONDS.
    """
    limits = limits or Limits()
    connections = Connections(limits)
    return Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            loop="uvloop",
            http=partial(Protocol, connections),  # type: ignore[arg-type]  # only called
            ws="none",
            server_header=False,
            date_header=dates,
            proxy_headers=False,
            timeout_keep_alive=limits.keep_alive_seconds,
            timeout_graceful_shutdown=max(1, round(shutdown_seconds)),
        ),
        connections,
        kept_seconds,
    )


def listening_socket(host: str, port: int) -> socket.socket:
    """A listening socket: connections queue while the node starts. Raises UsageError if the address cannot be used."""
    bare = host.strip("[]")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            bare, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )[0]
        # asyncio disables Nagle's algorithm only if the protocol is named; else each kept-alive request waits 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror}: stop what uses it, or choose another with --port"
        ) from error
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket, host: str) -> str:
    """The URL on this machine: loopback for wildcard addresses."""
    bare = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host.strip("[]"), host.strip("[]"))  # noqa: S104
    shown = f"[{bare}]" if ":" in bare else bare
    return f"http://{shown}:{listener.getsockname()[1]}"
