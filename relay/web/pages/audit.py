"""The audit at /ui/audit: who did what, when and from where, and whether the record is intact. For admins."""

from functools import partial

from relay.api.catalogue import OPERATIONS
from relay.web.page import PAGE_ITEMS, Content, Export, Page, PageRequest, equivalent
from relay.web.texts import english

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)

FILTERS = ("actor", "action", "since", "until")
COLUMNS = {
    "at": "at",
    "actor": "actor",
    "token": "token_id",
    "action": "action",
    "target": "target",
    "address": "address",
    "result": "result",
    "status": "status",
    "count": "count",
    "request": "request_id",
    "detail": "detail",
    "number": "number",
}
ACTIONS = tuple(
    sorted({one.audited for one in OPERATIONS if isinstance(one.audited, str)} | {"settings.reload", "node.start"})
)
"""Actions to choose from. Others can be typed."""
text = english()


@page("GET /ui/audit", live=True)
async def audit(visit: PageRequest) -> Content:
    """Its entries, newest first."""
    asked = visit.asked(*FILTERS)
    query = {**asked, "limit": PAGE_ITEMS, "cursor": visit.query.get("cursor")}
    found = await visit.api.get("/v1/audit", query=query)
    options = [part for name, value in asked.items() for part in (f"--{name}", value)]
    return Content(
        template="audit.html",
        title=text("audit.title"),
        values={"entries": found["items"], "next_cursor": found["next_cursor"], "asked": asked, "actions": ACTIONS},
        equivalent=equivalent(["relay", "audit", *options], "GET /v1/audit", query=asked),
        export=Export(path="/v1/audit", query=asked, columns=COLUMNS),
    )


@page("POST /ui/audit/verify")
async def verify(visit: PageRequest) -> Content:
    """Whether no entry was changed, inserted or removed."""
    found = await visit.api.get("/v1/audit/verify")
    return Content(
        template="audit_verified.html",
        title=text("audit.verified"),
        values={"result": found},
        equivalent=equivalent(["relay", "audit", "verify"], "GET /v1/audit/verify"),
    )
