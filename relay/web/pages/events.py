"""The page /ui/events."""

from functools import partial

from relay.web.page import Content, Page, Visit

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)


@page("GET /ui/events", live=True)
async def events(visit: Visit) -> Content:
    """Not built yet."""
    return Content(template="soon.html", title="events")
