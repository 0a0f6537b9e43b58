"""Plain text in a field that a service reads as Markdown: Adaptive Cards and Discord.

Sources: CommonMark 0.31 (backslash escapes, entities), Microsoft's text features of Adaptive Cards (links, lists,
`{{DATE(…)}}`, `<at>`), Discord's message formatting (mentions, timestamps, custom emoji, spoilers, subtext).
"""

import re

from subscribers.wording import Link

_JOINER = "\u2060"
"""WORD JOINER has no width. After such a mark it makes the mark plain text."""

# Mentions and channels, emoji names, URLs that become links, invitations to a server, expressions of templates.
_ACTIVE = re.compile(r"[@#](?=[\w&!{])|:(?!\d\d:)(?=[\w+'-]+:)|:(?=//)|(?<=discord)\.(?=gg/)|[{$](?=\{)", re.IGNORECASE)
_MARKS = re.compile(r"[\\`*_~|<>\[\]]|&(?=#?\w{1,32};)|^[-+#]")
_NUMBER = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")


def disarmed(text: str) -> str:
    """Text that mentions no user and becomes no link, emoji or expression. It looks the same."""
    return _ACTIVE.sub(rf"\g<0>{_JOINER}", text)


def escape(text: str) -> str:
    """One line of text that a Markdown field shows literally."""
    escaped = _MARKS.sub(r"\\\g<0>", disarmed(text))
    return _NUMBER.sub(r"\1\\\2", escaped)


def linked(link: Link) -> str:
    """A link with its title."""
    return f"[{escape(link.title)}]({link.url})"
