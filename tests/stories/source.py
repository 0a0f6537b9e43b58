"""Plays a source: `python -m tests.stories.source openai-batch`, or with a file.

The sandbox of the source and a relay run on free ports. Three jobs are created through the drop-in, and their events
are printed as they come. The sandbox is moved on by hand, so it ends within a minute whatever the source's times are.
Exit code 0: the end of each job arrived.
"""

import argparse
import asyncio
import contextlib
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from relay import log
from relay.cli.definitions.recorded import Recorded, read_recorded
from relay.cli.demo import INTERRUPTED
from relay.cli.demo.environment import listen, served, sqlite_url_of, url_of
from relay.cli.demo.live import run_to_end
from relay.cli.demo.scenario import request
from relay.cli.node.sandbox import OTHER_KEY, playback
from relay.config.keyring import new_key
from relay.config.settings import (
    LOOPBACK_NETWORKS,
    AccountSettings,
    DatabaseSettings,
    EncryptionSettings,
    PollingSettings,
    SecuritySettings,
    ServerSettings,
    Settings,
    SourceSettings,
)
from relay.core.jobs.job import TERMINAL
from relay.errors import RelayError
from relay.node.opening import open_node

JOBS = 3
STEP_SECONDS = 2.0
"""Between two stages of a job: time for a poll."""
PATIENCE_SECONDS = 50.0
POLLING = PollingSettings(min_interval_seconds=0.2, max_interval_seconds=1.0, reserve=0.0)

Say = Callable[[str], None]


@dataclass(kw_only=True)
class Played:
    """The running source: where it is, and the events so far."""

    recorded: Recorded
    sandbox_url: str
    relay_url: str
    events: list[dict[str, Any]] = field(default_factory=list)
    all_ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        """Of the source."""
        return self.recorded.definition.name

    def take(self, event: dict[str, Any]) -> None:
        """Takes an event of a job."""
        self.events.append(event)
        if len(self.ended()) == JOBS:
            self.all_ended.set()

    def ended(self) -> set[str]:
        """The jobs whose end has arrived."""
        return {event["subject"] for event in self.events if event["type"].rpartition(".")[2] in TERMINAL}


@contextlib.asynccontextmanager
async def open_source(source: str) -> AsyncIterator[Played]:
    """Runs the sandbox of a source and a relay while inside. Raises RelayError if it has no recorded answers."""
    recorded = read_recorded(source)
    definition, path = recorded.definition, recorded.path
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-demo-")))
        at_sandbox, at_relay = (stack.enter_context(contextlib.closing(listen())) for _ in range(2))
        of_definition = {"preset": definition.name} if path is None else {"preset": "", "file": str(path)}
        configured = SourceSettings(name=definition.name, polling=POLLING).replace(
            **of_definition, base_url=url_of(at_sandbox), accounts={"default": AccountSettings(api_key=OTHER_KEY)}
        )
        settings = Settings(
            server=ServerSettings(port=at_relay.getsockname()[1], shutdown_seconds=5.0),
            database=DatabaseSettings(url=sqlite_url_of(directory / "relay.db")),
            encryption=EncryptionSettings(keys=(new_key(),)),
            sources={definition.name: configured},
            security=SecuritySettings(allow_http=True, allow_networks=LOOPBACK_NETWORKS),
            dev=True,
        )
        await stack.enter_async_context(served(playback(recorded), at_sandbox))
        url = url_of(at_relay)
        node = await stack.enter_async_context(open_node(settings, base_url=url, state_dir=directory))
        await stack.enter_async_context(served(node, at_relay, dates=False))
        yield Played(recorded=recorded, sandbox_url=url_of(at_sandbox), relay_url=url)


async def play(played: Played, say: Say) -> bool:
    """Creates the jobs, moves them on, and prints their events. True if the end of each has arrived in time."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_SECONDS)) as session:
        listening = asyncio.create_task(_listen(played, session, say))
        stepping = None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.sleep(STEP_SECONDS / 4)  # the stream has no event from before
                for number in range(1, JOBS + 1):
                    say(f"created {await _create(played, session, number)}")
                stepping = asyncio.create_task(_step(played, session))
                await played.all_ended.wait()
        except TimeoutError:
            say(f"only {len(played.ended())} of {JOBS} jobs have ended after {PATIENCE_SECONDS:g} s")
        finally:
            for task in (listening, stepping):
                if task is not None:
                    task.cancel()
                    await asyncio.wait([task])
        _, counts = await request(session, "GET", f"{played.sandbox_url}/_sandbox/requests")
        say(f"{len(played.ended())} of {JOBS} jobs ended: {len(played.events)} events, {counts['job_reads']} polls")
    return len(played.ended()) == JOBS


async def _create(played: Played, session: aiohttp.ClientSession, number: int) -> str:
    """Creates a job through the drop-in, or at the sandbox if the source has no create. Returns its id."""
    definition = played.recorded.definition
    creates = definition.resource.creates
    if not creates:
        _, made = await request(session, "POST", f"{played.sandbox_url}/_sandbox/jobs", body={}, accepted=201)
        id = str(made["job"]["id"])
        await request(
            session, "POST", f"{played.relay_url}/v1/jobs", body={"id": id, "source": played.name}, accepted=201
        )
        return id
    path = re.sub(r"\{[a-z_]+\}", "demo", creates[0].path)
    url = definition.with_key(f"{played.relay_url}/sources/{played.name}{path}", OTHER_KEY)
    body = {"metadata": {"number": str(number)}, "input": {"prompt": "hello"}}
    async with session.post(url, json=body, headers=definition.auth_headers(OTHER_KEY)) as response:
        if response.status >= 400:
            raise RelayError(f"the create was answered {response.status}: {(await response.text())[:200]}")
    _, known = await request(session, "GET", f"{played.sandbox_url}/_sandbox/jobs")
    return str(known["jobs"][-1]["id"])


async def _step(played: Played, session: aiohttp.ClientSession) -> None:
    """Moves each job on, stage by stage, for ever."""
    while True:
        await asyncio.sleep(STEP_SECONDS)
        _, known = await request(session, "GET", f"{played.sandbox_url}/_sandbox/jobs")
        for job in known["jobs"]:
            await request(session, "POST", f"{played.sandbox_url}/_sandbox/jobs/{job['id']}/step", body={})


async def _listen(played: Played, session: aiohttp.ClientSession, say: Say) -> None:
    """Prints each event of a job as it comes."""
    async with session.get(f"{played.relay_url}/v1/events/stream") as stream:
        async for line in stream.content:
            if not line.startswith(b"data:"):
                continue
            event = orjson.loads(line.removeprefix(b"data:"))
            if not event["type"].startswith("relay."):
                played.take(event)
                say(f"{event['time']}  {event['type']}  {event['subject']}")


async def demo(source: str, say: Say = print) -> bool:
    """Plays a source. Raises RelayError."""
    async with open_source(source) as played:
        say(f"the sandbox of {played.name}: {played.sandbox_url}, a relay: {played.relay_url}")
        return await play(played, say)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.stories.source", description=__doc__)
    parser.add_argument("source", help="a preset, or a file with a definition and recorded answers")
    given = parser.parse_args()
    log.configure(dev=False, level="error")
    try:
        sys.exit(0 if run_to_end(lambda: demo(given.source)) else 1)
    except RelayError as error:
        sys.exit(f"source: {error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
