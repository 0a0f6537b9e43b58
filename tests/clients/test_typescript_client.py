"""The TypeScript client against a relay that runs: its verbs, its verifier, what it sends again, and what it refuses.

`UPDATE_CLIENTS=1 pytest tests/clients/test_typescript_client.py` writes its types anew: read the difference.
"""

import asyncio
import base64
import contextlib
import inspect
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook

import relay
from relay.api.app import openapi_json
from revor_relay_client import Receiver, VerificationError, verify
from revor_relay_client import Relay as PythonRelay
from tests.support.api_world import SETTINGS
from tests.support.cut_proxy import cut_proxy
from tests.support.npm import typescript_client
from tests.support.process_world import API_TOKEN
from tests.support.relay_world import RelayWorld, open_relay_world
from tests.support.typed import ROOT, blocks, prompts, with_places

pytestmark = pytest.mark.verify

RUN_SECONDS = 120
README = "clients/typescript/README.md"
SECRET, OTHER_SECRET = (f"whsec_{base64.b64encode(bytes([n] * 32)).decode()}" for n in (1, 2))
ENDS = ("succeeded", "failed", "cancelled", "not_found")
BIG = 9_007_199_254_740_993
"""The first integer that a number of JavaScript cannot hold."""


@pytest.fixture(scope="module")
def client() -> Path:
    """The folder of the client, built."""
    return typescript_client()


@pytest.fixture
def folder(client: Path, tmp_path: Path) -> Path:
    """A folder in whose programs `revor-relay-client` is the client."""
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "revor-relay-client").symlink_to(client)
    return tmp_path


@pytest.fixture
async def world(folder: Path) -> AsyncIterator[RelayWorld]:
    async with asyncio.timeout(300), open_relay_world(folder) as world:
        await world.serve()
        yield world


async def ran(folder: Path, program: str, **variables: str) -> tuple[int, str, str]:
    """Runs a module of JavaScript: its exit code, its output and its errors."""
    path = folder / "program.mjs"
    path.write_text(program, encoding="utf-8")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REVOR_"))}
    process = await asyncio.create_subprocess_exec(
        *("node", str(path)),
        cwd=folder,
        env=environ | variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(RUN_SECONDS):
        stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return process.returncode, stdout.decode(), stderr.decode()


async def answers(folder: Path, program: str, **variables: str) -> list[Any]:
    """The JSON lines that a program prints, which must end well."""
    head = 'import * as client from "revor-relay-client";\nimport { Relay, RelayError } from "revor-relay-client";\n'
    head += "const say = (value) => console.log(JSON.stringify(value));\n"
    code, stdout, stderr = await ran(folder, head + program, **variables)
    assert (code, stderr) == (0, ""), (program, stdout, stderr)
    return [json.loads(line) for line in stdout.splitlines()]


def at(world: RelayWorld, url: str = "") -> dict[str, str]:
    return {"RELAY_URL": url or world.url, "RELAY_TOKEN": API_TOKEN}


# --- types


def without_examples(value: Any, *, of_fields: bool = False) -> Any:
    if isinstance(value, list):
        return [without_examples(one) for one in value]
    if not isinstance(value, dict):
        return value
    left_out = () if of_fields else ("example", "examples", "title")
    return {
        name: without_examples(one, of_fields=name in ("properties", "schemas"))
        for name, one in value.items()
        if name not in left_out
    }


def test_types_are_those_of_the_openapi_document(client: Path, tmp_path: Path) -> None:
    document = json.loads(openapi_json(replace(SETTINGS, dev=False)))
    components = without_examples({"schemas": document["components"]["schemas"]})
    (tmp_path / "openapi.json").write_text(
        json.dumps({"openapi": "3.1.0", "info": document["info"], "paths": {}, "components": components})
    )
    options = ("--default-non-nullable=false", "--empty-objects-unknown")
    command = ["npx", "openapi-typescript", str(tmp_path / "openapi.json"), *options, "-o", str(tmp_path / "made.ts")]
    subprocess.run(command, cwd=client, check=True, capture_output=True, timeout=RUN_SECONDS)
    made, kept = (tmp_path / "made.ts").read_text(), client / "src" / "openapi.ts"
    if os.environ.get("UPDATE_CLIENTS"):
        kept.write_text(made)
    assert kept.read_text() == made, "run this test with UPDATE_CLIENTS=1 and commit what it writes"


def test_programs_are_typed_without_types_of_node(folder: Path) -> None:
    (folder / "program.ts").write_text(
        """
import { receiver, Relay, verify, type RelayEvent } from "revor-relay-client";
const relay = new Relay({ url: "https://relay.example.com", token: "rl_x" });
export default { fetch: receiver({ secret: "whsec_" }).on("job.failed", (event) => event.data.problem?.code) };
export async function main(request: Request): Promise<RelayEvent> {
  const job = await relay.track("job", { metadata: { deal: 42 }, priority: "high" });
  const status: string | null = job.status;
  // @ts-expect-error there is no such priority
  await relay.track("job", { priority: "highest" });
  for await (const { event } of relay.stream({ type: "failed" })) console.log(event.sequence, status);
  return verify(request, ["whsec_"]);
}
"""
    )
    readme = blocks((ROOT / README).read_text(encoding="utf-8"), "js")[0]
    declared = "declare const process: { env: Record<string, string | undefined> };\n"
    (folder / "first.mts").write_text(readme + declared)
    options = {"strict": True, "noEmit": True, "target": "es2022", "lib": ["es2022", "dom"], "types": []}
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": {**options, "module": "nodenext"}}))
    command = ["node", str(folder / "node_modules/revor-relay-client/node_modules/typescript/bin/tsc")]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=RUN_SECONDS)
    assert ended.returncode == 0, ended.stdout


