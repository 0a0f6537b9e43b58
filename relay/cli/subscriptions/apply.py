"""`relay apply`: makes the subscriptions match relay.yaml. `relay export`: writes the stored ones as such a section.

Through the relay at RELAY_URL or the node that holds the SQLite file, else directly on the database.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relay.cli.client import Api, ApiError
from relay.cli.node.direct import COMMAND_LINE, NoDatabase, Opened, done, opened, settings_of
from relay.cli.node.serve import ConfigFile
from relay.cli.options import Json
from relay.cli.output import clean, is_terminal, note, print_json, say, working
from relay.core.jobs.job import short_type
from relay.core.subscriptions.declared import pending_words
from relay.errors import FieldError, RelayError, UsageError
from relay.redaction import url_without_path

if TYPE_CHECKING:
    from relay.config.declared import Declared
    from relay.config.settings import Settings

TIMEOUT_SECONDS = 120.0
MAX_SUBSCRIPTIONS = 100_000
SIGNS = {"add": "+", "change": "~", "remove": "-"}
WithSecrets = Annotated[
    bool,
    typer.Option(
        "--with-secrets", help="Write secrets too, from the database itself. The file then belongs in no repository."
    ),
]


def apply(
    config: ConfigFile = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change. Exit code 1: something would.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Also remove what was applied before and is no longer declared.")
    ] = False,
    cancel_pending: Annotated[
        bool,
        typer.Option(
            "--cancel-pending", help="Let --prune cancel pending deliveries. Without it nothing is changed then."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    json: Json = False,
) -> None:
    """Make the subscriptions match relay.yaml. Changes only what differs, all of it or nothing."""
    settings = settings_of(config)
    if not settings.subscriptions and not prune:
        note("nothing is declared: add the section `subscriptions` to relay.yaml. `relay export` writes it")
    asks = prune and not (dry_run or yes or json) and is_terminal()
    plan = _apply(settings, dry_run=dry_run or asks, prune=prune, cancel_pending=cancel_pending)
    if asks:
        _print_changes(plan["changes"])
        removed = plan["removed"]
        if not cancel_pending and any(change["pending"] for change in plan["changes"]):
            raise UsageError("nothing was changed: to cancel the pending deliveries, use --cancel-pending")
        if removed and not typer.confirm(f"Remove {removed}?", default=False):
            raise UsageError("nothing was changed")
        plan = _apply(settings, dry_run=False, prune=True, cancel_pending=cancel_pending)
    if json:
        print_json(plan)
    else:
        if not asks:
            _print_changes(plan["changes"])
        say(_summary(plan))
    raise typer.Exit(1 if dry_run and plan["unchanged"] < len(plan["changes"]) else 0)


def export(
    with_secrets: WithSecrets = False,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Write the subscriptions as a section of relay.yaml. `relay apply` reads it. Secrets are placeholders."""
    from relay.cli.subscriptions.exporting import as_yaml, document_of, escaped, restore_references

    settings = settings_of(config)

    def through(relay: Api) -> Any:
        if with_secrets:
            if not os.environ.get("RELAY_URL"):
                with relay.open("GET", "/livez"):  # raises Unreachable
                    pass
            where = f"the relay at {relay.url}"
            raise UsageError(f"{where} shows no secrets. Stop it and unset RELAY_URL, to read the database itself")
        return [(shown, None) for shown in relay.items("/v1/subscriptions", {}, MAX_SUBSCRIPTIONS)]

    async def directly(database: Opened) -> Any:
        from relay.api.subscriptions.models import subscription_view
        from subscribers.registry import redacted_url

        context = await database.context()
        stored = await database.store.subscriptions.all()
        if with_secrets:
            await database.audit.record("subscriptions.export", actor=COMMAND_LINE)
        return [(subscription_view(one, redacted_url, context.settings), one) for one in stored]

    found = done(settings, through, directly, partial(opened, writes=with_secrets))
    found.sort(key=lambda pair: str(pair[0]["id"]))
    documents = [document_of(shown, stored, with_secrets=with_secrets) for shown, stored in found]
    if not with_secrets:
        for document in documents:
            for entry in settings.subscriptions:
                if document["id"].partition("@")[0] == entry.id.partition("@")[0]:
                    restore_references(document, entry)
    if json:
        print_json({"subscriptions": [escaped(document) for document in documents]})
        return
    paused = [str(shown["id"]) for shown, _ in found if shown["state"] in ("paused", "disabled")]
    typer.echo(as_yaml(documents, paused=paused), nl=False)


