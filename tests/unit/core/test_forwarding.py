"""Forwarding rules: headers, keys, paths, and what an answer to a create proves."""

from collections.abc import Sequence
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.access.forwarding import (
    HOP_BY_HOP,
    Header,
    KeyPlace,
    api_key_of,
    counts_as_poll,
    escapes_segment,
    fate_of,
    headers_to_forward,
    headers_to_return,
    not_attached,
    not_recorded,
    path_refusal,
    readable_only,
    unforwardable,
    without_keys,
    without_parameter,
    without_tokens,
    without_wait,
)

TOKEN = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12).map(str.encode)
VALUE = st.binary(max_size=30).map(lambda value: bytes(code for code in value if code == 9 or 32 <= code != 127))
NAME = st.one_of(TOKEN, st.sampled_from(sorted(HOP_BY_HOP)), st.sampled_from([b"host", b"expect", b"content-length"]))
HEADERS = st.lists(st.tuples(NAME, VALUE), max_size=12)
NOT_FOR_THE_NEXT = HOP_BY_HOP | {b"host", b"expect", b"relay-metadata", b"relay-callback", b"relay-callback-types"}
NOT_FOR_THE_NEXT |= {b"relay-group", b"relay-group-size"}


def is_within(kept: Sequence[Header], headers: Sequence[Header]) -> bool:
    """True if `kept` is a subsequence of `headers`."""
    rest = iter(headers)
    return all(header in rest for header in kept)


# --- which headers go on


@pytest.mark.parametrize("name", sorted(NOT_FOR_THE_NEXT))
def test_hop_by_hop_and_relay_headers_are_not_forwarded(name: bytes) -> None:
    assert headers_to_forward([(name, b"x"), (b"accept", b"*/*")]) == [(b"accept", b"*/*")]


