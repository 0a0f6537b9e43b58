"""Takes secrets and recipients out of what is logged, stored or shown.

`redact` is the structlog processor that every log line passes last. It also hides path and query of every URL, which
any receiver may use as a credential, and escapes what could control a terminal. `redact_text`, `redacted_url`,
`secrets_of` and `without` serve attempt rows, lists, messages, errors and CLI tables. Redacting twice changes nothing;
every function is bounded in time and output.
"""

import functools
import html
import re
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any
from urllib.parse import SplitResult, unquote, unquote_plus, urlsplit

from structlog.typing import EventDict, WrappedLogger

REDACTED = "[redacted]"

MAX_DEPTH = 6
MAX_TEXT_CHARS = 4096
MAX_ITEMS = 50
MAX_PASSES = 5
MIN_SECRET_CHARACTERS = 8
"""Shorter credentials are not searched for in answers: they occur in ordinary text by chance."""
LONG_SEGMENT_CHARACTERS = 16
"""Part of a sink's path that may be a credential although the path is shown: longer than most words."""

_ESCAPE = re.compile(
    r"(?=[\\%&])(?:\\+[ux](?P<code>(?<=u)[0-9a-f]{4}|(?<=x)[0-9a-f]{2})|\\+"
    r"|(?P<octets>(?:%[0-9a-f]{2})+)|(?P<entity>&(?:#x?[0-9a-f]{1,7}|[a-z][a-z0-9]{1,31});))",
    re.IGNORECASE,
)
_ESCAPE_MARK = re.compile(r"[\\%&]")
_ESCAPE_CHARACTERS = 12
"""The longest part of an escape that can stand at the end of a truncated text."""
_FIRST, _NEXT = "\udffe", "\udfff"
_HIDDEN = re.compile(f"{_FIRST}{_NEXT}*")
_TRUNCATED = "…[truncated]"
_MARGIN_CHARS = 512  # read beyond the cut, so that a secret that straddles it is recognised

HOOK_HOSTS = (
    *("hooks.slack.com", "hooks.slack-gov.com", "discord.com", "discordapp.com", "chat.googleapis.com"),
    *("hooks.zapier.com", "make.com", "celonis.com", "integromat.com", "n8n.cloud", "pipedream.net", "ifttt.com"),
    *("webhook.office.com", "logic.azure.com", "logic.azure.us", "logic.azure.cn", "powerplatform.com"),
    *(
        "powerplatform.microsoft.us",
        "appsplatform.us",
        "powerplatform.partner.microsoftonline.cn",
        "api.telegram.org",
        "ntfy.sh",
    ),
)
"""Hosts, with their subdomains, whose URL path is the credential: it suffices to post."""

_HOOK_PATH = re.compile(r"/webhook(?:-test|-waiting)?/", re.IGNORECASE)
"""n8n's catch hooks: the rest of such a path is the credential on any host, since people run n8n themselves."""

_HOOK_HOST = "|".join(map(re.escape, HOOK_HOSTS))
_QUOTED = r"\"(?:[^\"\\]|\\.)*\"?|\\+\"[^\"\\]*|'[^']*'?"

_PROSE = (
    "a|an|at|and|are|can|cannot|create|for|from|give|has|have|in|is|it|its|leave|listen|may|more|must|name|needs|no|"
    "none|not|of|one|only|or|remove|seconds|send|set|such|that|the|this|to|two|unknown|use|was|which|with|write"
)
_OURS = rf"(?!(?:{_PROSE})\s+[\w`“(]|…(?!\w)|<[a-z ]+>|\"?\$?\{{[a-z_]+\}}|\"(?:[a-z]{{1,6}}-)?…\")"
"""Text after `token:` and the like that is no secret: a sentence that goes on, or a placeholder."""

