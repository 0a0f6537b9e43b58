"""A port of this machine that takes requests for `signed_request`. For development and tests."""

import contextlib
import ipaddress
import secrets
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Self

MAX_BODY_BYTES = 2 << 20
MAX_REQUESTS = 100


def is_loopback(host: str) -> bool:
    """True if a host is this machine by its name or address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Inbox:
    """Takes signed requests on a free port of loopback. `url`: where; None if it does not listen."""

    def __init__(self, *, listens: bool) -> None:
        self._requests: list[tuple[bytes, Mapping[str, str]]] = []
        self._server: HTTPServer | None = None
        self.url: str | None = None
        if listens:
            self._open()

    def _open(self) -> None:
        requests, path = self._requests, f"/{secrets.token_urlsafe(16)}"

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_POST(self) -> None:
                length = self.headers.get("Content-Length", "")
                if self.path != path or not length.isdigit() or int(length[:12]) > MAX_BODY_BYTES:
                    self.send_error(404)
                    return
                body = self.rfile.read(int(length))
                if len(requests) < MAX_REQUESTS:
                    requests.append((body, {name.lower(): value for name, value in self.headers.items()}))
                self.send_response(204)
                self.end_headers()

            def do_OPTIONS(self) -> None:
                self.send_response(200)
                self.send_header("WebHook-Allowed-Origin", self.headers.get("WebHook-Request-Origin", "*"))
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}{path}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def first(self) -> tuple[bytes, Mapping[str, str]] | None:
        """The body and the headers of the first request, if there is one."""
        return self._requests[0] if self._requests else None

    def close(self) -> None:
        """Closes the port."""
        if self._server is not None:
            with contextlib.suppress(OSError):
                self._server.shutdown()
                self._server.server_close()
        self._server = self.url = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
