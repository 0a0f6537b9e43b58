"""Turns: work that computes for long lets others go on meanwhile."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

TURN_SECONDS = 0.01
"""How long something computes until others have their turn."""
LONG_SECONDS = 0.001
PAUSE_FACTOR = 2
"""A step longer than LONG_SECONDS is followed by a pause so many times as long."""
MAX_PAUSE_SECONDS = 0.05

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


class OwnerTurns:
    """Steps of many owners, each of which may take some milliseconds: one at a time, the owners in turn. Between two
    steps everything else goes on, and twice the time that a long one took."""

    def __init__(self) -> None:
        self._waiting: dict[str | None, deque[asyncio.Future[None]]] = {}
        """By owner, in the order of their turns."""
        self._taken = False

    async def step(self, owner: str | None, compute: Callable[[], Value]) -> Value:
        """What `compute` returns, in the owner's turn."""
        loop = asyncio.get_running_loop()
        if self._taken:
            turn = loop.create_future()
            self._waiting.setdefault(owner, deque()).append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():  # it was given the turn
                    self._pass_on()
                raise
        self._taken = True
        began = time.perf_counter()
        try:
            return compute()
        finally:
            took = time.perf_counter() - began
            loop.call_later(min(PAUSE_FACTOR * took, MAX_PAUSE_SECONDS) if took > LONG_SECONDS else 0.0, self._pass_on)

    def _pass_on(self) -> None:
        while self._waiting:
            owner = next(iter(self._waiting))
            queue = self._waiting.pop(owner)
            turn = queue.popleft()
            if queue:
                self._waiting[owner] = queue  # behind the others
            if not turn.done():
                turn.set_result(None)
                return
        self._taken = False
