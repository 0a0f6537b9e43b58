"""The dashboard in this process: a browser without JavaScript, over the real API and a store on SQLite."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.support.api_fixtures import empty_database, world
from tests.support.api_world import World
from tests.support.web_world import Browser, open_browser

__all__ = ["empty_database", "world"]


@pytest.fixture
async def open_as(world: World) -> AsyncIterator[Callable[..., Awaitable[Browser]]]:
    """Opens browsers: `await open_as(token="rl_read")`, `await open_as(scopes=["read"], account=("revor", "emea"))`,
    or with other settings. See `open_browser`."""
    browsers: list[Browser] = []

    async def make(**given: Any) -> Browser:
        browsers.append(await open_browser(world, **given))
        return browsers[-1]

    yield make
    for browser in browsers:
        await browser.client.aclose()


@pytest.fixture
async def browser(open_as: Callable[..., Awaitable[Browser]]) -> Browser:
    """A browser on loopback of a relay with --dev: admin, without a sign-in."""
    return await open_as()
