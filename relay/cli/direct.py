"""Commands that work through the node that holds the SQLite file, and otherwise on the database itself."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from relay.cli.client import Api, api
from relay.cli.serve import ConfigFile, settings_file
from relay.cli.tokens import own_url
from relay.errors import DatabaseHeld, UsageError

if TYPE_CHECKING:
    from relay.config.settings import Settings
    from relay.node.audit import AuditLog

Result = TypeVar("Result")


def through_or_directly(
    config: ConfigFile, through: Callable[[Api], Result], directly: "Callable[[AuditLog], Awaitable[Result]]"
) -> Result:
    """The result of `through` the relay at RELAY_URL or the node that holds the SQLite file; else of `directly` on the
    database of the settings."""
    if os.environ.get("RELAY_URL"):
        return through(api())
    from relay.config.settings import load_settings

    settings = load_settings(settings_file(config), os.environ)

    async def work() -> Result:
        async with open_audit(settings) as audit:
            return await directly(audit)

    try:
        return asyncio.run(work())
    except DatabaseHeld:
        return through(api(own_url(settings)))


@asynccontextmanager
async def open_audit(settings: "Settings") -> "AsyncIterator[AuditLog]":
    """The audit in the database of these settings. Raises DatabaseHeld, UsageError, StoreError."""
    from relay.clock import wall_clock
    from relay.config.keyring import load_or_create_keyring
    from relay.node.audit import AuditLog
    from relay.node.opening import NO_KEY
    from relay.private_files import default_state_dir
    from relay.store.postgres_engine import is_postgres
    from relay.store.sqlite import real_path, sqlite_url
    from relay.store.store import open_store

    url = settings.database.url
    if is_postgres(url) and not settings.encryption.keys:
        raise UsageError(NO_KEY)
    if not is_postgres(url) and not real_path(sqlite_url(url)).exists():
        raise UsageError(f"there is no database at {real_path(sqlite_url(url))} yet. `relay serve` creates it")
    keyring = load_or_create_keyring(settings.encryption.keys, state_dir=default_state_dir(os.environ))
    store = await open_store(url, keyring, now=wall_clock(), pool_size=2)
    try:
        audit = AuditLog(store, keyring, clock=store.clock(wall_clock), kept_days=settings.retention.audit_days)
        await audit.read_keys()
        yield audit
    finally:
        await store.close()
