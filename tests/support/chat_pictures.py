"""Draws what Teams and Discord show of a message as an SVG, from what the relay sends: the pictures in
docs/integrations/."""

import textwrap
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from tests.support.slack_picture import _text
from tests.vendors.endpoint import plain

WIDTH = 760
_TEAMS_FONT = "'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
_DISCORD_FONT = "'gg sans', 'Noto Sans', 'Helvetica Neue', Arial, sans-serif"
_BOXES = {
    "attention": ("#fde7e9", "#8e192e"),
    "warning": ("#fff4ce", "#5d4a00"),
    "good": ("#e7f2da", "#33541a"),
    "emphasis": ("#f3f2f1", "#242424"),
}


def teams_picture(channel: str, cards: Sequence[tuple[str, Any]]) -> str:
    """The SVG of a channel: for each card the time shown beside it, and its JSON."""
    parts, y = [_text(24, 34, channel, size=17, weight=700)], 52.0
    for at, card in cards:
        drawn, y = _card(at, card, y + 20)
        parts += drawn
    return _svg(parts, y + 24, "#f5f5f5", _TEAMS_FONT)


def discord_picture(channel: str, payloads: Sequence[tuple[str, Any]]) -> str:
    """The SVG of a channel: for each message the time shown beside it, and its JSON."""
    parts, y = [_text(24, 34, f"# {channel}", size=17, weight=700, colour="#f2f3f5")], 48.0
    for at, payload in payloads:
        parts += _author("revor-relay", at, y + 16, face="#5865f2", name="#f2f3f5", grey="#949ba4")
        y += 40
        for embed in payload["embeds"]:
            drawn, y = _embed(embed, y + 4)
            parts += drawn
    return _svg(parts, y + 24, "#313338", _DISCORD_FONT)


def _svg(parts: Sequence[str], height: float, background: str, font: str) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {round(height)}" width="{WIDTH}" '
        f'height="{round(height)}" font-family="{escape(font)}">\n'
        f'<rect width="{WIDTH}" height="{round(height)}" rx="8" fill="{background}" stroke="#ccc"/>\n{body}\n</svg>\n'
    )


def _author(who: str, at: str, top: float, *, face: str, name: str, grey: str) -> list[str]:
    tag = 84 + 9 * len(who)
    return [
        f'<circle cx="42" cy="{top + 18}" r="18" fill="{face}"/>',
        _text(42, top + 24, who[0].upper(), size=17, weight=700, colour="#fff", anchor="middle"),
        _text(74, top + 12, who, size=14, weight=700, colour=name),
        f'<rect x="{tag:.1f}" y="{top + 1}" width="30" height="14" rx="3" fill="{face}"/>',
        _text(round(tag + 15, 1), top + 11.5, "APP", size=9.5, weight=700, colour="#fff", anchor="middle"),
        _text(round(tag + 38, 1), top + 12, at, size=12, colour=grey),
    ]


def _card(at: str, card: Any, top: float) -> tuple[list[str], float]:
    inside, y = [], top + 26
    for element in card["body"]:
        drawn, y = _element(element, y + 10)
        inside += drawn
    for action in card.get("actions", ()):
        width = 24 + 8 * len(action["title"])
        inside.append(f'<rect x="90" y="{y + 14}" width="{width}" height="30" rx="4" fill="#fff" stroke="#c7c7c7"/>')
        inside.append(_text(90 + width / 2, y + 33.5, action["title"], weight=600, anchor="middle", size=13))
        y += 44
    frame = f'<rect x="74" y="{top + 22}" width="660" height="{y - top - 6}" rx="6" fill="#fff" stroke="#e1e1e1"/>'
    return [*_author("Workflows", at, top, face="#5b5fc7", name="#242424", grey="#616161"), frame, *inside], y + 16


