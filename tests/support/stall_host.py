"""`relay serve` with a probe of its event loop: `GET /_stalls` answers with the longest time that the loop was held.

That is processor time of the whole process between two passes of the loop, so a busy machine does not count.
"""

import asyncio
import sys
import time
from typing import Any

from relay.cli import app
from relay.server import http_server

PASS_SECONDS = 0.001
PATH = "/_stalls"


class Probe:
    """An ASGI application around another."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._worst_seconds = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._inner(scope, receive, send)
            return
        if self._task is None:
            self._task = asyncio.create_task(self._watch())
        worst, self._worst_seconds = self._worst_seconds, 0.0
        body = b"%d" % round(worst * 1000)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    async def _watch(self) -> None:
        while True:
            before = time.process_time()
            await asyncio.sleep(PASS_SECONDS)
            self._worst_seconds = max(self._worst_seconds, time.process_time() - before)


def main() -> None:
    """Runs the command with the arguments of this process."""
    make_server = http_server.make_server

    def probed(inner: Any, **settings: Any) -> Any:
        return make_server(Probe(inner), **settings)

    http_server.make_server = probed
    sys.argv[0] = "relay"
    app()


if __name__ == "__main__":
    main()
