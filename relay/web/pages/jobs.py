"""The list of jobs at /ui/jobs, and one job at /ui/jobs/{id}."""

from functools import partial

from relay.web.page import PAGE_ITEMS, Content, Done, Export, Page, Visit, equivalent
from relay.web.texts import english

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)
FILTERS = ("status", "open", "group", "source", "account")
COLUMNS = {
    "id": "id",
    "uid": "uid",
    "status": "status",
    "source": "source",
    "account": "account",
    "group": "group",
    "tracked at": "tracked_at",
    "metadata": "metadata",
}


@page("GET /ui/jobs", live=True)
async def jobs(visit: Visit) -> Content:
    """The jobs, newest first."""
    asked = visit.asked(*FILTERS)
    query = {**asked, "limit": PAGE_ITEMS, "cursor": visit.query.get("cursor")}
    found = await visit.desk.get("/v1/jobs", query=query)
    options = [part for name, value in asked.items() for part in (f"--{name}", value)]
    return Content(
        template="jobs.html",
        title=english()("jobs.title"),
        values={"jobs": found["items"], "next_cursor": found["next_cursor"], "asked": asked},
        equivalent=equivalent(["relay", "jobs", "list", *options], "GET /v1/jobs", query=asked),
        export=Export(path="/v1/jobs", query=asked, columns=COLUMNS),
    )


@page("POST /ui/jobs/{id}/refresh")
async def refresh(visit: Visit) -> Done:
    """Polls the job again at once."""
    await visit.desk.post("/v1/jobs/{}/refresh", visit.id())
    return Done(key="job_refreshed", to=f"/ui/jobs/{visit.id()}")
