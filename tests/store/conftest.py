"""One suite for every database: a fixture's parameter names the database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from relay.store.database import url_of
from relay.store.store import Store, open_store
from relay.store.subscriptions import Cipher
from tests.store_databases import emptied_postgres
from tests.store_kit import NOW, ReversingCipher

DATABASES = ["sqlite", "postgresql"]


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database: a SQLite file yet to be made, or one of PostgreSQL with the schema."""
    return url_of(tmp_path / "relay.db") if request.param == "sqlite" else emptied_postgres()


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