def _element(element: Any, top: float) -> tuple[list[str], float]:
    if element["type"] == "Container":
        fill, colour = _BOXES[element["style"]]
        lines = textwrap.wrap(_said(element["items"][0]["text"]), 76)
        box = f'<rect x="90" y="{top}" width="628" height="{20 * len(lines) + 16}" rx="4" fill="{fill}"/>'
        written = [_text(102, top + 24 + 20 * row, line, weight=600, colour=colour) for row, line in enumerate(lines)]
        return [box, *written], top + 20 * len(lines) + 16
    if element["type"] == "FactSet":
        parts, y = [], top
        for fact in element["facts"]:
            parts.append(_text(90, y + 16, _said(fact["title"]), weight=600, size=13))
            for line in textwrap.wrap(_said(fact["value"]), 66):
                y += 19
                parts.append(_text(250, y - 3, line, size=13))
            y += 2
        return parts, y
    small, bold = element.get("size") == "Small", element.get("weight") == "Bolder"
    size, colour = (12, "#616161") if small else (13.5, "#242424")
    y = top + {"None": -6, "Small": -2, "Medium": 12}[element["spacing"]]
    parts = [f'<line x1="90" x2="718" y1="{y - 6}" y2="{y - 6}" stroke="#e1e1e1"/>'] if element.get("separator") else []
    for line in textwrap.wrap(_said(element["text"]), 100 if small else 82 if bold else 88):
        y += 16 if small else 19
        parts.append(_linked(90, y - 2, line, size=size, weight=600 if bold else 400, colour=colour, link="#5b5fc7"))
    return parts, y - 4


def _embed(embed: Any, top: float) -> tuple[list[str], float]:
    parts, y = [], top + 10
    for line in textwrap.wrap(_said(embed["title"]), 72):
        y += 20
        parts.append(_text(98, y, line, size=15, weight=600, colour="#f2f3f5"))
    for value in _said(embed["description"]).split("\n") if "description" in embed else ():
        for line in textwrap.wrap(value, 84):
            y += 20
            parts.append(_linked(98, y, line, size=14, weight=400, colour="#dbdee1", link="#00a8fc"))
    for row in _rows(embed.get("fields", ())):
        ends = []
        for column, field in enumerate(row):
            x, line_y = 98 + 205 * column, y + 26
            for line in textwrap.wrap(_said(field["name"]), 24 if field["inline"] else 78):
                parts.append(_text(x, line_y, line, size=13, weight=600, colour="#f2f3f5"))
                line_y += 18
            line_y -= 18
            for value in _said(field["value"]).split("\n"):
                for line in textwrap.wrap(value, 28 if field["inline"] else 84):
                    line_y += 18
                    parts.append(_linked(x, line_y, line, size=13, weight=400, colour="#dbdee1", link="#00a8fc"))
            ends.append(line_y)
        y = max(ends)
    y += 6
    for line in textwrap.wrap(embed.get("footer", {}).get("text", ""), 92):
        y += 18
        parts.append(_text(98, y, line, size=11.5, colour="#b5bac1"))
    height = y + 14 - top
    box = f'<rect x="76" y="{top}" width="648" height="{height}" rx="4" fill="#2b2d31"/>'
    bar = f'<rect x="76" y="{top}" width="4" height="{height}" rx="2" fill="#{embed["color"]:06x}"/>'
    return [box, bar, *parts], top + height


def _said(markdown: str) -> str:
    """What a field shows, with links in marks of their own."""
    return plain(markdown, link="\u2197\\1\u2196").replace(" \u2197", "\u00a0\u2197")


def _linked(x: float, y: float, line: str, *, size: float, weight: int, colour: str, link: str) -> str:
    """A line, with a link at its end."""
    said, _, url = line.partition("\u2197")
    linked = f'<tspan fill="{link}">{escape(url.removesuffix(chr(0x2196)))}</tspan>' if url else ""
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{colour}">{escape(said)}{linked}</text>'
    )


def _rows(fields: Sequence[Any]) -> Iterator[list[Any]]:
    """Three inline fields beside each other, others in a row of their own."""
    row: list[Any] = []
    for field in fields:
        if row and (not field["inline"] or not row[-1]["inline"] or len(row) == 3):
            yield row
            row = []
        row.append(field)
    if row:
        yield row
