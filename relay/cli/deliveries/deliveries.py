"""`relay deliveries`: what was sent to which sink."""

import sys
import time
from typing import Annotated, Any, Literal

import typer

from relay.cli.client import api, path_of
from relay.cli.deliveries.replays import COUNT_TIMEOUT_SECONDS, DryRun, dry_run_of, follow_up
from relay.cli.deliveries.report import describe_delivery
from relay.cli.options import Json, Limit, Since, Type, Until, Wait, given, time_or_age, type_name
from relay.cli.output import note, print_json, print_list, print_result, print_table, terminal_width
from relay.errors import UsageError

app = typer.Typer(help="List deliveries, explain one, send them again.", no_args_is_help=True)

DeliveryId = Annotated[str, typer.Argument(metavar="ID", help="The delivery's id (dlv_…).")]
Subscription = Annotated[str | None, typer.Option(help="Only deliveries to this subscription (sub_…).")]
COLUMNS = ("id", "type", "about", "sink", "state", "next", "reason")
FIELDS = ("id", "event_type", "subject", "sink", "state", "next_attempt_at", "reason")
GROUP_COLUMNS = {"reason": ("reason",), "sink": ("subscription_id", "sink"), "day": ("day",)}
MAX_GROUPS = 500


@app.command("list")
def list_deliveries(
    state: Annotated[str | None, typer.Option(help="pending, delivered, dead, cancelled or uncertain.")] = None,
    subscription: Subscription = None,
    event: Annotated[str | None, typer.Option(help="Only deliveries of this event (evt_…).")] = None,
    reason: Annotated[str | None, typer.Option(help="Only deliveries with this reason, such as http_500.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only deliveries made since a time (2026-05-20T10:00:00Z) or age (1d, 6h, 30m).")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only deliveries made before this time or age.")] = None,
    group_by: Annotated[str | None, typer.Option(help="Count by reason, sink or day, or by several: sink,day.")] = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List deliveries, newest first. With --group-by, count them, largest group first."""
    query = {
        "state": state,
        "subscription": subscription,
        "event": event,
        "reason": reason,
        "since": time_or_age(since),
        "until": time_or_age(until),
    }
    if group_by is None:
        found = api().items("/v1/deliveries", query, limit)
        print_list(found, COLUMNS, _row, empty="no deliveries", json=json, table="deliveries list")
        return
    groups = api().get("/v1/deliveries", {**query, "group_by": group_by, "limit": min(limit, MAX_GROUPS)})
    print_json(groups) if json else _print_groups(groups)


def _row(delivery: dict[str, Any]) -> list[Any]:
    """Omits the reason of a delivered one, which is only its status code."""
    cells = [delivery.get(field) or None for field in FIELDS]  # what is pulled has no sink
    return [*cells[:-1], None] if delivery["state"] == "delivered" else cells


def _print_groups(groups: Any) -> None:
    columns = [column for name in groups["group_by"] for column in GROUP_COLUMNS[name]]
    shown = ["count", *columns, "oldest_at", "newest_at", "example_id"]
    print_table(shown, [[group.get(column) for column in shown] for group in groups["items"]], empty="no deliveries")
    if groups["truncated"]:
        count, scanned = len(groups["items"]), groups["scanned"]
        note(f"relay: incomplete: the largest {count} groups of the newest {scanned} deliveries")


@app.command()
def show(
    id: DeliveryId,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print the request, newly signed, as input for `relay verify`.")
    ] = False,
    json: Json = False,
) -> None:
    """Explain one delivery. Shows each attempt, its timings, what was decided, and what you can do."""
    client = api()
    if raw:
        _print_raw(client.get(path_of("deliveries", id, "request")))
        return
    found = client.get(path_of("deliveries", id))
    if json:
        print_json(found)
        return
    event = client.get_if_there(path_of("events", found["event_id"]))
    subscription = client.get_if_there(path_of("subscriptions", found["subscription_id"]))
    for line in describe_delivery(found, event, subscription, now=time.time(), width=terminal_width()):
        typer.echo(line)


def _print_raw(request: Any) -> None:
    """Prints a raw HTTP request without its path, which can be a credential."""
    lines = [f"{request['method']} / HTTP/1.1", *(f"{name}: {value}" for name, value in request["headers"].items())]
    body = request["body"].encode()
    lines.append(f"content-length: {len(body)}")
    head = "\r\n".join(lines) + "\r\n\r\n"
    sys.stdout.flush()
    sys.stdout.buffer.write(head.encode() + body)
    sys.stdout.buffer.flush()


@app.command()
def retry(
    id: Annotated[str | None, typer.Argument(metavar="ID", help="The id of one delivery (dlv_…).")] = None,
    state: Annotated[
        str | None, typer.Option(help="All that are pending, dead, cancelled, uncertain or delivered.")
    ] = None,
    subscription: Subscription = None,
    type: Type = None,
    since: Since = None,
    until: Until = None,
    reason: Annotated[str | None, typer.Option(help="Only those that ended for this reason, such as http_500.")] = None,
    dry_run: DryRun = False,
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Send deliveries again. Takes one id, or all that match the options, each with a fresh retry schedule."""
    wanted = given(
        state=state,
        subscription=subscription,
        type=type_name(type),
        since=time_or_age(since),
        until=time_or_age(until),
        reason=reason,
    )
    if (id is None) is not bool(wanted):
        raise UsageError("give either the id of one delivery or options such as --state dead, not both")
    if dry_run:
        if id is not None:
            raise UsageError("--dry-run counts those that match options: give no id")
        dry_run_of("/v1/deliveries/retry", {"filter": wanted}, json=json)
        return
    if id is None:
        started = api().post("/v1/deliveries/retry", {"filter": wanted}, timeout=COUNT_TIMEOUT_SECONDS)
        follow_up(started, wait=wait, json=json)
        return
    print_result(api().post(path_of("deliveries", id, "retry")), f"{id} is pending again", json=json)


@app.command()
def resolve(
    id: DeliveryId,
    fate: Annotated[Literal["sent", "not_sent"], typer.Option(help="Whether the record is there.")],
    json: Json = False,
) -> None:
    """Record the outcome of an uncertain delivery. Check the CRM first. With not_sent it is sent again."""
    answer = api().post(path_of("deliveries", id, "settle"), {"fate": fate})
    done = "is delivered" if fate == "sent" else "is pending again"
    print_result(answer, f"{id} is resolved as {fate}: it {done}", json=json)
