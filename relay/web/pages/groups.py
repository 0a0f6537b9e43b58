"""The page /ui/groups."""

from functools import partial

from relay.web.page import Content, Page, Visit

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)


@page("GET /ui/groups", live=True)
async def groups(visit: Visit) -> Content:
    """Not built yet."""
    return Content(template="soon.html", title="groups")
