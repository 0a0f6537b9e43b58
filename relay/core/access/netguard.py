"""The egress guard: which user-supplied URLs, addresses and headers the relay may use. Pure rules.

`refusal_of_url` judges a URL's text when a sink is registered and before each request. `refusal_of_address` judges the
address actually dialled, so a name that resolves to a private address (DNS rebinding, a CNAME) is refused too.

Every refusal is one line that names the rule, and the setting that lifts it if there is one. What a name resolves to is
for the operator only: a caller who may register a sink could otherwise map the internal network (`AddressRefusal`).
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Literal
from urllib.parse import urlsplit

from relay.core.access.client_address import address_of

DEFAULT_PORTS = {"https": 443, "http": 80}
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


def is_loopback_host(host: str) -> bool:
    """True if a host reaches only this machine. `host`: a name or an address, IPv6 with or without brackets."""
    bare = host.strip("[]").rstrip(".").lower()
    address = address_of(bare)
    return bare == "localhost" if address is None else address.is_loopback


def is_bound_address(url: str, *, host: str, port: int) -> bool:
    """True if a URL leads to the socket listening on `host` and `port`, under any name of this machine."""
    parts = urlsplit(url)
    at = parts.hostname or ""
    if (parts.port or DEFAULT_PORTS.get(parts.scheme, 80)) != port:
        return False
    return _canonical(at) == _canonical(host) or (_is_here(at) and _is_here(host))


def browsed_url(hosts: Sequence[str], *, tls: bool) -> str | None:
    """The URL that a browser reached the relay by, without a path; None unless it sent one plain `Host`. The caller
    wrote it: use it in an answer to the same caller only, never in what is stored or sent to others. Its characters
    mean nothing to a shell or in HTML."""
    if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
        return None
    return f"{'https' if tls else 'http'}://{hosts[0]}"


def is_within(url: str, base: str) -> bool:
    """True if a URL is `base` or below it, on the same host and port."""
    one, other = urlsplit(url), urlsplit(base)
    ports = [parts.port or DEFAULT_PORTS.get(parts.scheme, 80) for parts in (one, other)]
    hosts = [(parts.hostname or "").rstrip(".") for parts in (one, other)]
    same = hosts[0] == hosts[1] and ports[0] == ports[1]
    return same and f"{one.path}/".startswith(f"{other.path.rstrip('/')}/")


def _canonical(host: str) -> str:
    """One text for all notations of an address, also an IPv4 one that is written as IPv6."""
    bare = host.strip("[]").rstrip(".").lower()
    return str(address_of(bare) or bare)


def _is_here(host: str) -> bool:
    return is_loopback_host(host) or host.strip("[]") in ("0.0.0.0", "::")  # noqa: S104 (compared, not bound)


MAX_URL_LENGTH = 2048
MAX_CUSTOM_HEADERS = 32
MAX_HEADER_NAME_LENGTH = 128
MAX_HEADER_VALUE_BYTES = 4096

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Listed explicitly: `ipaddress.is_global` is wrong for many of these and differs between Python versions.
BLOCKED_IPV4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network, RFC 791
        "10.0.0.0/8",  # private, RFC 1918
        "100.64.0.0/10",  # carrier-grade NAT, RFC 6598
        "127.0.0.0/8",  # loopback, RFC 1122
        "168.63.129.16/32",  # Azure's platform services
        "169.254.0.0/16",  # link-local and the clouds' metadata services, RFC 3927
        "172.16.0.0/12",  # private, RFC 1918
        "192.0.0.0/24",  # protocol assignments, RFC 6890
        "192.0.2.0/24",  # documentation, RFC 5737
        "192.88.99.0/24",  # 6to4 relays, RFC 7526
        "192.168.0.0/16",  # private, RFC 1918
        "198.18.0.0/15",  # benchmarks, RFC 2544
        "198.51.100.0/24",  # documentation, RFC 5737
        "203.0.113.0/24",  # documentation, RFC 5737
        "224.0.0.0/4",  # multicast, RFC 5771
        "240.0.0.0/4",  # reserved and broadcast, RFC 1112
    )
)
PERMITTED_IPV6 = IPv6Network("2000::/3")  # global unicast, RFC 4291; everything else is refused
BLOCKED_IPV6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo among them, RFC 2928
        "2001:db8::/32",  # documentation, RFC 3849
        "2002::/16",  # 6to4: carries an IPv4 address, RFC 3056
        "3fff::/20",  # documentation, RFC 9637
    )
)
# The last 32 bits of these IPv6 addresses are an IPv4 address: RFC 4291 (mapped), RFC 6052 (NAT64).
WRAPPING_IPV6 = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))

# Only these may hold sinks of the operator's own, so only for these a refusal names the setting that permits it.
_OWN_NETWORKS: tuple[Network, ...] = (
    *(IPv4Network(text) for text in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")),
    *(IPv6Network(text) for text in ("::1/128", "fc00::/7")),
)
# Inside of them: the clouds' metadata services, which give credentials to any caller.
_METADATA: tuple[Network, ...] = (
    IPv4Network("100.100.100.200/32"),
    *(IPv6Network(text) for text in ("fd00:ec2::254/128", "fd20:ce::254/128")),
)
_METADATA_NAMES = (
    "metadata",
    "metadata.goog",
    "metadata.google.internal",
    "instance-data",
    "instance-data.ec2.internal",
)

LOOPBACK_IPV4 = IPv4Network("127.0.0.0/8")
LOOPBACK_IPV6 = IPv6Network("::1/128")
LOOPBACK_NETWORKS: tuple[Network, ...] = (LOOPBACK_IPV4, LOOPBACK_IPV6)

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?]*)[/?]?", re.ASCII)
_AUTHORITY = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::([0-9]{1,5}))?", re.ASCII)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_\-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMBER_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)

_REFUSED_HEADERS = frozenset(
    {
        "accept-encoding",  # responses are not decompressed
        "connection",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_REFUSED_HEADER_PREFIXES = ("content-", "proxy-", "webhook-", "ce-")

# Names that only a local network resolves: RFC 6761, RFC 6762 (section 3 and appendix G), RFC 8375, ICANN's `internal`,
# and what /etc/hosts of many systems gives to loopback.
INTERNAL_SUFFIXES = (
    *("local", "internal", "intranet", "private", "corp", "home", "lan", "home.arpa"),
    *("localdomain", "localdomain4", "localdomain6"),
)

_INTERNAL_ENDS = tuple(f".{suffix}" for suffix in INTERNAL_SUFFIXES)
_NETWORK_HINT = "in security.allow_networks permits it for development"
HTTP_HINT = f"security.allow_http with the host's address as /32 {_NETWORK_HINT}"
_ALLOW_HTTP_HINT = "security.allow_http permits it for development"
_PORT_HINT = "security.allow_ports permits more"
_DENIED = "in security.deny_hosts"
_NO_ADDRESS = "the host has an address that cannot be used"


@dataclass(frozen=True, kw_only=True)
class GuardPolicy:
    """Egress that the operator allows beyond https to public addresses on port 443.

    allow_http      plain http to addresses inside `allow_networks`
    allow_networks  private networks that are allowed, on any port
    allow_ports     allowed ports of all other addresses
    allow_hosts     the only allowed hosts, `*` stands for any characters; empty: all
    deny_hosts      refused hosts, and refused addresses of a name; wins over `allow_hosts`
    own_address     host and port that this relay listens on: refused as a sink
    own_url         this relay's public URL: refused as a sink
    by_proxy        the egress proxy resolves names: its filter judges their addresses, and a name gets neither plain
                    http nor the ports that `allow_networks` opens
    """

    allow_http: bool = False
    allow_networks: tuple[Network, ...] = ()
    allow_ports: frozenset[int] = frozenset({443})
    allow_hosts: tuple[str, ...] = ()
    deny_hosts: tuple[str, ...] = ()
    own_address: tuple[str, int] | None = None
    own_url: str | None = None
    by_proxy: bool = False


@dataclass(frozen=True, slots=True)
class AddressRefusal:
    """The reason why an address is refused.

    shown   for the caller who registered the sink, if a name resolves to the address: does not tell it
    detail  for the operator, or the caller who wrote the address into the URL
    """

    shown: str
    detail: str


def refusal_of_address(address: str, *, port: int, scheme: str, policy: GuardPolicy) -> AddressRefusal | None:
    """The reason why a connection to this address is refused; None if it is allowed. Never raises.

    address  an IPv4 or IPv6 address as text, as passed to connect(); anything else is refused
    scheme   of the URL: `https` or `http`
    """
    try:
        written = ip_address(address)
    except ValueError:
        return AddressRefusal(_NO_ADDRESS, f"{address[:64]!r} is not an IP address")
    if isinstance(written, IPv6Address) and written.scope_id is not None:
        return AddressRefusal(_NO_ADDRESS, "addresses with a zone id are not allowed")
    actual = _unwrapped(written)
    if any(_matches(str(one), policy.deny_hosts) for one in {written, actual}):
        return AddressRefusal(f"the host's address is {_DENIED}", f"address {written} is {_DENIED}")
    general: str | None
    if any(actual in network for network in policy.allow_networks):
        general = _refusal_of_scheme(scheme, http_allowed=policy.allow_http, hint=_ALLOW_HTTP_HINT)
    elif (rule := _blocked_by(actual)) is not None:
        shown = "the host's address is not public: the relay's log has it (egress_refused)"
        return AddressRefusal(shown, f"address {written} is {rule}")
    else:
        general = _refusal_of_scheme(scheme, http_allowed=False) or _refusal_of_port(port, policy)
    return None if general is None else AddressRefusal(general, general)


def refusal_of_url(url: str, policy: GuardPolicy) -> str | None:
    """The reason why a URL is refused, as far as its text tells; None if it is allowed. Never raises.

    If the policy allows http or other ports inside `allow_networks`, a host name with either passes here:
    `refusal_of_address` decides once its address is known.
    """
    if len(url) > MAX_URL_LENGTH:
        return f"a URL has at most {MAX_URL_LENGTH} characters"
    if any(unicodedata.category(character)[0] in "CZ" for character in url):
        return "control characters and white space are not allowed in a URL: percent-encode them"
    if "\\" in url:
        return "a backslash is not allowed in a URL: percent-encode it"
    if "#" in url:
        return "a fragment (#…) is not allowed: it is never sent"
    parts = _URL.match(url)
    if parts is None:
        return "not an absolute URL: write it like https://example.com/path"
    scheme, authority = parts[1].lower(), parts[2]
    if scheme not in DEFAULT_PORTS:
        return f"scheme {scheme[:32]!r} is not allowed: use https"
    if "@" in authority:
        return "user names and passwords in a URL are not allowed: use a header"
    if "%" in authority:
        return "zone ids and percent-encoding are not allowed in a host"
    pieces = _AUTHORITY.fullmatch(authority)
    if pieces is None:
        return "the host or the port is malformed"
    port = int(pieces[3] or DEFAULT_PORTS[scheme])
    if not 1 <= port <= 65535:
        return f"port {port} does not exist"
    literal = None
    if pieces[1] is not None:
        try:
            literal = IPv6Address(pieces[1])
        except ValueError:
            return f"[{pieces[1][:64]}] is not an IPv6 address"
    whose = _whose_own(url, policy)
    if whose is not None:
        return f"this is {whose}: the relay would send its events to itself"
    if literal is not None:
        return _refusal_of_literal(literal, port, scheme, policy)
    return _refusal_of_host(pieces[2], port, scheme, policy)


def with_judged_host(url: str) -> str:
    """A URL that passes `refusal_of_url`, with its host in the ASCII form that was judged: other encoders of
    international names (IDNA 2008) can turn the same text into another name. An ASCII URL is returned as written."""
    parts = None if url.isascii() else _URL.match(url)
    if parts is None or parts[2].isascii():
        return url
    host, colon, port = parts[2].partition(":")
    return f"{parts[1]}://{_ascii_name(host)}{colon}{port}{url[parts.end(2) :]}"


def origin_of(url: str) -> tuple[str, str, int] | None:
    """The origin of a URL: scheme, host and port. None if the URL is malformed."""
    parts = _URL.match(url)
    scheme = parts[1].lower() if parts is not None else ""
    pieces = _AUTHORITY.fullmatch(parts[2]) if parts is not None and scheme in DEFAULT_PORTS else None
    if pieces is None:
        return None
    return scheme, (pieces[1] or pieces[2] or "").lower(), int(pieces[3] or DEFAULT_PORTS[scheme])


def host_of(url: str) -> str:
    """The host that requests to a URL go to, whatever the scheme and port; "" if the URL is malformed."""
    origin = origin_of(url)
    return "" if origin is None else origin[1].rstrip(".")


@dataclass(frozen=True, slots=True)
class HeaderProblem:
    """The reason why a custom header may not be sent. `code` is the API's error code."""

    code: Literal["invalid_header", "reserved_header"]
    detail: str


