"""Draws mean delay against requests a job as SVG text: one panel a workload, logarithmic axes, light and dark."""

import math
from dataclasses import dataclass
from html import escape

PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 330, 250, 2
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 34, 46
LEGEND_HEIGHT = 34
STROKES = ("#0b7a75", "#d1495b", "#8d6a9f", "#c98a00", "#7d8597")
DARK_STROKES = ("#3ecfc5", "#ff8090", "#c7a4dc", "#f2bd42", "#a7b0c2")
DASHES = ("", "2 4", "7 3", "7 3 2 3", "1 3")
STYLE_HEAD = """text{font:12px system-ui,sans-serif;fill:#1f2933}
.paper{fill:#ffffff}.grid{stroke:#d9dee5;stroke-width:1}.title{font-weight:600;font-size:13px}.small{font-size:11px}
.line{fill:none;stroke-width:2}"""
DARK_HEAD = "text{fill:#e4e8ee}.paper{fill:#14181f}.grid{stroke:#333b47}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One workload's lines: for each way to poll its points (requests a job, mean delay in seconds)."""

    title: str
    lines: dict[str, list[tuple[float, float]]]


def figure(panels: list[Panel]) -> str:
    """The whole drawing, or a small empty one where there is nothing to draw."""
    columns = min(COLUMNS, max(1, len(panels)))
    rows = math.ceil(len(panels) / columns)
    width, height = columns * PANEL_WIDTH, rows * PANEL_HEIGHT + LEGEND_HEIGHT
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="Mean detection delay against requests a job">',
        f"<style>{_style(len(names))}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/>',
    ]
    for place, panel in enumerate(panels):
        x, y = place % columns * PANEL_WIDTH, place // columns * PANEL_HEIGHT
        parts.append(f'<g transform="translate({x} {y})">{_panel(panel, names)}</g>')
    parts.append(f'<g transform="translate({LEFT} {rows * PANEL_HEIGHT + 14})">{_legend(names)}</g></svg>')
    return "\n".join(parts) + "\n"


def _style(count: int) -> str:
    light, dark = (
        "".join(f".s{i}{{stroke:{colours[i % 5]}}}.f{i}{{fill:{colours[i % 5]}}}" for i in range(count))
        for colours in (STROKES, DARK_STROKES)
    )
    dashes = "".join(f".s{i}{{stroke-dasharray:{DASHES[i % 5]}}}" for i in range(count) if DASHES[i % 5])
    return f"{STYLE_HEAD}{light}{dashes}.s0{{stroke-width:3}}@media(prefers-color-scheme:dark){{{DARK_HEAD}{dark}}}"


def _panel(panel: Panel, names: list[str]) -> str:
    points = [point for line in panel.lines.values() for point in line]
    xs = sorted({x for x, _ in points})
    low, high = _decades([max(y, 1e-3) for _, y in points])
    left, right = math.log(xs[0]) - 0.1, math.log(xs[-1]) + 0.1
    inner_width, inner_height = PANEL_WIDTH - LEFT - RIGHT, PANEL_HEIGHT - TOP - BOTTOM

    def across(x: float) -> float:
        return LEFT + inner_width * (math.log(x) - left) / (right - left)

    def up(y: float) -> float:
        return TOP + inner_height * (1 - (math.log10(max(y, 1e-3)) - low) / (high - low))

    base = TOP + inner_height
    parts = [f'<text class="title" x="{LEFT}" y="20">{escape(panel.title)}</text>']
    for tick in _ticks(low, high):
        y = up(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{PANEL_WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="small" text-anchor="end" x="{LEFT - 6}" y="{y + 4:.1f}">{tick:g}</text>')
    for x in xs:
        parts.append(f'<line class="grid" x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{TOP}" y2="{base}"/>')
        parts.append(f'<text class="small" text-anchor="middle" x="{across(x):.1f}" y="{base + 15}">{x:g}</text>')
    middle = LEFT + inner_width / 2
    parts.append(
        f'<text class="small" text-anchor="middle" x="{middle:.0f}" y="{base + 32}">requests a job allowed</text>'
    )
    turned = f'transform="translate(13 {TOP + inner_height / 2:.0f}) rotate(-90)"'
    parts.append(f'<text class="small" text-anchor="middle" {turned}>mean delay, s</text>')
    # What comes first is drawn last, and is on top where lines meet.
    for name, line in reversed(panel.lines.items()):
        index = names.index(name)
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)
        parts.append(f'<polyline class="line s{index}" points="{path}"/>')
        parts.extend(f'<circle class="f{index}" r="3" cx="{across(x):.1f}" cy="{up(y):.1f}"/>' for x, y in line)
    return "".join(parts)


def _decades(values: list[float]) -> tuple[float, float]:
    """The axis' ends as powers of ten, with a little room and at least half a decade between them."""
    low, high = math.log10(min(values)) - 0.08, math.log10(max(values)) + 0.08
    missing = max(0.0, 0.5 - (high - low)) / 2
    return low - missing, high + missing


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 within each power of ten; 1 and 3, or only 1, where that were too many."""
    steps = (1.0, 2.0, 5.0) if high - low <= 2.5 else (1.0, 3.0) if high - low <= 4.5 else (1.0,)
    found = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    return [tick for tick in found if low <= math.log10(tick) <= high]


def _legend(names: list[str]) -> str:
    parts, x = [], 0.0
    for index, name in enumerate(names):
        parts.append(f'<line class="line s{index}" x1="{x:.0f}" x2="{x + 24:.0f}" y1="0" y2="0"/>')
        parts.append(f'<circle class="f{index}" r="3" cx="{x + 12:.0f}" cy="0"/>')
        parts.append(f'<text class="small" x="{x + 30:.0f}" y="4">{escape(name)}</text>')
        x += 52 + 6.2 * len(name)
    return "".join(parts)
