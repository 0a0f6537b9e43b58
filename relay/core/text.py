"""Turns external text into text that UTF-8, JSON and PostgreSQL can hold."""

from relay.core.jsontext import well_formed

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def decoded(raw: bytes) -> str:
    """Decodes bytes as UTF-8, or else as Latin-1. NUL becomes U+FFFD."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.replace("\0", REPLACEMENT)


def storable(text: str) -> str:
    """Repairs text decoded by a library: decodes surrogate escapes again, turns other lone surrogates into U+FFFD."""
    if text.isascii():
        return text.replace("\0", REPLACEMENT) if "\0" in text else text
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = well_formed(text).encode()
    return decoded(raw)