def problem_of_header(name: str, value: str) -> HeaderProblem | None:
    """The reason why a user may not add this header to the requests to a sink; None if it may be added.

    Names are RFC 9110 tokens, values printable ASCII. Reserved are the headers that frame a message or belong to the
    connection (RFC 9110 section 7.6.1), and those that the relay sets itself: `webhook-*` and `ce-*`.
    """
    shown = name[:64]
    if len(name) > MAX_HEADER_NAME_LENGTH:
        return HeaderProblem("invalid_header", f"a header's name has at most {MAX_HEADER_NAME_LENGTH} characters")
    if not _TOKEN.fullmatch(name):
        return HeaderProblem("invalid_header", f"header name {shown!r} is not a token (RFC 9110)")
    if name.lower() in _REFUSED_HEADERS or name.lower().startswith(_REFUSED_HEADER_PREFIXES):
        detail = f"header {shown!r} cannot be set: the relay sets it itself, or it belongs to the connection"
        return HeaderProblem("reserved_header", detail)
    if len(value) > MAX_HEADER_VALUE_BYTES:
        return HeaderProblem(
            "invalid_header", f"the value of header {shown!r} is longer than {MAX_HEADER_VALUE_BYTES} bytes"
        )
    if not (value.isascii() and value.isprintable()) or value != value.strip():
        detail = f"the value of header {shown!r} must be printable ASCII without white space around it"
        return HeaderProblem("invalid_header", detail)
    return None


