"""Reads the concerns of a page, and shows them as cards."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from relay.web.api_client import together
from relay.web.concerns import NAMES, Concern, Seen, concerns, reads, seen_in
from relay.web.page import PageRequest
from relay.web.pages.deliveries import people_of
from relay.web.texts import english


async def seen_by(page_request: PageRequest) -> Seen:
    """Reads the lists in which concerns are found."""
    wanted = reads(page_request.now)
    ready, *answers = await together(
        page_request.api.get("/readyz", also=503),  # when it is not ready, pages are needed most
        *(page_request.api.allowed(one.path, query=one.query) for one in wanted.values()),
    )
    seen = seen_in(ready, dict(zip(wanted, answers, strict=True)))
    return replace(seen, doubted=await _doubted(page_request)) if seen.uncertain else seen


async def _doubted(page_request: PageRequest) -> Sequence[str]:
    """The people of the newest records in doubt: without a name, a record cannot be found in the CRM."""
    found = await page_request.api.allowed("/v1/deliveries", query={"state": "uncertain", "limit": NAMES})
    named = await people_of(page_request, () if found is None else found["items"])
    return [name for name in dict.fromkeys(named.values()) if name]


async def concerns_for(page_request: PageRequest) -> Sequence[Concern]:
    """The concerns, the worst first."""
    return concerns(await seen_by(page_request), page_request.now, page_request.context.settings.search_keys)


class Button(NamedTuple):
    """An act that the token may do. `posts`: it acts by a POST. `filled`: it is asked for now. `after`: it is for after
    the fix."""

    label: str
    path: str
    posts: bool
    filled: bool
    after: bool


def cards_of(page_request: PageRequest, found: Sequence[Concern]) -> Sequence[tuple[Concern, Sequence[Button]]]:
    """These concerns with what the visitor may do about each."""
    return [(one, buttons_of(page_request, one)) for one in found]


def buttons_of(page_request: PageRequest, concern: Concern) -> Sequence[Button]:
    """The acts of a concern that the token may do."""
    allowed = [act for act in concern.acts if page_request.may(act.scope)]
    return [
        Button(
            label=english()(f"overview.act_{act.key}", **act.values),
            path=act.path,
            posts=act.posts,
            filled=concern.level == "bad" and concern.asks and act is concern.acts[0] and not act.after,
            after=act.after,
        )
        for act in allowed
    ]