# One alternation, tried once over a text. A group holds what stays in front of the redaction.
_SECRETS = re.compile(
    "|".join(
        (
            r"(://)(?!user(?::password)?@)[^\s/?#\"'<>]*(?=@)",
            rf"((?<![\w-])(?:{_HOOK_HOST}|linkedin\.com/in)\.?(?::[0-9]{{1,5}})?/)(?!trigger/EVENT/)[^\s\"'<>]+",
            rf"({_HOOK_PATH.pattern})(?!\{{key\}})[^\s\"'<>]+",
            rf"((?:authorization|cookie|signature)[\\\"']*\s*[:=]\s*+)(?!(?:bearer\s+)?(?:<|…)){_OURS}"
            rf"(?:{_QUOTED}|[^\r\n\"']+)",
            r"((?:(?:api|routing)[_-]?key|token|secret|passw(?:or)?d|private[_-]?key|\bsig|\bpwd)[\\\"']*\s*[:=]\s*+)"
            rf"{_OURS}(?:{_QUOTED}|(?:(?:bearer|basic|token)\s+)*[^\s\"'&;<>)\]}}]+\]?)",
            r"(\"(?:recipient(?:_name)?|address|e?mail|phone|profile_url|account_identifier)\\*\"\s*:\s*)"
            rf"(?:{_QUOTED})",
            r"(?:bearer\s+)+(?!tokens?(?![\w\-.~+/=])|realm=)[\w\-.~+/]+=*",
            r"(?:basic\s+)+(?!authentication(?![a-z0-9+/_=-]))[a-z0-9+/_-]{8,}=*",
            r"\bsk-(?:[a-z]+-[\w-]+|[\w-]{16,})",
            r"wh(?:sec|sk)_[\w+/=-]+",
            r"(?<![a-z0-9])rl_[\w-]{8,}|rl_[\w-]{40,}",
            r"v1a?,[a-z0-9+/_-]{16,}=*",
            r"(?<![\w.!#$%&'*+^`{|}~-])[\w.!#$%&'*+^`{|}~-]++@[\w-]+(?:\.[\w-]+)+",
            r"\+[0-9](?:[ ().-]{0,2}[0-9]){7,14}",
        )
    ),
    re.IGNORECASE,
)

_SEVERAL = re.compile(r"(?:kafkas?|nats|tls|amqps?)://[a-z0-9.:,_\[\]-]+(?=/|\Z)", re.ASCII | re.IGNORECASE)
"""The addresses of a broker, of which `urlsplit` reads one only."""

_URL_PATH = re.compile(r"(https?://[^\s/?#\"'<>]+)[/?][^\s\"'<>]+", re.IGNORECASE)

# Most strings of a line are ids, words and times. Each alternative above needs one of these, in lower case and with a
# colon for `=`, and looking for them is twenty times cheaper. The marks of a line are looked for if its key is there.
_MARKS = {
    "": ("@", "/webhook", "bearer", "basic"), "-": ("sk-",), "_": ("whs", "rl_"), ",": ("v1,", "v1a,"),
    ":": ("token", "key", "secret", "passw", "pwd", "sig", "authorization", "cookie"),
    '"': ("recipient", "address", "mail", "phone", "profile_url", "identifier"),
    "+": tuple(f"+{digit}" for digit in "0123456789"),
    **{end: tuple(host for host in (*HOOK_HOSTS, "linkedin.com") if host.endswith(end))
       for end in sorted({host[host.rindex("."):] for host in HOOK_HOSTS})},
}  # fmt: skip

_SECRET_KEYS = frozenset(
    ("authorization", "cookie", "token", "secret", "password", "passwd", "pwd", "api_key", "apikey", "signature", "sig",
     "routing_key", "signatures", "private_key", "encryption_key", "credentials", "sinkcredential", "recipient",
     "recipients", "recipient_name", "address", "email", "mail", "phone", "profile_url", "account_identifier")
)  # fmt: skip
_CREDENTIAL_WORDS = (
    "auth", "token", "key", "secret", "cookie", "passw", "passphrase", "pwd", "signature", "hmac", "credential",
    "bearer", "jwt", "session", "csrf",
)  # fmt: skip
_SECRET_ENDS = (
    "_authorization", "_cookie", "_token", "_secret", "_password", "_api_key", "_apikey", "_signature", "_private_key",
    "_encryption_key", "_email", "_phone", "_address",
)  # fmt: skip


def redact_text(text: str) -> str:
    """The text with `[redacted]` in place of each secret and recipient."""
    if not _has_mark(text):
        return text
    for _ in range(MAX_PASSES):  # one redaction can uncover the next secret
        redacted = _SECRETS.sub(_replacement, text)
        if redacted == text:
            break
        text = redacted
    return text


def is_plain(texts: Sequence[str], secrets: Sequence[str]) -> bool:
    """True if `without` and `redact_text` would surely change none of the texts. Searches all of them at once."""
    text = "\n".join(texts)
    return not _has_mark(text) and (not secrets or without(text, secrets) is text)


def printable(text: str, kept: str = "") -> str:
    """The text with every character that could control a terminal, or that is invisible, as an escape (`\\x1b`).

    kept  characters that stay as they are
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in kept else one.encode("unicode_escape").decode() for one in text)


@functools.lru_cache(maxsize=2048)
def is_credential(header_name: str) -> bool:
    """True if a header's name says that its value is a credential."""
    lower = header_name.lower()
    return any(word in lower for word in _CREDENTIAL_WORDS)


