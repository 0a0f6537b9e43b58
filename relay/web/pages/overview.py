"""The overview at /ui: whether everything is well, what is late, what did not arrive, and what to do."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from relay.clock import from_rfc3339, to_rfc3339
from relay.web.charts import Point
from relay.web.concerns import LATE_SECONDS, MAX_INTENTS, Seen, concerns
from relay.web.page import Content, Page, Visit, equivalent
from relay.web.pages.groups import path_of
from relay.web.texts import english

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)

FIGURES = "jobs_open,jobs_ended,jobs_failed,detection_delay_seconds,deliveries_undelivered,attempts"
DAY_SECONDS = 86_400
FEW_POINTS = 6
"""With fewer hours than this the minutes are shown: the relay is new."""
MAX_SUBSCRIPTIONS = 200
LIST = 8
NEWEST = 500
"""Deliveries of a state that are counted: of an outage there may be very many."""
BY_SINK: Mapping[str, object] = {"group_by": "sink", "newest": NEWEST, "limit": LIST}

Answer = Mapping[str, Any]


@page("GET /ui", live=True)
async def overview(visit: Visit) -> Content:
    """Health in one sentence, four figures, what needs a person, groups and budgets."""
    ready = await visit.desk.get("/readyz", also=503)  # when it is not ready, this page is needed most
    sources = await _items(visit, "/v1/sources")
    pending, dead, uncertain, late = await asyncio.gather(  # the longest reads
        visit.desk.allowed("/v1/deliveries", query={"state": "pending", **BY_SINK}),
        _deliveries(visit, "dead"),
        _deliveries(visit, "uncertain"),
        _deliveries(visit, "pending", until=to_rfc3339(visit.now - LATE_SECONDS)),
    )
    seen = Seen(
        ready=ready,
        sources=sources,
        incidents=await _items(visit, "/v1/incidents", state="open", limit=LIST),
        accounts=[
            *await _items(visit, "/v1/connect-accounts", state="needs_reconnect", limit=LIST),
            *await _items(visit, "/v1/connect-accounts", state="cannot_send", limit=LIST),
        ],
        subscriptions=await _items(visit, "/v1/subscriptions", limit=MAX_SUBSCRIPTIONS),
        dead=dead,
        uncertain=uncertain,
        late=late,
        intents=await _items(visit, "/v1/intents", limit=MAX_INTENTS),
    )
    found = concerns(seen, visit.now)
    figures = await _figures(visit)
    groups = await _items(visit, "/v1/groups", state="open", limit=LIST)
    return Content(
        template="overview.html",
        title=english()("overview.title"),
        values={
            "ready": ready["status"] == "ok",
            "concerns": found,
            "urgent": sum(one.level == "bad" for one in found),
            "figures": figures,
            "on_their_way": _on_their_way(pending, figures.get("undelivered", ())),
            "groups": [(await _forecast(visit, group), path_of(group)) for group in groups],
            "sources": sources,
            "open_jobs": sum(one["open_jobs"] for one in sources),
        },
        # the state of the relay, and what its jobs failed of: two commands say what this page says
        equivalent=replace(
            equivalent(["relay", "status"], "GET /readyz"), command="relay status; relay incidents list --state open"
        ),
    )


async def _items(visit: Visit, path: str, **query: object) -> Sequence[Answer]:
    """The first items of a list; none if the caller may not read it."""
    answer = await visit.desk.allowed(path, query=query)
    return () if answer is None else answer["items"]


async def _deliveries(visit: Visit, state: str, **more: str) -> Sequence[Answer]:
    """The newest ones of a state, by sink. `least`: whether there may be more than were counted."""
    query = {"state": state, **BY_SINK, **more}
    found = await visit.desk.allowed("/v1/deliveries", query=query)
    return () if found is None else [{**one, "least": found["truncated"]} for one in found["items"]]


def _on_their_way(pending: Answer | None, measured: Sequence[Point]) -> float | None:
    """The deliveries that wait now. Beyond those that were counted: the figure of the last minute, if it is larger."""
    if pending is None:
        return None
    last = measured[-1][1] if measured and pending["truncated"] else None
    scanned: int = pending["scanned"]
    return max(scanned, last or 0)


async def _forecast(visit: Visit, group: Answer) -> Answer:
    query = {"source": group["source"], "account": group["account"]}
    return await visit.desk.allowed("/v1/groups/{}", group["name"], query=query) or group


async def _figures(visit: Visit) -> Mapping[str, Any]:
    """The figures of a day, by name: points and the newest value. Of a new relay those of its first hours."""
    since = to_rfc3339(visit.now - DAY_SECONDS)
    answer = await visit.desk.allowed("/v1/figures", query={"name": FIGURES, "span": "hour", "since": since})
    if answer is None:
        return {}
    span = "hour"
    few = max((len(one["points"]) for one in answer["items"]), default=0) < FEW_POINTS
    if few and visit.identity.account is None:  # of one account there are hours only
        span, since = "minute", to_rfc3339(visit.now - FEW_POINTS * 3_600)
        query = {"name": FIGURES, "span": span, "since": since}
        answer = await visit.desk.allowed("/v1/figures", query=query) or answer
    by_name = {one["name"]: one["points"] for one in answer["items"]}
    per_hour = 60 if span == "minute" else 1
    ended = _points(by_name, "jobs_ended", "count")
    return {
        "open": _points(by_name, "jobs_open", "total"),
        "ended": ended,
        "ended_per_hour": sum(value or 0 for _, value in ended[-per_hour:]) if ended else None,
        "delay_p50": _points(by_name, "detection_delay_seconds", "p50"),
        "delay_p95": _points(by_name, "detection_delay_seconds", "p95"),
        "undelivered": _points(by_name, "deliveries_undelivered", "total"),
        "span": span,
    }


def _points(by_name: Mapping[str, Sequence[Answer]], name: str, value: str) -> list[Point]:
    return [(from_rfc3339(one["time"]), one[value]) for one in by_name.get(name, ())]
