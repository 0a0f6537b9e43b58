"""Token endpoints and handshakes over real sockets, with answers that mean harm.

Each is a failed attempt or no consent, takes bounded time, and shows no secret.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.e2e_world import World, open_e2e_world
from tests.support.peer import Talk, open_peer

SECRET = "client-secret-of-the-tests"
TIMEOUT_SECONDS = 1.0


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def token(**fields: Any) -> bytes:
    return orjson.dumps({"access_token": "an-access-token", "token_type": "Bearer", "expires_in": 3600, **fields})


def says(*raw: bytes, then: bytes = b"", pause_seconds: float = 0.0) -> Talk:
    """A server that answers each request so, and then sends `then` forever."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in raw:
            writer.write(part)
        while then:
            await writer.drain()
            writer.write(then)
            await asyncio.sleep(pause_seconds)
        await writer.drain()

    return talk


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr("relay.http.tokens.TOKEN_SECONDS", TIMEOUT_SECONDS)
    async with open_e2e_world(tmp_path) as opened:
        yield opened


async def attempt_with_token_of(world: World, port: int) -> dict[str, Any]:
    """The attempt of a test event with a token from there."""
    credential = {
        "credentialtype": "CLIENTCREDENTIALS",
        "token_url": f"http://127.0.0.1:{port}/token?tenant=a",
        "client_id": "relay",
        "client_secret": SECRET,
    }
    made = await world.subscribe(sinkcredential=credential, config={"timeout_seconds": 5})
    began = time.monotonic()
    answer = await world.api.post(f"/v1/subscriptions/{made['id']}/test")
    assert answer.status_code == 200, answer.text
    assert time.monotonic() - began < 120 * TIMEOUT_SECONDS
    assert SECRET not in answer.text
    assert "an-access-token" not in answer.text
    attempt: dict[str, Any] = answer.json()["attempt"]
    return attempt


NO_TOKEN = (
    (says(http(b"<html>Please log in</html>")), "not a JSON object"),
    (says(http(token(access_token="a\r\nX-Evil: 1"))), "not text of printable ASCII"),
    (says(http(token(access_token="töken"))), "not text of printable ASCII"),
    (says(http(token(access_token="a" * 10_000))), "longer than 8192"),
    (says(http(token(access_token=None))), "missing"),
    (says(http(token(token_type="mac"))), "not bearer"),
    (says(http(token(expires_in="soon"))), "not a number"),
    (says(http(b"[" * 60_000)), "not a JSON object"),
    (says(http(b"\xff\xfe" + token())), "not a JSON object"),
    (says(http(b"", "302 Found", "Location: http://169.254.169.254/latest/")), "answered 302"),
    (says(http(b"", "307 Temporary Redirect", "Location: http://127.0.0.1:1/")), "answered 307"),
    (says(http(SECRET.encode(), "400 Bad Request")), "answered 400"),
    (says(http(orjson.dumps({"error": SECRET}), "400 Bad Request")), "answered 400"),
    (says(http(b"", "500 Internal Server Error", f"X-Echo: {SECRET}")), "answered 500"),
    (says(b"HTTP/1.1 200 OK\r\n\r\n", then=b" " * 65_536), "not a JSON object"),
    (says(b"HTTP/1.1 200 OK\r\n", then=b"X-Long: " + b"a" * 1000 + b"\r\n"), "not a JSON object"),
    (says(b"HTTP/1.1 200 OK\r\n\r\n{", then=b" ", pause_seconds=0.05), "not a JSON object"),
    (says(b"", then=b"HTTP/1.1 100 Continue\r\n\r\n"), "gave no answer"),
    (says(b"not HTTP at all\r\n\r\n"), "gave no answer (protocol"),
    (says(b""), "gave no answer"),
)


async def test_hostile_token_endpoint_is_a_failed_attempt(world: World) -> None:
    for talk, problem in NO_TOKEN:
        async with open_peer(talk) as port:
            attempt = await attempt_with_token_of(world, port)
        assert attempt["error"].startswith("credential: "), problem
        assert problem in attempt["error"]
        assert attempt["status_code"] is None, problem
    assert "/events" not in world.received, "nothing is sent without a token"


async def test_token_endpoint_behind_a_forbidden_address_is_refused_when_it_is_dialled(tmp_path: Path) -> None:
    async with open_e2e_world(tmp_path) as world:
        made = await world.subscribe(
            sinkcredential={
                "credentialtype": "CLIENTCREDENTIALS",
                "token_url": "https://localhost.localdomain.example.invalid/token",
                "client_id": "relay",
                "client_secret": SECRET,
            }
        )
        attempt = (await world.api.post(f"/v1/subscriptions/{made['id']}/test")).json()["attempt"]
        assert attempt["error"].startswith("credential: the token endpoint gave no answer (dns")


# --- handshakes


async def until_asked(world: World, id: str) -> dict[str, Any]:
    """The subscription, once its sink was asked."""
    async with asyncio.timeout(300):
        while True:
            found: dict[str, Any] = (await world.api.get(f"/v1/subscriptions/{id}")).json()
            if found["state"] != "pending" or found["state_reason"] != "waits for the sink's consent":
                return found
            await asyncio.sleep(0.02)


async def handshake(world: World, talk: Talk, **config: Any) -> dict[str, Any]:
    async with open_peer(talk) as port:
        body = {
            "sink": f"http://127.0.0.1:{port}/hook",
            "config": {"handshake": "required", "timeout_seconds": TIMEOUT_SECONDS, **config},
        }
        answer = await world.api.post("/v1/subscriptions", json=body)
        assert answer.status_code == 201, answer.text
        found = await until_asked(world, answer.json()["id"])
        await world.api.delete(f"/v1/subscriptions/{found['id']}")
        return found


ORIGIN = "WebHook-Allowed-Origin: "


@contextlib.asynccontextmanager
async def counting(answer: Callable[[bytes], bytes]) -> AsyncIterator[tuple[int, list[bytes]]]:
    heads: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head)
        writer.write(answer(head))
        await writer.drain()

    async with open_peer(talk) as port:
        yield port, heads


async def test_no_event_and_no_secret_reaches_a_sink_that_does_not_agree(world: World) -> None:
    async with counting(lambda head: http(b"", "200 OK")) as (port, heads):
        body = {
            "sink": f"http://127.0.0.1:{port}/hook",
            "sinkcredential": {"credentialtype": "PLAIN", "identifier": "relay", "secret": SECRET},
            "protocolsettings": {"headers": {"X-Api-Key": "an-api-key-of-ours"}},
            "config": {"handshake": "required"},
        }
        made = (await world.api.post("/v1/subscriptions", json=body)).json()
        await world.job()
        await until_asked(world, made["id"])
        await world.job()
        assert (await world.api.post(f"/v1/subscriptions/{made['id']}/test")).status_code == 409
        assert (await world.api.post(f"/v1/subscriptions/{made['id']}/resume")).json()["state"] == "pending"
        async with asyncio.timeout(300):
            while len(heads) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert {head.split(b" ")[0] for head in heads} == {b"OPTIONS"}
        everything = b"".join(heads)
        assert b"Authorization" not in everything
        assert b"an-api-key" not in everything
        await world.api.delete(f"/v1/subscriptions/{made['id']}")
