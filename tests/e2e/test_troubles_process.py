"""Signals, restarts, exhausted file descriptors and new keys while a real node runs."""

import asyncio
import resource
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from tests.support.relay_world import SETTINGS, RelayWorld, open_relay_world

HASTY = "server: {shutdown_seconds: 1}\n"
SLOW = "server: {shutdown_seconds: 300}\n"
PATIENT = SETTINGS.replace("delivery:\n", "delivery:\n  timeout_seconds: 60\n")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with open_relay_world(tmp_path) as world:
        yield world


class Held:
    """A sink that does not answer until it is let; each request is counted when it comes."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.came = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        self.ids.append(request.headers["webhook-id"])
        self.came.set()
        await self.go_on.wait()
        return PlainTextResponse("ok")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_sigterm_finishes_what_is_in_flight(world: RelayWorld, number: int) -> None:
    world.answering = held = Held()
    await world.serve()
    await world.subscribe("ai.revor.job.succeeded")
    job_id = await world.job()
    await held.came.wait()
    world.send(number)
    await world.said("Shutting down")
    held.go_on.set()
    assert await world.ended() == 0
    assert world.kinds(job_id) == ["succeeded"]
    assert not any("Traceback" in line for line in world.lines)

    await world.serve()
    (delivery,) = (await world.get("/v1/deliveries"))["items"]
    assert (delivery["state"], delivery["attempt_count"]) == ("delivered", 1)
    await world.until_delivered([await world.job()])
    assert len(held.ids) == 2


async def test_unfinished_delivery_is_sent_again_after_a_restart(world: RelayWorld) -> None:
    world.settings(PATIENT, more=HASTY)
    world.answering = held = Held()
    await world.serve()
    await world.subscribe("ai.revor.job.succeeded")
    await world.job()
    await held.came.wait()
    began = time.monotonic()
    assert await world.end() == 0
    assert 0.9 < time.monotonic() - began < 50  # the attempt ends after 60 s
    held.go_on.set()
    await world.serve()
    await world.until(lambda: len(held.ids) == 2)
    assert len(set(held.ids)) == 1
    (delivery,) = (await world.get("/v1/deliveries"))["items"]
    await world.until(lambda: _delivered(world, delivery["id"]))


async def _delivered(world: RelayWorld, delivery_id: str) -> bool:
    return bool((await world.get(f"/v1/deliveries/{delivery_id}"))["state"] == "delivered")


async def test_second_sigterm_stops_at_once(world: RelayWorld) -> None:
    world.settings(PATIENT, more=SLOW)
    world.answering = held = Held()
    await world.serve()
    await world.subscribe("ai.revor.job.succeeded")
    job_id = await world.job()
    await held.came.wait()
    world.send(signal.SIGTERM)
    await world.said("Shutting down")
    began = time.monotonic()
    assert await world.end() == 0
    assert time.monotonic() - began < 50  # the attempt ends after 60 s
    assert not any("Traceback" in line for line in world.lines)
    held.go_on.set()
    await world.serve()
    await world.until(lambda: len(held.ids) == 2)
    assert len(set(held.ids)) == 1
    await world.until_delivered([job_id])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_during_start(world: RelayWorld, tmp_path: Path, number: int) -> None:
    world.begin()
    await world.until(lambda: (tmp_path / "relay.db.lock").exists())  # it has the database, and serves nothing yet
    assert await world.end(number) == 0
    assert not any("Traceback" in line for line in world.lines)
    await world.serve()
    await world.until_delivered([await world.job()] if await world.subscribe() else [])


async def test_restart_after_a_crash(world: RelayWorld) -> None:
    world.answering = held = Held()
    await world.serve()
    await world.subscribe("ai.revor.job.succeeded")
    job_id = await world.job()
    await held.came.wait()
    assert await world.end(signal.SIGKILL) == -signal.SIGKILL
    held.go_on.set()
    await world.serve()
    await world.until(lambda: len(held.ids) == 2)  # at once, though the killed one had a lease of 45 s
    assert len(set(held.ids)) == 1
    await world.until_delivered([job_id])


KEYS = [
    ("sk-revor-revoked-test", "api_key_revoked"),
    ("sk-revor-expired-test", "api_key_expired"),
    ("nonsense", "api_key_invalid"),
]


@pytest.mark.parametrize(("key", "code"), KEYS, ids=["revoked", "expired", "invalid"])
async def test_sighup_resumes_an_account_with_a_new_key(world: RelayWorld, tmp_path: Path, key: str, code: str) -> None:
    file = tmp_path / "revor.key"
    file.write_text(f"{key}\n")
    world.settings(
        "sources:\n  revor:\n"
        f"    accounts: {{default: {{api_key: '${{file:{file}}}'}}}}\n"
        "    polling: {min_interval_seconds: 0.02, max_interval_seconds: 0.5}\n"
        "security: {allow_http: true, allow_networks: [127.0.0.0/8]}\n"
    )
    await world.serve(REVOR_API_KEY="")
    types = ("relay.source.unauthorized", "relay.source.recovered", "ai.revor.job.succeeded")
    await world.subscribe(*types, config={"start": "earliest"})  # the key is tried as soon as the relay has started
    job_id = await world.job()
    await world.until(lambda: [event["type"] for event in world.received] == ["relay.source.unauthorized"])
    assert world.received[0]["data"]["code"] == code
    (source,) = (await world.get("/v1/sources"))["items"]
    assert source["problem"]["code"] == code
    (note,) = (await world.get("/readyz"))["notes"]
    assert note.startswith("revor/default is unauthorized since ")
    assert 'relay_source_up{account="default",source="revor"} 0.0' in await _metrics(world)

    file.write_text("sk-revor-test\n")
    began = time.monotonic()
    world.hang_up()
    await world.until_delivered([job_id])
    assert time.monotonic() - began < 25  # not when the next probe would have come, after 30 s
    await world.until(lambda: "relay.source.recovered" in [event["type"] for event in world.received])
    assert (await world.get("/readyz"))["notes"] == []
    assert 'relay_source_up{account="default",source="revor"} 1.0' in await _metrics(world)
    assert await world.end() == 0
    assert not any(key in line or "sk-revor-test" in line for line in world.lines)


async def _metrics(world: RelayWorld) -> str:
    status, text = await world.call("GET", "/metrics")
    assert status == 200
    return str(text)


async def test_exhausted_file_descriptors(world: RelayWorld) -> None:
    relay = await world.serve()
    await world.subscribe()
    first = await world.job()
    await world.until_delivered([first])
    lives = [await world.job(run_seconds=400) for _ in range(3)]  # two seconds
    hard = resource.prlimit(relay.popen.pid, resource.RLIMIT_NOFILE)[1]
    relay.limit(resource.RLIMIT_NOFILE, 3)  # what is open stays open, nothing more is opened

    async def polls_fail() -> bool:
        return 'result="unavailable"' in await _metrics(world)

    await world.fault("truncated", count=3)  # the connection that there is breaks off, and there is no other
    await world.until(polls_fail, "the polls do not fail")
    status, _ = await world.call("GET", f"/v1/jobs/{lives[0]}")
    assert status in (200, 503)  # 503: the database has no file descriptor to spare for this read
    relay.limit(resource.RLIMIT_NOFILE, hard)
    await world.until_ready()
    await world.until_delivered([first, *lives])
    assert await world.end() == 0


async def test_a_start_without_a_key_names_the_variable_that_sets_it(world: RelayWorld) -> None:
    await world.serve(REVOR_API_KEY="")
    assert await world.end() == 0
    (line,) = world.logged("no_upstream_key")
    assert (line["level"], line["source"], line["account"]) == ("warning", "revor", "default")
    assert line["hint"] == "nothing is polled until REVOR_API_KEY is set"
    await world.serve()
    assert await world.end() == 0
    assert world.logged("no_upstream_key") == []
