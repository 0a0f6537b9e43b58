"""Wake-ups inside one process: something may have changed, look into the store.

A signal carries no data, so none can be stale, and a watch that has not been waited on keeps one for later.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

ALL_EVENTS = ""


class Watch:
    """One client's view of the signals of a topic; none that comes while it works is lost."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def signal(self) -> None:
        """Wakes it."""
        self._event.set()

    async def wait(self, timeout_seconds: float) -> bool:
        """True on a signal since the last wait, False after the time."""
        try:
            async with asyncio.timeout(max(timeout_seconds, 0.0)):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Signals:
    """The topics: each job by its uid, and all events together."""

    def __init__(self) -> None:
        self._watches: dict[str, set[Watch]] = {}

    @contextmanager
    def watch_job(self, uid: str) -> Iterator[Watch]:
        """Wakes when the job got an event or was closed."""
        with self._watch(uid) as watch:
            yield watch

    @contextmanager
    def watch_events(self) -> Iterator[Watch]:
        """Wakes when any event was recorded."""
        with self._watch(ALL_EVENTS) as watch:
            yield watch

    def job_changed(self, uid: str) -> None:
        """A job was written."""
        self._signal(uid)

    def event_recorded(self) -> None:
        """An event was written."""
        self._signal(ALL_EVENTS)

    def wake_all(self) -> None:
        """For the node's shutdown: whoever waits looks again and ends."""
        for topic in list(self._watches):
            self._signal(topic)

    @contextmanager
    def _watch(self, topic: str) -> Iterator[Watch]:
        watch = Watch()
        self._watches.setdefault(topic, set()).add(watch)
        try:
            yield watch
        finally:
            watches = self._watches[topic]
            watches.discard(watch)
            if not watches:
                del self._watches[topic]

    def _signal(self, topic: str) -> None:
        for watch in self._watches.get(topic, ()):
            watch.signal()
