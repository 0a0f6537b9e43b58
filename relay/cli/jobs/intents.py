"""`relay intents`: creates with unknown fate."""

from typing import Annotated, Literal

import typer

from relay.cli.client import api, path_of
from relay.cli.options import Json, Limit, given
from relay.cli.output import print_list, print_result

app = typer.Typer(help="List creates with unknown fate and record the outcome.", no_args_is_help=True)

IntentId = Annotated[str, typer.Argument(metavar="ID", help="The intent's id (int_…).")]
COLUMNS = ("id", "sent_at", "account", "path", "reason", "idempotency_key")


@app.command("list")
def list_intents(limit: Limit = 50, json: Json = False) -> None:
    """List creates that may or may not have been sent, newest first."""
    found = api().items("/v1/intents", {}, limit)
    empty = "no intents: the fate of every create is known"
    print_list(found, COLUMNS, lambda intent: [intent.get(name) for name in COLUMNS], empty=empty, json=json)


@app.command()
def resolve(
    id: IntentId,
    fate: Annotated[Literal["sent", "not_sent"], typer.Option(help="Whether the create was carried out.")],
    job_id: Annotated[str | None, typer.Option(help="The job that it created. It is then tracked.")] = None,
    json: Json = False,
) -> None:
    """Record the outcome once you have checked with Revor. Nothing is sent upstream."""
    answer = api().post(path_of("intents", id, "resolve"), given({"fate": fate, "job_id": job_id}))
    tracked = "" if job_id is None else f". Job {job_id} is tracked"
    print_result(answer, f"{id} is resolved as {fate}{tracked}", json=json)


@app.command()
def dismiss(id: IntentId, json: Json = False) -> None:
    """Remove an intent from the list. Nothing is sent upstream."""
    print_result(api().delete(path_of("intents", id)), f"{id} is removed from the list", json=json)
