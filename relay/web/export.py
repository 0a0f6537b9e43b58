"""Lists as CSV (RFC 4180), for spreadsheets."""

import asyncio
import csv
import io
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import orjson
from starlette.responses import Response

from relay.api.stream import SlotResponse
from relay.errors import Unauthorized
from relay.web.page import Export, Visit
from relay.web.texts import english

MAX_ROWS = 10_000
MEDIA_TYPE = "text/csv; charset=utf-8"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "|", "%", "＝", "＋", "－", "＠")
"""A cell that begins so is run as a formula by some spreadsheet."""
_LATER = re.compile(rf"([;\t\r\n]\s?)([{re.escape(''.join(_FORMULA))}])")
"""The same inside a cell: where the comma is the decimal point, spreadsheets divide cells at semicolons and tabs."""


async def csv_response(export: Export, visit: Visit) -> Response:
    """The list of a page with its filters, up to MAX_ROWS items from the cursor in the page's query on. A file that is
    not the whole list says so in its last row, with the link of the next part."""
    name = export.path.rstrip("/").rpartition("/")[2]
    headers = {"content-disposition": f'attachment; filename="{name}.csv"'}
    if visit.request.method == "HEAD":
        return Response(headers=headers, media_type=MEDIA_TYPE)
    slots, cursor = visit.context.ports.admission.exports, visit.query.get("cursor")
    pages = visit.desk.pages(export.path, *export.segments, query=export.query, cursor=cursor, at_most=MAX_ROWS)
    first = await anext(pages)  # what the API refuses is refused before the file begins
    return SlotResponse(_lines(export, visit, first, pages), slots, visit.identity.key, MEDIA_TYPE, headers)


async def _lines(
    export: Export, visit: Visit, page: Mapping[str, Any] | None, pages: AsyncIterator[Mapping[str, Any]]
) -> AsyncGenerator[bytes, None]:
    yield line(export.columns)
    cursor = None
    while page is not None:
        for item in page["items"]:
            if not visit.context.ports.access.holds(visit.identity):
                raise Unauthorized("the token has ended: this export is not complete")
            yield line(value_at(item, path) for path in export.columns.values())
            await asyncio.sleep(0)  # a server that takes it at once does not let others have their turn
        cursor = page.get("next_cursor")
        page = await anext(pages, None)
    if cursor is not None:
        url = visit.base_url + visit.path(format="csv", cursor=cursor)
        yield line([english()("base.export_goes_on", url=url), *[""] * (len(export.columns) - 1)])


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
