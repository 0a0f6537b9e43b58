"""Draws the body of a rendered request as its receiver shows it: Slack's blocks, a card, an embed, a record, an event.

Pure. Every text is escaped here or by the template; links lead to http and https only; no picture is loaded. What has
no drawing is None: the page shows the request itself as well. The markup of each service is that of its documentation,
see `subscribers/slack/render.py` and `subscribers/common/markdown.py`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from typing import Any, Literal

from markupsafe import Markup, escape

from relay.core.jsontext import JSONDecodeError, loads
from relay.web.rendering import link, pretty

Look = Literal["title", "text", "strong", "small", "columns", "facts", "rule", "buttons", "box", "code"]
Inside = tuple[Markup, str]
"""A text, and the URL that it leads to; "" if none."""
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_SLACK_COLOURS = {"good": "#2eb886", "warning": "#daa038", "danger": "#a30200"}
_HTML_FIELDS = frozenset({"hs_note_body", "hs_task_body", "content", "note"})
"""Fields of CRMs that hold HTML."""
_MAX_DATA = 20_000
_MAX_HTML = 5_000
"""Characters of a note that are drawn. Python's parser takes a time that grows with the square of a hostile one."""
_NOTHING = Markup("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a message, from above to below. `tone`: of a box."""

    look: Look
    text: Markup = _NOTHING
    items: Sequence[Markup] = ()
    pairs: Sequence[tuple[Markup, Markup]] = ()
    buttons: Sequence[Inside] = ()
    pieces: "Sequence[Piece]" = ()
    tone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A message. `service`: whose look it has. `colour`: of the bar beside it, as #rrggbb."""

    service: str
    pieces: Sequence[Piece] = field(default_factory=tuple)
    colour: str = ""


def drawing(look: str, body: str | None) -> Drawing | None:
    """The drawing of a request's body. `look`: that of the kind's `Offer`; empty: an event, or fields."""
    try:
        document = loads((body or "").encode(errors="surrogateescape"))
    except JSONDecodeError:
        return None
    if isinstance(document, list):
        document = next(iter(document), None)
    if not isinstance(document, dict):
        return None
    draw = {"slack": _slack, "teams": _teams, "discord": _discord}.get(look, _event)
    found = draw(document)
    return found if found.pieces else None


# --- Slack


def _slack(document: Mapping[str, Any]) -> Drawing:
    attachments = list(_dicts(document.get("attachments")))
    pieces = [*_blocks(document.get("blocks"))]
    for one in attachments:
        pieces += [*_blocks(one.get("blocks")), *_old_attachment(one)]
    colours = [_colour(_SLACK_COLOURS.get(str(one.get("color")), one.get("color"))) for one in attachments]
    if not pieces and document.get("text"):
        pieces = [Piece(look="text", text=slack_text(_text(document["text"])))]
    return Drawing(service="slack", pieces=pieces, colour=next(filter(None, colours), ""))


def _blocks(given: object) -> Iterator[Piece]:
    for one in _dicts(given):
        kind = one.get("type")
        if kind == "header":
            yield Piece(look="title", text=_slack_element(one.get("text")))
        elif kind == "section":
            if one.get("text"):
                yield Piece(look="text", text=_slack_element(one["text"]))
            if one.get("fields"):
                yield Piece(look="columns", items=[_slack_element(field) for field in _dicts(one["fields"])])
            if buttons := _slack_buttons([one.get("accessory")]):
                yield Piece(look="buttons", buttons=buttons)
        elif kind == "context":
            texts = [_slack_element(element) for element in _dicts(one.get("elements"))]
            yield Piece(look="small", text=Markup(" · ").join(texts))
        elif kind == "divider":
            yield Piece(look="rule")
        elif kind == "actions" and (buttons := _slack_buttons(one.get("elements"))):
            yield Piece(look="buttons", buttons=buttons)


def _old_attachment(one: Mapping[str, Any]) -> Iterator[Piece]:
    for name, look in (("pretext", "text"), ("title", "strong"), ("text", "text"), ("footer", "small")):
        if one.get(name):
            yield Piece(look=look, text=slack_text(_text(one[name])))  # type: ignore[arg-type]
    if one.get("fields"):
        items = [f"*{_text(each.get('title'))}*\n{_text(each.get('value'))}" for each in _dicts(one["fields"])]
        yield Piece(look="columns", items=[slack_text(text) for text in items])


def _slack_element(given: object) -> Markup:
    """A text object: plain, or with Slack's marks."""
    one = given if isinstance(given, dict) else {}
    text = _text(one.get("text"))
    return slack_text(text) if one.get("type") == "mrkdwn" else _lines(escape(unescape(text)))


def _slack_buttons(given: object) -> list[Inside]:
    found = [one for one in _dicts(given) if one.get("type") == "button"]
    return [(_slack_element(one.get("text")), link(_text(one.get("url")))) for one in found]


_SLACK_MARKS = re.compile(
    r"<(?P<url>https?://[^<|>\s]{1,3000})(?:\|(?P<title>[^<>]*))?>"
    r"|(?<!\u2060)`(?P<code>[^`\n]+)(?<!\u2060)`"
    r"|(?<![\w\u2060*])\*(?=\S)(?P<b>[^*\n]+)(?<![\s\u2060])\*(?![\w\u2060*])"
    r"|(?<![\w\u2060_])_(?=\S)(?P<i>[^_\n]+)(?<![\s\u2060])_(?![\w\u2060_])"
    r"|(?<![\w\u2060~])~(?=\S)(?P<s>[^~\n]+)(?<![\s\u2060])~(?![\w\u2060~])"
)


def slack_text(text: str) -> Markup:
    """Slack's mrkdwn as HTML."""
    return _lines(_marked(text, _SLACK_MARKS, lambda plain: escape(unescape(plain))))


# --- Markdown of cards and embeds

_MARKDOWN = re.compile(
    r"\\(?P<literal>[^0-9A-Za-z\s])"
    r"|\[(?P<title>(?:\\.|[^\[\]\\])*)\]\((?P<url>https?://[^)\s]{1,3000})\)"
    r"|\*\*(?P<b>(?:\\.|[^*\\])+)\*\*"
    r"|(?<![\w*])\*(?P<i>(?:\\.|[^*\\\s])(?:\\.|[^*\\])*)\*(?!\w)"
    r"|`(?P<code>[^`\n]+)`"
)


def markdown_text(text: str) -> Markup:
    """The Markdown of Adaptive Cards and of Discord as HTML: bold, italics, code and links."""
    return _lines(_marked(text, _MARKDOWN, escape))


def _marked(text: str, marks: re.Pattern[str], plain: Any, depth: int = 3) -> Markup:
    parts, at = [], 0
    for found in marks.finditer(text):
        parts.append(plain(text[at : found.start()]))
        parts.append(_mark(found, marks, plain, depth))
        at = found.end()
    return Markup().join([*parts, plain(text[at:])])


def _mark(found: re.Match[str], marks: re.Pattern[str], plain: Any, depth: int) -> Markup:
    given = {name: value for name, value in found.groupdict().items() if value is not None}
    if "literal" in given:
        return escape(given["literal"])
    if "url" in given:
        title = given.get("title") or given["url"]
        return _linked(_marked(title, marks, plain, depth - 1) if depth else plain(title), unescape(given["url"]))
    if "code" in given:
        return Markup("<code>{}</code>").format(plain(given["code"]))
    ((name, inner),) = given.items()
    shown = _marked(inner, marks, plain, depth - 1) if depth else plain(inner)
    return Markup("<{0}>{1}</{0}>").format(name, shown)


# --- Teams


def _teams(document: Mapping[str, Any]) -> Drawing:
    cards = [one.get("content") for one in _dicts(document.get("attachments"))] or [document]
    pieces: list[Piece] = []
    for card in _dicts(cards):
        pieces += _elements(card.get("body"))
        if buttons := _card_buttons(card.get("actions")):
            pieces.append(Piece(look="buttons", buttons=buttons))
    return Drawing(service="teams", pieces=pieces)


def _elements(given: object, depth: int = 4) -> Iterator[Piece]:
    for one in _dicts(given) if depth else ():
        kind = one.get("type")
        if one.get("separator"):
            yield Piece(look="rule")
        if kind == "TextBlock":
            small = one.get("isSubtle") is True or one.get("size") == "Small"
            look: Look = "small" if small else "strong" if one.get("weight") == "Bolder" else "text"
            yield Piece(look=look, text=markdown_text(_text(one.get("text"))))
        elif kind == "FactSet":
            facts = [(_text(fact.get("title")), _text(fact.get("value"))) for fact in _dicts(one.get("facts"))]
            yield Piece(look="facts", pairs=[(markdown_text(title), markdown_text(value)) for title, value in facts])
        elif kind == "Container":
            tone = {"attention": "bad", "warning": "warn", "good": "good"}.get(_text(one.get("style")), "quiet")
            yield Piece(look="box", tone=tone, pieces=list(_elements(one.get("items"), depth - 1)))
        elif kind == "ColumnSet":
            for column in _dicts(one.get("columns")):
                yield from _elements(column.get("items"), depth - 1)
        elif kind == "ActionSet" and (buttons := _card_buttons(one.get("actions"))):
            yield Piece(look="buttons", buttons=buttons)


def _card_buttons(given: object) -> list[Inside]:
    return [(escape(_text(one.get("title"))), link(_text(one.get("url")))) for one in _dicts(given)]


# --- Discord


def _discord(document: Mapping[str, Any]) -> Drawing:
    pieces, colour = [], ""
    if document.get("content"):
        pieces.append(Piece(look="text", text=markdown_text(_text(document["content"]))))
    for embed in _dicts(document.get("embeds")):
        number = embed.get("color")
        colour = colour or (f"#{number:06x}" if isinstance(number, int) and 0 <= number <= 0xFFFFFF else "")
        if embed.get("title"):
            title = markdown_text(_text(embed["title"]))
            pieces.append(Piece(look="strong", text=_linked(title, _text(embed.get("url")))))
        if embed.get("description"):
            pieces.append(Piece(look="text", text=markdown_text(_text(embed["description"]))))
        for inline, run in _runs(_dicts(embed.get("fields"))):
            pairs = [(markdown_text(_text(one.get("name"))), markdown_text(_text(one.get("value")))) for one in run]
            items = [Markup("<b>{}</b><br>{}").format(*pair) for pair in pairs]
            if inline:
                pieces.append(Piece(look="columns", items=items))
            else:
                pieces += [Piece(look="text", text=one) for one in items]
        footer = embed.get("footer")
        if isinstance(footer, dict):
            pieces.append(Piece(look="small", text=escape(_text(footer.get("text")))))
    for row in _dicts(document.get("components")):
        buttons = [
            (escape(_text(one.get("label"))), link(_text(one.get("url")))) for one in _dicts(row.get("components"))
        ]
        pieces.append(Piece(look="buttons", buttons=buttons))
    return Drawing(service="discord", pieces=pieces, colour=_colour(colour))


def _runs(fields: Iterable[Mapping[str, Any]]) -> Iterator[tuple[bool, list[Mapping[str, Any]]]]:
    """Fields beside each other, and those below each other."""
    run: list[Mapping[str, Any]] = []
    for one in fields:
        if run and bool(run[0].get("inline")) != bool(one.get("inline")):
            yield bool(run[0].get("inline")), run
            run = []
        run.append(one)
    if run:
        yield bool(run[0].get("inline")), run


# --- events and records

_ATTRIBUTES = ("type", "subject", "source", "time", "id")


def _event(document: Mapping[str, Any]) -> Drawing:
    """A CloudEvent with its data, or the fields of any other document: of a CRM's record those of the record."""
    if "specversion" in document:
        attributes = [(escape(name), escape(_text(document[name]))) for name in _ATTRIBUTES if name in document]
        data = escape(pretty(document.get("data"))[:_MAX_DATA])
        return Drawing(service="event", pieces=[Piece(look="facts", pairs=attributes), Piece(look="code", text=data)])
    own = document.get("properties")
    fields = own if isinstance(own, dict) else document
    shown = [(name, value) for name, value in fields.items() if value not in (None, "", [], {})]
    pairs, texts = [], []
    for name, value in shown:
        if name in _HTML_FIELDS and isinstance(value, str):
            texts.append(Piece(look="text", text=html_text(value)))
        elif not (isinstance(own, dict) and name == "associations"):
            pairs.append((escape(str(name)), _lines(escape(value if isinstance(value, str) else pretty(value)))))
    return Drawing(service="record", pieces=[*texts, *([Piece(look="facts", pairs=pairs)] if pairs else [])])


class _Reader(HTMLParser):
    """Keeps the text of HTML, and a few marks without attributes."""

    kept = frozenset({"b", "strong", "i", "em", "p", "ul", "ol", "li"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[Markup] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A mark begins."""
        if tag == "br":
            self.parts.append(Markup("<br>"))
        elif tag in self.kept:
            self.open.append(tag)
            self.parts.append(Markup("<{}>").format(tag))
        elif tag == "a" and (url := link(dict(attrs).get("href"))):
            self.open.append(tag)
            self.parts.append(Markup('<a href="{}" rel="noreferrer nofollow">').format(url))

    def handle_endtag(self, tag: str) -> None:
        """A mark ends, with those that began in it."""
        while tag in self.open:
            last = self.open.pop()
            self.parts.append(Markup("</{}>").format(last))
            if last == tag:
                break

    def handle_data(self, data: str) -> None:
        """Text."""
        self.parts.append(escape(data))


def html_text(text: str) -> Markup:
    """HTML of a CRM's note: its text, bold, italics, lists and links. All else is left out."""
    reader = _Reader()
    try:
        reader.feed(text[:_MAX_HTML])
        reader.close()
    except AssertionError:  # of the parser, for a declaration that it cannot read
        return _lines(escape(text[:_MAX_HTML]))
    for tag in list(reversed(reader.open)):
        reader.handle_endtag(tag)
    return Markup().join(reader.parts)


# --- values


def _linked(text: Markup, url: str) -> Markup:
    target = link(url)
    return Markup('<a href="{}" rel="noreferrer nofollow">{}</a>').format(target, text) if target else text


def _lines(text: Markup) -> Markup:
    return Markup("<br>").join(text.split("\n"))


def _colour(value: object) -> str:
    return value.lower() if isinstance(value, str) and _COLOUR.fullmatch(value) else ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _dicts(given: object) -> Iterator[Mapping[str, Any]]:
    yield from (one for one in given if isinstance(one, dict)) if isinstance(given, list) else ()
