"""The guarded HTTP client: every request to a URL that a user can choose goes through a `Sender`.

Guarantees: only addresses that the policy allows, judged on the address actually dialled; no redirects, cookies,
decompression or proxies from the environment; TLS always verified; one timeout over name look-up, connection, response
and body; at most 64 KiB of the body read. With an egress proxy every request goes through it, and it judges the
addresses of names.
"""

import asyncio
import os
import re
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Any, Protocol, Self

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import AddrInfoType, Connection
from yarl import URL

from relay import __version__
from relay.clock import Clock
from relay.core.access.netguard import GuardPolicy, refusal_of_address, refusal_of_url, with_judged_host
from relay.core.deliveries.delivery import PROXY_ERROR, OutboundRequest, Response, Timings
from relay.core.jsontext import storable
from relay.http.egress_proxy import EgressProxy, ProxyFailed
from relay.http.exchange import Exchanges, Garbled, Header, Route, head_so_far

MAX_BODY_BYTES = 64 * 1024
MAX_ADDRESSES = 8  # per name; a hostile DNS response may hold thousands
DNS_CACHE_SECONDS = 0  # the system's resolver knows the TTLs; concurrent look-ups share one answer
DNS_THREADS = 256  # at most as many as there are deliveries in flight; made when needed
SLOW_DNS_THREADS = 16
SLOW_DNS_SECONDS = 2.0
MAX_SLOW_NAMES = 4096
# Just under the 5 s after which Node.js and others close an idle connection: a request sent into the close is lost.
KEEP_ALIVE_SECONDS = 4.0

USER_AGENT = f"revor-relay/{__version__}"

_OURS = (("Accept", "*/*"), ("Accept-Encoding", "identity"), ("User-Agent", USER_AGENT))

_SENDABLE_AS_WRITTEN = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]+", re.ASCII)


class Transport(Protocol):
    """Sends requests: a Sender, or a test double."""

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        """Sends a request once. Failures are part of the Response: it raises only when cancelled."""
        ...


class _Refused(OSError):
    """The egress guard forbids this address. An OSError, so that another address of the name may still be tried."""


@dataclass(slots=True)
class _Trail:
    """Progress of one request (times by `perf_counter`). A ContextVar passes it to aiohttp's callbacks.

    is_tunnelled  through the egress proxy: the connection's peer is not the sink
    dialled_at    the first address of a new connection was dialled
    connected_at  TCP is connected; TLS follows, if any
    sent_at       the request is written on a connection, new or pooled
    answered_at   the head of the response was read
    """

    scheme: str
    host: str = ""
    is_tunnelled: bool = False
    dialled_ip: str | None = None
    peer_ip: str | None = None
    refusal: str | None = None
    status_code: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    protocol: ResponseHandler | None = None
    excerpt: bytearray = field(default_factory=bytearray)
    looked_up_at: float | None = None
    resolved_at: float | None = None
    dialled_at: float | None = None
    connected_at: float | None = None
    sent_at: float | None = None
    answered_at: float | None = None

    def sends(self, connection: Connection) -> None:
        """Called before the request is written on this connection."""
        self.sent_at = time.perf_counter()
        self.protocol = connection.protocol
        transport = None if self.is_tunnelled else connection.transport
        peer = None if transport is None else transport.get_extra_info("peername")
        self.peer_ip = peer[0] if peer else None

    def has_head(self) -> None:
        """After a failure: takes the status from a partial head, if there is one."""
        head = None if self.status_code is not None else head_so_far(self.protocol)
        if head is not None:
            self.answered_at = time.perf_counter()
            self.status_code, self.headers = head.status, head.headers

    def timings(self, ended_at: float) -> Timings:
        """The durations of the phases; a phase that did not complete ends at `ended_at`."""
        sent_at = self.sent_at
        answer_ms = None if sent_at is None else _ms(sent_at, self.answered_at or ended_at)
        if self.looked_up_at is None and self.dialled_at is None:
            return Timings(None, None, None, answer_ms)
        dns_ms = connect_ms = tls_ms = None
        if self.looked_up_at is not None:
            dns_ms = _ms(self.looked_up_at, self.resolved_at or ended_at)
        if self.dialled_at is not None:
            connect_ms = _ms(self.dialled_at, self.connected_at or sent_at or ended_at)
        if self.connected_at is not None and self.scheme == "https":
            tls_ms = _ms(self.connected_at, sent_at or ended_at)
        return Timings(dns_ms, connect_ms, tls_ms, answer_ms)


