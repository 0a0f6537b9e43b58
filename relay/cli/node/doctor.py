"""`relay doctor`: what is wrong with this installation and how to fix it, in one page, and as a file for a ticket."""

import asyncio
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from relay.cli.client import Api, ApiError, Unreachable, api, in_cli_words
from relay.cli.node.checks import Finding, opened_database, opened_postgres, row_of, run_checks, sqlite_value
from relay.cli.node.direct import database_path, own_url
from relay.cli.node.local import is_there, write_file
from relay.cli.node.probes import Place, certificates, clock_finding, place_of, seconds_of
from relay.cli.node.serve import ConfigFile, settings_file
from relay.cli.options import Json
from relay.cli.output import clean, is_terminal, note, print_json, print_table, say, working
from relay.clock import from_rfc3339, in_words, to_rfc3339
from relay.config.settings import Settings, effective_settings, load_settings
from relay.core.access.netguard import GuardPolicy, is_loopback_host
from relay.core.events.sentences import counted
from relay.core.subscriptions.filters import UNREADABLE
from relay.core.values import DEFAULT
from relay.errors import RelayError, UsageError
from relay.node.component_settings import guard_policy
from relay.node.definitions import base_url_of, definition_of
from relay.sources.client import PollResult
from relay.store.databases.postgres_engine import is_postgres
from relay.store.schema import migrations
from relay.web.concerns import LATE_SECONDS
from relay.web.delivery_words import is_failing

WORDS = {"ok": "ok", "warning": "warn", "problem": "bad", "skipped": "skip"}
MAX_NAMED = 10
"""Subscriptions of one kind of trouble that are named."""
MIN_FREE_BYTES = 500_000_000
ABOUT_POSTGRES = "SELECT pg_database_size(current_database()), extract(epoch from clock_timestamp())::double precision"
INSIDE = (
    "what this installation's check says, versions, settings that are not the default, the state of the relay, its "
    "sources and its subscriptions"
)


@dataclass(slots=True)
class Seen:
    """The findings. `subscriptions`: of the relay or the database. `asked`: whether the relay answered."""

    findings: list[Finding] = field(default_factory=list)
    subscriptions: list[Mapping[str, Any]] = field(default_factory=list)
    settings: Settings | None = None
    asked: bool = False


