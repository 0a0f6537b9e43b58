"""Charts as SVG, drawn on the server, so they need no JavaScript. With JavaScript, `static/relay.js` redraws the larger
ones with uPlot, which shows single values.
"""

from collections.abc import Sequence

import orjson
from markupsafe import Markup

from relay.clock import to_rfc3339

Point = tuple[float, float | None]
"""A time in epoch seconds, and a value or None."""

rfc3339 = to_rfc3339


def spark(points: Sequence[Point], label: str, width: int = 160, height: int = 36) -> Markup:
    """A line without axes. `label`: its text for screen readers."""
    drawn = _line(points, width, height)
    return Markup('<svg class="spark" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height, label, drawn
    )


def chart(series: Sequence[tuple[str, Sequence[Point]]], label: str, unit: str = "", height: int = 160) -> Markup:
    """Lines over time on one scale. Each series has a name; all share their times. Series without a value are left out;
    without any, nothing is drawn. Without JavaScript the legend shows the largest values."""
    series = [(name, points) for name, points in series if any(value is not None for _, value in points)]
    if not series:
        return Markup()
    times = sorted({time for _, points in series for time, _ in points})
    values = [[dict(points).get(time) for time in times] for _, points in series]
    data = orjson.dumps({"times": times, "names": [name for name, _ in series], "values": values, "unit": unit})
    tops = [max(value for _, value in points if value is not None) for _, points in series]
    lines = Markup().join(_line(points, 600, height, index, max(tops)) for index, (_, points) in enumerate(series))
    names = Markup(" ").join(
        Markup('<span class="key-{}">{} ≤ {}</span>').format(index, name, f"{round(top, 3):g} {unit}".strip())
        for index, ((name, _), top) in enumerate(zip(series, tops, strict=True))
    )
    return Markup(
        '<figure class="chart" data-chart="{}" hx-morph-skip-children>'
        '<svg viewBox="0 0 600 {}" role="img" aria-label="{}" preserveAspectRatio="none">{}</svg>'
        '<figcaption class="legend">{}</figcaption></figure>'
    ).format(data.decode(), height, label, lines, names)


def _line(points: Sequence[Point], width: int, height: int, index: int = 0, top: float = 0.0) -> Markup:
    """`top`: the value at the upper edge; 0: the largest one."""
    known = [(time, value) for time, value in points if value is not None]
    if not known:
        return Markup()
    first, last = known[0][0], known[-1][0]
    top = top or max(value for _, value in known) or 1.0
    across = max(last - first, 1e-9)
    at = [
        f"{(time - first) / across * width:.1f},{height - 2 - max(value, 0.0) / top * (height - 4):.1f}"
        for time, value in known
    ]
    if len(at) == 1:
        at.append(f"{width},{at[0].partition(',')[2]}")
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
