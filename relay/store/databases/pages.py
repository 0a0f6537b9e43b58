"""Pages of lists. A cursor is the key of the last row shown, so every page costs the same.

A page of rows with large values ends early: reading, rendering and keeping it for a slow reader have a bounded cost.
"""

import base64
import binascii
import math
import operator
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, case, func, literal, literal_column, tuple_
from sqlalchemy.engine import Connection, Row

from relay.core.records import Page
from relay.errors import FieldError, InvalidRequest
from relay.ids import least_id, made_at

Value = TypeVar("Value")
Driver = TypeVar("Driver", bound=Hashable)

MAX_PAGE_BYTES = 4 << 20
"""The most that the large columns of a page's rows hold together."""


def encode_cursor(key: str | int) -> str:
    """An opaque cursor for a key."""
    return base64.urlsafe_b64encode(str(key).encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None, *, prefix: str = "") -> str | None:
    """The key in a cursor; None for None. Raises InvalidRequest if the cursor is not one of a list with such keys."""
    if cursor is None:
        return None
    try:
        if len(cursor) > 200 or not cursor.isascii():
            raise ValueError(cursor)
        key = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        if not key.isprintable() or not key.startswith(prefix) or not key:
            raise ValueError(key)
    except (ValueError, binascii.Error) as error:
        raise _not_ours() from error
    return key


def decode_position(cursor: str | None) -> int:
    """The same for keys that are positions in a list; 0 for None."""
    key = decode_cursor(cursor) or "0"
    if not key.isdecimal() or len(key) > 15:
        raise _not_ours()
    return int(key)


def _not_ours() -> InvalidRequest:
    detail = "cursor: not a cursor of this list; use next_cursor unchanged"
    return InvalidRequest(
        detail, code="invalid_cursor", errors=[FieldError(pointer="cursor", code="invalid_cursor", detail=detail)]
    )


def decode_moment(cursor: str | None, *, prefix: str) -> tuple[float, str] | None:
    """Like `decode_cursor`, for the keys of `moment_key`: a time and an id."""
    key = decode_cursor(cursor)
    if key is None:
        return None
    time, _, row_id = key.partition(" ")
    try:
        if not row_id.startswith(prefix):
            raise ValueError(row_id)
        moment = float.fromhex(time)
        if not math.isfinite(moment):
            raise ValueError(time)
    except (ValueError, OverflowError) as error:
        raise _not_ours() from error
    return moment, row_id


def moment_key(time: float, row_id: str) -> str:
    """A row's key in a list ordered by time and position, exact to the last bit. It names the row by its id, because a
    position would tell how many rows of other accounts there are."""
    return f"{time.hex()} {row_id}"


def read_page(
    connection: Connection,
    statement: Select[Any],
    limit: int,
    make: Callable[[Row[Any]], Value],
    key: str,
    size: ColumnElement[int] | None = None,
) -> Page[Value]:
    """The page that a statement of up to `limit` + 1 rows reads; `key`: the column that cursors hold; `size`: the
    bytes of a row's large columns."""
    if size is not None:
        limit = fitting(connection, statement, size, limit)
        statement = statement.limit(limit + 1)
    return page_of(connection.execute(statement).all(), limit, make, attrgetter(key))


def fitting(
    connection: Connection,
    statement: Select[Any],
    size: ColumnElement[int],
    limit: int,
    values: Mapping[str, Any] | None = None,
    max_bytes: int | None = None,
) -> int:
    """Number of a statement's first rows to read: `limit`, or fewer if these are larger than `max_bytes` together
    (default: MAX_PAGE_BYTES), and at least one."""
    return fitting_sizes(
        connection.execute(statement.with_only_columns(size), values or {}).scalars(), limit, max_bytes
    )


def fitting_sizes(sizes: Iterable[int], limit: int, max_bytes: int | None = None) -> int:
    """The same for rows of these sizes."""
    at_most = MAX_PAGE_BYTES if max_bytes is None else max_bytes
    total = 0
    for count, of_row in enumerate(sizes):
        total += of_row
        if total > at_most:
            return min(limit, max(count, 1))
    return limit


