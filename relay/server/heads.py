"""What is wrong with a request's head, beyond what the parser refuses. No I/O.

Two servers in a row that read one head differently can be made to see different requests, or a different host. So what
RFC 9112 forbids is refused here, also where the parser could make sense of it.
"""

import re
from collections.abc import Sequence

Fault = tuple[str, str]
"""The status line of the answer, and why."""

VERSIONS = ("1.1", "1.0")

# uri-host [":" port] of RFC 3986; a zone in an IPv6 literal (RFC 6874) passes, an empty host does too (RFC 9112, 3.2)
_AUTHORITY = re.compile(
    rb"(?:\[[0-9A-Za-z:.%~_-]+\]|(?:[0-9A-Za-z._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?"
).fullmatch


def fault_of(version: str, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Fault | None:
    """Why a head must be refused; None if it need not be. Names of headers are in lower case."""
    if version not in VERSIONS:
        return "505 HTTP Version Not Supported", "send HTTP/1.1 or HTTP/1.0"
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 and (hosts or version == "1.1"):
        return _bad("send exactly one Host header")
    if hosts and _AUTHORITY(hosts[0]) is None:
        return _bad("the Host header is not a host with an optional port")
    for name, value in headers:
        if name == b"transfer-encoding":
            if version == "1.0":
                return _bad("HTTP/1.0 has no Transfer-Encoding")
            if value.lower() != b"chunked":
                return "501 Not Implemented", "the only Transfer-Encoding is chunked"
    if is_absolute(target) and _AUTHORITY(authority_of(target)) is None:
        return _bad("the host in the request target is invalid")
    return None


def is_absolute(target: bytes) -> bool:
    """Whether a request target is an absolute URL."""
    return b"://" in target and target[:1] != b"/"


def authority_of(target: bytes) -> bytes:
    """The host, with its port, of an absolute URL."""
    return target.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]


def _bad(why: str) -> Fault:
    return "400 Bad Request", why
