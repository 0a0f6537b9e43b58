"""`relay replays`: the progress of a replay, which sends many events again."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from relay.cli.client import Unreachable, api, path_of
from relay.cli.options import Json, Wait
from relay.cli.output import note, print_json, print_object, print_result, say
from relay.errors import RelayError

app = typer.Typer(help="Show the progress of a replay, and stop it.", no_args_is_help=True)

ReplayId = Annotated[str, typer.Argument(metavar="ID", help="The replay's id (rpl_…).")]
COUNT_TIMEOUT_SECONDS = 300.0
"""The relay counts the matching events before it answers, which takes a while for many millions."""
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 60.0


@app.command()
def show(id: ReplayId, wait: Wait = False, json: Json = False) -> None:
    """Show a replay's progress."""
    if wait:
        _wait(id, json)
    else:
        print_object(_get(id), json=json)


@app.command()
def stop(id: ReplayId, json: Json = False) -> None:
    """Stop a replay. What it has not sent stays as it was before."""
    answer = api().delete(path_of("replays", id))
    print_result(answer, sentence(answer), json=json)


def follow_up(started: Any, *, wait: bool, json: bool) -> None:
    """Reports a replay that has just begun, or with `wait` its end."""
    replay_id, matched = started["replay_id"], started["matched"]
    if wait:
        _wait(replay_id, json)
    elif json:
        print_json(started)
    elif not matched:
        say("there is nothing to send again")
    else:
        say(f"{matched:,} events to send again, after new ones. Progress: `relay replays show {replay_id}`")


def sentence(replay: Any) -> str:
    """The replay's state and counts."""
    counts = f"{replay['delivered']:,} of {replay['matched']:,} delivered"
    rest = [f"{replay[name]:,} {name}" for name in ("dead", "left") if replay[name]]
    return f"{replay['id']} is {replay['state']}: {', '.join([counts, *rest])}"


def _get(id: str) -> Any:
    return api().get(path_of("replays", id))


def _wait(id: str, json: bool) -> None:
    """Prints the ended replay. Exit code 1 if not everything was delivered."""
    replay = _ended(id)
    print_result(replay, sentence(replay), json=json)
    if replay["state"] != "done" or replay["dead"]:
        raise typer.Exit(1)


def _ended(id: str) -> Any:
    """Waits until the replay has ended, also across a restart of the relay."""
    replay, answered_at = _get(id), time.monotonic()
    with _progress(replay["matched"]) as show:
        while replay["state"] == "running":
            show(replay)
            time.sleep(POLL_SECONDS)
            try:
                replay, answered_at = _get(id), time.monotonic()
            except Unreachable as error:
                if time.monotonic() - answered_at > PATIENCE_SECONDS:
                    raise RelayError(f"{error}. Continue with `relay replays show {id} --wait`") from None
        show(replay)
    return replay


@contextmanager
def _progress(matched: int) -> Iterator[Callable[[Any], None]]:
    """Yields a function that shows progress: a bar on a terminal, elsewhere a line for each tenth."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("", total=max(matched, 1))
            yield lambda replay: progress.update(
                task,
                completed=replay["matched"] - replay["left"],
                description=f"{replay['dead']:,} dead" if replay["dead"] else "",
            )
        return
    tenth = -1

    def line(replay: Any) -> None:
        nonlocal tenth
        reached = 10 * (replay["matched"] - replay["left"]) // max(matched, 1)
        if reached > tenth:
            tenth = reached
            note(sentence(replay))

    yield line
