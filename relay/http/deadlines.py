"""Time-outs of which thousands begin in a second and hardly one passes, with one timer for all of the same length.

`asyncio.timeout` sets a timer for each, which costs 5 us: a twentieth of a delivery (docs/design/performance.md).
"""

import asyncio
import itertools
from types import TracebackType
from typing import Self

LEAST_SECONDS = 0.001
"""Between two looks at what has passed: uvloop counts in milliseconds, and would call for less at once."""


class Deadlines:
    """The time-outs of one length. For the loop in which the first of them begins."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._open: dict[Deadline, None] = {}
        """Those that have not passed, the next one first."""
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> "Deadline":
        """A context manager, for the running task: see `Deadline`."""
        return Deadline(self)

    def enter(self, deadline: "Deadline") -> float:
        """One more. Returns when it passes, in the loop's time."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._seconds
        self._open[deadline] = None
        if self._timer is None:
            self._timer = loop.call_at(ends_at, self._pass)
        return ends_at

    def leave(self, deadline: "Deadline") -> None:
        """One less, if it has not passed."""
        self._open.pop(deadline, None)

    def _pass(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        passed = list(itertools.takewhile(lambda deadline: deadline.ends_at <= now, self._open))
        for deadline in passed:
            del self._open[deadline]
        following = next(iter(self._open), None)
        self._timer = None
        if following is not None:
            self._timer = loop.call_at(max(following.ends_at, now + LEAST_SECONDS), self._pass)
        for deadline in passed:
            deadline.cancel()


class Deadline:
    """Whoever is inside for longer is cancelled, and leaves with TimeoutError, as of `asyncio.timeout`.

    A task that somebody else cancels as well leaves with CancelledError; another error stays what it is.
    """

    __slots__ = ("_all", "_cancelling", "_passed", "_task", "ends_at")

    def __init__(self, deadlines: Deadlines) -> None:
        self._all = deadlines
        self._passed = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline is for a task, and there is none")
        self._task = task
        self._cancelling = task.cancelling()
        self.ends_at = self._all.enter(self)
        return self

    def cancel(self) -> None:
        """It has passed."""
        self._passed = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._passed:
            self._all.leave(self)
        elif self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