def _apply(settings: "Settings", *, dry_run: bool, prune: bool, cancel_pending: bool) -> Any:
    from relay.node.declared import as_settings, body_of, wrong

    def through(relay: Api) -> Any:
        body = body_of(settings, dry_run=dry_run, prune=prune, cancel_pending=cancel_pending).model_dump()
        try:
            return relay.post("/v1/subscriptions/apply", body, timeout=TIMEOUT_SECONDS)
        except ApiError as error:
            errors = [FieldError(pointer=pointer, code="", detail=detail) for pointer, detail in error.errors]
            raise wrong(settings.subscriptions, errors) or error from None

    async def directly(database: Opened) -> Any:
        from relay.api.subscriptions.declared import applied_view, apply_declared
        from relay.core.access.audit import AuditRecord
        from subscribers.registry import redacted_url

        context = await database.context()

        def record(action: str, target: str) -> AuditRecord:
            return AuditRecord(
                at=context.dependencies.clock(), action=action, actor=COMMAND_LINE, target=target, result="started"
            )

        with as_settings(settings.subscriptions):
            body = body_of(settings, dry_run=dry_run, prune=prune, cancel_pending=cancel_pending)
            changes = await apply_declared(context, body, room=None, record=record)
        return applied_view(changes, context, redacted_url, dry_run=dry_run)

    with working("comparing"), _masking(settings.subscriptions):
        try:
            plan = done(settings, through, directly, partial(opened, writes=not dry_run))
        except NoDatabase:
            if not dry_run:
                raise
            plan = asyncio.run(_plan_for_empty_database(settings, directly))
        return _as_written(plan, settings.subscriptions)


@contextmanager
def _masking(entries: "Sequence[Declared]") -> Iterator[None]:
    """Errors inside do not show what references stand for."""
    from relay.config.declared import masked

    try:
        yield
    except RelayError as error:
        error.args = (masked(entries, str(error)), *error.args[1:])
        raise


def _as_written(plan: Any, entries: "Sequence[Declared]") -> Any:
    """The plan with every value of a reference as it was written. A plan has the declared subscriptions first, in their
    order, then those that are removed: of these only the host is shown, because the path may be a secret."""
    from relay.cli.subscriptions.exporting import value_as_written

    changes: list[dict[str, Any]] = list(plan["changes"])
    for change, entry in zip(changes, entries, strict=False):
        paths = [one.path for one in entry.references]
        if ("sink",) in paths:
            change["sink"] = value_as_written(entry, ("sink",))
        if ("config", "template") in {path[:2] for path in paths} and "config.template" in change["fields"]:
            change["values"]["config.template"] = {"to": value_as_written(entry, ("config", "template"))}
        if "sink" in change["fields"]:
            change["values"]["sink"] = {"to": change["sink"]}
    for change in changes[len(entries) :]:
        change["sink"] = None if change["sink"] is None else url_without_path(change["sink"])
    return {**plan, "changes": changes}


async def _plan_for_empty_database(settings: "Settings", directly: Callable[[Opened], Awaitable[Any]]) -> Any:
    """The plan for an empty, temporary database."""
    with TemporaryDirectory() as folder:
        database = settings.database.model_copy(update={"url": f"sqlite:///{folder}/relay.db"})
        settings = settings.model_copy(update={"database": database})
        async with opened(settings, creates=True, writes=False) as empty:
            return await directly(empty)


def _print_changes(changes: Sequence[Mapping[str, Any]]) -> None:
    for change in changes:
        sign = SIGNS.get(change["action"])
        if sign is None:
            continue
        line = f"{sign} {change['action']} {change['id']}"
        if change["action"] == "change":
            line += f": {'; '.join(_field(name, change['values'].get(name)) for name in change['fields'])}"
        else:
            line += f" → {change['sink'] or 'a program that asks'}"
        if change["pending"]:
            line += f": {pending_words(change['pending'])} will be cancelled"
        say(f"{line} ({change['note']})" if change["note"] else line)


def _field(name: str, values: Mapping[str, Any] | None) -> str:
    if values is None:
        return name
    before = f": {_value(values['from'])}" if "from" in values else ""
    return f"{name}{before} → {_value(values['to'])}"


def _value(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(map(short_type, value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "nothing" if value is None else clean(value)


def _summary(plan: Mapping[str, Any]) -> str:
    counts = {name: plan[name] for name in ("added", "changed", "removed")}
    if not any(counts.values()):
        return f"nothing to change: {plan['unchanged']} as declared"
    words = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"{'would be' if plan['dry_run'] else 'done'}: {words}, {plan['unchanged']} unchanged"
