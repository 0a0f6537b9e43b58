"""Lists as CSV (RFC 4180), for spreadsheets."""

import asyncio
import csv
import io
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import orjson
from starlette.responses import Response

from relay.api.stream import SlotResponse
from relay.errors import Unauthorized
from relay.web.page import Export, Visit

MAX_ROWS = 10_000
MEDIA_TYPE = "text/csv; charset=utf-8"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "|", "%", "＝", "＋", "－", "＠")
"""A cell that begins so is run as a formula by some spreadsheet."""
_LATER = re.compile(rf"([;\t\r\n]\s?)([{re.escape(''.join(_FORMULA))}])")
"""The same inside a cell: where the comma is the decimal point, spreadsheets divide cells at semicolons and tabs."""


def csv_response(export: Export, visit: Visit) -> Response:
    """The list of a page with its filters, up to MAX_ROWS items."""
    name = export.path.rstrip("/").rpartition("/")[2]
    headers = {"content-disposition": f'attachment; filename="{name}.csv"'}
    if visit.request.method == "HEAD":
        return Response(headers=headers, media_type=MEDIA_TYPE)
    slots = visit.context.ports.admission.exports
    return SlotResponse(_lines(export, visit), slots, visit.identity.key, MEDIA_TYPE, headers)


async def _lines(export: Export, visit: Visit) -> AsyncGenerator[bytes, None]:
    yield line(export.columns)
    async for item in visit.desk.items(export.path, *export.segments, query=export.query, at_most=MAX_ROWS):
        if not visit.context.ports.access.holds(visit.identity):
            raise Unauthorized("the token has ended: this export is not complete")
        yield line(value_at(item, path) for path in export.columns.values())
        await asyncio.sleep(0)  # a server that takes it at once does not let others have their turn


def line(cells: Any) -> bytes:
    """One line of CSV."""
    written = io.StringIO()
    csv.writer(written).writerow(safe(cell) for cell in cells)
    return written.getvalue().encode("utf-8", "replace")


def safe(value: object) -> str:
    """A cell that no spreadsheet runs: a text that looks like a formula begins with an apostrophe, and so does what
    looks like one after a character that may divide cells."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    text = f"'{text}" if text.lstrip().startswith(_FORMULA) or text.startswith(_FORMULA) else text
    return _LATER.sub(r"\1'\2", text)


def value_at(item: Mapping[str, Any], path: str) -> object:
    """The value at a dotted path; None where there is none."""
    value: Any = item
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
