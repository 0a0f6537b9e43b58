"""Notifications within one process: something may have changed, so read the store again.

A signal carries no data and therefore cannot be stale. A watch remembers a signal until the next `wait`.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

ALL_EVENTS = ""
"""Topic: an event was recorded."""
DELIVERIES = "deliveries"
"""Topic of programs that pull: deliveries may be due, or a subscription has changed."""


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
    """The topics: one per job, by its uid, signalled when it gets an event or is closed; one per group, by its id,
    signalled when it finishes; ALL_EVENTS and DELIVERIES."""

    def __init__(self) -> None:
        self.due = asyncio.Event()
        """Set to make the dispatcher scan at once."""
        self._watches: dict[str, set[Watch]] = {}

    @contextmanager
    def watch(self, topic: str, watch: Watch | None = None) -> Iterator[Watch]:
        """A watch that is signalled with the topic."""
        watch = watch or Watch()
        self._watches.setdefault(topic, set()).add(watch)
        try:
            yield watch
        finally:
            watches = self._watches[topic]
            watches.discard(watch)
            if not watches:
                del self._watches[topic]

    def signal(self, topic: str) -> None:
        """Signals the watches of a topic."""
        for watch in self._watches.get(topic, ()):
            watch.signal()

    def event_recorded(self) -> None:
        """Signals the watches of all events, and programs that pull."""
        self.signal(ALL_EVENTS)
        self.signal(DELIVERIES)

    def deliveries_due(self) -> None:
        """Makes the dispatcher scan and signals programs that pull: a delivery became due, or a subscription has
        changed."""
        self.due.set()
        self.signal(DELIVERIES)

    def wake_all(self) -> None:
        """Signals every watch, for example at shutdown, so that waiting requests end."""
        for topic in list(self._watches):
            self.signal(topic)
