"""The first address of a sink that takes a connection."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from relay.bus.publishers import CannotConnect
from relay.core.bus import Broker

CONNECT_SECONDS = 5.0
"""Time-out of one address, so that the next one gets its turn."""

Made = TypeVar("Made")


async def first_connected(broker: Broker, connect: Callable[[str, int], Awaitable[Made]]) -> Made:
    """Tries the addresses in their order. Raises CannotConnect at once, and else what the first one raised."""
    failure: Exception | None = None
    for host, port in broker.addresses:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await connect(host, port)
        except CannotConnect:
            raise
        except Exception as error:
            failure = failure or error
    raise failure or CannotConnect("connect", "the sink names no address")
