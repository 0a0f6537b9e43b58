"""What `relay subscriptions preview` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import typer

from relay.cli.output import inert_json, print_table, say, say_wrapped
from relay.core.jsontext import JSONDecodeError, dumps, loads

COLUMNS = ("id", "type", "time", "subject")


def print_preview(shown: Mapping[str, Any], *, sample: bool) -> None:
    """Prints whether the subscription gets the event, the requests, and what it would have got of recent events.

    sample  the event is a sample, not a recorded one
    """
    event = shown["event"]
    say(
        f"{event['type']} ({event['id']}): {'it gets this event' if shown['matches'] else 'it does not get this event'}"
    )
    if shown.get("why"):
        say_wrapped(f"because {shown['why']}")
        if sample:
            say_wrapped("This is a sample: change its metadata with --metadata, or take a recorded event with --event")
    print_requests(shown["requests"])
    recent = shown["recent"]
    typer.echo()
    range = f"the newest {recent['seen']:,} events" if recent["cut"] else f"{recent['seen']:,} events"
    since = f"since {recent['since']}" if recent["cut"] else f"of the last {recent['days']} days"
    say(f"It would have got {recent['matched']:,} of {range} {since}.")
    if recent["examples"]:
        rows = [[event.get(name) for name in COLUMNS] for event in recent["examples"]]
        print_table(COLUMNS, rows, empty="")


def print_requests(requests: Sequence[Mapping[str, Any]]) -> None:
    """Prints requests in the order in which they would be sent. One of several says what it is for."""
    for number, request in enumerate(requests, 1):
        typer.echo()
        if request.get("name"):
            say(f"{number}. {request['name']}")
        say(f"{request['method']} {request['url']}")
        for name, value in request["headers"].items():
            say(f"{name}: {value}")
        if request["body"] is not None:
            typer.echo()
            typer.echo(_pretty(request["body"]))


def _pretty(body: str) -> str:
    """A body as it is read best: JSON indented, other text line by line, and nothing that could control a terminal."""
    try:
        return inert_json(dumps(loads(body.encode()), orjson.OPT_INDENT_2).decode())
    except JSONDecodeError:
        return "".join(one if one.isprintable() or one == "\n" else " " for one in body)
