"""`relay audit`: who did what, when and from where, and whether the record is intact."""

from typing import Annotated, Any

import typer

from relay.cli.client import Api, Items
from relay.cli.node.direct import Opened, through_or_directly
from relay.cli.node.serve import ConfigFile
from relay.cli.options import Json, Limit, given, time_or_age
from relay.cli.output import note, print_json, print_list, say
from relay.errors import UsageError

app = typer.Typer(help="List who did what, and verify the record.")

COLUMNS = ("at", "actor", "action", "target", "address", "result", "count")
VERIFY_SECONDS = 3_600.0


@app.command("list")
def list_audit(
    since: Annotated[str | None, typer.Option(help="Only entries since a time or age (1d, 6h, 30m).")] = None,
    until: Annotated[str | None, typer.Option(help="Only entries before this time or age.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only entries of the token with this name.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, such as subscriptions.create.")] = None,
    limit: Limit = 50,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """List who did what. The newest entry is first."""
    query = given(since=time_or_age(since), until=time_or_age(until), actor=actor, action=action)

    async def directly(database: Opened) -> Items:
        from relay.api.access.audit import entry_view
        from relay.clock import from_rfc3339

        read: Any = {
            name: from_rfc3339(value) if name in ("since", "until") else value for name, value in query.items()
        }
        page = await database.store.audit.page(limit=limit, **read)
        return Items([entry_view(entry) for entry in page.items], limit, more=page.next_cursor is not None)

    found = through_or_directly(config, lambda relay: relay.items("/v1/audit", query, limit), directly)
    print_list(found, COLUMNS, empty="no entries", json=json, table="audit list")


@app.command()
def verify(
    head: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER:MAC", help="The head of an earlier verification, kept elsewhere: it must still be there."
        ),
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Verify that no entry was changed, inserted or removed. Exit code 1: one was."""
    from relay.core.access.audit import read_head

    try:
        kept = None if head is None else read_head(head)
    except ValueError as error:
        raise UsageError(f"--head: {error}") from None

    def through(relay: Api) -> Any:
        return relay.get("/v1/audit/verify", {"head": head}, timeout=VERIFY_SECONDS)

    async def directly(database: Opened) -> Any:
        from relay.api.access.audit import verification_view

        return verification_view(await database.audit.verify(kept))

    found = through_or_directly(config, through, directly)
    if json:
        print_json(found)
    else:
        for finding in found["findings"]:
            note(finding["text"])
        verdict = "the audit is intact" if found["ok"] else "the audit is not intact"
        entries = "1 entry" if found["entries"] == 1 else f"{found['entries']:,} entries"
        say(f"{verdict}: {entries}" + (f", head {found['head']}" if found["head"] else ""))
    raise typer.Exit(0 if found["ok"] else 1)
