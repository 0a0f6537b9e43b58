"""Draws the messages in docs/guides/ as chats show them: `python -m tests.support.message_pictures`.

Each SVG is made of the drawing that the dashboard's preview has of what a kind sends. Look at them before you commit
them. People run it, not CI.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape, unescape
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import orjson
from markupsafe import Markup

from relay.core.events.event import Event
from relay.core.jobs.job import Problem
from relay.core.subscriptions.subscription import Subscription
from relay.sources.definition import load_definition
from relay.web.drawings import Drawing, Piece, drawing
from subscribers import registry
from subscribers.base import RenderContext
from tests.subscribers.slack import test_dialogue as bots
from tests.support.job_events import account_made
from tests.support.story_events import CODE, CREDITS, OVERDUE, RECONNECT, at, finished, of_incident, of_job

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "guides"
WIDTH, LEFT = 760, 72
FONT = "Lato, 'Helvetica Neue', Helvetica, Arial, sans-serif"
REVOR = load_definition("revor")
CONTEXT = RenderContext(
    public_url="https://relay.example",
    titles={"revor": "Revor"},
    explain=lambda source, code: REVOR.hint_for(Problem(code=code, message="") if code else None, "failed"),
)
DEALS = "https://crm.example/deals"
_TAGS = re.compile(r"(<[^>]+>|\n)")


@dataclass(frozen=True)
class Look:
    """The colours of a service, and who its messages are from. `box`: behind a message; empty: none."""

    author: str
    face: str
    ground: str
    ink: str
    grey: str
    link: str
    box: str = ""


LOOKS = {
    "slack": Look("revor-relay", "#4a154b", "#fff", "#1d1c1d", "#616061", "#1264a3"),
    "teams": Look("Workflows", "#5b5fc7", "#f5f5f5", "#242424", "#616161", "#5b5fc7", "#fff"),
    "discord": Look("revor-relay", "#5865f2", "#313338", "#dbdee1", "#b5bac1", "#00a8fc", "#2b2d31"),
}
_TONES = {"bad": "#fde7e9", "warn": "#fff4ce", "good": "#e7f2da", "quiet": "#f3f2f1"}


class Word(NamedTuple):
    text: str
    bold: bool
    linked: bool


class Canvas:
    """The parts of a picture from above to below. `y`: where the last one ends."""

    def __init__(self, look: Look) -> None:
        self.look, self.parts, self.y = look, list[str](), 0.0

    def rect(self, x: float, y: float, width: float, height: float, fill: str, *, radius: int = 4) -> None:
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}" fill="{fill}"/>'
        )

    def text(self, x: float, y: float, words: Sequence[Word], size: float, colour: str) -> None:
        spans = []
        for word in words:
            look = f' fill="{self.look.link}"' if word.linked else ""
            weight = ' font-weight="700"' if word.bold else ""
            spans.append(f"<tspan{look}{weight}>{escape(word.text)}</tspan>" if look or weight else escape(word.text))
        body = " ".join(spans)
        self.parts.append(f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{colour}">{body}</text>')

    def lines(self, x: float, width: float, text: Markup, *, size: float = 14, bold: bool = False) -> None:
        """A text, wrapped, below what is there."""
        colour = self.look.grey if size < 13 else self.look.ink
        for line in wrapped(text, width, size, bold=bold):
            self.y += size * 1.4
            self.text(x, self.y, line, size, colour)

    def columns(self, x: float, width: float, items: Sequence[Markup], number: int) -> None:
        """Texts beside each other, in rows."""
        each = width / number
        for begin in range(0, len(items), number):
            top, ends = self.y + 6, []
            for place, item in enumerate(items[begin : begin + number]):
                self.y = top
                self.lines(x + place * each, each - 14, item, size=13.5)
                ends.append(self.y)
            self.y = max(ends)

    def piece(self, one: Piece, x: float, width: float) -> None:
        match one.look:
            case "title":
                self.y += 4
                self.lines(x, width, one.text, size=17, bold=True)
            case "strong":
                self.lines(x, width, one.text, bold=True)
            case "small":
                self.y += 3
                self.lines(x, width, one.text, size=12)
            case "columns":
                self.columns(x, width, one.items, 2)
            case "facts":
                for title, value in one.pairs:
                    top = self.y
                    self.lines(x, 120, title, size=13, bold=True)
                    self.y = top
                    self.lines(x + 130, width - 130, value, size=13)
                    self.y += 2
            case "rule":
                self.y += 10
                self.rect(x, self.y, width, 1, self.look.grey + "55", radius=0)
                self.y += 2
            case "buttons":
                self.y += 10
                for title, _ in one.buttons:
                    wide = 24 + 7.2 * len(title)
                    self.rect(x, self.y, wide, 28, "#e8e8f7")
                    self.text(x + 12, self.y + 19, [Word(unescape(str(title)), True, True)], 13, self.look.ink)
                    x += wide + 8
                self.y += 30
            case "box":
                top, place = self.y, len(self.parts)
                self.y += 6
                for inner in one.pieces:
                    self.piece(inner, x + 12, width - 24)
                self.y += 10
                drawn, self.parts = self.parts[place:], self.parts[:place]
                self.rect(x, top, width, self.y - top, _TONES[one.tone])
                self.parts += drawn
            case _:
                self.y += 2
                self.lines(x, width, one.text)

    def message(self, clock: str, shown: Drawing) -> None:
        """A message, with its author and the time above it."""
        look, top = self.look, self.y + 24
        self.rect(24, top, 36, 36, look.face, radius=6)
        self.text(36, top + 24, [Word(look.author[0].upper(), True, False)], 17, "#fff")
        self.text(LEFT, top + 12, [Word(look.author, True, False)], 15, look.ink)
        self.text(LEFT + 8.4 * len(look.author) + 10, top + 12, [Word(clock, False, False)], 12, look.grey)
        self.y, place, indent = top + 18, len(self.parts), 16 if look.box else 0
        self.y += 12 if look.box else 0
        for one in shown.pieces:
            self.piece(one, LEFT + indent, WIDTH - 28 - LEFT - 2 * indent)
        if look.box:
            drawn, self.parts = self.parts[place:], self.parts[:place]
            self.y += 14
            self.rect(LEFT, top + 20, WIDTH - 24 - LEFT, self.y - top - 20, look.box)
            if shown.colour:
                self.rect(LEFT, top + 20, 4, self.y - top - 20, shown.colour, radius=2)
            self.parts += drawn


def wrapped(text: Markup, width: float, size: float, *, bold: bool) -> Iterator[list[Word]]:
    """The lines of a text."""
    strong, linked, line, used = bold, False, list[Word](), 0.0
    for token in _TAGS.split(str(text)):
        if token in ("<br>", "\n"):
            yield line
            line, used = [], 0.0
        elif token.startswith("<"):
            name = token.strip("</>").split()[0]
            opens = not token.startswith("</")
            strong = (opens or bold) if name in ("b", "strong") else strong
            linked = opens if name == "a" else linked
        else:
            for word in unescape(token).replace("\u2060", "").split():
                wide = size * (0.545 if strong else 0.49) * (len(word) + 1)
                if line and used + wide > width:
                    yield line
                    line, used = [], 0.0
                line.append(Word(word, strong, linked))
                used += wide
    if line:
        yield line


def picture(service: str, channel: str, messages: Sequence[tuple[str, bytes]]) -> str:
    """The SVG of a channel: for each message the time beside it, and its body."""
    canvas = Canvas(LOOKS[service])
    canvas.text(24, 34, [Word(channel, True, False)], 17, canvas.look.ink)
    canvas.y = 40
    for clock, body in messages:
        shown = drawing(service, body.decode())
        assert shown is not None
        canvas.message(clock, shown)
    height, body_text = round(canvas.y + 24), "\n".join(canvas.parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="{escape(FONT)}">\n<rect width="{WIDTH}" height="{height}" rx="8" '
        f'fill="{canvas.look.ground}" stroke="#ccc"/>\n{body_text}\n</svg>\n'
    )


def sent(kind: str, *events: Event) -> bytes:
    subscription = Subscription(id="sub_1", sink="https://hooks.example/x", kind=kind)
    known = registry.kind_named(kind)
    if len(events) > 1:
        return known.render_bundle(events, subscription, CONTEXT).body
    return known.render(events[0], subscription, CONTEXT).body


def without_small_print(body: bytes) -> bytes:
    """A message of Slack without its lines in small grey letters."""
    payload = orjson.loads(body)
    return orjson.dumps({"blocks": [one for one in payload["blocks"] if one["type"] != "context"]})


def broken(kind: str, clock: str, name: str, number: int | None = None, **more: Any) -> Event:
    """A job of the account that needs reconnecting."""
    url = None if number is None else f"{DEALS}/{number}"
    return of_job(kind, clock, name, hint=RECONNECT, code=CODE, sender="acc_17", url=url, **more)


def late(clock: str, name: str) -> Event:
    return of_job("overdue", clock, name, hint=OVERDUE, channel="email")


FAILED = broken("failed", "10:12:40", "Alex", 42, deal="Example Ltd", owner="Kim")
REFUSED = {"hint": CREDITS, "code": "insufficient_credits"}
DIGEST = (
    *(broken("failed", "10:20:10", name, 42 + number) for number, name in enumerate(("Alex", "Kim", "Robin", "Sam"))),
    *(broken("failed", "10:21:10", name, 46 + number) for number, name in enumerate(("Toni", "Chris", "Jo", "Pat"))),
    of_incident("grew", "10:24:10", 10, 33),
    of_job("failed", "10:23:00", "Mika", channel="email", **REFUSED),
    *(late("10:25:00", name) for name in ("Lee", "Ali")),
)
BURST = (
    *(broken("failed", "12:00:10", name, 50 + number) for number, name in enumerate(("Ben", "Cleo", "Dana", "Eli"))),
    *(late("12:03:40", name) for name in ("Fay", "Gus")),
)
STORY = (
    ("10:12", (FAILED,)),
    ("10:23", (of_incident("opened", "10:23:10", 3, 43),)),
    ("11:08", (finished(),)),
    ("12:05", BURST),
)
NEEDS = {"account_id": "acc_17", "open_jobs": 43, "state": "needs_reconnect", "since": at("10:23:40")}
CAMPAIGN = (
    ("10:23", of_incident("opened", "10:23:10", 3, 43)),
    ("10:24", account_made("needs_reconnect", hint=RECONNECT, **NEEDS)),
    ("10:37", of_incident("closed", "10:37:02", 13, 0)),
    ("11:08", finished()),
)


def of_a_bot() -> list[tuple[str, bytes]]:
    """Two messages with their threads: an incident that is over, and a campaign that is under way."""
    channel = bots.Channel()
    told = (("opened", "10:23:10", 3, 40), ("grew", "10:24:30", 10, 33), ("closed", "10:37:02", 13, 0))
    accepted = ("Alex", "Kim", "Robin", "Sam", "Toni", "Chris", "Jo", "Pat", "Ali")
    events = [replace(of_incident(*one), id=f"evt_01jvpq00000000000000{nth:06}") for nth, one in enumerate(told)]
    events += [of_job("succeeded", "10:40:00", name, group="spring") for name in accepted]
    events += [of_job("failed", "10:40:30", name, group="spring", **REFUSED) for name in ("Lee", "Mika")]
    with patch.object(bots, "CONTEXT", CONTEXT):
        bots.delivered(channel, *events)
    found: list[tuple[str, bytes]] = []
    for clock, post in zip(("10:23", "10:40"), channel.posts(), strict=True):
        found.append((f"{clock} (edited)", orjson.dumps({"blocks": post.blocks})))
        found += [("↳ in the thread", orjson.dumps({"blocks": reply.blocks})) for reply in post.replies]
    return [(clock, without_small_print(body)) for clock, body in found]


def pictures() -> Iterator[tuple[str, str]]:
    """The name and the SVG of each."""
    alerts = "# outreach-alerts"
    messages = [("10:12", sent("slack", FAILED)), ("11:08", sent("slack", finished()))]
    yield "slack-message", picture("slack", alerts, messages)
    yield "slack-digest", picture("slack", alerts, [("10:25", sent("slack", *DIGEST))])
    yield "slack-bot", picture("slack", "# campaigns", of_a_bot())
    story = [(clock, without_small_print(sent("slack", event))) for clock, event in CAMPAIGN]
    yield "campaigns", picture("slack", alerts, story)
    for service, channel in (("teams", "Outreach alerts"), ("discord", alerts)):
        yield service, picture(service, channel, [(clock, sent(service, *events)) for clock, events in STORY])


if __name__ == "__main__":
    for name, svg in pictures():
        (FOLDER / f"{name}.svg").write_text(svg, encoding="utf-8")
