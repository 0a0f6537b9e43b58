"""Commands that work through the node that holds the SQLite file, and otherwise on the database itself.

None of them makes a SQLite file: in another folder, or without the settings of the relay, it would be one that no node
reads. They ask the relay then, or refuse.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from relay.cli.client import DEFAULT_URL, Api, Unreachable, api
from relay.cli.node.serve import ConfigFile, settings_file
from relay.cli.output import note
from relay.errors import DatabaseHeld, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from relay.api.http.operations import Context
    from relay.clock import Clock
    from relay.config.keyring import KeyFile, Keyring
    from relay.config.settings import Settings
    from relay.node.audit import AuditLog
    from relay.node.encryption_keys import EncryptionKeys
    from relay.store.databases.database import Database
    from relay.store.store import Store

Result = TypeVar("Result")

COMMAND_LINE = "command line"
"""The actor of what a command does on the database itself."""


class NoDatabase(UsageError):
    """There is no SQLite file where the settings say."""


def through_or_directly(
    config: ConfigFile,
    through: Callable[[Api], Result],
    directly: Callable[[Any], Awaitable[Result]],
    *,
    opening: Callable[["Settings"], AbstractAsyncContextManager[Any]] | None = None,
    local_first: bool = False,
) -> Result:
    """The result of `through` the relay at RELAY_URL or the node that holds the SQLite file; else of `directly` on the
    database of the settings.

    opening      yields what `directly` gets; by default the database, which is only read
    local_first  the database is also preferred to a relay on this machine
    """
    if _asks_relay(local_first):
        return through(api())
    opening = opening or partial(opened, writes=False)
    return done(settings_of(config), through, directly, opening, local_first=local_first)


def _asks_relay(local_first: bool) -> bool:
    from relay.core.access.netguard import is_loopback_host

    return bool(os.environ.get("RELAY_URL")) and not (local_first and is_loopback_host(api().host))


def settings_of(config: ConfigFile) -> "Settings":
    """The settings of this file, with the environment's."""
    from relay.config.settings import load_settings, misnamed_variables

    for line in misnamed_variables(os.environ):
        note(f"relay: {line}")
    return load_settings(settings_file(config), os.environ)


def done(
    settings: "Settings",
    through: Callable[[Api], Result],
    directly: Callable[[Any], Awaitable[Result]],
    opening: Callable[["Settings"], AbstractAsyncContextManager[Any]],
    *,
    local_first: bool = False,
) -> Result:
    """As `through_or_directly`, with these settings. Raises NoDatabase if there is neither a file nor a relay."""
    if _asks_relay(local_first):
        return through(api())

    async def work() -> Result:
        async with opening(settings) as database:
            return await directly(database)

    try:
        return asyncio.run(work())
    except DatabaseHeld:
        return through(api(own_url(settings)))
    except NoDatabase as missing:
        relay = api(own_url(settings))
        try:
            return through(relay)
        except Unreachable:
            raise NoDatabase(
                f"{missing}, and no relay answers at {relay.url}. `relay serve` creates the database. For a relay "
                "elsewhere set RELAY_URL; for another settings file use --config FILE"
            ) from None


def database_path(settings: "Settings") -> "Path":
    """The SQLite file of these settings."""
    from relay.store.databases.sqlite import real_path, sqlite_url

    return real_path(sqlite_url(settings.database.url))


def has_database(settings: "Settings") -> bool:
    """True if there is the SQLite file of these settings, or they name a PostgreSQL database."""
    from relay.store.databases.postgres_engine import is_postgres

    return is_postgres(settings.database.url) or database_path(settings).exists()


def require_database(settings: "Settings") -> None:
    """Raises NoDatabase if there is no SQLite file where the settings say."""
    if not has_database(settings):
        raise NoDatabase(f"there is no database at {database_path(settings)}")


def own_url(settings: "Settings") -> str:
    """The URL at which the node with these settings answers."""
    host, port = settings.server.host.strip("[]"), settings.server.port
    if not port:
        return DEFAULT_URL
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (compared, not bound)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The database of the settings, while no node holds it."""

    settings: "Settings"
    store: "Store"
    keys: "EncryptionKeys"
    audit: "AuditLog"
    clock: "Clock"

    async def context(self) -> "Context":
        """The context that the API's checks take."""
        from relay.node.declared import context_of

        return await context_of(self.settings, self.store, self.audit, self.clock)


@asynccontextmanager
async def opened(settings: "Settings", *, writes: bool, creates: bool = False) -> AsyncIterator[Opened]:
    """The database of these settings. Raises DatabaseHeld, NoDatabase, UsageError, StoreError, and SettingsError for an
    encryption key that nodes do not have.

    creates  creates a missing SQLite file: only for a temporary one
    writes   administrative writes are recorded
    """
    from relay import log
    from relay.clock import wall_clock
    from relay.store.store import open_store

    log.configure(dev=False, level="critical")  # what goes wrong is printed as the result
    if not creates:
        require_database(settings)
    keyring, file = _keyring(settings)
    store = await open_store(settings.database.url, keyring, now=wall_clock(), pool_size=2)
    try:
        found = _opened(settings, store, keyring, file)
        if writes:
            await found.keys.check()  # else nodes could not decrypt an audit key that this process makes
        yield found
    finally:
        await store.close()


@asynccontextmanager
async def recorded(
    database: "Database", settings: "Settings", action: str, target: str | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Records an administrative write on the database, before it begins and after it. What it puts into the dictionary
    is in the entry. Raises UsageError without an encryption key, SettingsError if nodes do not have it, StoreError."""
    from relay.store.store import Store

    keyring, file = _keyring(settings)
    found = _opened(settings, Store(database, keyring), keyring, file)
    await found.keys.check()
    async with found.audit.writing(action, actor=COMMAND_LINE, target=target) as notes:
        yield notes


def _opened(settings: "Settings", store: "Store", keyring: "Keyring", file: "KeyFile | None") -> Opened:
    from relay.clock import wall_clock
    from relay.node.audit import AuditLog
    from relay.node.encryption_keys import EncryptionKeys

    clock = store.clock(wall_clock)
    keys = EncryptionKeys(keyring, store.ciphertexts, clock=clock, file=file)
    audit = AuditLog(store, clock=clock, kept_days=settings.retention.audit_days)
    return Opened(settings=settings, store=store, keys=keys, audit=audit, clock=clock)


def _keyring(settings: "Settings") -> "tuple[Keyring, KeyFile | None]":
    """The keys, and the file that has them if the settings have none."""
    from relay.config.keyring import KeyFile, Keyring
    from relay.node.opening import NO_KEY
    from relay.private_files import default_state_dir
    from relay.store.databases.postgres_engine import is_postgres

    if settings.encryption.keys:
        return Keyring(settings.encryption.keys), None
    if is_postgres(settings.database.url):
        raise UsageError(NO_KEY)
    file = KeyFile(default_state_dir(os.environ))
    return Keyring(file.read_or_create()), file
