"""`relay serve` as a process, with sandbox and sink in the test's process, all on real sockets."""

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
PATIENCE_SECONDS = 120.0
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
    """A relay process and what a test can do with it. `answering` defines the sink's answers."""

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
        """Starts `relay serve` without waiting for it."""
        known = {"REVOR_API_KEY": API_KEY, "REVOR_BASE_URL": self.sandbox_url, **variables}
        self.relay = self.start("serve", "--port", "0", *arguments, limits=limits, **known)
        return self.relay

    async def serve(self, *arguments: str, limits: str = "", **variables: str) -> Process:
        """Starts `relay serve` and waits until it serves."""
        process = self.begin(*arguments, limits=limits, **variables)
        self.url = await self.said(r"serving (http://\S+)")
        return process

    async def said(self, pattern: str) -> str:
        """Waits for output of the process, as `Process.until`."""
        assert self.relay is not None
        return await asyncio.to_thread(self.relay.until, pattern)

    def send(self, number: int) -> None:
        """Sends the process a signal."""
        assert self.relay is not None
        self.relay.popen.send_signal(number)

    def hang_up(self) -> None:
        """Sends SIGHUP: reload the settings."""
        self.send(signal.SIGHUP)

    async def ended(self) -> int:
        """Waits for the process to exit. Returns its exit code."""
        assert self.relay is not None
        return await asyncio.to_thread(self.relay.close)

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Ends the process by a signal. Returns its exit code."""
        self.send(number)
        return await self.ended()

    async def refused(self, *arguments: str, limits: str = "", **variables: str) -> str:
        """Starts `relay serve`, which must exit with code 2 and one line. Returns that line."""
        self.begin(*arguments, limits=limits, **variables)
        code, lines = await self.ended(), self.lines
        assert (code, len(lines)) == (2, 1), (code, lines)
        return lines[0]

    async def run(self, *arguments: str, **variables: str) -> tuple[int, list[str]]:
        """Runs another command to completion."""
        process = self.start(*arguments, **{"RELAY_URL": self.url, **variables})
        return await asyncio.to_thread(process.close), process.lines

    @property
    def lines(self) -> list[str]:
        """The output read so far; all of it once the process has exited."""
        return [] if self.relay is None else self.relay.lines

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event, once the process has exited."""
        documents = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [document for document in documents if document.get("event") == event]

    # --- the API

    async def call(self, method: str, path: str, document: Any = None, *, url: str = "") -> tuple[int, Any]:
        """Sends a request to the relay, or to `url`. Returns the status and the JSON, or the text if it is not JSON."""
        # The sandbox closes idle connections after five seconds, perhaps just as one is reused.
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
        """Subscribes the sink."""
        document = {"sink": self.sink_url, **({"types": types} if types else {}), **body}
        status, made = await self.call("POST", "/v1/subscriptions", document)
        assert status == 201, made
        answer: dict[str, Any] = made
        return answer

    async def upstream_job(self, **script: Any) -> str:
        """Makes a job at the upstream. Returns its id."""
        body = {"account": "test", "final": "succeeded", **AT_ONCE, **script}
        status, made = await self.call("POST", "/_sandbox/jobs", body, url=self.sandbox_url)
        assert status == 201, made
        return str(made["items"][0]["id"])

    async def job(self, **script: Any) -> str:
        """Makes a job at the upstream and tracks it."""
        job_id = await self.upstream_job(**script)
        status, made = await self.call("POST", "/v1/jobs", {"id": job_id})
        assert status == 201, made
        return job_id

    async def fault(self, kind: str, **body: Any) -> None:
        """Makes upstream requests fail from now on."""
        document = {"kind": kind, "share": 1, **body}
        status, answer = await self.call("POST", "/_sandbox/faults", document, url=self.sandbox_url)
        assert status == 201, answer

    # --- what came

    def kinds(self, subject: str) -> list[str]:
        """The kinds of a job's events that the sink accepted, each id once, in order of arrival."""
        seen = {event["id"]: event for event in self.received if event.get("subject") == subject}
        return [event["type"].rpartition(".")[2] for event in seen.values()]

    async def until(self, true: Callable[[], bool | Awaitable[bool]], what: str = "") -> None:
        """Repeats a check until it holds, within a deadline."""
        latest = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer = true()
            if answer if isinstance(answer, bool) else await answer:
                return
            assert time.monotonic() < latest, what or "it does not come true"
            await asyncio.sleep(POLL_AGAIN_SECONDS)

    async def until_ready(self) -> None:
        """Waits until /readyz is 200."""

        async def ready() -> bool:
            return (await self.call("GET", "/readyz"))[0] == 200

        await self.until(ready, "it does not become ready")

    async def until_not_ready(self) -> None:
        """Waits until /readyz is 503."""

        async def not_ready() -> bool:
            return (await self.call("GET", "/readyz"))[0] == 503

        await self.until(not_ready, "it stays ready")

    async def until_delivered(self, job_ids: Sequence[str], last: str = "succeeded") -> None:
        """Waits for each job's last event, and checks that its events are in order, without gaps or second ids."""
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
    """A running sandbox and sink; the relay is not started."""
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
    """Ends the relay while the loop still serves its peers."""
    if world.relay is not None:
        await asyncio.to_thread(world.relay.end)
