"""Heads that a strict parser refuses: the status counts; the body's end is known only where it is certain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.deliveries.response_head import ResponseHead, read_response_head

OK = b"HTTP/1.1 200 OK\r\n"


def read(raw: bytes) -> ResponseHead:
    head = read_response_head(raw)
    assert head is not None
    return head


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 200),
        (b"HTTP/1.0 204\r\n\r\n", 204),
        (b"HTTP/1.1 200 \r\n", 200),
        (b"HTTP/1.1 200 \xff\0\n", 200),
        (b"\r\nHTTP/2 410 Gone\n\n", 410),
        (b"HTTP/1.1 999 Odd\r\n", 999),
        (b"HTTP/1.1 101 Switching\r\n", 101),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK, 200),
        (b"HTTP/1.1 100 Continue\r\nX: y", None),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2", None),
        (b"HTTP/1.1 200 OK", None),
        (b"HTTP/1.1 20 OK\r\n", None),
        (b"HTTP/1.1 2000 OK\r\n", None),
        (b"HTTP/1.1 020 OK\r\n", None),
        (b"HTTP/1.1 200OK\r\n", None),
        (b"http/1.1 200 OK\r\n", None),
        (b"SSH-2.0\r\n\r\n", None),
        (b"", None),
    ],
)
def test_the_status_is_that_of_the_first_whole_status_line(raw: bytes, status: int | None) -> None:
    head = read_response_head(raw)
    assert (None if head is None else head.status) == status


@pytest.mark.parametrize(
    ("lines", "headers"),
    [
        (b"", ()),
        (b"A: b\r\nC:d\r\n", (("A", "b"), ("C", "d"))),
        (b"A: b\n c\n\td\nE: f\n", (("A", "b c d"), ("E", "f"))),
        (b" A: b\r\n", (("A", "b"),)),
        (b"A : b \r\nnonsense\r\n: no name\r\n", (("A", "b"),)),
        ("Server: Café\r\n".encode("latin-1"), (("Server", "Café"),)),
        (b"A: \0\r\n", (("A", "\N{REPLACEMENT CHARACTER}"),)),
    ],
)
def test_readable_headers_are_kept(lines: bytes, headers: tuple[tuple[str, str], ...]) -> None:
    assert read(OK + lines + b"\r\n").headers == headers


def test_a_line_that_has_not_ended_is_no_header() -> None:
    head = read(OK + b"A: b\r\nContent-Le")
    assert (head.headers, head.complete, head.size_bytes) == ((("A", "b"),), False, len(OK) + 16)


@pytest.mark.parametrize(
    ("lines", "framing"),
    [
        (b"", b""),
        (b"Content-Length: 5\r\n", b"Content-Length: 5\r\n"),
        (b"content-length: 5\r\nCONTENT-LENGTH:5, 5\r\n", b"Content-Length: 5\r\n"),
        (b"Transfer-Encoding: Chunked\r\n", b"Transfer-Encoding: chunked\r\n"),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n", None),
        (b"Content-Length: -5\r\n", None),
        (b"Content-Length: \r\n", None),
        (b"Content-Length: " + b"9" * 30 + b"\r\n", None),
        (b"Transfer-Encoding: gzip\r\n", None),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", None),
    ],
)
def test_framing_is_reported_only_if_unambiguous(lines: bytes, framing: bytes | None) -> None:
    assert read(OK + lines + b"\r\n").framing == framing


@given(st.binary(max_size=200), st.sampled_from([b"", OK, OK + b"\r\n", b"HTTP/1.1 100 C\r\n\r\n"]))
def test_any_bytes_have_a_status_or_none(raw: bytes, before: bytes) -> None:
    head = read_response_head(before + raw)
    if head is not None:
        assert 101 <= head.status <= 999
        assert head.size_bytes <= len(before + raw)
