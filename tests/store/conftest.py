"""One suite for every database: a fixture's parameter names the database."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import pytest

from relay.store.databases.database import Cipher
from relay.store.databases.sqlite import url_of
from relay.store.schema import migrations
from relay.store.store import Store, open_store
from tests.support.compiled import share_compiled_statements
from tests.support.lock_order import watched_order
from tests.support.store_databases import emptied_postgres, open_new
from tests.support.store_kit import NOW, ReversingCipher

DATABASES = ["sqlite", "postgresql"]

share_compiled_statements()


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the schema, to copy: making one takes longer than most tests."""
    path = tmp_path_factory.mktemp("empty") / "relay.db"
    migrations.upgrade(url_of(path))
    return path


@pytest.fixture(autouse=True)
def _locks_in_order() -> Iterator[None]:
    """No transaction takes a lock late, or changes a subscription without its lock."""
    with watched_order() as wrong:
        yield
    assert wrong == []


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path, empty_file: Path) -> str:
    """A database with the schema and nothing else."""
    if request.param != "sqlite":
        return emptied_postgres()
    return url_of(Path(shutil.copy(empty_file, tmp_path / "relay.db")))


@pytest.fixture
async def open_again(database_url: str, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Store]]]:
    """Opens the test's database; every store is closed at the end."""
    opened: list[Store] = []
    path = tmp_path / "relay.db"
    has_schema = database_url == url_of(path) and path.exists()

    async def open_one(cipher: Cipher | None = None, now: float = NOW, search_keys: Sequence[str] = ()) -> Store:
        if has_schema and not opened:
            store = await open_new(path, cipher, search_keys)
        else:
            # It was just made with the schema: looking again takes a connection and 15 ms.
            with patch.object(migrations, "check"):
                chosen = cipher or ReversingCipher()
                store = await open_store(database_url, chosen, now=now, search_keys=search_keys)
        opened.append(store)
        return store

    yield open_one
    await asyncio.gather(*(store.close() for store in opened))


@pytest.fixture
async def store(open_again: Callable[..., Awaitable[Store]]) -> Store:
    """A fresh store."""
    return await open_again()
