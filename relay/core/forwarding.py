"""Passing requests on: which headers go along, whose key a request has, what an answer says of a create's fate. Pure.

Headers are pairs of bytes as they came, names lower-cased. Sources: RFC 9110 sections 7.6 (what a proxy passes on) and
12.5.3 (Accept-Encoding), RFC 7240 (Prefer).
"""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Literal
from urllib.parse import unquote_to_bytes

Header = tuple[bytes, bytes]
Fate = Literal["made", "refused", "unknown"]
"""Of a create: something was made, nothing was made, or nobody can tell."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""They only read (RFC 9110 section 9.2.1)."""

METADATA_HEADER = b"relay-metadata"
CALLBACK_HEADER = b"relay-callback"
CALLBACK_TYPES_HEADER = b"relay-callback-types"
CACHE_HEADER = b"relay-cache"

HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    }
)
_NEVER_PASSED_ON = HOP_BY_HOP | {b"host", b"expect", METADATA_HEADER, CALLBACK_HEADER, CALLBACK_TYPES_HEADER}
_NEVER_OF_ONE_CONNECTION = frozenset(
    {
        *(b"authorization", b"x-api-key", b"idempotency-key", b"content-type", b"content-encoding", b"content-length"),
        *(b"", b"close", b"keep-alive"),
    }
)
"""`Connection` cannot remove these: without them the request would be another one, or repeat a create."""
OVERRIDE_HEADERS = frozenset(
    {b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-original-url", b"x-rewrite-url"}
)
"""Some servers take the method or the path from these. The relay judges a request by its first line."""
_OF_A_POLL = frozenset(
    {
        *(b"authorization", b"x-api-key", b"accept", b"accept-encoding", b"accept-language", b"user-agent", b"dnt"),
        *(b"cache-control", b"pragma", b"content-type", b"content-length", b"origin", b"referer", b"priority"),
        *(b"traceparent", b"tracestate", b"x-request-id", b"via", b"forwarded", b"x-real-ip", b"relay-node"),
    }
)
_OF_A_POLL_PREFIXES = (b"x-forwarded-", b"sec-fetch-", b"sec-ch-ua")
_TAKES_JSON = re.compile(rb"(?:^|,)\s*(?:\*/\*|application/(?:\*|json))\s*(?:[;,]|$)", re.IGNORECASE)
_READABLE_CODINGS = frozenset({"gzip", "x-gzip", "deflate", "identity"})
_MAX_NAMED_HEADERS = 100
_NEVER_WITH_BODY = (204, 304)
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNWRITABLE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def headers_to_forward(headers: Iterable[Header]) -> list[Header]:
    """A request's headers as they go on: without what concerns this connection, and without those meant for us."""
    return [header for header in _end_to_end(headers) if header[0] not in _NEVER_PASSED_ON]


def headers_to_return(headers: Iterable[Header], status_code: int) -> list[Header]:
    """An answer's headers as they go back. One that never has a body may tell a length: a server would wait for it.

    What no server writes is taken out: a control character in a value becomes a space, as RFC 9110 section 5.5 has it,
    and a header whose name is none is left out. The answer itself must arrive: it may be that of a create.
    """
    left_out = HOP_BY_HOP | {b"content-length"} if status_code in _NEVER_WITH_BODY else HOP_BY_HOP
    return [
        (name, value if _UNWRITABLE.search(value) is None else _UNWRITABLE.sub(b" ", value).strip(b" \t"))
        for name, value in _end_to_end(headers)
        if name.lower() not in left_out and _NAME.fullmatch(name) is not None
    ]


def _end_to_end(headers: Iterable[Header]) -> Sequence[Header]:
    """The headers without those that `Connection` names: they are of one connection only."""
    headers = headers if isinstance(headers, list | tuple) else list(headers)
    named: set[bytes] = set()
    for name, value in headers:
        if name.lower() == b"connection":
            named.update(word.strip().lower() for word in value.split(b",", _MAX_NAMED_HEADERS))
    named -= _NEVER_OF_ONE_CONNECTION
    return [header for header in headers if header[0].lower() not in named] if named else headers


def readable_only(headers: Sequence[Header]) -> list[Header]:
    """The headers with an `Accept-Encoding` that names only what we can read: an answer that we have to understand."""
    kept: list[Header] = []
    for name, value in headers:
        if name == b"accept-encoding":
            words = [word.strip() for word in value.decode("latin-1").split(",")]
            value = ", ".join(word for word in words if _coding(word) in _READABLE_CODINGS).encode("latin-1")
            value = value or b"identity"
        kept.append((name, value))
    return kept


def without_wait(headers: Iterable[Header]) -> list[Header]:
    """The headers without `Prefer: wait`, of what has been waited for already; other preferences stay."""
    kept: list[Header] = []
    for name, value in headers:
        if name == b"prefer":
            words = [word.strip() for word in value.split(b",")]
            value = b", ".join(word for word in words if word.partition(b"=")[0].strip().lower() != b"wait")
            if not value:
                continue
        kept.append((name, value))
    return kept


def counts_as_poll(headers: Sequence[Header]) -> bool:
    """Whether the answer to a read of a job with these headers is the one that a poll of our own would get.

    A condition, a range, a cookie, a second key or a header that the relay does not know can change the answer.
    """
    names = [name for name, _ in headers]
    if len(set(names)) < len(names) or (b"authorization" in names and b"x-api-key" in names):
        return False
    return all(
        (name in _OF_A_POLL or name.startswith(_OF_A_POLL_PREFIXES))
        and (name != b"accept" or _TAKES_JSON.search(value) is not None)
        for name, value in headers
    )


def _coding(word: str) -> str:
    return word.partition(";")[0].strip().lower()


def api_key_of(headers: Iterable[Header]) -> str | None:
    """The key that a request brings: as the upstream reads it, `Authorization: Bearer` before `x-api-key`."""
    bearer = api_key = None
    for name, value in headers:
        if name == b"authorization" and bearer is None:
            scheme, _, token = value.decode("latin-1").partition(" ")
            bearer = token.strip() if scheme.lower() == "bearer" else None
        elif name == b"x-api-key" and api_key is None:
            api_key = value.decode("latin-1").strip()
    return bearer or api_key or None


def with_key(headers: Iterable[Header], auth_header: str, auth_value: str) -> list[Header]:
    """The headers with another key in the place of the caller's own, and without cookies, which can be a key too."""
    kept = [header for header in headers if header[0] not in (b"authorization", b"x-api-key", b"cookie")]
    return [*kept, (auth_header.lower().encode("ascii"), auth_value.encode("latin-1"))]


def fate_of(status_code: int, *, says_nothing_done: bool) -> Fate:
    """What an answer to a create proves. `says_nothing_done`: its error code says that the call was not carried out.

    A server error without such a code proves nothing: what stands before the upstream may have given up on a request
    that was carried out all the same.
    """
    if 200 <= status_code < 300:
        return "made"
    if status_code >= 500 and not says_nothing_done:
        return "unknown"
    return "refused"


_MAX_DECODINGS = 4
_WORTH_A_POLL = re.compile(rb"[\x00-\x1f\x7f-\xff\\%]|/\.")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]")
_DISGUISE = re.compile(rb"[\xc0\xc1]|\xe0[\x80-\x9f]|\xf0[\x80-\x8f]|%u00(?:2e|2f|5c)", re.IGNORECASE)
"""UTF-8 that is longer than it need be, and `%u002e`: the old ways to hide a dot or a slash."""
_DOT_SEGMENT = re.compile(rb"(?:^|[/\\])\.{1,2}(?:[/\\;?#]|$)")


