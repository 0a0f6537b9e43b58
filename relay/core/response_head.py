"""The head of an HTTP/1.1 answer, read leniently: for one that a strict parser has refused.

The status line says what the sink decided. What is odd behind it (a header that no one can read, a length given twice)
does not undo that, but it can leave open where the body ends: then the connection must not be used again.
"""

import re
from dataclasses import dataclass

from relay.core.text import decoded

MAX_HEADERS = 128

_STATUS_LINE = re.compile(rb"[\r\n]*HTTP/[0-9](?:\.[0-9])?[ \t]+([1-9][0-9]{2})(?:[ \t][^\n]*)?\r?\n")
_END = re.compile(rb"\n\r?\n")
LONGEST_END = 3
"""Bytes of the longest mark that ends a head."""
_LENGTH = re.compile(rb"[0-9]{1,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """What a head says. 1xx answers before it are passed over.

    headers       those with a name, at most MAX_HEADERS
    size_bytes    how much of what was read is the head, and what came before it
    complete      the empty line that ends the head is there
    framing       the header line that says where the body ends, empty where it ends with the connection; None where
                  the head contradicts itself
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    size_bytes: int
    complete: bool
    framing: bytes | None


def ends_in(raw: bytes) -> bool:
    """Whether a head may end in these bytes of it."""
    return _END.search(raw) is not None


def read_response_head(raw: bytes) -> ResponseHead | None:
    """The head that `raw` begins with; None where it has no whole, valid status line (yet)."""
    start = 0
    while (line := _STATUS_LINE.match(raw, start)) is not None:
        status = int(line[1])
        end = _END.search(raw, line.end() - 1)
        if status == 101 or status >= 200:
            pairs = _pairs(raw[line.end() : (raw.rfind(b"\n") if end is None else end.start()) + 1])
            return ResponseHead(
                status=status,
                headers=tuple((decoded(name), decoded(value)) for name, value in pairs[:MAX_HEADERS]),
                size_bytes=len(raw) if end is None else end.end(),
                complete=end is not None,
                framing=_framing(pairs),
            )
        if end is None:
            return None
        start = end.end()
    return None


def _pairs(lines: bytes) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, list[bytes]]] = []
    for line in lines.split(b"\n"):
        name, colon, value = line.partition(b":")
        if line[:1] in (b" ", b"\t") and found:  # the line before goes on (RFC 9112 section 5.2)
            found[-1][1].append(line.strip())
        elif colon and name.strip():
            found.append((name.strip(), [value.strip()]))
    return [(name, b" ".join(filter(None, parts))) for name, parts in found]


def _framing(pairs: list[tuple[bytes, bytes]]) -> bytes | None:
    """RFC 9112 section 6.3; a length that is given several times counts where it is always the same."""
    codings = {value.lower() for name, value in pairs if name.lower() == b"transfer-encoding"}
    lengths = {part.strip() for name, value in pairs if name.lower() == b"content-length" for part in value.split(b",")}
    if not codings and not lengths:
        return b""
    if codings == {b"chunked"} and not lengths:
        return b"Transfer-Encoding: chunked\r\n"
    if not codings and len(lengths) == 1 and _LENGTH.fullmatch(length := lengths.pop()):
        return b"Content-Length: %b\r\n" % length
    return None
