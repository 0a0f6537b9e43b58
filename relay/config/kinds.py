"""The kinds of settings: how each is read from a Value, what it is called in messages and in the documentation.

A kind's `read` returns the value or raises a SettingsError that says where, which key, what was expected and what was
found; what a reference gave, and what a secret setting holds, is never shown.
"""

import base64
import binascii
import ipaddress
import json
import math
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import SplitResult, urlsplit

from relay.config.loader import Value, parse_text
from relay.core.durations import MAX_DURATION_SECONDS, duration_seconds
from relay.core.signing import SECRET_FORMAT, parse_secret
from relay.errors import SettingsError
from relay.redaction import redact_text

T = TypeVar("T")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_LIST = 1000
MAX_TEXT = 4096
MAX_SHOWN = 60

NAME = "a name of up to 64 letters, digits, dots, dashes and underscores"

_NAME_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\\\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_API_SUFFIX = re.compile(r"/api/v[0-9]+\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[T]):
    """One kind of setting; `name` completes "must be …"."""

    name: str
    read: Callable[[Value], T]


def wrong(value: Value, expected: str, *, secret: bool = False) -> SettingsError:
    """The error for a value that is not what was expected."""
    return value.error(f"must be {expected}{'' if secret or value.hidden else _shown(value.data)}")


def mapping(value: Value, expected: str = "a section, with one `key: value` a line") -> dict[str, Value]:
    """The children of a mapping; none for nothing at all (`server:` with no keys below it)."""
    data = _typed(value).data
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise wrong(value, expected)
    return data


def items(value: Value, expected: str, *, at_most: int = MAX_LIST) -> list[Value]:
    """The entries of a list."""
    data = _typed(value).data
    if not isinstance(data, list):
        raise wrong(value, expected)
    if len(data) > at_most:
        raise value.error(f"has {len(data)} entries: at most {at_most} are possible")
    return data


def integer(low: int, high: int) -> Kind[int]:
    """A whole number from `low` to `high`."""
    name = f"a whole number from {low} to {high}"

    def read(value: Value) -> int:
        data = _typed(value).data
        if isinstance(data, bool) or not isinstance(data, int) or not low <= data <= high:
            raise wrong(value, name)
        return data

    return Kind(name=name, read=read)


def number(bounds: str, within: Callable[[float], bool]) -> Kind[float]:
    """A finite number; `bounds` says in words what `within` tests."""
    name = f"a number {bounds}"

    def read(value: Value) -> float:
        data = _typed(value).data
        if isinstance(data, bool) or not isinstance(data, int | float):
            raise wrong(value, name)
        if abs(data) > 1e15 or not math.isfinite(data) or not within(float(data)):
            raise wrong(value, name)
        return float(data)

    return Kind(name=name, read=read)


def _read_boolean(value: Value) -> bool:
    data = _typed(value).data
    if not isinstance(data, bool):
        raise wrong(value, boolean.name)
    return data


boolean: Kind[bool] = Kind(name="true or false", read=_read_boolean)


def parse_duration(written: object) -> float:
    """The seconds of `5s`, `5m`, `2h`, `1d`, `500ms` or of a number of seconds. Raises ValueError."""
    seconds = math.nan
    if isinstance(written, int | float) and not isinstance(written, bool):
        seconds = float(written) if abs(written) <= MAX_DURATION_SECONDS else math.inf
    elif isinstance(written, str):
        with suppress(ValueError):
            seconds = duration_seconds(written.strip())
    if not 0 <= seconds <= MAX_DURATION_SECONDS:
        raise ValueError("must be a duration such as 5s, 5m, 2h or 1d, or a number of seconds, of a year at most")
    return seconds


def _read_duration(value: Value) -> float:
    data = _typed(value).data
    try:
        return parse_duration(data)
    except ValueError:
        raise wrong(value, duration.name) from None


duration: Kind[float] = Kind(name="a duration such as 5s, 5m, 2h or 1d, or a number of seconds", read=_read_duration)


def text(name: str, problem: Callable[[str], str | None], *, secret: bool = False) -> Kind[str]:
    """Text; `problem` says what is wrong with one (never quoting a secret), None if nothing is."""

    def read(value: Value) -> str:
        data = value.data if value.raw is None else value.raw
        if not isinstance(data, str):
            hint = " (put it in quotes)" if isinstance(data, int | float) else ""
            raise wrong(value, name + hint, secret=secret)
        if not data or len(data) > MAX_TEXT:
            raise value.error(f"is {'empty' if not data else 'too long'}: it must be {name}")
        if (found := problem(data)) is not None:
            raise value.error(found if secret or value.hidden else found + _shown(data))
        return data

    return Kind(name=name, read=read)


def is_name(given: str) -> bool:
    """Whether this can name a source, an account or a token."""
    return _NAME_FORM.fullmatch(given) is not None


name_text: Kind[str] = text(NAME, lambda given: None if is_name(given) else f"must be {NAME}")


def secret_text(name: str) -> Kind[str]:
    """A secret that travels in a header: text without white space or control characters."""

    def problem(given: str) -> str | None:
        if _UNPRINTABLE.search(given) or not given.isascii():
            return f"has white space or other characters that no header can carry: it must be {name}"
        return None

    return text(name, problem, secret=True)


def optional(kind: Kind[T]) -> Kind[T | None]:
    """The same, or null."""

    def read(value: Value) -> T | None:
        if value.data is None or (value.untyped and value.data in ("null", "~")):
            return None
        return kind.read(value)

    return Kind(name=f"{kind.name}, or null", read=read)


def list_of(kind: Kind[T], *, at_most: int = MAX_LIST) -> Kind[tuple[T, ...]]:
    """A list of the same kind."""
    name = f"a list of at most {at_most}, each {kind.name}"

    def read(value: Value) -> tuple[T, ...]:
        return tuple(kind.read(item) for item in items(value, name, at_most=at_most))

    return Kind(name=name, read=read)


def one_of(choices: Collection[str], value: Value) -> str:
    """One of a few words."""
    if not isinstance(value.data, str) or value.data not in choices:
        raise wrong(value, f"one of {', '.join(sorted(choices))}")
    return value.data


def _read_network(value: Value) -> Network:
    data = value.data if value.raw is None else value.raw
    if isinstance(data, str):
        try:
            given = ipaddress.ip_network(data, strict=False)
        except ValueError:
            raise wrong(value, network.name) from None
        try:
            return ipaddress.ip_network(data)
        except ValueError:
            raise wrong(value, f"{network.name} without host bits, like {given}") from None
    raise wrong(value, network.name)


network: Kind[Network] = Kind(name="a network such as 10.0.0.0/8 or fd00::/8", read=_read_network)


def split_url(given: str) -> SplitResult | str:
    """The parts of an http or https URL, or what is wrong with it (never quoting it: it may hold a password)."""
    if _UNPRINTABLE.search(given):
        return "has white space, a backslash or a control character in it"
    try:
        parts = urlsplit(given)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not a URL: its host or port makes no sense"
    if parts.scheme not in ("http", "https") or not host:
        return "must be an absolute URL such as https://host.example"
    if "@" in parts.netloc:
        return "must not have a user name or password in it"
    if "?" in given or "#" in given:
        return "must not have a query or a fragment"
    return parts


def _read_url(value: Value) -> str:
    given = text("a URL such as https://host.example", lambda _: None, secret=True).read(value)
    parts = split_url(given)
    if isinstance(parts, str):
        raise value.error(parts)
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


http_url: Kind[str] = Kind(name="a URL such as https://host.example", read=_read_url)
upstream_url: Kind[str] = Kind(
    name="a URL such as https://host.example (a trailing /api/v1 is removed)",
    read=lambda value: _API_SUFFIX.sub("", _read_url(value)).rstrip("/"),
)


def decode_encryption_key(given: str) -> bytes:
    """The 32 bytes of a key in Fernet's format. Raises ValueError, which does not quote the key."""
    try:
        raw = base64.b64decode(given.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raw = b""
    if len(raw) != 32 or "+" in given or "/" in given:
        raise ValueError("must be 32 random bytes as URL-safe base64 (44 characters)")
    return raw


def _encryption_key_problem(given: str) -> str | None:
    try:
        decode_encryption_key(given)
    except ValueError as error:
        return str(error)
    return None


encryption_key: Kind[str] = text(
    "32 random bytes as URL-safe base64 (44 characters)", _encryption_key_problem, secret=True
)


def _signing_secret_problem(given: str) -> str | None:
    try:
        parse_secret(given)
    except ValueError:
        return f"must be {SECRET_FORMAT}"
    return None


signing_secret: Kind[str] = text(SECRET_FORMAT, _signing_secret_problem, secret=True)


def _typed(value: Value) -> Value:
    return parse_text(value) if value.untyped and isinstance(value.data, str) else value


def _shown(data: object) -> str:
    if data is None:
        return ", not null (nothing)"
    if isinstance(data, dict):
        return ", not a mapping"
    if isinstance(data, list):
        return ", not a list"
    if isinstance(data, int) and data.bit_length() > 4 * MAX_SHOWN:  # Python writes no number of thousands of digits
        return ", not a number of so many digits"
    shown = redact_text(json.dumps(data, ensure_ascii=False))
    return f", not {shown if len(shown) <= MAX_SHOWN else shown[: MAX_SHOWN - 3] + '…'}"
