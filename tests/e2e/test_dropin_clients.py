"""Published HTTP clients, unchanged but for their base URL: a program behaves the same with and without the relay."""

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import orjson
import pytest
import requests
import urllib3

from tests.support.dropin_requests import ACCOUNTS, DISPATCH, DISPATCHES, JOBS
from tests.support.relay_world import API_KEY, PATIENCE_SECONDS, RelayWorld, open_relay_world

Said = tuple[int, Any]
"""Status, and the JSON of the answer."""
Send = Callable[[str, str, Any, Mapping[str, str]], Said]
"""Method, path, JSON to send (None: none), headers."""
LARGE = {**DISPATCH, "metadata": {"note": "é" * 150_000}}
SPEED = 2_000.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with open_relay_world(tmp_path, speed=SPEED) as world:
        await world.serve("--dev")  # without it the relay refuses requests without a key
        yield world


def with_httpx2(base_url: str, program: Callable[[Send], Any]) -> Any:
    with httpx2.Client(base_url=base_url) as client:

        def send(method: str, path: str, document: Any, headers: Mapping[str, str]) -> Said:
            response = client.request(method, path, json=document, headers=dict(headers))
            return response.status_code, response.json()

        return program(send)


def with_httpx2_async(base_url: str, program: Callable[[Send], Any]) -> Any:
    runner = asyncio.Runner()
    client = httpx2.AsyncClient(base_url=base_url)

    def send(method: str, path: str, document: Any, headers: Mapping[str, str]) -> Said:
        response = runner.run(client.request(method, path, json=document, headers=dict(headers)))
        return response.status_code, response.json()

    with runner:
        try:
            return program(send)
        finally:
            runner.run(client.aclose())


def with_requests(base_url: str, program: Callable[[Send], Any]) -> Any:
    with requests.Session() as session:

        def send(method: str, path: str, document: Any, headers: Mapping[str, str]) -> Said:
            response = session.request(method, base_url + path, json=document, headers=dict(headers), timeout=20)
            return response.status_code, response.json()

        return program(send)


def with_urllib3(base_url: str, program: Callable[[Send], Any]) -> Any:
    with urllib3.PoolManager() as pool:

        def send(method: str, path: str, document: Any, headers: Mapping[str, str]) -> Said:
            response = pool.request(method, base_url + path, json=document, headers=dict(headers))
            return response.status, response.json()

        return program(send)


def with_aiohttp(base_url: str, program: Callable[[Send], Any]) -> Any:
    async def open_session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(base_url)

    with asyncio.Runner() as runner:
        session = runner.run(open_session())

        async def exchange(method: str, path: str, document: Any, headers: Mapping[str, str]) -> Said:
            async with session.request(method, path, json=document, headers=headers) as response:
                return response.status, await response.json()

        try:
            return program(lambda *call: runner.run(exchange(*call)))
        finally:
            runner.run(session.close())


def with_the_standard_library(base_url: str, program: Callable[[Send], Any]) -> Any:
    def send(method: str, path: str, document: Any, headers: Mapping[str, str]) -> Said:
        body = None if document is None else orjson.dumps(document)
        typed = {} if document is None else {"Content-Type": "application/json"}
        request = urllib.request.Request(base_url + path, body, {**headers, **typed}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, orjson.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, orjson.loads(error.read())

    return program(send)


CLIENTS = {
    "httpx2": with_httpx2,
    "httpx2, async": with_httpx2_async,
    "requests": with_requests,
    "urllib3": with_urllib3,
    "aiohttp": with_aiohttp,
    "urllib": with_the_standard_library,
}


class Program:
    """A typical polling program: it sends messages and polls each until it ends. `job_ids` are its jobs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.job_ids: list[str] = []

    def __call__(self, send: Send) -> list[Any]:
        bearer, api_key = {"Authorization": f"Bearer {API_KEY}"}, {"x-api-key": API_KEY}
        answers: list[Any] = []
        status, document = send("GET", f"{ACCOUNTS}?can_send=true", None, bearer)
        answers.append((status, [account["account_id"] for account in document["items"]]))
        for headers, body in (
            (bearer, DISPATCH),
            (api_key, LARGE),
            ({**bearer, "Idempotency-Key": self._name}, DISPATCH),
        ):
            status, document = send("POST", DISPATCHES, body, headers)
            item = document["item"]
            answers.append((status, document["ok"], item["status"], item["channel"], sorted(item)))
            self.job_ids.append(item["id"])
        again = send("POST", DISPATCHES, DISPATCH, {**bearer, "Idempotency-Key": self._name})
        answers.append((again[0], again[1]["item"]["id"] == self.job_ids[-1]))
        answers.extend(self._end_of(send, job_id, bearer) for job_id in self.job_ids)
        for method, path, body in (
            ("GET", f"{JOBS}no-such-job", None),
            ("POST", DISPATCHES, {"channel": "fax"}),
            ("POST", DISPATCHES, {**DISPATCH, "account_id": "nobody"}),
            ("DELETE", DISPATCHES, None),
            ("GET", "/api/v2/nothing?q=a%20b", None),
        ):
            status, document = send(method, path, body, bearer)
            answers.append((status, document["ok"], document["error"]["code"], document["error"]["message"]))
        answers.append(send("GET", ACCOUNTS, None, {})[1]["error"]["code"])
        return answers

    def _end_of(self, send: Send, job_id: str, headers: Mapping[str, str]) -> Any:
        latest = time.monotonic() + PATIENCE_SECONDS
        while True:
            status, document = send("GET", JOBS + job_id, None, headers)
            item = document["item"]
            if item["status"] in ("succeeded", "failed", "cancelled"):
                return status, document["ok"], item["id"] == job_id, sorted(item)
            assert time.monotonic() < latest, item
            time.sleep(0.02)


async def run_all(url: str) -> tuple[dict[str, list[Any]], set[str]]:
    """The answers each client's program got, run concurrently, and the jobs they made."""
    programs = {client: Program(f"{client} at {url}") for client in CLIENTS}
    runs = [asyncio.to_thread(CLIENTS[client], url, program) for client, program in programs.items()]
    answers = dict(zip(programs, await asyncio.gather(*runs), strict=True))
    job_ids = {job_id for program in programs.values() for job_id in program.job_ids}
    assert len(job_ids) == 3 * len(CLIENTS)
    return answers, job_ids


async def test_program_behaves_the_same_with_and_without_the_relay(world: RelayWorld) -> None:
    without, untracked = await run_all(world.sandbox_url)
    through, tracked = await run_all(world.url)
    for client, answers in through.items():
        assert answers == without[client], client
    jobs = (await world.get("/v1/jobs?limit=500"))["items"]
    assert {job["id"] for job in jobs} == tracked
    assert not tracked & untracked
    assert not [job for job in jobs if job["open"]]
    assert (await world.get("/v1/intents"))["items"] == []
