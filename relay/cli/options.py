"""Command-line options that several commands share, and how their values are read."""

import difflib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from relay.clock import from_rfc3339
from relay.core.jobs.job import DEFAULT_SOURCE, JOB_EVENTS, OTHER_WORDS
from relay.core.jsontext import JSONDecodeError, loads
from relay.core.values import moment
from relay.errors import UsageError

MAX_REQUESTS_PER_WINDOW = 1_000_000_000

Json = Annotated[bool, typer.Option("--json", help="Print only JSON on stdout.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="Maximum number of rows.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the end. Exit code 1: not everything was delivered.")]
Type = Annotated[str | None, typer.Option(help="Only this event type, such as failed.")]
Types = Annotated[str | None, typer.Option(help="Only these event types, such as failed,overdue.")]
SINCE = typer.Option(help="Only events recorded since a time (2026-05-20T10:00:00Z) or age (1d, 6h, 30m).")
Since = Annotated[str | None, SINCE]
Until = Annotated[str | None, typer.Option(help="Only events recorded before this time or age.")]


def given(**values: Any) -> dict[str, Any]:
    """The values that are not None, by their names."""
    return {name: value for name, value in values.items() if value is not None}


def read_bytes(file: str, limit_bytes: int) -> bytes:
    """Up to `limit_bytes` of a file; "-" is stdin, which stays open for questions. Raises OSError and ValueError."""
    if file == "-":
        return sys.stdin.buffer.read(limit_bytes)
    with Path(file).open("rb") as stream:
        return stream.read(limit_bytes)


def read_input(file: str, limit_bytes: int) -> bytes:
    """As `read_bytes`. Raises UsageError for a file that cannot be read."""
    try:
        return read_bytes(file, limit_bytes)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error


def split_names(text: str | None, option: str, example: str) -> list[str] | None:
    """The names in a comma-separated list. Raises UsageError if there are none."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{option} is empty. Write it like {example}")
    return names


def one_of(name: str, known: Sequence[str], what: str) -> str:
    """The name if it is known. Raises UsageError, with the nearest known name, if not."""
    if name not in known:
        likely = [one for one in known if one[:1] == name[:1].lower()]  # a slip rarely changes the first letter
        near = difflib.get_close_matches(name.lower(), likely, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        raise UsageError(f"unknown {what} {name!r:.40}: {hint}")
    return name


def type_names(text: str | None) -> list[str] | None:
    """The types of a list such as `failed,relay.test,com.acme.order.paid`. A short one stands for the types of every
    resource. Raises UsageError."""
    names = split_names(text, "--types", "failed,overdue")
    if names is None:
        return None
    return [_known(name) if "." in name else one_of(name, (*JOB_EVENTS, *OTHER_WORDS), "event type") for name in names]


def _known(name: str) -> str:
    """A type of the relay or of the default source, by its full name or ending, or one with a dot that is of another
    source or program. The ending of a job event is left as it is: other sources may have it too."""
    from relay.core.events.event import job_event_kind
    from relay.core.subscriptions.filters import known_types, nearest_type, wanted_types
    from relay.sources.definition import load_definition

    known = known_types(load_definition(DEFAULT_SOURCE).event_origins("", "").values())
    found = wanted_types(name, known)
    if not found:
        near = nearest_type(name[:200], known)
        hint = f"did you mean {near}?" if near else "`relay subscriptions add --help` names some"
        raise UsageError(f"unknown event type {name!r:.80}: {hint}")
    return found[0] if job_event_kind(found[0]) is None else name


def type_name(text: str | None) -> str | None:
    """The name of a type, such as `failed`: the first one of a list. Raises UsageError."""
    names = type_names(text)
    return names[0] if names else None


def time_or_age(text: str | None) -> str | None:
    """The RFC 3339 time of an option, which is a time, a day or an age such as `6h`. Raises UsageError."""
    if text is None:
        return None
    at = moment(text, time.time())
    try:
        from_rfc3339(at)
    except ValueError:
        raise UsageError(
            f"Invalid time {text!r:.40}. Use an ISO 8601 time such as 2026-05-20T10:00:08Z, or an age such as 1d."
        ) from None
    return at


def read_metadata(text: str | None) -> dict[str, Any] | None:
    """The JSON object of --metadata. Raises UsageError."""
    if text is None:
        return None
    try:
        value = loads(text.encode("utf-8", "surrogateescape"))
    except (JSONDecodeError, UnicodeEncodeError):
        value = None
    if not isinstance(value, dict):
        raise UsageError("--metadata is not a JSON object. Write it like '{\"deal\": 42}'")
    return value


def read_rate_limit(text: str) -> tuple[int, float]:
    """The requests and seconds of --rate-limit, such as `120/60`. Raises UsageError."""
    count, _, seconds = text.partition("/")
    try:
        limit = int(count), float(seconds)
    except ValueError:
        limit = 0, 0.0
    if not 1 <= limit[0] <= MAX_REQUESTS_PER_WINDOW or not 0 < limit[1] < float("inf"):
        raise UsageError(f"invalid --rate-limit {text!r:.40}. Write requests/seconds, such as 120/60")
    return limit
