"""`relay figures`: what happened in each minute, hour or day."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import typer

from relay.cli.client import api
from relay.cli.options import Json, time_or_age
from relay.cli.output import print_json, print_table, say
from relay.core.figures import FIGURES, NAMES

BARS = "▁▂▃▄▅▆▇█"
COLUMNS = ("began", "count", "total", "p50", "p95", "bar")


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
    """Show figures over time, with bars. With names also a row for each minute, hour or day."""
    name = ",".join(names) if names else None
    query = {"name": name, "span": span, "label": label, "since": time_or_age(since)}
    found = api().get("/v1/figures", query)
    if json:
        print_json(found)
        return
    for number, one in enumerate(found["items"]):
        if number:
            typer.echo()
        points = one["points"]
        line = bars([shown_value(one["name"], point) for point in points])
        say(f"{one['name']} per {span}: {line or 'nothing yet'}")
        if points and names:
            print_table(COLUMNS, _rows(one["name"], points), empty="")


def shown_value(name: str, point: Mapping[str, Any]) -> float:
    """What the bar of a point shows: the median of durations, the value of a gauge, else how often it happened."""
    kind = FIGURES[name].kind if name in FIGURES else "count"  # type: ignore[index]
    if kind == "values":
        return float(point["p50"] or 0.0)
    return float(point["total"] if kind == "gauge" else point["count"])


def bars(values: Sequence[float]) -> str:
    """One character for each value: the highest bar is the largest one."""
    most = max(values, default=0.0)
    if most <= 0.0:
        return BARS[0] * len(values)
    return "".join(BARS[min(int(max(value, 0.0) / most * len(BARS)), len(BARS) - 1)] for value in values)


def _rows(name: str, points: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    line = bars([shown_value(name, point) for point in points])
    return [
        [point["time"], point["count"], round(point["total"], 3), point["p50"], point["p95"], bar]
        for point, bar in zip(points, line, strict=True)
    ]
