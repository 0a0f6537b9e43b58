"""Runs the recipes of docs/guides/recipes.md as written. Only addresses, ids, keys and the pause of a loop differ.

The upstream is the sandbox, the relay is a separate process, and the sink is this one. Hosted tools cannot run here:
the test sends the requests that their tables describe.
"""

import asyncio
import base64
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from standardwebhooks.webhooks import Webhook
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from tests.support.process_world import API_TOKEN
from tests.support.relay_world import API_KEY, RelayWorld, open_relay_world
from tests.support.typed import ROOT, blocks, prompts, section, shell_path, with_places

DOCUMENT = "docs/guides/recipes.md"
REVOR, RELAY, HOOK = "https://revor.ai", "http://127.0.0.1:8080", "http://127.0.0.1:3000/hook"
RUN_SECONDS = 120
ENDS = ("succeeded", "failed", "cancelled")
BASH = ["bash", "-euo", "pipefail", "-c"]
PYTHON = [sys.executable, "-c"]
NODE = ["node", "--input-type=module", "-e"]
TOKEN = "test-token-" + "0123456789abcdef" * 2
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="NODE RECIPES NOT RUN: node is not here")
needs_curl = pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("jq")), reason="CURL RECIPES NOT RUN: curl and jq are not both here"
)
# What n8n gives a Code node, and what it makes of an expression (`={{ … }}`) of another one.
CODE_NODE = """
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
const { code, items } = JSON.parse(readFileSync(0, "utf8"));
const buffers = items.map((item) => Buffer.from(item.binary.data.data, "base64"));
const self = { helpers: { getBinaryDataBuffer: async (index, name) => {
  if (name !== "data") throw new Error("no binary field " + name);
  return buffers[index];
} } };
const AsyncFunction = (async () => {}).constructor;
const run = new AsyncFunction("$input", "require", code);
console.log(JSON.stringify(await run.call(self, { all: () => items }, createRequire(import.meta.url))));
"""
EXPRESSION = """
import { readFileSync } from "node:fs";
const { expression, $execution, $json } = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(new Function("$execution", "$json", "return " + expression)($execution, $json)));
"""
CODE_STEP = """
import { readFileSync } from "node:fs";
const { code, inputData } = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(new Function("inputData", code)(inputData)));
"""


class Sink:
    """The requests that a receiver got, unchanged."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []

    async def __call__(self, request: Request) -> Response:
        self.requests.append((request.url.path, dict(request.headers), await request.body()))
        return PlainTextResponse("ok")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with asyncio.timeout(300), open_relay_world(tmp_path) as world:
        world.answering = Sink()
        yield world


def sink_of(world: RelayWorld) -> Sink:
    assert isinstance(world.answering, Sink)
    return world.answering


async def run(world: RelayWorld, program: list[str], code: str, *, stdin: str = "", **variables: str) -> str:
    """Runs a program that must succeed. Returns its output."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REVOR_"))}
    environ |= {"PATH": shell_path(world.folder), "PYTHONPATH": os.getcwd(), "REVOR_API_KEY": API_KEY}
    environ |= {"RELAY_TOKEN": API_TOKEN}
    call = functools.partial(
        subprocess.run,
        [*program, code],
        cwd=world.folder,
        env=environ | variables,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )
    ran = await asyncio.to_thread(call)
    assert ran.returncode == 0, (code, ran.stdout, ran.stderr)
    return ran.stdout


async def jobs_upstream(world: RelayWorld) -> int:
    """The number of jobs in the sandbox."""
    status, document = await world.call("GET", "/_sandbox", url=world.sandbox_url)
    assert status == 200
    jobs: int = document["jobs"]
    return jobs


async def verified_end(world: RelayWorld, job_id: str) -> dict[str, Any]:
    """The job's last event at the sink. Asserts that all its events verify and are in order."""
    await world.until(lambda: any(kind in ENDS for kind in world.kinds(job_id)), f"{job_id} does not end at the sink")
    secret = (await world.get("/v1/signing-secret"))["secret"]
    of_job = []
    for _, headers, body in sink_of(world).requests:
        event = json.loads(body)
        if event["subject"] == job_id:
            assert Webhook(secret).verify(body, headers) == event
            of_job.append(event)
    assert [int(event["sequence"]) for event in of_job] == list(range(1, len(of_job) + 1))
    return of_job[-1]


