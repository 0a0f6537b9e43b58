"""Publishes messages of one order one after the other, and all others concurrently.

A broker may refuse a message and take the next: its queue was full for a moment, or only the first one's subject has no
stream. If both were in flight, consumers would see the second one first.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from relay.core.deliveries.broker import HELD_BACK, Message, Published

BROKE_OFF = Published(error="read", detail="the connection broke off before an acknowledgement came")


async def publish_in_order(
    messages: Sequence[Message],
    results: list[Published | None],
    publish: Callable[[Message], Awaitable[Published]],
) -> None:
    """Publishes each message and stores its result at the same index of `results`. After a failed message, later ones
    of its order are not sent. Cancelling it cancels all publishing in progress."""
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
