"""One running relay for the tests of a file."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.client_world import open_client_world
from tests.support.relay_world import RelayWorld


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RelayWorld]:
    async with open_client_world(tmp_path_factory.mktemp("relay")) as made:
        yield made
