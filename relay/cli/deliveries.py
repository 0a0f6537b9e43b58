"""`relay deliveries`: what was sent to whom."""

import sys
import time
from typing import Annotated, Any

import typer

from relay.cli.client import api, full_types, segment
from relay.cli.delivery_report import describe_delivery
from relay.cli.output import Json, Limit, note, print_json, print_table, say, terminal_width
from relay.cli.replays import COUNT_TIMEOUT_SECONDS, SINCE_HELP, Wait, follow_up, moment
from relay.errors import UsageError

app = typer.Typer(help="See what was sent to whom, and send it again.", no_args_is_help=True)

DeliveryId = Annotated[str, typer.Argument(metavar="ID", help="The delivery's id (dlv_…).")]
COLUMNS = ("id", "type", "job", "sink", "state", "next", "reason")
FIELDS = ("id", "event_type", "subject", "sink", "state", "next_attempt_at", "reason")
GROUP_COLUMNS = {"reason": ("reason",), "sink": ("subscription_id", "sink"), "day": ("day",)}
MAX_GROUPS = 500


@app.command("list")
def list_deliveries(
    state: Annotated[str | None, typer.Option(help="pending, delivered, dead or cancelled.")] = None,
    subscription: Annotated[str | None, typer.Option(help="Only those to this subscription (sub_…).")] = None,
    event: Annotated[str | None, typer.Option(help="Only those of this event (evt_…).")] = None,
    group_by: Annotated[
        str | None, typer.Option(help="Count them by reason, sink or day, or several: sink,day.")
    ] = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List deliveries, newest first, or count them in groups, the largest first."""
    query = {"state": state, "subscription": subscription, "event": event}
    if group_by is not None:
        groups = api().get("/v1/deliveries", {**query, "group_by": group_by, "limit": min(limit, MAX_GROUPS)})
        print_json(groups) if json else _print_groups(groups)
        return
    found = api().items("/v1/deliveries", query, limit)
    if json:
        print_json(found)
        return
    rows = [_row(delivery) for delivery in found]
    print_table(COLUMNS, rows, empty="no deliveries")


def _row(delivery: dict[str, Any]) -> list[Any]:
    """The reason of a delivery that arrived is only its status code, so it is left out."""
    cells = [delivery.get(field) for field in FIELDS]
    return [*cells[:-1], None] if delivery["state"] == "delivered" else cells


def _print_groups(groups: Any) -> None:
    columns = [column for word in groups["group_by"] for column in GROUP_COLUMNS[word]]
    shown = ["count", *columns, "oldest_at", "newest_at", "example_id"]
    print_table(shown, [[group.get(column) for column in shown] for group in groups["items"]], empty="no deliveries")
    if groups["truncated"]:
        note(f"relay: the largest {len(groups['items'])} groups of the newest {groups['scanned']} deliveries; not all")


@app.command()
def show(
    id: DeliveryId,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print its request, signed now, as `relay verify` reads it.")
    ] = False,
    json: Json = False,
) -> None:
    """Tell what became of one delivery: each attempt, where its time went, what was decided, what to do."""
    client = api()
    if raw:
        _print_raw(client.get(f"/v1/deliveries/{segment(id)}/request"))
        return
    found = client.get(f"/v1/deliveries/{segment(id)}")
    if json:
        print_json(found)
        return
    event = client.get_if_there(f"/v1/events/{segment(found['event_id'])}")
    subscription = client.get_if_there(f"/v1/subscriptions/{segment(found['subscription_id'])}")
    for line in describe_delivery(found, event, subscription, now=time.time(), width=terminal_width()):
        typer.echo(line)


def _print_raw(request: Any) -> None:
    """A raw HTTP request; its path is left out, since it can be a credential."""
    lines = [f"{request['method']} / HTTP/1.1", *(f"{name}: {value}" for name, value in request["headers"].items())]
    body = request["body"].encode()
    lines.append(f"content-length: {len(body)}")
    head = "\r\n".join(lines) + "\r\n\r\n"
    sys.stdout.flush()
    sys.stdout.buffer.write(head.encode() + body)
    sys.stdout.buffer.flush()


@app.command()
def retry(
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="One delivery's id (dlv_…).")] = None,
    state: Annotated[str | None, typer.Option(help="All that are pending, dead, cancelled or delivered.")] = None,
    subscription: Annotated[str | None, typer.Option(help="Only those to this subscription (sub_…).")] = None,
    type: Annotated[str | None, typer.Option(help="Only those of this event type, such as failed.")] = None,
    since: Annotated[str | None, typer.Option(help=SINCE_HELP)] = None,
    until: Annotated[str | None, typer.Option(help="Only of events recorded before.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only those that ended for this reason, such as http_500.")] = None,
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Send it again with a fresh schedule: one by its id, or all that the options name."""
    named = full_types(type)
    given = {
        "state": state,
        "subscription": subscription,
        "type": named[0] if named else None,
        "since": moment(since),
        "until": moment(until),
        "reason": reason,
    }
    wanted = {name: value for name, value in given.items() if value is not None}
    if (id is None) is not bool(wanted):
        raise UsageError("name one delivery by its id, or several by options such as --state dead, and not both")
    if id is None:
        body = {"filter": wanted}
        started = api().send("POST", "/v1/deliveries/retry", body=body, timeout=COUNT_TIMEOUT_SECONDS)
        follow_up(started.document, wait=wait, json=json)
        return
    answer = api().post(f"/v1/deliveries/{segment(id)}/retry")
    print_json(answer) if json else say(f"{id} is pending again")