async def steps_of_a_program(
    world: RelayWorld, program: list[str], *, head: str, today: str, event: str, pause: dict[str, str], apart: str = ""
) -> None:
    """Runs a language's recipe: today's program with either base URL, the event, and the registration."""
    directly = with_places(head + today, pause)
    assert re.search(
        rf"({'|'.join(ENDS)}|has ended)\s*$", await run(world, program, directly, REVOR_BASE_URL=world.sandbox_url)
    )
    assert (await world.get("/v1/jobs"))["items"] == []

    said = await run(world, program, directly, REVOR_BASE_URL=world.url)
    (job,) = (await world.get("/v1/jobs"))["items"]
    assert job["id"] == said.split()[0]
    assert sink_of(world).requests == []  # no subscription exists yet

    hook = {HOOK: world.sink_url}
    said = await run(world, program, head + with_places(event, hook), REVOR_BASE_URL=world.url)
    job_id = json.loads(said)["item"]["id"] if said.startswith("{") else said.strip()
    assert (await verified_end(world, job_id))["data"]["metadata"] == {"deal": 42}

    if not apart:
        return
    passed = await world.get("/metrics")
    said = await run(
        world, program, head + with_places(apart, hook | {RELAY: world.url}), REVOR_BASE_URL=world.sandbox_url
    )
    job_id = json.loads(said)["id"] if said.startswith("{") else said.strip()
    assert (await verified_end(world, job_id))["data"]["metadata"] == {"deal": 42}
    creates = r'relay_passed_requests_total\{[^}]*"create"[^}]*\} (\S+)'
    assert re.findall(creates, await world.get("/metrics")) == re.findall(creates, passed), "it was not to be routed"
    assert await jobs_upstream(world) == 4


@needs_curl
async def test_curl_recipe(world: RelayWorld) -> None:
    await world.serve()
    today, change, event, wait, apart = blocks(section(DOCUMENT, "curl"), "sh")
    said = await run(world, BASH, with_places(change, {RELAY: world.url}) + "echo $REVOR_BASE_URL")
    assert said.strip() == world.url
    await steps_of_a_program(
        world,
        BASH,
        head="",
        today=today,
        event=event,
        apart=with_places(apart, {REVOR: world.sandbox_url}),
        pause={"sleep 5": "sleep 0.1"},
    )
    create = with_places(event, {HOOK: world.sink_url, "deal-42-first-mail": "deal-43"})
    job_id = json.loads(await run(world, BASH, create, REVOR_BASE_URL=world.url))["item"]["id"]
    answer = json.loads(await run(world, BASH, wait, REVOR_BASE_URL=world.url, job=job_id))
    assert answer["item"]["status"] in ENDS


async def test_python_recipe(world: RelayWorld) -> None:
    await world.serve()
    head, today, event = blocks(section(DOCUMENT, "Python requests"), "python")
    pause = {"time.sleep(5)": "time.sleep(0.1)"}
    await steps_of_a_program(world, PYTHON, head=head, today=today, event=event, pause=pause)


@needs_node
async def test_node_recipe(world: RelayWorld) -> None:
    await world.serve()
    head, today, event = blocks(section(DOCUMENT, "Node fetch"), "js")
    pause = {"(resolve, 5000)": "(resolve, 100)"}
    await steps_of_a_program(world, NODE, head=head, today=today, event=event, pause=pause)


# --- hosted tools


async def serve_with_tokens(world: RelayWorld) -> None:
    """A relay with the settings of the document, which derives the other tools' tokens."""
    (settings,) = blocks(section(DOCUMENT, "A relay that hosted tools reach"), "yaml")
    document = yaml.safe_load((world.folder / "relay.yaml").read_text()) | yaml.safe_load(settings)
    world.settings(yaml.safe_dump(document))
    await world.serve(RELAY_TOKEN_ZAPIER=TOKEN)
    world.session.headers["Authorization"] = f"Bearer {TOKEN}"


