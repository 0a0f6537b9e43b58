"""The page /ui."""

from functools import partial

from relay.web.page import Content, Page, Visit

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)


@page("GET /ui", live=True)
async def overview(visit: Visit) -> Content:
    """Not built yet."""
    return Content(template="soon.html", title="overview")
