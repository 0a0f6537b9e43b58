"""CONNECT tunnels through the operator's own proxy (`security.egress_proxy`).

The proxy gets the host as it stands in the URL: it resolves names and decides about their addresses. TLS to the sink is
negotiated inside the tunnel and verified as without a proxy.
See docs/reference/settings.md for what that means for the guard.
"""

import asyncio
import base64
import os
import re
import ssl
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import unquote, urlsplit

from relay.core.access.netguard import DEFAULT_PORTS

MAX_HEAD_BYTES = 16 * 1024

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})[ \r]")
_HEAD_END = b"\r\n\r\n"


class ProxyFailed(Exception):
    """There is no tunnel. The text is one line for an attempt: it names neither the proxy nor an address. `status` is
    that of the proxy's answer, None without one."""

    def __init__(self, problem: str, status: int | None = None) -> None:
        super().__init__(problem)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressProxy:
    """A proxy that takes CONNECT. `tls`: the way to it is encrypted too; `authorization`: its Proxy-Authorization."""

    host: str
    port: int
    tls: bool = False
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def at(cls, url: str) -> "EgressProxy":
        """The proxy of a URL that the settings accept."""
        parts = urlsplit(url)
        authorization = None
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = f"Basic {base64.b64encode(credentials.encode()).decode()}"
        return cls(
            host=parts.hostname or "",
            port=parts.port or DEFAULT_PORTS[parts.scheme],
            tls=parts.scheme == "https",
            authorization=authorization,
        )

    async def open_tunnel(
        self, host: str, port: int, *, timeout_seconds: float | None, user_agent: str, tls: ssl.SSLContext
    ) -> asyncio.Transport:
        """A tunnel to a host's port. Raises ProxyFailed.

        host             a name, or an address (IPv6 without brackets)
        timeout_seconds  limit for the connection to the proxy and its answer
        tls              verifies the proxy's certificate
        """
        answer: _Answer | None = None
        is_open = False
        try:
            async with asyncio.timeout(timeout_seconds):
                _, answer = await asyncio.get_running_loop().create_connection(
                    _Answer, self.host, self.port, ssl=tls if self.tls else None
                )
                answer.transport.write(self._request(host, port, user_agent))
                self._check(await answer.head)
            if answer.has_more:
                raise ProxyFailed("the egress proxy sent more than an answer to CONNECT")
            is_open = True
            return answer.transport
        except OSError as error:
            raise ProxyFailed(_reason(error, answer is not None, timeout_seconds)) from error
        finally:
            if answer is not None and not is_open:
                answer.transport.abort()

    def _request(self, host: str, port: int, user_agent: str) -> bytes:
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}", f"User-Agent: {user_agent}"]
        if self.authorization is not None:
            lines.append(f"Proxy-Authorization: {self.authorization}")
        return "\r\n".join([*lines, "", ""]).encode()

    def _check(self, head: bytes) -> None:
        """Raises ProxyFailed unless the answer is a success."""
        found = _STATUS.match(head)
        if found is None:
            raise ProxyFailed("the egress proxy's answer is not HTTP")
        status = int(found[1])
        if 200 <= status <= 299:
            return
        if status == 407:
            why = "asks for a user name and password" if self.authorization is None else "refuses the credentials"
            raise ProxyFailed(f"the egress proxy {why} (407): correct security.egress_proxy", status)
        if status >= 500:
            raise ProxyFailed(f"the egress proxy could not connect to the sink ({status})", status)
        raise ProxyFailed(f"the egress proxy refuses this sink ({status}): its own rules decide", status)


def _reason(error: OSError, is_connected: bool, timeout_seconds: float | None) -> str:
    """The reason why there is no tunnel. Texts of most errors are left out: they contain the proxy's address."""
    if isinstance(error, TimeoutError):
        missing = "no answer of" if is_connected else "no connection to"
        return f"{missing} the egress proxy within {timeout_seconds or 0:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the egress proxy's certificate does not verify: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"the TLS handshake with the egress proxy failed: {error.reason or 'no reason given'}"
    number = error.errno if error.errno is not None and error.errno > 0 else None
    return "the egress proxy cannot be reached" + ("" if number is None else f": {os.strerror(number)}")


class _Answer(asyncio.Protocol):
    """Reads the head of the answer to CONNECT. Nothing may follow it before the tunnel is used.

    head      the bytes received, once the head is complete
    has_more  something followed it
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.head: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.has_more = False
        self._came = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio's."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are not instances of it

    def data_received(self, data: bytes) -> None:
        """As asyncio's."""
        if self.head.done():
            self.has_more = True
            return
        self._came += data
        end = self._came.find(_HEAD_END)
        if end >= 0:
            self.has_more = end + len(_HEAD_END) < len(self._came)
            self.head.set_result(bytes(self._came))
        elif len(self._came) > MAX_HEAD_BYTES:
            self.head.set_exception(ProxyFailed("the egress proxy's answer to CONNECT is too long"))

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio's."""
        if not self.head.done():
            self.head.set_exception(ProxyFailed("the egress proxy closed the connection without an answer"))