def test_client_has_no_dependency_and_its_lock_no_host(client: Path) -> None:
    package = json.loads((client / "package.json").read_text())
    assert "dependencies" not in package
    lock = json.loads((client / "package-lock.json").read_text())
    assert lock["packages"][""]["version"] == package["version"] == relay.__version__
    assert [name for name, one in lock["packages"].items() if "resolved" in one] == []


# --- verbs


async def test_first_program_of_the_readme_runs_as_it_stands(world: RelayWorld, client: Path) -> None:
    page = (ROOT / README).read_text(encoding="utf-8")
    _, install = prompts(blocks(page, "console")[0])
    assert with_places(install, {"./revor-relay/clients/typescript": str(client)}) == f"npm install {client}"
    shutil.rmtree(world.folder / "node_modules")
    command = ["npm", "install", "--offline", str(client)]
    subprocess.run(command, cwd=world.folder, check=True, capture_output=True, timeout=RUN_SECONDS)
    program = blocks(page, "js")[0]
    assert len(program.splitlines()) < 20
    assert prompts(blocks(page, "console")[1])[-1] == "JOB_ID=… node first.mjs"
    job_id = await world.upstream_job()
    code, stdout, stderr = await ran(world.folder, program, **at(world), JOB_ID=job_id)
    assert (code, stderr) == (0, ""), stderr
    assert re.fullmatch(rf"{job_id} succeeded\nverified ai\.revor\.job\.succeeded evt_\w{{26}}\n", stdout), stdout
    assert (await world.get("/v1/subscriptions"))["items"] == []


async def test_signed_request_of_an_unknown_job_is_refused_at_once(world: RelayWorld) -> None:
    program = 'say((await new Relay().signedRequest("x").catch((error) => error)).code);'
    assert await answers(world.folder, program, **at(world)) == ["job_not_found"]


async def test_second_program_of_the_readme_is_a_receiver(world: RelayWorld) -> None:
    program = blocks((ROOT / README).read_text(encoding="utf-8"), "js")[1]
    (world.folder / "worker.mjs").write_text(program)
    serving = world.start(
        'import { serve } from "revor-relay-client/node"; import worker from "./worker.mjs";'
        "console.log((await serve((request) => worker.fetch(request, process.env))).url);",
        program=("node", "--input-type=module", "-e"),
        WEBHOOK_SECRET=(await world.get("/v1/signing-secret"))["secret"],
    )
    url = serving.until(r"(http://\S+)")
    job_id = await world.upstream_job(final="failed")
    status, made = await world.call("POST", "/v1/jobs", {"id": job_id, "callback_url": url})
    assert status == 201, made
    await asyncio.to_thread(serving.until, rf"^{job_id} \S")


async def test_verbs(world: RelayWorld) -> None:
    ids = [await world.upstream_job() for _ in range(2)]
    program = """
const relay = new Relay();
const tracked = await relay.track(process.env.FIRST, { metadata: { deal: 42 }, group: "Q4" });
const answer = await relay.track({ ok: true, item: { id: process.env.SECOND, status: "queued" } });
say([tracked.id, tracked.metadata, tracked.group, answer.id]);
const ended = await relay.wait(process.env.FIRST);
await relay.wait(process.env.SECOND);
say([ended.open, ended.outcome]);
const sequences = [];
for await (const { event } of relay.stream({ job: process.env.FIRST })) sequences.push(event.sequence);
say(sequences);
const subscription = await relay.subscribe("orders", null, { types: ["com.acme.order.paid"] });
say([subscription.id, subscription.secret, subscription.action]);
const type = "com.acme.order.paid";
const stream = relay.stream({ type, signal: AbortSignal.timeout(60000) });
const first = stream.next();
const draft = { id: "A-1", source: "/shop", type, partitionkey: "A", data: { total: 42 } };
const made = await relay.publish(draft);
const again = await relay.publish(draft);
say([made.accepted, again.known]);
await relay.publish([2, 3].map((n) => ({ ...draft, id: `A-${n}` })));
const streamed = [(await first).value, (await stream.next()).value, (await stream.next()).value];
await stream.return();
say([streamed.map((one) => one.event.id), streamed[0].eventId === made.items[0].id]);
const pulled = [];
const ending = new AbortController();
await relay.pull(subscription.id, (event, { attempt }) => {
  pulled.push([event.id, attempt, event.data.total]);
  if (event.id === "A-3") ending.abort();
}, { signal: ending.signal });
say(pulled);
const { items } = await relay.request("GET", "/v1/deliveries?subscription=" + subscription.id);
say(items.map((one) => one.state));
"""
    found = await answers(world.folder, program, **at(world), FIRST=ids[0], SECOND=ids[1])
    tracked, ended, sequences, subscription, published, streamed, pulled, states = found
    assert tracked == [ids[0], {"deal": 42}, "Q4", ids[1]]
    assert ended == [False, "succeeded"]
    assert [int(one) for one in sequences] == list(range(1, len(sequences) + 1))
    assert subscription == ["orders", None, "add"]
    assert published == [1, 1]
    assert streamed == [["A-1", "A-2", "A-3"], True]
    assert pulled == [["A-1", 1, 42], ["A-2", 1, 42], ["A-3", 1, 42]]
    assert states == ["delivered"] * 3


