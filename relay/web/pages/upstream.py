"""The upstream: its accounts at /ui/sources, with what polling costs and gains."""

from collections.abc import Mapping, Sequence

from relay.clock import from_rfc3339, to_rfc3339
from relay.core.jobs.job import DEFAULT_SOURCE
from relay.web.charts import Point
from relay.web.page import Content, PageRequest, columns, list_page, page
from relay.web.source_words import WORDS, urgency

FIGURES = "requests_own,requests_others,detection_delay_seconds"
DAY_SECONDS = 86_400
MAX_CHARTS = 6
"""Accounts that get charts."""
SOURCE_COLUMNS = columns(
    "source account state open_jobs own_requests_per_second others_requests_per_second "
    "expected_delay_seconds=expected_detection_delay_seconds"
)


@page("GET /ui/sources", live=True)
async def sources(page_request: PageRequest) -> Content:
    """Each account's key and budget, and how soon the end of a job is known."""
    made = await list_page(page_request, "sources", "/v1/sources", columns=SOURCE_COLUMNS)
    shown = [f"{one['source']}/{one['account']}" for one in made.values["items"][:MAX_CHARTS]]
    items = sorted(made.values["items"], key=urgency)
    return made.plus(items=items, charts=await _charts(page_request, shown), s=WORDS, default=DEFAULT_SOURCE)


async def _charts(page_request: PageRequest, accounts: Sequence[str]) -> Mapping[str, Mapping[str, list[Point]]]:
    """The charted figures of each account: a day by hours."""
    query = {
        "name": FIGURES,
        "span": "hour",
        "label": ",".join(accounts),
        "since": to_rfc3339(page_request.now - DAY_SECONDS),
    }
    answer = await page_request.api.allowed("/v1/figures", query=query) if accounts else None
    if answer is None:
        return {}
    points = {(one["label"], one["name"]): one["points"] for one in answer["items"]}

    def of(account: str, name: str, value: str) -> list[Point]:
        return [(from_rfc3339(one["time"]), one[value]) for one in points[account, name]]

    return {
        account: {
            "own": of(account, "requests_own", "total"),
            "others": of(account, "requests_others", "total"),
            "p50": of(account, "detection_delay_seconds", "p50"),
            "p95": of(account, "detection_delay_seconds", "p95"),
        }
        for account in accounts
    }
