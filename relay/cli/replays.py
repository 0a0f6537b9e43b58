"""`relay replays`: events that are sent again, and how far that has come."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from relay.cli.client import Unreachable, api, segment
from relay.cli.output import Json, note, print_fields, print_json, say
from relay.clock import from_rfc3339, to_rfc3339
from relay.errors import RelayError, UsageError

app = typer.Typer(help="See how far a replay is, and stop it.", no_args_is_help=True)

ReplayId = Annotated[str, typer.Argument(metavar="ID", help="The replay's id (rpl_…).")]
Wait = Annotated[bool, typer.Option("--wait", help="Return when it has ended. Exit code 1 when not all was delivered.")]
SINCE_HELP = "Only events recorded since then: a time (2026-05-20T10:00:00Z) or an age (1d, 6h, 30m)."
COUNT_TIMEOUT_SECONDS = 300.0
"""What there is to send is counted before the answer: of many millions of events that takes a while."""
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 60.0
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@app.command()
def show(id: ReplayId, wait: Wait = False, json: Json = False) -> None:
    """Show how far it is."""
    found = _get(id)
    if wait:
        _end(_watched(id, found), json)
        return
    print_json(found) if json else print_fields(found)


@app.command()
def stop(id: ReplayId, json: Json = False) -> None:
    """Stop it: what it has not sent is as it was before."""
    answer = api().send("DELETE", f"/v1/replays/{segment(id)}").document
    print_json(answer) if json else say(sentence(answer))


def moment(text: str | None, now: float | None = None) -> str | None:
    """The RFC 3339 time of an option: as it is, or so long ago. Raises UsageError."""
    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    at = datetime.now(UTC) if now is None else datetime.fromtimestamp(now, UTC)
    try:
        if unit in _UNITS and number.isascii() and number.isdigit():
            return to_rfc3339((at - timedelta(**{_UNITS[unit]: int(number)})).timestamp())
        from_rfc3339(text)
    except (ValueError, OverflowError):
        raise UsageError(
            f"Invalid time {text!r:.40}. Use an ISO 8601 time such as 2026-05-20T10:00:08Z, or an age such as 1d."
        ) from None
    return text


def follow_up(started: Any, *, wait: bool, json: bool) -> None:
    """What is said of a replay that has just begun."""
    replay_id, matched = started["replay_id"], started["matched"]
    if wait:
        _end(_watched(replay_id, _get(replay_id)), json)
    elif json:
        print_json(started)
    elif not matched:
        say("there is nothing to send again")
    else:
        say(f"{matched:,} to send again, behind new ones: `relay replays show {replay_id}` says how far it is")


def sentence(replay: Any) -> str:
    """How it stands or ended."""
    counts = f"{replay['delivered']:,} of {replay['matched']:,} delivered"
    rest = [f"{replay[name]:,} {name}" for name in ("dead", "left") if replay[name]]
    return f"{replay['id']} is {replay['state']}: {', '.join([counts, *rest])}"


def _get(id: str) -> Any:
    return api().get(f"/v1/replays/{segment(id)}")


def _end(replay: Any, json: bool) -> None:
    print_json(replay) if json else say(sentence(replay))
    if replay["state"] != "done" or replay["dead"]:
        raise typer.Exit(1)


def _watched(id: str, replay: Any) -> Any:
    """The replay when it has ended. A relay that restarts meanwhile goes on with it, and so does this."""
    answered_at = time.monotonic()
    with _progress(replay["matched"]) as show:
        while replay["state"] == "running":
            show(replay)
            time.sleep(POLL_SECONDS)
            try:
                replay, answered_at = _get(id), time.monotonic()
            except Unreachable as error:
                if time.monotonic() - answered_at > PATIENCE_SECONDS:
                    raise RelayError(f"{error}; `relay replays show {id} --wait` goes on") from None
        show(replay)
    return replay


@contextmanager
def _progress(matched: int) -> Iterator[Callable[[Any], None]]:
    """A bar on a terminal; elsewhere a line for each tenth."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("", total=max(matched, 1))
            yield lambda replay: progress.update(
                task, completed=_ended(replay), description=f"{replay['dead']:,} dead" if replay["dead"] else ""
            )
        return
    tenth = -1

    def line(replay: Any) -> None:
        nonlocal tenth
        reached = 10 * _ended(replay) // max(matched, 1)
        if reached > tenth:
            tenth = reached
            note(sentence(replay))

    yield line


def _ended(replay: Any) -> int:
    return int(replay["matched"] - replay["left"])
