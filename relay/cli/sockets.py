"""What `relay serve` and `relay sandbox` share: a socket that listens, and a server that leaves signals to us."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from relay.errors import UsageError

BACKLOG = 2048


class Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: the command that runs it has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


class _Protocol(HttpToolsProtocol):
    """uvicorn's, but that a request that offers another protocol is read to its end all the same.

    Java's client offers `Upgrade: h2c` with every request over plain http. Nobody here takes that up; the parser ends
    such a request at its head, and its body would be lost.
    """

    _offering: bytes | None = None

    def on_headers_complete(self) -> None:
        """Remembers the head of a request that offers another protocol, without the offer."""
        self._offering = None
        if self.url[:1] not in (b"/", b"*"):
            self._take_host_of_the_target()
        headers = self.headers
        if self.parser.should_upgrade():
            headers = [header for header in headers if header[0] != b"upgrade"]
        if len(headers) == len(self.headers):
            super().on_headers_complete()
            return
        line = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        self._offering = b"\r\n".join([line, *(b"%s: %s" % header for header in headers), b"", b""])

    def _take_host_of_the_target(self) -> None:
        """RFC 9112, 3.2.2: where the target is a whole URL, its host counts and that of `Host` does not."""
        authority = self.url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
        self.headers[:] = [header for header in self.headers if header[0] != b"host"]
        self.headers.append((b"host", authority))

    def on_message_complete(self) -> None:
        """The end of a request; of one that offers another protocol it is not."""
        if self._offering is None:
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, and begins again with the remembered head."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade as offer:
            head, self._offering = self._offering, None
            if head is None:
                return  # CONNECT, which nobody answers as it would have it
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.data_received(head + data[offer.args[0] :])


def make_server(app: Any, *, shutdown_seconds: float, dates: bool = True) -> Server:
    """A server for `app` that waits that long for requests in flight when it is told to end.

    `dates`: every answer gets a `Date`; else `app` sees to that itself, since what it passes on has one already.
    """
    return Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            loop="uvloop",
            http=_Protocol,
            ws="none",
            server_header=False,
            date_header=dates,
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, round(shutdown_seconds)),
        )
    )


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens already, so that no caller is turned away. Raises UsageError when that is impossible."""
    bare = host.strip("[]")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            bare, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )[0]
        # With the protocol named asyncio turns Nagle's algorithm off; without, kept connections wait 40 ms a request.
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
    """How it is reached from this machine: the wildcard addresses are reached by loopback."""
    bare = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host.strip("[]"), host.strip("[]"))  # noqa: S104
    shown = f"[{bare}]" if ":" in bare else bare
    return f"http://{shown}:{listener.getsockname()[1]}"
