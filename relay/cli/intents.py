"""`relay intents`: creates that went through the relay and whose fate is unknown."""

from typing import Annotated

import typer

from relay.cli.client import api, segment
from relay.cli.output import Json, Limit, print_json, print_table, say
from relay.errors import UsageError

app = typer.Typer(help="See creates whose fate is unknown, and take them off the list.", no_args_is_help=True)

IntentId = Annotated[str, typer.Argument(metavar="ID", help="The intent's id (int_…).")]
COLUMNS = ("id", "sent_at", "account", "path", "reason", "idempotency_key")


@app.command("list")
def list_intents(limit: Limit = 50, json: Json = False) -> None:
    """List creates that were sent and of which nobody knows what came, newest first."""
    found = api().items("/v1/intents", {}, limit)
    if json:
        print_json(found)
        return
    rows = [[intent.get(column) for column in COLUMNS] for intent in found]
    print_table(COLUMNS, rows, empty="none: what came of every create is known")


@app.command()
def resolve(
    id: IntentId,
    fate: Annotated[str, typer.Option(help="sent or not_sent: whether it was carried out.")],
    job_id: Annotated[str | None, typer.Option(help="The job that it made, to be tracked.")] = None,
    json: Json = False,
) -> None:
    """Say what came of a create, once you have checked with Revor. Nothing is sent upstream."""
    if fate not in ("sent", "not_sent"):
        raise UsageError(f"--fate {fate!r:.40} is no fate: there are sent and not_sent")
    body = {"fate": fate, **({} if job_id is None else {"job_id": job_id})}
    answer = api().send("POST", f"/v1/intents/{segment(id)}/resolve", body=body).document
    tracked = "" if job_id is None else f", and job {job_id} is tracked"
    print_json(answer) if json else say(f"{id}: {fate}{tracked}")


@app.command()
def dismiss(id: IntentId, json: Json = False) -> None:
    """Take one off the list, once you know what came of it. It changes nothing upstream."""
    answer = api().send("DELETE", f"/v1/intents/{segment(id)}").document
    print_json(answer) if json else say(f"{id} is off the list")