def _ms(begun_at: float, ended_at: float) -> float:
    """Milliseconds, cut to whole microseconds; `round` takes three times as long."""
    return int((ended_at - begun_at) * 1e6) / 1e3


log = structlog.get_logger("relay.http")

_CLOSED = "the sender is closed: the relay is shutting down"

_trail: ContextVar[_Trail] = ContextVar("relay_sender_trail")


class Sender:
    """An async context manager: one connection pool, guarded by one policy.

    limit_connections        open connections in all, 0 for no limit; further requests wait within their own timeout
    connect_timeout_seconds  limit for TCP connect and TLS handshake with one address
    node                     header that names this relay: sent with every request, replaces a custom one of its name
    tls                      trusts other authorities than the system's; must verify certificates and host names
    resolver                 replaces the system's resolver (tests); its addresses are guarded too
    proxy                    carries every request; the policy must be one for a proxy (`by_proxy`)
    """

    def __init__(
        self,
        policy: GuardPolicy,
        *,
        clock: Clock,
        limit_connections: int = 0,
        connect_timeout_seconds: float = 10.0,
        node: Header | None = None,
        tls: ssl.SSLContext | None = None,
        resolver: AbstractResolver | None = None,
        proxy: EgressProxy | None = None,
    ) -> None:
        if policy.by_proxy is not (proxy is not None):
            raise ValueError("the policy judges addresses where there is no proxy, and only there")
        if tls is not None and not (tls.verify_mode == ssl.CERT_REQUIRED and tls.check_hostname):
            raise ValueError("TLS verification cannot be turned off")
        self._policy = policy
        self._clock = clock
        self._limit_connections = limit_connections
        self._connect_timeout_seconds = connect_timeout_seconds
        own = () if node is None else (node,)
        self._replaced = {"accept-encoding", *(name.lower() for name, _ in own)}
        self._added = [(name.lower(), (name, value)) for name, value in (*own, *_OURS)]
        self._tls = tls
        self._proxy = proxy
        self._own_resolver = _Resolver()
        self._resolver = resolver or self._own_resolver
        self._exchanges: Exchanges | None = None
        self._route = lru_cache(maxsize=4096)(self._judged)

    async def __aenter__(self) -> Self:
        connector = _Connector(
            self._proxy,
            ssl=self._tls if self._tls is not None else True,
            limit=self._limit_connections,
            limit_per_host=0,
            resolver=_TimedResolver(self._resolver),
            ttl_dns_cache=DNS_CACHE_SECONDS,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            socket_factory=self._open_socket,
        )
        self._exchanges = Exchanges(connector, connect_timeout_seconds=self._connect_timeout_seconds)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._exchanges is not None:
            await self._exchanges.close()
        await self._own_resolver.close()

    @property
    def policy(self) -> GuardPolicy:
        """The policy that guards every request."""
        return self._policy

    @property
    def resolver(self) -> AbstractResolver:
        """Looks names up on threads of its own. Its addresses are not guarded yet."""
        return self._resolver

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        """Sends a request once. Every failure is returned as a Response with `error`; only cancellation is raised.

        timeout_seconds  until the last byte of the response's body (or of its first 64 KiB)

        The status line decides: if the response is malformed, late or breaks off after it, the Response has its status,
        no `error`, and a `detail` that says what was wrong.
        GET, HEAD, OPTIONS, PUT and DELETE are sent a second time if the pooled connection was just being closed
        (RFC 9110 section 9.2.2); POST and PATCH never.
        """
        started_at = self._clock()
        start = time.perf_counter()
        route, refusal = self._route(request.url)
        trail = _Trail(scheme="", is_tunnelled=self._proxy is not None)
        if route is not None:
            trail.scheme, trail.host = route.url.scheme, route.host
        error: str | None = None
        detail: str | None = None
        late = False
        if route is None:
            error, detail = "refused", refusal
        elif self._exchanges is None or self._exchanges.closed:
            error, detail = "cancelled", _CLOSED
        else:
            token = _trail.set(trail)
            try:
                with self._exchanges.within(timeout_seconds):
                    await self._exchange(self._exchanges, request, route, trail)
            except Exception as exception:
                late = isinstance(exception, TimeoutError)
                trail.has_head()
                if trail.status_code is not None:
                    detail = _detail_after_status(exception, trail, timeout_seconds)
                elif self._exchanges.closed:
                    error, detail = "cancelled", _CLOSED
                else:
                    error, detail = _named(exception, trail, timeout_seconds)
            finally:
                _trail.reset(token)
        end = time.perf_counter()
        return Response(
            started_at=started_at,
            duration_ms=(end - start) * 1000.0,
            status_code=trail.status_code,
            headers=trail.headers,
            excerpt=bytes(trail.excerpt),
            error=error,
            detail=None if detail is None else storable(detail),
            remote_ip=trail.peer_ip or trail.dialled_ip,
            timings=trail.timings(end),
            late=late,
        )

    async def _exchange(self, exchanges: Exchanges, request: OutboundRequest, route: Route, trail: _Trail) -> None:
        answer = await exchanges.begin(route, request.method, self._headers(request), request.body, trail.sends)
        most = request.max_answer_bytes or MAX_BODY_BYTES
        try:
            trail.answered_at = time.perf_counter()
            trail.status_code = answer.status
            # names are a subclass of str
            trail.headers = tuple((str(name), value) for name, value in answer.headers.items())
            body = answer.content
            while not body.at_eof() and len(trail.excerpt) < most:
                trail.excerpt += await body.read(most - len(trail.excerpt))
        except Exception:
            trail.excerpt += answer.left()[: most - len(trail.excerpt)]
            raise
        finally:
            answer.close()

    def _headers(self, request: OutboundRequest) -> list[Header]:
        """All headers of a request except Host and Content-Length."""
        replaced = self._replaced
        names = [name.lower() for name, _ in request.headers]
        headers = [header for name, header in zip(names, request.headers, strict=True) if name not in replaced]
        headers += [header for name, header in self._added if name in replaced or name not in names]
        return headers

    def _open_socket(self, address_info: AddrInfoType) -> socket.socket:
        """Called by aiohttp before it dials an address, literal ones in URLs included."""
        family, kind, protocol, _, address = address_info
        trail = _trail.get()
        ip = str(address[0])
        refusal = refusal_of_address(ip, port=int(address[1]), scheme=trail.scheme, policy=self._policy)
        if refusal is not None:
            if trail.refusal is None:  # one line an attempt: a name may have many such addresses
                log.info("egress_refused", host=trail.host, ip=ip, reason=refusal.detail)
            trail.refusal = refusal.shown
            raise _Refused(refusal.shown)
        trail.dialled_ip = ip
        if trail.dialled_at is None:
            trail.dialled_at = time.perf_counter()
        # Drop what an address or pooled connection that failed has left.
        trail.connected_at = trail.sent_at = trail.peer_ip = None
        return socket.socket(family=family, type=kind, proto=protocol)

    def _judged(self, url: str) -> tuple[Route | None, str | None]:
        """The route to a URL, or why it is refused. Sends the URL as written if possible: some sinks sign its text."""
        refusal = refusal_of_url(url, self._policy)
        if refusal is not None:
            return None, refusal
        try:
            url = with_judged_host(url)
            return Route.to(URL(url, encoded=_SENDABLE_AS_WRITTEN.fullmatch(url) is not None)), None
        except ValueError:
            return None, "not a valid URL"


