"""The overview at /ui: whether everything is well, what is late, what did not arrive, and what to do."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from relay.clock import from_rfc3339, to_rfc3339
from relay.web.api_client import together
from relay.web.charts import Point
from relay.web.concerns import LATE_SECONDS, MAX_INTENTS, Seen, concerns
from relay.web.page import Content, PageRequest, equivalent, page
from relay.web.pages.groups import path_of
from relay.web.texts import english

ENDED = "jobs_ended,jobs_failed"
FIGURES = f"jobs_open,{ENDED},detection_delay_seconds,deliveries_undelivered"
HOUR_SECONDS = 3_600
DAY_SECONDS = 86_400
FEW_POINTS = 6
"""With fewer hours than this the minutes are shown: the relay is new."""
MAX_SUBSCRIPTIONS = 200
LIST = 8
GROUPS = 5
"""Open groups that are shown, the newest: the forecast of each is worth a read of hundreds of jobs."""
NEWEST = 500
"""Deliveries of a state that are counted: of an outage there may be very many."""
BY_SINK: Mapping[str, object] = {"group_by": "sink", "newest": NEWEST, "limit": LIST}

Answer = Mapping[str, Any]


@page("GET /ui", live=True)
async def overview(page_request: PageRequest) -> Content:
    """Health in one sentence, four figures, what needs a person, groups and budgets."""
    # beside deliveries each read waits for its turn, so several are under way at once
    (pending, late), (dead, uncertain), figures, (groups, more_groups), seen = await together(
        _waiting(page_request),
        _ended(page_request),
        _figures(page_request),
        _groups(page_request),
        _needing(page_request),
    )
    seen = replace(seen, dead=dead, uncertain=uncertain, late=late)
    found = concerns(seen, page_request.now)
    return Content(
        template="overview.html",
        title=english()("overview.title"),
        values={
            "ready": seen.ready["status"] == "ok",
            "concerns": found,
            "urgent": sum(one.level == "bad" for one in found),
            "figures": figures,
            "on_their_way": _on_their_way(pending, figures.get("undelivered", ())),
            "groups": [(group, path_of(group)) for group in groups],
            "more_groups": more_groups,
            "sources": seen.sources,
            "open_jobs": sum(one["open_jobs"] for one in seen.sources),
        },
        # the state of the relay, and what its jobs failed of: two commands say what this page says
        equivalent=replace(
            equivalent(["relay", "status"], "GET /readyz"), command="relay status; relay incidents list --state open"
        ),
    )


async def _waiting(page_request: PageRequest) -> tuple[Answer | None, Sequence[Answer]]:
    """The deliveries that wait, and those of them that are late."""
    pending = await page_request.api.allowed("/v1/deliveries", query={"state": "pending", **BY_SINK})
    return pending, await _deliveries(page_request, "pending", until=to_rfc3339(page_request.now - LATE_SECONDS))


async def _ended(page_request: PageRequest) -> tuple[Sequence[Answer], Sequence[Answer]]:
    """The deliveries that were given up, and those in doubt."""
    return await _deliveries(page_request, "dead"), await _deliveries(page_request, "uncertain")


async def _groups(page_request: PageRequest) -> tuple[Sequence[Answer], bool]:
    """The newest open groups, with their forecasts, and whether there are more."""
    found = await page_request.api.allowed("/v1/groups", query={"state": "open", "limit": GROUPS})
    if found is None:
        return (), False
    groups = await together(*(_forecast(page_request, group) for group in found["items"]))
    return groups, found["next_cursor"] is not None


async def _needing(page_request: PageRequest) -> Seen:
    """Everything besides deliveries that may need a person."""
    intents = await _items(page_request, "/v1/intents", limit=MAX_INTENTS)
    return Seen(
        ready=await page_request.api.get("/readyz", also=503),  # when it is not ready, this page is needed most
        sources=await _items(page_request, "/v1/sources"),
        incidents=await _items(page_request, "/v1/incidents", state="open", limit=LIST),
        accounts=[
            *await _items(page_request, "/v1/connect-accounts", state="needs_reconnect", limit=LIST),
            *await _items(page_request, "/v1/connect-accounts", state="cannot_send", limit=LIST),
        ],
        subscriptions=await _items(page_request, "/v1/subscriptions", limit=MAX_SUBSCRIPTIONS),
        intents=intents,
        upstream=page_request.upstream(*(one["source"] for one in intents)),
    )


async def _items(page_request: PageRequest, path: str, **query: object) -> Sequence[Answer]:
    """The first items of a list; none if the caller may not read it."""
    answer = await page_request.api.allowed(path, query=query)
    return () if answer is None else answer["items"]


async def _deliveries(page_request: PageRequest, state: str, **more: str) -> Sequence[Answer]:
    """The newest ones of a state, by sink. `least`: whether there may be more than were counted."""
    query = {"state": state, **BY_SINK, **more}
    found = await page_request.api.allowed("/v1/deliveries", query=query)
    return () if found is None else [{**one, "least": found["truncated"]} for one in found["items"]]


def _on_their_way(pending: Answer | None, measured: Sequence[Point]) -> float | None:
    """The deliveries that wait now. Beyond those that were counted: the figure of the last minute, if it is larger."""
    if pending is None:
        return None
    last = measured[-1][1] if measured and pending["truncated"] else None
    scanned: int = pending["scanned"]
    return max(scanned, last or 0)


async def _forecast(page_request: PageRequest, group: Answer) -> Answer:
    query = {"source": group["source"], "account": group["account"]}
    return await page_request.api.allowed("/v1/groups/{}", group["name"], query=query) or group


async def _figures(page_request: PageRequest) -> Mapping[str, Any]:
    """The figures of a day, by name: points and the newest value. Of a new relay those of its first hours."""
    hours = await _figure_points(page_request, FIGURES, "hour", DAY_SECONDS)
    if hours is None:
        return {}
    shown = latest = hours
    if page_request.identity.account is None:  # of one account there are hours only
        few = max(map(len, hours.values()), default=0) < FEW_POINTS
        seconds = FEW_POINTS * HOUR_SECONDS if few else HOUR_SECONDS
        latest = await _figure_points(page_request, FIGURES if few else ENDED, "minute", seconds) or hours
        shown = latest if few else hours
    return {
        "open": _points(shown, "jobs_open", "total"),
        "ended": _points(shown, "jobs_ended", "count"),
        "ended_lately": _lately(page_request, latest, "jobs_ended"),
        "failed_lately": _lately(page_request, latest, "jobs_failed"),
        "by_hour": latest is hours,
        "delay_p50": _points(shown, "detection_delay_seconds", "p50"),
        "delay_p95": _points(shown, "detection_delay_seconds", "p95"),
        "undelivered": _points(shown, "deliveries_undelivered", "total"),
    }


async def _figure_points(
    page_request: PageRequest, names: str, span: str, seconds: float
) -> Mapping[str, Sequence[Answer]] | None:
    """The points of figures over the last `seconds`, by name; None if the caller may not read them."""
    query = {"name": names, "span": span, "since": to_rfc3339(page_request.now - seconds)}
    answer = await page_request.api.allowed("/v1/figures", query=query)
    return None if answer is None else {one["name"]: one["points"] for one in answer["items"]}


def _lately(page_request: PageRequest, by_name: Mapping[str, Sequence[Answer]], name: str) -> float:
    """The total of the spans that began within the last hour: 60 minutes, or the hour of the clock. A span in which
    nothing happened has no point, so the last points may be old."""
    return sum(count or 0 for at, count in _points(by_name, name, "count") if at > page_request.now - HOUR_SECONDS)


def _points(by_name: Mapping[str, Sequence[Answer]], name: str, value: str) -> list[Point]:
    return [(from_rfc3339(one["time"]), one[value]) for one in by_name.get(name, ())]
