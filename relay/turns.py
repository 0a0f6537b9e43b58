"""Turns: work that computes for long lets others go on meanwhile."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

TURN_SECONDS = 0.01
"""How long something computes until others have their turn."""

Value = TypeVar("Value")


class Turns:
    """Lets others have their turn while this one computes for long."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + TURN_SECONDS

    @property
    def over(self) -> bool:
        """Whether the others are due. Look after each step."""
        return time.perf_counter() >= self._until

    async def next(self) -> None:
        """Returns after the others' turn."""
        await asyncio.sleep(0)
        self._until = time.perf_counter() + TURN_SECONDS


class SharedTurns:
    """The same for many that compute at once, such as the filters of streams: each is short, but all of them together
    would hold up the others. One step is made at a time."""

    def __init__(self) -> None:
        self._turns = Turns()
        self._step = asyncio.Lock()

    async def step(self, compute: Callable[[], Value]) -> Value:
        """What `compute` returns, after the steps of those who came before."""
        async with self._step:
            try:
                return compute()
            finally:
                if self._turns.over:
                    await self._turns.next()
