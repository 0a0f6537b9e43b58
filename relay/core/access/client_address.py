"""The address of a caller, where trusted proxies name it.

A proxy adds the address that it was called from at the right end of the header. The caller is therefore the rightmost
address that is not a trusted proxy's: everything left of it may be forged.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import islice

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_HOPS = 32
MAX_HEADER_CHARACTERS = 8_192
MAX_ADDRESS_CHARACTERS = 64
UNKNOWN = ""
CLIENT_PREFIX_BITS = 64
"""Prefix of an IPv6 address that stands for one client, which can choose the other bits."""

_MAPPED = IPv6Network("::ffff:0:0/96")
_ELEMENT = re.compile(r'(?:"[^"]*"|[^",])+')
_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("[^"]*"|[^";]*)\s*(?=;|$)', re.IGNORECASE)


def address_of(text: str) -> Address | None:
    """The address, without a zone; an IPv4 address that is written as IPv6 is one of IPv4. None if it is none."""
    return None if len(text) > MAX_ADDRESS_CHARACTERS else _parsed(text)


@lru_cache(maxsize=4_096)
def _parsed(text: str) -> Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def network_of(text: str) -> Network:
    """The network of a text such as `10.0.0.0/8`, or of one address. Raises ValueError, whose text completes "must be a
    network"."""
    try:
        if "%" in text:  # addresses are compared without their zone
            raise ValueError
        given = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("") from None
    try:
        network = ip_network(text)
    except ValueError:
        raise ValueError(f" without host bits, like {given}") from None
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        # addresses of it are compared as IPv4
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - _MAPPED.prefixlen))
    return network


def is_within(text: str, networks: Sequence[Network]) -> bool:
    """True if an address is in one of the networks. Text that is no address never is."""
    address = address_of(text)
    return address is not None and any(address in network for network in networks)


def group_of(text: str) -> str:
    """The key that one client cannot change by choosing another address: the IPv4 address, or the /64 of IPv6."""
    address = address_of(text)
    if address is None:
        return UNKNOWN
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address) >> CLIENT_PREFIX_BITS << CLIENT_PREFIX_BITS, CLIENT_PREFIX_BITS)))


def client_address(
    peer: str, *, forwarded_for: Sequence[str], forwarded: Sequence[str], trusted: Sequence[Network]
) -> str:
    """The caller's address. `peer` connected to us; the others are the values of `X-Forwarded-For` and `Forwarded`.

    They are read only if the peer is trusted. If both are there and disagree, one is the caller's own, and the address
    is UNKNOWN.
    """
    if not is_within(peer, trusted):
        return peer
    addresses = []
    if forwarded_for:
        hops = reversed(",".join(forwarded_for).rsplit(",", MAX_HOPS)[-MAX_HOPS:])
        addresses.append(_rightmost(peer, hops, trusted))
    if forwarded:
        addresses.append(_rightmost(peer, _elements(",".join(forwarded)), trusted))
    if not addresses:
        return peer
    return addresses[0] if len(set(addresses)) == 1 else UNKNOWN


def _rightmost(peer: str, hops: Iterator[str], trusted: Sequence[Network]) -> str:
    """The first address from the right that is not trusted; the last trusted one if a hop is not an address."""
    believed = peer
    for hop in islice(hops, MAX_HOPS):
        address = address_of(_without_port(hop.strip().strip('"')))
        if address is None:
            break
        believed = str(address)
        if not any(address in network for network in trusted):
            break
    return believed


def _elements(text: str) -> Iterator[str]:
    """The `for` of each element of `Forwarded` (RFC 7239), from the right; empty where an element has none."""
    if len(text) > MAX_HEADER_CHARACTERS or "\\" in text or text.count('"') % 2:
        return
    for element in reversed(_ELEMENT.findall(text)):
        found = _FOR.findall(element)
        yield found[0] if len(found) == 1 else ""


def _without_port(hop: str) -> str:
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
