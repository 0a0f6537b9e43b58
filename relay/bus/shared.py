"""Shared by the clients of brokers: optional libraries, dialling, order within a batch, and limits on answers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import TypeVar

from relay.bus.guard import CONNECT_SECONDS
from relay.bus.publishers import CannotConnect
from relay.core.deliveries.broker import HELD_BACK, Broker, Message, Published
from relay.core.deliveries.delivery import EXTRA_ERROR
from relay.installation import install_command

FIRST_BYTES = 64 * 1024
"""Allowance for the handshake and for unsolicited frames of the server."""
MIN_BYTES = 16
"""Minimum count per read: many small frames cost time too."""
MESSAGE_BYTES = 4096
"""Allowance for the answer to one message, besides its body."""
MAX_BYTES = 32 * 1024 * 1024
BROKE_OFF = Published(error="read", detail="the connection broke off before an acknowledgement came")

Made = TypeVar("Made")


def needed(module: str, extra: str) -> ModuleType:
    """A module of an extra. Raises CannotConnect if it is not installed."""
    logging.getLogger(module.partition(".")[0]).setLevel(logging.CRITICAL)  # attempts record the errors
    try:
        return import_module(module)
    except ImportError:
        detail = f"this node needs the extra {extra}: {install_command(extra)}"
        raise CannotConnect(EXTRA_ERROR, detail) from None


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


class TooMuch(ConnectionError):
    """The broker sent more bytes than its allowance."""


class Answers:
    """The remaining byte allowance of one connection. The relay only publishes, so a broker answers with
    acknowledgements and unroutable messages. One that sends more would fill the node's memory."""

    def __init__(self) -> None:
        self._left = FIRST_BYTES

    def expect(self, messages: Sequence[Message]) -> None:
        """Adds the allowance for the answers to messages."""
        room = sum(2 * len(message.body) + MESSAGE_BYTES for message in messages)
        self._left = min(self._left + room, MAX_BYTES)

    def count(self, size: int) -> None:
        """Counts bytes that were received, or that a length field announces. Raises TooMuch."""
        self._left -= max(size, MIN_BYTES)
        if self._left < 0:
            raise TooMuch("the broker sends more than the answers to what was published")


async def publish_in_order(
    messages: Sequence[Message],
    results: list[Published | None],
    publish: Callable[[Message], Awaitable[Published]],
) -> None:
    """Publishes messages of one order one after the other, and all others concurrently. Stores each result at the same
    index of `results`. After a failed message, later ones of its order are not sent: a broker may refuse a message and
    take the next. Cancelling it cancels all publishing in progress."""
    chains: dict[int | str, list[int]] = {}
    for index, message in enumerate(messages):
        chains.setdefault(index if message.order is None else message.order, []).append(index)

    async def one_by_one(chain: list[int]) -> None:
        failed = False
        for index in chain:
            result = HELD_BACK if failed else await _one(messages[index], publish)
            results[index] = result
            failed = result.error is not None

    tasks = [asyncio.ensure_future(one_by_one(chain)) for chain in chains.values()]
    try:
        await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _one(message: Message, publish: Callable[[Message], Awaitable[Published]]) -> Published:
    try:
        return await publish(message)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return BROKE_OFF  # the client cancels waits when the connection ends
    except (ValueError, TypeError) as error:  # before it was sent
        return Published(error="render", detail=f"the client cannot write the message ({type(error).__name__})")
    except Exception as error:
        return Published(error="read", detail=f"no acknowledgement ({type(error).__name__})")
