"""Limits on concurrent work of one kind, in all and for each owner, so that one owner cannot take it all."""

import asyncio
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from relay.errors import TooMany

LONG_SECONDS = 0.001
PAUSE_FACTOR = 2
"""Pause after a step longer than LONG_SECONDS, as a multiple of the step."""
MAX_PAUSE_SECONDS = 0.05

NO_LIMIT = sys.maxsize

Value = TypeVar("Value")


class Limiter:
    """Limits one kind of work. Where `turn` or `step` must wait, owners enter in rotation.

    limit             maximum amount in all, waiting work included
    limit_of_owner    maximum amount of one owner
    at_once           maximum number of turns and steps at the same time; the others wait
    at_once_of_owner  the same for one owner
    steps_seconds     steps follow each other for this time before other tasks run; 0: other tasks run after each
    """

    def __init__(
        self,
        what: str = "steps",
        limit: int = NO_LIMIT,
        limit_of_owner: int = NO_LIMIT,
        *,
        at_once: int = NO_LIMIT,
        at_once_of_owner: int = NO_LIMIT,
        steps_seconds: float = 0.0,
        code: str = TooMany.code,
    ) -> None:
        """`what`: the plural of what is limited. `code`: of the problem."""
        self.limit = limit
        self.limit_of_owner = limit_of_owner
        self.taken = 0
        self._what = what
        self._at_once = at_once
        self._at_once_of_owner = at_once_of_owner
        self._steps_seconds = steps_seconds
        self._code = code
        self._of_owner: Counter[str | None] = Counter()
        self._entered: Counter[str | None] = Counter()
        self._waiting: dict[str | None, deque[asyncio.Future[None]]] = {}
        """Waiting turns by owner, in rotation."""
        self._pause_at = 0.0

    # --- amounts

    def reached(self, owner: str | None, amount: int = 1) -> int | None:
        """The limit that `amount` more would exceed, None if it is free."""
        if self._of_owner[owner] + amount > self.limit_of_owner:
            return self.limit_of_owner
        return self.limit if self.taken + amount > self.limit else None

    def take(self, owner: str | None, amount: int = 1) -> None:
        """Adds to what the owner holds. Raises TooMany if that exceeds a limit."""
        limit = self.reached(owner, amount)
        if limit is not None:
            whose = " of this token" if limit == self.limit_of_owner else ""
            detail = f"{limit:,} {self._what}{whose} are in progress already: end some, or try again later"
            raise TooMany(detail, code=self._code, headers={"Retry-After": "5"})
        self.taken += amount
        self._of_owner[owner] += amount

    def release(self, owner: str | None, amount: int = 1) -> None:
        """Gives an amount back."""
        self.taken -= amount
        _subtract(self._of_owner, owner, amount)

    @contextmanager
    def held(self, owner: str | None) -> Iterator[None]:
        """Holds one while inside. Raises TooMany as `take`."""
        self.take(owner)
        try:
            yield
        finally:
            self.release(owner)

    # --- turns

    @asynccontextmanager
    async def turn(self, owner: str | None) -> AsyncIterator[None]:
        """Waits for the owner's turn, and holds one meanwhile and while inside. Raises TooMany as `take`."""
        with self.held(owner):
            await self._enter(owner)
            try:
                yield
            finally:
                self._leave(owner)

    async def step(self, owner: str | None, compute: Callable[[], Value]) -> Value:
        """The result of a computation of at most some milliseconds, in the owner's turn. Other tasks run between two
        steps; after a long one for PAUSE_FACTOR times its duration, at most MAX_PAUSE_SECONDS."""
        await self._enter(owner)
        began = time.perf_counter()
        try:
            return compute()
        finally:
            ended = time.perf_counter()
            took = ended - began
            if took <= LONG_SECONDS and ended < self._pause_at:
                self._leave(owner)
            else:
                pause = min(PAUSE_FACTOR * took, MAX_PAUSE_SECONDS) if took > LONG_SECONDS else 0.0
                asyncio.get_running_loop().call_later(pause, self._go_on, owner)

    def _go_on(self, owner: str | None) -> None:
        self._pause_at = time.perf_counter() + self._steps_seconds
        self._leave(owner)

    async def _enter(self, owner: str | None) -> None:
        if self._is_open() and self._is_open_to(owner):
            self._entered[owner] += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it has entered
                self._leave(owner)
            raise

    def _is_open(self) -> bool:
        return self._entered.total() < self._at_once

    def _is_open_to(self, owner: str | None) -> bool:
        return self._entered[owner] < self._at_once_of_owner

    def _leave(self, owner: str | None) -> None:
        _subtract(self._entered, owner, 1)
        for waiting in list(self._waiting):
            if not self._is_open():
                return
            while self._is_open_to(waiting) and (queue := self._waiting.pop(waiting, None)):
                turn = queue.popleft()
                if queue:
                    self._waiting[waiting] = queue  # behind the others
                if not turn.done():
                    self._entered[waiting] += 1
                    turn.set_result(None)
                    break


def _subtract(counts: Counter[str | None], owner: str | None, amount: int) -> None:
    counts[owner] -= amount
    if not counts[owner]:
        del counts[owner]