@pytest.mark.parametrize(
    "name",
    [
        *(b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-anything", b"x-real-ip"),
        *(b"x-forwarded", b"x-original-forwarded-for", b"x_forwarded_for", b"x_real_ip", b"x-forwarded_proto"),
        *(b"true-client-ip", b"x-client-ip", b"client-ip", b"x-cluster-client-ip", b"cf-connecting-ip", b"cf-ray"),
    ],
)
def test_headers_that_say_where_a_request_comes_from_are_not_forwarded(name: bytes) -> None:
    assert headers_to_forward([(name, b"10.0.0.1"), (b"accept", b"*/*")]) == [(b"accept", b"*/*")]


def test_of_relay_nodes_only_ids_are_forwarded() -> None:
    ids = [(b"relay-node", b"0123456789abcdef"), (b"relay-node", b"fedcba9876543210")]
    forged = [(b"relay-node", value) for value in (b"", b"x", b"node-1", b"0123456789ABCDEF", b"0123456789abcdef0")]
    assert headers_to_forward([*forged, *ids]) == ids


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_hop_by_hop_headers_are_not_returned(name: bytes) -> None:
    kept = (b"Content-Type", b"text/plain")
    assert headers_to_return([(name, b"x"), kept, (name.title(), b"y")], 200) == [kept]


def test_invalid_answer_headers_are_repaired_or_dropped() -> None:
    headers = [
        (b"X-Odd", b"a\x01b\x00\r\nc"),
        (b"X-Fine", b"caf\xe9\t x "),
        (b"X(y)", b"1"),
        (b"", b"2"),
        (b"\xe9", b"3"),
    ]
    assert headers_to_return(headers, 200) == [(b"X-Odd", b"a b   c"), (b"X-Fine", b"caf\xe9\t x ")]


@pytest.mark.parametrize("status_code", [204, 304])
def test_bodiless_answer_has_no_length(status_code: int) -> None:
    headers = [(b"ETag", b'"x"'), (b"Content-Length", b"1234")]
    assert headers_to_return(headers, status_code) == headers[:1]
    for other in (200, 205, 301, 404):
        assert headers_to_return(headers, other) == headers


def test_headers_named_in_connection_are_dropped() -> None:
    headers = [
        (b"connection", b"close, X-Hop ,x-two,, keep-alive"),
        (b"x-hop", b"1"),
        (b"x-two", b"2"),
        (b"x-three", b"3"),
        (b"connection", b"X-Four"),
        (b"x-four", b"4"),
    ]
    assert headers_to_forward(headers) == [(b"x-three", b"3")]
    assert headers_to_return([(b"Connection", b"ETag"), (b"etag", b"x"), (b"ETAG", b"y"), (b"Via", b"z")], 200) == [
        (b"Via", b"z")
    ]


@given(HEADERS)
def test_other_headers_keep_their_order_and_bytes(headers: list[Header]) -> None:
    kept = headers_to_forward(headers)
    assert is_within(kept, headers)
    assert not NOT_FOR_THE_NEXT & {name for name, _ in kept}
    if b"connection" not in {name for name, _ in headers}:
        assert kept == [header for header in headers if header[0] not in NOT_FOR_THE_NEXT]


@given(HEADERS, st.lists(TOKEN, max_size=5))
def test_headers_named_in_connection_are_dropped_both_ways(headers: list[Header], named: list[bytes]) -> None:
    headers = [*headers, (b"connection", b" , ".join(word.upper() for word in named))]
    only_here = {*named} - {b"close", b"keep-alive"}
    for kept in (headers_to_forward(iter(headers)), headers_to_return(iter(headers), 200)):
        assert is_within(kept, headers)
        assert not only_here & {name for name, _ in kept}


@given(HEADERS)
def test_forwarding_is_idempotent(headers: list[Header]) -> None:
    assert headers_to_forward(headers_to_forward(headers)) == headers_to_forward(headers)


def test_connection_with_thousands_of_names_is_cheap() -> None:
    headers = [(b"connection", b",".join(b"x-%d" % number for number in range(100_000))), (b"x-99", b"1")]
    assert headers_to_forward(headers) == []


# --- which codings an answer may have that has to be read


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (b"gzip", b"gzip"),
        (b"gzip, deflate, br, zstd", b"gzip, deflate"),
        (b"br", b"identity"),
        (b"", b"identity"),
        (b"*", b"identity"),
        (b"*;q=0", b"identity"),
        (b"br;q=1.0, gzip;q=0.8, *;q=0.1", b"gzip;q=0.8"),
        (b"GZIP ; q=0 ,Deflate", b"GZIP ; q=0, Deflate"),
        (b"x-gzip,identity;q=0.5", b"x-gzip, identity;q=0.5"),
        (b"\xff, gzip", b"gzip"),
    ],
)
def test_accept_encoding_is_reduced_to_readable_codings(value: bytes, wanted: bytes) -> None:
    headers = [(b"accept", b"br"), (b"accept-encoding", value)]
    assert readable_only(headers) == [(b"accept", b"br"), (b"accept-encoding", wanted)]


# --- what was waited for already


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([b"wait=20"], []),
        ([b"Wait = 20"], []),
        ([b"wait"], []),
        ([b"respond-async, wait=20, return=minimal"], [b"respond-async, return=minimal"]),
        ([b"wait=1", b"return=minimal", b"wait=2"], [b"return=minimal"]),
        ([b"awaiting=1"], [b"awaiting=1"]),
        ([b""], []),
        ([], []),
    ],
)
def test_prefer_wait_is_removed(values: list[bytes], wanted: list[bytes]) -> None:
    headers = [(b"accept", b"wait=20"), *((b"prefer", value) for value in values)]
    assert without_wait(headers) == [(b"accept", b"wait=20"), *((b"prefer", value) for value in wanted)]


