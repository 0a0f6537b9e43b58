"""The accounts at Revor, at /ui/sources: what polling costs and gains, and the accounts that jobs are sent from."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from relay.clock import from_rfc3339, to_rfc3339
from relay.web.charts import Point
from relay.web.page import PAGE_ITEMS, Content, Export, Page, PageRequest, equivalent
from relay.web.texts import english

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)

FIGURES = "requests_own,requests_others,price_seconds,detection_delay_seconds,jobs_open"
DAY_SECONDS = 86_400
MAX_CHARTS = 6
"""Accounts that get charts; the page of one account has them always."""
COLUMNS = {
    "source": "source",
    "account": "account",
    "state": "state",
    "open jobs": "open_jobs",
    "own requests per second": "own_requests_per_second",
    "others requests per second": "others_requests_per_second",
    "price seconds": "price_seconds",
    "expected delay seconds": "expected_detection_delay_seconds",
}


@page("GET /ui/sources", live=True)
async def sources(visit: PageRequest) -> Content:
    """Each account's budget, and the accounts that jobs are sent from."""
    found = await visit.api.get("/v1/sources", query={"limit": PAGE_ITEMS, "cursor": visit.query.get("cursor")})
    items: Sequence[Mapping[str, Any]] = found["items"]
    state = visit.asked("state")
    senders = await visit.api.get("/v1/connect-accounts", query={**state, "limit": PAGE_ITEMS})
    charts = await _charts(visit, [f"{one['source']}/{one['account']}" for one in items[:MAX_CHARTS]])
    return Content(
        template="sources.html",
        title=english()("sources.title"),
        values={
            "sources": items,
            "next_cursor": found["next_cursor"],
            "charts": charts,
            "senders": senders["items"],
            "more_senders": senders["next_cursor"],
            "asked": state,
        },
        equivalent=equivalent(["relay", "sources"], "GET /v1/sources"),
        export=Export(path="/v1/sources", columns=COLUMNS),
    )


async def _charts(visit: PageRequest, accounts: Sequence[str]) -> Mapping[str, Mapping[str, list[Point]]]:
    """What is charted of each account: a day by hours."""
    query = {"name": FIGURES, "span": "hour", "label": ",".join(accounts), "since": to_rfc3339(visit.now - DAY_SECONDS)}
    answer = await visit.api.allowed("/v1/figures", query=query) if accounts else None
    if answer is None:
        return {}
    points = {(one["label"], one["name"]): one["points"] for one in answer["items"]}

    def of(account: str, name: str, value: str) -> list[Point]:
        return [(from_rfc3339(one["time"]), one[value]) for one in points[account, name]]

    return {
        account: {
            "own": of(account, "requests_own", "total"),
            "others": of(account, "requests_others", "total"),
            "price": of(account, "price_seconds", "total"),
            "p50": of(account, "detection_delay_seconds", "p50"),
            "p95": of(account, "detection_delay_seconds", "p95"),
        }
        for account in accounts
    }
