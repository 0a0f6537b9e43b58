"""The page /ui/tokens."""

from functools import partial

from relay.web.page import Content, Page, Visit

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)


@page("GET /ui/tokens", live=True)
async def tokens(visit: Visit) -> Content:
    """Not built yet."""
    return Content(template="soon.html", title="tokens")
