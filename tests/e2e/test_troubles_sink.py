"""Each trouble of a sink, over real connections: the attempt recorded, the events kept, and how to fix it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from tests.support.connect_proxy import ConnectProxy, open_connect_proxy
from tests.support.peer import open_peer
from tests.support.relay_world import API_KEY, SETTINGS, RelayWorld, open_relay_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with open_relay_world(tmp_path) as world:
        yield world


async def attempts(world: RelayWorld, subscription: str, state: str) -> list[dict[str, Any]]:
    """The attempts of the subscription's first delivery in this state."""
    found: list[dict[str, Any]] = []

    async def has_some() -> bool:
        items = (await world.get(f"/v1/deliveries?subscription={subscription}&state={state}"))["items"]
        for item in items:
            found.extend((await world.get(f"/v1/deliveries/{item['id']}"))["attempts"])
        return bool(found)

    await world.until(has_some, f"no {state} delivery with an attempt")
    return found


async def state_of(world: RelayWorld, subscription: str) -> dict[str, Any]:
    shown: dict[str, Any] = await world.get(f"/v1/subscriptions/{subscription}")
    return shown


async def disabled(world: RelayWorld, subscription: str) -> bool:
    return bool((await state_of(world, subscription))["state"] == "disabled")


async def test_410_disables(world: RelayWorld) -> None:
    status = 410

    async def gone(_request: Request) -> Response:
        return PlainTextResponse("gone", status)

    world.answering = gone
    await world.serve()
    made = await world.subscribe("ai.revor.job.running", "ai.revor.job.succeeded")
    job_id = await world.job()
    await world.until(lambda: disabled(world, made["id"]))
    later = await world.job()
    (event,) = (await world.get("/v1/events?type=relay.subscription.disabled"))["items"]
    assert made["id"] in str(event["data"])
    assert world.received == []
    status = 200
    code, lines = await world.run("subscriptions", "resume", made["id"])
    assert code == 0, lines
    await world.until_delivered([job_id, later])  # what was held, and what was recorded meanwhile


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_pauses(world: RelayWorld, status: int) -> None:
    came: list[float] = []

    async def busy(_request: Request) -> Response:
        came.append(time.monotonic())
        return PlainTextResponse("later", status if len(came) == 1 else 200, {"retry-after": "2"})

    world.answering = busy
    await world.serve()
    made = await world.subscribe("ai.revor.job.running", "ai.revor.job.succeeded")
    job_ids = [await world.job()]
    tried = await attempts(world, made["id"], "pending")
    assert tried[0]["status_code"] == status
    job_ids += [await world.job() for _ in range(2)]  # these wait as well
    pending = (await world.get(f"/v1/deliveries?subscription={made['id']}&state=pending"))["items"]
    assert any(one["next_attempt_at"] is not None for one in pending)
    await world.until_delivered(job_ids)
    assert came[1] - came[0] >= 1.99
    assert (await state_of(world, made["id"]))["state"] == "enabled"


async def test_long_failures_disable(world: RelayWorld) -> None:
    world.settings(SETTINGS.replace("delivery:\n", "delivery:\n  disable_after_seconds: 1\n"))
    healthy = False

    async def ill(_request: Request) -> Response:
        return PlainTextResponse("", 200 if healthy else 500)

    world.answering = ill
    await world.serve()
    made = await world.subscribe("ai.revor.job.running", "ai.revor.job.succeeded")
    job_id = await world.job()
    await world.until(lambda: disabled(world, made["id"]))
    assert (await state_of(world, made["id"]))["disabled_reason"]
    later = await world.job()
    assert (await world.get("/v1/events?type=relay.subscription.disabled"))["items"]
    healthy = True
    assert (await world.run("subscriptions", "resume", made["id"]))[0] == 0
    await world.until_delivered([job_id, later])


