"""`relay serve` as a process, between a sandbox and a sink in the test's own process: all on real sockets."""

import asyncio
import contextlib
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from relay.cli.demo.environment import listen, served, url_of
from relay.sandbox.server import Sandbox
from tests.support.process_world import API_TOKEN, Process, keep_token, processes

API_KEY = "sk-revor-test"
SPEED = 200.0
PATIENCE_SECONDS = 20.0
POLL_AGAIN_SECONDS = 0.02
AT_ONCE = {"attempt_failures": 0, "start_delay_seconds": 0, "run_seconds": 0, "in_lane": False}
SETTINGS = """\
sources:
  revor:
    polling: {min_interval_seconds: 0.02, max_interval_seconds: 0.5, max_requests_per_second: 200}
delivery:
  retry_schedule: [0.1s, 0.2s, 0.5s, 1s, 1s, 1s, 2s, 2s, 2s, 2s]
security: {allow_http: true, allow_networks: [127.0.0.0/8]}
"""

Answering = Callable[[Request], Awaitable[Response]]


async def _ok(_request: Request) -> Response:
    return PlainTextResponse("ok")


@dataclass(kw_only=True)
class RelayWorld:
    """What a test does to a relay process and sees of it. `answering` is how the sink answers."""

    folder: Path
    start: Callable[..., Process]
    session: aiohttp.ClientSession
    sandbox_url: str
    sink_url: str
    received: list[dict[str, Any]] = field(default_factory=list)
    answering: Answering = _ok
    relay: Process | None = None
    url: str = ""

    # --- the process

    def settings(self, text: str = SETTINGS, *, more: str = "") -> None:
        """Writes relay.yaml."""
        (self.folder / "relay.yaml").write_text(text + more)

    def begin(self, *arguments: str, limits: str = "", **variables: str) -> Process:
        """Starts `relay serve` and does not wait for it."""
        known = {"REVOR_API_KEY": API_KEY, "REVOR_BASE_URL": self.sandbox_url, **variables}
        self.relay = self.start("serve", "--port", "0", *arguments, limits=limits, **known)
        return self.relay

    async def serve(self, *arguments: str, limits: str = "", **variables: str) -> Process:
        """Starts `relay serve`, and waits until it serves."""
        process = self.begin(*arguments, limits=limits, **variables)
        self.url = await self.said(r"serving (http://\S+)")
        return process

    async def said(self, pattern: str) -> str:
        """What the process says, as `Process.until`."""
        assert self.relay is not None
        return await asyncio.to_thread(self.relay.until, pattern)

    def send(self, number: int) -> None:
        """Sends the process a signal."""
        assert self.relay is not None
        self.relay.popen.send_signal(number)

    def hang_up(self) -> None:
        """SIGHUP: the settings are to be read again."""
        self.send(signal.SIGHUP)

    async def ended(self) -> int:
        """Waits for the end of the process: its exit code."""
        assert self.relay is not None
        return await asyncio.to_thread(self.relay.close)

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Ends it by a signal: its exit code."""
        self.send(number)
        return await self.ended()

    async def refused(self, *arguments: str, limits: str = "", **variables: str) -> str:
        """Starts `relay serve`, which must end with code 2 and one line: that line."""
        self.begin(*arguments, limits=limits, **variables)
        code, lines = await self.ended(), self.lines
        assert (code, len(lines)) == (2, 1), (code, lines)
        return lines[0]

    async def run(self, *arguments: str, **variables: str) -> tuple[int, list[str]]:
        """Runs another command to its end."""
        process = self.start(*arguments, **{"RELAY_URL": self.url, **variables})
        return await asyncio.to_thread(process.close), process.lines

    @property
    def lines(self) -> list[str]:
        """What it has said, as far as that was looked at; all of it once it has ended."""
        return [] if self.relay is None else self.relay.lines

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Its log lines of one event, once it has ended."""
        documents = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [document for document in documents if document.get("event") == event]

    # --- the API

    async def call(self, method: str, path: str, document: Any = None, *, url: str = "") -> tuple[int, Any]:
        """One request to the relay, or to `url`: status, and the answer's JSON, or its text where it is none."""
        # The sandbox closes a kept connection after five seconds, perhaps just as it is used again.
        headers = {"Connection": "close"} if url else None
        async with self.session.request(method, (url or self.url) + path, json=document, headers=headers) as response:
            text = await response.text()
            return response.status, json.loads(text) if "json" in response.content_type else text

    async def get(self, path: str) -> Any:
        """The JSON of a 200."""
        status, document = await self.call("GET", path)
        assert status == 200, document
        return document

    async def subscribe(self, *types: str, **body: Any) -> dict[str, Any]:
        """A subscription of the sink."""
        document = {"sink": self.sink_url, **({"types": types} if types else {}), **body}
        status, made = await self.call("POST", "/v1/subscriptions", document)
        assert status == 201, made
        answer: dict[str, Any] = made
        return answer

    async def upstream_job(self, **script: Any) -> str:
        """A new job at the upstream: its id."""
        body = {"account": "test", "final": "succeeded", **AT_ONCE, **script}
        status, made = await self.call("POST", "/_sandbox/jobs", body, url=self.sandbox_url)
        assert status == 201, made
        return str(made["items"][0]["id"])

    async def job(self, **script: Any) -> str:
        """A new job at the upstream that the relay tracks."""
        job_id = await self.upstream_job(**script)
        status, made = await self.call("POST", "/v1/jobs", {"id": job_id})
        assert status == 201, made
        return job_id

    async def fault(self, kind: str, **body: Any) -> None:
        """From now on requests to the upstream go wrong."""
        document = {"kind": kind, "share": 1, **body}
        status, answer = await self.call("POST", "/_sandbox/faults", document, url=self.sandbox_url)
        assert status == 201, answer

    # --- what came

    def kinds(self, subject: str) -> list[str]:
        """The kinds of the events that the sink accepted about a job, each id once, in the order of their coming."""
        seen = {event["id"]: event for event in self.received if event.get("subject") == subject}
        return [event["type"].rpartition(".")[2] for event in seen.values()]

    async def until(self, true: Callable[[], bool | Awaitable[bool]], what: str = "") -> None:
        """Asks again and again, within a deadline."""
        latest = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer = true()
            if answer if isinstance(answer, bool) else await answer:
                return
            assert time.monotonic() < latest, what or "it does not come true"
            await asyncio.sleep(POLL_AGAIN_SECONDS)

    async def until_ready(self) -> None:
        """Until /readyz is 200."""

        async def ready() -> bool:
            return (await self.call("GET", "/readyz"))[0] == 200

        await self.until(ready, "it does not become ready")

    async def until_not_ready(self) -> None:
        """Until /readyz is 503."""

        async def not_ready() -> bool:
            return (await self.call("GET", "/readyz"))[0] == 503

        await self.until(not_ready, "it stays ready")

    async def until_delivered(self, job_ids: Sequence[str], last: str = "succeeded") -> None:
        """Until each job's last event has come; its events are in order, without a gap and each of one id."""
        await self.until(lambda: all(last in self.kinds(each) for each in job_ids), "not all of them come")
        for job_id in job_ids:
            events = {event["sequence"]: event["id"] for event in self.received if event.get("subject") == job_id}
            ids = {event["id"] for event in self.received if event.get("subject") == job_id}
            numbers = [int(sequence) for sequence in events]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            assert len(ids) == len(events)
            assert Counter(self.kinds(job_id))[last] == 1


