"""Why a job is polled when it is: how likely its change is, and the delay that waiting costs against a poll's price."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from relay.clock import from_rfc3339
from relay.web.rendering import duration
from relay.web.texts import english
from relay.web.timeline import Scale

texts = english()
WIDTH, HEIGHT = 640, 232
_LEFT, _RIGHT = 8, WIDTH - 8
_TOP, _MIDDLE, _LOW_TOP, _BOTTOM = 34, 96, 128, 204
_HEADROOM = 1.15
_TICK_WIDTH = 70
"""Room for the words of a mark of time."""


def draw(outlook: Mapping[str, Any], next_poll_at: float, now: float) -> Markup:
    """The drawing of the API's `outlook`. Above: the hazard. Below: the expected delay, with the price as a line. A
    line through both marks the next poll."""
    times = [from_rfc3339(point["time"]) for point in outlook["points"]]
    hazards = [float(point["hazard_per_second"]) for point in outlook["points"]]
    delays = [float(point["expected_delay_seconds"]) for point in outlook["points"]]
    price = float(outlook["price_seconds"])
    scale = Scale(times[0], times[-1], _LEFT, _RIGHT)
    most = max(hazards) or 1.0
    top = max(max(delays), price) * _HEADROOM or 1.0
    change = texts.get(f"jobs.change_{outlook['change']}", "")
    parts = [
        _words(_LEFT, 28, "start", texts("jobs.hazard_title", change=change), "panel"),
        _area(scale, times, hazards, most, _TOP, _MIDDLE, "hazard-area"),
        _words(_LEFT, 122, "start", texts("jobs.delay_title"), "panel"),
        _area(scale, times, delays, top, _LOW_TOP, _BOTTOM, "delay-area"),
        _price(price, top),
    ]
    free = 0.0
    for tick in scale.ticks(now):
        x = scale.at(now + tick)
        if x < free:
            continue
        free = x + _TICK_WIDTH
        words = texts("jobs.mark_now") if tick == 0 else f"{'+' if tick > 0 else '−'}{duration(abs(tick))}"
        anchor = "end" if x > _RIGHT - 30 else "start" if x < _LEFT + 30 else "middle"
        parts.append(_words(x, HEIGHT - 10, anchor, words, "tick"))
    x = scale.at(next_poll_at)
    anchor = "end" if x > WIDTH / 2 else "start"
    parts.append(
        Markup('<g class="next"><line x1="{x:.1f}" x2="{x:.1f}" y1="{}" y2="{}"/></g>').format(6, _BOTTOM, x=x)
    )
    parts.append(_words(x + (-5 if anchor == "end" else 5), 13, anchor, texts("jobs.mark_next_poll"), "next-label"))
    return Markup('<svg class="hazard" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, texts("jobs.hazard_label"), Markup("").join(parts)
    )


def at(outlook: Mapping[str, Any], time: float, name: str) -> float:
    """The value of a time between two points."""
    points = outlook["points"]
    times = [from_rfc3339(point["time"]) for point in points]
    after = next((index for index, each in enumerate(times) if each >= time), len(times) - 1)
    before = max(after - 1, 0)
    width = times[after] - times[before]
    share = min(max((time - times[before]) / width, 0.0), 1.0) if width > 0 else 1.0
    low, high = float(points[before][name]), float(points[after][name])
    return low + (high - low) * share


def _area(
    scale: Scale, times: Sequence[float], values: Sequence[float], most: float, top: int, bottom: int, kind: str
) -> Markup:
    line = " ".join(
        f"{scale.at(time):.1f},{bottom - min(value / most, 1.0) * (bottom - top):.1f}"
        for time, value in zip(times, values, strict=True)
    )
    edges = f"{scale.at(times[0]):.1f},{bottom} {line} {scale.at(times[-1]):.1f},{bottom}"
    return Markup('<g class="{}"><polygon points="{}"/><polyline points="{}"/></g>').format(kind, edges, line)


def _price(price: float, top: float) -> Markup:
    y = _BOTTOM - price / top * (_BOTTOM - _LOW_TOP)
    return Markup('<g class="price"><line x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/></g>{}').format(
        _LEFT,
        _RIGHT,
        _words(_LEFT + 4, y - 4, "start", texts("jobs.price_line", price=duration(price)), "price-label"),
        y=y,
    )


def _words(x: float, y: float, anchor: str, words: str, kind: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, words)
