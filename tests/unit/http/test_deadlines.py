"""Deadlines that share a timer behave like `asyncio.timeout`."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from relay.http.deadlines import Deadlines

SOON, LATE = 0.01, 3600.0


async def held(deadlines: Deadlines, wait: asyncio.Event) -> None:
    with deadlines.begin():
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


async def test_work_done_in_time_is_not_affected() -> None:
    with Deadlines(LATE).begin():
        await asyncio.sleep(0)


async def test_longer_work_raises_timeout() -> None:
    with pytest.raises(TimeoutError):
        await held(Deadlines(SOON), asyncio.Event())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


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


async def test_finished_work_needs_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    timed, deadlines, done = Timed(monkeypatch), Deadlines(10.0), asyncio.Event()
    first = await begun(held(deadlines, done))
    done.set()
    await first
    timed.now = 106.0
    second = await begun(held(deadlines, asyncio.Event()))
    timed.fire(110.0)
    assert [at for at, _ in timed.timers] == [116.0]
    assert not second.done()
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    timed.fire(116.0)
    assert timed.timers == []
    with deadlines.begin():
        assert [at for at, _ in timed.timers] == [126.0]


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
        with Deadlines(10.0).begin():
            try:
                await asyncio.Event().wait()
            finally:
                raise LookupError("of its own")

    task = await begun(erring())
    timed.fire(110.0)
    with pytest.raises(LookupError):
        await task
    assert task.cancelling() == 0


async def test_nested_deadlines_expire_separately() -> None:
    outer = Deadlines(LATE).begin()
    with outer, pytest.raises(TimeoutError):
        await held(Deadlines(SOON), asyncio.Event())


async def test_deadline_outside_a_task_is_an_error() -> None:
    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def enter() -> None:
        try:
            with Deadlines(LATE).begin():
                found.set_result("entered")
        except RuntimeError as error:
            found.set_result(str(error))

    asyncio.get_running_loop().call_soon(enter)
    assert await found == "a deadline needs a running task"
