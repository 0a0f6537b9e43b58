"""The API over a real store, called from loopback. Every response is validated against the OpenAPI description."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from relay.api.app import create_api
from relay.core.events.event import Origin
from tests.support.api_conformity import check_answer
from tests.support.api_fixtures import empty_database, world
from tests.support.api_world import SETTINGS, World

__all__ = ["empty_database", "world"]

Client = httpx2.AsyncClient


@pytest.fixture
async def open_client(world: World) -> AsyncIterator[Callable[..., Client]]:
    """Creates clients, with other settings or from other addresses."""
    clients: list[Client] = []

    def make(*, peer: str = "127.0.0.1", base_url: str = "http://127.0.0.1:8080", **settings: Any) -> Client:
        api = create_api(world.dependencies(**settings), world.proxy)
        transport = httpx2.ASGITransport(app=api, client=(peer, 5000), raise_app_exceptions=False)
        hooks = {"response": [check_answer]}
        clients.append(Client(transport=transport, base_url=base_url, event_hooks=hooks))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


WEBSET = Origin(source="https://x/sets", type_prefix="ai.revor.webset", dataschema="https://x/job-status.v1.json")


@pytest.fixture
def several(open_client: Callable[..., Client]) -> Client:
    """A client of a relay whose source has two resources."""
    origins = {**SETTINGS.origins, ("revor", "websets"): WEBSET}
    return open_client(resources={"revor": ("jobs", "websets")}, origins=origins)


@pytest.fixture
def client(open_client: Callable[..., Client]) -> Client:
    """A client on loopback of a relay with --dev, which needs no token."""
    return open_client()