def split_url(url: str) -> SplitResult | None:
    """The parts of a URL; None if it is malformed or has no host."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.hostname else None


def host_of(url: str) -> str:
    """The host of a URL in lower case, without a final dot; empty if there is none."""
    parts = split_url(url)
    return (parts.hostname or "").rstrip(".") if parts else ""


def url_without_path(url: str) -> str:
    """`https://hooks.example.com/…`, for URLs whose path is the credential."""
    parts = split_url(url)
    if parts is None:
        several = _SEVERAL.match(url)
        return "…" if several is None else f"{several[0]}/…"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}/…"


def redacted_url(url: str) -> str:
    """A sink's URL without userinfo, query values and fragment, and without the part of its path that is a
    credential."""
    parts = split_url(url)
    host = host_of(url)
    if parts is None or any(host == known or host.endswith(f".{known}") for known in HOOK_HOSTS):
        return url_without_path(url)
    hook = _HOOK_PATH.match(parts.path)
    path = f"{hook[0]}…" if hook is not None and parts.path != hook[0] else parts.path
    return url_without_path(url).removesuffix("/…") + path + ("?…" if parts.query else "")


@functools.lru_cache(maxsize=4096)
def secrets_of(
    sink: str, shown_sink: str, headers: tuple[tuple[str, str], ...], credentials: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """The credentials a sink could echo in its answer, longest first: the query of its URL, the path with its long
    parts (with all parts where `shown_sink` hides it), the values of its custom headers that are credentials, and
    `credentials`."""
    found = {*credentials, *(value for name, value in headers if is_credential(name))}
    found |= {word for value in found for word in value.split()}  # `Bearer …`
    address, _, query = sink.partition("?")
    path = "/" + address.partition("://")[2].partition("/")[2].rstrip("/")
    if query:
        found |= {query, *(pair.partition("=")[2] or pair for pair in query.split("&"))}
    shortest = MIN_SECRET_CHARACTERS if path not in shown_sink else LONG_SEGMENT_CHARACTERS
    found |= {path, *(segment for segment in path.split("/") if len(segment) >= shortest)}
    found |= {unquote_plus(value) for value in found}
    return tuple(sorted((one for one in found if len(one) >= MIN_SECRET_CHARACTERS), key=len, reverse=True))


def without(text: str, secrets: Sequence[str], *, cut: bool = False) -> str:
    """The text with each of `secrets` (longest first) replaced by `[redacted]`, also where it is escaped as in JSON, a
    URL or HTML.

    cut  the text was truncated: the end that may be the beginning of a secret is dropped too
    """
    if not secrets:
        return text
    if _ESCAPE_MARK.search(text) or ("+" in text and _holds_one(text.replace("+", " "), secrets)):
        return _without_escaped(text, secrets, cut=cut)
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return text[: 1 - len(secrets[0])] if cut else text


def _holds_one(plain: str, secrets: Sequence[str]) -> bool:
    return any(secret in plain for secret in _unescaped_secrets(tuple(secrets)))


def _without_escaped(text: str, secrets: Sequence[str], *, cut: bool) -> str:
    plain, starts, ends = _unescaped(text)
    found = [one.span() for one in _HIDDEN.finditer(_hidden(text, secrets))]
    inside = _HIDDEN.finditer(_hidden(plain, _unescaped_secrets(tuple(secrets))))
    found += [(starts[one.start()], ends[one.end() - 1]) for one in inside]
    end = len(text)
    if cut:
        dropped = len(secrets[0]) - 1 + _ESCAPE_CHARACTERS
        end = starts[-dropped] if dropped <= len(starts) else 0
    shown: list[str] = []
    done = 0
    for first, last in sorted(found):
        if first >= end:
            break
        if last > done:
            shown += (text[done:first], REDACTED) if first >= done else ()
            done = last
    return "".join((*shown, text[done:end]))


def _hidden(text: str, secrets: Sequence[str]) -> str:
    """The text, as long as before, with marks in place of the characters of secrets (longest first)."""
    for one in secrets:
        text = text.replace(one, _FIRST + _NEXT * (len(one) - 1))
    return text


@functools.lru_cache(maxsize=1024)
def _unescaped_secrets(secrets: tuple[str, ...]) -> tuple[str, ...]:
    found = {_unescaped(secret)[0] for secret in secrets}
    return tuple(sorted((one for one in found if len(one) >= MIN_SECRET_CHARACTERS), key=len, reverse=True))


def _unescaped(text: str) -> tuple[str, list[int], list[int]]:
    """The text without escapes, also escaped ones, and with spaces for `+`. Then where each of its characters began and
    ended in the text."""
    starts, ends = list(range(len(text))), list(range(1, len(text) + 1))
    for _ in range(MAX_PASSES):
        parts: list[str] = []
        first: list[int] = []
        last: list[int] = []
        done = 0
        for match in _ESCAPE.finditer(text):
            if (one := _character(match)) is None:
                continue
            at, to = match.span()
            parts += (text[done:at], one)
            first += (*starts[done:at], *[starts[at]] * len(one))
            last += (*ends[done:at], *[ends[to - 1]] * len(one))
            done = to
        if not parts:
            break
        text, starts, ends = "".join((*parts, text[done:])), first + starts[done:], last + ends[done:]
    return text.replace("+", " "), starts, ends


def _character(match: re.Match[str]) -> str | None:
    """The character that an escape stands for; None if it is none."""
    if match["code"]:
        return chr(int(match["code"], 16))
    if match["octets"]:
        return unquote(match["octets"], errors="replace")
    if match["entity"]:
        found = html.unescape(match["entity"])
        return None if found == match["entity"] else found
    return ""  # backslashes that are left


def redact(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """The structlog processor: redacts keys and values at any depth, bounds depth, lengths and text, and leaves only
    printable characters (and line breaks of tracebacks)."""
    return _mapping(event_dict, 0)


def _replacement(match: re.Match[str]) -> str:
    return f"{match[match.lastindex]}{REDACTED}" if match.lastindex else REDACTED


def _has_mark(text: str) -> bool:
    lower = text.lower().replace("=", ":")
    for needed, marks in _MARKS.items():
        if needed in lower:
            for mark in marks:  # any() costs twice as much
                if mark in lower:
                    return True
    return False


@functools.lru_cache(maxsize=2048)
def _key(key: str) -> tuple[str, bool]:
    """A key as it is shown, and True if its value is a secret or a recipient."""
    plain = key.lower().replace("-", "_")
    return _bounded(key), plain in _SECRET_KEYS or plain.endswith(_SECRET_ENDS)


def _mapping(given: Mapping[Any, Any], depth: int) -> MutableMapping[str, Any]:
    shown: dict[str, Any] = {}
    whole = len(given) <= MAX_ITEMS
    for key, value in given.items():
        if not whole and len(shown) >= MAX_ITEMS - 1:
            shown["…"] = f"{len(given) - MAX_ITEMS + 1} more"
            break
        name, secret = _key(key if type(key) is str else _stringified(key))
        shown[name] = REDACTED if secret and not _says_nothing(value) else _value(name, value, depth)
    return shown


def _value(name: str, value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return _tail(value) if name in ("exception", "stack") and depth == 0 else _bounded(value)
    if kind is bool or kind is float or value is None:
        return value
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 63 else _stringified(value)[:MAX_TEXT_CHARS]
    if isinstance(value, Mapping):
        return _mapping(value, depth + 1) if depth + 1 < MAX_DEPTH else _TRUNCATED
    if isinstance(value, list | tuple | set | frozenset):
        return _sequence(list(value), depth + 1) if depth + 1 < MAX_DEPTH else _TRUNCATED
    return _bounded(_stringified(value))


def _sequence(given: list[Any], depth: int) -> list[Any]:
    # A header is a pair, so the name says whether the value is a secret.
    if len(given) == 2 and isinstance(given[0], str | bytes):
        name, secret = _key(_stringified(given[0]))
        if secret and not _says_nothing(given[1]):
            return [name, REDACTED]
    if len(given) <= MAX_ITEMS:
        return [_value("", value, depth) for value in given]
    left = len(given) - MAX_ITEMS + 1
    return [*(_value("", value, depth) for value in given[: MAX_ITEMS - 1]), f"… {left} more"]


def _says_nothing(value: Any) -> bool:
    """None and booleans reveal nothing, and whether a secret was set is worth logging."""
    return value is None or isinstance(value, bool)


def _stringified(value: Any) -> str:
    try:
        return value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _loggable(text: str, kept: str = "") -> str:
    text = redact_text(printable(text, kept))
    return _URL_PATH.sub(r"\1/…", text) if "://" in text else text


def _bounded(text: str, kept: str = "") -> str:
    if len(text) <= MAX_TEXT_CHARS:
        text = _loggable(text, kept)
    else:
        text = _loggable(text[: MAX_TEXT_CHARS + _MARGIN_CHARS], kept)[:-_MARGIN_CHARS] + _TRUNCATED
    if len(text) > MAX_TEXT_CHARS:
        text = _loggable(text[: MAX_TEXT_CHARS - len(_TRUNCATED)] + _TRUNCATED, kept)[:MAX_TEXT_CHARS]
    return text


def _tail(text: str) -> str:
    """The end of a traceback, which has the reason."""
    kept = "\n\t"
    if len(text) <= MAX_TEXT_CHARS:
        return _bounded(text, kept)
    end = _loggable(text[-4 * MAX_TEXT_CHARS :], kept)[_MARGIN_CHARS:]
    return _TRUNCATED + end[-(MAX_TEXT_CHARS - len(_TRUNCATED)) :]
