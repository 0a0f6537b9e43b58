"""The egress rules: no notation of a forbidden address gets through, and nothing makes them raise."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.access.netguard import (
    MAX_CUSTOM_HEADERS,
    GuardPolicy,
    check_custom_headers,
    host_of,
    origin_of,
    refusal_of_address,
    refusal_of_url,
    with_judged_host,
)
from tests.support.guard import DEVELOPMENT
from tests.support.hostile import POLICY, URLS, HostileUrl

STRICT = GuardPolicy()
PRIVATE = GuardPolicy(allow_networks=(IPv4Network("10.0.0.0/8"), IPv6Network("fd00::/8")))

# The list of the security standard, a second time on purpose: the code's own must not be its own judge.
FORBIDDEN_IPV4 = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
    *("224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32"),
]
FORBIDDEN_IPV6 = ["::/3", "4000::/2", "8000::/1", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"]
PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.215.14", "172.32.0.1", "100.128.0.1", "192.0.1.1", "2606:4700::1111"]


def is_allowed(address: str, port: int, scheme: str, policy: GuardPolicy) -> bool:
    return refusal_of_address(address, port=port, scheme=scheme, policy=policy) is None


@st.composite
def forbidden_ipv4(draw: st.DrawFn) -> IPv4Address:
    network = IPv4Network(draw(st.sampled_from(FORBIDDEN_IPV4)))
    return network[draw(st.integers(0, network.num_addresses - 1))]


@st.composite
def forbidden_ipv6(draw: st.DrawFn) -> IPv6Address:
    network = IPv6Network(draw(st.sampled_from(FORBIDDEN_IPV6)))
    address = network[draw(st.integers(0, network.num_addresses - 1))]
    # Wrapped public IPv4 addresses are the exception, tested below.
    return network[1] if _is_wrapped(address) else address


def _is_wrapped(address: IPv6Address) -> bool:
    return address in IPv6Network("::ffff:0:0/96") or address in IPv6Network("64:ff9b::/96")


def notations(address: IPv4Address) -> list[str]:
    """What a resolver or a lenient parser may take for this address."""
    number = int(address)
    a, b, c, d = address.packed
    return [
        str(address),
        str(number),
        hex(number),
        hex(number).upper(),
        f"0{number:o}",
        f"{a}.{number & 0xFFFFFF}",
        f"{a}.{b}.{number & 0xFFFF}",
        f"0{a:o}.0{b:o}.0{c:o}.0{d:o}",
        f"0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}",
        f"{a}.{b}.{c}.0x{d:x}",
        f"{address}.",
        f"{a:03}.{b:03}.{c:03}.{d:03}.",
        str(address).translate({ord("0") + digit: 0xFF10 + digit for digit in range(10)}),
        str(address).replace(".", "。"),
        "".join(f"%{byte:02x}" for byte in str(address).encode()),
        f"[::ffff:{address}]",
        f"[::ffff:{a:02x}{b:02x}:{c:02x}{d:02x}]",
        f"[0:0:0:0:0:ffff:{address}]",
        f"[64:ff9b::{address}]",
        f"[::{address}]",
        f"[2002:{a:02x}{b:02x}:{c:02x}{d:02x}::1]",
        f"[{address}]",
    ]


@given(forbidden_ipv4())
def test_no_notation_of_a_forbidden_ipv4_address_passes(address: IPv4Address) -> None:
    for host in notations(address):
        assert refusal_of_url(f"https://{host}/", STRICT) is not None, host
        assert refusal_of_url(f"https://{host}:443", STRICT) is not None, host
    for text in (str(address), f"::ffff:{address}", f"64:ff9b::{address}"):
        assert not is_allowed(text, 443, "https", STRICT)


@given(forbidden_ipv6())
def test_no_notation_of_a_forbidden_ipv6_address_passes(address: IPv6Address) -> None:
    for text in (str(address), address.exploded, address.compressed.upper()):
        assert not is_allowed(text, 443, "https", STRICT)
        assert refusal_of_url(f"https://[{text}]/", STRICT) is not None
        assert refusal_of_url(f"https://[{text}%25eth0]/", STRICT) is not None


@given(st.ip_addresses(v=4))
def test_addresses_outside_of_the_list_pass_also_when_wrapped(address: IPv4Address) -> None:
    forbidden = any(address in IPv4Network(network) for network in FORBIDDEN_IPV4)
    for text in (str(address), f"::ffff:{address}", f"64:ff9b::{address}"):
        assert is_allowed(text, 443, "https", STRICT) is not forbidden


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    assert refusal_of_address(address, port=443, scheme="https", policy=STRICT) is None
    assert refusal_of_url(f"https://{host}/hook", STRICT) is None
    assert refusal_of_url(f"https://{host}:443/hook?x=y", STRICT) is None
    for url in (f"http://{host}/", f"https://{host}:8443/", f"http://{host}:443/"):
        assert refusal_of_url(url, STRICT) is not None
        assert refusal_of_url(url, DEVELOPMENT) is not None


@pytest.mark.parametrize(
    "address", ["", "example.com", "127.1", "0x7f000001", "fe80::1%eth0", "2606:4700::1%1", "10.0.0.0/8"]
)
def test_text_that_is_not_an_address_is_refused(address: str) -> None:
    assert not is_allowed(address, 443, "https", DEVELOPMENT)


def test_development_permits_http_on_loopback_only() -> None:
    for address in ("127.0.0.1", "127.255.0.3", "::1", "::ffff:127.0.0.1"):
        assert is_allowed(address, 8080, "http", DEVELOPMENT)
        assert is_allowed(address, 8080, "https", DEVELOPMENT)
    for address in ("10.0.0.1", "169.254.169.254", "8.8.8.8", "::ffff:10.0.0.1", "fd00::1"):
        assert not is_allowed(address, 8080, "http", DEVELOPMENT)
    assert is_allowed("8.8.8.8", 443, "https", DEVELOPMENT)
    assert not is_allowed("127.0.0.1", 21, "ftp", DEVELOPMENT)
    for url in (
        "http://localhost:3000/x",
        "http://LOCALHOST./",
        "https://a.localhost:9/",
        "http://[::1]:80",
        "http://127.0.0.1",
    ):
        assert refusal_of_url(url, DEVELOPMENT) is None


def test_allowed_networks_take_any_port_but_http_only_when_asked() -> None:
    assert is_allowed("10.1.2.3", 9999, "https", PRIVATE)
    assert is_allowed("fd00::9", 9999, "https", PRIVATE)
    assert not is_allowed("10.1.2.3", 9999, "http", PRIVATE)
    assert not is_allowed("192.168.0.1", 443, "https", PRIVATE)
    assert not is_allowed("8.8.8.8", 9999, "https", PRIVATE)


def test_allow_http_alone_permits_nothing() -> None:
    policy = GuardPolicy(allow_http=True)
    assert refusal_of_url("http://example.com/", policy) is not None
    assert not is_allowed("8.8.8.8", 80, "http", GuardPolicy(allow_http=True, allow_ports=frozenset({80, 443})))


@pytest.mark.parametrize(
    "url",
    [
        *("https://example.com", "https://example.com/", "HTTPS://Example.COM:443/a/b?c=d&e=%20"),
        *("https://example.com.", "https://example.com?x", "https://a_b.example-1.co", "https://bücher.example/"),
        *("https://xn--bcher-kva.example/", "https://hooks.slack.com/services/T0/B0/x", "https://1.2.3.example"),
        "https://example.com/@user",
    ],
)
def test_ordinary_sinks(url: str) -> None:
    assert refusal_of_url(url, STRICT) is None


@pytest.mark.parametrize("policy", [STRICT, POLICY], ids=["strict", "node"])
@pytest.mark.parametrize("row", URLS, ids=range(len(URLS)))
def test_refused_urls_name_their_rule(row: HostileUrl, policy: GuardPolicy) -> None:
    refusal = refusal_of_url(row.url, policy)
    assert refusal is not None, row
    assert row.rule in refusal, row
    origin_of(row.url)


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "127.1", "fe80::1%eth0"]
)
def test_refusal_of_a_name_s_address_tells_it_to_the_operator_only(address: str) -> None:
    refusal = refusal_of_address(address, port=443, scheme="https", policy=STRICT)
    assert refusal is not None
    assert not set("0123456789/") & set(refusal.shown)
    assert "address" in refusal.detail


HOSTS = GuardPolicy(
    allow_hosts=("*.example.com", "hooks.slack.com", "93.184.215.*", "*.xn--bcher-kva.example", "2606:*"),
    deny_hosts=("bad.example.com", "*.bad.example.com", "*93.184.215.15"),
)


@pytest.mark.parametrize(
    "url",
    [
        *("https://a.example.com/", "https://A.B.EXAMPLE.com./", "https://hooks.slack.com/x"),
        *("https://x.bücher.example/", "https://93.184.215.14/", "https://[2606:4700::1111]/"),
        "https://notbad.example.com/",
    ],
)
def test_allowed_hosts(url: str) -> None:
    assert refusal_of_url(url, HOSTS) is None


@pytest.mark.parametrize(
    ("url", "setting"),
    [
        ("https://example.com/", "allow_hosts"),
        ("https://a.example.com.evil.example/", "allow_hosts"),
        ("https://hooks-slack.com/", "allow_hosts"),
        ("https://hooks.slack.com.evil.example/", "allow_hosts"),
        ("https://evil.example/hooks.slack.com", "allow_hosts"),
        ("https://93.184.216.14/", "allow_hosts"),
        ("https://[2607:f8b0::1]/", "allow_hosts"),
        ("https://bad.example.com/", "deny_hosts"),
        ("https://BAD.example.com./", "deny_hosts"),
        ("https://a.bad.example.com/", "deny_hosts"),
        ("https://93.184.215.15/", "deny_hosts"),
        ("https://[64:ff9b::93.184.215.15]/", "deny_hosts"),
    ],
)
def test_host_outside_of_the_lists_is_refused_and_deny_wins(url: str, setting: str) -> None:
    assert f"security.{setting}" in (refusal_of_url(url, HOSTS) or "")


def test_denied_addresses_are_refused_behind_any_name() -> None:
    for address in ("93.184.215.15", "::ffff:93.184.215.15", "64:ff9b::5db8:d70f"):
        refusal = refusal_of_address(address, port=443, scheme="https", policy=HOSTS)
        assert refusal is not None
        assert refusal.shown == "the host's address is in security.deny_hosts"
    assert is_allowed("1.1.1.1", 443, "https", HOSTS), (
        "allow_hosts is about names: an allowed name may have any address"
    )


def test_many_wildcards_are_matched_quickly() -> None:
    policy = GuardPolicy(allow_hosts=("*a" * 60 + "b",))
    assert refusal_of_url("https://" + ".".join(["a" * 60] * 4), policy) is not None


@pytest.mark.parametrize(
    ("url", "judged"),
    [
        ("https://example.com/ü", "https://example.com/ü"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://BÜCHER.example:8443/ü?ö", "https://xn--bcher-kva.example:8443/ü?ö"),
        ("https://ü.straße.example/", "https://xn--tda.strasse.example/"),
    ],
)
def test_international_host_is_sent_to_as_it_was_judged(url: str, judged: str) -> None:
    assert with_judged_host(url) == judged


@pytest.mark.parametrize(
    ("host", "narrowest"),
    [
        ("10.1.2.3", "10.1.2.3/32"),
        ("172.16.0.9", "172.16.0.9/32"),
        ("192.168.1.5", "192.168.1.5/32"),
        ("100.64.0.1", "100.64.0.1/32"),
        ("127.0.0.1", "127.0.0.1/32"),
        ("localhost", "127.0.0.1/32"),
        ("[::1]", "::1/128"),
        ("[fd12::7]", "fd12::7/128"),
        ("[::ffff:10.1.2.3]", "10.1.2.3/32"),
        ("169.254.169.254", None),
        ("169.254.1.1", None),
        ("[::ffff:169.254.169.254]", None),
        ("[fd00:ec2::254]", None),
        ("[fd20:ce::254]", None),
        ("100.100.100.200", None),
        ("168.63.129.16", None),
        ("192.0.0.192", None),
        ("0.0.0.0", None),
        ("192.0.2.1", None),
        ("198.18.0.1", None),
        ("224.0.0.1", None),
        ("255.255.255.255", None),
        ("[fe80::1]", None),
        ("[::]", None),
        ("[2001:db8::1]", None),
        ("[2002:a00:1::1]", None),
        ("[ff02::1]", None),
        ("metadata.google.internal", None),
        ("metadata", None),
        ("instance-data", None),
    ],
)
def test_advice_opens_no_more_than_one_address_and_none_that_no_sink_may_have(host: str, narrowest: str | None) -> None:
    refusal = refusal_of_url(f"https://{host}/hook", STRICT) or ""
    assert refusal
    if narrowest is None:
        assert "security." not in refusal
    else:
        assert refusal.endswith(f"; {narrowest} in security.allow_networks permits it for development")


def test_names_are_judged_when_dialled_if_networks_are_allowed() -> None:
    assert refusal_of_url("http://sink.example.com:3000/", DEVELOPMENT) is None
    assert refusal_of_url("https://sink.example.com:3000/", PRIVATE) is None
    assert refusal_of_url("http://sink.example.com/", PRIVATE) is not None
    assert refusal_of_url("https://sink.corp.internal/", PRIVATE) is None
    assert refusal_of_url("https://sink.corp.internal/", DEVELOPMENT) is not None
    assert refusal_of_url("https://printer.local/", DEVELOPMENT) is not None
    assert refusal_of_url("https://localhost/", PRIVATE) is not None
    assert refusal_of_url("https://localhost/", GuardPolicy(allow_networks=(IPv4Network("0.0.0.0/0"),))) is None
    assert refusal_of_url("https://localhost/", GuardPolicy(allow_networks=(IPv6Network("::/0"),))) is None


@given(st.text(max_size=80), st.sampled_from([STRICT, DEVELOPMENT, PRIVATE]))
def test_no_text_makes_the_rules_raise(text: str, policy: GuardPolicy) -> None:
    refusal_of_url(text, policy)
    refusal_of_url(f"https://{text}", policy)
    refusal_of_url(f"http://[{text}]", policy)
    refusal_of_url(f"https://{text}.example.com:{text}/", policy)
    refusal_of_address(text, port=443, scheme=text, policy=policy)
    check_custom_headers([(text, text), ("X-Own", text)])


@pytest.mark.parametrize(
    "name",
    [
        *("Host", "Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Expect"),
        *("HTTP2-Settings", "Accept-Encoding", "Content-Length", "Content-Type", "content-encoding"),
        *("Proxy-Authorization", "Proxy-Connection", "Webhook-Id", "webhook-signature", "WEBHOOK-X", "ce-id"),
        "CE-Type",
    ],
)
def test_headers_that_are_the_relays_own(name: str) -> None:
    assert "cannot be set" in (check_custom_headers([(name, "x")]) or "")


@pytest.mark.parametrize(
    ("headers", "rule"),
    [
        ([("", "x")], "token"),
        ([("X Y", "x")], "token"),
        ([("X:", "x")], "token"),
        ([("X\r\nY", "x")], "token"),
        ([("Xé", "x")], "token"),
        ([("X\n", "x")], "token"),
        ([("X", "a\r\nb: c")], "printable"),
        ([("X", "a\nb")], "printable"),
        ([("X", "a\x00")], "printable"),
        ([("X", "é")], "printable"),
        ([("X", " a")], "printable"),
        ([("X", "a"), ("x", "b")], "twice"),
        ([("X" * 129, "a")], "128 characters"),
        ([("X", "a" * 4097)], "4096 bytes"),
        ([(f"X-{number}", "v") for number in range(MAX_CUSTOM_HEADERS + 1)], "at most 32"),
    ],
)
def test_refused_headers_name_their_rule(headers: list[tuple[str, str]], rule: str) -> None:
    assert rule in (check_custom_headers(headers) or "")


def test_headers_of_a_user_pass() -> None:
    assert check_custom_headers([("X-Own", "a b"), ("X-Other", "c")]) is None


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://a.example/x?y", ("https", "a.example", 443)),
        ("HTTPS://A.Example:443", ("https", "a.example", 443)),
        ("http://a.example", ("http", "a.example", 80)),
        ("https://a.example:8443/", ("https", "a.example", 8443)),
        ("https://[2001:DB8::1]:8443/", ("https", "2001:db8::1", 8443)),
        ("ftp://a.example/", None),
        ("https://a.example:port/", None),
        ("a.example", None),
    ],
)
def test_the_origin_of_a_url(url: str, origin: tuple[str, str, int] | None) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Hooks.Example.com:8443/path", "hooks.example.com"),
        ("http://hooks.example.com./", "hooks.example.com"),
        ("https://[2001:db8::1]/", "2001:db8::1"),
        ("ftp://hooks.example.com/", ""),
        ("https:///path", ""),
        ("", ""),
    ],
)
def test_host_of_a_url_without_its_scheme_and_port(url: str, host: str) -> None:
    assert host_of(url) == host
