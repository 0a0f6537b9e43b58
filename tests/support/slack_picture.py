"""Draws Slack messages as an SVG, from what the Slack kind renders: the picture in docs/campaigns.md."""

import textwrap
from collections.abc import Sequence
from html import escape

from relay.cli.demo.slack_channel import Message

WIDTH = 760
LEFT = 72
COLUMN = 330
TITLE_CHARACTERS, FIELD_CHARACTERS = 78, 44
FONT = "Lato, 'Helvetica Neue', Helvetica, Arial, sans-serif"


def picture(channel: str, messages: Sequence[tuple[str, Message]]) -> str:
    """The SVG of a channel: for each message the time shown beside it, and its text."""
    y, parts = 56.0, [_text(24, 34, f"# {channel}", size=17, weight=700)]
    parts.append(f'<line x1="0" x2="{WIDTH}" y1="52" y2="52" stroke="#ddd"/>')
    for at, message in messages:
        drawn, y = _message(at, message, y + 22)
        parts += drawn
    height = round(y + 20)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="{escape(FONT)}">\n'
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#fff" stroke="#ccc"/>\n{body}\n</svg>\n'
    )


def _message(at: str, message: Message, top: float) -> tuple[list[str], float]:
    """The parts of one message, and where it ends."""
    parts = [
        f'<rect x="24" y="{top}" width="36" height="36" rx="6" fill="#4a154b"/>',
        _text(42, top + 24, "R", size=18, weight=700, colour="#fff", anchor="middle"),
        _text(LEFT, top + 13, "revor-relay", size=15, weight=700),
        f'<rect x="{LEFT + 98}" y="{top + 2}" width="30" height="14" rx="2" fill="#eee"/>',
        _text(LEFT + 113, top + 12.5, "APP", size=10, weight=700, colour="#666", anchor="middle"),
        _text(LEFT + 138, top + 13, at, size=12, colour="#666"),
    ]
    y = top + 16
    for line in textwrap.wrap(message.title, TITLE_CHARACTERS):
        y += 20
        parts.append(_text(LEFT, y, line))
    for row in range(0, len(message.fields), 2):
        ends = []
        for column, (label, value) in enumerate(message.fields[row : row + 2]):
            x, line_y = LEFT + column * COLUMN, y + 26
            parts.append(_text(x, line_y, label, weight=700))
            for line in textwrap.wrap(value, FIELD_CHARACTERS):
                line_y += 19
                parts.append(_text(x, line_y, line))
            ends.append(line_y)
        y = max(ends)
    if message.footer:
        y += 22
        parts.append(_text(LEFT, y, message.footer, size=12, colour="#666"))
    return parts, y + 4


def _text(
    x: float, y: float, text: str, *, size: int = 14, weight: int = 400, colour: str = "#1d1c1d", anchor: str = "start"
) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{colour}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )
