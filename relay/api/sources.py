"""`/v1/sources`: the polling state of each configured account."""

from functools import partial
from typing import Any

from pydantic import Field
from starlette.responses import Response

from relay.api.http import params
from relay.api.http.fields import TIME
from relay.api.http.operations import NEXT, Answer, Call, Operation, page_response
from relay.api.http.shown import LastError, Shown, Time, last_error_view, page_of
from relay.core.polling.tracking import SourceReport
from relay.store.databases.pages import decode_position, encode_cursor


class Source(Shown):
    """The polling state of one account."""

    source: str = Field(examples=["revor"])
    account: str = Field(examples=["default"])
    state: str = Field(
        description="ok, down, unauthorized, no_key, or elsewhere (another node polls it).", examples=["ok"]
    )
    since: Time | None
    problem: LastError | None
    open_jobs: int = Field(examples=[12])
    due_jobs: int = Field(examples=[1])
    limit: int | None = Field(examples=[120])
    remaining: int | None = Field(examples=[97])
    window_seconds: float | None = Field(examples=[60.0])
    own_requests_per_second: float | None = Field(examples=[0.4])
    others_requests_per_second: float | None = Field(examples=[0.1])
    price_seconds: float | None = Field(
        description="The delay, in seconds, that a poll must save to be worth a request; null if another node polls.",
        examples=[0.8],
    )
    expected_detection_delay_seconds: float | None = Field(
        description="Average delay between a job's end and the poll that detects it; null without enough data.",
        examples=[1.2],
    )
    expected_detection_delay_at_double_budget_seconds: float | None = Field(
        description="The same with twice the request budget.", examples=[0.6]
    )
    expected_detection_delay_at_half_budget_seconds: float | None = Field(
        description="The same with half the request budget.", examples=[2.9]
    )
    paused_until: Time | None
    last_completed_at: Time | None = Field(examples=[TIME])
    accounts_listed_at: Time | None = Field(
        description="When its connect accounts were last listed; null: never, or another node polls.", examples=[TIME]
    )


SourcePage = page_of(Source, "accounts")


def source_view(report: SourceReport) -> dict[str, Any]:
    """The polling state of one account."""
    return Source.of(report, problem=last_error_view(report.problem))


OPERATIONS: list[Operation] = []
operation = partial(Operation, into=OPERATIONS, tag="System")


@operation("GET /v1/sources", bound=True, query=params.PAGE, answers={200: Answer("A page.", SourcePage, headers=NEXT)})
async def list_sources(call: Call) -> Response:
    """Read the polling state of each account."""
    reports = call.ports.tracking.reports()
    first, limit = decode_position(call.query["cursor"]), call.query["limit"]
    cursor = encode_cursor(first + limit) if len(reports) > first + limit else None
    return page_response(call.request, map(source_view, reports[first : first + limit]), cursor)
