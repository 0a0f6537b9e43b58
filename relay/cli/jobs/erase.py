"""`relay erase`: removes what is stored about a person, a group or a job."""

from typing import Annotated, Any

import typer

from relay.cli.client import api
from relay.cli.jobs.jobs import Account, Source
from relay.cli.options import Json, given
from relay.cli.output import note, print_json, say, working
from relay.errors import UsageError

STEP_TIMEOUT_SECONDS = 120.0
COUNTS = {
    "jobs": "jobs",
    "events": "events",
    "deliveries": "deliveries",
    "attempts": "attempts",
    "intents": "intents",
}


def erase(
    metadata: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A field of the metadata and its exact value. Finds nothing that proxy.capture keeps: erase the job.",
        ),
    ] = None,
    group: Annotated[str | None, typer.Option(help="A group of jobs, by its name.")] = None,
    job: Annotated[str | None, typer.Option(metavar="ID", help="The upstream's id of a job, or its uid.")] = None,
    subject: Annotated[str | None, typer.Option(help="The subject of events that programs have published.")] = None,
    source: Source = None,
    account: Account = None,
    json: Json = False,
) -> None:
    """Erase a person, a group or a job: jobs, events, deliveries, attempts, intents. It cannot be undone."""
    if [metadata, group, job, subject].count(None) != 3:
        raise UsageError("use exactly one of --metadata, --group, --job and --subject")
    fields = None
    if metadata is not None:
        name, _, value = metadata.partition("=")
        if not (name and value):
            raise UsageError("--metadata: use NAME=VALUE, such as deal=42")
        fields = {name: value}
    named = {"metadata": fields, "group": group, "job": job, "subject": subject}
    body = given({**named, "source": source, "account": account})
    total, client, cursor = dict.fromkeys((*COUNTS, "in_flight"), 0), api(), None
    with working("erasing"):
        while True:
            answer: Any = client.post("/v1/erasures", given({**body, "cursor": cursor}), timeout=STEP_TIMEOUT_SECONDS)
            total = {name: count + answer[name] for name, count in total.items()}
            cursor = answer["next_cursor"]
            if cursor is None:
                break
    if json:
        print_json(total)
    else:
        say(f"erased {', '.join(f'{total[name]:,} {word}' for name, word in COUNTS.items())}")
    if total["in_flight"]:
        note(f"{total['in_flight']} creates that match are in flight: run this again once they are answered")
        raise typer.Exit(1)
