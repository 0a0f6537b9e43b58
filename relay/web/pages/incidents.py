"""The page /ui/incidents."""

from functools import partial

from relay.web.page import Content, Page, Visit

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)


@page("GET /ui/incidents", live=True)
async def incidents(visit: Visit) -> Content:
    """Not built yet."""
    return Content(template="soon.html", title="incidents")
