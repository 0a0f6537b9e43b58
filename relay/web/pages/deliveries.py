"""The page /ui/deliveries."""

from functools import partial

from relay.web.page import Content, Page, Visit

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)


@page("GET /ui/deliveries", live=True)
async def deliveries(visit: Visit) -> Content:
    """Not built yet."""
    return Content(template="soon.html", title="deliveries")
