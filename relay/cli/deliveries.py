"""`relay deliveries`: what was sent to whom."""

from typing import Annotated

import typer

from relay.cli.client import api, segment
from relay.cli.output import Json, Limit, print_fields, print_json, print_table, say

app = typer.Typer(help="See what was sent to whom, and send it again.", no_args_is_help=True)

DeliveryId = Annotated[str, typer.Argument(metavar="ID", help="The delivery's id (dlv_…).")]
COLUMNS = ("id", "event_type", "state", "attempt_count", "next_attempt_at", "reason")
ATTEMPT_COLUMNS = ("number", "started_at", "duration_ms", "status_code", "error", "remote_ip")


@app.command("list")
def list_deliveries(
    state: Annotated[str | None, typer.Option(help="pending, delivered, dead or cancelled.")] = None,
    subscription: Annotated[str | None, typer.Option(help="Only those to this subscription (sub_…).")] = None,
    event: Annotated[str | None, typer.Option(help="Only those of this event (evt_…).")] = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List deliveries, newest first."""
    query = {"state": state, "subscription": subscription, "event": event}
    found = api().items("/v1/deliveries", query, limit)
    if json:
        print_json(found)
        return
    rows = [[delivery.get(column) for column in COLUMNS] for delivery in found]
    print_table(COLUMNS, rows, empty="no deliveries")


@app.command()
def show(id: DeliveryId, json: Json = False) -> None:
    """Show one delivery with its attempts."""
    found = api().get(f"/v1/deliveries/{segment(id)}")
    if json:
        print_json(found)
        return
    attempts = found.pop("attempts", None) or []
    print_fields(found)
    rows = [[attempt.get(column) for column in ATTEMPT_COLUMNS] for attempt in attempts]
    print_table(ATTEMPT_COLUMNS, rows, empty="no attempts yet")


@app.command()
def retry(id: DeliveryId, json: Json = False) -> None:
    """Send it again with a fresh schedule."""
    answer = api().post(f"/v1/deliveries/{segment(id)}/retry")
    print_json(answer) if json else say(f"{id} is pending again")
