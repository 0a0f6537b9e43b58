"""Draws Slack messages as an SVG, from what the Slack kind renders: the pictures in docs/."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape, unescape
from typing import Any, NamedTuple

WIDTH = 760
LEFT = 72
COLUMN = 330
LINE_CHARACTERS, FIELD_CHARACTERS, SMALL_CHARACTERS = 84, 44, 100
FONT = "Lato, 'Helvetica Neue', Helvetica, Arial, sans-serif"
INK, GREY, BLUE = "#1d1c1d", "#666", "#1264a3"
_PIECE = re.compile(r"<([^|>]*)\|([^>]*)>|^\*([^\u2060].*)\*$|([^<]+)")

Payload = Mapping[str, Any]


class Word(NamedTuple):
    """A word with its look, and whether a space is before it."""

    text: str
    look: str
    spaced: bool


def picture(channel: str, messages: Sequence[tuple[str, Payload]]) -> str:
    """The SVG of a channel: for each message the time shown beside it, and its payload."""
    y, parts = 56.0, [_text(24, 34, f"# {channel}", size=17, weight=700)]
    parts.append(f'<line x1="0" x2="{WIDTH}" y1="52" y2="52" stroke="#ddd"/>')
    for at, payload in messages:
        drawn, y = _message(at, payload, y + 22)
        parts += drawn
    height = round(y + 20)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="{escape(FONT)}">\n'
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#fff" stroke="#ccc"/>\n{body}\n</svg>\n'
    )


def without_small_print(payload: Payload) -> Payload:
    """The message without its lines in small grey letters."""
    return {**payload, "blocks": [block for block in payload["blocks"] if block["type"] != "context"]}


def _message(at: str, payload: Payload, top: float) -> tuple[list[str], float]:
    """The parts of one message, and where it ends."""
    parts = [
        f'<rect x="24" y="{top}" width="36" height="36" rx="6" fill="#4a154b"/>',
        _text(42, top + 24, "R", size=18, weight=700, colour="#fff", anchor="middle"),
        _text(LEFT, top + 13, "revor-relay", size=15, weight=700),
        f'<rect x="{LEFT + 98}" y="{top + 2}" width="30" height="14" rx="2" fill="#eee"/>',
        _text(LEFT + 113, top + 12.5, "APP", size=10, weight=700, colour=GREY, anchor="middle"),
        _text(LEFT + 138, top + 13, at, size=12, colour=GREY),
    ]
    y = top + 16
    for index, block in enumerate(payload["blocks"]):
        drawn, y = _block(block, y + (6 if index and block["type"] in ("section", "header") else 0))
        parts += drawn
    return parts, y + 4


def _block(block: Mapping[str, Any], y: float) -> tuple[list[str], float]:
    parts: list[str] = []
    match block["type"]:
        case "header":
            for line in _wrapped(_plain_words(block["text"]["text"], "bold"), 72):
                y += 23
                parts.append(_styled(LEFT, y, line, size=17))
        case "divider":
            y += 14
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 24}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        case "context":
            words = " · ".join(_shown(one["text"]) for one in block["elements"])
            y += 4
            for line in _wrapped(_plain_words(words, "plain"), SMALL_CHARACTERS):
                y += 17
                parts.append(_styled(LEFT, y, line, size=12, colour=GREY))
        case _:
            for paragraph in block["text"]["text"].split("\n"):
                for line in _wrapped(_words(paragraph), LINE_CHARACTERS):
                    y += 20
                    parts.append(_styled(LEFT, y, line))
            drawn, y = _fields(block.get("fields", []), y)
            parts += drawn
    return parts, y


def _fields(fields: Sequence[Mapping[str, Any]], y: float) -> tuple[list[str], float]:
    parts = []
    for row in range(0, len(fields), 2):
        ends = []
        for column, field in enumerate(fields[row : row + 2]):
            x, line_y = LEFT + column * COLUMN, y + 6
            for paragraph in field["text"].split("\n"):
                for line in _wrapped(_words(paragraph), FIELD_CHARACTERS):
                    line_y += 19
                    parts.append(_styled(x, line_y, line))
            ends.append(line_y)
        y = max(ends)
    return parts, y


def _words(mrkdwn: str) -> Iterator[Word]:
    """The words of a line of mrkdwn: links are blue, a line between stars is bold."""
    for piece in _PIECE.finditer(mrkdwn):
        _url, title, bold, plain = piece.groups()
        look = "link" if title is not None else "bold" if bold is not None else "plain"
        yield from _plain_words(_shown(title or bold or plain), look)


def _plain_words(text: str, look: str) -> Iterator[Word]:
    for index, word in enumerate(text.split()):
        yield Word(word, look, spaced=index > 0 or text[:1].isspace() or look == "link")


def _wrapped(words: Iterable[Word], characters: int) -> Iterator[list[Word]]:
    line: list[Word] = []
    for word in words:
        if line and sum(len(one.text) + 1 for one in line) + len(word.text) > characters:
            yield line
            line = []
        line.append(word)
    if line:
        yield line


def _styled(x: float, y: float, line: Sequence[Word], *, size: int = 14, colour: str = INK) -> str:
    """A line of text, with a span for each run of words that look the same."""
    runs: list[tuple[str, str]] = []
    for index, word in enumerate(line):
        text = f"{' ' if index and word.spaced else ''}{word.text}"
        if runs and runs[-1][0] == word.look:
            runs[-1] = (word.look, runs[-1][1] + text)
        else:
            runs.append((word.look, text))
    if len(runs) == 1 and runs[0][0] != "link":
        return _text(x, y, runs[0][1], size=size, weight=700 if runs[0][0] == "bold" else 400, colour=colour)
    spans = "".join(f'<tspan fill="{BLUE if look == "link" else colour}">{escape(text)}</tspan>' for look, text in runs)
    return f'<text x="{x}" y="{y}" font-size="{size}" xml:space="preserve">{spans}</text>'


def _shown(mrkdwn: str) -> str:
    return unescape(mrkdwn.replace("\u2060", ""))


def _text(
    x: float, y: float, text: str, *, size: int = 14, weight: int = 400, colour: str = INK, anchor: str = "start"
) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{colour}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )
