"""Lenient parser for the head of an HTTP/1.1 response that a strict parser has rejected.

The status line alone decides the outcome. A defect after it (an unreadable header, two lengths) does not change that,
but it can leave the end of the body unknown: the connection must then not be reused.
"""

import re
from dataclasses import dataclass

from relay.core.jsontext import decoded

MAX_HEADERS = 128

_STATUS_LINE = re.compile(rb"[\r\n]*HTTP/[0-9](?:\.[0-9])?[ \t]+([1-9][0-9]{2})(?:[ \t][^\n]*)?\r?\n")
_END = re.compile(rb"\n\r?\n")
LONGEST_END = 3
"""Length in bytes of the longest end of a head."""
_LENGTH = re.compile(rb"[0-9]{1,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """A parsed head. 1xx responses before it are skipped.

    headers     headers with a name, at most MAX_HEADERS
    size_bytes  bytes of the head, including skipped responses
    complete    the empty line that ends the head was received
    framing     the header line that frames the body; empty if the body ends with the connection; None if the head
                contradicts itself
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    size_bytes: int
    complete: bool
    framing: bytes | None


def ends_in(raw: bytes) -> bool:
    """True if these bytes contain a possible end of a head."""
    return _END.search(raw) is not None


def read_response_head(raw: bytes) -> ResponseHead | None:
    """Parses the head at the start of `raw`. None without a complete, valid status line."""
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
        if line[:1] in (b" ", b"\t") and found:  # line folding (RFC 9112 section 5.2)
            found[-1][1].append(line.strip())
        elif colon and name.strip():
            found.append((name.strip(), [value.strip()]))
    return [(name, b" ".join(filter(None, parts))) for name, parts in found]


def _framing(pairs: list[tuple[bytes, bytes]]) -> bytes | None:
    """RFC 9112 section 6.3. Repeated lengths are accepted if they are equal."""
    codings = {value.lower() for name, value in pairs if name.lower() == b"transfer-encoding"}
    lengths = {part.strip() for name, value in pairs if name.lower() == b"content-length" for part in value.split(b",")}
    if not codings and not lengths:
        return b""
    if codings == {b"chunked"} and not lengths:
        return b"Transfer-Encoding: chunked\r\n"
    if not codings and len(lengths) == 1 and _LENGTH.fullmatch(length := lengths.pop()):
        return b"Content-Length: %b\r\n" % length
    return None