# --- whose key it is


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        ([(b"accept", b"Bearer k")], None),
        ([(b"authorization", b"Bearer k1")], "k1"),
        ([(b"authorization", b"bearer   k1  ")], "k1"),
        ([(b"authorization", b"BEARER k1 k2")], "k1 k2"),
        ([(b"authorization", b"token k1")], "k1"),
        ([(b"authorization", b"Bearer")], None),
        ([(b"authorization", b"Bearer ")], None),
        ([(b"authorization", b"Basic eDp5")], None),
        ([(b"authorization", b"")], None),
        ([(b"x-api-key", b" k2 ")], "k2"),
        ([(b"x-api-key", b"")], None),
        ([(b"x-api-key", b"k2"), (b"authorization", b"Bearer k1")], "k1"),
        ([(b"authorization", b"Bearer  "), (b"x-api-key", b"k2")], "k2"),
        ([(b"authorization", b"Basic eDp5"), (b"x-api-key", b"k2")], "k2"),
        ([(b"authorization", b"Bearer k1"), (b"authorization", b"Bearer k3")], "k1"),
        ([(b"x-api-key", b"k2"), (b"x-api-key", b"k3")], "k2"),
        ([(b"authorization", b"Bearer k\xe9")], "ké"),
    ],
)
def test_key_is_read_as_the_upstream_reads_it(headers: list[Header], key: str | None) -> None:
    assert api_key_of(headers) == key


BASIC = KeyPlace(header=b"authorization", after=":", is_basic=True)
API = KeyPlace(header=b"authorization", before="api:", is_basic=True)
NAMED = KeyPlace(header=b"authorization", before="Token ")
QUOTED = KeyPlace(header=b"x-auth", before='key="', after='"')
QUERY = KeyPlace(parameter="api.key")


@pytest.mark.parametrize(
    ("place", "headers", "query", "key"),
    [
        (BASIC, [(b"authorization", b"Basic azE6")], "", "k1"),
        (BASIC, [(b"authorization", b"basic  azE6 ")], "", "k1"),
        (BASIC, [(b"authorization", b"Basic azE=")], "", None),  # k1
        (BASIC, [(b"authorization", b"Basic Og==")], "", None),  # :
        (BASIC, [(b"authorization", b"Basic a")], "", None),
        (BASIC, [(b"authorization", b"Basic /////w==")], "", None),
        (BASIC, [(b"authorization", b"Bearer azE6")], "", None),
        (BASIC, [(b"authorization", b"Basic"), (b"authorization", b"Basic azE6")], "", None),
        (API, [(b"authorization", b"Basic YXBpOmsx")], "", "k1"),
        (API, [(b"authorization", b"Basic azE6")], "", None),
        (NAMED, [(b"accept", b"*/*"), (b"authorization", b"token  k1 ")], "", "k1"),
        (NAMED, [(b"authorization", b"Tokenk1")], "", None),
        (NAMED, [(b"authorization", b"Token")], "", None),
        (NAMED, [(b"authorization", b"Bearer k1")], "", None),
        (NAMED, [], "", None),
        (QUOTED, [(b"x-auth", b'Key="k1"')], "", "k1"),
        (QUOTED, [(b"x-auth", b'key="k1')], "", None),
        (QUERY, [], "a=1&api%2Ekey=k%2B1&api.key=k2", "k+1"),
        (QUERY, [(b"api.key", b"k1")], "api.key=&apixkey=k1", None),
        (QUERY, [], "", None),
    ],
)
def test_key_is_read_where_the_upstream_has_it(
    place: KeyPlace, headers: list[Header], query: str, key: str | None
) -> None:
    assert place.key_in(headers, query) == key


@pytest.mark.parametrize(
    ("query", "rest"),
    [
        ("", ""),
        ("api.key=1", ""),
        ("a=%20b&api.key=1&a=+&api%2ekey=2&=&", "a=%20b&a=+&=&"),
        ("api.key", ""),
        ("xapi.key=1&api.keys=1", "xapi.key=1&api.keys=1"),
    ],
)
def test_key_is_taken_out_of_a_query(query: str, rest: str) -> None:
    assert without_parameter(query, "api.key") == rest


