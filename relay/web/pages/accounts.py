"""The sending accounts at /ui/accounts: which can send, what waits for each, and whose turn it is."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from relay.web import senders
from relay.web.page import Content, PageRequest, columns, list_page, page
from relay.web.texts import english

COLUMNS = columns("id name channel source account state since open_jobs failed_jobs trouble")
MAX_COUNTED = 200
"""With more sending accounts the states have no counts."""
MAX_SOURCES = 50


@page("GET /ui/accounts", live=True)
async def accounts(page_request: PageRequest) -> Content:
    """The sending accounts, those that need someone first."""
    made = await list_page(
        page_request,
        "/v1/connect-accounts",
        template="accounts.html",
        title=english()("accounts.title"),
        command=["relay", "accounts", "list"],
        columns=COLUMNS,
        filters=("state", "source", "account"),
    )
    every = await page_request.api.get("/v1/connect-accounts", query={"limit": MAX_COUNTED})
    values = {
        "items": sorted(made.values["items"], key=senders.urgency),
        "broken": sorted(filter(senders.needs_someone, every["items"]), key=senders.urgency),
        "counts": None if every["next_cursor"] else senders.counts_of(every["items"]),
        "websites": await websites(page_request),
        "s": senders.WORDS,
    }
    return replace(made, values={**made.values, **values})


async def websites(page_request: PageRequest) -> Mapping[str, str | None]:
    """Where people work with each source in a browser; None if that is not known."""
    return {source: one["website"] for (source, _), one in (await sources_of(page_request)).items()}


async def sources_of(page_request: PageRequest) -> Mapping[tuple[str, str], Mapping[str, Any]]:
    """The sources by their name and account; none if the caller may not read them."""
    found = await page_request.api.allowed("/v1/sources", query={"limit": MAX_SOURCES}) or {"items": ()}
    return {(one["source"], one["account"]): one for one in found["items"]}
