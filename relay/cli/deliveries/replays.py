"""`relay replays`: replays, which send many events again, and their progress."""

from typing import Annotated, Any

import typer

from relay.cli.client import api, ended, path_of
from relay.cli.options import Json, Limit, Wait
from relay.cli.output import Progress, print_json, print_list, print_object, print_result, progress, say
from relay.core.events.sentences import counted

app = typer.Typer(help="List replays, show their progress, and stop them.", no_args_is_help=True)

ReplayId = Annotated[str, typer.Argument(metavar="ID", help="The replay's id (rpl_…).")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count what would be sent.")]
COUNT_TIMEOUT_SECONDS = 300.0
"""The relay counts the matching events before it answers, which takes a while for many millions."""
POLL_SECONDS = 0.5
COLUMNS = ("id", "state", "started", "matched", "delivered", "dead", "left", "sends", "subscription")


@app.command("list")
def list_replays(limit: Limit = 50, json: Json = False) -> None:
    """List replays, newest first."""
    empty = "no replays. `relay subscriptions replay ID --since 1d` starts one"
    print_list(api().items("/v1/replays", {}, limit), COLUMNS, _row, empty=empty, json=json, table="replays list")


def _row(replay: dict[str, Any]) -> list[Any]:
    counts = [str(replay[name]) for name in ("matched", "delivered", "dead", "left")]
    return [replay["id"], replay["state"], replay["created_at"], *counts, replay["only"], replay["subscription_id"]]


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


def dry_run_of(path: str, body: Any, *, json: bool) -> None:
    """Says how many events a replay would send."""
    answer = api().post(f"{path}?dry_run=true", body, timeout=COUNT_TIMEOUT_SECONDS)
    least = "" if answer["complete"] else "at least "
    print_result(answer, f"{least}{counted(answer['matched'], 'event')} would be sent again", json=json)


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
        say(f"{counted(matched, 'event')} to send again, after new ones. Progress: `relay replays show {replay_id}`")


def sentence(replay: Any) -> str:
    """The replay's state and counts."""
    counts = f"{replay['delivered']:,} of {replay['matched']:,} delivered"
    rest = [f"{replay[name]:,} {name}" for name in ("dead", "left") if replay[name]]
    if others := _others(replay):
        rest.append(f"{others:,} skipped, uncertain or cancelled (`relay deliveries list`)")
    return f"{replay['id']} is {replay['state']}: {', '.join([counts, *rest])}"


def _others(replay: Any) -> int:
    """Number of deliveries that have ended, but are neither delivered nor dead."""
    others: int = replay["matched"] - replay["left"] - replay["delivered"] - replay["dead"]
    return max(0, others)


def _get(id: str) -> Any:
    return api().get(path_of("replays", id))


def _wait(id: str, json: bool) -> None:
    """Prints the ended replay. Exit code 1 if not everything was delivered."""
    with progress() as bar:
        replay = ended(
            lambda: _get(id),
            lambda found: found["state"] != "running",
            lambda found: _show(bar, found),
            pause_seconds=POLL_SECONDS,
            again=f"relay replays show {id} --wait",
        )
    print_result(replay, sentence(replay), json=json)
    if replay["state"] != "done" or replay["dead"] or _others(replay):
        raise typer.Exit(1)


def _show(show: Progress, replay: Any) -> None:
    dead = f"{replay['dead']:,} dead" if replay["dead"] else ""
    show(replay["matched"] - replay["left"], replay["matched"], dead, sentence(replay))
