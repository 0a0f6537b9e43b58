"""Who calls, and what they may: tokens with scopes, or, where there are no tokens, the people on this machine.

Without tokens every caller on loopback is admin. A page in their browser is on loopback too, so `Host` must name this
machine (or `public_url`): a foreign name that resolves to 127.0.0.1, DNS rebinding, does not; and so must `Origin`.
What came through a proxy came from somewhere else, however near the proxy is.
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from relay.api.ports import ApiSettings, Token
from relay.errors import Forbidden, RequestError, Unauthorized

ADMIN = "admin"
READ = "read"
JOBS_WRITE = "jobs:write"

NODE_HEADER = b"relay-node"
"""Names the relay that sent a request."""
_PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip")
_CHALLENGE = 'Bearer realm="revor-relay"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A caller: the token's name, and its scopes."""

    name: str
    scopes: frozenset[str]

    def require(self, scopes: frozenset[str]) -> None:
        """Raises Forbidden unless the caller has one of these scopes, or is admin."""
        if ADMIN in self.scopes or not self.scopes.isdisjoint(scopes):
            return
        needed = " or ".join(sorted({*scopes, ADMIN}))
        detail = f"token {self.name!r} has the scopes {', '.join(sorted(self.scopes)) or 'none'}: this needs {needed}"
        raise Forbidden(detail, code="scope_missing")


LOCAL = Identity(name="loopback", scopes=frozenset({ADMIN}))


OPEN_PATHS = frozenset({"/livez", "/readyz", "/openapi.json"})
OPEN_PREFIXES = ("/schemas/", "/.well-known/")


def needs_identity(path: str) -> bool:
    """Whether the caller of this path has to be known. Every path that is not listed as open is closed."""
    return path not in OPEN_PATHS and not path.startswith(OPEN_PREFIXES)


def refuse_loop(headers: Sequence[tuple[bytes, bytes]], node_id: str) -> None:
    """Raises a 508 for a request of our own that came back to us."""
    if (NODE_HEADER, node_id.encode()) in headers:
        detail = "this request was sent by this relay itself: an upstream or a sink points back at it"
        error = RequestError(detail, code="loop_detected", status=508)
        error.title = "Loop detected"
        raise error


def identify(scope: Scope, headers: Headers, settings: ApiSettings) -> Identity:
    """The caller. Raises Unauthorized or Forbidden."""
    if settings.tokens:
        return _bearer(headers, settings.tokens)
    require_local(scope, headers, settings)
    return LOCAL


def require_local(scope: Scope, headers: Headers, settings: ApiSettings) -> None:
    """Raises Forbidden unless the caller is on this machine, and no web page from elsewhere sends it."""
    client = scope.get("client")
    if client is None or not _is_loopback(client[0]) or any(name in headers for name in _PROXY_HEADERS):
        detail = "no token is configured, so only callers on this machine are let in: set auth.tokens to open the API"
        raise Forbidden(detail, code="loopback_only")
    public_host = _host_of(settings.public_url)
    hosts = headers.getlist("host")
    if not hosts or not all(_is_ours(_host_of(f"//{host}"), public_host) for host in hosts):
        detail = "the Host header names neither this machine nor server.public_url, and no token is configured"
        raise Forbidden(detail, code="host_not_allowed")
    if not all(_is_ours(_host_of(origin), public_host) for origin in headers.getlist("origin")):
        detail = "the request comes from a web page elsewhere (Origin), and no token is configured"
        raise Forbidden(detail, code="origin_not_allowed")


def is_local(scope: Scope, headers: Headers, settings: ApiSettings) -> bool:
    """Whether the caller is on this machine, and no web page from elsewhere sends it."""
    try:
        require_local(scope, headers, settings)
    except Forbidden:
        return False
    return True


def _bearer(headers: Headers, tokens: Iterable[Token]) -> Identity:
    given = headers.get("authorization")
    if given is None:
        raise _unauthorized("a token is needed: send Authorization: Bearer <token>")
    scheme, _, value = given.partition(" ")
    if scheme.lower() != "bearer" or not value.strip():
        raise _unauthorized("the Authorization header holds no token: send Authorization: Bearer <token>")
    found = find_token(value.strip(), tokens)
    if found is None:
        raise _unauthorized("the token is not one of ours", error="invalid_token")
    return found


def find_token(value: str, tokens: Iterable[Token]) -> Identity | None:
    """Whose token this is; None where it is none of ours."""
    digest = _digest(value)
    found: Token | None = None
    for token in tokens:  # all of them, so that the time taken tells nothing
        if hmac.compare_digest(digest, _digest(token.value)):
            found = token
    return None if found is None else Identity(name=found.name, scopes=found.scopes)


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).digest()


def _unauthorized(detail: str, error: str | None = None) -> Unauthorized:
    challenge = _CHALLENGE if error is None else f'{_CHALLENGE}, error="{error}"'
    return Unauthorized(detail, headers={"WWW-Authenticate": challenge})


def _is_ours(host: str | None, public_host: str | None) -> bool:
    return host is not None and (host == "localhost" or host == public_host or _is_loopback(host))


@lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def _host_of(url: str | None) -> str | None:
    if not url:
        return None
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return None
    return host.rstrip(".") if host else None