def test_keys_and_cookies_are_taken_out_of_the_headers() -> None:
    rest = [(b"accept", b"*/*")]
    keys = [(b"authorization", b"Bearer a"), (b"x-api-key", b"b"), (b"authorization", b"c"), (b"cookie", b"session=1")]
    assert without_keys([*keys, *rest]) == rest
    assert without_keys([*keys, (b"xi-api-key", b"d"), *rest]) == [(b"xi-api-key", b"d"), *rest]
    assert without_keys([*keys, (b"xi-api-key", b"d"), *rest], b"xi-api-key") == rest


def test_tokens_of_a_relay_are_removed_from_both_headers() -> None:
    keys = [(b"authorization", b"Bearer k"), (b"x-api-key", b"k"), (b"accept", b"rl_1")]
    tokens = [(b"authorization", b"Bearer  rl_1 "), (b"authorization", b"rl_1"), (b"x-api-key", b" rl_1")]
    tokens += [(b"authorization", b"Basic cmxfMTo="), (b"authorization", b"Basic YXBpOnJsXzE=")]
    assert without_tokens([*tokens, *keys], lambda value: value.startswith("rl_")) == keys
    own = (b"xi-api-key", b"rl_1")
    assert without_tokens([own, *keys], lambda value: value.startswith("rl_")) == [own, *keys]
    assert without_tokens([own, *keys], lambda value: value.startswith("rl_"), b"xi-api-key") == keys


# --- what became of a create


@pytest.mark.parametrize("status_code", [200, 201, 202, 299])
def test_success_made_a_job(status_code: int) -> None:
    assert fate_of(status_code, says_nothing_done=False) == "made"
    assert fate_of(status_code, says_nothing_done=True) == "made"


@pytest.mark.parametrize("status_code", [300, 301, 307, 400, 401, 403, 404, 408, 409, 422, 429, 499])
def test_refusal_made_nothing(status_code: int) -> None:
    assert fate_of(status_code, says_nothing_done=False) == "refused"


@pytest.mark.parametrize("status_code", [500, 502, 503, 504, 520, 599])
def test_server_error_proves_nothing_without_a_code(status_code: int) -> None:
    assert fate_of(status_code, says_nothing_done=False) == "unknown"
    assert fate_of(status_code, says_nothing_done=True) == "refused"