async def test_event_whose_handler_throws_comes_again_before_later_ones(world: RelayWorld) -> None:
    program = """
const relay = new Relay();
const { id } = await relay.subscribe("x", null, { types: ["com.acme.x"], config: { retry_schedule: [0.1, 0.1] } });
const event = { source: "/shop", type: "com.acme.x", partitionkey: "k" };
await relay.publish([1, 2, 3].map((n) => ({ ...event, id: String(n) })));
const seen = [], told = [], ending = new AbortController();
const onError = (error, delivery) => told.push([error.message, delivery.event.id]);
await relay.pull(id, (event, { attempt }) => {
  seen.push(event.id);
  if (event.id === "1" && attempt === 1) throw new Error("no");
  if (event.id === "2") ending.abort();
}, { signal: ending.signal, onError });
say([seen, told]);
const left = await relay.request("POST", `/v1/subscriptions/${id}/pull`);
say(left.items.map((one) => [one.event.id, one.attempt]));
"""
    assert await answers(world.folder, program, **at(world)) == [
        [["1", "1", "2"], [["no", "1"]]],
        [["3", 1]],  # given back untried
    ]


async def test_event_that_comes_late_in_a_wait_is_handled_within_its_short_lease(folder: Path) -> None:
    said: list[tuple[str, Any]] = []

    async def pull(request: web.Request) -> web.Response:
        said.append((request.path.rpartition("/")[2], await request.json()))
        item = {"delivery_id": "dlv_1", "event_id": "evt_1", "attempt": 1, "event": {"id": "1"}}
        await asyncio.sleep(1.2)  # longer than the lease
        return web.json_response({"items": [item], "results": []})

    program = """
const ending = new AbortController();
await new Relay().pull("s", (event) => { say(event.id); ending.abort(); }, { leaseSeconds: 1, signal: ending.signal });
"""
    async with serving({"/v1/subscriptions/s/{action}": pull}) as url:
        assert await answers(folder, program, RELAY_URL=url) == ["1"]
    assert said[-1] == ("ack", {"ids": ["dlv_1"]})
    assert said[0][1]["max"] == inspect.signature(PythonRelay.pull).parameters["at_once"].default


async def test_big_integers_keep_their_digits(world: RelayWorld) -> None:
    await world.subscribe(types=["com.acme.big"], sink="https://receiver.example/")
    program = """
const relay = new Relay();
const stream = relay.stream({ type: "com.acme.big", lastEventId: "evt_" + "0".repeat(26) });
const { event } = (await stream.next()).value;
await stream.return();
say(event.data);
"""
    event = {"specversion": "1.0", "id": "1", "source": "/x", "type": "com.acme.big"}
    event["data"] = {"big": BIG, "low": -BIG, "text": f'say "{BIG}"', "number": 1.5, "small": 12, "far": 10**20}
    async with world.session.post(
        f"{world.url}/v1/events", data=json.dumps(event), headers={"Content-Type": "application/cloudevents+json"}
    ) as answer:
        assert answer.status == 202, await answer.text()
    assert await answers(world.folder, program, **at(world)) == [
        {"big": str(BIG), "low": str(-BIG), "text": f'say "{BIG}"', "number": 1.5, "small": 12, "far": str(10**20)}
    ]


# --- what is sent again


@contextlib.asynccontextmanager
async def serving(handlers: Mapping[str, Callable[[web.Request], Awaitable[web.StreamResponse]]]) -> AsyncIterator[str]:
    """Serves these paths while inside. Yields the URL."""
    app = web.Application()
    for path, handler in handlers.items():
        app.router.add_route("*", path, handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def losing(target: str, *, lost: int) -> AsyncIterator[tuple[str, list[tuple[str, str | None]]]]:
    """A server that passes requests on, and cuts the connection instead of giving the first `lost` answers. Yields its
    URL, and the requests with their Idempotency-Key."""
    seen: list[tuple[str, str | None]] = []

    async def passed(request: web.Request) -> web.StreamResponse:
        seen.append((f"{request.method} {request.path}", request.headers.get("Idempotency-Key")))
        number = len(seen)
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                request.method, target + request.path_qs, data=await request.read(), headers=request.headers
            ) as answer,
        ):
            body = await answer.read()
        if number <= lost:
            assert request.transport is not None
            request.transport.close()
        return web.Response(status=answer.status, body=body, content_type=answer.content_type)

    async with serving({"/{path:.*}": passed}) as url:
        yield url, seen


@pytest.mark.parametrize(
    ("call", "path", "made"),
    [
        ('subscribe("x", "https://receiver.example/", { types: ["com.acme.x"] })', "/v1/subscriptions/apply", 1),
        ('request("POST", "/v1/subscriptions", { protocol: "PULL" })', "/v1/subscriptions", 1),
        ('publish({ source: "/shop", type: "com.acme.x" })', "/v1/events", 1),
        ('publish([{ source: "/s", type: "com.acme.x" }, { source: "/s", type: "com.acme.x" }])', "/v1/events", 2),
        ("track(process.env.JOB_ID)", "/v1/jobs", 1),
    ],
)
async def test_lost_answers_make_no_second_thing(world: RelayWorld, call: str, path: str, made: int) -> None:
    job_id = await world.upstream_job()
    async with losing(world.url, lost=2) as (url, seen):
        await answers(world.folder, f"await new Relay().{call};", **at(world, url), JOB_ID=job_id)
    assert [one for one, _ in seen] == [f"POST {path}"] * 3
    (key,) = {key for _, key in seen}
    assert key
    items = (await world.get(path.removesuffix("/apply")))["items"]
    assert len([one for one in items if path != "/v1/events" or one["type"] == "com.acme.x"]) == made


