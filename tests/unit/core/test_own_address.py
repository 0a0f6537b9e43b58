"""Where a URL leads: to this machine, to a socket bound here, to a place below another URL."""

import pytest

from relay.core.access.netguard import (
    GuardPolicy,
    browsed_url,
    is_bound_address,
    is_within,
    refusal_of_url,
)
from tests.support.guard import DEVELOPMENT


@pytest.mark.parametrize(
    ("url", "host", "port", "leads_here"),
    [
        ("http://127.0.0.1:8080/hook", "127.0.0.1", 8080, True),
        ("https://127.0.0.1:8080/hook", "127.0.0.1", 8080, True),
        ("http://localhost:8080", "127.0.0.1", 8080, True),
        ("http://127.0.0.2:8080", "0.0.0.0", 8080, True),
        ("http://[::1]:8080", "::", 8080, True),
        ("http://10.0.0.7:8080", "10.0.0.7", 8080, True),
        ("http://[::ffff:10.0.0.7]:8080", "10.0.0.7", 8080, True),
        ("http://[::ffff:127.0.0.1]:8080", "127.0.0.1", 8080, True),
        ("http://[fd00:0:0::7]:8080", "fd00::7", 8080, True),
        ("http://Relay.internal/hook", "relay.internal", 80, True),
        ("https://relay.internal/hook", "relay.internal", 443, True),
        ("http://127.0.0.1:8081/hook", "127.0.0.1", 8080, False),
        ("http://127.0.0.1/hook", "127.0.0.1", 8080, False),
        ("http://10.0.0.7:8080", "127.0.0.1", 8080, False),
        ("http://localhost:8080", "10.0.0.7", 8080, False),
    ],
)
def test_bound_address(url: str, host: str, port: int, leads_here: bool) -> None:
    assert is_bound_address(url, host=host, port=port) is leads_here


@pytest.mark.parametrize(
    ("url", "base", "within"),
    [
        ("https://relay.example.com/v1/jobs", "https://relay.example.com", True),
        ("https://RELAY.example.com.:443/", "https://relay.example.com/", True),
        ("https://example.com/relay/v1", "https://example.com/relay/", True),
        ("https://example.com/relay", "https://example.com/relay/", True),
        ("https://example.com/relays", "https://example.com/relay", False),
        ("https://example.com/crm", "https://example.com/relay", False),
        ("https://example.com:8443/", "https://example.com", False),
        ("http://example.com/", "https://example.com", False),
    ],
)
def test_url_below_another(url: str, base: str, within: bool) -> None:
    assert is_within(url, base) is within


def test_no_event_is_sent_to_the_relay_itself() -> None:
    own = {"own_address": ("127.0.0.1", 8080), "own_url": "https://relay.example.com"}
    policy = GuardPolicy(allow_http=True, allow_networks=DEVELOPMENT.allow_networks, **own)  # type: ignore[arg-type]
    why = refusal_of_url("http://localhost:8080/v1/jobs", policy)
    assert why == "this is the address that this relay listens on: the relay would send its events to itself"
    why = refusal_of_url("https://relay.example.com/hook", policy)
    assert why == "this is this relay's own server.public_url: the relay would send its events to itself"
    assert refusal_of_url("http://localhost:8081/hook", policy) is None
    assert refusal_of_url("https://crm.example.com/hook", policy) is None


@pytest.mark.parametrize(
    ("hosts", "tls", "url"),
    [
        (["relay.example"], True, "https://relay.example"),
        (["relay.example:8080"], False, "http://relay.example:8080"),
        (["10.0.0.7:8080"], False, "http://10.0.0.7:8080"),
        (["[2001:db8::7]:8080"], False, "http://[2001:db8::7]:8080"),
        (["relay_1.internal"], False, "http://relay_1.internal"),
        ([], False, None),
        (["one.example", "two.example"], False, None),
        ([""], False, None),
        (["user@relay.example"], False, None),
        (["relay.example/path"], False, None),
        (["relay.example'; id; '"], False, None),
        (["relay.example\n"], False, None),
        (["relay.example:port"], False, None),
        (["r\xe9lay.example"], False, None),
        (["a" * 300], False, None),
    ],
)
def test_a_browser_reached_the_relay_by_one_plain_host(hosts: list[str], tls: bool, url: str | None) -> None:
    assert browsed_url(hosts, tls=tls) == url
