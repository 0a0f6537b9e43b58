"""Notifications within one process: something may have changed, so read the store again.

A signal carries no data and therefore cannot be stale. A watch remembers a signal until the next `wait`.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

ALL_EVENTS = ""
DELIVERIES = "deliveries"


class Watch:
    """One client's subscription to a topic. A signal that arrives while the client is busy is not lost."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def signal(self) -> None:
        """Wakes the client."""
        self._event.set()

    async def wait(self, timeout_seconds: float) -> bool:
        """Returns True if signalled since the last wait, False after the timeout."""
        try:
            async with asyncio.timeout(max(timeout_seconds, 0.0)):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Signals:
    """The topics: one per job, by its uid, one per group, by its id, one for all events, and one for deliveries."""

    def __init__(self) -> None:
        self._watches: dict[str, set[Watch]] = {}

    @contextmanager
    def watch_job(self, uid: str) -> Iterator[Watch]:
        """A watch that is signalled when the job gets an event or is closed."""
        with self._watch(uid) as watch:
            yield watch

    @contextmanager
    def watch_group(self, id: str) -> Iterator[Watch]:
        """A watch that is signalled when the group finishes."""
        with self._watch(id) as watch:
            yield watch

    @contextmanager
    def watch_events(self) -> Iterator[Watch]:
        """A watch that is signalled when any event is recorded."""
        with self._watch(ALL_EVENTS) as watch:
            yield watch

    @contextmanager
    def watch_deliveries(self, watch: Watch) -> Iterator[Watch]:
        """The watch is signalled when deliveries may be due, or a subscription has changed."""
        with self._watch(DELIVERIES, watch):
            yield watch

    def job_changed(self, uid: str) -> None:
        """Signals the watches of a job."""
        self._signal(uid)

    def group_finished(self, id: str) -> None:
        """Signals the watches of a group."""
        self._signal(id)

    def event_recorded(self) -> None:
        """Signals the watches of all events."""
        self._signal(ALL_EVENTS)
        self._signal(DELIVERIES)

    def deliveries_changed(self) -> None:
        """Signals the watches of deliveries."""
        self._signal(DELIVERIES)

    def wake_all(self) -> None:
        """Signals every watch, for example at shutdown, so that waiting requests end."""
        for topic in list(self._watches):
            self._signal(topic)

    @contextmanager
    def _watch(self, topic: str, watch: Watch | None = None) -> Iterator[Watch]:
        watch = watch or Watch()
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