async def test_key_of_the_caller_is_kept_over_two_calls(world: RelayWorld) -> None:
    program = """
const relay = new Relay(), options = { idempotencyKey: "order-17" };
const make = () => relay.request("POST", "/v1/subscriptions", { protocol: "PULL" }, options);
say((await make()).id === (await make()).id);
"""
    assert await answers(world.folder, program, **at(world)) == [True]
    assert len((await world.get("/v1/subscriptions"))["items"]) == 1


async def test_cut_stream_goes_on_without_a_gap_or_a_repetition(world: RelayWorld) -> None:
    program = """
const relay = new Relay();
const stream = relay.stream({ type: "com.acme.x", lastEventId: "evt_" + "0".repeat(26) });
let next = stream.next();
for (let n = 1; n <= 6; n++) {
  if (n % 2) await fetch(process.env.CUT);
  await new Relay({ url: process.env.DIRECT }).publish({ id: String(n), source: "/shop", type: "com.acme.x" });
  if (n % 2) continue;
  for (const _ of [1, 2]) { say((await next).value.event.id); next = stream.next(); }
}
process.exit(0);
"""
    with cut_proxy(int(world.url.rpartition(":")[2])) as proxy:

        async def cut(_: web.Request) -> web.Response:
            proxy.cut()
            proxy.join()
            return web.Response()

        async with serving({"/": cut}) as here:
            url = f"http://127.0.0.1:{proxy.port}"
            found = await answers(world.folder, program, **at(world, url), CUT=here, DIRECT=world.url)
    assert found == ["1", "2", "3", "4", "5", "6"]


async def test_stream_that_is_cut_before_its_first_event_loses_none(folder: Path) -> None:
    newest, begun = f"evt_{'1' * 26}", []

    async def events(_: web.Request) -> web.Response:
        return web.json_response({"items": [], "ids": [newest], "next_cursor": None})

    async def stream(request: web.Request) -> web.StreamResponse:
        begun.append(request.headers["Last-Event-ID"])
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b": connected\n\n")
        if len(begun) == 1:
            assert request.transport is not None
            request.transport.abort()
        else:
            await answer.write(b'id: evt_2\r\nevent: x\r\ndata: {"id": "2"}\r\n\r\n')
        return answer

    async with serving({"/v1/events": events, "/v1/events/stream": stream}) as url:
        # However long it was silent: the time for repetitions is that of one request.
        program = "const relay = new Relay({ retrySeconds: 0 });"
        program += "say((await relay.stream().next()).value); process.exit(0);"
        assert await answers(folder, program, RELAY_URL=url) == [{"eventId": "evt_2", "event": {"id": "2"}}]
    assert begun == [newest, newest]


# --- hostile answers

PROBLEM = {"title": "t", "type": "t", "errors": [{"pointer": "/id", "code": "required", "detail": API_TOKEN}]}
JSON = "application/json"
UNFIT: Mapping[str, tuple[int, str, bytes, dict[str, str], list[Any]]] = {
    "no JSON": (200, "text/html", b"<html>", {}, [200, "unfit_answer"]),
    "another value": (200, JSON, b"[1]", {}, [200, "unfit_answer"]),
    "another object": (200, JSON, b'{"open": "yes"}', {}, [200, "unfit_answer"]),
    "no UTF-8": (200, JSON, b'{"open": \xff}', {}, [200, "unfit_answer"]),
    "deep": (200, JSON, b"[" * 200_000, {}, [200, "unfit_answer"]),
    "redirect": (302, JSON, b"", {"Location": "http://127.0.0.1:9/"}, [302, "unfit_answer"]),
    "problem": (
        404,
        JSON,
        json.dumps({**PROBLEM, "code": "job_not_found", "detail": "none"}).encode(),
        {},
        [404, "job_not_found"],
    ),
    "the token in a problem": (
        400,
        JSON,
        json.dumps({**PROBLEM, "code": "x", "detail": API_TOKEN * 99}).encode(),
        {},
        [400, "x"],
    ),
    "a proxy's page": (403, "text/html", b"<html>" * 999, {}, [403, "unfit_answer"]),
    "odd problem": (400, JSON, b'{"code": "x", "detail": 7, "errors": [1, {"pointer": []}]}', {}, [400, "x"]),
    "long Retry-After": (503, JSON, b'{"code": "busy"}', {"Retry-After": "86400"}, [503, "busy"]),
    "Retry-After that is none": (503, JSON, b'{"code": "busy"}', {"Retry-After": "soon"}, [503, "busy"]),
    "server error": (500, JSON, b'{"code": "internal_error"}', {}, [500, "internal_error"]),
}


async def test_unfit_answers_are_typed_errors_without_the_token(folder: Path) -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.path)
        status, media_type, body, headers, _ = UNFIT[request.match_info["name"]]
        return web.Response(status=status, body=body, content_type=media_type, headers=headers)

    program = """
for (const name of JSON.parse(process.env.NAMES)) {
  const relay = new Relay({ url: `${process.env.RELAY_URL}/${encodeURIComponent(name)}`, retrySeconds: 2 });
  const error = await relay.wait("job").catch((error) => error);
  say([name, error instanceof RelayError, error.status, error.code, error.message, error.mistakes, error.stack]);
}
say((await new Relay({ url: "http://127.0.0.1:9", retrySeconds: 0.1 }).wait("x").catch((error) => error)).code);
"""
    async with serving({"/{name}/{path:.*}": answer}) as url:
        variables = {"RELAY_URL": url, "RELAY_TOKEN": API_TOKEN, "NAMES": json.dumps(list(UNFIT))}
        *found, unreachable = await answers(folder, program, **variables)
    assert [one[:4] for one in found] == [[name, True, *case[4]] for name, case in UNFIT.items()]
    assert API_TOKEN not in json.dumps(found)
    assert unreachable == "unreachable"
    times = {name: sum(path.startswith(f"/{name}/") for path in seen) for name in UNFIT}
    assert {name for name, count in times.items() if count > 1} == {"Retry-After that is none"}