def check_custom_headers(headers: Iterable[tuple[str, str]]) -> str | None:
    """The reason why a user may not add these headers (name, value), taken together, to the requests to a sink; None if
    they may be added."""
    seen: set[str] = set()
    for name, value in headers:
        if len(seen) == MAX_CUSTOM_HEADERS:
            return f"at most {MAX_CUSTOM_HEADERS} custom headers are allowed"
        problem = problem_of_header(name, value)
        if problem is not None:
            return problem.detail
        if name.lower() in seen:
            return f"header {name!r} is given twice"
        seen.add(name.lower())
    return None


def _unwrapped(address: Address) -> Address:
    if isinstance(address, IPv6Address) and any(address in network for network in WRAPPING_IPV6):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


@lru_cache(maxsize=4096)
def _blocked_by(address: Address) -> str | None:
    if isinstance(address, IPv6Address) and address not in PERMITTED_IPV6:
        return f"outside of {PERMITTED_IPV6}, the public addresses{_hint_for(address)}"
    blocked: tuple[Network, ...] = BLOCKED_IPV4 if isinstance(address, IPv4Address) else BLOCKED_IPV6
    network = next((network for network in blocked if address in network), None)
    return None if network is None else f"in {network}, which is not public{_hint_for(address)}"


def _hint_for(address: Address) -> str:
    """The narrowest setting that permits an address; nothing for one that no sink may have."""
    if any(address in network for network in _METADATA) or not any(address in network for network in _OWN_NETWORKS):
        return ""
    return f"; {address}/{address.max_prefixlen} {_NETWORK_HINT}"


