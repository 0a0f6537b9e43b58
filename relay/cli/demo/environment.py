"""The environment of a demo: loopback addresses, servers in this process, the relay's settings and database."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from relay.config.keyring import new_key
from relay.config.settings import (
    LOOPBACK_NETWORKS,
    AccountSettings,
    DatabaseSettings,
    EncryptionSettings,
    PollingSettings,
    SecuritySettings,
    ServerSettings,
    Settings,
    SourceSettings,
)
from relay.errors import UsageError
from relay.sandbox.server import Sandbox
from relay.server.http_server import make_server
from relay.server.sockets import listening_socket
from relay.server.sockets import url_of as url_of_socket
from relay.store.databases.postgres_engine import is_postgres, scratch_database
from relay.store.databases.sqlite import url_of as sqlite_url_of

API_KEY = "sk-revor-demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The options of a demo. `rate_limit`: reads of jobs and seconds, at speed 1."""

    jobs: int = 20
    speed: float = 60.0
    seed: int = 0
    rate_limit: tuple[int, float] = (120, 60.0)
    database: str | None = None


def sandbox_of(plan: Plan) -> Sandbox:
    """The sandbox of a demo. Its rate limit counts only reads of jobs."""
    return Sandbox(seed=plan.seed, speed=plan.speed, rate_limit=plan.rate_limit, limit_reads_only=True)


def listen() -> socket.socket:
    """A socket that listens on a free port of 127.0.0.1."""
    return listening_socket("127.0.0.1", 0)


def url_of(listener: socket.socket) -> str:
    """The base URL of a socket of `listen`."""
    return url_of_socket(listener, "127.0.0.1")


@contextlib.asynccontextmanager
async def served(app: ASGIApp, listener: socket.socket, *, dates: bool = True) -> AsyncIterator[None]:
    """Serves the application on the socket while inside. `dates`: it does not add `Date` itself, as a node does."""
    server = make_server(app, shutdown_seconds=2, dates=dates)
    serving = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def demo_settings(plan: Plan, *, database: str, sandbox_url: str, port: int) -> Settings:
    """The node's settings: http on loopback, polling intervals divided by the speed, and no reserve of the rate limit.

    No other client uses the key, and the plain poller of `--compare` has the whole limit too.
    """
    defaults = PollingSettings()
    polling = PollingSettings(
        min_interval_seconds=defaults.min_interval_seconds / plan.speed,
        max_interval_seconds=defaults.max_interval_seconds / plan.speed,
        connect_accounts_interval_seconds=defaults.connect_accounts_interval_seconds / plan.speed,
        reserve=0.0,
    )
    source = SourceSettings(
        base_url=sandbox_url, accounts={"default": AccountSettings(api_key=API_KEY)}, polling=polling
    )
    return Settings(
        server=ServerSettings(port=port, shutdown_seconds=5.0),
        database=DatabaseSettings(url=database),
        encryption=EncryptionSettings(keys=(new_key(),)),
        sources={source.name: source},
        security=SecuritySettings(allow_http=True, allow_networks=LOOPBACK_NETWORKS),
        dev=True,
    )


@contextlib.asynccontextmanager
async def demo_database(plan: Plan, directory: Path) -> AsyncIterator[str]:
    """The URL of an empty database that is removed at the end.

    It is a file in `directory`, or a new database on the PostgreSQL server of `plan.database`.
    """
    if plan.database is None:
        yield sqlite_url_of(directory / "relay.db")
        return
    if not is_postgres(plan.database):
        raise UsageError("--database is for PostgreSQL: postgresql://user@host/database; without it SQLite is used")
    async with scratch_database(plan.database) as url:
        yield url