@contextlib.asynccontextmanager
async def open_relay_world(folder: Path, *, speed: float = SPEED) -> AsyncIterator[RelayWorld]:
    """A sandbox and a sink that serve, and nothing started yet."""
    async with contextlib.AsyncExitStack() as stack:
        at_sandbox, at_sink = (stack.enter_context(contextlib.closing(listen())) for _ in range(2))
        await stack.enter_async_context(served(Sandbox(seed=1, speed=speed, rate_limit=None).app(), at_sandbox))
        timeout = aiohttp.ClientTimeout(total=15)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        session.headers["Authorization"] = f"Bearer {API_TOKEN}"
        keep_token(folder)
        world = RelayWorld(
            folder=folder,
            start=stack.enter_context(processes(folder)),
            session=session,
            sandbox_url=url_of(at_sandbox),
            sink_url=f"{url_of(at_sink)}/hook",
        )
        world.settings()

        async def take(request: Request) -> Response:
            event = json.loads(await request.body())
            response = await world.answering(request)
            if response.status_code < 300:
                world.received.append(event)
            return response

        sink = Starlette(routes=[Route("/{path:path}", take, methods=["POST"])])
        await stack.enter_async_context(served(sink, at_sink))
        stack.push_async_callback(_end, world)
        yield world


async def _end(world: RelayWorld) -> None:
    """Ends the relay while the loop still serves what it waits for."""
    if world.relay is not None:
        await asyncio.to_thread(world.relay.end)
