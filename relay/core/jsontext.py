"""JSON as callers and upstreams write it: every integer keeps its digits, and half a surrogate pair spoils nothing.

orjson alone refuses an escaped half of a surrogate pair (which Node writes where a text was cut inside an emoji), turns
integers over 64 bits into floats and can not write them. What it reads and writes as it is still goes through it alone.
"""

import json
import math
import re
from json import JSONDecodeError
from typing import Any

import orjson

MAX_INTEGER_DIGITS = 308
"""A longer one fits no double: most receivers could not read a document that has it. It is read as text, like 1e400."""

_LONG_RUN = b"0" * 19
"""The shortest integers over 64 bits have 19 digits."""
_SHAPE = bytes.maketrans(b"123456789[,- \t\r\nE", b"000000000:::::::e")
"""Digits as 0, and what may stand before a number as a colon: so one is found at the speed of a copy."""
_LONE_HIGH = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})")
_LONE_LOW = re.compile(rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u....)")
"""Halves of a surrogate pair without the other one, where no `\\u` stands behind an escaped backslash."""
_ESCAPED_BACKSLASH = rb"\\"
_IN_ITS_PLACE = b"\0\0"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()

__all__ = ["MAX_INTEGER_DIGITS", "JSONDecodeError", "dumps", "loads", "well_formed"]


def loads(body: bytes, *, repair: bool = False) -> Any:
    """The value of a JSON document. Raises JSONDecodeError.

    Half a surrogate pair becomes U+FFFD. A number that no double can hold is read as its own text. `repair` is for what
    an upstream sends: bytes that are not UTF-8 become U+FFFD too, and a byte order mark is passed over.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        mended = _mended(body, repair=repair)
        if mended is None:
            raise
        try:
            return _exactly(mended)
        except (ValueError, RecursionError):
            raise error from None
    if not _has_long_number(body.translate(_SHAPE)):
        return value
    try:
        return _exactly(body)
    except RecursionError:
        return value


def dumps(value: Any, option: int | None = None) -> bytes:
    """Compact JSON. Raises TypeError for what is no JSON value, or is nested deeper than 254 levels."""
    try:
        return orjson.dumps(value, option=option)
    except orjson.JSONEncodeError as error:
        try:
            return orjson.dumps(_writable(value), option=option)
        except RecursionError:
            raise error from None


def well_formed(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair: what UTF-8 can carry."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _has_long_number(shape: bytes) -> bool:
    return _LONG_RUN in shape and (b":" + _LONG_RUN in shape or shape.startswith(_LONG_RUN))


def _mended(body: bytes, *, repair: bool) -> bytes | None:
    """What orjson has refused, without what only it refuses; None where nothing of that kind is in it."""
    before = body
    if repair:
        body = body.removeprefix(_BYTE_ORDER_MARK).decode(errors="replace").encode()
    if (b"\\ud" in body or b"\\uD" in body) and b"\0" not in body:  # raw, a NUL is no JSON
        # Of a body of 48 MiB each escape may be one of these: nothing here calls back into Python for it.
        body = body.replace(_ESCAPED_BACKSLASH, _IN_ITS_PLACE)
        body = _LONE_LOW.sub(_REPLACEMENT, _LONE_HIGH.sub(_REPLACEMENT, body))
        body = body.replace(_IN_ITS_PLACE, _ESCAPED_BACKSLASH)
    shape = body.translate(_SHAPE)
    large = _has_long_number(shape) or b"e000" in shape or b"e+000" in shape
    return body if large or body != before else None


def _exactly(body: bytes) -> Any:
    if not _has_long_number(body.translate(_SHAPE)):
        try:
            return orjson.loads(body)  # it takes four times as many levels
        except orjson.JSONDecodeError:
            pass
    return json.loads(body.decode(), parse_int=_integer, parse_float=_float, parse_constant=_refused)


def _integer(text: str) -> int | str:
    return int(text) if len(text.removeprefix("-")) <= MAX_INTEGER_DIGITS else text


def _float(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


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
