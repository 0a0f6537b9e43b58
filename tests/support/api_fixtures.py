"""Fixtures of the tests of the API and of the dashboard over a real store on SQLite."""

import shutil
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from starlette import routing

from relay.api import app
from relay.store.schema import migrations
from tests.support.api_world import World
from tests.support.compiled import share_compiled_statements
from tests.support.store_databases import open_new

# Thousands of APIs are made here: what is the same for all of them is made once.
routing.compile_path = cache(routing.compile_path)
share_compiled_statements()
_descriptions: list[tuple[tuple[Any, ...], bytes]] = []
_openapi_json = app.openapi_json


def _described(*given: Any) -> bytes:
    found = next((description for before, description in _descriptions if before == given), None)
    if found is None:
        found = _openapi_json(*given)
        _descriptions.append((given, found))
    return found


app.openapi_json = _described


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database file to copy, because a migration takes longer than most of these tests."""
    path = tmp_path_factory.mktemp("empty") / "relay.db"
    migrations.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
async def world(tmp_path: Path, empty_database: Path) -> AsyncIterator[World]:
    """An empty store, and stand-ins for the rest of the relay."""
    file = Path(shutil.copy(empty_database, tmp_path / "relay.db"))
    store = await open_new(file, search_keys=("deal", "deal:stage"))
    yield World(store=store)
    await store.close()