def test_header_that_is_not_utf_8_is_named() -> None:
    fine = [(b"x-utf-8", "café".encode()), (b"x-empty", b""), (b"x-tab", b"a\tb")]
    assert unforwardable(fine) is None
    for value in (b"caf\xe9", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"):
        assert unforwardable([*fine, (b"x-other", value)]) == "x-other"


@pytest.mark.parametrize(
    "name",
    [b"Authorization", b"x-api-key", b"Idempotency-Key", b"Content-Type", b"content-encoding", b"content-length"],
)
def test_connection_cannot_remove_essential_headers(name: bytes) -> None:
    kept = (name.lower(), b"x")
    assert headers_to_forward([(b"connection", b"close, " + name), kept, (b"x-hop", b"1")]) == [kept, (b"x-hop", b"1")]


# --- reads that count as polls

PLAIN: tuple[Sequence[Header], ...] = (
    [],
    [(b"authorization", b"Bearer k"), (b"accept", b"*/*"), (b"user-agent", b"curl/8"), (b"accept-encoding", b"br")],
    [(b"x-api-key", b"k"), (b"accept", b"application/json, text/plain, */*"), (b"accept-language", b"*")],
    [(b"accept", b"text/html , Application/JSON;q=0.5"), (b"sec-fetch-mode", b"cors"), (b"cache-control", b"no-cache")],
    [(b"accept", b"application/*"), (b"via", b"1.1 proxy"), (b"traceparent", b"0")],
    [(b"x-stainless-retry-count", b"2"), (b"x-stainless-read-timeout", b"600"), (b"x-stainless-os", b"Linux")],
)
NOT_PLAIN: tuple[Sequence[Header], ...] = (
    *([(name, b"*")] for name in (b"if-none-match", b"if-match", b"if-modified-since", b"if-unmodified-since")),
    *([(name, b"x")] for name in (b"if-range", b"range", b"cookie", b"expect", b"prefer", b"x-version", b"a-im")),
    *([(name, b"x")] for name in (b"x-stainless", b"stainless-os", b"openai-organization")),
    *([(b"accept", value)] for value in (b"", b"text/html", b"application/jsonx", b"application/vnd.v0+json")),
    [(b"authorization", b"Bearer k"), (b"x-api-key", b"k")],
    [(b"authorization", b"Bearer k"), (b"authorization", b"Bearer other")],
    [(b"accept", b"*/*"), (b"accept", b"text/html")],
)


@pytest.mark.parametrize("headers", PLAIN)
def test_plain_read_counts_as_a_poll(headers: Sequence[Header]) -> None:
    assert counts_as_poll(headers)


@pytest.mark.parametrize("headers", NOT_PLAIN)
def test_read_with_a_possibly_different_answer_is_no_poll(headers: Sequence[Header]) -> None:
    assert not counts_as_poll(headers)
    assert not counts_as_poll([(b"user-agent", b"x"), *headers])


@pytest.mark.parametrize(
    ("header", "counts"),
    [((b"x-version", b"1"), True), ((b"x-version", b"2"), False), ((b"x-versions", b"1"), False)],
)
def test_header_that_every_poll_has_too_does_not_keep_a_read_from_being_one(header: Header, counts: bool) -> None:
    assert counts_as_poll([(b"user-agent", b"x"), header], {(b"x-version", b"1")}) is counts


# --- paths

PREFIXES = ("/api/v1/", "/api/v2/")
INSIDE = (
    *("/api/v1/", "/api/v2/credits", "/api/v1/outreach/jobs/0f9c-4e_1~", "/api/v1/a%2Fb", "/api/v1/a%252Fb"),
    *("/api/v1//x//", "/api/v1/x..", "/api/v1/..x", "/api/v1/...", "/api/v1/.x", "/api/v1/a.b/c..d"),
    *("/api/v1/x;y=..", "/api/v1/%2e%2e%2e", "/api/v1/50%", "/api/v1/%zz", "/api/v1/%", "/api/v1/%C3%A9"),
    *("/api/v1/%E7%8E%8B", "/api/v1/%ff", "/api/v1/%25", "/api/v1/%2525", "/api/v1/a+b%20c", "/api/v1/!$&'()*,=~:@"),
)
OUTSIDE = (
    *("/", "/v1/jobs", "/api/v3/x", "/api/v1", "/api%2Fv1/x", "/api/%76%31/x", "//api/v1/x", "/API/v1/x"),
    *("/api/v1/..", "/api/v1/.", "/api/v1/./x", "/api/v1/../../admin", "/api/v1/a/../b", "/api/v1/x/.."),
    *("/api/v1/x/.", "/api/v1/%2e%2e/x", "/api/v1/%2E%2e/x", "/api/v1/.%2e/x", "/api/v1/%2e", "/api/v1/%2e/x"),
    *("/api/v1/..%2fx", "/api/v1/..%2F..%2Fadmin", "/api/v1/x%2f..%2f..", "/api/v1/%252e%252e/x", "/api/v1/..%252fx"),
    *("/api/v1/%25252e%25252e", "/api/v1/..;/x", "/api/v1/..;a=b/x", "/api/v1/..%3b/x", "/api/v1/%2e%2e%3B/x"),
    *("/api/v1/.;/x", "/api/v1/..%3fx", "/api/v1/..%23", "/api/v1/x\\y", "/api/v1/..\\x", "/api/v1/%5c..%5cx"),
    *("/api/v1/x%5Cy", "/api/v1/x%255cy", "/api/v1/%c0%ae%c0%ae/x", "/api/v1/x%c0%afy", "/api/v1/%e0%80%ae/x"),
    *("/api/v1/%f0%80%80%ae/", "/api/v1/%C1%9c", "/api/v1/%u002e%u002E/x", "/api/v1/x%u002fy", "/api/v1/x%U005Cy"),
    *("/api/v1/x%00", "/api/v1/%0a", "/api/v1/x%0d%0ay", "/api/v1/%7f", "/api/v1/%1f", "/api/v1/%c2%85"),
    *("/api/v1/%250a", "/api/v1/%2500", "/api/v1/%25252525", "/api/v1/%2525252e"),
)


@pytest.mark.parametrize("path", INSIDE)
def test_path_below_a_prefix_is_allowed(path: str) -> None:
    assert path_refusal(path.encode(), PREFIXES) is None


@pytest.mark.parametrize("path", OUTSIDE)
def test_path_with_another_reading_is_refused(path: str) -> None:
    assert path_refusal(path.encode(), PREFIXES) is not None


@given(st.text("./\\%25eEfFcC;u0ax", max_size=14))
def test_allowed_path_stays_below_the_prefix_at_any_decoding(rest: str) -> None:
    path = f"/api/v1/{rest}"
    if path_refusal(path.encode(), PREFIXES) is not None:
        return
    for _ in range(6):
        segments = [segment.partition(";")[0] for segment in path.replace("\\", "/").split("/")]
        assert not {".", ".."} & set(segments), (rest, path)
        path = unquote(path)


@pytest.mark.parametrize(
    "external_id", ["7d9f3c52-1f0e", "a/b", "50%", "%", "a.b", "...", "x..", "é 日", "a\\b", "%2e%2e%2e", "%25"]
)
def test_id_is_a_segment(external_id: str) -> None:
    assert not escapes_segment(external_id)


@pytest.mark.parametrize(
    "external_id",
    [
        *(".", "..", "../../admin", "a/../b", "a/..", "..\\x", "a\\..\\b", "..;/x", "%2e%2e", "%252e%252e/x", "..%2fx"),
        *("%c0%ae%c0%ae", "%u002e%u002e", "%25252525252e", "..?x", "../\ud800"),
    ],
)
def test_id_that_could_address_another_path_is_detected(external_id: str) -> None:
    assert escapes_segment(external_id)


@pytest.mark.parametrize(
    ("parts", "value"),
    [
        ([("group", "no room")], 'group;reason="no room"'),
        ([("callback", "8 already"), ("metadata", "x")], 'callback;reason="8 already", metadata;reason="x"'),
        ([("group", 'a "b" \\ c')], 'group;reason="a \\"b\\" \\\\ c"'),
        ([("group", "Zo\u00eb\r\nX: y\x7f")], 'group;reason="Zo?  X: y "'),
        ([("group", "x" * 1_000)], f'group;reason="{"x" * 300}"'),
    ],
)
def test_parts_that_are_not_attached_are_a_list_with_reasons(parts: list[tuple[str, str]], value: str) -> None:
    assert not_attached(parts) == value


@pytest.mark.parametrize(
    ("id", "value"),
    [
        ("1699a819-188d-48b6-b6be-12cc430419ef", "1699a819-188d-48b6-b6be-12cc430419ef"),
        ("job_1.2~3:4", "job_1.2~3:4"),
        ("a/b c%\u00eb", "a%2Fb%20c%25%C3%AB"),
    ],
)
def test_id_that_is_not_recorded_can_be_read_from_its_header(id: str, value: str) -> None:
    assert not_recorded(id) == value
    assert unquote(value) == id