async def test_settings_that_cannot_be_are_refused_without_the_token(folder: Path) -> None:
    program = """
const badToken = { url: "http://x", token: "rl_secret\\n" };
for (const options of [{ url: "relay" }, { url: "ftp://x" }, { url: "https://a:b@x" }, badToken]) {
  try { new Relay(options); } catch (error) { say([error.name, error.message]); }
}
const relay = new Relay({ url: "http://127.0.0.1:9", retrySeconds: 0 });
const tell = (error) => say([error.name, error.message]);
await relay.wait("..").catch(tell);
await relay.request("POST", "/api/v1/outreach/dispatches").catch(tell); // would not be repeated safely
await relay.request("GET", "/v1/../x").catch(tell);
"""
    found = await answers(folder, program)
    assert [name for name, _ in found] == ["TypeError"] * 7
    assert "secret" not in json.dumps(found)
    assert [text.partition(":")[0] for _, text in found[:4]] == ["url"] * 3 + ["token"]


# --- verification

BODY = b'{"specversion": "1.0", "id": "evt_1", "source": "/s", "type": "ai.revor.job.failed", "data": {"n": 1.0}}'
PUBLISHED = BODY.replace(b"evt_1", b"A-17")
EVENT, BATCH = ({"content-type": f"application/cloudevents{more}+json"} for more in ("", "-batch"))


def signed(
    body: bytes = BODY, *, age: int = 0, secret: str = SECRET, id: str = "evt_1", **headers: str
) -> dict[str, Any]:
    """A request that the reference implementation of Standard Webhooks signed."""
    sent_at = int(time.time()) - age
    signature = Webhook(secret).sign(id, datetime.fromtimestamp(sent_at, UTC), body.decode())
    given = {"Webhook-Id": id, "webhook-timestamp": str(sent_at), "webhook-signature": signature, **headers}
    return {"headers": {name: value for name, value in given.items() if value}, "body": base64.b64encode(body).decode()}


def changed(request: Mapping[str, Any], body: bytes) -> dict[str, Any]:
    return {**request, "body": base64.b64encode(body).decode()}


LEFT_OUT = ""


def vectors() -> dict[str, tuple[dict[str, Any], str]]:
    """Requests, and what a verifier of now says of each."""
    return {
        "valid": (signed(), "ok"),
        "almost too old": (signed(age=240), "ok"),
        "a second signature": (
            signed(**{"webhook-signature": f"v1,AAAA v1a,AAAA {signed()['headers']['webhook-signature']}"}),
            "ok",
        ),
        "old": (signed(age=400), "old_timestamp"),
        "ahead": (signed(age=-400), "future_timestamp"),
        "another secret": (signed(secret=OTHER_SECRET), "wrong_secret"),
        "another secret, and old": (signed(secret=OTHER_SECRET, age=400), "wrong_secret"),
        "another byte": (changed(signed(), BODY.replace(b"1.0}", b"2.0}")), "wrong_secret"),
        "another length": (changed(signed(**{"content-length": str(len(BODY))}), BODY + b"x"), "changed_body"),
        "white space": (changed(signed(**{"content-length": str(len(BODY))}), BODY + b"\n"), "changed_body"),
        "cut": (changed(signed(**EVENT), BODY[:-1]), "changed_body"),
        "a cut batch": (changed(signed(b"[" + BODY + b"]", **BATCH), b"[" + BODY), "changed_body"),
        "another event": (signed(id="evt_2", secret=OTHER_SECRET, **EVENT), "changed_body"),
        "a published event": (signed(PUBLISHED, **EVENT), "ok"),
        "a published event, another secret": (signed(PUBLISHED, secret=OTHER_SECRET, **EVENT), "wrong_secret"),
        "no event, another secret": (signed(b"{}", secret=OTHER_SECRET, **{"content-type": JSON}), "wrong_secret"),
        "another timestamp": (signed(**{"webhook-timestamp": str(int(time.time()) - 1)}), "wrong_secret"),
        "no id": (signed(**{"Webhook-Id": LEFT_OUT}), "missing_header"),
        "no timestamp": (signed(**{"webhook-timestamp": LEFT_OUT}), "missing_header"),
        "no signature": (signed(**{"webhook-signature": LEFT_OUT}), "missing_header"),
        "no number": (signed(**{"webhook-timestamp": "1e9"}), "malformed_timestamp"),
        "another scheme": (signed(**{"webhook-signature": "v1a,AAAA"}), "no_v1_signature"),
        "no base64": (signed(**{"webhook-signature": "v1,\u00e9!"}), "wrong_secret"),
        "no event": (signed(b"null"), "unfit_body"),
        "no source": (signed(BODY.replace(b"source", b"sauce"), **EVENT), "unfit_body"),
        "another content type": (signed(**{"content-type": "text/plain"}), "ok"),
        "a batch": (signed(b"[" + BODY + b"," + BODY + b"]", **BATCH), "unfit_body"),
        "a batch of one": (signed(b"[" + BODY + b"]", **BATCH), "ok"),
        "a batch of none": (signed(b"[]", **BATCH), "unfit_body"),
        "a batch of another type": (signed(b"[" + BODY + b"]", **EVENT), "unfit_body"),
        "an event of a batch's type": (signed(**BATCH), "unfit_body"),
    }