def code_in(title: str) -> str:
    """The only JavaScript block of a section."""
    (code,) = blocks(section(DOCUMENT, title), "js")
    return code


def requests_in(title: str) -> list[dict[str, Any]]:
    """The requests in a section's tables."""
    found: list[dict[str, Any]] = []
    for line in section(DOCUMENT, title).splitlines():
        row = re.fullmatch(r"\| (\w*) ?\| `(.+)` \|", line)
        if row is None:
            continue
        if row[1] == "Method":
            found.append({"method": row[2], "headers": {}})
        elif row[1] in ("URL", "Data"):
            found[-1][row[1].lower()] = row[2]
        else:
            name, _, value = row[2].partition(": ")
            found[-1]["headers"][name] = value
    return found


async def send(
    world: RelayWorld, request: dict[str, Any], places: dict[str, str], *, base: str = ""
) -> tuple[int, Any]:
    """Sends a request from a table."""
    text = json.dumps(request)
    for said, here in places.items():
        text = text.replace(said, here)
    made = json.loads(text)
    url = made["url"].replace("https://relay.example.com", base or world.url)
    async with world.session.request(made["method"], url, data=made.get("data"), headers=made["headers"]) as response:
        return response.status, json.loads(await response.text())


async def test_tool_token_has_only_its_scopes(world: RelayWorld) -> None:
    await serve_with_tokens(world)
    create, *_ = requests_in("Zapier")
    del create["headers"]["Relay-Callback"]
    status, answer = await send(world, create, {"RELAY_TOKEN_ZAPIER": TOKEN})
    assert status == 202, answer
    status, answer = await send(world, create, {"RELAY_TOKEN_ZAPIER": "another"} | {"deal-42": "deal-43"})
    assert (status, answer["error"]["code"]) == (401, "relay_key_unknown")
    for method, path in (("GET", "/v1/signing-secret"), ("POST", "/v1/subscriptions")):
        status, answer = await world.call(method, path)
        assert (status, answer["code"]) == (403, "scope_missing")
    assert await jobs_upstream(world) == 1


@pytest.mark.parametrize("tool", ["Zapier", "Make"])
async def test_requests_of_hosted_tools(world: RelayWorld, tool: str) -> None:
    await serve_with_tokens(world)
    create, *polls = requests_in(tool)
    (register,) = requests_in("Without routing")
    hook = create["headers"].get("Relay-Callback", "")
    called = json.loads(register["data"])["callback_url"]
    assert hook in ("", called)
    places = {f"RELAY_TOKEN_{tool.upper()}": TOKEN, "RELAY_TOKEN": TOKEN, called: world.sink_url}
    status, answer = await send(world, create, places)
    assert status == 202, answer
    job_id = answer["item"]["id"]
    if hook:
        await world.until(lambda: any(kind in ENDS for kind in world.kinds(job_id)), "no event comes")
    assert (await world.get(f"/v1/jobs/{job_id}"))["metadata"] == {"deal": 42}
    for poll in polls:
        status, job = await send(world, poll, places | {"JOB_ID": job_id})
        assert (status, job["id"], job["open"]) == (200, job_id, False)

    directly = create | {"headers": {"Content-Type": "application/json", "Authorization": f"Bearer {API_KEY}"}}
    status, answer = await send(world, directly, {}, base=world.sandbox_url)
    assert status == 202, answer
    status, job = await send(world, register, places | {"JOB_ID": answer["item"]["id"]})
    assert (status, job["id"], job["metadata"]) == (201, answer["item"]["id"], {"deal": 42})


