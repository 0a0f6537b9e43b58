"""Attempts as a relay process records and reports them, with sinks on real sockets: timings, report, support text."""

import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.requests import Request
from starlette.responses import Response

from tests.support.relay_world import API_KEY, SETTINGS, RelayWorld, open_relay_world

QUERY_SECRET = "planted-query-7Hq2xZ"
HEADER_SECRET = "planted-header-9Kd4wY"
PATH_SECRET = "planted-path-5Tn8vR"
METADATA_SECRET = "planted-metadata-3Lm6uQ"
TOKEN = "rl_planted-token-1Bp5sW-and-some-more-characters-so-that-it-is-long"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with open_relay_world(tmp_path) as world:
        yield world


async def ended(world: RelayWorld, subscription: str, count: int, state: str = "delivered") -> list[dict[str, Any]]:
    """The deliveries of a subscription, oldest first, once the given number is in this state."""
    found: list[dict[str, Any]] = []

    async def all_ended() -> bool:
        found[:] = (await world.get(f"/v1/deliveries?subscription={subscription}&state={state}"))["items"]
        return len(found) >= count

    await world.until(all_ended, f"no {count} {state} deliveries")
    return [await world.get(f"/v1/deliveries/{one['id']}") for one in reversed(found)]


async def test_support_text_has_all_attempts_and_no_secret(world: RelayWorld) -> None:
    async def echo(request: Request) -> Response:
        body = f"{request.url} {dict(request.headers)} key {API_KEY}".encode()
        if request.url.path.endswith("binary"):
            body = b"\xff\xfe" + body
        return Response(body, 500, {"x-echo": str(request.url), "x-request-id": "req-of-the-sink"})

    world.answering = echo
    world.settings(SETTINGS.replace("[0.1s, 0.2s, 0.5s, 1s, 1s, 1s, 2s, 2s, 2s, 2s]", "[0.1s]"))
    await world.serve(RELAY_AUTH__TOKENS=json.dumps([{"name": "ops", "token": TOKEN, "scopes": ["admin"]}]))
    world.session.headers["Authorization"] = f"Bearer {TOKEN}"
    made = [
        await world.subscribe(
            "ai.revor.job.succeeded",
            sink=f"{world.sink_url}/{PATH_SECRET}/{end}?code={QUERY_SECRET}",
            protocolsettings={"headers": {"X-Own-Token": HEADER_SECRET}},
        )
        for end in ("text", "binary")
    ]
    job_id = await world.upstream_job()
    status, job = await world.call("POST", "/v1/jobs", {"id": job_id, "metadata": {"deal": METADATA_SECRET}})
    assert status == 201
    dead = [(await ended(world, one["id"], 1, "dead"))[0] for one in made]
    planted = [QUERY_SECRET, HEADER_SECRET, PATH_SECRET, METADATA_SECRET, TOKEN, API_KEY]
    planted += [one["config"]["secret"].removeprefix("whsec_") for one in made]
    ids = [job_id, job["uid"], dead[0]["event_id"], dead[0]["id"], dead[1]["id"], made[0]["id"]]
    for id in ids:
        code, lines = await world.run("support", id, RELAY_TOKEN=TOKEN)
        text = "\n".join(lines)
        assert code == 0, text
        assert id in lines[0]
        for secret in planted:
            assert secret not in text, (secret, text)
            assert secret.encode().hex() not in text, (secret, text)
        for what in (
            *("/readyz: ok", "source revor/default: state: ok", "ai.revor.job.succeeded", "state: dead"),
            *("HTTP 500 (attempt 2 of 2): given up, no attempt is left", "sink: http://127.0.0.1:"),
            *("x-request-id: req-of-the-sink", "own headers: X-Own-Token"),
        ):
            assert what in text, (what, text)
    for shown in dead:
        code, lines = await world.run("deliveries", "show", shown["id"], RELAY_TOKEN=TOKEN)
        assert code == 0
        for secret in set(planted) - {PATH_SECRET}:  # the path of a webhook is shown where its settings are
            assert secret not in "\n".join(lines)
    code, lines = await world.run("support", "dlv_nobody", RELAY_TOKEN=TOKEN)
    assert (code, lines) == (2, ["relay: there is no job, event, delivery or subscription 'dlv_nobody'"])


async def test_database_holds_no_credential_that_a_sink_gives_back(world: RelayWorld) -> None:
    """The sink gives back what it got, plain and escaped, in headers and in the body."""
    credentials = [f"{secret}/and+more" for secret in (QUERY_SECRET, HEADER_SECRET, PATH_SECRET)]
    escapes: list[Callable[[str], str]] = [
        str,
        lambda one: json.dumps(one).replace("/", "\\/"),
        lambda one: "".join(f"\\u{ord(character):04x}" for character in one),
        lambda one: quote(one, safe=""),
        lambda one: one.replace("/", "&#x2F;").replace("+", "&plus;"),
    ]

    async def echo(_request: Request) -> Response:
        said = [escape(one) for escape in escapes for one in credentials]
        return Response("\n".join(said), 500, {f"x-echo-{number}": one for number, one in enumerate(said)})

    world.answering = echo
    world.settings(SETTINGS.replace("[0.1s, 0.2s, 0.5s, 1s, 1s, 1s, 2s, 2s, 2s, 2s]", "[0.1s]"))
    await world.serve()
    made = await world.subscribe(
        "ai.revor.job.succeeded",
        sink=f"{world.sink_url}/{quote(credentials[2], safe='')}?code={quote(credentials[0], safe='')}",
        protocolsettings={"headers": {"X-Own-Token": credentials[1], "X-Note": f"with {credentials[1]}"}},
    )
    await world.job()
    (dead,) = await ended(world, made["id"], 1, "dead")
    assert dead["attempts"][0]["response_headers"]["x-echo-0"] == "[redacted]"
    assert "[redacted]" in dead["attempts"][0]["response_excerpt"]
    with closing(sqlite3.connect(next(world.folder.glob("*.db")))) as database:
        rows = [repr(row) for row in database.execute("SELECT * FROM attempts")]
        rows += [repr(row) for row in database.execute("SELECT reason FROM deliveries")]
        rows += [repr(row) for row in database.execute("SELECT failing_reason, state_reason FROM subscriptions")]
    for text in rows:
        for escape in escapes:
            for part in (QUERY_SECRET, HEADER_SECRET, PATH_SECRET):
                assert escape(part).strip('"') not in text
                assert escape(part).strip('"').replace("\\", "\\\\") not in text
