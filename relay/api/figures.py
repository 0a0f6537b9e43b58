"""`/v1/figures`: what happened in each minute, hour and day, for charts."""

import math
import re
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

from pydantic import Field
from starlette.responses import Response

from relay.api.http.fields import PRINTABLE, SOURCE
from relay.api.http.operations import Answer, Call, Operation, json_response
from relay.api.http.params import Parameter, choice, time
from relay.api.http.problems import did_you_mean, invalid_parameter
from relay.api.http.shown import Shown, Time
from relay.clock import to_rfc3339
from relay.core.figures import (
    FIGURES,
    KEPT_SECONDS,
    LABELLED,
    NAMES,
    SHOWN_SECONDS,
    SPAN_NAMES,
    SPAN_SECONDS,
    Name,
    Point,
    Span,
    began,
)

MAX_LABELS = 50
"""Labels of one request."""
MAX_POINTS = 40_000
"""Points that one request may ask for."""
MAX_LABEL = 256
"""Characters of a label."""


class FigurePoint(Shown):
    """One minute, hour or day."""

    time: Time = Field(description="When it began.")
    count: int = Field(description="How often it happened, or how many values there are.", examples=[12])
    total: float = Field(
        description="The sum of the values. Of a gauge its mean, and of a count the count.", examples=[40.5]
    )
    p50: float | None = Field(description="Of durations: half of them are no longer.", examples=[2.8])
    p95: float | None = Field(description="Of durations: 95 of 100 are no longer.", examples=[9.1])


class Figures(Shown):
    """One name over time."""

    name: str = Field(examples=["detection_delay_seconds"])
    label: str = Field(examples=[f"{SOURCE}/default"])
    points: list[FigurePoint] = Field(description="In order. Times without any are absent.")


class FigureList(Shown):
    """Figures over time."""

    span: Span = Field(examples=["hour"])
    items: list[Figures] = Field(description="In the order in which the labels and names were given.")


operation = partial(Operation, tag="Figures")


def _read_names(value: str) -> tuple[Name, ...]:
    given = value.split(",")
    for word in given:
        if word not in FIGURES:
            near = did_you_mean(word, NAMES, lists=False) or "."
            raise ValueError(f"{word[:40]!r} is unknown{near} The names are: {', '.join(NAMES)}")
    if len(given) > len(NAMES):
        raise ValueError(f"at most {len(NAMES)} names are expected")
    return tuple(dict.fromkeys(given))


def _read_labels(value: str) -> tuple[str, ...]:
    if re.fullmatch(_LABELS_PATTERN, value) is None:
        detail = f"1 to {MAX_LABELS} labels of 1 to {MAX_LABEL} printable characters are expected"
        raise ValueError(detail)
    return tuple(dict.fromkeys(value.split(",")))


_ONE_LABEL = f"{PRINTABLE[:-1]},]{{1,{MAX_LABEL}}}"
_LABELS_PATTERN = f"^{_ONE_LABEL}(,{_ONE_LABEL}){{0,{MAX_LABELS - 1}}}$"
_LABELS = Parameter(
    name="label",
    description="Only of these accounts, as `source/account`, or of these subscriptions, separated by commas. Default: "
    "the whole relay.",
    schema={"type": "string", "pattern": _LABELS_PATTERN},
    read=_read_labels,
    default=(),
)
_ONE_NAME = "|".join(NAMES)
_NAMES = Parameter(
    name="name",
    description="Names, separated by commas. Default: all.",
    schema={"type": "string", "pattern": f"^({_ONE_NAME})(,({_ONE_NAME})){{0,{len(NAMES) - 1}}}$"},
    read=_read_names,
    default=NAMES,
)


@operation(
    "GET /v1/figures",
    bound=True,
    query=(
        _NAMES,
        choice("span", "The length of a point. Default: `hour`.", *SPAN_NAMES),
        _LABELS,
        time("since", "Only from this time on. Default: a day of minutes, 7 days of hours, 90 days."),
    ),
    answers={200: Answer("The figures.", FigureList)},
)
async def list_figures(call: Call) -> Response:
    """List figures over time, for charts.

    They are counted by the minute and written within 15 seconds. Minutes are kept for 26 hours, hours for 35 days, days
    for 2 years. Figures with a label have hours and days only. A crash loses the last seconds of them: the record of
    what happened is the events.
    """
    span: Span = call.query["span"] or "hour"
    labels: tuple[str, ...] = call.query["label"]
    account = call.dependencies.settings.account
    if span not in LABELLED and (labels or account is not None):
        whose = "a label" if account is None else "one account"
        detail = f"span: figures of {whose} have no minutes: use {' or '.join(LABELLED)}"
        raise invalid_parameter("span", detail, code="invalid_parameter")
    names: tuple[Name, ...] = call.query["name"]
    now = call.dependencies.clock()
    asked: float | None = call.query["since"]
    since = began(now - SHOWN_SECONDS[span], span) if asked is None else max(asked, now - KEPT_SECONDS[span])
    most = len(labels) * len(names) * (math.ceil(max(now - since, 0.0) / SPAN_SECONDS[span]) + 1)
    if most > MAX_POINTS:
        detail = (
            f"label: {len(labels)} labels of {len(names)} names may have {most} points, more than {MAX_POINTS}: "
            "ask for fewer labels or names, or from a later time on"
        )
        raise invalid_parameter("label", detail, code="invalid_parameter")
    items: list[dict[str, Any]] = []
    for label in labels or ("",):
        found = await call.dependencies.store.figures.series(names, label, span, since)
        items += [
            {"name": name, "label": label, "points": _points(one)} for name, one in zip(names, found, strict=True)
        ]
    return json_response({"span": span, "items": items})


def _points(points: Sequence[Point]) -> list[dict[str, Any]]:
    # by hand, for up to 40,000 points
    return [
        {"time": _time(one.began_at), "count": one.number, "total": one.total, "p50": one.p50, "p95": one.p95}
        for one in points
    ]


_time = lru_cache(maxsize=4_096)(to_rfc3339)
