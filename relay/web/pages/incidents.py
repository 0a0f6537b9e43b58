"""The incidents at /ui/incidents: failures with one cause, and the jobs of each."""

from relay.web.page import PAGE_ITEMS, Content, Export, PageRequest, columns, equivalent, list_page, page
from relay.web.texts import english

COLUMNS = columns("id what state source account code failed fix opened_at closed_at")
JOB_COLUMNS = columns("id status group repeat metadata closed_at")


@page("GET /ui/incidents", live=True)
async def incidents(page_request: PageRequest) -> Content:
    """The incidents, newest first."""
    return await list_page(
        page_request,
        "/v1/incidents",
        template="incidents.html",
        title=english()("incidents.title"),
        command=["relay", "incidents", "list"],
        columns=COLUMNS,
        filters=("state", "source", "account"),
    )


@page("GET /ui/incidents/{id}", live=True)
async def incident(page_request: PageRequest) -> Content:
    """One incident: what happened, what to do, and which jobs failed."""
    asked = page_request.asked("repeat")
    found = await page_request.api.get("/v1/incidents/{}", page_request.id())
    values = {"incident": found, "asked": asked, "jobs": None, "next_cursor": None}
    id = found["subscription"]
    values["subscription"] = None if id is None else await page_request.api.allowed("/v1/subscriptions/{}", id)
    export = None
    if found["kind"] == "jobs":
        query = {**asked, "limit": PAGE_ITEMS, "cursor": page_request.query.get("cursor")}
        failed = await page_request.api.get("/v1/incidents/{}/jobs", page_request.id(), query=query)
        values |= {"jobs": failed["items"], "next_cursor": failed["next_cursor"]}
        export = Export(path="/v1/incidents/{}/jobs", segments=(page_request.id(),), query=asked, columns=JOB_COLUMNS)
    return Content(
        template="incident.html",
        title=english()("incidents.one"),
        values=values,
        equivalent=equivalent(
            ["relay", "incidents", "show", page_request.id()], "GET /v1/incidents/{}", page_request.id()
        ),
        export=export,
    )