def _refusal_of_scheme(scheme: str, *, http_allowed: bool, hint: str = "") -> str | None:
    if scheme == "https" or (scheme == "http" and http_allowed):
        return None
    return f"{scheme[:32]} is not allowed: use https" + (f"; {hint}" if hint else "")


def _refusal_of_port(port: int, policy: GuardPolicy) -> str | None:
    return None if port in policy.allow_ports else f"port {port} is not allowed; {_PORT_HINT}"


def _refusal_of_literal(address: Address, port: int, scheme: str, policy: GuardPolicy) -> str | None:
    refusal = refusal_of_address(str(address), port=port, scheme=scheme, policy=policy)
    return _refusal_by_name(str(address), policy) if refusal is None else refusal.detail


def _refusal_by_name(name: str, policy: GuardPolicy) -> str | None:
    """`name`: in lower case, without a final dot; or an address."""
    if _matches(name, policy.deny_hosts):
        return f"the host is {_DENIED}"
    if policy.allow_hosts and not _matches(name, policy.allow_hosts):
        return "the host is not in security.allow_hosts"
    return None


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return bool(patterns) and _glob(patterns).fullmatch(name) is not None


@lru_cache(maxsize=64)
def _glob(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Matches any of these patterns, in which `*` stands for any characters."""
    return re.compile("|".join(map(_expression, patterns)), re.DOTALL)


def _expression(pattern: str) -> str:
    """Each inner part is taken at its first place for good (atomic): ten `*` take no longer than one."""
    first, *others = map(re.escape, pattern.split("*"))
    if not others:
        return first
    return first + "".join(f"(?>.*?{part})" for part in others[:-1]) + f".*{others[-1]}"


def _refusal_of_host(host: str, port: int, scheme: str, policy: GuardPolicy) -> str | None:
    name = _ascii_name(host)
    if name is None:
        return "the host is not a valid name, or hides another one behind look-alike characters: write it in ASCII"
    bare = name.removesuffix(".")
    labels = bare.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return "the host is not a valid name"
    if _NUMBER_LABEL.fullmatch(labels[-1]):
        return _refusal_of_number(name, port, scheme, policy)
    by_name = _refusal_by_name(bare, policy)
    if by_name is not None:
        return by_name
    networks = policy.allow_networks
    hint = "" if bare in _METADATA_NAMES else f"; the host's address as /32 {_NETWORK_HINT}"
    if labels[-1] == "localhost":
        if not any(_overlaps_loopback(network) for network in networks):
            return f"localhost is not allowed; 127.0.0.1/32 {_NETWORK_HINT}"
    elif bare.endswith(_INTERNAL_ENDS) and all(network.is_loopback for network in networks):
        suffix = next(end for end in _INTERNAL_ENDS if bare.endswith(end))
        return f"names under {suffix} are not allowed{hint}"
    elif len(labels) == 1 and not networks:
        return f"a host name without a dot is not allowed: public names have one{hint}"
    if networks and not policy.by_proxy:
        return _refusal_of_scheme(scheme, http_allowed=policy.allow_http, hint=_ALLOW_HTTP_HINT)
    http_hint = "" if policy.by_proxy else HTTP_HINT
    return _refusal_of_scheme(scheme, http_allowed=False, hint=http_hint) or _refusal_of_port(port, policy)


def _whose_own(url: str, policy: GuardPolicy) -> str | None:
    if policy.own_address is not None:
        host, port = policy.own_address
        if is_bound_address(url, host=host, port=port):
            return "the address that this relay listens on"
    if policy.own_url is not None and is_within(url, policy.own_url):
        return "this relay's own server.public_url"
    return None


def _overlaps_loopback(network: Network) -> bool:
    if isinstance(network, IPv4Network):
        return network.overlaps(LOOPBACK_IPV4)
    return network.overlaps(LOOPBACK_IPV6)


def _ascii_name(host: str) -> str | None:
    """The lower-case ASCII form of a host name (RFC 3490), or None if it has none or is deceptive.

    A non-ASCII name that normalises to plain ASCII (full-width digits, circled letters, an ideographic full stop)
    exists only to get past a filter.
    """
    if host.isascii():
        return host.lower()
    normal = re.sub("[\u3002\uff0e\uff61]", ".", unicodedata.normalize("NFKC", host))
    try:
        encoded = normal.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return None
    return encoded if "xn--" in encoded else None


def _refusal_of_number(name: str, port: int, scheme: str, policy: GuardPolicy) -> str | None:
    """Resolvers read a name that ends in a number as an address (WHATWG URL section 3.5): only `1.2.3.4` passes."""
    try:
        address = IPv4Address(name)
    except ValueError:
        return "the host is an unusual notation of an IPv4 address: write it as four decimal numbers"
    return _refusal_of_literal(address, port, scheme, policy)