def doctor(
    about: Annotated[
        str | None,
        typer.Option(metavar="ID", help="With --bundle: also what is known of a job, event, delivery or subscription."),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a redacted text for a support ticket. - prints it."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of --bundle.")] = False,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Find what is wrong with this installation. Checks settings, database, keys, sinks, clocks and certificates, and
    asks the relay. Each line is ok, warn or bad, with what to do. Exit code 1: something is bad."""
    if about is not None and bundle is None:
        raise UsageError("--about is a part of the bundle. Add --bundle FILE, or --bundle - to print it")
    if bundle is not None and str(bundle) != "-":
        force = _may_write(bundle, force=force)
    if json and bundle is not None and str(bundle) == "-":
        raise UsageError("--json and --bundle - both print on stdout. Give the bundle a file")
    path = settings_file(config)
    if config is not None and path is not None and not path.exists():
        raise UsageError(f"there is no settings file {path}")
    with working("checking"):
        client = _client(path)
        seen = asyncio.run(_examine(path, client, remote=_is_remote(client) and path is None))
        lines = None if bundle is None else _bundle(seen, client, about)
    if lines is not None and str(bundle) == "-":
        typer.echo("\n".join(lines))
    else:
        _print(seen.findings, bundle, json=json)
    if bundle is not None and lines is not None and str(bundle) != "-":
        write_file(bundle, "\n".join([*lines, ""]), force=force)
        note(f"wrote {bundle}, {counted(len(lines), 'line')}. Inside: {INSIDE}")
        note("Secrets, paths of sinks, recipients and metadata are left out. Read it before you send it")
    raise typer.Exit(1 if any(one.state == "problem" for one in seen.findings) else 0)


def _may_write(path: Path, *, force: bool) -> bool:
    """Whether an existing file is overwritten. Asks on a terminal. Raises UsageError on a no, and without one."""
    if force or not is_there(path):
        return force
    if not is_terminal():
        raise UsageError(f"{path} exists already. Give another name, or overwrite it with --force")
    if not typer.confirm(clean(f"{path} exists already. Overwrite it?"), default=False):
        raise UsageError("nothing was written. Give another name")
    return True


def _client(path: Path | None) -> Api:
    """The relay at RELAY_URL, else the one with the settings of this folder."""
    try:
        return api(own_url(load_settings(path, os.environ)))
    except UsageError:
        raise
    except RelayError:
        return api()


def _is_remote(client: Api) -> bool:
    return not is_loopback_host(client.host)


async def _examine(path: Path | None, client: Api, *, remote: bool) -> Seen:
    seen, polls = Seen(), dict[str, PollResult]()
    _ask_relay(client, seen)
    if remote:
        seen.findings.append(
            Finding("settings", "skipped", f"of another machine, {client.host}. Run `relay doctor` there too")
        )
    else:
        found = await run_checks(path, os.environ, polls.__setitem__)
        # The relay that holds the database has said of its sinks what these checks could not.
        seen.findings += [
            one for one in found if not (seen.asked and one.state == "skipped" and "in use" in one.detail)
        ]
        if found[0].state != "problem":
            seen.settings = load_settings(path, os.environ)
            database = next(one for one in found if one.name == "database")
            seen.findings += await _database(seen, seen.settings, database)
    for name, poll in polls.items():
        if (theirs := seconds_of(poll.headers.get("date"))) is not None:
            seen.findings.append(clock_finding(f"source {name}", theirs, (poll.sent_at + poll.received_at) / 2))
    seen.findings += await _certificates(seen, client)
    return seen


# --- the relay


def _ask_relay(client: Api, seen: Seen) -> None:
    """Adds the relay's own findings. A relay that does not run is a problem only if RELAY_URL names it."""
    try:
        began = time.time()
        with client.open("GET", "/livez") as response:
            date = response.headers.get("Date")
        seen.asked = True
        ready = client.get("/readyz", accepted=503)
        seen.findings += _readiness(client, ready)
        if _is_remote(client) and (theirs := seconds_of(date)) is not None:
            seen.findings.append(clock_finding("the relay", theirs, (began + time.time()) / 2))
        seen.subscriptions = client.items("/v1/subscriptions", {"callbacks": True}, 10_000)
        seen.findings += _subscriptions(seen.subscriptions, time.time())
        for state, what in (("pending", "undelivered"), ("dead", "given up")):
            groups = client.get("/v1/deliveries", {"state": state, "group_by": "sink", "limit": 500})
            seen.findings += _deliveries(state, what, groups, time.time())
    except Unreachable as error:
        seen.findings.append(Finding("relay", "problem" if os.environ.get("RELAY_URL") else "warning", str(error)))
    except ApiError as error:
        seen.findings.append(Finding("relay", "warning" if error.status == 403 else "problem", str(error)))
    except RelayError as error:
        seen.findings.append(Finding("relay", "problem", str(error)))


def _readiness(client: Api, ready: Mapping[str, Any]) -> Iterator[Finding]:
    if ready.get("status") == "ok":
        yield Finding("relay", "ok", f"ready at {client.url}")
    else:
        yield Finding("relay", "problem", f"not ready at {client.url}: see the next lines")
    for problem in ready.get("problems") or ():
        yield Finding("relay", "problem", in_cli_words(str(problem)))
    for one in ready.get("notes") or ():
        yield Finding("relay", "warning", in_cli_words(str(one)))


