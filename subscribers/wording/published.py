"""What other programs have published, in words."""

import re

from subscribers.wording.text import Document, one_line, without_addresses

_SUBJECT_CHARACTERS = 120
_VERSION = re.compile(r"v?[0-9]+", re.IGNORECASE)
_BETWEEN_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")


def published_sentence(document: Document) -> str:
    """`Order paid: A-17`: the type's last words and the subject, in one sentence without the full stop."""
    what = published_words(document.get("type"))
    subject = without_addresses(one_line(document.get("subject"), _SUBJECT_CHARACTERS))
    return f"{what}: {subject}" if subject else what


def published_words(type: object) -> str:
    """`Order paid` for `com.acme.order.paid.v1`."""
    text = one_line(type, 200)
    segments = [one for one in text.split(".") if one and not _VERSION.fullmatch(one)]
    words = _BETWEEN_WORDS.sub(" ", " ".join(segments[-2:])).strip().lower()
    return words[:1].upper() + words[1:] if words else f"Event {text}".strip()
