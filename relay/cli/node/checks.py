"""The checks of `relay check`. They change nothing: no database is created or migrated, no message is sent."""

import asyncio
import sqlite3
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from aiohttp import ThreadedResolver
from sqlalchemy import text
from sqlalchemy.engine import Connection

from relay.bus.publishers import Publishers
from relay.cli.output import print_json, print_table
from relay.clock import wall_clock
from relay.config.keyring import load_or_create_keyring
from relay.config.settings import (
    DEFAULT_ACCOUNT,
    KEY_VARIABLE,
    AccountSettings,
    Settings,
    SourceSettings,
    load_settings,
    misnamed_variables,
    require_strong_access,
)
from relay.core.access.netguard import GuardPolicy, refusal_of_url
from relay.core.deliveries.broker import SCHEMES, Broker, Message, refusal_of_broker
from relay.core.events.sentences import counted
from relay.core.jobs.connect_accounts import OK, Listing
from relay.core.jobs.job import DEFAULT_SOURCE, POLL, Problem
from relay.core.subscriptions.filters import UNREADABLE, unreadable
from relay.core.subscriptions.subscription import Subscription
from relay.errors import DatabaseHeld, RelayError, SchemaTooOld, SettingsError, StoreError
from relay.http.egress_proxy import EgressProxy, ProxyFailed
from relay.http.sender import USER_AGENT, Sender
from relay.node.component_settings import egress_proxy, guard_policy
from relay.node.declared import check_declared, context_of, differing
from relay.node.definitions import base_url_of, definition_of
from relay.node.encryption_keys import refusal_of
from relay.node.local_token import NO_ACCESS, local_token, local_token_path
from relay.node.opening import NO_KEY
from relay.private_files import default_state_dir
from relay.redaction import redact_text
from relay.sources.client import PollResult, UpstreamClient
from relay.sources.definition import SourceDefinition
from relay.store.databases.postgres import PostgresDatabase
from relay.store.databases.postgres_engine import is_postgres, postgres_url, shown
from relay.store.databases.sqlite import HolderLock, check_place, lock_path, sqlite_url
from relay.store.schema import migrations
from relay.store.store import Store, open_store
from relay.store.subscriptions.secrets import CALLBACK_OWNER
from relay.store.subscriptions.subscriptions import SubscriptionStore
from subscribers import registry
from subscribers.common.templates import unreadable_template
from subscribers.registry import broker_of

PAGE = 500
PROXY_TIMEOUT_SECONDS = 5.0
MAX_DIALS = 8
"""Brokers that are dialled at the same time."""
MAX_NAMED = 5
"""Broken connect accounts that are named."""
COUNT_TOKENS = "SELECT COUNT(*) FROM tokens"
ABOUT_THE_SERVER = (
    "SELECT current_setting('server_version'), pg_is_in_recovery(),"
    " current_setting('default_transaction_read_only')::boolean, has_table_privilege('deliveries', 'INSERT')"
)


