"""`relay events`: recorded events."""

from typing import Annotated, Any

import orjson
import typer

from relay.cli.client import api, path_of
from relay.cli.event_stream import ServerEvent, follow
from relay.cli.options import Json, Limit, Since, Type, Types, Until, full_type, full_types, time_or_age
from relay.cli.output import inert_json, print_json, print_list, say
from relay.core.jsontext import JSONDecodeError, dumps, loads

COLUMNS = ("time", "type", "subject", "sequence", "id")

app = typer.Typer(help="List events and watch them arrive.", no_args_is_help=True)


@app.command("list")
def list_events(
    type: Type = None,
    subject: Annotated[str | None, typer.Option(help="Only events of this job id.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List events, newest first."""
    query = {
        "type": full_type(type),
        "subject": subject,
        "since": time_or_age(since),
        "until": time_or_age(until),
    }
    empty = "no events yet. Track a job with `relay jobs add ID`"
    found = api().items("/v1/events", query, limit)
    ids = iter(found.ids)
    print_list(found, COLUMNS, lambda event: _row(event, next(ids, event.get("id"))), empty=empty, json=json)


def _row(event: dict[str, Any], id: Any) -> list[Any]:
    return [event.get("time"), event.get("type"), event.get("subject"), sequence_of(event) or None, id]


@app.command()
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The event's id (evt_…).")],
    json: Json = False,
) -> None:
    """Show one event as a sentence and as JSON. With --json, on one line."""
    event = api().get(path_of("events", id))
    if json:
        print_json(event)
        return
    say(one_line(event))
    typer.echo(inert_json(dumps(event, option=orjson.OPT_INDENT_2).decode()))


@app.command()
def tail(types: Types = None, json: Json = False) -> None:
    """Print events as they happen, until interrupted. With --json, one event per line."""
    wanted = full_types(types)
    for event in follow(api()):
        show_event(event, wanted, json=json)


def show_event(event: ServerEvent, wanted: list[str] | None, *, json: bool) -> bool:
    """Prints one event on one line if its type is wanted. Returns True if it did."""
    try:
        document = loads(event.data)
    except JSONDecodeError:
        return False
    if not isinstance(document, dict) or (wanted is not None and document.get("type") not in wanted):
        return False
    if json:
        typer.echo(inert_json(event.data.decode(errors="replace")))
    else:
        say(one_line(document))
    return True


def sequence_of(event: dict[str, Any]) -> str:
    """The sequence number without leading zeros. Empty if the event has none."""
    return str(event.get("sequence") or "").lstrip("0")


def one_line(document: dict[str, Any]) -> str:
    """An event in one line."""
    data = document.get("data")
    data = data if isinstance(data, dict) else {}
    parts = [str(document.get("time", "")), str(document.get("type", "")), str(document.get("subject") or "")]
    if document.get("previousstatus") is not None:
        parts.append(f"({document['previousstatus']} → {document.get('status')})")
    if sequence := sequence_of(document):
        parts.append(f"#{sequence}")
    if data.get("inferred"):
        parts.append("inferred")
    hint = data.get("hint")
    if isinstance(hint, dict) and hint.get("meaning"):
        parts.append(f"- {hint['meaning']}")
    return " ".join(part for part in parts if part)
