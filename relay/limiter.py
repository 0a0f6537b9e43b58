"""Limits on work of one kind, in all and for each owner, so that one owner cannot take it all."""

import asyncio
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import Any, TypeVar

from relay.errors import TooMany

LONG_SECONDS = 0.001
PAUSE_FACTOR = 2
"""Pause after a step longer than LONG_SECONDS, as a multiple of the step."""
MAX_PAUSE_SECONDS = 0.05

NO_LIMIT = sys.maxsize

Value = TypeVar("Value")


class Limiter:
    """Limits one kind of work. Where `turn` must wait, owners enter in rotation.

    limit             maximum amount in all, waiting work included
    limit_of_owner    maximum amount of one owner
    at_once           maximum number of turns at the same time; the others wait
    at_once_of_owner  the same for one owner
    """

    def __init__(
        self,
        what: str,
        limit: int = NO_LIMIT,
        limit_of_owner: int = NO_LIMIT,
        *,
        at_once: int = NO_LIMIT,
        at_once_of_owner: int = NO_LIMIT,
        code: str = TooMany.code,
    ) -> None:
        """`what`: the plural of what is limited. `code`: of the problem."""
        self.limit = limit
        self.limit_of_owner = limit_of_owner
        self.taken = 0
        self._what = what
        self._at_once = at_once
        self._at_once_of_owner = at_once_of_owner
        self._code = code
        self._of_owner: Counter[str | None] = Counter()
        self._entered: Counter[str | None] = Counter()
        self._waiting: dict[str | None, deque[asyncio.Future[None]]] = {}
        """Waiting turns by owner, in rotation."""

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


class Computations:
    """Runs computations of at most some milliseconds, one at a time, those of owners in rotation.

    seconds  they follow each other for this time, then other tasks run; 0: other tasks run after each
    in_turn  within this time, too, a computation waits for its owner's turn; otherwise the only owner's is computed at
             once, so that one caller with many does not wait for each
    """

    def __init__(self, seconds: float, *, in_turn: bool = False) -> None:
        self._seconds = seconds
        self._in_turn = in_turn
        self._waiting: dict[str | None, deque[tuple[asyncio.Future[Any], Callable[[], Any]]]] = {}
        """Waiting computations by owner, in rotation."""
        self._goes_on = False
        """True from a computation until other tasks have run, and while any waits."""
        self._until = 0.0
        """Until then computations follow each other; 0 after a long one."""
        self._pause_seconds = 0.0

    async def step(self, owner: str | None, compute: Callable[[], Value]) -> Value:
        """The result of a computation, at once or in its owner's turn. After one longer than LONG_SECONDS, other tasks
        run for PAUSE_FACTOR times its duration, at most MAX_PAUSE_SECONDS."""
        now = time.perf_counter()
        if self._goes_on and (self._in_turn or self._waiting or now >= self._until):
            result: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(owner, deque()).append((result, compute))
            return await result
        if self._goes_on:
            return self._timed(compute)
        self._goes_on, self._until = True, now + self._seconds
        try:
            return self._timed(compute)
        finally:
            self._go_on_later()

    def _timed(self, compute: Callable[[], Value]) -> Value:
        began = time.perf_counter()
        try:
            return compute()
        finally:
            took = time.perf_counter() - began
            if took > LONG_SECONDS:
                self._until, self._pause_seconds = 0.0, min(PAUSE_FACTOR * took, MAX_PAUSE_SECONDS)

    def _go_on_later(self) -> None:
        pause, self._pause_seconds = self._pause_seconds, 0.0
        asyncio.get_running_loop().call_later(pause, self._go_on)

    def _go_on(self) -> None:
        """Other tasks have run."""
        self._goes_on = self._pause_seconds > 0 or bool(self._waiting)
        if not self._goes_on:
            return
        try:
            if not self._pause_seconds:
                owners = 1 if self._in_turn else len(self._waiting)
                self._until = time.perf_counter() + self._seconds
                for place in count(1):
                    self._compute_waiting()
                    if not self._waiting or time.perf_counter() >= self._until or 1 < owners == place:
                        break
                if owners > 1:  # the next ones wait too, or who wakes first would take the rest of the time
                    self._until = 0.0
        finally:
            self._go_on_later()

    def _compute_waiting(self) -> None:
        """Computes what waits for the next owner."""
        owner = next(iter(self._waiting))
        queue = self._waiting.pop(owner)
        result, compute = queue.popleft()
        if queue:
            self._waiting[owner] = queue  # behind the others
        if result.done():  # its caller was cancelled
            return
        try:
            result.set_result(self._timed(compute))
        except StopIteration as error:  # which no future takes
            result.set_exception(RuntimeError(repr(error)))
        except Exception as error:
            result.set_exception(error)


def _subtract(counts: Counter[str | None], owner: str | None, amount: int) -> None:
    counts[owner] -= amount
    if not counts[owner]:
        del counts[owner]
