"""Keys are rotated in a running relay, by the commands a person types, while it delivers."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook
from starlette.requests import Request
from starlette.responses import Response

from relay.clock import wall_clock
from relay.config.keyring import KeyFile, key_id, new_key
from relay.core.subscriptions.signing import verify
from tests.support.relay_world import RelayWorld, open_relay_world
from tests.support.store_databases import emptied_postgres


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with open_relay_world(tmp_path) as opened:
        yield opened


class Receiver:
    """Keeps what arrives, unread."""

    def __init__(self, world: RelayWorld) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.paths: list[str] = []
        world.answering = self.take

    async def take(self, request: Request) -> Response:
        self.requests.append((dict(request.headers), await request.body()))
        self.paths.append(request.url.path)
        return Response(status_code=204)

    def verifying(self, secret: str) -> int:
        """How many of the requests verify."""
        return sum(verify(secret, headers, body, now=wall_clock()).ok for headers, body in self.requests)


def document(lines: list[str]) -> Any:
    """What a command with --json has printed, among its progress on stderr."""
    return json.loads(next(line for line in lines if line.startswith("{")))


async def test_the_key_file_is_rotated_while_the_relay_delivers(world: RelayWorld, tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "state" / "revor-relay")
    await world.serve()
    made = await world.subscribe()
    jobs = [await world.job() for _ in range(5)]
    (old,) = file.read()
    code, lines = await world.run("keys", "rotate", "--json")
    assert code == 0, lines
    ended = document(lines)
    assert (ended["left"], ended["unused"]) == (0, [key_id(old)])
    jobs += [await world.job() for _ in range(5)]
    await world.until_delivered(jobs)
    assert await world.end() == 0
    with closing(sqlite3.connect(tmp_path / "relay.db")) as connection:
        sealed = "SELECT sealed FROM subscriptions UNION ALL SELECT ciphertext FROM secrets"
        assert {row[0][1:5].hex() for row in connection.execute(sealed)} == {ended["key"]}

    await world.serve()
    file.path.write_text(file.read()[0] + "\n")  # the old key is removed by hand
    world.hang_up()
    await world.said("settings_read_again")
    await world.until_delivered([await world.job()])
    assert (await world.get("/v1/keys"))["encryption"]["ids"] == [ended["key"]]
    code, lines = await world.run("audit", "verify")  # also what was sealed under the old key
    assert code == 0, lines
    listed = await world.get("/v1/audit?action=keys.rotate_encryption")
    assert {(entry["action"], entry["result"]) for entry in listed["items"]} >= {("keys.rotate_encryption", "ok")}
    assert (await world.get(f"/v1/subscriptions/{made['id']}"))["state"] == "enabled"


async def with_keys(world: RelayWorld, *numbers: int) -> list[str]:
    """Writes the settings with these keys of the folder and sends SIGHUP. Returns the ids of the keys then."""
    files = [world.folder / f"key_{number}" for number in numbers]
    for file in files:
        if not file.exists():
            file.write_text(new_key() + "\n")
    names = ", ".join(f'"${{file:{file}}}"' for file in files)
    world.settings(more=f"encryption: {{keys: [{names}]}}\n")
    expected = [key_id(file.read_text().strip()) for file in files]

    async def taken() -> bool:
        return bool((await world.get("/v1/keys"))["encryption"]["ids"] == expected)

    if world.relay is not None:
        world.hang_up()
        await world.until(taken)
    return expected


async def serve_on_postgresql(world: RelayWorld) -> str:
    """Returns the URL of the database."""
    url = await asyncio.to_thread(emptied_postgres)
    token = str(world.folder / "state" / "revor-relay" / "token")
    await world.serve("--auto-migrate", DATABASE_URL=url, RELAY_TOKEN_FILE=token)
    return url


async def test_with_postgresql_the_documented_order_needs_no_restart(world: RelayWorld) -> None:
    (old,) = await with_keys(world, 1)
    await serve_on_postgresql(world)
    await world.subscribe()
    await with_keys(world, 1, 2)
    new, _ = await with_keys(world, 2, 1)
    status, rotation = await world.call("POST", "/v1/keys/encryption/rotate")
    assert (status, rotation["left"], rotation["key"], rotation["unused"]) == (200, 0, new, [old])
    await with_keys(world, 2)
    await world.until_delivered([await world.job()])


async def test_callbacks_and_subscriptions_verify_through_both_rotations(world: RelayWorld, tmp_path: Path) -> None:
    receiver = Receiver(world)
    await world.serve()
    assert (await world.subscribe(config={"signature": "v1a"}))["config"]["signature"] == "v1a"
    keys = await world.get("/.well-known/webhook-keys.json")
    (first,) = keys["keys"]
    secret = (await world.get("/v1/signing-secret"))["secret"]

    async def callback() -> None:
        """A job whose events are delivered to its callback, and to the subscription."""
        receiver.paths.clear()
        job_id = await world.upstream_job()
        body = {"id": job_id, "callback_url": f"{world.sink_url}/callback", "callback_types": ["succeeded"]}
        status, _ = await world.call("POST", "/v1/jobs", body)
        assert status == 201
        await world.until(lambda: {"/hook", "/hook/callback"} <= set(receiver.paths))

    await callback()
    assert receiver.verifying(first["public_key"]) == len(receiver.requests)
    assert 0 < receiver.verifying(secret) < len(receiver.requests), "the subscription asked for v1a only"

    code, lines = await world.run("keys", "rotate", "signing", "--json")
    assert code == 0, lines
    second = document(lines)["key"]
    code, lines = await world.run("keys", "rotate", "callback-secret", "--json")
    assert code == 0, lines
    new_secret = document(lines)["secret"]
    assert (await world.get("/v1/signing-secret"))["secret"] == new_secret
    receiver.requests.clear()
    await callback()
    for key in (first, second):
        assert receiver.verifying(key["public_key"]) == len(receiver.requests)
    signed_with_both = [one for one in receiver.requests if verify(secret, *one, now=wall_clock()).ok]
    assert signed_with_both
    for headers, body in signed_with_both:
        assert headers["webhook-signature"].count("v1,") == headers["webhook-signature"].count("v1a,") == 2
        Webhook(new_secret).verify(body, headers)
        Webhook(secret).verify(body, headers)

    headers, body = receiver.requests[-1]
    raw = "POST / HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    (tmp_path / "request.http").write_bytes(raw.encode() + b"\r\n" + body)
    code, lines = await world.run("verify", "--relay", world.url, "request.http")
    assert (code, lines[-1].partition(":")[0]) == (0, "ok")


async def test_a_forger_who_knows_the_callback_secret_cannot_make_a_v1a(world: RelayWorld) -> None:
    receiver = Receiver(world)
    await world.serve()
    (key,) = (await world.get("/.well-known/webhook-keys.json"))["keys"]
    secret = (await world.get("/v1/signing-secret"))["secret"]
    forged = _signed(secret, b'{"type":"ai.revor.job.succeeded"}')
    assert verify(secret, *forged, now=wall_clock()).ok
    assert verify(key["public_key"], *forged, now=wall_clock()).reason == "no_v1a_signature"
    assert receiver.requests == []


def _signed(secret: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    from relay.core.subscriptions.signing import signature_headers
    from relay.core.subscriptions.subscription import SigningSecret

    made = signature_headers([SigningSecret(value=secret)], message_id="evt_1", now=wall_clock(), body=body)
    return dict(made), body
