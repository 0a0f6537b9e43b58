"""The checks of `relay check`. They change nothing: no database is created or migrated, no message is sent."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import text
from sqlalchemy.engine import Connection

from relay.cli.output import print_json, print_table
from relay.clock import wall_clock
from relay.config.keyring import load_or_create_keyring
from relay.config.settings import (
    AccountSettings,
    Settings,
    SourceSettings,
    load_settings,
    require_token_beyond_loopback,
)
from relay.core.job import POLL, Problem
from relay.core.netguard import refusal_of_url
from relay.errors import DatabaseHeld, RelayError, SchemaTooOld
from relay.node.component_settings import guard_policy
from relay.node.local_token import NO_TOKEN, local_token, local_token_path
from relay.node.node import NO_KEY
from relay.private_files import default_state_dir
from relay.redaction import redact_text
from relay.sources.client import PollResult, UpstreamClient
from relay.sources.definition import SourceDefinition, load_definition
from relay.store import migrations
from relay.store.postgres import PostgresDatabase
from relay.store.postgres_engine import is_postgres, postgres_url, shown
from relay.store.sqlite import HolderLock, lock_path, sqlite_url
from relay.store.store import open_store
from relay.store.subscriptions import CALLBACK_OWNER, SubscriptionStore
from subscribers import registry

PAGE = 500
ABOUT_THE_SERVER = text(
    "SELECT current_setting('server_version'), pg_is_in_recovery(),"
    " current_setting('default_transaction_read_only')::boolean, has_table_privilege('deliveries', 'INSERT')"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check. `detail` says how to fix a problem."""

    name: str
    state: Literal["ok", "problem", "skipped"]
    detail: str


def _ok(name: str, detail: str) -> Finding:
    return Finding(name=name, state="ok", detail=detail)


def _problem(name: str, detail: str) -> Finding:
    return Finding(name=name, state="problem", detail=detail)


def _skipped(name: str, detail: str) -> Finding:
    return Finding(name=name, state="skipped", detail=detail)


async def run_checks(path: Path | None, environ: Mapping[str, str]) -> list[Finding]:
    """Checks settings, database, keys and sinks, in this order. Wrong settings end the checks."""
    try:
        settings = load_settings(path, environ)
        require_token_beyond_loopback(settings)
    except RelayError as error:
        return [_problem("settings", str(error))]
    found = [_ok("settings", str(path or "no file, only defaults and variables"))]
    found.append(_token(settings, environ))
    if is_postgres(settings.database.url):
        database = await _postgres(settings)
        found += [database, _encryption_key(settings)]
    else:
        database = _database(settings)
        found.append(database)
    for source in settings.sources.values():
        found += [await _key(source, account) for account in source.accounts.values()]
    found += await _sinks(settings, environ, database)
    return found


def print_findings(findings: list[Finding], *, json: bool) -> None:
    """Prints the findings as a table, or as one JSON object."""
    if json:
        print_json({"ok": all(one.state != "problem" for one in findings), "checks": [asdict(one) for one in findings]})
        return
    print_table(("check", "state", "detail"), [astuple(one) for one in findings], empty="nothing to check")


def _token(settings: Settings, environ: Mapping[str, str]) -> Finding:
    name = "API token"
    if settings.auth.tokens:
        return _ok(name, f"{len(settings.auth.tokens)} configured")
    if is_postgres(settings.database.url):
        return _problem(name, NO_TOKEN)
    try:
        path, token = local_token_path(environ), local_token(environ)
    except RelayError as error:
        return _problem(name, str(error))
    if token is None:
        return _skipped(name, f"none yet. `relay serve` creates one in {path}")
    return _ok(name, f"stored in {path}")


def _database(settings: Settings) -> Finding:
    name = "database"
    try:
        url = sqlite_url(settings.database.url)
        path = Path(str(url.database))
        if not path.exists():
            folder = path.absolute().parent
            if folder.is_dir():
                return _skipped(name, f"{path} does not exist yet. `relay serve` creates it")
            detail = f"the folder {folder} of the database does not exist. Create it, or set database.url"
            return _problem(name, detail)
        lock = HolderLock(lock_path(url))
        lock.acquire()
        try:
            migrations.check(settings.database.url)
        finally:
            lock.release()
    except DatabaseHeld as error:
        held = str(error).partition(":")[0]
        return _ok(name, f"in use: {held}")
    except SchemaTooOld:
        return _ok(name, "an older schema, which `relay serve` and `relay migrate` update")
    except RelayError as error:
        return _problem(name, str(error))
    return _ok(name, f"{path}, schema {migrations.newest_revision()}")


async def _postgres(settings: Settings) -> Finding:
    name = "database"
    try:
        await asyncio.to_thread(migrations.check, settings.database.url)
        database = PostgresDatabase(settings.database.url, pool_size=1)
        await database.open()
        try:
            version, replica, read_only, writable = await database.read(_about_the_server)
        finally:
            await database.close()
    except RelayError as error:  # an old schema too: `relay serve` migrates PostgreSQL only with --auto-migrate
        return _problem(name, redact_text(str(error)))
    where = redact_text(shown(postgres_url(settings.database.url)))
    if replica or read_only:
        why = "is a read-only replica" if replica else "is set to read-only (default_transaction_read_only)"
        return _problem(name, f"{where} {why}. Use the address of the primary")
    if not writable:
        detail = f"this user can read but not write {where}. Use one user for `relay migrate` and `relay serve`"
        return _problem(name, detail)
    schema = f"schema {migrations.newest_revision()}"
    return _ok(name, f"{where}, PostgreSQL {version.partition(' ')[0]}, {schema}")


