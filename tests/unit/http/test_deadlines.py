"""Deadlines that share a timer behave like `asyncio.timeout`."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from relay.http.exchange import Deadline, Deadlines

SOON, LATE = 0.01, 3600.0


async def held(deadlines: Deadlines, wait: asyncio.Event) -> None:
    with Deadline(deadlines):
        await wait.wait()


async def begun(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    return task


class Timed:
    """The event loop's clock, set by the test, and the timers requested."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: self.now)
        monkeypatch.setattr(loop, "call_at", self.call_at)

    def call_at(self, at: float, call: Callable[[], None]) -> object:
        self.timers.append((at, call))
        return object()

    def fire(self, at: float) -> None:
        """Fires the only timer at this time."""
        self.now = at
        ((_, call),) = self.timers
        self.timers.clear()
        call()


async def test_deadlines_of_one_length_share_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    timed, deadlines, never = Timed(monkeypatch), Deadlines(10.0), asyncio.Event()
    first = await begun(held(deadlines, never))
    timed.now = 103.0
    second = await begun(held(deadlines, never))
    timed.now = 104.0
    third = await begun(held(deadlines, never))
    assert [at for at, _ in timed.timers] == [110.0]
    timed.fire(110.0)
    assert [at for at, _ in timed.timers] == [113.0]
    assert await asyncio.gather(first, return_exceptions=True) == [first.exception()]
    assert isinstance(first.exception(), TimeoutError)
    assert not second.done()
    timed.fire(114.5)
    assert timed.timers == []
    for late in await asyncio.gather(second, third, return_exceptions=True):
        assert isinstance(late, TimeoutError)


async def test_outside_cancellation_stays_a_cancellation() -> None:
    task = await begun(held(Deadlines(LATE), asyncio.Event()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancellation_together_with_a_timeout_is_a_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch)
    task = await begun(held(Deadlines(10.0), asyncio.Event()))
    task.cancel()
    timed.fire(110.0)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_error_together_with_a_timeout_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch)

    async def erring() -> None:
        with Deadline(Deadlines(10.0)):
            try:
                await asyncio.Event().wait()
            finally:
                raise LookupError("of its own")

    task = await begun(erring())
    timed.fire(110.0)
    with pytest.raises(LookupError):
        await task
    assert task.cancelling() == 0
