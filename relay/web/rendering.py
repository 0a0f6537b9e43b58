"""Turns values into HTML. Everything is escaped unless a template or `charts.py` made it."""

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from relay.clock import from_rfc3339, to_rfc3339
from relay.web import charts
from relay.web.api_client import shown
from relay.web.texts import english

HERE = Path(__file__).parent
STATIC = "/ui/static"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
    ".woff2": "font/woff2",
}
"""Of the files in static/ that are served, by suffix."""
_URL = re.compile(r'url\("([\w./-]+)"\)')
_UNSEEN = re.compile(
    r"\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)


class Pages:
    """The templates, with what each of them can use:

    t(key, …)        a text of the catalogue
    asset(name)      the path of a file of static/, which changes with the file
    chart, stack     see `charts.py`
    m                the macros of macros.html
    filters: when (a time), lasting (how long ago), duration, count, json, link (only for http and https), query,
    inert (bytes from outside), short (a long id)
    """

    def __init__(self) -> None:
        self.texts = english()
        self.environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self.environment.globals |= {"t": self.texts, "asset": asset, "chart": charts.chart, "stack": charts.stack}
        filters = (when, duration, lasting, count, link, query, inert, short)
        self.environment.filters |= {"json": pretty, **{one.__name__: one for one in filters}}
        # A global, because a block rendered alone does not see its page's imports.
        self.environment.globals["m"] = self.environment.get_template("macros.html").module

    def page(self, template: str, values: Mapping[str, Any]) -> str:
        """The whole page."""
        return self.environment.get_template(template).render(values)

    def live(self, template: str, values: Mapping[str, Any]) -> str:
        """Only the page's block `live`."""
        found = self.environment.get_template(template)
        return "".join(found.blocks["live"](found.new_context(dict(values))))


def when(time: str | float | None) -> Markup:
    """A time as the browser shows it: relative, with the absolute time on hover. Without JavaScript: in UTC."""
    if time is None:
        return Markup("—")
    text = time if isinstance(time, str) else to_rfc3339(time)
    try:
        from_rfc3339(text)
    except ValueError:
        return Markup("{}").format(text)
    return Markup('<time datetime="{}">{} UTC</time>').format(text, text[:19].replace("T", " "))


def duration(seconds: float | None) -> str:
    """A duration in its two largest units, such as `2 h 5 min`; short ones in ms."""
    if seconds is None:
        return "—"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    left, parts = round(seconds), []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        amount, left = divmod(left, size)
        if amount:
            parts.append(f"{amount} {unit}")
    return " ".join(parts[:2])


def rough(seconds: float) -> str:
    """A duration in its largest unit, such as `59 sec.` or `1 day`, as the browser shows times."""
    for unit, size in (("day", 86_400), ("hr.", 3_600), ("min.", 60)):
        if seconds >= size:
            amount = round(seconds / size)
            return f"{amount} {unit}{'s' if unit == 'day' and amount != 1 else ''}"
    return f"{max(round(seconds), 0)} sec."


def lasting(since: str, now: float) -> str:
    """How long something has lasted, in its largest unit."""
    return rough(now - from_rfc3339(since))


def count(number: float | None) -> str:
    """A number with separators; — for None."""
    if number is None:
        return "—"
    return f"{number:,.0f}" if number == int(number) or abs(number) >= 100 else f"{number:,.2f}"


def pretty(value: object) -> str:
    """A JSON value, formatted for people."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode()


def link(url: str | None) -> str:
    """The URL if a browser may follow it, else "". Links of events come from outside."""
    try:
        scheme = urlsplit(url or "").scheme
    except ValueError:
        return ""
    return url or "" if scheme in ("http", "https") else ""


def inert(text: str) -> str:
    """Text from outside that cannot alter the text around it: control characters, marks of writing direction and
    characters without width are shown by their numbers."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def short(id: str) -> str:
    """The beginning and the end of a long id, which tell one from another."""
    return id if len(id) <= 14 else f"{id[:6]}…{id[-4:]}"


def query(path: str, **values: str | int | None) -> str:
    """The path with a query of the values that are present."""
    encoded = urlencode(shown(values))
    return f"{path}?{encoded}" if encoded else path


@cache
def static_files() -> Mapping[str, tuple[bytes, str]]:
    """Every file of static/ by name: its bytes and its media type. The files that a stylesheet names have their
    versions."""
    folder = HERE / "static"
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in MEDIA_TYPES
    }
    for name in [name for name in found if name.endswith(".css")]:
        versioned = _URL.sub(lambda named: f'url("{named[1]}?v={_version(found[named[1]])}")', found[name].decode())
        found[name] = versioned.encode()
    return {name: (body, MEDIA_TYPES[Path(name).suffix]) for name, body in found.items()}


@cache
def asset(name: str) -> str:
    """The path of a static file, with a part of its digest: browsers may cache it for ever."""
    return f"{STATIC}/{name}?v={version_of(name)}"


@cache
def version_of(name: str) -> str:
    """A part of a static file's digest, as its version."""
    return _version(static_files()[name][0])


def _version(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:12]
