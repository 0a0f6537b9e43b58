"""Failures of creates through a real node, and what a person sees.

In each case the question is whether the create was carried out. The relay answers it, or lists the create as unknown.
"""

import asyncio
import contextlib
import json
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from relay.proxy.transport import MAX_ANSWER_BYTES
from relay.sandbox.bodies import DISPATCH_PATH, dispatch_body
from tests.support.create_world import open_create_world
from tests.support.peer import open_peer
from tests.support.process_world import WITHOUT_BYTE_CODE
from tests.support.relay_world import API_KEY, SETTINGS, RelayWorld, open_relay_world

LIMIT_BYTES = 16_384
"""Below the size of the database and its log, so that no more can be written to them."""
HASTY = "server: {shutdown_seconds: 1}\n"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with open_relay_world(tmp_path) as world:
        yield world


def body_of(number: int = 0) -> bytes:
    return orjson.dumps(dispatch_body(number))


async def send(world: RelayWorld, number: int = 0, key: str | None = None) -> tuple[int, Any]:
    """Sends a create through the relay. Returns the status and the JSON, or the bytes if it is not JSON."""
    headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
    if key is not None:
        headers["Idempotency-Key"] = key
    url = f"{world.url}{DISPATCH_PATH}"
    async with world.session.post(url, data=body_of(number), headers=headers) as response:
        content = await response.read()
        with contextlib.suppress(orjson.JSONDecodeError):
            return response.status, orjson.loads(content)
        return response.status, content


async def fault(world: RelayWorld, kind: str, **fields: Any) -> None:
    """Makes the next create fail, but no polls."""
    body = {"kind": kind, "count": 1, "method": "POST", **fields}
    status, answer = await world.call("POST", "/_sandbox/faults", body, url=world.sandbox_url)
    assert status == 201, answer


async def made(world: RelayWorld) -> list[str]:
    """The jobs made at the upstream."""
    status, document = await world.call("GET", "/_sandbox/jobs", url=world.sandbox_url)
    assert status == 200
    return [job["id"] for job in document["jobs"]]


async def received(world: RelayWorld) -> int:
    """The number of creates the upstream received."""
    _, document = await world.call("GET", "/_sandbox/requests", url=world.sandbox_url)
    return int(document["by_kind"].get("POST dispatch", 0))


async def tracked(world: RelayWorld) -> list[str]:
    return [job["id"] for job in (await world.get("/v1/jobs"))["items"]]


async def suspects(world: RelayWorld, reason: str, number: int = 0, **fields: Any) -> dict[str, Any]:
    """The one create of unknown outcome, as the API, /readyz and the command line show it."""
    (intent,) = map(unnamed, (await world.get("/v1/intents"))["items"])
    wanted = {
        "account": "default",
        "body_digest": f"sha256:{sha256(body_of(number)).hexdigest()}",
        "idempotency_key": None,
        "path": DISPATCH_PATH,
        "reason": reason,
        "source": "revor",
        "status_code": None,
        **fields,
    }
    assert {name: intent[name] for name in wanted} == wanted
    status, document = await world.call("GET", "/readyz")
    assert status == 200
    assert "what came of 1 create is unknown: see GET /v1/intents" in document["notes"]
    code, lines = await world.run("intents", "list", "--json")
    assert code == 0
    assert list(map(unnamed, json.loads("\n".join(lines)))) == [intent]
    return intent


def unnamed(intent: dict[str, Any]) -> dict[str, Any]:
    """Without the name of its sending account, which the first listing of accounts brings."""
    return {name: value for name, value in intent.items() if name != "connect_account_name"}


async def suspects_none(world: RelayWorld, *, source_is_down: bool = False) -> None:
    assert (await world.get("/v1/intents"))["items"] == []
    status, document = await world.call("GET", "/readyz")
    notes = [note for note in document["notes"] if not (source_is_down and "/v1/sources" in note)]
    assert (status, notes) == (200, [])
    code, lines = await world.run("intents", "list")
    assert (code, lines) == (0, ["no intents: the fate of every create is known"])