def size_of(*columns: ColumnElement[Any]) -> ColumnElement[int]:
    """The bytes in these blob columns. Neither database reads the blobs for that."""
    return sum((func.coalesce(func.length(column), 0) for column in columns), start=literal_column("0"))


def page_of(
    rows: Sequence[Row[Any]], limit: int, make: Callable[[Row[Any]], Value], key: Callable[[Row[Any]], str | int]
) -> Page[Value]:
    """A page from up to `limit` + 1 rows; the extra row means that there is a next page."""
    shown = rows[:limit]
    more = len(rows) > limit
    return Page(items=tuple(make(row) for row in shown), next_cursor=encode_cursor(key(shown[-1])) if more else None)


def page_to(
    rows: Sequence[Row[Any]],
    limit: int,
    make: Callable[[Row[Any]], Value],
    key: Callable[[Row[Any]], str | int],
    end: str | None,
) -> Page[Value]:
    """The same of a walk that ends at a key: the next page continues there. `end` is None at the end of the list."""
    page = page_of(rows, limit, make, key)
    return page if page.next_cursor is not None or end is None else replace(page, next_cursor=encode_cursor(end))


def newest_first(
    statement: Select[Any],
    given: Sequence[tuple[ColumnElement[Any], Any]],
    key: Sequence[ColumnElement[Any]],
    *,
    since: Sequence[Any] = (),
    before: Sequence[Any] = (),
) -> Select[Any]:
    """The rows whose columns have the values `given`, newest first by `key`: from `since` on and before `before`, which
    are keys or their first columns. There is an index of the columns and the key.

    Not `column = value`: PostgreSQL would drop the column from the order, and might walk the index of the key alone
    through the rows of all other values, because it believes that those of each value are spread evenly. Only the
    filter's index has this order, whatever the statistics say, and bounds of the row let it begin at a cursor.
    """
    columns = [*(column for column, _ in given), *key]
    values = [value for _, value in given]
    for column, _ in given:
        if getattr(column, "nullable", False):  # the condition of a partial index
            statement = statement.where(column.is_not(None))
    if values or since:
        statement = statement.where(_row(columns, [*values, *since], operator.ge))
    if values or before:
        statement = statement.where(_row(columns, [*values, *before], operator.lt if before else operator.le))
    return statement.order_by(*(column.desc() for column in columns))


def unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A column as no index has it, for conditions on rows that another index finds. It does not imply that there is a
    value: PostgreSQL would read a partial index of those that have one, while it believes that they are few."""
    return case((column.is_not(None), column))


def narrowest(choose: Callable[[Sequence[str]], str], bounds: Iterable[str | None]) -> Sequence[str]:
    """The one of several bounds to give `newest_first`; none if all are None. Of two bounds of one index PostgreSQL
    seeks by the first, whichever it is."""
    known = [bound for bound in bounds if bound is not None]
    return [choose(known)] if known else []


def _row(columns: Sequence[ColumnElement[Any]], values: Sequence[Any], compare: Callable[..., Any]) -> Any:
    """A comparison of the first columns with as many values."""
    first = columns[: len(values)]
    bounds = [
        value if isinstance(value, ColumnElement) else literal(value, column.type)
        for column, value in zip(first, values, strict=True)
    ]
    return compare(first[0], bounds[0]) if len(first) == 1 else compare(tuple_(*first), tuple_(*bounds))


def rarest(connection: Connection, ends: Mapping[Driver, Select[Any]], prefix: str) -> tuple[Driver, str | None]:
    """Like `furthest`, for ids. The end is the least id of its millisecond: a cursor must not hold the id of a row that
    the caller may not see."""
    driver, end = furthest(connection, ends)
    moment = None if end is None else made_at(end)
    return driver, end if moment is None else least_id(prefix, moment)


def furthest(connection: Connection, ends: Mapping[Driver, Select[Any]]) -> tuple[Driver, Any]:
    """The filter to walk along, and the end of this page's walk; None: the filter's rows are read to their end. `ends`:
    for each filter the statement of the last row that a page may read. The rarest reaches furthest.
    """
    found: dict[Driver, Any] = {}
    for driver, statement in ends.items():
        found[driver] = connection.execute(statement).scalar_one_or_none()
        if found[driver] is None:
            return driver, None
    return min(found.items(), key=lambda item: item[1])
