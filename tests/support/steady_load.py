"""Requests at a steady rate, as a reverse proxy sends them: some on new connections, most on a pool of kept ones.

Nothing is sent twice. A connection that was refused or reset, or that ended before its answer, is a failure.
"""

import asyncio
import contextlib
import re
import select
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.support.wire import Answer, body_parts, read_head

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
NEW_EACH = 4
"""Every so many requests use a new connection."""
MOST_WAITING = 1_000
"""Requests without an answer. A machine that is busy with other tests may take so long for a restart that more would
fill the socket's queue of 2,048."""
PATIENCE_SECONDS = 120.0


@dataclass
class SteadyLoad:
    """Sends `request_of(number)` at `rate` a second until `stop`. Answers are given to `answered`."""

    url: str
    rate: float
    request_of: Callable[[int], bytes]
    answered: Callable[[int, Answer], None]
    trust: ssl.SSLContext | None = None
    """For TLS, with `name`, the host name of the certificate."""
    name: str | None = None
    most_waiting: int = MOST_WAITING
    sent: int = 0
    failures: list[str] = field(default_factory=list)
    longest_seconds: float = 0.0
    _ended: int = 0
    _pool: list[Connection] = field(default_factory=list)
    _stopping: bool = False

    async def run(self) -> None:
        """Returns after `stop`, when everything sent is answered."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            due_at = loop.time()
            while not self._stopping:
                while due_at <= loop.time() and self.sent - self._ended < self.most_waiting:
                    group.create_task(self._send(self.sent))
                    self.sent += 1
                    due_at += 1 / self.rate
                due_at = max(due_at, loop.time() - 1)  # what could not be sent in time is not made up for
                await asyncio.sleep(1 / self.rate)
        for _, writer in self._pool:
            writer.close()

    def stop(self) -> None:
        self._stopping = True

    async def caught_up(self) -> None:
        """Returns once what waited for a restart is answered."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.sent - self._ended > max(self.rate / 4, 20):  # noqa: ASYNC110 (the tasks signal nothing)
                await asyncio.sleep(0.05)

    @property
    def summary(self) -> Counter[str]:
        """How many requests failed in which way."""
        return Counter(re.sub(r"^\d+ |after [\d.]+ s: ", "", failure) for failure in self.failures)

    async def _send(self, number: int) -> None:
        began_at = time.monotonic()
        where = "connecting"
        connection: Connection | None = None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                connection = None if number % NEW_EACH == 0 else self._pooled()
                kept = connection is not None
                connection = connection or await self._connected()
                reader, writer = connection
                where = f"on a {'kept' if kept else 'new'} connection"
                writer.write(self.request_of(number))
                head = await read_head(reader)
                body = b"".join([part async for part in body_parts(reader, head)])
            self.answered(number, Answer(line=head.line, headers=head.headers, body=body, complete=True))
            if head.one("connection") != b"close":
                self._pool.append(connection)
                connection = None
        except (OSError, EOFError, TimeoutError) as error:
            self.failures.append(f"{number} {where}, after {time.monotonic() - began_at:.3f} s: {error!r}")
        finally:
            self._ended += 1
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - began_at)
            if connection is not None:
                connection[1].close()
                with contextlib.suppress(OSError):
                    await connection[1].wait_closed()

    def _pooled(self) -> Connection | None:
        """The kept connection used last that the server has not closed."""
        while self._pool:
            reader, writer = self._pool.pop()
            # As careful clients do: a connection on which something waits to be read was closed by the server.
            connection = writer.get_extra_info("socket")
            if connection is not None and not (
                _has_input(connection.fileno()) or reader.at_eof() or reader.exception()
            ):
                return reader, writer
            writer.close()
        return None

    async def _connected(self) -> Connection:
        address = urlsplit(self.url)
        return await asyncio.open_connection(address.hostname, address.port, ssl=self.trust, server_hostname=self.name)


def _has_input(descriptor: int) -> bool:
    waits = select.poll()
    waits.register(descriptor, select.POLLIN)
    return bool(waits.poll(0))
