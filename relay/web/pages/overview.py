"""The overview at /ui: the worst thing and whose turn it is, a card for each thing that needs someone, and figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from relay.web.api_client import together
from relay.web.campaigns import finish_of
from relay.web.concerns import concerns, first_sentence
from relay.web.figures import Figures, figures_of, hours_query, minutes_query, waiting_now
from relay.web.page import Content, PageRequest, equivalent, page
from relay.web.pages.cards import cards_of, seen_by
from relay.web.pages.groups import forecast_of, path_of
from relay.web.texts import english

CARDS = 10
"""Maximum cards."""
GROUPS = 5
"""Open campaigns that are shown, the newest: the forecast of each is worth a read of hundreds of jobs."""

Answer = Mapping[str, Any]


@page("GET /ui", live=True)
async def overview(page_request: PageRequest) -> Content:
    """The worst thing in one sentence, a card for each that needs someone, four figures, campaigns and sources."""
    # beside deliveries each read waits for its turn, so several are under way at once
    seen, figures, (groups, more_groups) = await together(
        seen_by(page_request), _figures(page_request), _groups(page_request)
    )
    found = concerns(seen, page_request.now, page_request.context.settings.search_keys)
    open_jobs = sum(one["open_jobs"] for one in seen.sources)
    return Content(
        template="overview.html",
        title=english()("base.overview"),
        values={
            "concerns": cards_of(page_request, found[:CARDS]),
            "count": len(found),
            "first": first_sentence(found, open_jobs),
            "figures": figures,
            "waiting": waiting_now(seen.pending, figures),
            "groups": [(group, path_of(group), finish_of(group, found, page_request.now)) for group in groups],
            "more_groups": more_groups,
            "sources": seen.sources,
            "open_jobs": open_jobs,
        },
        equivalent=equivalent(["relay", "status"], "GET /readyz"),
    )


async def _figures(page_request: PageRequest) -> Figures | None:
    """The figures; None if there are none, or the caller may not read them."""
    hours = await page_request.api.allowed("/v1/figures", query=hours_query(page_request.now))
    if hours is None:
        return None
    minutes = None
    if page_request.identity.account is None:  # of one account there are hours only
        minutes = await page_request.api.allowed("/v1/figures", query=minutes_query(page_request.now))
    return figures_of(hours, minutes, page_request.now)


async def _groups(page_request: PageRequest) -> tuple[Sequence[Answer], bool]:
    """The newest open campaigns, with their forecasts, and whether there are more."""
    found = await page_request.api.allowed("/v1/groups", query={"state": "open", "limit": GROUPS})
    if found is None:
        return (), False
    groups = await together(*(forecast_of(page_request, group) for group in found["items"]))
    return groups, found["next_cursor"] is not None
