"""Malformed requests, byte by byte: never a 5xx, and every refusal is a JSON problem."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

import orjson
import pytest
from hypothesis import strategies as st

from relay.api.app import create_api
from relay.api.catalogue import OPERATIONS
from relay.api.openapi import EXAMPLES
from relay.store.store import open_store
from tests.support.api_world import HOOK, NOW, World
from tests.support.fuzz_kit import JSON_VALUES, fuzzed, mutated, raw_json
from tests.support.store_kit import ReversingCipher

pytestmark = pytest.mark.verify

Answer = tuple[int, dict[bytes, bytes], bytes]
CALLS = [
    (operation.method, operation.path.replace("{id}", id).encode())
    for operation in OPERATIONS
    for id in ("a", "job_1", "job-status.v1")
]
METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "X"]
PATH_PIECES = [b"/", b"//", b"%2F", b"%00", b"%ff", b"..", b"%", b"%E2%80%AE", b"a" * 300]


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[dict[str, Any], bytes], Answer]]:
    """Calls the API as a server does. It has a job with an event, and a subscription."""
    url = f"sqlite:///{tmp_path_factory.mktemp('raw') / 'relay.db'}"
    with asyncio.Runner() as runner:
        store = runner.run(open_store(url, ReversingCipher(), now=NOW))
        world = World(store=store)
        world.node.stop()  # a stream ends as soon as it waits
        api = create_api(world.dependencies(), world.proxy)

        async def once(scope: dict[str, Any], body: bytes) -> Answer:
            sent: list[dict[str, Any]] = []

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": body, "more_body": False}

            async def send(message: Any) -> None:
                sent.append(message)

            await api(scope, receive, send)
            content = b"".join(message.get("body", b"") for message in sent[1:])
            return sent[0]["status"], dict(sent[0]["headers"]), content

        async def fill() -> None:
            await world.poll(await world.job("a", callback_url=HOOK), "queued")

        runner.run(fill())
        yield lambda scope, body: runner.run(once(scope, body))
        runner.run(store.close())


@fuzzed(
    target=st.one_of(
        st.sampled_from(CALLS),
        st.sampled_from(CALLS),
        st.tuples(st.sampled_from(METHODS), mutated(st.sampled_from([path for _, path in CALLS]), PATH_PIECES)),
    ),
    query=st.just(b"")
    | mutated(st.sampled_from([b"limit=1", b"until=running", b"type=relay.test"]), [b"%", b"&", b"%ff"]),
    headers=st.dictionaries(
        st.sampled_from(
            (
                *(b"content-type", b"content-length", b"idempotency-key", b"prefer", b"accept", b"last-event-id"),
                *(b"host", b"origin", b"relay-node", b"transfer-encoding", b"content-encoding", b"cookie"),
            )
        ),
        mutated(
            st.sampled_from([b"application/json", b"2", b"key", b"wait=1", b"text/event-stream", b"127.0.0.1:8080"]),
            [b"\xff", b"\x00", b";", b",", b"=", b'"', b"9" * 30, b"["],
        ),
        max_size=2,
    ),
    body=raw_json(JSON_VALUES, [*EXAMPLES.values(), {"id": None}, {"jobs": [{"id": "a"}], "x": None}]) | st.just(b""),
)
def test_any_request(
    call: Any, target: tuple[str, bytes], query: bytes, headers: dict[bytes, bytes], body: bytes
) -> None:
    method, raw_path = target
    given = {b"host": b"127.0.0.1:8080", b"content-type": b"application/json", **headers}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": unquote(raw_path.decode("latin-1")),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": list(given.items()),
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", 8080),
    }
    status, answered, content = call(scope, body)
    assert status < 500 or status == 508
    assert answered[b"x-request-id"]
    if status >= 400 and method != "HEAD":
        problem = orjson.loads(content)
        assert (problem["status"], answered[b"content-type"]) == (status, b"application/problem+json")