async def until_measured(world: RelayWorld, unknown: int) -> None:
    """Waits until the metric has this value."""

    async def is_measured() -> bool:
        return f"relay_intents_unknown {float(unknown)}\n" in await world.get("/metrics")

    await world.until(is_measured, f"relay_intents_unknown does not become {unknown}")


async def until_reported(world: RelayWorld, intent: dict[str, Any]) -> dict[str, Any]:
    """Waits for the event about the create and returns its data. There is never a second one."""
    path = f"/v1/events?type=relay.create.unknown&subject={intent['id']}"

    async def reported() -> bool:
        return bool((await world.get(path))["items"])

    await world.until(reported, "no event reports it")
    (event,) = (await world.get(path))["items"]
    data: dict[str, Any] = event["data"]
    given = intent["idempotency_key"] is not None
    assert (event["source"], data["intent"], data["path"]) == ("/relay", intent["id"], DISPATCH_PATH)
    assert (data["cause"], data["idempotency_key_given"]) == (intent["reason"], given)
    assert ("Idempotency-Key" in data["fix"]) == given
    for text in (json.dumps(intent), json.dumps(event)):
        assert not [secret for secret in said_of(dispatch_body(0)) if secret in text]
    return data


def said_of(body: dict[str, Any]) -> list[str]:
    """What no list or event may show: recipient and text."""
    return [value for part in ("recipient", "content") for value in body[part].values()]


@dataclass(kw_only=True)
class Between:
    """A gate between relay and upstream. While `holding`, the upstream's answers wait for `go_on`."""

    url: str
    holding: bool = False
    came: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while the answer to a create is held."""
    read: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while another answer is held."""
    go_on: asyncio.Event = field(default_factory=asyncio.Event)