def path_refusal(path: bytes, prefixes: Collection[str]) -> str | None:
    """Why a path, as it is written in a request, may not be sent with an account's key; None where it may.

    It has to begin with one of `prefixes`, and to stay below it for every server: however often that decodes it, and
    whatever it takes for a dot segment or a separator.
    """
    if not path.startswith(tuple(prefix.encode() for prefix in prefixes)):
        return f"the path does not begin with {' or '.join(sorted(prefixes))}"
    if _WORTH_A_POLL.search(path) is None:
        return None
    for _ in range(_MAX_DECODINGS):
        if _CONTROL.search(path):
            return "the path has a control character"
        if b"\\" in path or _DISGUISE.search(path):
            return "the path has a backslash, or a dot or slash in a disguise"
        if _DOT_SEGMENT.search(path):
            return "the path has a dot segment (. or ..)"
        decoded = unquote_to_bytes(path)
        if decoded == path:
            return None
        path = decoded
    return f"the path is percent-encoded more than {_MAX_DECODINGS - 1} times"


def escapes_segment(external_id: str) -> bool:
    """Whether a job's id, as a segment of a path, could lead a server that decodes it to another path."""
    text = external_id.encode(errors="replace")
    while not (_DOT_SEGMENT.search(text) or _DISGUISE.search(text)):
        decoded = unquote_to_bytes(text)
        if decoded == text:
            return False
        text = decoded
    return True


def header_text(header: Header) -> tuple[str, str]:
    """A header as text that is sent as the same bytes. Raises ValueError where no such text exists."""
    try:
        return header[0].decode("ascii"), header[1].decode("utf-8")
    except UnicodeDecodeError:
        name = header[0].decode("ascii", "replace")[:100]
        raise ValueError(f"the header {name} is neither ASCII nor UTF-8, and can not be passed on unchanged") from None
