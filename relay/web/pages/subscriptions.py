"""The page /ui/subscriptions."""

from functools import partial

from relay.web.page import Content, Page, Visit

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)


@page("GET /ui/subscriptions", live=True)
async def subscriptions(visit: Visit) -> Content:
    """Not built yet."""
    return Content(template="soon.html", title="subscriptions")