@contextlib.asynccontextmanager
async def between(world: RelayWorld, at: socket.socket | None = None) -> AsyncIterator[Between]:
    """Serves at a free port, or at a bound socket."""
    there_port = int(world.sandbox_url.rpartition(":")[2])

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        creates = False  # whether the last request on this connection is a create

        async def copy_requests() -> None:
            nonlocal creates
            with contextlib.closing(back), contextlib.suppress(ConnectionError):
                while data := await reader.read(65_536):
                    if b" HTTP/1.1\r\n" in data:
                        creates = data.startswith(f"POST {DISPATCH_PATH}".encode())
                    back.write(data)

        async def copy_answers() -> None:
            with contextlib.closing(writer), contextlib.suppress(ConnectionError):
                while data := await there.read(65_536):
                    if found.holding:
                        (found.came if creates else found.read).set()
                        await found.go_on.wait()
                    writer.write(data)

        there, back = await asyncio.open_connection("127.0.0.1", there_port)
        await asyncio.gather(copy_requests(), copy_answers())

    listener = at or socket.create_server(("127.0.0.1", 0))
    found = Between(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
    async with open_peer(connected, listener=listener):
        try:
            yield found
        finally:
            found.go_on.set()


# --- nothing was sent


async def test_upstream_refuses_the_connection_of_a_create(world: RelayWorld) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound, but not listening
        await world.serve(REVOR_BASE_URL=f"http://127.0.0.1:{reserved.getsockname()[1]}")
        status, document = await send(world)
        assert (status, document["ok"], document["error"]["code"]) == (502, False, "relay_upstream_unreachable")
        assert "Nothing was sent" in document["error"]["message"]
        await suspects_none(world, source_is_down=True)
        async with between(world, reserved):
            status, document = await send(world)  # safe to send again, also without a key
            assert status == 202
            assert await made(world) == await tracked(world) == [document["item"]["id"]]
            await suspects_none(world, source_is_down=True)  # until it is tried again


async def test_database_cannot_be_written_before_a_create(world: RelayWorld) -> None:
    relay = await world.serve(**WITHOUT_BYTE_CODE)
    reported = [(await send(world))[1]["item"]["id"]]
    relay.limit(resource.RLIMIT_FSIZE, LIMIT_BYTES)
    for number in range(1, 50):  # there may be room for a few
        status, document = await send(world, number)
        if status != 202:
            break
        reported.append(document["item"]["id"])
    assert (status, document["error"]["code"]) == (503, "relay_database_unavailable")
    assert "Nothing was sent" in document["error"]["message"]
    assert await received(world) == len(reported)
    assert (await world.call("GET", "/readyz"))[0] == 503

    relay.limit(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
    await world.until_ready()
    status, document = await send(world, number)
    assert status == 202
    reported.append(document["item"]["id"])
    assert sorted(await made(world)) == sorted(await tracked(world)) == sorted(reported)
    await suspects_none(world)


# --- it was sent, and reserved knows what came of it


@pytest.mark.parametrize("kind", ["timeout", "truncated"])
async def test_upstream_disconnects_after_receiving_a_create(world: RelayWorld, kind: str) -> None:
    await world.serve()
    await fault(world, kind, hold_seconds=0)
    status, document = await send(world, key="one")
    assert (status, document["ok"], document["error"]["code"]) == (502, False, "relay_outcome_unknown")
    assert await received(world) == 1  # never sent twice by us
    intent = await suspects(world, "no_answer", idempotency_key="one")
    assert intent["id"] in document["error"]["message"]
    assert await tracked(world) == []

    await world.end()
    await world.serve()  # it is still there after a restart
    await until_measured(world, 1)
    assert await suspects(world, "no_answer", idempotency_key="one") == intent

    status, document = await send(world, key="one")  # the upstream answers with the original
    assert status == 202
    assert await made(world) == await tracked(world) == [document["item"]["id"]]
    await suspects_none(world)


async def test_create_of_unknown_outcome_without_a_key(world: RelayWorld) -> None:
    await world.serve()
    await fault(world, "timeout", hold_seconds=0, after_effect=False)
    status, document = await send(world)
    assert (status, document["error"]["code"]) == (502, "relay_outcome_unknown")
    intent = await suspects(world, "no_answer")
    assert await made(world) == []  # a person finds that out at the upstream
    code, lines = await world.run("intents", "dismiss", intent["id"])
    assert (code, lines) == (0, [f"{intent['id']} is removed from the list"])
    await suspects_none(world)
    code, lines = await world.run("intents", "dismiss", intent["id"])
    assert (code, lines) == (2, [f"relay: there is no create '{intent['id']}' whose fate is unknown"])


async def test_person_resolves_a_create(world: RelayWorld) -> None:
    await world.serve()
    await world.subscribe("relay.create.unknown")
    for number, (fate, options) in enumerate((("not_sent", []), ("sent", []), ("sent", ["--job-id"]))):
        after_effect = fate == "sent"
        await fault(world, "timeout", hold_seconds=0, after_effect=after_effect)
        assert (await send(world, number))[0] == 502
        intent = await suspects(world, "no_answer", number)
        data = await until_reported(world, intent)
        assert data["connect_account_id"] == dispatch_body(number)["account_id"]
        await world.until(lambda count=number: len(world.received) > count, "the event does not arrive")
        job_id = [*(await made(world)), ""][0 if number < 2 else 1] if options else ""
        code, lines = await world.run(
            "intents", "resolve", intent["id"], "--fate", fate, *options, *filter(None, [job_id])
        )
        assert code == 0, lines
        await suspects_none(world)
        assert ([job_id] if options else []) == await tracked(world)
        code, lines = await world.run("intents", "resolve", intent["id"], "--fate", "sent")
        assert (code, lines) == (2, [f"relay: {intent['id']} was resolved already: {fate}"])
    code, lines = await world.run("intents", "resolve", intent["id"], "--fate", "perhaps")
    refusal = "Invalid value for '--fate': 'perhaps' is not one of 'sent', 'not_sent'"
    assert (code, lines) == (2, [f"relay: {refusal}. See `relay intents resolve --help`"])


async def test_upstream_never_answers_a_create(tmp_path: Path) -> None:
    async with open_create_world(tmp_path, "never answers", "sqlite") as callers:
        world, session = callers.world, callers.world.session
        world.relay.constants["relay.proxy.transport:SILENCE_SECONDS"] = 0.2  # in place of five minutes
        await world.relay.serve()
        await world.relay.ready(session)
        silence = {"kind": "timeout", "count": 1, "method": "POST", "hold_seconds": 60}
        async with session.post(f"{world.sandbox_url}/_sandbox/faults", json=silence) as response:
            assert response.status == 201
        headers = {"Authorization": f"Bearer {API_KEY}", "Idempotency-Key": "one"}
        url = f"{world.relay.url}{DISPATCH_PATH}"
        async with session.post(url, data=body_of(), headers=headers) as response:
            assert response.status == 502
            assert (await response.json())["error"]["code"] == "relay_outcome_unknown"
        (intent,) = (await world.get("/v1/intents"))["items"]
        assert (intent["reason"], intent["idempotency_key"]) == ("no_answer", "one")
        async with session.post(url, data=body_of(), headers=headers) as response:
            assert response.status == 202
            job_id = (await response.json())["item"]["id"]
        assert list(await world.truths()) == [job_id]
        assert (await world.get("/v1/intents"))["items"] == []


@pytest.mark.parametrize(("kind", "status_code"), [("500", 500), ("502", 502)])
@pytest.mark.parametrize("is_made", [True, False], ids=["carried out", "not carried out"])
async def test_create_answered_with_a_server_error(
    world: RelayWorld, kind: str, status_code: int, is_made: bool
) -> None:
    await world.serve()
    await fault(world, kind, after_effect=is_made)
    status, document = await send(world, key="one")
    assert status == status_code  # unchanged
    assert document["error"]["code"] == "internal_error" if kind == "500" else document.startswith(b"<html>")
    assert len(await made(world)) == is_made  # the answer does not prove it
    await suspects(world, "server_error", idempotency_key="one", status_code=status_code)

    status, document = await send(world, key="one")
    assert status == 202
    assert await made(world) == await tracked(world) == [document["item"]["id"]]
    await suspects_none(world)


async def test_create_that_the_upstream_did_not_carry_out(world: RelayWorld) -> None:
    await world.serve()
    for kind, status_code, code in (("503", 503, "task_unavailable"), ("429", 429, "api_rate_limit_exceeded")):
        await fault(world, kind)
        status, document = await send(world)
        assert (status, document["error"]["code"]) == (status_code, code)
        await suspects_none(world)
    assert await made(world) == await tracked(world) == []


@pytest.mark.parametrize(
    ("kind", "looks_like"),
    [
        ("malformed_json", lambda answer: answer.endswith(b",,")),
        ("wrong_content_type", lambda answer: answer.startswith(b"<!doctype html>")),
        ("oversized", lambda answer: len(answer["padding"]) > MAX_ANSWER_BYTES),
    ],
)
async def test_unreadable_answer_to_a_create(world: RelayWorld, kind: str, looks_like: Callable[[Any], bool]) -> None:
    await world.serve()
    await fault(world, kind)
    status, answer = await send(world, key="one")
    assert status == 202
    assert looks_like(answer), answer  # unchanged, to the last byte
    await suspects(world, "unreadable", idempotency_key="one", status_code=202)
    assert await tracked(world) == []

    status, document = await send(world, key="one")
    assert status == 202
    assert await made(world) == await tracked(world) == [document["item"]["id"]]
    await suspects_none(world)


# --- it was sent, and something else went wrong


async def test_database_fails_during_a_create(world: RelayWorld) -> None:
    async with between(world) as upstream:
        relay = await world.serve(REVOR_BASE_URL=upstream.url, **WITHOUT_BYTE_CODE)
        upstream.holding = True
        answer = asyncio.create_task(send(world))
        await upstream.came.wait()
        relay.limit(resource.RLIMIT_FSIZE, LIMIT_BYTES)
        upstream.go_on.set()
        status, document = await answer
        assert status == 202  # the caller has to know
        await world.said('"job_not_recorded"')
        assert await made(world) == [document["item"]["id"]]

        relay.limit(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
        await world.said('"job_recorded_late"')
        assert await tracked(world) == [document["item"]["id"]]
        await world.until_ready()
        await suspects_none(world)


async def test_relay_killed_during_a_create(world: RelayWorld) -> None:
    async with between(world) as upstream:
        await world.serve(REVOR_BASE_URL=upstream.url)
        upstream.holding = True
        answer = asyncio.create_task(send(world, key="one"))
        await upstream.came.wait()
        assert (await world.get("/v1/intents"))["items"] == []  # it is in flight
        await world.end(signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            await answer
        upstream.holding = False
        upstream.go_on.set()

        await world.serve(REVOR_BASE_URL=upstream.url)
        intent = await suspects(world, "cut_off", idempotency_key="one")
        await until_measured(world, 1)
        await until_reported(world, intent)
        await world.end(signal.SIGKILL)
        await world.serve(REVOR_BASE_URL=upstream.url)
        await world.until_ready()
        await until_reported(world, intent)  # and not again
        status, document = await send(world, key="one")
        assert status == 202
        assert await made(world) == await tracked(world) == [document["item"]["id"]]
        await suspects_none(world)


async def test_sigterm_during_a_create(world: RelayWorld) -> None:
    async with between(world) as upstream:
        await world.serve(REVOR_BASE_URL=upstream.url)
        upstream.holding = True
        answer = asyncio.create_task(send(world))
        await upstream.came.wait()
        world.send(signal.SIGTERM)
        await world.until(lambda: _refuses(world), "it does not end")
        upstream.holding = False
        upstream.go_on.set()
        status, document = await answer  # the create finishes first
        assert status == 202
        assert await world.ended() == 0
        await world.serve(REVOR_BASE_URL=upstream.url)
        assert await made(world) == await tracked(world) == [document["item"]["id"]]
        await suspects_none(world)


async def test_create_that_outlasts_the_shutdown_time(world: RelayWorld) -> None:
    async with between(world) as upstream:
        world.settings(SETTINGS, more=HASTY)
        await world.serve(REVOR_BASE_URL=upstream.url)
        upstream.holding = True
        reading = asyncio.create_task(world.call("GET", "/api/v1/connect/accounts"))
        await upstream.read.wait()
        creating = asyncio.create_task(send(world, key="one"))
        await upstream.came.wait()
        assert await world.end() == 0
        status, document = await reading
        assert (status, document["error"]["code"]) == (502, "relay_upstream_no_answer")
        status, document = await creating
        assert (status, document["error"]["code"]) == (502, "relay_outcome_unknown")
        assert [line for line in world.lines if "Traceback" in line] == []
        upstream.holding = False
        upstream.go_on.set()
        await world.serve(REVOR_BASE_URL=upstream.url)
        intent = await suspects(world, "no_answer", idempotency_key="one")
        assert intent["id"] in document["error"]["message"]
        assert (await send(world, key="one"))[0] == 202
        assert len(await made(world)) == 1
        await suspects_none(world)


async def test_caller_disconnects_during_a_create(world: RelayWorld) -> None:
    async with between(world) as upstream:
        await world.serve(REVOR_BASE_URL=upstream.url)
        upstream.holding = True
        answer = asyncio.create_task(send(world))
        await upstream.came.wait()
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        upstream.holding = False
        upstream.go_on.set()

        async def is_tracked() -> bool:
            return await tracked(world) == await made(world) != []

        await world.until(is_tracked, "the job that it made is not tracked")
        await suspects_none(world)


def _refuses(world: RelayWorld) -> bool:
    """True if it accepts no more connections."""
    host, _, port = world.url.rpartition("/")[2].partition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port))):
        return False
    return True
