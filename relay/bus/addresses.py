"""Connects to the first address of a sink that accepts a connection."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from relay.bus.publishers import CannotConnect
from relay.core.deliveries.broker import Broker

CONNECT_SECONDS = 5.0
"""Time-out of one address before the next is tried."""

Made = TypeVar("Made")


async def first_connected(broker: Broker, connect: Callable[[str, int], Awaitable[Made]]) -> Made:
    """Tries the addresses in order. Raises a CannotConnect at once; if all fail, the error of the first address."""
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
