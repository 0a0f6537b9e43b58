"""One suite for every database: a fixture's parameter names the database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import lru_cache
from itertools import count
from pathlib import Path

import pytest

from relay.store import migrations
from relay.store.database import url_of
from relay.store.store import Store, open_store
from relay.store.subscriptions import Cipher
from tests.postgres_server import shared_server
from tests.store_kit import NOW, ReversingCipher

DATABASES = ["sqlite", "postgresql"]
TEMPLATE = "relay_template"
_numbers = count(1)


@lru_cache(maxsize=1)
def postgres_template() -> str:
    """The name of a database with the schema, made once a process."""
    server = shared_server()
    server.create_database(TEMPLATE)
    migrations.upgrade(server.url(TEMPLATE))
    return TEMPLATE


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database: a SQLite file yet to be made, or one of PostgreSQL with the schema."""
    if request.param == "sqlite":
        yield url_of(tmp_path / "relay.db")
        return
    server, name = shared_server(), f"test_{next(_numbers)}"
    server.clone(postgres_template(), name)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
async def open_again(database_url: str) -> AsyncIterator[Callable[..., Awaitable[Store]]]:
    """Opens the test's database; every store is closed at the end."""
    opened: list[Store] = []

    async def open_one(cipher: Cipher | None = None, now: float = NOW) -> Store:
        store = await open_store(database_url, cipher or ReversingCipher(), now=now)
        opened.append(store)
        return store

    yield open_one
    await asyncio.gather(*(store.close() for store in opened))


@pytest.fixture
async def store(open_again: Callable[..., Awaitable[Store]]) -> Store:
    """A fresh store."""
    return await open_again()
