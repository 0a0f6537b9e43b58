"""A sample answer for a draft: from a file, or by one GET. The credential stays in the request."""

from collections.abc import Sequence
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import SplitResult, urlsplit

from relay.cli.client import connection_to
from relay.core.access.netguard import is_loopback_host
from relay.core.jsontext import JSONDecodeError, loads
from relay.errors import RelayError, UsageError

MAX_BYTES = 1 << 20
TIMEOUT_SECONDS = 15.0


def header_of(text: str) -> tuple[str, str]:
    """Name and value of a header that is written `NAME: VALUE`. Raises UsageError."""
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not name or not value or not (name + value).isascii() or not (name + value).isprintable():
        raise UsageError("a --header is not of the form 'NAME: VALUE'")
    return name, value


def sample_in(path: Path) -> Any:
    """The JSON in a file. Raises UsageError."""
    try:
        with path.open("rb") as stream:
            return _json(stream.read(MAX_BYTES + 1), str(path))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def ask(url: str, headers: Sequence[tuple[str, str]]) -> Any:
    """The JSON that one GET of this URL answers. Follows no redirect, which could take the key elsewhere. Raises
    UsageError for a URL that may not be asked, RelayError for another answer than a 2xx with JSON."""
    parts = urlsplit(url)
    if headers and parts.scheme != "https" and not is_loopback_host(parts.hostname or ""):
        raise UsageError("the URL is plain http, which would send the key unencrypted. Use https, or --sample")
    found: list[tuple[int, bytes] | str] = []
    # The time limits of `http.client` begin anew with each byte.
    asking = Thread(target=lambda: found.append(_asked(parts, headers)), daemon=True)
    asking.start()
    asking.join(TIMEOUT_SECONDS)
    answer = found[0] if found else f"no whole answer within {TIMEOUT_SECONDS:g} s"
    if isinstance(answer, str):
        raise RelayError(f"the URL cannot be asked: {answer}. Use --sample with a file")
    status, raw = answer
    if not 200 <= status < 300:
        raise RelayError(f"the URL answers {status}. Check the URL and --header, or use --sample")
    return _json(raw, "the answer")


def _asked(parts: SplitResult, headers: Sequence[tuple[str, str]]) -> tuple[int, bytes] | str:
    """Status and body of the answer, or why there is none."""
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    try:
        with closing(connection_to(parts, TIMEOUT_SECONDS)) as connection:
            connection.request("GET", target, headers={"Accept": "application/json", **dict(headers)})
            answer = connection.getresponse()
            return answer.status, answer.read(MAX_BYTES + 1)
    except (HTTPException, OSError, ValueError) as error:
        return getattr(error, "strerror", None) or type(error).__name__


def _json(raw: bytes, what: str) -> Any:
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{what} is larger than 1 MiB")
    try:
        return loads(raw)
    except JSONDecodeError:
        raise UsageError(f"{what} is not JSON") from None
