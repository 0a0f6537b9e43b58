"""`relay audit`: who did what, when and from where, and whether the record is intact."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relay.cli.client import Api, Items
from relay.cli.direct import through_or_directly
from relay.cli.options import Json, Limit, given, time_or_age
from relay.cli.output import note, print_json, print_list, say
from relay.cli.serve import ConfigFile
from relay.core.jsontext import JSONDecodeError, loads
from relay.core.sentences import counted
from relay.errors import UsageError

if TYPE_CHECKING:
    from relay.node.audit import AuditLog

app = typer.Typer(help="List who did what, and verify that the record was not changed.", invoke_without_command=True)

COLUMNS = ("at", "actor", "action", "target", "address", "result", "count")
VERIFY_SECONDS = 3_600.0
MAX_REPORT_BYTES = 64 << 20


@app.callback()
def list_audit(
    context: typer.Context,
    since: Annotated[str | None, typer.Option(help="Only entries since a time or age (1d, 6h, 30m).")] = None,
    until: Annotated[str | None, typer.Option(help="Only entries before this time or age.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only entries of the token with this name.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, such as subscriptions.create.")] = None,
    limit: Limit = 50,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """List who did what, newest first, and verify that the record was not changed."""
    if context.invoked_subcommand is not None:
        return
    query = given({"since": time_or_age(since), "until": time_or_age(until), "actor": actor, "action": action})

    async def directly(audit: "AuditLog") -> Items:
        from relay.api.audit import entry_view
        from relay.clock import from_rfc3339

        read = {name: from_rfc3339(value) if name in ("since", "until") else value for name, value in query.items()}
        return Items([entry_view(entry) for entry in await audit.newest(limit + 1, **read)], limit)

    found = through_or_directly(config, lambda relay: relay.items("/v1/audit", query, limit), directly)
    print_list(found, COLUMNS, _row, empty="no entries", json=json)


@app.command()
def verify(
    report: Annotated[
        Path | None,
        typer.Option(help="The JSON of an earlier verification, kept elsewhere: its entries must still be there."),
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Verify that no entry was changed, removed, inserted or reordered. Exit code 1: one was."""
    heads = None if report is None else _heads(report)

    def through(relay: Api) -> Any:
        with relay.open("GET", "/v1/audit/verify", query={"heads": heads}, timeout=VERIFY_SECONDS) as response:
            return loads(response.read())

    async def directly(audit: "AuditLog") -> Any:
        from relay.api.audit import read_heads, verification_view

        seen = () if heads is None else read_heads(heads)
        return verification_view(await audit.verify(seen))

    found = through_or_directly(config, through, directly)
    if json:
        print_json(found)
    else:
        for finding in found["findings"]:
            note(finding["text"])
        said = "the audit is intact" if found["ok"] else "the audit is not intact"
        entries = "1 entry" if found["entries"] == 1 else f"{found['entries']:,} entries"
        say(f"{said}: {entries} in {counted(found['chains'], 'chain')}")
    raise typer.Exit(0 if found["ok"] else 1)


def _row(entry: Mapping[str, Any]) -> list[Any]:
    return [entry[name] for name in COLUMNS]


def _heads(path: Path) -> str:
    """The newest heads in the report of an earlier verification, as the API takes them."""
    from relay.api.audit import MAX_HEADS

    try:
        with path.open("rb") as file:
            heads = loads(file.read(MAX_REPORT_BYTES))["heads"]
        return ",".join(f"{head['chain']}:{head['number']}:{head['mac']}" for head in heads[:MAX_HEADS])
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (JSONDecodeError, KeyError, TypeError):
        raise UsageError(f"{path} is not the output of `relay audit verify --json`") from None
