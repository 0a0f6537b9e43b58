"""Forwarding rules of the proxy: headers, keys, paths, and the fate of a create that an answer proves. Pure.

Headers are raw pairs of bytes, names lower-cased. Sources: RFC 9110 sections 7.6 (forwarding) and 12.5.3
(Accept-Encoding), RFC 7240 (Prefer).
"""

import re
from base64 import b64decode
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote_plus, unquote_to_bytes

Header = tuple[bytes, bytes]
_KEY_HEADERS = frozenset({b"authorization", b"x-api-key"})
Fate = Literal["made", "refused", "unknown"]
"""The result of a create: it made a job, made nothing, or that is unknown."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Read-only methods (RFC 9110 section 9.2.1)."""

METADATA_HEADER = b"relay-metadata"
CALLBACK_HEADER = b"relay-callback"
CALLBACK_TYPES_HEADER = b"relay-callback-types"
GROUP_HEADER = b"relay-group"
GROUP_SIZE_HEADER = b"relay-group-size"
CACHE_HEADER = b"relay-cache"
NOT_ATTACHED_HEADER = "relay-not-attached"
"""In the answer to a create whose job is tracked without something that the create attached."""
NOT_RECORDED_HEADER = "relay-job-not-recorded"
"""In the answer to a create whose job is not tracked yet: its id."""
MAX_REASON_CHARACTERS = 300

HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    }
)
FOR_THE_RELAY = (METADATA_HEADER, CALLBACK_HEADER, CALLBACK_TYPES_HEADER, GROUP_HEADER, GROUP_SIZE_HEADER)
"""Headers of a create that say how its job is tracked. The upstream does not get them."""
_NEVER_FORWARDED = HOP_BY_HOP | {b"host", b"expect", *FOR_THE_RELAY}
_ORIGIN_HEADERS = re.compile(
    rb"forwarded|x[-_]real[-_]ip|x[-_](?:original[-_])?forwarded(?:[-_].*)?|(?:.*[-_])?client[-_]ip|cf[-_].*", re.DOTALL
)
"""Headers that name the origin of a request: for the upstream that is the relay. Some servers read `_` as `-`."""
NODE_HEADER = b"relay-node"
_NODE_ID = re.compile(rb"[0-9a-f]{16}")
_ALWAYS_END_TO_END = frozenset(
    {
        *(b"authorization", b"x-api-key", b"idempotency-key", b"content-type", b"content-encoding", b"content-length"),
        *(b"", b"close", b"keep-alive"),
    }
)
"""`Connection` cannot remove these: the request would change its meaning, or repeat a create."""
OVERRIDE_HEADERS = frozenset(
    {b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-original-url", b"x-rewrite-url"}
)
"""Some servers take the method or path from these. The relay judges a request by its request line."""
_POLL_HEADERS = frozenset(
    {
        *(b"authorization", b"x-api-key", b"accept", b"accept-encoding", b"accept-language", b"user-agent", b"dnt"),
        *(b"cache-control", b"pragma", b"content-type", b"content-length", b"origin", b"referer", b"priority"),
        *(b"traceparent", b"tracestate", b"x-request-id", b"via"),
    }
)
_POLL_HEADER_PREFIXES = (b"sec-fetch-", b"sec-ch-ua", b"x-stainless-")
"""`x-stainless-*` describes the program: language, system, number of the attempt. Many official clients send it."""
_TAKES_JSON = re.compile(rb"(?:^|,)\s*(?:\*/\*|application/(?:\*|json))\s*(?:[;,]|$)", re.IGNORECASE)
_READABLE_CODINGS = frozenset({"gzip", "x-gzip", "deflate", "identity"})
_MAX_NAMED_HEADERS = 100
_NEVER_WITH_BODY = (204, 304)
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNWRITABLE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def headers_to_forward(headers: Iterable[Header]) -> list[Header]:
    """The request headers to forward: without hop-by-hop headers, those meant for the relay, and those that say where
    the request came from. The ids of other relays' nodes stay: a loop through several relays is found by them."""
    return [
        header
        for header in _end_to_end(headers)
        if header[0] not in _NEVER_FORWARDED
        and _ORIGIN_HEADERS.fullmatch(header[0]) is None
        and (header[0] != NODE_HEADER or _NODE_ID.fullmatch(header[1]) is not None)
    ]


def headers_to_return(headers: Iterable[Header], status_code: int) -> list[Header]:
    """The answer headers to return. A bodiless answer loses Content-Length, or a server would wait for the body.

    Headers that no server may write are repaired, since the answer may be that of a create and must arrive: control
    characters become spaces (RFC 9110 section 5.5), and headers with an invalid name are dropped.
    """
    left_out = HOP_BY_HOP | {b"content-length"} if status_code in _NEVER_WITH_BODY else HOP_BY_HOP
    return [
        (name, value if _UNWRITABLE.search(value) is None else _UNWRITABLE.sub(b" ", value).strip(b" \t"))
        for name, value in _end_to_end(headers)
        if name.lower() not in left_out and _NAME.fullmatch(name) is not None
    ]


def _end_to_end(headers: Iterable[Header]) -> Sequence[Header]:
    """The headers without those named in `Connection`."""
    headers = headers if isinstance(headers, list | tuple) else list(headers)
    named: set[bytes] = set()
    for name, value in headers:
        if name.lower() == b"connection":
            named.update(word.strip().lower() for word in value.split(b",", _MAX_NAMED_HEADERS))
    named -= _ALWAYS_END_TO_END
    return [header for header in headers if header[0].lower() not in named] if named else headers


def readable_only(headers: Sequence[Header]) -> list[Header]:
    """The headers with `Accept-Encoding` reduced to codings the relay can decode."""
    kept: list[Header] = []
    for name, value in headers:
        if name == b"accept-encoding":
            words = [
                (word.strip(), word.partition(";")[0].strip().lower()) for word in value.decode("latin-1").split(",")
            ]
            value = ", ".join(word for word, coding in words if coding in _READABLE_CODINGS).encode("latin-1")
            value = value or b"identity"
        kept.append((name, value))
    return kept


def without_wait(headers: Iterable[Header]) -> list[Header]:
    """The headers without `Prefer: wait`; other preferences stay."""
    kept: list[Header] = []
    for name, value in headers:
        if name == b"prefer":
            words = [word.strip() for word in value.split(b",")]
            value = b", ".join(word for word in words if word.partition(b"=")[0].strip().lower() != b"wait")
            if not value:
                continue
        kept.append((name, value))
    return kept


def counts_as_poll(headers: Sequence[Header], sent: Collection[Header] = ()) -> bool:
    """True if a job read with these headers gets the same answer as the relay's own poll, which has those of `sent`.

    A condition, a range, a cookie, a second key or an unknown header can change the answer.
    """
    names = [name for name, _ in headers]
    if len(set(names)) < len(names) or (b"authorization" in names and b"x-api-key" in names):
        return False
    return all(
        (
            (name in _POLL_HEADERS or name.startswith(_POLL_HEADER_PREFIXES))
            and (name != b"accept" or _TAKES_JSON.search(value) is not None)
        )
        or (name, value) in sent
        for name, value in headers
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPlace:
    """Where requests to an upstream have the API key.

    header         whose value has the key between two texts
    before, after  these texts
    is_basic       the value is that of HTTP Basic authentication, and has the key in the text that it encodes
    parameter      of the query, in place of a header
    """

    header: bytes = b""
    before: str = ""
    after: str = ""
    is_basic: bool = False
    parameter: str | None = None

    def key_in(self, headers: Iterable[Header], query: str) -> str | None:
        """The key of a request; None if it is not there."""
        if self.parameter is not None:
            values = (part.partition("=")[2] for part in query.split("&") if _names(part, self.parameter))
            return next(filter(None, map(unquote_plus, values)), None)
        for name, value in headers:
            if name == self.header:
                text = value.decode("latin-1").strip()
                return self._between(_basic_text(text) if self.is_basic else text)
        return None

    def _between(self, text: str | None) -> str | None:
        if text is None or not text.endswith(self.after):
            return None
        before, text = self.before.rstrip(), text[: len(text) - len(self.after)]
        start, rest = text[: len(before)], text[len(before) :]
        if start.lower() != before.lower() or (before != self.before and rest == rest.lstrip()):
            return None
        return rest.strip() or None


def _names(part: str, parameter: str) -> bool:
    """True if a part of a query is this parameter."""
    return unquote_plus(part.partition("=")[0]) == parameter


def without_parameter(query: str, parameter: str) -> str:
    """The query without a parameter; the rest as it is."""
    return "&".join(part for part in query.split("&") if not _names(part, parameter))


def _basic_text(value: str) -> str | None:
    """The text of HTTP Basic authentication; None if it is another scheme, or not encoded as it should be."""
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return b64decode(encoded.strip(), validate=True).decode()
    except ValueError:
        return None


def api_key_of(headers: Iterable[Header]) -> str | None:
    """The API key of a request, or a token in place of it. `Authorization: Bearer` or `token` precedes `x-api-key`."""
    bearer = api_key = None
    for name, value in headers:
        if name == b"authorization" and bearer is None:
            scheme, _, token = value.decode("latin-1").partition(" ")
            bearer = token.strip() if scheme.lower() in ("bearer", "token") else None
        elif name == b"x-api-key" and api_key is None:
            api_key = value.decode("latin-1").strip()
    return bearer or api_key or None


def not_attached(parts: Iterable[tuple[str, str]]) -> str:
    """The header's value: a list of names, each with the reason as a parameter (RFC 9651)."""
    return ", ".join(f'{part};reason="{_quotable(reason)}"' for part, reason in parts)


def _quotable(text: str) -> str:
    ascii = text[:MAX_REASON_CHARACTERS].encode("ascii", "replace").decode()
    return re.sub(r'["\\]', r"\\\g<0>", re.sub(r"[^ -~]", " ", ascii))


def not_recorded(external_id: str) -> str:
    """The header's value: the id, with anything but plain characters percent-encoded."""
    return quote(external_id, safe="-._~:")


def without_tokens(headers: list[Header], is_token: Callable[[str], bool], key_header: bytes = b"") -> list[Header]:
    """The headers without keys that are tokens of a relay: no upstream may learn one. `key_header`: one more that may
    have a key."""
    names = {*_KEY_HEADERS, key_header}
    return [header for header in headers if header[0] not in names or not any(map(is_token, _keys_in(header[1])))]


def _keys_in(value: bytes) -> list[str]:
    """What may be a key in the value of a header."""
    text = value.decode("latin-1").strip()
    basic = _basic_text(text)
    return [text.rpartition(" ")[2], *(() if basic is None else basic.split(":"))]


def without_keys(headers: Iterable[Header], key_header: bytes = b"") -> list[Header]:
    """The headers without keys, and without cookies, which can also authenticate. `key_header` as for
    `without_tokens`."""
    left_out = {*_KEY_HEADERS, b"cookie", key_header}
    return [header for header in headers if header[0] not in left_out]


def fate_of(status_code: int, *, says_nothing_done: bool) -> Fate:
    """The fate that an answer to a create proves. `says_nothing_done`: its error code says that nothing was carried
    out.

    A server error without such a code proves nothing: a gateway may have given up on a request that was carried out.
    """
    if 200 <= status_code < 300:
        return "made"
    if status_code >= 500 and not says_nothing_done:
        return "unknown"
    return "refused"


_MAX_DECODINGS = 4
_SUSPECT = re.compile(rb"[\x00-\x1f\x7f-\xff\\%]|/\.")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]")
_DISGUISE = re.compile(rb"[\xc0\xc1]|\xe0[\x80-\x9f]|\xf0[\x80-\x8f]|%u00(?:2e|2f|5c)", re.IGNORECASE)
"""Overlong UTF-8 and `%u002e`: encodings that hide a dot or a slash."""
_DOT_SEGMENT = re.compile(rb"(?:^|[/\\])\.{1,2}(?:[/\\;?#]|$)")


def path_refusal(path: bytes, prefixes: Collection[str]) -> str | None:
    """The reason why a raw request path may not be sent with an account's key; None if it may.

    The path has to begin with one of `prefixes` and stay below it on every server, however often that server decodes it
    and whatever it treats as a dot segment or separator.
    """
    if not path.startswith(tuple(prefix.encode() for prefix in prefixes)):
        return f"the path does not begin with {' or '.join(sorted(prefixes))}"
    if _SUSPECT.search(path) is None:
        return None
    for _ in range(_MAX_DECODINGS):
        if _CONTROL.search(path):
            return "the path contains a control character"
        if b"\\" in path or _DISGUISE.search(path):
            return "the path has a backslash, or a disguised dot or slash"
        if _DOT_SEGMENT.search(path):
            return "the path has a dot segment (. or ..)"
        decoded = unquote_to_bytes(path)
        if decoded == path:
            return None
        path = decoded
    return f"the path is percent-encoded more than {_MAX_DECODINGS - 1} times"


def escapes_segment(external_id: str) -> bool:
    """True if a job id, used as a path segment, could address another path on a server that decodes it."""
    if "." not in external_id and "%" not in external_id:
        return False
    text = external_id.encode(errors="replace")
    while not (_DOT_SEGMENT.search(text) or _DISGUISE.search(text)):
        decoded = unquote_to_bytes(text)
        if decoded == text:
            return False
        text = decoded
    return True


def unforwardable(headers: Iterable[Header]) -> str | None:
    """The name of a header whose value is not UTF-8; None if there is none. The client that sends them writes text, so
    such a value would not arrive as it is."""
    for name, value in headers:
        try:
            value.decode()
        except UnicodeDecodeError:
            return name.decode("ascii", "replace")
    return None
