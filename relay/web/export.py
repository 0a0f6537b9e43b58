"""Lists as CSV (RFC 4180), for spreadsheets."""

import csv
import io
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from starlette.responses import Response, StreamingResponse

from relay.web.page import Export, Visit

MAX_ROWS = 10_000
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "|", "%", "＝", "＋", "－", "＠")
"""A cell that begins so is run as a formula by some spreadsheet."""


def csv_response(export: Export, visit: Visit) -> Response:
    """The list of a page with its filters, up to MAX_ROWS items."""
    name = export.path.rstrip("/").rpartition("/")[2]
    headers = {"content-disposition": f'attachment; filename="{name}.csv"'}
    return StreamingResponse(_lines(export, visit), media_type="text/csv; charset=utf-8", headers=headers)


async def _lines(export: Export, visit: Visit) -> AsyncIterator[bytes]:
    yield line(export.columns)
    async for item in visit.desk.items(export.path, *export.segments, query=export.query, at_most=MAX_ROWS):
        yield line(value_at(item, path) for path in export.columns.values())


def line(cells: Any) -> bytes:
    """One line of CSV."""
    written = io.StringIO()
    csv.writer(written).writerow(safe(cell) for cell in cells)
    return written.getvalue().encode("utf-8", "replace")


def safe(value: object) -> str:
    """A cell that no spreadsheet runs: a text that looks like a formula begins with an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return f"'{text}" if text.lstrip(" \n").startswith(_FORMULA) else text


def value_at(item: Mapping[str, Any], path: str) -> object:
    """The value at a dotted path; None where there is none."""
    value: Any = item
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
