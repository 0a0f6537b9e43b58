"""The incidents at /ui/incidents: failures with one cause, and the jobs of each."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from relay.web.page import PAGE_ITEMS, Content, Export, Page, PageRequest, equivalent
from relay.web.texts import english

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)

COLUMNS = {
    "id": "id",
    "what": "what",
    "state": "state",
    "source": "source",
    "account": "account",
    "code": "code",
    "failed": "failed",
    "fix": "fix",
    "opened at": "opened_at",
    "closed at": "closed_at",
}
JOB_COLUMNS = {
    "id": "id",
    "status": "status",
    "group": "group",
    "repeat": "repeat",
    "metadata": "metadata",
    "closed at": "closed_at",
}


@page("GET /ui/incidents", live=True)
async def incidents(visit: PageRequest) -> Content:
    """The incidents, newest first."""
    asked = visit.asked("state", "source", "account")
    query = {**asked, "limit": PAGE_ITEMS, "cursor": visit.query.get("cursor")}
    found = await visit.api.get("/v1/incidents", query=query)
    options = [part for name, value in asked.items() for part in (f"--{name}", value)]
    return Content(
        template="incidents.html",
        title=english()("incidents.title"),
        values={"incidents": found["items"], "next_cursor": found["next_cursor"], "asked": asked},
        equivalent=equivalent(["relay", "incidents", "list", *options], "GET /v1/incidents", query=asked),
        export=Export(path="/v1/incidents", query=asked, columns=COLUMNS),
    )


@page("GET /ui/incidents/{id}", live=True)
async def incident(visit: PageRequest) -> Content:
    """One incident: what happened, what to do, and which jobs failed."""
    asked = visit.asked("repeat")
    found = await visit.api.get("/v1/incidents/{}", visit.id())
    values = {"incident": found, "asked": asked, "jobs": None, "next_cursor": None}
    values |= {"subscription": await _subscription(visit, found["subscription"])}
    export = None
    if found["kind"] == "jobs":
        query = {**asked, "limit": PAGE_ITEMS, "cursor": visit.query.get("cursor")}
        failed = await visit.api.get("/v1/incidents/{}/jobs", visit.id(), query=query)
        values |= {"jobs": failed["items"], "next_cursor": failed["next_cursor"]}
        export = Export(path="/v1/incidents/{}/jobs", segments=(visit.id(),), query=asked, columns=JOB_COLUMNS)
    return Content(
        template="incident.html",
        title=english()("incidents.one"),
        values=values,
        equivalent=equivalent(["relay", "incidents", "show", visit.id()], "GET /v1/incidents/{}", visit.id()),
        export=export,
    )


async def _subscription(visit: PageRequest, id: str | None) -> Mapping[str, Any] | None:
    """The subscription of an incident; None if there is none, or the caller may not read it."""
    if id is None:
        return None
    found: Mapping[str, Any] | None = await visit.api.allowed("/v1/subscriptions/{}", id)
    return found