class _Connector(aiohttp.TCPConnector):
    """Records when TCP is connected, which is when aiohttp makes the protocol. TLS begins after that.

    aiohttp has no hook for this moment. Without its `_factory`, TLS is counted as part of connecting.

    With a proxy, every connection is a tunnel through it: one pool never mixes both.
    """

    def __init__(self, proxy: EgressProxy | None, **options: Any) -> None:
        super().__init__(**options)
        self._proxy = proxy
        if proxy is not None:
            given = options["ssl"]
            self._proxy_tls = given if isinstance(given, ssl.SSLContext) else ssl.create_default_context()
        make_protocol: Any = getattr(self, "_factory", None)

        def noting() -> Any:
            _trail.get().connected_at = time.perf_counter()
            return make_protocol()

        if make_protocol is not None:
            self._factory = noting  # type: ignore[assignment]

    async def _create_connection(self, req: Any, traces: Any, timeout: aiohttp.ClientTimeout) -> ResponseHandler:
        """Called by aiohttp for a connection that its pool does not have."""
        if self._proxy is None:
            return await super()._create_connection(req, traces, timeout)
        trail, host = _trail.get(), str(req.host)
        trail.connected_at = trail.sent_at = None
        trail.dialled_at = trail.dialled_at or time.perf_counter()
        tunnel = await self._proxy.open_tunnel(
            host, req.port, timeout_seconds=timeout.sock_connect, user_agent=USER_AGENT, tls=self._proxy_tls
        )
        protocol: ResponseHandler
        if req.is_ssl():
            req.server_hostname = host.rstrip(".")
            _, protocol = await self._start_tls_connection(tunnel, req, timeout)
        else:
            protocol = self._factory()
            tunnel.set_protocol(protocol)
            protocol.connection_made(tunnel)
        return protocol