async def test_callback_types_give_one_call_at_the_end(world: RelayWorld) -> None:
    await serve_with_tokens(world)
    create, poll = requests_in("One call, at the end")
    places = {"RELAY_TOKEN_N8N": TOKEN, create["headers"]["Relay-Callback"]: world.sink_url}
    status, answer = await send(world, create, places)
    assert status == 202, answer
    job_id = answer["item"]["id"]
    await world.until(lambda: bool(world.kinds(job_id)), "no event comes")
    status, job = await send(world, poll, places | {"JOB_ID": job_id})
    assert (status, job["id"], job["open"]) == (200, job_id, False)
    recorded = (await world.get(f"/v1/jobs/{job_id}/events"))["items"]
    assert len(recorded) > 1
    deliveries = (await world.get(f"/v1/deliveries?event={recorded[0]['id']}"))["items"]
    assert deliveries == []
    assert [kind in ENDS for kind in world.kinds(job_id)] == [True]


@needs_node
async def test_zapier_code_extracts_the_fields(world: RelayWorld) -> None:
    await world.serve()
    sample = await event_of_a_job(world)
    given = json.dumps({"code": code_in("Zapier"), "inputData": {"body": sample[2].decode()}})
    fields = json.loads(await run(world, NODE, CODE_STEP, stdin=given))
    event = json.loads(sample[2])
    assert fields == {
        "id": event["id"],
        "type": event["type"],
        "job": event["subject"],
        "status": event["status"],
        "metadata": {"deal": 42},
    }


async def event_of_a_job(world: RelayWorld) -> tuple[str, dict[str, str], bytes]:
    """The first request to a sink about a job with metadata."""
    job_id = await world.upstream_job()
    document = {"id": job_id, "callback_url": world.sink_url, "metadata": {"deal": 42}}
    status, made = await world.call("POST", "/v1/jobs", document)
    assert status == 201, made
    await world.until(lambda: bool(sink_of(world).requests), "no event comes")
    return sink_of(world).requests[0]


# --- n8n


def workflow() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((ROOT / "examples" / "n8n.json").read_text(encoding="utf-8"))
    return document


def node_of(kind: str) -> dict[str, Any]:
    (node,) = [node for node in workflow()["nodes"] if node["type"] == f"n8n-nodes-base.{kind}"]
    parameters: dict[str, Any] = node["parameters"]
    return parameters


def headers_of_create() -> dict[str, str]:
    return {each["name"]: each["value"] for each in node_of("httpRequest")["headerParameters"]["parameters"]}


def test_n8n_workflow_is_valid() -> None:
    document = workflow()
    assert set(document) == {"name", "nodes", "connections", "settings"}
    nodes = {node["name"]: node for node in document["nodes"]}
    assert len(nodes) == len(document["nodes"]) == len({node["id"] for node in document["nodes"]})
    for node in document["nodes"]:
        assert set(node) - {"webhookId"} == {"id", "name", "type", "typeVersion", "position", "parameters"}
        assert [type(place) for place in node["position"]] == [int, int]
        assert isinstance(node["typeVersion"], int | float)
    reached = set()
    for name, outputs in document["connections"].items():
        assert name in nodes
        assert set(outputs) == {"main"}
        for output in outputs["main"]:
            for aim in output:
                assert set(aim) == {"node", "type", "index"}
                assert (aim["type"], aim["index"]) == ("main", 0)
                reached.add(aim["node"])
    begins = {name for name, node in nodes.items() if node["type"].endswith(("Trigger", ".webhook"))}
    assert reached | begins == set(nodes)
    assert not reached & begins

    hook = node_of("webhook")
    assert hook["options"] == {"rawBody": True}
    (callback,) = [
        each["value"] for each in node_of("httpRequest")["headerParameters"]["parameters"] if "C" in each["name"]
    ]
    assert callback.endswith("/webhook/" + hook["path"])


