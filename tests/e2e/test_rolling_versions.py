"""An upgrade of two nodes that share a PostgreSQL database from an earlier version, in use, and the way back.

The earlier version is a commit of this repository, run with the packages of this version: one whose schema is that of
`OLDEST_BESIDE_THE_NEWEST`. A clone that lacks it skips loudly.
"""

import asyncio
import contextlib
import json
import re
import secrets
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest

from relay.config.keyring import new_key
from relay.sandbox.bodies import DISPATCH_PATH, dispatch_body
from relay.store.schema.migrations import newest_revision
from tests.store.test_store_migrations import OLDEST_BESIDE_THE_NEWEST
from tests.support.kill_world import LAST
from tests.support.lock import ROOT
from tests.support.postgres_server import shared_server
from tests.support.process_world import API_TOKEN, Process
from tests.support.relay_world import API_KEY, RelayWorld, open_relay_world
from tests.support.socket_holder import SocketHolder, socket_holder
from tests.support.steady_load import SteadyLoad
from tests.support.wire import Answer, request

pytestmark = pytest.mark.verify

EARLIER = "e8665ac9"
RATE_OF_EACH = 10
STAGES = 7
CREATES, REGISTRATIONS = 4, 6
"""Of each client in each stage."""
BEARER = ("Authorization", f"Bearer {API_TOKEN}")
JSON = ("Content-Type", "application/json")
SCRIPT = {"attempt_failures": 0, "run_seconds": 400, "in_lane": False}
TRACE = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the earlier version."""
    archive = subprocess.run(["git", "archive", EARLIER], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(f"TWO VERSIONS NOT RUN: this clone lacks the commit {EARLIER}. git fetch --unshallow")
    folder = tmp_path_factory.mktemp("earlier version")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tree:
        tree.extractall(folder, filter="data")
    return folder


@pytest.fixture
def database_url() -> Iterator[str]:
    name = f"versions_{secrets.token_hex(6)}"
    shared_server().create_database(name)
    yield shared_server().url(name)
    shared_server().drop_database(name)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with asyncio.timeout(600), open_relay_world(tmp_path) as world:
        yield world


class Nodes:
    """Two nodes, each of either version, with a socket of its own."""

    def __init__(self, world: RelayWorld, holders: list[SocketHolder], database_url: str) -> None:
        self.holders = holders
        self.running: list[Process] = []
        self._start = world.start
        (world.folder / "relay.token").write_text(API_TOKEN)
        self._variables = {
            "DATABASE_URL": database_url,
            "RELAY_ENCRYPTION_KEY": new_key(),
            "RELAY_TOKEN_FILE": "relay.token",
            "REVOR_API_KEY": API_KEY,
            "REVOR_BASE_URL": world.sandbox_url,
        }

    async def run(self, version: Path, *arguments: str) -> tuple[int, list[str]]:
        """Runs a command of a version. Returns its exit code and what it says."""
        program = [sys.executable, "-m", "relay"]
        process = self._start(*arguments, program=program, PYTHONPATH=str(version), **self._variables)
        return await asyncio.to_thread(process.close), process.lines

    async def serve(self, number: int, version: Path) -> None:
        """Starts a node, and waits until it is ready."""
        self.running[number:] = [
            await self.holders[number].served(PYTHONPATH=str(version), **self._variables),
            *self.running[number + 1 :],
        ]

    async def stop(self, number: int) -> None:
        self.running[number].popen.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(self.running[number].close) == 0


class Traffic:
    """What the clients of a node send: registrations of `job_ids`, creates, published events and reads, in turns."""

    def __init__(self, name: str, url: str, job_ids: list[str]) -> None:
        self.registered: list[str] = []
        self.created: list[str] = []
        self.published: set[str] = set()
        self.refused: list[bytes] = []
        self.creates_sent = 0
        self.creates_left = 0
        self.registrations_left = 0
        self._name = name
        self._job_ids = iter(job_ids)
        self._takes: dict[int, Callable[[Answer], None]] = {}
        self.load = SteadyLoad(url, RATE_OF_EACH, self._next, self._answered)

    def begin_stage(self) -> None:
        self.creates_left += CREATES
        self.registrations_left += REGISTRATIONS

    def _next(self, number: int) -> bytes:
        if number % 4 == 0 and self.registrations_left > 0:
            self.registrations_left -= 1
            self.registered.append(next(self._job_ids))
            body = json.dumps({"id": self.registered[-1]})
            return request("POST", "/v1/jobs", [BEARER, JSON, TRACE], body.encode())
        if number % 4 == 1 and self.creates_left > 0:
            self.creates_left -= 1
            self.creates_sent += 1
            self._takes[number] = lambda answer: self.created.append(answer.json["item"]["id"])
            message = {**dispatch_body(number), "content": {"text": f"{self._name}, {number}"}}
            key = ("Authorization", f"Bearer {API_KEY}")
            return request("POST", DISPATCH_PATH, [key, JSON, TRACE], json.dumps(message).encode())
        if number % 4 == 2:
            event = {"specversion": "1.0", "source": "/shop", "type": "com.acme.order", "id": f"{self._name}-{number}"}
            self.published.add(event["id"])
            headers = [BEARER, ("Content-Type", "application/cloudevents+json"), TRACE]
            return request("POST", "/v1/events", headers, json.dumps(event).encode())
        return request("GET", "/v1/jobs?limit=5", [BEARER])

    def _answered(self, number: int, answer: Answer) -> None:
        if answer.status not in (200, 201, 202):
            self.refused.append(answer.body)
        elif (take := self._takes.get(number)) is not None:
            take(answer)


async def test_two_versions_share_a_database_on_the_way_there_and_back(
    world: RelayWorld, database_url: str, earlier: Path
) -> None:
    before, after = OLDEST_BESIDE_THE_NEWEST, newest_revision()
    with contextlib.ExitStack() as sockets:
        nodes = Nodes(world, [sockets.enter_context(socket_holder(world.start)) for _ in range(2)], database_url)
        code, lines = await nodes.run(earlier, "migrate")
        assert (code, lines) == (0, [f"the database has the newest schema, {before}"])
        code, lines = await nodes.run(ROOT, "serve", "--port", "0")
        assert code == 2
        assert lines == [f"relay: the database has schema {before}, this program needs {after}: run `relay migrate`"]
        for number in range(2):
            await nodes.serve(number, earlier)
        world.url = nodes.holders[0].url
        await world.subscribe()
        await world.subscribe("com.acme.order")
        traffic = []
        for number, holder in enumerate(nodes.holders):
            delays = [60 * place for place in range(STAGES * REGISTRATIONS)]  # their lives begin one after the other
            job_ids = [await world.upstream_job(start_delay_seconds=seconds, **SCRIPT) for seconds in delays]
            traffic.append(Traffic(f"client {number}", holder.url, job_ids))
        sending = [asyncio.create_task(one.load.run()) for one in traffic]

        @contextlib.asynccontextmanager
        async def stage() -> AsyncIterator[None]:
            """What happens while the clients send what a stage has, until all of it is answered."""
            for one in traffic:
                one.begin_stage()
            yield
            await world.until(lambda: not any(one.creates_left + one.registrations_left for one in traffic))
            for one in traffic:
                await one.load.caught_up()

        async with stage():
            pass
        async with stage():
            code, lines = await nodes.run(ROOT, "migrate")
            assert (code, lines) == (0, [f"the database has the newest schema, {after}"])
        async with stage():
            pass  # the nodes of the earlier version, on the new schema
        for number in range(2):
            async with stage():
                await nodes.stop(number)
                await nodes.serve(number, ROOT)

        async with stage():
            for number in range(2):
                await nodes.stop(number)
            code, lines = await nodes.run(ROOT, "migrate", "--to", before)
            assert (code, len(lines)) == (0, 1)
            assert re.fullmatch(rf"the database has schema {before}\. Removed: trace contexts \([1-9]\d*\)", lines[0])
            for number in range(2):
                await nodes.serve(number, earlier)
        async with stage():
            pass

        for one in traffic:
            one.load.stop()
        await asyncio.gather(*sending)
        assert [one.load.summary for one in traffic] == [{}] * 2
        assert [one.refused for one in traffic] == [[]] * 2

        created = [job_id for one in traffic for job_id in one.created]
        assert len(set(created)) == len(created) == sum(one.creates_sent for one in traffic)
        requests = (await world.call("GET", "/_sandbox/requests", url=world.sandbox_url))[1]
        assert requests["by_kind"]["POST dispatch"] == len(created)
        await world.until_delivered([job_id for one in traffic for job_id in one.registered])
        await world.until(lambda: all(set(LAST) & set(world.kinds(job_id)) for job_id in created))
        published = {id for one in traffic for id in one.published}
        await world.until(lambda: published <= {event["id"] for event in world.received})
        ids = [event["id"] for event in world.received]
        assert len(ids) == len(set(ids)), "nodes that stop in order repeat nothing"
        transitions = [(event["subject"], event["sequence"]) for event in world.received if "sequence" in event]
        assert len(transitions) == len(set(transitions)), "a transition has one id"
        for number in range(2):
            await nodes.stop(number)
