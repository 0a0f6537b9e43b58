"""Charts as SVG, drawn on the server: they start at zero, have labels, and need no JavaScript. The pointer shows the
values of a time.
"""

import math
from collections.abc import Sequence

from markupsafe import Markup

from relay.clock import to_rfc3339

Point = tuple[float, float | None]
"""A time in epoch seconds, and a value or None."""

WIDTH, HEIGHT = 600, 100
"""Of a chart's drawing, which is stretched to its place."""
GAP = 0.2
"""The space between bars, as a part of a bar's width."""


def chart(series: Sequence[tuple[str, Sequence[Point]]], label: str, unit: str = "", kind: str = "line") -> Markup:
    """Series over time on one scale, as lines, or as bars (`kind="bars"`) with later series before earlier ones. Each
    has a name; all share their times, which are evenly apart. Series without a value are left out; without any,
    nothing is drawn. `unit`: follows each number, such as `s`."""
    drawn = [(name, _known(points)) for name, points in series if _known(points)]
    if not drawn:
        return Markup()
    times = sorted({time for _, points in drawn for time, _ in points})
    top = nice(max(value for _, points in drawn for _, value in points))
    draw = _bars if kind == "bars" else _line
    lines = Markup().join(draw(points, times, top, index) for index, (_, points) in enumerate(drawn))
    legend = Markup().join(
        Markup('<span class="key-{}">{}</span>').format(index, name) for index, (name, _) in enumerate(drawn)
    )
    grid = Markup().join(
        Markup('<line class="grid-line" x1="0" x2="{}" y1="{}" y2="{}"/>').format(WIDTH, y, y) for y in (0, 50, 100)
    )
    return Markup(
        '<figure class="chart"><div class="plot"><span class="scale top">{}</span><span class="scale middle">{}</span>'
        '<span class="scale zero">0</span><svg viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" '
        'aria-label="{}">{}{}{}</svg></div><div class="times">{}{}</div>{}</figure>'
    ).format(
        _amount(top, unit),
        _amount(top / 2, unit),
        WIDTH,
        HEIGHT,
        label,
        grid,
        lines,
        _hovers(drawn, times, unit),
        _time(times[0]),
        _time(times[-1]),
        Markup('<figcaption class="legend">{}</figcaption>').format(legend) if len(drawn) > 1 else "",
    )


def nice(value: float) -> float:
    """The next 1, 2, 4 or 6 times a power of ten at or above a value: half of it is a short number too."""
    if value <= 0:
        return 1.0
    size: float = 10.0 ** math.floor(math.log10(value))
    return next((step * size for step in (1, 2, 4, 6) if value <= step * size), 10 * size)


def _known(points: Sequence[Point]) -> list[tuple[float, float]]:
    return [(time, max(value, 0.0)) for time, value in points if value is not None]


def _amount(value: float, unit: str) -> str:
    return f"{value:,.3g} {unit}".strip() if value < 1000 else f"{value:,.0f} {unit}".strip()


def _time(at: float) -> Markup:
    text = to_rfc3339(at)
    return Markup('<time datetime="{}">{} UTC</time>').format(text, text[11:16])


def _hovers(drawn: Sequence[tuple[str, Sequence[tuple[float, float]]]], times: Sequence[float], unit: str) -> Markup:
    """An area for each time, which shows its values under the pointer."""
    width = WIDTH / len(times)
    of_time = [(name, dict(points)) for name, points in drawn]
    return Markup().join(
        Markup('<rect class="hover" x="{:.1f}" y="0" width="{:.1f}" height="{}"><title>{}</title></rect>').format(
            index * width,
            width,
            HEIGHT,
            f"{to_rfc3339(time)[11:16]} UTC: "
            + ", ".join(f"{name} {_amount(found[time], unit)}" for name, found in of_time if time in found),
        )
        for index, time in enumerate(times)
    )


def _bars(points: Sequence[tuple[float, float]], times: Sequence[float], top: float, index: int) -> Markup:
    width = WIDTH / len(times)
    places = {time: place for place, time in enumerate(times)}
    return Markup().join(
        Markup('<rect class="bar line-{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            index, (places[time] + GAP / 2) * width, HEIGHT * (1 - value / top), width * (1 - GAP), HEIGHT * value / top
        )
        for time, value in points
        if value
    )


def _line(points: Sequence[tuple[float, float]], times: Sequence[float], top: float, index: int) -> Markup:
    across = max(times[-1] - times[0], 1e-9)
    at = [
        f"{(time - times[0]) / across * WIDTH:.1f},{HEIGHT - 1 - value / top * (HEIGHT - 2):.1f}"
        for time, value in points
    ]
    if len(at) == 1:
        at.append(f"{WIDTH},{at[0].partition(',')[2]}")
    return Markup('<polyline class="line-{}" points="{}"/>').format(index, " ".join(at))


def stack(parts: Sequence[tuple[str, int]], label: str) -> Markup:
    """One bar divided in proportion to the counts. A part's name is its class."""
    total = sum(count for _, count in parts) or 1
    drawn, left = [], 0.0
    for name, count in parts:
        width = count / total * 100
        if count:
            drawn.append(
                Markup('<rect class="part {}" x="{:.3f}" y="0" width="{:.3f}" height="4"/>').format(name, left, width)
            )
        left += width
    return Markup(
        '<svg class="stack" viewBox="0 0 100 4" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(label, Markup().join(drawn))
