"""`relay events`: recorded events."""

from collections.abc import Iterator
from typing import Annotated, Any

import orjson
import typer

from relay.cli.client import api, path_of
from relay.cli.events.stream import ServerEvent, follow
from relay.cli.options import Json, Limit, Since, Type, Types, Until, read_input, time_or_age, type_name, type_names
from relay.cli.output import inert_json, note, print_json, print_list, say
from relay.clock import MAX_EPOCH_SECONDS, to_rfc3339
from relay.core.events.event import job_kind_in
from relay.core.jsontext import JSONDecodeError, dumps, loads
from relay.errors import UsageError
from relay.ids import made_at

MAX_INPUT_BYTES = 64 << 20
BATCH_EVENTS = 500
BATCH_BYTES = 8 << 20
COLUMNS = ("time", "type", "subject", "sequence", "id")

BATCH_CONTENT_TYPE = "application/cloudevents-batch+json"

app = typer.Typer(help="List events, watch them arrive, publish your own.", no_args_is_help=True)


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
    query = {"type": type_name(type), "subject": subject, "since": time_or_age(since), "until": time_or_age(until)}
    empty = "no events yet. Track a job with `relay jobs add ID`"
    found = api().items("/v1/events", query, limit)
    ids = iter(found.ids)

    def row(event: dict[str, Any]) -> list[Any]:
        id = next(ids, event.get("id"))
        return [time_of(event, str(id)), event.get("type"), event.get("subject"), sequence_of(event) or None, id]

    print_list(found, COLUMNS, row, empty=empty, json=json, table="events list")


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
    say(one_line(event, id))
    typer.echo(inert_json(dumps(event, option=orjson.OPT_INDENT_2).decode()))


@app.command()
def tail(types: Types = None, json: Json = False) -> None:
    """Print events as they happen, until interrupted. With --json, one event per line."""
    wanted = type_names(types)
    for event in follow(api()):
        show_event(event, wanted, json=json)


@app.command()
def publish(
    file: Annotated[
        str, typer.Argument(metavar="[FILE]", help="CloudEvents as JSON: one, an array, or one a line. - is the input.")
    ] = "-",
    json: Json = False,
) -> None:
    """Publish CloudEvents of your programs. The same event again goes out once. Exit code 1: some were refused."""
    events, client = _read_events(file), api()
    total: dict[str, Any] = {"accepted": 0, "known": 0, "items": [], "rejected": []}
    for first, batch in _batches(events):
        answer = client.post("/v1/events", batch, headers={"Content-Type": BATCH_CONTENT_TYPE})
        for name in ("accepted", "known"):
            total[name] += answer[name]
        for name in ("items", "rejected"):
            total[name] += [{**one, "index": first + one["index"]} for one in answer[name]]
    if json:
        print_json(total)
    else:
        for one in total["rejected"]:
            place = " ".join(("event", str(one["index"] + 1), *([one["pointer"]] if "pointer" in one else [])))
            note(f"{place}: {one['detail']} ({one['code']})")
        refused = f", refused: {len(total['rejected'])}" if total["rejected"] else ""
        say(f"published: {total['accepted']}, known before: {total['known']}{refused}")
    raise typer.Exit(1 if total["rejected"] else 0)


def _read_events(file: str) -> list[Any]:
    """The events of a file or the input. Raises UsageError if it is not JSON."""
    raw = read_input(file, MAX_INPUT_BYTES + 1)
    if len(raw) > MAX_INPUT_BYTES:
        raise UsageError(f"the events have more than {MAX_INPUT_BYTES:,} bytes. Publish them in parts")
    try:
        found = loads(raw)
        return found if isinstance(found, list) else [found]
    except JSONDecodeError as error:
        lines = [(number, line) for number, line in enumerate(raw.splitlines(), 1) if line.strip()]
        if len(lines) < 2:
            raise UsageError(f"no CloudEvents in JSON: {error.msg} (line {error.lineno})") from None
    events = []
    for number, line in lines:
        try:
            events.append(loads(line))
        except JSONDecodeError as error:
            raise UsageError(f"line {number} is not JSON: {error.msg}. Nothing was published") from None
    return events


def _batches(events: list[Any]) -> Iterator[tuple[int, list[Any]]]:
    """Parts that one request takes, each with the index of its first event."""
    first = size = 0
    for index, event in enumerate(events):
        length = len(dumps(event))
        if index - first == BATCH_EVENTS or (size and size + length > BATCH_BYTES):
            yield first, events[first:index]
            first, size = index, 0
        size += length
    if events:
        yield first, events[first:]


def show_event(event: ServerEvent, wanted: list[str] | None, *, json: bool) -> bool:
    """Prints one event on one line if its type is wanted. Returns True if it did."""
    try:
        document = loads(event.data)
    except JSONDecodeError:
        return False
    if not isinstance(document, dict) or (wanted is not None and not _is_one_of(document, wanted)):
        return False
    if json:
        typer.echo(inert_json(event.data.decode(errors="replace")))
    else:
        say(one_line(document, event.id))
    return True


def _is_one_of(document: dict[str, Any], wanted: list[str]) -> bool:
    type, kind = str(document.get("type")), job_kind_in(document)
    return type in wanted or (kind is not None and any(kind == one or type.endswith(f".{one}") for one in wanted))


def sequence_of(event: dict[str, Any]) -> str:
    """The sequence number without leading zeros. Empty if the event has none."""
    return str(event.get("sequence") or "").lstrip("0")


def time_of(event: dict[str, Any], id: str) -> str | None:
    """The time of an event. One that has none counts as of when it was recorded, which the relay's `id` of it tells."""
    if event.get("time"):
        return str(event["time"])
    recorded_at = made_at(id)
    return None if recorded_at is None else to_rfc3339(min(recorded_at, MAX_EPOCH_SECONDS))


def one_line(document: dict[str, Any], id: str) -> str:
    """An event in one line. `id`: the relay's."""
    data = document.get("data")
    data = data if isinstance(data, dict) else {}
    parts = [time_of(document, id) or "", str(document.get("type", "")), str(document.get("subject") or "")]
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