@needs_node
async def test_n8n_workflow_creates_and_receives(world: RelayWorld) -> None:
    await serve_with_tokens(world)
    create = node_of("httpRequest")
    headers = headers_of_create()
    callback = headers["Relay-Callback"]
    headers["Relay-Callback"] = world.sink_url
    given = {"expression": headers["Idempotency-Key"].removeprefix("={{").removesuffix("}}"), "$execution": {"id": "7"}}
    headers["Idempotency-Key"] = json.loads(await run(world, NODE, EXPRESSION, stdin=json.dumps(given)))
    assert headers["Idempotency-Key"] == "run-7"
    assert (create["contentType"], create["specifyBody"]) == ("json", "json")
    request = {
        "method": create["method"],
        "url": create["url"],
        "data": create["jsonBody"],
        "headers": headers | {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"},
    }
    status, answer = await send(world, request, {})
    assert status == 202, answer
    job_id = answer["item"]["id"]
    await world.until(lambda: any(kind in ENDS for kind in world.kinds(job_id)), "no event comes")

    # Without routing: the node behind a create that went to Revor.
    (expression,) = blocks(section(DOCUMENT, "n8n"), "text")
    inner = with_places(expression.strip().removeprefix("{{").removesuffix("}}"), {callback: world.sink_url})
    directly = {**request, "headers": {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}}
    status, answer = await send(world, directly, {}, base=world.sandbox_url)
    assert status == 202, answer
    given = {"expression": inner, "$json": answer}
    body = json.loads(await run(world, NODE, EXPRESSION, stdin=json.dumps(given)))
    status, job = await world.call("POST", "/v1/jobs", json.loads(body))
    assert (status, job["id"]) == (201, answer["item"]["id"])


@needs_node
async def test_n8n_code_verifies_signatures(world: RelayWorld) -> None:
    await world.serve()
    _, headers, body = await event_of_a_job(world)
    secret = (await world.get("/v1/signing-secret"))["secret"]
    code = with_places(node_of("code")["jsCode"], {"whsec_REPLACE": secret})

    async def checked(headers: dict[str, str], body: bytes, code: str = code) -> Any:
        item = {"json": {"headers": headers, "body": {}}, "binary": {"data": {"data": base64.b64encode(body).decode()}}}
        # An error ends the run of a workflow: it is caught here to be inspected. An arrow function keeps `this`.
        code = f"try {{ return await (async () => {{ {code} }})(); }} catch (error) {{ return error.message; }}"
        return json.loads(await run(world, NODE, CODE_NODE, stdin=json.dumps({"code": code, "items": [item, item]})))

    event = json.loads(body)
    assert await checked(headers, body) == [{"json": event}, {"json": event}]
    rotated = {
        **headers,
        "webhook-signature": f"v1,{base64.b64encode(bytes(32)).decode()} {headers['webhook-signature']}",
    }
    assert await checked(rotated, body) == [{"json": event}, {"json": event}]
    assert await checked(headers, body + b" ") == "not signed by the relay"
    assert await checked({**headers, "webhook-id": "evt_other"}, body) == "not signed by the relay"
    assert await checked({"content-type": headers["content-type"]}, body) == "not signed by the relay"
    sent_at = str(int(headers["webhook-timestamp"]) - 301)
    signature = Webhook(secret).sign(event["id"], from_seconds(sent_at), body.decode())
    late = {**headers, "webhook-timestamp": sent_at, "webhook-signature": signature}
    assert await checked(late, body) == "signed too long ago"


def from_seconds(text: str) -> datetime:
    return datetime.fromtimestamp(int(text), UTC)


# --- coming from what is there


async def test_import_of_open_jobs(world: RelayWorld) -> None:
    await world.serve()
    text = section(DOCUMENT, "Jobs that are open already")
    (export,), (commands, paste) = blocks(text, "csv"), blocks(text, "console")
    ids = [await world.upstream_job() for _ in range(3)]
    (world.folder / "open-jobs.csv").write_text(with_places(export, {"JOB_ID_1": ids[0], "JOB_ID_2": ids[1]}))
    (command,) = prompts(commands)
    await run(world, BASH, with_places(command, {HOOK: world.sink_url}), RELAY_URL=world.url)
    for job_id, deal in zip(ids, ("42", "43"), strict=False):
        assert (await verified_end(world, job_id))["data"]["metadata"] == {"deal": deal}

    answer = json.dumps({"ok": True, "request_id": "req_1", "item": {"id": ids[2], "status": "queued"}})
    (world.folder / "answers.jsonl").write_text(f"{answer}\n")
    (command,) = prompts(paste)
    await run(world, BASH, command, RELAY_URL=world.url)
    assert (await world.get(f"/v1/jobs/{ids[2]}"))["id"] == ids[2]