CHECKED = """
const checked = async (vectors, secret) => {
  const found = {};
  for (const [name, { headers, body }] of Object.entries(vectors)) {
    const request = { headers, body: Uint8Array.from(atob(body), (one) => one.charCodeAt(0)) };
    found[name] = await client.verify(request, secret).then(() => "ok", (error) => error.reason ?? String(error));
  }
  return found;
};
"""


def vectors_to_send() -> tuple[str, dict[str, str]]:
    """The requests as JSON, and what is expected of each."""
    made = vectors()
    requests = {name: request for name, (request, _) in made.items()}
    return json.dumps(requests), {name: reason for name, (_, reason) in made.items()}


async def test_verifier_agrees_with_the_reference_implementation(folder: Path) -> None:
    program = CHECKED + "say(await checked(JSON.parse(process.env.VECTORS), process.env.SECRET));"
    requests, expected = vectors_to_send()
    assert await answers(folder, program, VECTORS=requests, SECRET=SECRET) == [expected]


MALFORMED_SECRETS = ("whsec_", "whsec_short", "whsec_%%%", SECRET.removeprefix("whsec_"))
MALFORMED_SECRETS += tuple(f"whsec_{base64.b64encode(bytes(length)).decode()}" for length in (23, 65))
METHODS = ("GET", "DELETE", "PUT", "PATCH")
ASKS: tuple[dict[str, str], ...] = (
    {},
    {"WebHook-Request-Origin": "relay.example.com"},
    {"WebHook-Request-Origin": "relay.example.com", "WebHook-Request-Rate": "60"},
)


def of_python(requests: Mapping[str, dict[str, Any]]) -> list[Any]:
    """What the Python client says of the requests."""

    def judged(headers: dict[str, str], body: bytes) -> str:
        try:
            verify(body, headers, SECRET)
        except VerificationError as error:
            return error.reason
        return "ok"

    def is_taken(secret: str) -> bool:
        try:
            Receiver(secret)
        except ValueError:
            return False
        return True

    receiver, took = Receiver(SECRET), list[str]()
    receiver.on()(lambda event: took.append(event.id))
    sent = {name: (one["headers"], base64.b64decode(one["body"])) for name, one in requests.items()}
    handshakes = [receiver.handle("OPTIONS", asks, b"") for asks in ASKS]
    return [
        {name: judged(*request) for name, request in sent.items()},
        {name: receiver.handle("POST", *request).status for name, request in sent.items()},
        [receiver.handle(method, *sent["valid"]).status for method in METHODS],
        took,
        [[one.status, one.headers.get("WebHook-Allowed-Rate")] for one in handshakes],
        receiver.handle("POST", sent["valid"][0], b" " * (2 << 20)).status,
        receiver.handle("POST", sent["valid"][0], b" " * ((2 << 20) + 1)).status,
        Receiver(SECRET).handle("POST", *sent["another secret"]).status,
        [is_taken(secret) for secret in MALFORMED_SECRETS],
    ]


async def test_both_clients_say_the_same_of_each_request(folder: Path) -> None:
    program = (
        CHECKED
        + """
const { VECTORS, SECRET: secret, METHODS, ASKS, MALFORMED } = process.env;
const vectors = JSON.parse(VECTORS), took = [];
const hook = client.receiver({ secret }).on("*", (event) => took.push(event.id));
const answer = (init, receiver = hook) => receiver(new Request("http://here/", init));
const sent = ({ headers, body }, method = "POST") =>
  ({ method, headers, body: method === "GET" ? null : Buffer.from(body, "base64") });
const statuses = {}, methods = [], handshakes = [];
for (const [name, one] of Object.entries(vectors)) statuses[name] = (await answer(sent(one))).status;
for (const method of JSON.parse(METHODS)) methods.push((await answer(sent(vectors.valid, method))).status);
for (const headers of JSON.parse(ASKS)) {
  const { status, headers: given } = await answer({ method: "OPTIONS", headers });
  handshakes.push([status, given.get("WebHook-Allowed-Rate")]);
}
const { headers } = vectors.valid;
const large = async (size) => (await answer({ method: "POST", headers, body: " ".repeat(size) })).status;
const none = (await answer(sent(vectors["another secret"]), client.receiver({ secret }))).status;
const isTaken = (secret) => { try { return Boolean(client.receiver({ secret })); } catch { return false; } };
const sizes = [await large(2 << 20), await large((2 << 20) + 1)], taken = JSON.parse(MALFORMED).map(isTaken);
say([await checked(vectors, secret), statuses, methods, took, handshakes, ...sizes, none, taken]);
"""
    )
    requests, expected = vectors_to_send()
    tables = {"METHODS": json.dumps(METHODS), "ASKS": json.dumps(ASKS), "MALFORMED": json.dumps(MALFORMED_SECRETS)}
    (found,) = await answers(folder, program, VECTORS=requests, SECRET=SECRET, **tables)
    assert found == of_python(json.loads(requests))
    reasons, statuses, methods, took, handshakes, *others = found
    assert reasons == expected
    batches = {"a batch": 204, "a batch of none": 204}
    by_reason = {"ok": 204, "unfit_body": 422}
    assert statuses == {name: by_reason.get(reason, 401) for name, reason in expected.items()} | batches
    assert methods == [405, 405, 204, 204]
    assert took.count("A-17") == 1
    assert handshakes == [[403, None], [200, None], [200, "*"]]
    assert others == [401, 413, 500, [False] * len(MALFORMED_SECRETS)]


