"""JSON that keeps large integers exact and tolerates lone surrogates.

orjson rejects an escaped lone surrogate (Node writes one for text cut inside an emoji), reads integers over 64 bits as
floats, and cannot write them. This module handles these cases and uses orjson alone for everything else.
"""

import json
import math
import re
from json import JSONDecodeError
from typing import Any

import orjson

MAX_INTEGER_DIGITS = 308
"""A longer integer exceeds a double, which most receivers cannot read. It is read as text, like 1e400."""

_LONG_RUN = b"0" * 19
"""Integers over 64 bits have at least 19 digits."""
_TOO_LONG_RUN = b"0" * (MAX_INTEGER_DIGITS + 1)
"""Some integers are read as text, and some fractions are infinite."""
_SHAPE = bytes.maketrans(b"123456789[,- \t\r\nE", b"000000000:::::::e")
"""Maps digits to 0 and anything that may precede a number to a colon, to find long numbers at memory speed."""
_LONE_HIGH = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})")
_LONE_LOW = re.compile(rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u....)")
"""Lone halves of a surrogate pair, provided that no `\\u` follows an escaped backslash."""
_ESCAPED_BACKSLASH = rb"\\"
_PLACEHOLDER = b"\0\0"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()

__all__ = ["MAX_INTEGER_DIGITS", "JSONDecodeError", "dumps", "loads", "well_formed"]


def loads(body: bytes, *, repair: bool = False) -> Any:
    """Parses a JSON document. Raises JSONDecodeError.

    A lone surrogate becomes U+FFFD. A number beyond a double is read as text. `repair` is for upstream responses: bytes
    that are not UTF-8 become U+FFFD too, and a byte order mark is skipped.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        repaired = _repaired(body, repair=repair)
        if repaired is None:
            raise
        try:
            return _exactly(repaired)
        except (ValueError, RecursionError):
            raise error from None
    if not _has_long_number(body.translate(_SHAPE)):
        return value
    try:
        return _exactly(body)
    except RecursionError:
        return value


def dumps(value: Any, option: int | None = None) -> bytes:
    """Compact JSON. Raises TypeError for a value that is not JSON or is nested deeper than 254 levels."""
    try:
        return orjson.dumps(value, option=option)
    except orjson.JSONEncodeError as error:
        try:
            return orjson.dumps(_writable(value), option=option)
        except RecursionError:
            raise error from None


def well_formed(text: str) -> str:
    """The text with each lone surrogate replaced by U+FFFD, so that UTF-8 can encode it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _has_long_number(shape: bytes) -> bool:
    return _LONG_RUN in shape and (b":" + _LONG_RUN in shape or shape.startswith(_LONG_RUN))


def _repaired(body: bytes, *, repair: bool) -> bytes | None:
    """A document that orjson rejected, repaired; None if it has nothing to repair."""
    before = body
    if repair:
        body = body.removeprefix(_BYTE_ORDER_MARK).decode(errors="replace").encode()
    if (b"\\ud" in body or b"\\uD" in body) and b"\0" not in body:  # a raw NUL is not JSON
        # A body of 48 MiB may consist of such escapes: no step calls back into Python for each.
        body = body.replace(_ESCAPED_BACKSLASH, _PLACEHOLDER)
        body = _LONE_LOW.sub(_REPLACEMENT, _LONE_HIGH.sub(_REPLACEMENT, body))
        body = body.replace(_PLACEHOLDER, _ESCAPED_BACKSLASH)
    shape = body.translate(_SHAPE)
    large = _has_long_number(shape) or b"e000" in shape or b"e+000" in shape
    return body if large or body != before else None


def _exactly(body: bytes) -> Any:
    shape = body.translate(_SHAPE)
    if not _has_long_number(shape):
        try:
            return orjson.loads(body)  # it takes four times as many levels
        except orjson.JSONDecodeError:
            pass
    text = body.decode()
    if _TOO_LONG_RUN in shape or b"e0" in shape or b"e+0" in shape:
        return json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_refused)
    return json.loads(text, parse_constant=_refused)  # no number needs a call each: ten times as fast


def _integer(text: str) -> int | str:
    return int(text) if len(text.removeprefix("-")) <= MAX_INTEGER_DIGITS else text


def _float(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _writable(value: Any) -> Any:
    match value:
        case str():
            return well_formed(value)
        case bool():
            return value
        case int():
            return value if -(2**63) <= value < 2**64 else orjson.Fragment(str(value))
        case dict():
            return {_writable(name): _writable(each) for name, each in value.items()}
        case list() | tuple():
            return [_writable(each) for each in value]
        case _:
            return value


REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def decoded(raw: bytes) -> str:
    """Decodes bytes as UTF-8, or else as Latin-1. NUL becomes U+FFFD."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.replace("\0", REPLACEMENT)


def storable(text: str) -> str:
    """Repairs text decoded by a library: decodes surrogate escapes again, turns other lone surrogates into U+FFFD."""
    if text.isascii():
        return text.replace("\0", REPLACEMENT) if "\0" in text else text
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = well_formed(text).encode()
    return decoded(raw)