async def test_exhausted_schedule_ends_in_a_dead_delivery(world: RelayWorld) -> None:
    world.settings(SETTINGS.replace("[0.1s, 0.2s, 0.5s, 1s, 1s, 1s, 2s, 2s, 2s, 2s]", "[0.1s]"))
    bad = ""

    async def choosy(request: Request) -> Response:
        return PlainTextResponse("", 500 if (await request.json())["subject"] == bad else 200)

    world.answering = choosy
    await world.serve()
    made = await world.subscribe("ai.revor.job.succeeded")
    bad = await world.upstream_job()
    assert (await world.call("POST", "/v1/jobs", {"id": bad}))[0] == 201
    tried = await attempts(world, made["id"], "dead")
    assert [one["number"] for one in tried] == [1, 2]
    await world.until_delivered([await world.job()])  # the others go on
    assert (await world.get("/v1/events?type=relay.delivery.expired"))["items"]
    code, lines = await world.run("deliveries", "list", "--state", "dead", "--json")
    assert code == 0, lines
    (dead,) = (await world.get("/v1/deliveries?state=dead"))["items"]
    assert dead["id"] in lines[0]
    code, lines = await world.run("deliveries", "list", "--state", "dead", "--group-by", "reason,sink,day")
    assert code == 0, lines
    count, reason, subscription = lines[1].split("\t")[:3]
    assert (count, reason, subscription) == ("1", "http_500", made["id"])
    assert dead["id"] in lines[1]
    job_id, bad = bad, ""
    assert (await world.run("deliveries", "retry", dead["id"]))[0] == 0
    await world.until_delivered([job_id])


async def test_rejected_signature_is_explained_by_verify(world: RelayWorld, tmp_path: Path) -> None:
    kept: list[bytes] = []

    async def strict(request: Request) -> Response:
        head = b"".join(b"%s: %s\r\n" % pair for pair in request.headers.raw)
        kept.append(b"POST /hook HTTP/1.1\r\n" + head + b"\r\n" + await request.body())
        return PlainTextResponse("bad signature", 400)

    world.answering = strict
    await world.serve()
    made = await world.subscribe("ai.revor.job.succeeded")
    await world.job()
    tried = await attempts(world, made["id"], "pending")
    assert "bad signature" in tried[0]["response_excerpt"]
    request = tmp_path / "request.txt"
    request.write_bytes(kept[0])
    code, lines = await world.run("verify", "--secret", made["config"]["secret"], str(request))
    assert code == 0, lines
    code, lines = await world.run("verify", "--secret", "whsec_" + "A" * 32, str(request))
    assert code == 1
    assert any("secret" in line for line in lines), lines
    request.write_bytes(kept[0].replace(b'"specversion"', b' "specversion"'))
    code, lines = await world.run("verify", "--secret", made["config"]["secret"], str(request))
    assert code == 1


async def test_forbidden_sink_is_refused(world: RelayWorld) -> None:
    await world.serve()
    made = await world.subscribe("ai.revor.job.succeeded")
    assert await world.end() == 0
    world.settings(SETTINGS.partition("security:")[0])
    await world.serve()
    status, problem = await world.call("POST", "/v1/subscriptions", {"sink": world.sink_url})
    assert (status, problem["code"]) == (422, "sink_refused")
    assert "security.allow_" in problem["detail"]
    job_id = await world.job()  # one that was allowed once is judged again at every attempt
    tried = await attempts(world, made["id"], "pending")
    assert tried[0]["error"].startswith("refused: ")
    assert "security.allow_" in tried[0]["error"]
    assert world.received == []
    assert await world.end() == 0
    world.settings()
    await world.serve()
    await world.until_delivered([job_id])


