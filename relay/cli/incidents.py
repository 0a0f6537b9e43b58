"""`relay incidents`: failures with one cause."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from relay.cli.client import api, path_of
from relay.cli.options import Json, Limit
from relay.cli.output import note_limit, print_fields, print_json, print_list, print_table, say
from relay.core.turns import turn_of_incident

app = typer.Typer(help="Show failures with one cause, and their jobs.", no_args_is_help=True)

COLUMNS = ("id", "state", "what", "who", "likely", "opened")
IN_SENTENCE = ("what", "who", "fix")
COMMANDS = {
    "creates": ("relay intents list",),
    "sink": (
        "relay subscriptions resume {subscription}",
        "relay deliveries retry --state dead --subscription {subscription}",
    ),
}
"""The commands of the fix, by the kind of an open incident."""
JOB_COLUMNS = ("id", "failed", "repeat", "error")


@app.command("list")
def list_incidents(
    state: Annotated[Literal["open", "closed"] | None, typer.Option(help="Only open or only closed ones.")] = None,
    source: Annotated[str | None, typer.Option(help="Only incidents of this source.")] = None,
    account: Annotated[str | None, typer.Option(help="Only incidents of this account.")] = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List incidents, newest first. LIKELY: how many open jobs are likely to fail too."""
    query = {"state": state, "source": source, "account": account}
    found = api().items("/v1/incidents", query, limit)
    print_list(found, COLUMNS, _row, empty="no incidents", json=json, table="incidents list")


def _row(incident: dict[str, Any]) -> list[Any]:
    return [incident.get(name) for name in COLUMNS[:-1]] + [incident["opened_at"]]


@app.command()
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The incident's id (inc_…).")],
    repeat: Annotated[
        Literal["safe", "useless", "may_send_twice"] | None,
        typer.Option(help="Only jobs for which sending the create again has this effect."),
    ] = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """Show an incident and its failed jobs, the latest first."""
    client = api()
    incident = client.get(path_of("incidents", id))
    jobs = client.items(path_of("incidents", id, "jobs"), {"repeat": repeat}, limit)
    if json:
        print_json({**incident, "jobs": jobs})
        return
    say(sentence(incident))
    shown = {name: value for name, value in incident.items() if value is not None and name not in IN_SENTENCE}
    print_fields(shown)
    for command in COMMANDS.get(incident["kind"], ()) if incident["state"] == "open" else ():
        typer.echo(command.format(subscription=incident["subscription"]))
    if incident["kind"] == "jobs":
        typer.echo()
        rows = [[job["id"], job["closed_at"], job["repeat"], (job["problem"] or {}).get("code")] for job in jobs]
        print_table(JOB_COLUMNS, rows, empty="no such jobs", table="incidents show")
    note_limit(jobs)


def sentence(incident: Mapping[str, Any]) -> str:
    """A sentence about an incident: the failure, the number of open jobs that it threatens, and the next action with
    its owner."""
    likely = incident.get("likely") if incident["state"] == "open" else None
    more = f"{likely:,} more {'is' if likely == 1 else 'are'} likely to fail. " if likely else ""
    return f"{incident['what']}. {more}To fix it ({turn_of_incident(incident)}): {incident['fix']}."
