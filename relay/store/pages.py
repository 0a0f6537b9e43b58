"""Pages of lists: a cursor is the key of the last row shown, so a page costs the same wherever it is."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy.engine import Row

from relay.core.records import Page
from relay.errors import FieldError, InvalidRequest

Value = TypeVar("Value")


def encode_cursor(key: str | int) -> str:
    """An opaque cursor for a key."""
    return base64.urlsafe_b64encode(str(key).encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> str | None:
    """The key in a cursor, None for none. Raises InvalidRequest when we did not make it."""
    if cursor is None:
        return None
    try:
        if len(cursor) > 200 or not cursor.isascii():
            raise ValueError(cursor)
        key = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        if not key.isprintable() or not key:
            raise ValueError(key)
    except (ValueError, binascii.Error) as error:
        detail = "cursor: not one of ours; take it from next_cursor as it is"
        raise InvalidRequest(
            detail, errors=[FieldError(pointer="cursor", code="invalid_cursor", detail=detail)]
        ) from error
    return key


def decode_position(cursor: str | None) -> int | None:
    """Like `decode_cursor` for keys that are positions."""
    key = decode_cursor(cursor)
    if key is None:
        return None
    if not key.isdecimal() or len(key) > 18:
        raise InvalidRequest("cursor: not one of this list's; take it from next_cursor as it is", code="invalid_cursor")
    return int(key)


def page_of(
    rows: Sequence[Row[Any]], limit: int, make: Callable[[Row[Any]], Value], key: Callable[[Row[Any]], str | int]
) -> Page[Value]:
    """A page from `limit` + 1 rows: the one too many says that there is a next page."""
    shown = rows[:limit]
    more = len(rows) > limit
    return Page(items=tuple(make(row) for row in shown), next_cursor=encode_cursor(key(shown[-1])) if more else None)