class _TimedResolver(AbstractResolver):
    """Records the time of a name look-up. Requests that share another request's look-up record none."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        trail = _trail.get()
        trail.looked_up_at = time.perf_counter()
        try:
            return await self._resolver.resolve(host, port, family)
        finally:
            trail.resolved_at = time.perf_counter()

    async def close(self) -> None:
        """Does nothing: the resolver is closed by the Sender."""


class _Resolver(AbstractResolver):
    """The system's resolver on its own threads: dead name servers must not starve the event loop's shared threads.

    A thread waits for a name server for half a minute. Names that were slow use few other threads, so that a hostile
    zone cannot delay the names of others.

    Without AI_ADDRCONFIG, which hides `localhost` on a machine without other networks.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=DNS_THREADS, thread_name_prefix="relay-dns")
        self._slow_threads = ThreadPoolExecutor(max_workers=SLOW_DNS_THREADS, thread_name_prefix="relay-slow-dns")
        self._slow_names: dict[str, None] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        threads = self._slow_threads if host in self._slow_names else self._threads
        found, seconds = await asyncio.get_running_loop().run_in_executor(threads, _look_up, host, port, family)
        self._slow_names.pop(host, None)
        if seconds > SLOW_DNS_SECONDS:
            self._slow_names[host] = None
            if len(self._slow_names) > MAX_SLOW_NAMES:
                del self._slow_names[next(iter(self._slow_names))]
        if isinstance(found, OSError):
            raise found
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=port, family=kind, proto=protocol, flags=socket.AI_NUMERICHOST
            )
            for kind, _, protocol, _, address in found[:MAX_ADDRESSES]
        ]

    async def close(self) -> None:
        for threads in (self._threads, self._slow_threads):
            threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int, family: socket.AddressFamily) -> tuple[list[Any] | OSError, float]:
    """The system's answer and how many seconds it took."""
    began = time.monotonic()
    found: list[Any] | OSError
    try:
        found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    except OSError as error:
        found = error
    return found, time.monotonic() - began


def _named(exception: Exception, trail: _Trail, timeout_seconds: float) -> tuple[str, str]:
    """The error word and its detail. aiohttp's own messages contain the URL, so they are not used."""
    through = " through the egress proxy" if trail.is_tunnelled else ""
    match exception:
        case ProxyFailed():
            return PROXY_ERROR, str(exception)
        case TimeoutError():
            return "timeout", _timeout_detail(trail, timeout_seconds)
        case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLCertVerificationError() as cause):
            return "tls", f"the certificate does not verify: {cause.verify_message}"
        case aiohttp.ClientConnectorSSLError(os_error=cause):
            return "tls", f"the TLS handshake failed: {getattr(cause, 'reason', None) or 'no reason given'}"
        case aiohttp.ClientSSLError():
            return "tls", "the TLS handshake failed"
        case aiohttp.ClientConnectorDNSError(os_error=cause):
            return "dns", f"the host name does not resolve: {cause.strerror or 'no reason given'}"
        case aiohttp.ClientConnectorError() if trail.refusal is not None and trail.dialled_ip is None:
            return "refused", trail.refusal
        case aiohttp.ClientConnectorError(os_error=cause):
            return "connect", f"no connection{through}: {_reason_of(cause)}"
        case aiohttp.InvalidURL():
            return "refused", "the URL is not one that can be requested"
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | OSError():
            return "read", "the connection broke off before an answer came"
        case Garbled():
            return "protocol", "the answer is not valid HTTP"
        case _:
            return "protocol", f"the request cannot be sent, or the answer not be read ({type(exception).__name__})"


def _reason_of(error: OSError) -> str:
    """The cause of a failed connection. The error's own text may name several addresses, refused ones too."""
    return os.strerror(error.errno) if error.errno is not None and error.errno > 0 else "no reason given"


def _timeout_detail(trail: _Trail, timeout_seconds: float) -> str:
    if trail.sent_at is not None:
        return f"no answer within {timeout_seconds:g} s"
    through = " through the egress proxy" if trail.is_tunnelled else ""
    return f"no connection{through} in time (of {timeout_seconds:g} s in all)"


def _detail_after_status(exception: Exception, trail: _Trail, timeout_seconds: float) -> str:
    """The detail for a response that failed after its status."""
    if isinstance(exception, TimeoutError):
        return f"status {trail.status_code} came, but the answer had not ended after {timeout_seconds:g} s"
    return f"status {trail.status_code} came, but the rest of the answer broke off or is malformed"