def _subscriptions(subscriptions: Sequence[Mapping[str, Any]], now: float) -> Iterator[Finding]:
    failing = list(filter(is_failing, subscriptions))
    stopped = [
        one
        for one in subscriptions
        if one.get("state") in ("disabled", "pending") or (one.get("state_reason") or "").startswith(UNREADABLE)
    ]
    for one in failing[:MAX_NAMED]:
        since = in_words(max(0.0, now - from_rfc3339(one["failing_since"])))
        detail = (
            f"{one['sink']} fails for {since} ({one.get('failing_reason')}). See `relay subscriptions show {one['id']}`"
        )
        yield Finding("sink", "warning", detail)
    for one in stopped[:MAX_NAMED]:
        why = one.get("state_reason") or one.get("disabled_reason")
        fix = f"Fix it, then run `relay subscriptions resume {one['id']}`"
        yield Finding("sink", "warning", f"{one['sink']} is {one['state']} ({why}). {fix}")
    left = max(0, len(failing) - MAX_NAMED) + max(0, len(stopped) - MAX_NAMED)
    if left:
        yield Finding("sink", "warning", f"{left} more: see `relay subscriptions list`")
    if not failing and not stopped:
        yield Finding("sinks", "ok", f"{counted(len(subscriptions), 'sink')}, none fails")


def _deliveries(state: str, what: str, groups: Mapping[str, Any], now: float) -> Iterator[Finding]:
    count = sum(one["count"] for one in groups["items"])
    if not count:
        yield Finding(what, "ok", "no deliveries")
        return
    more = " or more" if groups["truncated"] else ""
    oldest = in_words(max(0.0, now - min(from_rfc3339(one["oldest_at"]) for one in groups["items"])))
    late = state == "dead" or now - min(from_rfc3339(one["oldest_at"]) for one in groups["items"]) > LATE_SECONDS
    again = "`relay deliveries retry --state dead` sends them again" if state == "dead" else "They wait for their sinks"
    see = f"`relay deliveries list --state {state} --group-by reason,sink` says why"
    detail = f"{count:,}{more} deliveries, the oldest {oldest} old. {see}. {again}"
    yield Finding(what, "warning" if late else "ok", detail)


# --- the database


async def _database(seen: Seen, settings: Settings, database: Finding) -> list[Finding]:
    """The size of the database, its schema, its clock and, while no relay runs, its backlog."""
    if database.state == "problem":
        return []
    if is_postgres(settings.database.url):
        found = await _of_postgres(settings)
    else:
        found = await asyncio.to_thread(_of_sqlite, database_path(settings))
    if not seen.asked and database.state == "ok":
        try:
            async with opened_database(settings, os.environ, database, "") as store:
                pending = await store.deliveries.pending()
                stored = await store.subscriptions.all()
        except Exception:  # a check before has said why
            return found
        seen.subscriptions = [{"sink": one.sink} for one in stored]
        waits = "" if pending.oldest_at is None else f", the oldest {in_words(time.time() - pending.oldest_at)} old"
        late = pending.oldest_at is not None and time.time() - pending.oldest_at > LATE_SECONDS
        detail = f"{pending.count:,} deliveries{waits}" + (". `relay serve` sends them" if pending.count else "")
        found.append(Finding("undelivered", "warning" if late else "ok", detail))
    return found


async def _of_postgres(settings: Settings) -> list[Finding]:
    try:
        async with opened_postgres(settings) as database:
            began = time.time()
            size, clock = await database.read(row_of(ABOUT_POSTGRES))
            ours = (began + time.time()) / 2
    except RelayError as error:
        return [Finding("database size", "warning", str(error))]
    return [
        Finding("database size", "ok", _bytes(int(size))),
        clock_finding("the database", float(clock), ours, exact=True),
    ]