def _about_the_server(connection: Connection) -> tuple[str, bool, bool, bool]:
    version, replica, read_only, writable = connection.execute(ABOUT_THE_SERVER).one()
    return version, replica, read_only, writable


def _encryption_key(settings: Settings) -> Finding:
    name = "encryption key"
    if not settings.encryption.keys:
        return _problem(name, NO_KEY)
    return _ok(name, f"{len(settings.encryption.keys)} configured")


async def _key(source: SourceSettings, account: AccountSettings) -> Finding:
    name = f"key {source.name}/{account.name}"
    variable = f"sources.{source.name}.accounts.{account.name}.api_key"
    if account.name == "default":
        variable = f"REVOR_API_KEY (or {variable})"
    if account.api_key is None:
        return _problem(name, f"no key. Set {variable}")
    definition = load_definition(source.preset)
    client = UpstreamClient(definition, source.base_url, clock=wall_clock, user_agent="revor-relay-check")
    try:
        poll = await client.probe(account.api_key)
    finally:
        await client.close()
    if poll.kind == "observed":
        return _ok(name, f"accepted by {source.base_url} ({poll.duration_ms:.0f} ms)")
    if poll.kind == "rate_limited":
        detail = f"the key works, but its rate limit at {source.base_url} is exhausted. Try again in a minute"
        return _ok(name, detail)
    return _problem(name, _trouble(definition, source, poll, variable))


def _trouble(definition: SourceDefinition, source: SourceSettings, poll: PollResult, variable: str) -> str:
    """What is wrong with a key or an upstream and how to fix it, in one sentence."""
    said = poll.error.code if poll.error is not None and poll.error.code else poll.kind
    hint = definition.hint_for(Problem(code=said, message=""), POLL)
    meaning, fix = ("", "") if hint is None else (hint.meaning, hint.fix[:1].lower() + hint.fix[1:])
    where = f"sources.{source.name}.base_url"
    match poll.kind:
        case "unauthorized" if poll.status_code is None:
            return f"the key for {source.base_url} {poll.detail.removeprefix('the API key ')}: set {variable} again"
        case "unauthorized":
            return f"{source.base_url} answers {poll.status_code}: {meaning}; {fix}, and set {variable} to it"
        case "forbidden":
            return f"{source.base_url} answers {poll.status_code}: {meaning}; {fix}, and set {variable} to it"
        case "unavailable" if poll.status_code is None:
            unreachable = f"{definition.title} cannot be reached at {source.base_url}"
            return f"{unreachable}: {poll.detail}; check the network and {where}"
        case "unavailable":
            return f"{definition.title} is not working: {source.base_url} {poll.detail}; try again later"
        case "not_found":
            return f"there is no such API at {source.base_url}: it {poll.detail}; check {where}"
    return f"{meaning}: {source.base_url}: {poll.detail}; {fix}"


async def _sinks(settings: Settings, environ: Mapping[str, str], database: Finding) -> list[Finding]:
    if database.state != "ok" or not database.detail.endswith(f"schema {migrations.newest_revision()}"):
        detail = "the database is in use. `relay subscriptions list` asks the node that holds it"
        if database.state != "ok":
            detail = "there is no readable database"
        return [_skipped("sinks", detail)]
    if is_postgres(settings.database.url) and not settings.encryption.keys:
        return [_skipped("sinks", "there is no encryption key to decrypt them")]
    try:
        keyring = load_or_create_keyring(settings.encryption.keys, state_dir=default_state_dir(environ))
        store = await open_store(settings.database.url, keyring, now=wall_clock(), pool_size=1)
        try:
            await (
                store.subscriptions.all()
            )  # fails with a wrong encryption key, with which `relay serve` does not start
            if settings.delivery.callback_secret is None:
                await store.subscriptions.secrets(CALLBACK_OWNER)
            return await _check_sinks(store.subscriptions, settings)
        finally:
            await store.close()
    except RelayError as error:
        return [_problem("sinks", str(error))]


async def _check_sinks(subscriptions: SubscriptionStore, settings: Settings) -> list[Finding]:
    policy = guard_policy(settings)
    found: list[Finding] = []
    count, cursor = 0, None
    while True:
        page = await subscriptions.page(limit=PAGE, cursor=cursor, callbacks=True)
        for one in page.items:
            count += 1
            shown = registry.kind_named(one.kind).redacted_url(one.sink)
            refusal = refusal_of_url(one.sink, policy)
            if refusal is not None:
                found.append(_problem(f"sink {one.id}", f"{shown}: {refusal}"))
            elif one.state == "disabled":
                fix = "Fix it, then run `relay subscriptions resume`"
                if one.probe_at is not None:
                    fix = "It is enabled once it answers again, or now by `relay subscriptions resume`"
                reason = f"{shown} is disabled ({one.disabled_reason}). {fix}"
                found.append(_problem(f"sink {one.id}", reason))
        cursor = page.next_cursor
        if cursor is None:
            break
    return found or [_ok("sinks", f"{count} subscriptions, all allowed")]
