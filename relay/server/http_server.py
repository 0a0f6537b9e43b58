"""The listening socket and the server that `relay serve` and `relay sandbox` share."""

import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvicorn

from relay.errors import UsageError
from relay.server.http_protocol import Connections, Limits, Protocol

BACKLOG = 2048


class Server(uvicorn.Server):
    """uvicorn's server without signal handlers: the command installs its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield


def make_server(app: Any, *, shutdown_seconds: float, dates: bool = True, limits: Limits | None = None) -> Server:
    """A server for `app` that gives requests in flight `shutdown_seconds` when it stops.

    `dates` adds a `Date` header to every answer; without it `app` does, because forwarded answers have one already.
    """
    limits = limits or Limits()
    return Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            loop="uvloop",
            http=partial(Protocol, Connections(limits)),  # type: ignore[arg-type]  # only called
            ws="none",
            server_header=False,
            date_header=dates,
            proxy_headers=False,
            timeout_keep_alive=limits.keep_alive_seconds,
            timeout_graceful_shutdown=max(1, round(shutdown_seconds)),
        )
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
