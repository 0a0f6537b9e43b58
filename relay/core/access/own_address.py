"""Compares URLs by their text: loopback hosts, the relay's own address, prefixes."""

import re
from collections.abc import Sequence
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
