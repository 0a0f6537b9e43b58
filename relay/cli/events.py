"""`relay events`: what happened."""

from typing import Annotated, Any

import orjson
import typer

from relay.cli.client import Follower, ServerEvent, api, full_types, segment
from relay.cli.output import Json, Limit, print_json, print_table, say
from relay.cli.replays import SINCE_HELP, moment
from relay.core.jsontext import JSONDecodeError, dumps, loads

COLUMNS = ("time", "type", "subject", "sequence", "id")

app = typer.Typer(help="See what happened.", no_args_is_help=True)


@app.command("list")
def list_events(
    type: Annotated[str | None, typer.Option(help="Only this type, such as failed.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only those of this job id.")] = None,
    since: Annotated[str | None, typer.Option(help=SINCE_HELP)] = None,
    until: Annotated[str | None, typer.Option(help="Only events recorded before: a time or an age.")] = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List events, newest first."""
    named = full_types(type)
    query = {"type": named[0] if named else None, "subject": subject, "since": moment(since), "until": moment(until)}
    found = api().items("/v1/events", query, limit)
    if json:
        print_json(found)
        return
    print_table(COLUMNS, [_row(event) for event in found], empty="no events yet: track a job with `relay jobs add ID`")


def _row(event: dict[str, Any]) -> list[Any]:
    sequence = str(event.get("sequence") or "").lstrip("0")
    return [event.get("time"), event.get("type"), event.get("subject"), sequence or None, event.get("id")]


@app.command()
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The event's id (evt_…).")],
    json: Json = False,
) -> None:
    """Show one event: a sentence and its JSON. With --json the bytes that were signed and sent."""
    event = api().get(f"/v1/events/{segment(id)}")
    if json:
        print_json(event)
        return
    say(one_line(event))
    typer.echo(dumps(event, option=orjson.OPT_INDENT_2).decode())


@app.command()
def tail(
    types: Annotated[str | None, typer.Option(help="Only these types, such as failed,overdue.")] = None,
    json: Json = False,
) -> None:
    """Print events as they happen, until it is interrupted. With --json one event a line."""
    wanted = full_types(types)
    for event in Follower(api()).events():
        show_event(event, wanted, json=json)


def show_event(event: ServerEvent, wanted: list[str] | None, *, json: bool) -> bool:
    """Prints one event as a line, when its type is wanted; whether it was."""
    try:
        document = loads(event.data)
    except JSONDecodeError:
        return False
    if not isinstance(document, dict) or (wanted is not None and document.get("type") not in wanted):
        return False
    if json:
        typer.echo(event.data.decode(errors="replace"))
    else:
        say(one_line(document))
    return True


def one_line(document: dict[str, Any]) -> str:
    """An event in one line for a person."""
    data = document.get("data") if isinstance(document.get("data"), dict) else {}
    assert isinstance(data, dict)
    parts = [str(document.get("time", "")), str(document.get("type", "")), str(document.get("subject") or "")]
    if document.get("previousstatus") is not None:
        parts.append(f"({document['previousstatus']} → {document.get('status')})")
    sequence = str(document.get("sequence") or "").lstrip("0")
    if sequence:
        parts.append(f"#{sequence}")
    if data.get("inferred"):
        parts.append("inferred")
    hint = data.get("hint")
    if isinstance(hint, dict) and hint.get("meaning"):
        parts.append(f"- {hint['meaning']}")
    return " ".join(part for part in parts if part)