FindingState = Literal["ok", "warning", "problem", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `detail` says how to fix a problem."""

    name: str
    state: FindingState
    detail: str


class _Found(RelayError):
    """A check found a problem. The text says how to fix it."""


class _Skipped(Exception):
    """A check cannot run now. The text says why."""


async def run_checks(
    path: Path | None, environ: Mapping[str, str], asked: Callable[[str, PollResult], None] = lambda _name, _poll: None
) -> list[Finding]:
    """Checks settings, database, keys and sinks, in this order. Wrong settings end the checks. `asked`: called with the
    source's name and the upstream's answer to its key."""
    try:
        settings = load_settings(path, environ)
        require_strong_access(settings)
    except RelayError as error:
        return [Finding("settings", "problem", str(error))]
    found = [Finding("settings", "ok", str(path or "no file, only defaults and variables"))]
    found += [Finding("settings", "warning", line) for line in misnamed_variables(environ)]
    found += await _checked("API token", _token(settings, environ))
    on_postgres = is_postgres(settings.database.url)
    database = await _checked("database", _postgres(settings) if on_postgres else asyncio.to_thread(_sqlite, settings))
    found += database
    if on_postgres:
        keys = len(settings.encryption.keys)
        found.append(Finding("encryption key", "ok" if keys else "problem", f"{keys} configured" if keys else NO_KEY))
    for name in settings.sources:
        found += await _source(settings, name, asked)
    if settings.security.egress_proxy is not None:
        found += await _checked("egress proxy", _proxy(EgressProxy.at(settings.security.egress_proxy)))
    found += await _checked("sinks", _sinks(settings, environ, database[0]))
    if settings.subscriptions:
        found += await _checked("declared subscriptions", _declared(settings, environ, database[0]))
    return found


async def _checked(name: str, check: Awaitable[str | list[Finding]]) -> list[Finding]:
    """The findings of a check, which returns what is fine or its own findings, and raises otherwise."""
    try:
        result = await check
    except _Skipped as skipped:
        return [Finding(name, "skipped", str(skipped))]
    except RelayError as error:
        return [Finding(name, "problem", str(error))]
    return [Finding(name, "ok", result)] if isinstance(result, str) else result


def print_findings(findings: list[Finding], *, json: bool) -> None:
    """Prints the findings as a table, or as one JSON object."""
    if json:
        print_json({"ok": all(one.state != "problem" for one in findings), "checks": [asdict(one) for one in findings]})
        return
    print_table(("check", "state", "detail"), [astuple(one) for one in findings], empty="nothing to check")


async def _token(settings: Settings, environ: Mapping[str, str]) -> str:
    found = [f"{len(settings.auth.tokens)} configured"] if settings.auth.tokens else []
    if stored := await _stored_tokens(settings):
        found.append(f"{stored} in the database")
    if found:
        return ", ".join(found)
    if is_postgres(settings.database.url):
        raise _Found(NO_ACCESS)
    path = local_token_path(environ)
    if local_token(environ) is None:
        raise _Skipped(f"none yet. `relay serve` without --dev creates one in {path}")
    return f"stored in {path}"


async def _stored_tokens(settings: Settings) -> int:
    """Number of tokens in the database; 0 if it cannot be read, which the next check reports."""
    if not is_postgres(settings.database.url):
        return await asyncio.to_thread(_tokens_of_file, str(sqlite_url(settings.database.url).database))
    try:
        async with opened_postgres(settings) as database:
            return int((await database.read(row_of(COUNT_TOKENS)))[0])
    except StoreError:
        return 0


@asynccontextmanager
async def opened_postgres(settings: Settings) -> AsyncIterator[PostgresDatabase]:
    """The PostgreSQL database of the settings, with one connection. Raises RelayError."""
    database = PostgresDatabase(settings.database.url, pool_size=1)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


def row_of(query: str) -> Callable[[Connection], Any]:
    """Reads the only row of a query."""
    return lambda connection: connection.execute(text(query)).one()


def sqlite_value(path: Path, query: str) -> Any:
    """The first value of a query to a SQLite file, read-only, also beside the node that holds it. Raises
    sqlite3.Error, and TypeError if there is no row."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchone()[0]


def _tokens_of_file(path: str) -> int:
    try:
        return int(sqlite_value(Path(path), COUNT_TOKENS))
    except sqlite3.Error:
        return 0


def _sqlite(settings: Settings) -> str:
    url = sqlite_url(settings.database.url)
    path = Path(str(url.database))
    check_place(path)
    if not path.exists():
        raise _Skipped(f"{path} does not exist yet. `relay serve` creates it")
    lock = HolderLock(lock_path(url))
    try:
        lock.acquire()
        try:
            migrations.check(settings.database.url)
        finally:
            lock.release()
    except DatabaseHeld as error:
        return f"in use: {str(error).partition(':')[0]}"
    except SchemaTooOld:
        return "an older schema, which `relay serve` and `relay migrate` update"
    return f"{path}, {_newest_schema()}"


async def _postgres(settings: Settings) -> str:
    try:
        await asyncio.to_thread(migrations.check, settings.database.url)
        async with opened_postgres(settings) as database:
            version, replica, read_only, writable = await database.read(row_of(ABOUT_THE_SERVER))
    except RelayError as error:  # an old schema too: `relay serve` migrates PostgreSQL only with --auto-migrate
        raise _Found(redact_text(str(error))) from error
    where = redact_text(shown(postgres_url(settings.database.url)))
    if replica or read_only:
        why = "is a read-only replica" if replica else "is set to read-only (default_transaction_read_only)"
        raise _Found(f"{where} {why}. Use the address of the primary")
    if not writable:
        raise _Found(f"this user can read but not write {where}. Use one user for `relay migrate` and `relay serve`")
    return f"{where}, PostgreSQL {version.partition(' ')[0]}, {_newest_schema()}"


def _newest_schema() -> str:
    return f"schema {migrations.newest_revision()}"


async def _source(settings: Settings, name: str, asked: Callable[[str, PollResult], None]) -> list[Finding]:
    """The findings about a source: its definition, if that is wrong or in a file, and its keys."""
    try:
        definition = definition_of(settings, name)
        source = settings.sources[name].replace(base_url=base_url_of(settings, name, definition))
    except SettingsError as error:
        return [Finding(f"source {name}", "problem", line) for line in error.lines]
    found = []
    if source.file is not None:
        detail = f"{source.file}: {definition.title}, {', '.join(definition.resources)}"
        found.append(Finding(f"source {name}", "ok", detail))
    for account in source.accounts.values():
        found += await _checked(f"key {name}/{account.name}", _key(settings, source, account, definition, asked))
    return found


async def _key(
    settings: Settings,
    source: SourceSettings,
    account: AccountSettings,
    definition: SourceDefinition,
    asked: Callable[[str, PollResult], None],
) -> str:
    variable = f"sources.{source.name}.accounts.{account.name}.api_key"
    if (source.name, account.name) == (DEFAULT_SOURCE, DEFAULT_ACCOUNT):
        variable = f"{KEY_VARIABLE} (or {variable})"
    if account.api_key is None:
        raise _Found(f"no key. Set {variable}")
    if definition.connect_accounts is None and definition.probe is None:
        return "set, and not tried: the definition has no `probe`"
    async with Sender(guard_policy(settings), clock=wall_clock, proxy=egress_proxy(settings)) as sender:
        client = UpstreamClient(
            definition, source.base_url, clock=wall_clock, user_agent="revor-relay-check", sender=sender
        )
        try:
            ask = client.probe if definition.connect_accounts is None else client.list_accounts
            poll = await ask(account.api_key)
        finally:
            await client.close()
    asked(source.name, poll)
    if poll.kind == "observed":
        return f"accepted by {source.base_url} ({poll.duration_ms:.0f} ms){_broken_accounts(poll.listing)}"
    if poll.kind == "rate_limited":
        return f"the key works, but its rate limit at {source.base_url} is exhausted. Try again in a minute"
    raise _Found(_trouble(definition, source, poll, variable))


def _broken_accounts(listing: Listing | None) -> str:
    """The connect accounts that cannot send. That is no problem of the relay, but worth a line."""
    accounts = () if listing is None else tuple(listing.accounts.values())
    broken = [f"{one.name or one.id} ({one.state})" for one in accounts if one.state not in (OK, None)]
    if not broken:
        return ""
    more = f" and {len(broken) - MAX_NAMED} more" if len(broken) > MAX_NAMED else ""
    return f". Of {len(accounts)} connect accounts these cannot send: {', '.join(broken[:MAX_NAMED])}{more}"


def _trouble(definition: SourceDefinition, source: SourceSettings, poll: PollResult, variable: str) -> str:
    """One sentence: the problem of a key or an upstream, and its fix."""
    code = poll.error.code if poll.error is not None and poll.error.code else poll.kind
    hint = definition.hint_for(Problem(code=code, message=""), POLL)
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
            listed = definition.connect_accounts
            path, place = (definition.probe, " and the `probe`") if listed is None else (listed.path, "")
            return f"GET {source.base_url}{path} {poll.detail}: check {where}{place}"
    return f"{meaning}: {source.base_url}: {poll.detail}; {fix}"


async def _proxy(proxy: EgressProxy) -> str:
    """Asks the proxy for a tunnel to itself, and to the metadata service of most clouds. It must refuse both."""
    tls = ssl.create_default_context()
    places = ("127.0.0.1", proxy.port), ("169.254.169.254", 80)
    tunnels = [
        proxy.open_tunnel(*place, timeout_seconds=PROXY_TIMEOUT_SECONDS, user_agent=USER_AGENT, tls=tls)
        for place in places
    ]
    answers = await asyncio.gather(*tunnels, return_exceptions=True)
    opened = []
    for place, answer in zip(places, answers, strict=True):
        if not isinstance(answer, BaseException):
            answer.abort()
            opened.append(f"{place[0]}:{place[1]}")
    if opened:
        raise _Found(
            f"it connects to {' and '.join(opened)}, so a sink's name can lead into its network. Let it refuse "
            "addresses that are not public"
        )
    first = answers[0]
    if not isinstance(first, ProxyFailed):
        raise _Found(f"it cannot be asked ({type(first).__name__})")
    if first.status is None or first.status == 407:
        raise _Found(f"{first}. Check security.egress_proxy")
    return "it answers, and does not connect to its own loopback address"


async def _sinks(settings: Settings, environ: Mapping[str, str], database: Finding) -> str | list[Finding]:
    asks = "`relay subscriptions list`"
    async with opened_database(settings, environ, database, asks) as store:
        await store.subscriptions.all()  # fails with a wrong encryption key, like `relay serve`
        if settings.delivery.callback_secret is None:
            await store.secrets.of(CALLBACK_OWNER)
        return await _check_sinks(store.subscriptions, settings)


async def _declared(settings: Settings, environ: Mapping[str, str], database: Finding) -> str:
    check_declared(settings.subscriptions)
    async with opened_database(settings, environ, database, "`relay apply --dry-run`") as store:
        found = await differing(settings, await context_of(settings, store, None, wall_clock))
    declared = f"{len(settings.subscriptions)} declared"
    if not found:
        return f"{declared}, all applied"
    return f"{declared}, {len(found)} not as in the database. `relay apply --dry-run` shows how they differ"


@asynccontextmanager
async def opened_database(
    settings: Settings, environ: Mapping[str, str], database: Finding, asks: str
) -> AsyncIterator[Store]:
    """The database, unless a node holds it, which a command `asks`."""
    if database.state != "ok":
        raise _Skipped("there is no readable database")
    if not database.detail.endswith(_newest_schema()):
        raise _Skipped(f"the database is in use. {asks} asks the node that holds it")
    if is_postgres(settings.database.url) and not settings.encryption.keys:
        raise _Skipped("there is no encryption key to decrypt them")
    keyring = load_or_create_keyring(settings.encryption.keys, state_dir=default_state_dir(environ))
    store = await open_store(settings.database.url, keyring, now=wall_clock(), pool_size=1)
    try:
        if (problem := refusal_of(keyring.ids, await store.ciphertexts.used())) is not None:
            raise _Found(problem)
        yield store
    finally:
        await store.close()


async def _check_sinks(subscriptions: SubscriptionStore, settings: Settings) -> str | list[Finding]:
    policy = guard_policy(settings)
    problems: list[Finding] = []
    brokers: list[Subscription] = []
    count, cursor, is_last = 0, None, False
    while not is_last:
        page = await subscriptions.page(limit=PAGE, cursor=cursor, callbacks=True)
        count += len(page.items)
        problems += [
            Finding(f"sink {one.id}", "problem", problem)
            for one in page.items
            if (problem := sink_problem(one, policy)) is not None
        ]
        brokers += [one for one in page.items if one.protocol in SCHEMES and one.state != "disabled"]
        cursor = page.next_cursor
        is_last = cursor is None
    problems += await dialled([one for one in brokers if sink_problem(one, policy) is None], policy)
    return problems or f"{counted(count, 'subscription')}, all allowed{', brokers reached' if brokers else ''}"


async def dialled(subscriptions: Sequence[Subscription], policy: GuardPolicy) -> list[Finding]:
    """Connects to each broker, and checks the topic, stream, queue or exchange. Nothing is published."""
    places = {one.id: found for one in subscriptions if (found := broker_of(one)) is not None}
    publishers = Publishers(policy, clock=wall_clock, resolver=ThreadedResolver())
    turns = asyncio.Semaphore(MAX_DIALS)

    async def dial(place: tuple[Broker, Message | None]) -> str | None:
        async with turns:
            found = await publishers.dial(*place)
        return found.error and (found.detail or found.error)

    try:
        different = list(dict.fromkeys(places.values()))
        errors = dict(zip(different, await asyncio.gather(*map(dial, different)), strict=True))
    finally:
        await publishers.close()
    return [
        Finding(f"sink {one.id}", "problem", f"{one.sink}: {why}")
        for one in subscriptions
        if (why := errors[places[one.id]]) is not None
    ]


def sink_problem(subscription: Subscription, policy: GuardPolicy) -> str | None:
    """The problem of a sink, its token endpoint or its state under these rules; None if there is none."""
    shown = registry.kind_named(subscription.kind).redacted_url(subscription.sink)
    refused = refusal_of_broker if subscription.protocol in SCHEMES else refusal_of_url
    refusal = None if subscription.protocol == "PULL" else refused(subscription.sink, policy)
    if refusal is not None:
        return f"{shown}: {refusal}"
    token_url = None if subscription.credential is None else subscription.credential.token_url
    refusal = None if token_url is None else refusal_of_url(token_url, policy)
    if refusal is not None:
        return f"{shown}: its token endpoint: {refusal}"
    resume = f"`relay subscriptions resume {subscription.id}`"
    if (why := unreadable(subscription.filters)) is not None:
        return f"{shown}: {UNREADABLE}, so its events wait: {why}. Correct them, then run {resume}"
    if (why := unreadable_template(subscription)) is not None:
        then = f". Correct it, then run {resume}" if subscription.state == "disabled" else ""
        return f"{shown}: its template cannot be read, so its events wait: {why}{then}"
    if subscription.state == "pending":
        return f"{shown} has not consented ({subscription.state_reason}). Run {resume} to ask again"
    if subscription.state != "disabled":
        return None
    fix = f"Fix it, then run {resume}"
    if subscription.probe_at is not None:
        fix = f"It is enabled once it answers again, or now by {resume}"
    return f"{shown} is disabled ({subscription.disabled_reason}). {fix}"
