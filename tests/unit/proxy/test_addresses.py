"""Addresses of the upstream in its answers, given as the relay's own."""

import asyncio
import gzip

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.access.forwarding import Header
from relay.proxy.addresses import give_own, own_url
from relay.proxy.transport import MAX_ANSWER_BYTES
from relay.proxy.types import ProxyResponse

UPSTREAM, OWN = "https://api.example.com", "http://127.0.0.1:8080/sources/mine"
PLACES = (("urls", "get"), ("urls", "cancel"), ("list", "1"))


async def given_as_own(
    body: bytes, headers: list[Header] | None = None, places: tuple[tuple[str, ...], ...] = PLACES
) -> ProxyResponse:
    answer = ProxyResponse(status=200, headers=headers or [], body=body)
    await give_own(answer, UPSTREAM, OWN, places)
    return answer


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b'{"urls":{"get":"https://api.example.com/v1/x"}}', b'{"urls":{"get":"OWN/v1/x"}}'),
        (b'{"urls":{"get":"https://api.example.com"}}', b'{"urls":{"get":"OWN"}}'),
        (b'{"urls":{"get":"https://api.example.com?a=1"}}', b'{"urls":{"get":"OWN?a=1"}}'),
        (b'{"urls":{"get":"https:\\/\\/api.example.com\\/v1"}}', b'{"urls":{"get":"OWN\\/v1"}}'),
        (
            b' { "urls" : { "cancel" : "https://api.example.com/x" , "get":1.50 } }\n',
            b' { "urls" : { "cancel" : "OWN/x" , "get":1.50 } }\n',
        ),
        (
            b'{"list":["https://api.example.com/0","https://api.example.com/1"]}',
            b'{"list":["https://api.example.com/0","OWN/1"]}',
        ),
        (  # of two values of one name the last counts, as for every reader of JSON
            b'{"urls":{"get":"https://api.example.com/1","get":"https://api.example.com/2"}}',
            b'{"urls":{"get":"https://api.example.com/1","get":"OWN/2"}}',
        ),
        (b'{"urls":{"get":"https://api.example.com/\xff"}}', b'{"urls":{"get":"OWN/\xff"}}'),
    ],
)
async def test_listed_address_is_given_as_the_relays_own(body: bytes, changed: bytes) -> None:
    assert (await given_as_own(body)).body == changed.replace(b"OWN", OWN.encode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"https://api.example.com/x"',
        b'{"urls":{"get":"https://api.example.com.evil/x"}}',
        b'{"urls":{"get":"https://api.example.comx"}}',
        b'{"urls":{"get":"http://api.example.com/x"}}',
        b'{"urls":{"get":" https://api.example.com/x"}}',
        b'{"urls":{"get":["https://api.example.com/x"]}}',
        b'{"urls":{"https://api.example.com/x":1}}',
        b'{"other":"https://api.example.com/x","text":"\\"https://api.example.com/x\\""}',
        b'{"urls":{"get":"https://api.example.com/x"}',  # no JSON
        b'{"urls":{"get":"https://api.example.com/x"}}}',
        b'urls=get&"https://api.example.com/x"',
    ],
)
async def test_every_other_byte_stays(body: bytes) -> None:
    answer = await given_as_own(body, [(b"content-length", b"7"), (b"content-md5", b"x")])
    assert (answer.body, answer.headers) == (body, [(b"content-length", b"7"), (b"content-md5", b"x")])


async def test_headers_of_a_changed_body_are_those_of_the_new_one() -> None:
    body = b'{"urls":{"get":"https://api.example.com/v1/x"}}'
    coded: list[Header] = [(b"Content-Encoding", b"gzip"), (b"etag", b'"1"'), (b"Content-Length", b"9")]
    answer = await given_as_own(gzip.compress(body), [*coded, (b"digest", b"x")])
    assert answer.body == body.replace(UPSTREAM.encode(), OWN.encode())
    assert answer.headers == [(b"etag", b'"1"'), (b"content-length", b"%d" % len(answer.body or b""))]


async def test_answer_over_the_parse_limit_or_in_another_coding_stays() -> None:
    large = b'{"urls":{"get":"https://api.example.com/x"},"x":"' + b"x" * MAX_ANSWER_BYTES + b'"}'
    assert (await given_as_own(large)).body == large
    coded = b'{"urls":{"get":"https://api.example.com/x"}}'
    assert (await given_as_own(coded, [(b"content-encoding", b"br")])).body == coded


@pytest.mark.parametrize(
    ("name", "value", "changed"),
    [
        (b"location", b"https://api.example.com/v1/x?a=1", b"OWN/v1/x?a=1"),
        (b"Operation-Location", b"https://api.example.com/x", b"OWN/x"),
        (b"azure-asyncoperation", b"https://api.example.com", b"OWN"),
        (b"location", b"/v1/x", b"OWN/v1/x"),
        (b"location", b"//api.example.com/x", None),
        (b"location", b"x", None),
        (b"location", b"https://api.example.com.evil/x", None),
        (b"location", b"https://elsewhere.example/x", None),
        (b"link", b"https://api.example.com/x", None),
    ],
)
async def test_address_in_a_header(name: bytes, value: bytes, changed: bytes | None) -> None:
    expected = value if changed is None else changed.replace(b"OWN", OWN.encode())
    assert (await given_as_own(b"{}", [(name, value)], ())).headers == [(name, expected)]


@pytest.mark.parametrize(
    ("hosts", "public_url", "url"),
    [
        (["127.0.0.1:8080"], None, "http://127.0.0.1:8080"),
        (["relay.example"], "https://relay.example/", "https://relay.example"),
        (["[::1]:8080"], None, "http://[::1]:8080"),
        (['a"b'], None, None),
        (["a/b"], None, None),
        (["a@b"], None, None),
        (["a\r\nb"], None, None),
        ([""], None, None),
        ([], None, None),
        (["a", "b"], None, None),
    ],
)
def test_address_of_the_relay_is_what_the_caller_used(hosts: list[str], public_url: str | None, url: str) -> None:
    assert own_url("http", [(b"host", host.encode()) for host in hosts], public_url) == url


@given(st.recursive(st.text() | st.just(f"{UPSTREAM}/x"), lambda inner: st.dictionaries(st.text(), inner)))
def test_only_listed_places_differ(document: object) -> None:
    body = orjson.dumps({"urls": {"get": f"{UPSTREAM}/a"}, "other": document})
    changed = asyncio.run(given_as_own(body)).body
    assert changed == body.replace(f'"get":"{UPSTREAM}'.encode(), f'"get":"{OWN}'.encode(), 1)
