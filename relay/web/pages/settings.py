"""The page /ui/settings."""

from functools import partial

from relay.web.page import Content, Page, Visit

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)


@page("GET /ui/settings", live=True)
async def settings(visit: Visit) -> Content:
    """Not built yet."""
    return Content(template="soon.html", title="settings")
