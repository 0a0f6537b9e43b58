"""The Python client beside a running relay: both of its classes as one, and transports that lose requests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from revor_relay_client import AsyncRelay, Relay
from tests.support.process_world import API_TOKEN
from tests.support.relay_world import RelayWorld, open_relay_world

FLAVOURS = ("sync", "async")


@dataclass
class Losing:
    """Loses requests that `when` selects. `what`: the `request`, before the relay gets it, or its `answer`."""

    when: Callable[[httpx.Request], bool]
    what: str = "answer"
    times: int = 1
    seen: list[httpx.Request] = field(default_factory=list)

    def loses(self, request: httpx.Request) -> bool:
        if not self.when(request):
            return False
        self.seen.append(request)
        return len(self.seen) <= self.times

    def transport(self, flavour: str) -> Any:
        losing = self

        class Sync(httpx.HTTPTransport):
            def handle_request(self, request: httpx.Request) -> httpx.Response:
                lost = losing.loses(request)
                if lost and losing.what == "request":
                    raise httpx.ConnectError("lost", request=request)
                response = super().handle_request(request)
                if lost:
                    response.read()
                    raise httpx.ReadError("lost", request=request)
                return response

        class Async(httpx.AsyncHTTPTransport):
            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                lost = losing.loses(request)
                if lost and losing.what == "request":
                    raise httpx.ConnectError("lost", request=request)
                response = await super().handle_async_request(request)
                if lost:
                    await response.aread()
                    raise httpx.ReadError("lost", request=request)
                return response

        return Sync() if flavour == "sync" else Async()


class Caller:
    """`Relay` in a thread, or `AsyncRelay`: a test is the same for both."""

    def __init__(self, flavour: str, url: str, token: str = API_TOKEN, **options: Any) -> None:
        self.flavour = flavour
        self.relay: Any = (Relay if flavour == "sync" else AsyncRelay)(url, token, **options)

    async def do(self, verb: str, *arguments: Any, **fields: Any) -> Any:
        """The value of a verb."""
        call = getattr(self.relay, verb)
        if self.flavour == "sync":
            return await asyncio.to_thread(call, *arguments, **fields)
        return await call(*arguments, **fields)

    async def events(
        self,
        verb: str,
        *arguments: Any,
        count: int | None = None,
        on: Callable[[Any], Any] = lambda event: None,
        **fields: Any,
    ) -> list[Any]:
        """The events of `stream` or `pull`; `on` is called with each. With `count`: breaks after this number."""
        made = getattr(self.relay, verb)(*arguments, **fields)
        took: list[Any] = []
        if self.flavour == "async":
            async with _context(made):
                async for event in made:
                    took.append(event)
                    on(event)
                    if len(took) == count:
                        break
            return took

        def run() -> None:
            with made if hasattr(made, "__enter__") else _nothing():
                for event in made:
                    took.append(event)
                    on(event)
                    if len(took) == count:
                        break

        await asyncio.to_thread(run)
        return took

    async def close(self) -> None:
        await self.do("close" if self.flavour == "sync" else "aclose")


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


@asynccontextmanager
async def _context(made: Any) -> AsyncIterator[None]:
    if hasattr(made, "__aenter__"):
        async with made:
            yield
        return
    try:
        yield
    finally:
        await made.aclose()


@asynccontextmanager
async def open_client_world(folder: Path) -> AsyncIterator[RelayWorld]:
    """A relay that serves, with a sandbox and a sink."""
    async with open_relay_world(folder) as world:
        await world.serve()
        yield world
