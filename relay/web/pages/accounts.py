"""The sending accounts at /ui/accounts: which can send, what waits for each, and whose turn it is."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from relay.web import senders
from relay.web.concerns import Concern
from relay.web.page import Content, PageRequest, columns, list_page, page
from relay.web.pages.cards import Button, buttons_of, cards_of, concerns_for

COLUMNS = columns("id name channel source account state since open_jobs failed_jobs trouble")
MAX_COUNTED = 200
"""With more sending accounts the states have no counts."""
MAX_SOURCES = 50
CARDS = 4
"""Cards of concerns."""


@page("GET /ui/accounts", live=True)
async def accounts(page_request: PageRequest) -> Content:
    """The sending accounts, those that need someone first."""
    made = await list_page(
        page_request, "accounts", "/v1/connect-accounts", columns=COLUMNS, filters=("state", "source", "account")
    )
    every = await page_request.api.get("/v1/connect-accounts", query={"limit": MAX_COUNTED})
    concerns = await concerns_for(page_request)
    found = [one for one in concerns if _is_about_senders(one)]
    return made.plus(
        items=sorted(made.values["items"], key=senders.urgency),
        cards=cards_of(page_request, [_without_this_page(one) for one in found[:CARDS]]),
        others=[one for one in concerns[:1] if one not in found],
        more_cards=max(len(found) - CARDS, 0),
        blocked=_blocked(page_request, found),
        counts=None if every["next_cursor"] else senders.counts_of(every["items"]),
        websites=await websites(page_request),
        s=senders.WORDS,
    )


def _is_about_senders(concern: Concern) -> bool:
    """True of a concern of one sending account, or of a source from which nothing can be sent."""
    reach = concern.reach
    return bool(reach.accounts) and reach.groups is None and (reach.sender is not None or reach.code is None)


def _without_this_page(concern: Concern) -> Concern:
    """The concern without what leads to this page."""
    return replace(concern, acts=[act for act in concern.acts if not act.path.startswith("/ui/accounts")])


def _blocked(
    page_request: PageRequest, concerns: Sequence[Concern]
) -> Mapping[tuple[str, str], tuple[Concern, Button | None]]:
    """The concern that blocks all sending accounts of an account, and the button that fixes it. Accounts without a
    concern are left out."""
    found: dict[tuple[str, str], tuple[Concern, Button | None]] = {}
    for one in concerns:
        if one.reach.sender is None and one.word is not None:
            asked = next((button for button in buttons_of(page_request, one) if button.filled), None)
            found |= dict.fromkeys(one.reach.accounts, (one, asked))
    return found


async def websites(page_request: PageRequest) -> Mapping[str, str | None]:
    """Where people work with each source in a browser; None if that is not known."""
    return {source: one["website"] for (source, _), one in (await sources_of(page_request)).items()}


async def sources_of(page_request: PageRequest) -> Mapping[tuple[str, str], Mapping[str, Any]]:
    """The sources by their name and account; none if the caller may not read them."""
    found = await page_request.api.allowed("/v1/sources", query={"limit": MAX_SOURCES}) or {"items": ()}
    return {(one["source"], one["account"]): one for one in found["items"]}
