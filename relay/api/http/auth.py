"""Authentication and scopes: bearer tokens; with `--dev`, callers on the same machine need none.

Without `--dev` there is no anonymous access, because a reverse proxy also connects from loopback. With `--dev` a caller
on loopback is admin. Web pages in a local browser come from loopback too, so `Host` must be a loopback name or address
(which stops DNS rebinding), `Origin` must be the relay's own, a write that another site caused (`Sec-Fetch-Site`) must
have one, and headers added by proxies are refused.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import Scope

from relay.api.http.dependencies import ApiSettings
from relay.core.access.client_address import address_of
from relay.core.access.forwarding import NODE_HEADER, SAFE_METHODS
from relay.core.access.sign_in import USER_PREFIX
from relay.core.access.tokens import PUBLISH, publish_prefixes
from relay.errors import Forbidden, RequestError, Unauthorized

if TYPE_CHECKING:
    from relay.api.access.callers import Access

READ = "read"
JOBS_WRITE = "jobs:write"
SUBSCRIPTIONS_WRITE = "subscriptions:write"
DELIVERIES_WRITE = "deliveries:write"
EVENTS_WRITE = PUBLISH
METRICS = "metrics"
"""The metrics only."""
PROXY = "proxy"
"""The drop-in proxy only, and all of it."""
ADMIN = "admin"

PUBLIC = None
READS = frozenset({READ})
READS_JOBS = frozenset({READ, JOBS_WRITE})
WRITES_JOBS = frozenset({JOBS_WRITE})
READS_SUBSCRIPTIONS = frozenset({READ, SUBSCRIPTIONS_WRITE})
WRITES_SUBSCRIPTIONS = frozenset({SUBSCRIPTIONS_WRITE})
PULLS = frozenset({DELIVERIES_WRITE, SUBSCRIPTIONS_WRITE})
WRITES_EVENTS = frozenset({EVENTS_WRITE})
READS_METRICS = frozenset({METRICS})
READS_TRACKED = frozenset({READ, JOBS_WRITE, PROXY})
"""For reads of tracked jobs through the drop-in."""
USES_UPSTREAM = frozenset({JOBS_WRITE, PROXY})
"""For everything else through it: the account's key sees and does more than the relay shows."""
ADMINS: frozenset[str] = frozenset()

_PROXY_HEADERS = frozenset({"forwarded", "via", "x-real-ip"})
_PROXY_PREFIXES = ("x-forwarded-", "cf-")
_PROXY_SUFFIX = "-client-ip"
"""`True-Client-IP`, `X-Client-IP`, `Fastly-Client-IP`."""
_HTTP_ORIGIN = re.compile(r"http://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::([0-9]{0,5}))?")
_OWN_SITES = ("same-origin", "none")
"""Values of Sec-Fetch-Site of requests that no other site has caused. Other ports of this machine are `same-site`."""
_CHALLENGE = 'Bearer realm="revor-relay"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A caller: the name and scopes of the token.

    token_id  the id of a token of the database; None for one of the settings or a token file, and on loopback
    account   the source and account that the token is bound to; None: it may use all of them
    client    the caller's address, "" if it is unknown
    digest    what the token is known by; None on loopback
    """

    name: str
    scopes: frozenset[str]
    token_id: str | None = None
    account: tuple[str, str] | None = None
    client: str = ""
    digest: bytes | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """A permanent key of the caller. A name may be given to another token of the database later."""
        return self.name if self.token_id is None else f"token:{self.token_id}"

    def require(self, scopes: frozenset[str], why: str = "") -> None:
        """Raises Forbidden unless the caller is admin or has one of these scopes. Publishing needs one with any prefix:
        the operation checks the types. `why`: begins the detail."""
        if ADMIN in self.scopes or not self.scopes.isdisjoint(scopes):
            return
        if EVENTS_WRITE in scopes and publish_prefixes(self.scopes):
            return
        needed = " or ".join(sorted({*scopes, ADMIN}))
        # a user of the dashboard whom a proxy has signed in has no token
        who = repr(self.name) if self.name.startswith(USER_PREFIX) else f"token {self.name!r}"
        detail = f"{why}{who} has the scopes {', '.join(sorted(self.scopes)) or 'none'}: this needs {needed}"
        raise Forbidden(detail, code="scope_missing")

    def refuse_bound(self) -> None:
        """Raises Forbidden if the token is bound to an account: the request concerns all of them."""
        if self.account is not None:
            bound = f"token {self.name!r} is bound to the account {'/'.join(self.account)}"
            raise Forbidden(f"{bound}: this needs a token that is not", code="account_bound")


class WrongToken(Unauthorized):
    """A token was sent, and is not accepted."""

    def __init__(self, detail: str, client: str, *, code: str | None = None, challenge: str | None = None) -> None:
        """`client`: the caller's address. `challenge`: the value of `WWW-Authenticate`."""
        super().__init__(detail, code=code, headers={} if challenge is None else {"WWW-Authenticate": challenge})
        self.client = client


NOT_ACCEPTED = (
    "the token is not valid: it is unknown, revoked or expired, or must not be used from this address. The relay's log "
    "says which"
)
TOKEN_GONE = "the token is no longer valid: it was revoked or has expired while the request waited"  # noqa: S105 (a sentence)
LOCAL = "loopback"
"""The name of callers on this machine, with `--dev`."""
_ALL = frozenset({ADMIN})

