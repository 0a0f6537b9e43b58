"""The commands as processes: a sandbox, a relay on a free port, and a user's session with them."""

import functools
import json
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.process_world import Start, processes
from tests.support.scale import SOAK

AS_TYPED = {"program": (sys.executable, "-m", "relay")}
"""From its first import on, which takes most of a command's time: in `make soak` all of them."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a command as a separate process."""
    with processes(tmp_path) as begin:
        yield functools.partial(begin, **AS_TYPED) if SOAK else begin


class World:
    """A relay with a sandbox as its upstream, and commands against both."""

    def __init__(self, start: Start, *arguments: str, **how: Any) -> None:
        self.start = start
        self.sandbox = start("sandbox", "--port", "0", "--speed", "60", **how)
        self.upstream = self.sandbox.until(r"serving (http://\S+)")
        self.relay = start(
            "serve", "--port", "0", *arguments, REVOR_BASE_URL=self.upstream, REVOR_API_KEY="sk-revor-default", **how
        )
        self.url = self.relay.until(r"serving (http://\S+)")

    def run(self, *arguments: str) -> tuple[int, list[str]]:
        process = self.start(*arguments, RELAY_URL=self.url)
        return process.close(), process.lines

    def json(self, *arguments: str) -> Any:
        code, lines = self.run(*arguments, "--json")
        assert code == 0, lines
        return json.loads(lines[0])


async def jobs_of(upstream: str, **script: Any) -> list[str]:
    async with aiohttp.ClientSession() as session, session.post(f"{upstream}/_sandbox/jobs", json=script) as response:
        document = await response.json()
        assert response.status < 300, document
        return [item["id"] for item in document["items"]]


async def test_sandbox_of_a_preset_and_the_relay_that_its_lines_configure(start: Start) -> None:
    sandbox = start("sandbox", "--source", "openai-batch", "--port", "0", "--speed", "2000")
    sandbox.until(r"serving http://\S+ \(openai-batch, seed 0, speed 2000\)")
    sandbox.until(r"(inject) faults")
    variables = dict(re.findall(r"(RELAY_\w+)=(\S+)", "\n".join(sandbox.lines)))
    relay = start("serve", "--dev", "--port", "0", **variables)
    url = relay.until(r"serving (http://\S+)")
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sandbox:sandbox"}) as session:
        body = {"endpoint": "/v1/chat/completions", "input_file_id": "file-1", "metadata": {"deal": "42"}}
        async with session.post(f"{url}/sources/openai_batch/v1/batches", json=body) as response:
            made = await response.json()
    waiting = start("jobs", "wait", made["id"], "--timeout", "60", "--json", RELAY_URL=url)
    assert waiting.close() in (0, 1), waiting.lines
    job = json.loads(waiting.lines[0])
    assert (job["source"], job["open"]) == ("openai_batch", False)


async def test_commands_against_a_served_relay_and_sandbox(start: Start) -> None:
    world = World(start, "--dev", RELAY_SERVER__SHUTDOWN_SECONDS="600", **AS_TYPED)
    world.relay.until(r"signing secret: (whsec_\S+)")
    ids = await jobs_of(world.upstream, count=2)
    listener = start("listen", RELAY_URL=world.url, **AS_TYPED)
    secret = listener.until(r"^ready: listening to http://\S+, signing secret (whsec_\S+)$")
    assert world.run("signing-secret") == (0, [secret])

    code, lines = world.run("jobs", "add", *ids, "--metadata", '{"deal": 1}')
    assert code == 0, lines
    assert len(lines) == 2
    assert {job["id"] for job in world.json("jobs", "list")} == set(ids)
    listener.until(re.escape(ids[0]))
    assert {event["subject"] for event in world.json("events", "list")} <= set(ids)
    code, lines = world.run("jobs", "wait", ids[0], "--timeout", "60", "--json")
    job = json.loads(lines[0])
    assert not job["open"]
    assert code == (0 if job["outcome"] == "succeeded" else 1)
    listener.until(rf"(ai\.revor\.job\.{job['status']}) {ids[0]}")
    assert world.json("jobs", "explain", ids[0])["sentence"]
    assert world.json("jobs", "untrack", ids[0], "--purge")["id"] == ids[0]

    code, lines = world.run("subscriptions", "add", "http://127.0.0.1:9/hook", "--types", "failed", "--json")
    made = json.loads(lines[0])
    assert code == 1, "the sample was not taken"
    assert made["config"]["secret"].startswith("whsec_")
    assert made["test"]["delivered"] is False
    code, lines = world.run("subscriptions", "add", "http://127.0.0.1:9/hook")
    assert (code, len(lines)) == (2, 1)
    assert made["id"] in lines[0]
    for action in ("pause", "resume", "rotate-secret", "show", "remove"):
        world.json("subscriptions", action, made["id"])
    assert world.json("subscriptions", "list") == []
    assert world.json("deliveries", "list") == []
    code, lines = world.run("jobs", "show", "nobody")
    assert code == 2
    assert len(lines) == 1
    assert listener.end(signal.SIGINT) == 130

    stream = start("events", "tail", RELAY_URL=world.url)
    assert world.relay.end() == 0  # with a stream open: it does not wait for ten minutes
    assert not any("Traceback" in line for line in [*world.relay.lines, *stream.lines])


def test_used_port_and_held_database_are_reported(start: Start) -> None:
    world = World(start)
    taken = world.url.rpartition(":")[2]
    code, lines = world.run("serve", "--port", taken)
    assert (code, len(lines)) == (2, 1)
    assert taken in lines[0]
    code, lines = world.run("serve", "--port", "0")
    assert (code, len(lines)) == (2, 1)
    assert f"pid {world.relay.popen.pid}" in lines[0]
    assert world.relay.end(signal.SIGINT) == 0
    assert world.sandbox.end(signal.SIGINT) == 0


def test_sighup_reads_the_settings_again(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "relay.yaml"
    file.write_text("delivery: {per_host: 8}\n")
    world = World(start)
    file.write_text("delivery: {per_host: many}\n")
    world.relay.popen.send_signal(signal.SIGHUP)
    world.relay.until("settings_refused.*per_host|per_host.*settings_refused")
    file.write_text("delivery: {per_host: 9}\nretention: {jobs_days: 7}\n")
    world.relay.popen.send_signal(signal.SIGHUP)
    world.relay.until(r"retention\.jobs_days")
    assert world.json("jobs", "list") == []
    found = {one["key"]: (one["value"], one["place"]) for one in world.json("settings")}
    assert found["delivery.per_host"] == (9, "relay.yaml:1")
    assert found["retention.jobs_days"] == (30, "default")  # it needs a restart
    assert found["server.port"][1] == "--port"
    assert world.relay.end() == 0


async def test_node_without_the_role_api_serves_only_probes(start: Start) -> None:
    world = World(start, "--roles", "scheduler,dispatcher")
    async with aiohttp.ClientSession(world.url) as session:
        async with session.get("/livez") as response:
            assert response.status == 200
        async with session.get("/v1/jobs") as response:
            assert response.status == 404


def test_sandbox_reports_a_used_port(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start("sandbox", "--port", str(taken.getsockname()[1]))
        assert process.close() == 2
        assert len(process.lines) == 1
