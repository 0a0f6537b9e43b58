"""The page /ui/sources."""

from functools import partial

from relay.web.page import Content, Page, Visit

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)


@page("GET /ui/sources", live=True)
async def sources(visit: Visit) -> Content:
    """Not built yet."""
    return Content(template="soon.html", title="sources")