OPEN_PATHS = frozenset({"/livez", "/readyz", "/openapi.json", "/asyncapi.json"})
TELLS_MORE_PATHS = frozenset({"/readyz"})
"""Open paths that tell a known caller more."""
OPEN_PREFIXES = ("/schemas/", "/.well-known/")


def needs_identity(path: str) -> bool:
    """True unless the path is listed as open to everyone."""
    return path not in OPEN_PATHS and not path.startswith(OPEN_PREFIXES)


def refuse_loop(headers: Sequence[tuple[bytes, bytes]], node_id: str) -> None:
    """Raises a 508 error for a request that this node sent itself."""
    if (NODE_HEADER, node_id.encode()) in headers:
        detail = "this request was sent by this relay itself: an upstream or a sink points back at it"
        # A kept-alive connection would still lead here after the address has been corrected.
        error = RequestError(detail, code="loop_detected", status=508, headers={"Connection": "close"})
        error.title = "Loop detected"
        raise error


def identify(scope: Scope, headers: Headers, settings: ApiSettings, access: "Access") -> Identity:
    """The caller. Raises Unauthorized, Forbidden or TooMany. With `--dev`, too, a token that is sent must be valid."""
    if settings.dev and "authorization" not in headers:
        require_local(scope, headers)
        return Identity(name=LOCAL, scopes=_ALL, client=client_of(scope))
    return _bearer(scope, headers, access)


def identify_if_named(scope: Scope, headers: Headers, settings: ApiSettings, access: "Access") -> Identity | None:
    """The caller of an open path; None without a token. Raises Unauthorized for a wrong one, as anywhere: otherwise
    tokens could be tried here."""
    if "authorization" in headers or is_local(scope, headers, settings):
        return identify(scope, headers, settings, access)
    return None


def client_of(scope: Scope) -> str:
    """The address of the caller; "" if it is unknown, as over a unix socket."""
    client = scope.get("client")
    return "" if client is None else str(client[0])


def require_local(scope: Scope, headers: Headers) -> None:
    """Raises Forbidden unless the caller is on this machine, connects directly, and is not another site's web page."""
    client = scope.get("client")
    proxied = any(
        name in _PROXY_HEADERS or name.startswith(_PROXY_PREFIXES) or name.endswith(_PROXY_SUFFIX) for name in headers
    )
    if client is None or not _is_loopback(client[0]) or proxied:
        detail = "without a token only callers on this machine are allowed, and not through a proxy: send a token"
        raise Forbidden(detail, code="loopback_only")
    hosts = headers.getlist("host")
    authority = _authority_of(f"http://{hosts[0]}") if len(hosts) == 1 else None
    if authority is None or not (authority[0] == "localhost" or _is_loopback(authority[0])):
        detail = "without a token the Host header must name this machine, such as 127.0.0.1:8080: send a token"
        raise Forbidden(detail, code="host_not_allowed")
    if any(_authority_of(origin) != authority for origin in headers.getlist("origin")):
        detail = "the request comes from another site's web page (Origin) and has no token"
        raise Forbidden(detail, code="origin_not_allowed")
    is_foreign = any(site not in _OWN_SITES for site in headers.getlist("sec-fetch-site"))
    if is_foreign and "origin" not in headers and scope["method"] not in SAFE_METHODS:
        detail = "the request comes from another site's web page (Sec-Fetch-Site) and has no token"
        raise Forbidden(detail, code="origin_not_allowed")


def is_local(scope: Scope, headers: Headers, settings: ApiSettings) -> bool:
    """True if the caller needs no token: with `--dev`, if `require_local` accepts it."""
    try:
        require_local(scope, headers)
    except Forbidden:
        return False
    return settings.dev


def _bearer(scope: Scope, headers: Headers, access: "Access") -> Identity:
    given = headers.getlist("authorization")
    if not given:
        detail = "a token is needed: send Authorization: Bearer <token>"
        raise Unauthorized(detail, headers={"WWW-Authenticate": _CHALLENGE})
    if len(given) > 1:
        raise _wrong(scope, "there are several Authorization headers: send one, with Bearer <token>")
    scheme, _, value = given[0].partition(" ")
    if scheme.lower() != "bearer" or not value.strip():
        raise _wrong(scope, "the Authorization header has no token: send Authorization: Bearer <token>")
    found = access.identify(value.strip(), scope)
    if found is None:
        raise _wrong(scope, NOT_ACCEPTED, error="invalid_token")
    return found


def _wrong(scope: Scope, detail: str, *, error: str | None = None) -> WrongToken:
    challenge = _CHALLENGE if error is None else f'{_CHALLENGE}, error="{error}"'
    return WrongToken(detail, client_of(scope), challenge=challenge)


def _is_loopback(host: str) -> bool:
    address = address_of(host)
    return address is not None and address.is_loopback


def _authority_of(origin: str) -> tuple[str, int] | None:
    """Host and port of an http origin; None for anything else."""
    found = _HTTP_ORIGIN.fullmatch(origin)
    if found is None:
        return None
    return found[1].strip("[]").rstrip(".").lower(), int(found[2] or 80)
