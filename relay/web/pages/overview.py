"""The overview at /ui: the worst thing and whose turn it is, a card for each thing that needs someone, and figures."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from relay.web.api_client import together
from relay.web.concerns import Concern, Seen, concerns, first_sentence, reads, seen_in
from relay.web.figures import Figures, figures_of, hours_query, minutes_query, waiting_now
from relay.web.page import Content, PageRequest, equivalent, page
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
        title=english()("overview.title"),
        values={
            "concerns": [(one, buttons_of(page_request, one)) for one in found[:CARDS]],
            "count": len(found),
            "first": first_sentence(found, open_jobs),
            "figures": figures,
            "waiting": waiting_now(seen.pending, figures),
            "groups": [(group, path_of(group)) for group in groups],
            "more_groups": more_groups,
            "sources": seen.sources,
            "open_jobs": open_jobs,
        },
        equivalent=equivalent(["relay", "status"], "GET /readyz"),
    )


async def seen_by(page_request: PageRequest) -> Seen:
    """What may need someone."""
    wanted = reads(page_request.now)
    ready, *answers = await together(
        page_request.api.get("/readyz", also=503),  # when it is not ready, this page is needed most
        *(page_request.api.allowed(one.path, query=one.query) for one in wanted.values()),
    )
    return seen_in(ready, dict(zip(wanted, answers, strict=True)))


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


class Button(NamedTuple):
    """An act that the token may do. `posts`: it acts by a POST. `filled`: it is what is asked. `after`: it is for after
    the fix."""

    label: str
    path: str
    posts: bool
    filled: bool
    after: bool


def buttons_of(page_request: PageRequest, concern: Concern) -> Sequence[Button]:
    """The acts of a concern that the token may do."""
    allowed = [act for act in concern.acts if page_request.may(act.scope)]
    return [
        Button(
            label=english()(f"overview.act_{act.key}", **act.values),
            path=act.path,
            posts=act.posts,
            filled=concern.asks and act is concern.acts[0] and not act.after,
            after=act.after,
        )
        for act in allowed
    ]
