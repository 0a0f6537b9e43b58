"""A broker in memory, for the worker's tests."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from relay.clock import Clock
from relay.core.deliveries.broker import Broker, Message, Published, unsent_behind
from relay.core.deliveries.delivery import Response

STORED, LOST = "", "lost"


class FakeBroker:
    """Stores messages in the order of their keys.

    answer  what comes of a message: STORED, LOST (stored, but no acknowledgement comes) or an error: then it is not
            stored, and neither are those behind it
    silent  it never answers
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.batches: list[list[str]] = []
        self.stored: list[Message] = []
        self.answer: Callable[[Message], str] = lambda message: STORED
        self.silent = False
        self.waiting = 0
        self.asked = asyncio.Event()

    async def publish(self, broker: Broker, messages: Sequence[Message], seconds: float) -> Sequence[Response]:
        """Like `Publishers.publish`."""
        self.batches.append([message.id for message in messages])
        if self.silent:
            self.waiting += 1
            self.asked.set()
            await asyncio.Event().wait()
        results: list[Published | None] = []
        failed: set[str] = set()
        for message in messages:
            if message.order is not None and message.order in failed:
                results.append(Published())
                continue
            said = self.answer(message)
            if said in (STORED, LOST):
                self.stored.append(message)
                where = Published(detail=f"stream JOBS, sequence {len(self.stored)}")
                results.append(where if said == STORED else None)
            else:
                results.append(Published(error=said, detail=f"the broker said {said}"))
                if message.order is not None:
                    failed.add(message.order)
        return [
            Response(started_at=self.clock(), duration_ms=1.0, error=one.error, detail=one.detail, remote_ip="10.0.0.9")
            for one in unsent_behind(messages, results)
        ]

    @property
    def ids(self) -> list[str]:
        """The ids of what is stored, without repetitions."""
        return [*dict.fromkeys(message.id for message in self.stored)]

    @property
    def repeated(self) -> int:
        """How many messages are stored more than once."""
        return sum(count > 1 for count in Counter(message.id for message in self.stored).values())
