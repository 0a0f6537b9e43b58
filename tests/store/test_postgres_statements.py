"""The server accepts every statement of the store. `make verify` runs this on the oldest supported version too."""

import asyncpg
import pytest

from tests.support.named_statements import named_statements
from tests.support.postgres_server import CHOSEN_VERSION
from tests.support.store_databases import postgres_url


@pytest.fixture(scope="module")
def url() -> str:
    return postgres_url()


async def test_server_accepts_every_named_statement(url: str) -> None:
    connection = await asyncpg.connect(url)
    refused = {}
    for name, statement in named_statements().items():
        try:
            await connection.prepare(statement)
        except asyncpg.PostgresError as error:
            refused[name] = str(error)
    version = connection.get_server_version().major
    await connection.close()
    assert refused == {}
    assert str(version).startswith(CHOSEN_VERSION)
