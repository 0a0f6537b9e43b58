"""Text from outside as text that everything behind the edge can hold: UTF-8, JSON, and PostgreSQL's text."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def decoded(raw: bytes) -> str:
    """Bytes from outside: UTF-8 where they are that, else Latin-1. NUL becomes U+FFFD."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.replace("\0", REPLACEMENT)


def storable(text: str) -> str:
    """The same for what a library has decoded: bytes that it kept as surrogate escapes are decoded anew, other lone
    surrogates become U+FFFD."""
    if text.isascii():
        return text.replace("\0", REPLACEMENT) if "\0" in text else text
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
    return decoded(raw)
