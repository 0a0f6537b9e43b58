"""Draws what CRMs show of a record as an SVG, from what the relay sends: the pictures in docs/integrations/."""

import html
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tests.support.chat_pictures import WIDTH, _svg
from tests.support.slack_picture import _text

_FONT = "'Inter', 'Helvetica Neue', Arial, sans-serif"
_TAG = re.compile(r"<(/?)(b|a)\b[^>]*>")


class Card(NamedTuple):
    """A record: a line above it, such as what it is and who made it, its time, its text as HTML, and small boxes."""

    heading: str
    at: str
    markup: str
    fill: str = "#ffffff"
    chips: tuple[str, ...] = ()


def timeline_picture(title: str, cards: Sequence[Card], *, accent: str) -> str:
    """The SVG of a deal's or a contact's timeline, the newest record first."""
    parts, y = [_text(24, 36, title, size=17, weight=700)], 52.0
    bottom = y
    for card in cards:
        drawn, bottom = _card(card, y + 12, accent)
        parts += drawn
        y = bottom
    line = f'<line x1="38" x2="38" y1="64" y2="{bottom}" stroke="#d5d8dc" stroke-width="2"/>'
    return _svg([line, *parts], y + 22, "#f6f7f9", _FONT)


def record_picture(title: str, kind: str, fields: Mapping[str, str], *, accent: str) -> str:
    """The SVG of a record's page: labels and values in two columns."""
    parts = [
        f'<rect x="24" y="22" width="36" height="36" rx="6" fill="{accent}"/>',
        _text(42, 46, kind[0], size=18, weight=700, colour="#fff", anchor="middle"),
        _text(72, 36, kind, size=12.5, colour="#5c6670"),
        _text(72, 55, title, size=17, weight=700),
    ]
    top, y = 76.0, 92.0
    for label, value in fields.items():
        lines = [line for text in value.split("\n") for line in textwrap.wrap(text, 66)] or [""]
        y += 8
        parts.append(_text(40, y + 14, label, size=12.5, colour="#5c6670"))
        for line in lines:
            parts.append(_text(250, y + 14, line, size=13.5))
            y += 19
        parts.append(f'<line x1="40" x2="720" y1="{y + 2}" y2="{y + 2}" stroke="#e5e7ea"/>')
    frame = f'<rect x="24" y="{top}" width="{WIDTH - 48}" height="{y - top + 14}" rx="6" fill="#fff" stroke="#d5d8dc"/>'
    return _svg([*parts[:4], frame, *parts[4:]], y + 34, "#f3f3f3", _FONT)


def _card(card: Card, top: float, accent: str) -> tuple[list[str], float]:
    inside, y = [], top + 34
    for bold, text, link in lines_of(card.markup):
        for line in textwrap.wrap(text, 84 if bold else 92) or [""]:
            y += 20
            colour = "#0b66c3" if link else "#1f2933"
            inside.append(_text(80, y, line, size=13.5, weight=700 if bold else 400, colour=colour))
    for nth, chip in enumerate(card.chips):
        inside.append(f'<rect x="{80 + 150 * nth}" y="{y + 12}" width="140" height="22" rx="11" fill="#eef1f4"/>')
        inside.append(_text(150 + 150 * nth, y + 27, chip, size=12, anchor="middle", colour="#3d4852"))
    y += 30 if card.chips else 0
    frame = f'<rect x="62" y="{top}" width="674" height="{y - top + 16}" rx="6" fill="{card.fill}" stroke="#d5d8dc"/>'
    head = [
        f'<circle cx="38" cy="{top + 22}" r="9" fill="{accent}"/>',
        _text(80, top + 26, card.heading, size=12.5, weight=600, colour="#5c6670"),
        _text(720, top + 26, card.at, size=12.5, colour="#5c6670", anchor="end"),
    ]
    return [frame, *head, *inside], y + 16


def lines_of(markup: str) -> list[tuple[bool, str, bool]]:
    """The lines of a record: bold, text, link. Bold is a line that begins so."""
    found = []
    for line in re.split(r"<br\s*/?>|</?p>", markup):
        assert set(re.findall(r"</?([a-z]+)", line)) <= {"b", "a"}, line
        found.append((line.startswith("<b>"), html.unescape(_TAG.sub("", line)), "<a " in line))
    return found
