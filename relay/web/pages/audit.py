"""The page /ui/audit."""

from functools import partial

from relay.web.page import Content, Page, Visit

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)


@page("GET /ui/audit", live=True)
async def audit(visit: Visit) -> Content:
    """Not built yet."""
    return Content(template="soon.html", title="audit")