async def test_body_that_was_read_or_parsed_before_is_told(folder: Path) -> None:
    program = """
const { headers, body } = JSON.parse(process.env.VECTORS).valid, secret = process.env.SECRET;
const read = new Request("http://here/", { method: "POST", headers, body });
await read.text();
for (const request of [{ headers, body: {} }, { headers }, read]) {
  say(await client.verify(request, secret).catch((error) => `${error.name} ${error.message}`));
}
"""
    found = await answers(folder, program, VECTORS=vectors_to_send()[0], SECRET=SECRET)
    assert [text.partition(" give ")[0] for text in found] == ["TypeError body:"] * 3


async def test_forged_request_with_many_signatures_costs_one_of_them(folder: Path) -> None:
    program = """
const { headers, body } = JSON.parse(process.env.VECTORS).valid, { subtle } = crypto;
let times = 0;
for (const name of ["sign", "verify"]) {
  const own = subtle[name].bind(subtle);
  subtle[name] = (...given) => { times += 1; return own(...given); };
}
const forged = { ...headers, "webhook-signature": Array(50).fill("v1," + "A".repeat(43) + "=").join(" ") };
const request = { headers: forged, body: atob(body) };
const { reason } = await client.verify(request, process.env.SECRET).catch((error) => error);
say([reason, times]);
"""
    assert await answers(folder, program, VECTORS=vectors_to_send()[0], SECRET=SECRET) == [["wrong_secret", 1]]


async def test_worker_verifies_receives_and_tracks(world: RelayWorld, client: Path) -> None:
    """In workerd, the runtime of Cloudflare's Workers."""
    job_id = await world.upstream_job()
    worker = (
        'import * as client from "./index.js";'
        + CHECKED
        + """
export default { async fetch(request, { vectors, secret, url, token, job }) {
  if (request.method === "GET") {
    const relay = new client.Relay({ url, token });
    await relay.track(job);
    return Response.json([await checked(vectors, secret), (await relay.wait(job)).outcome, typeof process]);
  }
  const said = [];
  const answer = await client.receiver({ secret }).on("job.failed", (event) => said.push(event.id))(request);
  return Response.json([answer.status, said]);
} };
"""
    )
    program = """
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
const { CLIENT, WORKER, RELAY_URL, RELAY_TOKEN, SECRET, JOB_ID } = process.env;
const { Miniflare } = createRequire(CLIENT + "/package.json")("miniflare");
const module = (path, contents) => ({ type: "ESModule", path, contents });
const modules = ["index", "http", "json", "sse", "webhook", "openapi"].map((name) =>
  module(`${name}.js`, readFileSync(`${CLIENT}/dist/${name}.js`, "utf8")));
modules.unshift(module("worker.js", WORKER));
const vectors = JSON.parse(process.env.VECTORS);
const bindings = { vectors, secret: SECRET, url: RELAY_URL, token: RELAY_TOKEN, job: JOB_ID };
const worker = new Miniflare({ modules, bindings, compatibilityDate: "2026-01-01" });
say(await (await worker.dispatchFetch("http://worker/")).json());
for (const name of ["valid", "another secret"]) {
  const { headers, body } = vectors[name];
  const request = { method: "POST", headers, body: Buffer.from(body, "base64") };
  say(await (await worker.dispatchFetch("http://worker/", request)).json());
}
await worker.dispose();
"""
    requests, expected = vectors_to_send()
    variables = {"CLIENT": str(client), "WORKER": worker, "VECTORS": requests, "SECRET": SECRET, "JOB_ID": job_id}
    found = await answers(world.folder, program, **at(world), **variables)
    assert found == [[expected, "succeeded", "undefined"], [204, ["evt_1"]], [401, []]]


async def test_receiver_answers(folder: Path) -> None:
    program = """
const vectors = JSON.parse(process.env.VECTORS), secret = process.env.SECRET;
const hook = client.receiver({ secret, onError: (error) => say(error.message) });
const sent = async (name, method = "POST") => {
  const { headers, body } = vectors[name];
  const init = method === "POST" ? { method, headers, body: Buffer.from(body, "base64") } : { method };
  say((await hook(new Request("http://here/", init))).status);
};
await sent("valid"); // without a handler: the event would be lost
hook.on("job.succeeded", () => say("no"));
await sent("valid");
hook.on("ai.revor.job.failed", (event) => say(event.id));
hook.on("failed", () => say("short")).on("x.failed", () => say("no"));
await sent("valid");
await sent("a batch");
await sent("old");
await sent("valid", "GET");
hook.on("*", () => { throw new Error("no room"); });
await sent("valid");
const large = { method: "POST", headers: vectors.valid.headers, body: "x".repeat(5 << 20) };
say((await hook(new Request("http://here/", large))).status);
"""
    found = await answers(folder, program, VECTORS=vectors_to_send()[0], SECRET=SECRET)
    both = ["evt_1", "short"]
    assert found == [500, 204, *both, 204, *both, *both, 204, 401, 405, *both, "no room", 500, 413]


async def test_body_that_is_no_json_is_refused_without_delay(folder: Path) -> None:
    """Before its signature is checked: a pattern that goes back over it would block the program for hours."""
    program = """
const body = '{"n": 1234567890123456, ' + '\\\\"'.repeat(500_000);
const headers = { ...JSON.parse(process.env.VECTORS).valid.headers, "content-type": "application/json" };
const hook = client.receiver({ secret: process.env.SECRET }).on("*", () => {});
say((await hook(new Request("http://here/", { method: "POST", headers, body }))).status);
"""
    assert await answers(folder, program, VECTORS=vectors_to_send()[0], SECRET=SECRET) == [401]


