"""The page /ui/intents."""

from functools import partial

from relay.web.page import Content, Page, Visit

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)


@page("GET /ui/intents", live=True)
async def intents(visit: Visit) -> Content:
    """Not built yet."""
    return Content(template="soon.html", title="intents")