async def test_relay_as_its_own_sink_is_refused(world: RelayWorld) -> None:
    world.settings(more="server: {public_url: https://relay.example.com}\n")
    await world.serve()
    port = world.url.rpartition(":")[2]
    made = await world.subscribe("ai.revor.job.succeeded")
    for own in (f"{world.url}/v1/jobs", f"http://localhost:{port}/", "https://relay.example.com/hook"):
        for method, path, body in (
            ("POST", "/v1/subscriptions", {"sink": own}),
            ("PUT", f"/v1/subscriptions/{made['id']}", {"sink": own}),
            ("POST", "/v1/jobs", {"id": "a", "callback_url": own}),
        ):
            status, refused = await world.call(method, path, body)
            assert (status, refused["code"]) == (422, "sink_refused"), refused
            assert "itself" in refused["detail"]
        status, answer = await world.call("POST", "/v1/jobs/batch", {"jobs": [{"id": "a", "callback_url": own}]})
        assert (status, answer["rejected"][0]["code"]) == (200, "sink_refused")
    assert (await state_of(world, made["id"]))["sink"] == world.sink_url


async def test_loop_through_another_host_is_detected(world: RelayWorld) -> None:
    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", int(world.url.rpartition(":")[2]))

        async def pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.closing(target), contextlib.suppress(ConnectionError):
                while part := await source.read(65536):
                    target.write(part)

        await asyncio.gather(pipe(reader, back), pipe(there, writer))

    async with open_peer(pass_on) as detour:
        await world.serve()
        made = await world.subscribe("ai.revor.job.succeeded", sink=f"http://127.0.0.1:{detour}/v1/jobs")
        await world.job()
        tried = await attempts(world, made["id"], "pending")
        assert tried[0]["status_code"] == 508
        assert "loop_detected" in tried[0]["response_excerpt"]
        assert await world.end() == 0


async def test_egress_proxy_that_fails_is_named_and_disables_nothing(world: RelayWorld) -> None:
    async with open_connect_proxy(ConnectProxy(credentials="relay:hush-hush")) as proxy:
        proxy.answer = b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n"
        settings = SETTINGS.replace("delivery:\n", "delivery:\n  disable_after_seconds: 0.5\n")
        world.settings(
            settings.replace("127.0.0.0/8]", f"127.0.0.0/8], egress_proxy: '{proxy.url('relay:hush-hush')}'")
        )
        await world.serve()
        made = await world.subscribe("ai.revor.job.succeeded")
        job_id = await world.job()

        async def failed_for_long() -> bool:
            return len(await attempts(world, made["id"], "pending")) >= 5

        await world.until(failed_for_long, "not tried five times")
        tried = await attempts(world, made["id"], "pending")
        assert tried[0]["error"] == "proxy: the egress proxy could not connect to the sink (503)"
        assert tried[0]["remote_ip"] is None
        assert (await state_of(world, made["id"]))["state"] == "enabled"
        assert world.received == []
        proxy.answer = None
        await world.until_delivered([job_id])
        code, lines = await world.run("deliveries", "list", "--json")
        assert code == 0
        assert await world.end() == 0
        assert set(proxy.places) == {world.sink_url.split("/")[2]}
    assert "hush-hush" not in "\n".join([*world.lines, *lines])


async def test_check_names_an_egress_proxy_that_does_not_filter(world: RelayWorld) -> None:
    async with open_connect_proxy() as proxy:
        world.settings(
            SETTINGS.replace("127.0.0.0/8]", f"127.0.0.0/8], egress_proxy: '{proxy.url('relay:hush-hush')}'")
        )
        for answer, code, told in (
            (None, 2, f"it connects to 127.0.0.1:{proxy.port}"),
            (b"HTTP/1.1 403 Forbidden\r\n\r\n", 0, "does not connect to its own loopback address"),
            (b"HTTP/1.1 407 Who\r\n\r\n", 2, "refuses the credentials (407)"),
        ):
            proxy.answer = answer
            known = {"REVOR_API_KEY": API_KEY, "REVOR_BASE_URL": world.sandbox_url}
            found, lines = await world.run("check", **known)
            assert found == code, lines
            assert any("egress proxy" in line and told in line for line in lines), lines
            assert "hush-hush" not in "\n".join(lines)
