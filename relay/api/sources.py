"""`/v1/sources`: the polling state of each configured account."""

from functools import partial
from typing import Annotated, Any

from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from relay.api.http import params
from relay.api.http.examples import TIME
from relay.api.http.fields import LastError, NextCursor, Time, last_error_view
from relay.api.http.operations import NEXT, Answer, Call, Operation
from relay.api.http.resource import page_response
from relay.clock import optional_rfc3339
from relay.core.polling.tracking import SourceReport
from relay.core.records import Page


class Source(TypedDict):
    """The polling state of one account."""

    source: str
    account: str
    state: Annotated[str, Field(description="ok, down, unauthorized, no_key, or elsewhere (another node polls it).")]
    since: Time | None
    problem: LastError | None
    open_jobs: int
    due_jobs: int
    limit: int | None
    remaining: int | None
    window_seconds: float | None
    own_requests_per_second: float | None
    others_requests_per_second: float | None
    price_seconds: Annotated[
        float | None,
        Field(
            description="The delay, in seconds, that a poll must save to be worth a request; null if another node "
            "polls."
        ),
    ]
    expected_detection_delay_seconds: Annotated[
        float | None,
        Field(description="Average delay between a job's end and the poll that detects it; null without enough data."),
    ]
    expected_detection_delay_at_double_budget_seconds: Annotated[
        float | None, Field(description="The same with twice the request budget.")
    ]
    expected_detection_delay_at_half_budget_seconds: Annotated[
        float | None, Field(description="The same with half the request budget.")
    ]
    paused_until: Time | None
    last_completed_at: Time | None
    accounts_listed_at: Annotated[
        Time | None,
        Field(description="When its connect accounts were last listed; null: never, or another node polls."),
    ]


class SourcePage(TypedDict):
    """One page of accounts."""

    items: list[Source]
    next_cursor: NextCursor


def source_view(report: SourceReport) -> Source:
    """The polling state of one account."""
    return {
        "source": report.source,
        "account": report.account,
        "state": report.state,
        "since": optional_rfc3339(report.since),
        "problem": None if report.problem is None else last_error_view(report.problem),
        "open_jobs": report.open_jobs,
        "due_jobs": report.due_jobs,
        "limit": report.limit,
        "remaining": report.remaining,
        "window_seconds": report.window_seconds,
        "own_requests_per_second": report.own_requests_per_second,
        "others_requests_per_second": report.others_requests_per_second,
        "price_seconds": report.price_seconds,
        "expected_detection_delay_seconds": report.expected_detection_delay_seconds,
        "expected_detection_delay_at_double_budget_seconds": report.expected_detection_delay_at_double_budget_seconds,
        "expected_detection_delay_at_half_budget_seconds": report.expected_detection_delay_at_half_budget_seconds,
        "paused_until": optional_rfc3339(report.paused_until),
        "last_completed_at": optional_rfc3339(report.last_completed_at),
        "accounts_listed_at": optional_rfc3339(report.accounts_listed_at),
    }


OPERATIONS: list[Operation] = []
operation = partial(Operation, into=OPERATIONS, tag="System")


@operation("GET /v1/sources", bound=True, query=params.PAGE, answers={200: Answer("A page.", SourcePage, headers=NEXT)})
async def list_sources(call: Call) -> Response:
    """Read the polling state of each account."""
    reports = call.ports.tracking.reports()
    first, limit = params.decode_cursor(call.query["cursor"]), call.query["limit"]
    cursor = params.encode_cursor(first + limit) if len(reports) > first + limit else None
    return page_response(
        call.request, Page(items=tuple(reports[first : first + limit]), next_cursor=cursor), source_view
    )


_SOURCE: Source = {
    "source": "revor",
    "account": "default",
    "state": "ok",
    "since": None,
    "problem": None,
    "open_jobs": 12,
    "due_jobs": 1,
    "limit": 120,
    "remaining": 97,
    "window_seconds": 60.0,
    "own_requests_per_second": 0.4,
    "others_requests_per_second": 0.1,
    "price_seconds": 0.8,
    "expected_detection_delay_seconds": 1.2,
    "expected_detection_delay_at_double_budget_seconds": 0.6,
    "expected_detection_delay_at_half_budget_seconds": 2.9,
    "paused_until": None,
    "last_completed_at": TIME,
    "accounts_listed_at": TIME,
}
EXAMPLES: dict[str, Any] = {"SourcePage": {"items": [_SOURCE], "next_cursor": None}}
