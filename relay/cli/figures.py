"""`relay figures`: what happened in each minute, hour or day, in numbers with their units."""

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import typer

from relay.cli.client import api
from relay.cli.options import Json, time_or_age
from relay.cli.output import print_json, print_table, say, say_wrapped, terminal_width
from relay.clock import from_rfc3339, to_rfc3339
from relay.core.figures import FIGURES, NAMES, SPAN_SECONDS

BARS = "▁▂▃▄▅▆▇█"
SUMMARY_SPANS = 24
"""Spans of the summary, without --since."""
COURSE_BARS = 12
"""Bars of a summary at most: each stands for as many spans as the others."""
COLUMNS = ("began", "count", "total", "p50", "p95", "bar")
SUMMARY = ("figure", "sum/mean", "last", "peak", "unit", "course")

Point = Mapping[str, Any]


def figures(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help=f"Any of {', '.join(NAMES)}. Default: all.")
    ] = None,
    span: Annotated[Literal["minute", "hour", "day"], typer.Option(help="The length of a row.")] = "hour",
    label: Annotated[
        str | None, typer.Option(help="Only of this account (source/account) or subscription (id).")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only from a time (2026-05-20T10:00:00Z) or age (1d, 6h, 30m) on.")
    ] = None,
    json: Json = False,
) -> None:
    """Show figures over time. All of the last 24 hours, or with names a row for each minute, hour or day."""
    first = time_or_age(since)
    if first is None and not names and not json:
        first = to_rfc3339(time.time() - (SUMMARY_SPANS - 1) * SPAN_SECONDS[span])
    query = {"name": ",".join(names) if names else None, "span": span, "label": label, "since": first}
    found = api().get("/v1/figures", query)
    if json:
        print_json(found)
    elif names:
        _print_each(found["items"], span)
    else:
        _print_summary(found["items"], span)


def _print_each(items: Sequence[Mapping[str, Any]], span: str) -> None:
    for number, one in enumerate(items):
        if number:
            typer.echo()
        name, points = one["name"], one["points"]
        line = bars([value_of(name, point) for point in points])
        say(f"{name} per {span}{_about(name)}: {line or 'nothing yet'}")
        rows = [
            [point["time"], point["count"], round(point["total"], 3), point["p50"], point["p95"], bar]
            for point, bar in zip(points, line, strict=True)
        ]
        if points and terminal_width() is not None:
            print_table(*_for_people(name, points, line), empty="")
        elif points:
            print_table(COLUMNS, rows, empty="")


def _for_people(name: str, points: Sequence[Point], line: str) -> tuple[tuple[str, ...], list[list[Any]]]:
    """The columns that say something of this figure, with their unit, and the rows."""
    kind, unit = _kind_and_unit(name)
    if kind == "values":
        columns: tuple[str, ...] = ("began", "count", f"median {unit}", f"p95 {unit}", "bar")
        cells = [[f"{point['count']:,}", _number(point["p50"]), _number(point["p95"])] for point in points]
    else:
        columns = ("began", unit, "bar")
        cells = [[_number(value_of(name, point))] for point in points]
    at = [point["time"].replace("T", " ")[:16] for point in points]
    return columns, [[began, *values, bar] for began, values, bar in zip(at, cells, line, strict=True)]


def _print_summary(items: Sequence[Mapping[str, Any]], span: str) -> None:
    times = [from_rfc3339(point["time"]) for one in items for point in one["points"]]
    if not times:
        say("nothing yet: figures begin with the first job")
        return
    length = SPAN_SECONDS[span]  # type: ignore[index]
    first, count = min(times), round((max(times) - min(times)) / length) + 1
    known = (one for one in items if one["points"] or _kind_and_unit(one["name"])[0] == "count")
    rows = [_summary(one["name"], one["points"], first, length, count) for one in known]
    print_table(SUMMARY, rows, empty="", table="figures")
    if terminal_width() is not None:
        say("")
        began, ended = (to_rfc3339(at).replace("T", " ")[:16] for at in (first, first + count * length))
        say_wrapped(
            f"{began} to {ended} UTC. SUM of what is counted, MEAN of the rest. LAST is the newest {span}, PEAK the "
            f"highest one, COURSE all from left to right, starting at zero."
        )


def _summary(name: str, points: Sequence[Point], first: float, length: float, count: int) -> list[Any]:
    kind, unit = _kind_and_unit(name)
    values: list[float | None] = [0.0 if kind == "count" else None] * count
    for point in points:
        values[round((from_rfc3339(point["time"]) - first) / length)] = value_of(name, point)
    known = [value for value in values if value is not None]
    if kind == "count":
        all: float | None = sum(known)
    elif kind == "values":
        number = sum(point["count"] for point in points)
        all = sum(point["total"] for point in points) / number if number else None
    else:
        all = sum(known) / len(known) if known else None
    numbers = [_number(value) for value in (all, values[-1], max(known, default=None))]
    return [name, *numbers, unit, course(values)]


def course(values: Sequence[float | None]) -> str:
    """At most COURSE_BARS bars, each the mean of as many values; a space where none is known."""
    each = -(-len(values) // COURSE_BARS)
    parts = [[value for value in values[at : at + each] if value is not None] for at in range(0, len(values), each)]
    line = bars([sum(part) / len(part) if part else 0.0 for part in parts])
    return "".join(bar if part else " " for bar, part in zip(line, parts, strict=True))


def value_of(name: str, point: Point) -> float:
    """The value that the bar of a point shows: the median of durations, the value of a gauge, else the count."""
    kind, _ = _kind_and_unit(name)
    if kind == "values":
        return float(point["p50"] or 0.0)
    return float(point["total"] if kind == "gauge" else point["count"])


def bars(values: Sequence[float]) -> str:
    """One character for each value: the highest bar is the largest one."""
    most = max(values, default=0.0)
    if most <= 0.0:
        return BARS[0] * len(values)
    return "".join(BARS[min(int(max(value, 0.0) / most * len(BARS)), len(BARS) - 1)] for value in values)


def _kind_and_unit(name: str) -> tuple[str, str]:
    """Of a figure that is not known here, the relay being newer, a plain count."""
    return (FIGURES[name].kind, FIGURES[name].unit) if name in FIGURES else ("count", "count")


def _about(name: str) -> str:
    kind, unit = _kind_and_unit(name)
    return {"values": f", median in {unit}", "gauge": f", mean in {unit}"}.get(kind, "")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value == int(value) or value >= 100:
        return f"{value:,.0f}" if terminal_width() is not None else f"{value:.0f}"
    return f"{value:.3g}"