def _of_sqlite(path: Path) -> list[Finding]:
    if not path.exists():
        return []
    files = [path, *(path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm"))]
    size = sum(file.stat().st_size for file in files if file.exists())
    free = shutil.disk_usage(path.parent).free
    found = [Finding("database size", "ok", f"{_bytes(size)}, {_bytes(free)} free on the disk")]
    if free < max(MIN_FREE_BYTES, size // 10):
        fix = "Free some: with a full disk nothing is recorded, and POST answers 503"
        found = [Finding("database size", "warning", f"{_bytes(size)}, only {_bytes(free)} free on the disk. {fix}")]
    newest = migrations.newest_revision()
    try:
        revision = sqlite_value(path, "SELECT version_num FROM alembic_version")
    except (sqlite3.Error, TypeError):
        return found
    if revision == newest:
        return [Finding("database schema", "ok", f"{revision}, the newest"), *found]
    fix = "`relay serve` and `relay migrate` update it"
    return [Finding("database schema", "warning", f"{revision}, the newest is {newest}. {fix}"), *found]


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


# --- certificates


async def _certificates(seen: Seen, client: Api) -> list[Finding]:
    settings = seen.settings
    policy = GuardPolicy() if settings is None else guard_policy(settings)
    places = [place_of(client.url, "the relay")]
    if settings is not None:
        places.append(place_of(settings.server.public_url, "server.public_url"))
        places += [place_of(url, f"source {name}") for name, url in _upstreams(settings)]
    if not policy.by_proxy:  # else only the proxy can reach them
        places += [place_of(one.get("sink"), "a sink", policy) for one in seen.subscriptions]
    return await certificates([one for one in places if isinstance(one, Place)], time.time())


def _upstreams(settings: Settings) -> Iterator[tuple[str, str]]:
    for name in settings.sources:
        try:
            yield name, base_url_of(settings, name, definition_of(settings, name))
        except RelayError:
            continue  # a check has said why


# --- what is printed

_NAMED = re.compile(r"these cannot send: .*")


def _print(findings: Sequence[Finding], bundle: Path | None, *, json: bool) -> None:
    bad, warn = (sum(one.state == state for one in findings) for state in ("problem", "warning"))
    if json:
        checks = [{"name": one.name, "state": WORDS[one.state], "detail": one.detail} for one in findings]
        print_json({"ok": not bad, "checks": checks, "bundle": None if bundle is None else str(bundle)})
        return
    rows = [(WORDS[one.state], one.name, one.detail) for one in findings]
    print_table(("state", "check", "detail"), rows, empty="nothing to check")
    verdict = "nothing is wrong" if not warn else f"nothing is bad. {counted(warn, 'line')} to look at: warn"
    say(f"{counted(bad, 'line')} bad, {warn} to look at: warn" if bad else verdict)


def _bundle(seen: Seen, client: Api, about: str | None) -> list[str]:
    """The lines of the support bundle: without secrets, paths of sinks, recipients and metadata."""
    from relay.cli.node.support import about_installation, gather, report
    from relay.redaction import redact_text

    def lines() -> Iterator[str]:
        yield f"revor-relay, support bundle, at {to_rfc3339(time.time())}"
        yield f"Inside: {INSIDE}" + (f", and what is known of {about}." if about else ".")
        yield "Left out: secrets, paths of sinks, recipients, metadata. Read it before you send it."
        yield ""
        yield "DOCTOR"
        for one in seen.findings:
            yield f"{WORDS[one.state]:<4} {one.name}: {_without_people(one.detail, seen.subscriptions)}"
        yield ""
        yield "SETTINGS that are not the default"
        yield from _setting_lines(seen.settings) if seen.settings is not None else ("not read",)
        yield ""

    shown = [redact_text(clean(line)) for line in lines()]
    if not seen.asked:
        if about is not None:
            raise UsageError(f"--about {about}: no relay answers at {client.url}, so nothing is known of it")
        return [*shown, "The relay was not asked: it does not answer."]
    case = about_installation(client) if about is None else gather(client, about)
    return [*shown, *report(case, now=time.time())]


def _setting_lines(settings: Settings) -> Iterator[str]:
    for one in effective_settings(settings):
        if one.place != DEFAULT:
            yield f"{one.key} is set ({one.place})" if one.secret else f"{one.key}: {clean(one.value)} ({one.place})"


def _without_people(detail: str, subscriptions: Sequence[Mapping[str, Any]]) -> str:
    """A sentence without names of sending accounts, and with the hosts of sinks only: a chat's path is its secret."""
    from relay.cli.node.support import host_of_sink

    detail = _NAMED.sub("some cannot send", detail)
    sinks = {str(one["sink"]) for one in subscriptions if one.get("sink")}
    for sink in sorted(sinks, key=len, reverse=True):  # one sink may begin with another
        if "://" in sink:
            detail = detail.replace(sink, host_of_sink(sink))
    return detail
