"""Reads texts as the chat services show them, to see that no text of a job is more than text."""

import re
from functools import lru_cache
from html import unescape

from markdown_it import MarkdownIt

JOINER = "\u2060"
_MARKDOWN = MarkdownIt("js-default", {"linkify": False}).enable(["strikethrough", "table"])
_PARAGRAPH = re.compile(r"<p>([^<>]*)</p>\n")
_ESCAPED = re.compile(r"\\([^0-9A-Za-z\s])")
_DISCORD = re.compile(
    r"[\\*_~`|<>\[\]]"  # styles, spoilers, mentions, timestamps, custom emoji, quotes, links
    r"|^(?:[-+#]|\d+[.)]\s)"  # lists, headings, subtext
)
_ACTIVE = re.compile(r"[@#](?=\w)|://|discord\.gg/|:(?!\d\d:)[\w+'-]+:|\{\{|\$\{", re.IGNORECASE)


@lru_cache(maxsize=4096)
def shown_by_markdown(text: str) -> str:
    """What a field of an Adaptive Card shows. Raises AssertionError if it is more than one line of plain text."""
    rendered = _MARKDOWN.render(text)
    plain = _PARAGRAPH.fullmatch(rendered)
    assert plain, f"{text!r} becomes {rendered!r}"
    shown = unescape(plain[1])
    assert not _ACTIVE.search(shown), shown
    assert "<at>" not in text
    return shown.replace(JOINER, "")


@lru_cache(maxsize=4096)
def shown_by_discord(text: str) -> str:
    """What a field of an embed shows. Raises AssertionError if it is more than plain text."""
    left = _ESCAPED.sub("", text)
    assert not _DISCORD.search(left if left == text or not text.startswith("\\") else "x" + left), text
    shown = _ESCAPED.sub(r"\1", text)
    assert not _ACTIVE.search(shown), shown
    return shown.replace(JOINER, "")