async def test_receiver_in_node_agrees_to_a_handshake(folder: Path) -> None:
    program = """
import { serve } from "revor-relay-client/node";
const { url, close } = await serve(client.receiver({ secret: process.env.SECRET }));
for (const headers of [{ "WebHook-Request-Origin": "relay.example.com" }, {}]) {
  const answer = await fetch(url, { method: "OPTIONS", headers });
  say([answer.status, answer.headers.get("WebHook-Allowed-Origin")]);
}
close();
"""
    assert await answers(folder, program, SECRET=SECRET) == [[200, "relay.example.com"], [403, None]]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_receiver_in_node_takes_each_method_of_a_subscription(folder: Path, method: str) -> None:
    program = """
import { serve } from "revor-relay-client/node";
const { url, close } = await serve(client.receiver({ secret: process.env.SECRET }).on("*", (event) => say(event.id)));
const { headers, body } = JSON.parse(process.env.VECTORS).valid;
say((await fetch(url, { method: process.env.METHOD, headers, body: Buffer.from(body, "base64") })).status);
close();
"""
    variables = {"VECTORS": vectors_to_send()[0], "SECRET": SECRET, "METHOD": method}
    assert await answers(folder, program, **variables) == ["evt_1", 204]


async def test_each_request_that_changes_something_has_a_key_that_stays(folder: Path) -> None:
    program = """
import { Relay } from "revor-relay-client";
const seen = [];
const event = { specversion: "1.0", id: "1", source: "s", type: "t" };
const one = { delivery_id: "d", event_id: "e", attempt: 1, event };
const stop = new AbortController();
globalThis.fetch = async (input, init) => {
  const request = new Request(input, init);
  const verb = request.url.split("/").pop();
  seen.push([verb, request.headers.get("idempotency-key")]);
  if (verb === "pull") return Response.json({ items: [one], lag: { count: 1, oldest_seconds: 1 } });
  if (seen.length === 2) throw new TypeError("the answer is lost");
  stop.abort();
  return Response.json({ returned: [] });
};
const relay = new Relay({ url: "http://127.0.0.1:1", token: "t" });
await relay.pull("w", () => { throw new Error("not handled"); }, { signal: stop.signal, onError: () => {} });
console.log(JSON.stringify(seen));
"""
    code, out, errors = await ran(folder, program)
    assert code == 0, errors
    (pull, no_key), (first, key), (second, again) = json.loads(out)
    assert (pull, first, second, no_key) == ("pull", "nack", "nack", None)
    assert key == again is not None


@pytest.mark.parametrize(
    ("options", "before", "attempts"),
    [
        ("{}", "[]", 1),
        ('{ url: "http://127.0.0.1:8080" }', "[]", 2),
        ("{}", "[Response.json({}, { status: 400 })]", 2),
    ],
    ids=["the default address", "a given address", "a server has answered before"],
)
async def test_default_address_that_nothing_listens_at_is_asked_once(
    folder: Path, options: str, before: str, attempts: int
) -> None:
    program = f"""
import {{ Relay }} from "revor-relay-client";
delete process.env.RELAY_URL;
const answers = {before};
const relay = new Relay({options});
for (const answer of answers) {{
  globalThis.fetch = async () => answer;
  await relay.track("a").catch(() => null);
}}
let attempts = 0;
const refused = Object.assign(new Error("connect ECONNREFUSED"), {{ code: "ECONNREFUSED" }});
globalThis.fetch = async () => {{
  attempts += 1;
  if (attempts === 2) return Response.json({{ code: "enough", detail: "no", errors: [] }}, {{ status: 400 }});
  throw new TypeError("fetch failed", {{ cause: refused }});
}};
const error = await relay.track("a").catch((error) => error);
console.log(JSON.stringify([attempts, error.message]));
"""
    code, out, errors = await ran(folder, program)
    assert code == 0, errors
    asked, says = json.loads(out)
    assert asked == attempts
    if attempts == 1:
        assert "connect ECONNREFUSED. Start it, or set RELAY_URL to its address" in says


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ('relay.wait("a", { timeoutSeconds: 0.2 })', "unreachable"),
        ('(async () => { for await (const one of relay.stream({ job: "a", type: "failed" })) one; })()', "unreachable"),
        ('new Relay({ ...at, timeoutSeconds: Infinity }).track("a")', "asked once"),
    ],
)
async def test_time_and_tries_of_a_call_are_bounded(folder: Path, call: str, says: str) -> None:
    program = f"""
import {{ Relay }} from "revor-relay-client";
const at = {{ url: "http://127.0.0.1:1", token: "t" }};
const seen = [];
Math.random = () => 0; // the pauses
globalThis.fetch = async (input, init) => {{
  seen.push(String(input));
  const url = String(input);
  if (url.includes("/events")) return new Response("", {{ headers: {{ "Content-Type": "text/event-stream" }} }});
  if (init.method === "GET") throw new TypeError("refused");
  await new Promise((done) => setTimeout(done, 50));
  if (init.signal.aborted) throw new TypeError("it was ended before its time");
  return Response.json({{ code: "asked once", detail: "no", errors: [] }}, {{ status: 400 }});
}};
const relay = new Relay(at);
let code = "";
await {call}.catch((error) => {{ code = error.code; }});
console.log(JSON.stringify([code, seen.length, seen[0]]));
"""
    code, out, errors = await ran(folder, program)
    assert code == 0, errors
    found, tries, first = json.loads(out)
    assert found == says
    if "stream" in call:
        assert (tries, first) == (21, "http://127.0.0.1:1/v1/jobs/a/events?type=failed")
    if "Infinity" in call:
        assert tries == 1
