"""Turns: long computations yield to other tasks of the event loop."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

TURN_SECONDS = 0.01
"""Maximum computing time before a yield."""
LONG_SECONDS = 0.001
PAUSE_FACTOR = 2
"""Pause after a step longer than LONG_SECONDS, as a multiple of the step."""
MAX_PAUSE_SECONDS = 0.05

Value = TypeVar("Value")


class Turns:
    """Lets one long computation yield to other tasks."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + TURN_SECONDS

    @property
    def over(self) -> bool:
        """True once it is time to yield. Check it after each step."""
        return time.perf_counter() >= self._until

    async def next(self) -> None:
        """Yields to other tasks, then starts a new turn."""
        await asyncio.sleep(0)
        self._until = time.perf_counter() + TURN_SECONDS


class SharedTurns:
    """Turns for many concurrent computations, such as the filters of streams: each is short, but together they would
    block other tasks. Runs one step at a time."""

    def __init__(self) -> None:
        self._turns = Turns()
        self._step = asyncio.Lock()

    async def step(self, compute: Callable[[], Value]) -> Value:
        """The result of `compute`, after earlier steps."""
        async with self._step:
            try:
                return compute()
            finally:
                if self._turns.over:
                    await self._turns.next()


class OwnerTurns:
    """Turns for steps of many owners, each of some milliseconds: one step at a time, owners in rotation. Other tasks
    run between two steps; after a long one, for PAUSE_FACTOR times its duration, at most MAX_PAUSE_SECONDS."""

    def __init__(self) -> None:
        self._waiting: dict[str | None, deque[asyncio.Future[None]]] = {}
        """Waiting steps by owner, in the order of turns."""
        self._taken = False

    async def step(self, owner: str | None, compute: Callable[[], Value]) -> Value:
        """The result of `compute`, run in the owner's turn."""
        loop = asyncio.get_running_loop()
        if self._taken:
            turn = loop.create_future()
            self._waiting.setdefault(owner, deque()).append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():  # it already had the turn
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
