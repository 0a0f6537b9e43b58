"""The caller's address behind proxies: the rightmost one that is not a trusted proxy's."""

from ipaddress import ip_network

import pytest

from relay.core.access.client_address import (
    MAX_HEADER_CHARACTERS,
    MAX_HOPS,
    client_address,
    group_of,
    network_of,
)

PROXY = "10.0.0.1"
TRUSTED = tuple(map(ip_network, ("10.0.0.0/8", "fd00::/8", "127.0.0.1/32")))
FORGED = "198.51.100.66"
CLIENT = "203.0.113.9"


def believed(peer: str = PROXY, *, xff: tuple[str, ...] = (), forwarded: tuple[str, ...] = ()) -> str:
    return client_address(peer, forwarded_for=xff, forwarded=forwarded, trusted=TRUSTED)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], PROXY),
        ([CLIENT], CLIENT),
        ([f"{FORGED}, {CLIENT}"], CLIENT),
        ([f"{FORGED},{CLIENT}, 10.9.9.9"], CLIENT),
        ([FORGED, CLIENT], CLIENT),  # two header lines are one list
        ([f"{CLIENT}, 10.0.0.7", "10.0.0.8"], CLIENT),
        (["10.0.0.7, 10.0.0.8"], "10.0.0.7"),  # all of them trusted: the first
        ([f"{CLIENT}:4711"], CLIENT),
        (["[2001:db8::9]:443"], "2001:db8::9"),
        (["2001:db8::9"], "2001:db8::9"),
        (["2001:DB8:0::9"], "2001:db8::9"),
        ([f"::ffff:{CLIENT}"], CLIENT),
        ([f' "{CLIENT}" '], CLIENT),
        (["fe80::1%eth0"], "fe80::1"),
        # what is no address ends the walk at the last proxy
        ([""], PROXY),
        (["unknown"], PROXY),
        ([f"{CLIENT}, "], PROXY),
        ([f"{CLIENT}, unknown"], PROXY),
        ([f"{CLIENT}, nonsense, 10.0.0.8"], "10.0.0.8"),
        (["1.2.3.4.5"], PROXY),
        (["٣.٣.٣.٣"], PROXY),
        (["[2001:db8::9"], "2001:db8::9"),
        (["9" * 10_000], PROXY),
        ([", ".join([FORGED] + ["10.0.0.2"] * 100_000)], "10.0.0.2"),
        ([",".join([FORGED] + ["10.0.0.2"] * MAX_HOPS)], "10.0.0.2"),
        ([",".join([CLIENT] + ["10.0.0.2"] * (MAX_HOPS - 1))], CLIENT),
    ],
)
def test_rightmost_untrusted_address_of_x_forwarded_for(values: list[str], expected: str) -> None:
    assert believed(xff=tuple(values)) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([f"for={CLIENT}"], CLIENT),
        ([f"for={FORGED}, for={CLIENT};proto=https;by=10.0.0.1"], CLIENT),
        ([f"by=10.0.0.1; FOR = {CLIENT} ;proto=http"], CLIENT),
        ([f'for="{CLIENT}:4711"'], CLIENT),
        (['for="[2001:db8::9]:443"'], "2001:db8::9"),
        ([f"for={FORGED}", f'for={CLIENT};by="a, b", for=10.0.0.3'], CLIENT),
        (["for=unknown"], PROXY),
        (["for=_hidden, for=10.0.0.3"], "10.0.0.3"),
        (["proto=https"], PROXY),
        ([f"for={FORGED};for={CLIENT}"], PROXY),  # one element names one client
        ([f"xfor={CLIENT}"], PROXY),
        ([f'for={CLIENT}, for="10.0.0.3'], PROXY),  # the quote has no end
        ([f'for="\\"{CLIENT}"'], PROXY),
        ([f"for={CLIENT}," + "for=10.0.0.3," * (MAX_HEADER_CHARACTERS // 8)], PROXY),
        ([""], PROXY),
    ],
)
def test_rightmost_untrusted_address_of_forwarded(values: list[str], expected: str) -> None:
    assert believed(forwarded=tuple(values)) == expected


@pytest.mark.parametrize("peer", [CLIENT, "2001:db8::9", "127.0.0.2", "", "not an address", "172.16.0.1"])
def test_headers_of_an_untrusted_peer_are_not_believed(peer: str) -> None:
    assert believed(peer, xff=(FORGED,), forwarded=(f"for={FORGED}",)) == peer


def test_headers_that_disagree_leave_the_address_unknown() -> None:
    """A proxy writes one of them and passes the other on, which is then the caller's own."""
    assert believed(xff=(CLIENT,), forwarded=(f"for={FORGED}",)) == ""
    assert believed(xff=(CLIENT,), forwarded=(f"for={CLIENT}",)) == CLIENT


@pytest.mark.parametrize(
    ("text", "group"),
    [
        (CLIENT, CLIENT),
        (f"::ffff:{CLIENT}", CLIENT),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("", ""),
        ("no address", ""),
    ],
)
def test_one_client_is_an_ipv4_address_or_a_64_of_ipv6(text: str, group: str) -> None:
    assert group_of(text) == group


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("FD00::/8", "fd00::/8"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
    ],
)
def test_network_of_a_text(text: str, network: str) -> None:
    assert network_of(text) == ip_network(network)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.1.2.3/8", " without host bits, like 10.0.0.0/8"),
        ("here", ""),
        ("", ""),
        ("10.0.0.0/33", ""),
        ("fe80::1%eth0", ""),
    ],
)
def test_text_that_is_no_network(text: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared)
        network_of(text)
    assert str(caught.value) == said
