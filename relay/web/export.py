"""Lists as CSV (RFC 4180), for spreadsheets."""

import asyncio
import csv
import io
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import orjson
from starlette.responses import Response

from relay.api.http.stream import SlotResponse
from relay.errors import Unauthorized
from relay.web.page import Export, PageRequest
from relay.web.texts import english

MAX_ROWS = 10_000
MEDIA_TYPE = "text/csv; charset=utf-8"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "|", "%", "＝", "＋", "－", "＠")
"""Characters at the start of a cell that make some spreadsheets run it as a formula."""
_LATER = re.compile(rf"([;\t\r\n]\s?)([{re.escape(''.join(_FORMULA))}])")
"""The same inside a cell: with a decimal comma, spreadsheets split cells at semicolons and tabs."""


async def csv_response(export: Export, page_request: PageRequest) -> Response:
    """A page's list with its filters, up to MAX_ROWS items from the cursor in the page's query on. If the file is
    incomplete, its last row says so and links to the next part."""
    name = export.path.rstrip("/").rpartition("/")[2]
    headers = {"content-disposition": f'attachment; filename="{name}.csv"'}
    if page_request.request.method == "HEAD":
        return Response(headers=headers, media_type=MEDIA_TYPE)
    slots, cursor = page_request.context.dependencies.admission.exports, page_request.query.get("cursor")
    pages = page_request.api.pages(export.path, *export.segments, query=export.query, cursor=cursor, at_most=MAX_ROWS)
    first = await anext(pages)  # raises the API's errors before the file begins
    return SlotResponse(
        _lines(export, page_request, first, pages), slots, page_request.identity.key, MEDIA_TYPE, headers
    )


async def _lines(
    export: Export, page_request: PageRequest, page: Mapping[str, Any] | None, pages: AsyncIterator[Mapping[str, Any]]
) -> AsyncGenerator[bytes, None]:
    yield line(export.columns)
    cursor = None
    while page is not None:
        for item in page["items"]:
            if not page_request.context.dependencies.access.holds(page_request.identity):
                raise Unauthorized("the token has ended: this export is not complete")
            yield line(path(item) if callable(path) else value_at(item, path) for path in export.columns.values())
            await asyncio.sleep(0)  # if the server takes each part at once, only this lets other tasks run
        cursor = page.get("next_cursor")
        page = await anext(pages, None)
    if cursor is not None:
        url = page_request.base_url + page_request.path(format="csv", cursor=cursor)
        yield line([english()("base.export_goes_on", url=url), *[""] * (len(export.columns) - 1)])


def line(cells: Any) -> bytes:
    """One line of CSV."""
    written = io.StringIO()
    csv.writer(written).writerow(safe(cell) for cell in cells)
    return written.getvalue().encode("utf-8", "replace")


def safe(value: object) -> str:
    """A cell that no spreadsheet runs. Text that looks like a formula gets an apostrophe in front, also after a
    character at which a spreadsheet may split the cell."""
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
    """The value at a dotted path; None if there is none."""
    value: Any = item
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
