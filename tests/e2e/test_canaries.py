"""Every kind of secret is given once, things go right and wrong, and then all that the relay wrote is searched.

The relay is a process that logs everything (debug level). It is reloaded, killed, started again with a proxy in front
of its sinks, and ended. Sinks repeat every header that they get in their answers.

Whom creates name is a secret too: a CRM is asked for it, in whatever way its deliveries end, and nobody else gets it.
"""

import asyncio
import base64
import contextlib
import json
import os
import secrets
import signal
import sqlite3
import string
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest

from relay.cli.demo.environment import listen, served, url_of
from relay.config.keyring import new_key
from relay.sandbox.bodies import DISPATCH_PATH, dispatch_body
from tests.support.canaries import Canaries, leaks, of_files, of_postgres, word
from tests.support.connect_proxy import ConnectProxy, open_connect_proxy
from tests.support.postgres_server import shared_server
from tests.support.process_world import Process, Start
from tests.support.scale import soak_only
from tests.vendors.endpoint import Answer, Fault
from tests.vendors.pipedrive import TOKEN, Pipedrive

AT_DEBUG_LEVEL = """
import functools
from relay import log
from relay.core.deliveries import ledger
ledger.SETTLE_SECONDS = 0.1
log.configure = functools.partial(log.configure, level="debug")
from relay.cli import main
main()
"""
PUBLISHED = "published-to@example.com"
PATIENCE_SECONDS = 120.0
COMPANIES: dict[str, dict[str, Any]] = {
    "dead": {"unmatched": "fail"},  # this company knows nobody
    "delivered": {},
    "dry_run": {"dry_run": True},
    "uncertain": {},  # its answers are lost
}
"""Customers of a CRM, by what becomes of deliveries to them."""
WRITTEN_TO = ("dead", "delivered", "uncertain")
"""Companies that are asked for the persons of jobs."""
ASKED_WITH = frozenset({"captured address", "captured phone"})
SENT_TO_SINKS = (
    *("n8n path", "query of a sink", "custom header", "custom api key", "sink password", "access token"),
    *("credential header", "client secret", "refused client secret", "refresh token", "callback path 1"),
)
"""Secrets that sinks and token endpoints get."""
DRY = {"hubspot": "https://api.hubapi.com", "salesforce": "https://acme.my.salesforce.com"}
"""Other CRMs, where nothing is sent."""
SEARCH = "GET /api/v2/persons/search"
SETTINGS = """\
server: {{host: 127.0.0.1, port: 0, public_url: "https://relay.example"}}
auth: {{tokens: [{{name: ops, token: "${{CANARY_OPS}}", scopes: [admin]}}{more_tokens}]}}
sources:
  revor:
    accounts: {{default: {{api_key: "${{CANARY_UPSTREAM}}"}}, refused: {{api_key: "{refused_key}"}}}}
    polling: {{min_interval_seconds: 0.05, max_interval_seconds: 0.5}}
proxy: {{capture: [recipient.address, recipient.profile_url, recipient.phone]}}
delivery: {{retry_schedule: [0.1s, 0.1s], callback_secret: "{callback_secret}", timeout_seconds: 5}}
heartbeat: {{url: "{heartbeat}"}}
security: {{allow_http: true, allow_networks: [127.0.0.0/8]{proxy}}}
"""


class Sink:
    """Repeats what it gets. By path: accepts, fails, is gone, redirects, or issues tokens."""

    def __init__(self, canaries: Canaries) -> None:
        self.canaries = canaries
        self.got: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        path = scope["path"]
        echo = b"\n".join([scope["raw_path"], scope["query_string"], *(b": ".join(pair) for pair in scope["headers"])])
        self.got += [echo, body]
        status, headers = 500, [(b"x-echo", value) for _, value in scope["headers"]]
        if path.startswith("/token"):
            issued = self.canaries.new(f"issued token {len(self.got)}")
            answer = json.dumps({"access_token": issued, "token_type": "Bearer", "expires_in": 3600}).encode()
            status = 401 if path.endswith("refused") else 200
            await _respond(send, status, [(b"content-type", b"application/json")], answer)
            return
        if path.startswith("/ok"):
            status = 200
        elif path.startswith("/gone"):
            status = 410
        elif path.startswith("/redirect"):
            status, headers = 307, [(b"location", b"/ok?" + scope["query_string"])]
        elif path.startswith("/drop"):
            headers = [(b"retry-after", b"0"), *headers]
            status = 503
        await _respond(send, status, headers, echo)


class Company(Pipedrive):
    """Repeats what it is asked for, and finds persons with all that it knows of them."""

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        status, content, shown = super().answer(method, url, headers, body)
        echo = urlsplit(url).query
        return Answer(status, content if status < 400 else echo.encode(), (*shown, ("x-echo", echo)))


async def _respond(send: Any, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass(kw_only=True)
class World:
    """The relay and what surrounds it, and everything that it has written or shown."""

    start: Start
    folder: Path
    environ: dict[str, str]
    canaries: Canaries
    sink: Sink
    sink_url: str
    sandbox_url: str
    proxy: ConnectProxy
    database_url: str | None
    materials: dict[str, bytes] = field(default_factory=dict)
    subscriptions: list[str] = field(default_factory=list)
    companies: dict[str, Company] = field(default_factory=dict)
    company_urls: dict[str, str] = field(default_factory=dict)
    crms: dict[str, str] = field(default_factory=dict)
    """The subscriptions that write to them."""
    dry: dict[str, str] = field(default_factory=dict)
    """The subscriptions to other CRMs."""
    created: list[str] = field(default_factory=list)
    """The jobs of creates that name somebody."""
    relay: Process | None = None
    url: str = ""
    token: str = ""

    def captured(self) -> set[str]:
        """What was captured of creates, by its name."""
        return {name for name in self.canaries.secrets if name.startswith("captured")}

    def settings(self, *, more_tokens: str = "", proxy: str = "") -> None:
        refused = f"sk-revor-revoked-{self.canaries.new('refused upstream key') if not self.url else word()}"
        heartbeat = f"{self.sink_url}/fail/ping/{self.canaries.new('heartbeat url') if not self.url else word()}"
        text = SETTINGS.format(
            more_tokens=more_tokens,
            proxy=proxy,
            refused_key=refused,
            callback_secret=self.environ["CANARY_CALLBACK"],
            heartbeat=heartbeat,
        )
        (self.folder / "relay.yaml").write_text(text)

    def serve(self, *, debug: bool) -> None:
        """Starts the relay and waits until it serves."""
        program = [sys.executable, "-c", AT_DEBUG_LEVEL] if debug else [sys.executable, "-m", "relay"]
        self.relay = self.start("serve", "--auto-migrate", program=program, **self.environ)
        self.url = self.relay.until(r"serving (http://\S+)")
        self.keep("arguments of the process", Path(f"/proc/{self.relay.popen.pid}/cmdline").read_bytes())

    def keep(self, name: str, material: bytes) -> None:
        self.materials[f"{len(self.materials):03} {name}"] = material

    def run(self, *arguments: str) -> list[str]:
        """A command, and what it printed."""
        process = self.start(*arguments, **{**self.environ, "RELAY_URL": self.url, "RELAY_TOKEN": self.token})
        process.close()
        self.keep(f"relay {' '.join(arguments)}", "\n".join(process.lines).encode())
        return process.lines

    async def call(
        self, method: str, path: str, body: Any = None, *, shows: bool = False, token: str | None = None, **headers: str
    ) -> Any:
        """A request. What it answers is searched later, unless it `shows` a secret this once."""
        named = {
            "Authorization": f"Bearer {token or self.token}",
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_SECONDS)) as session:
            try:
                async with session.request(method, f"{self.url}{path}", json=body, headers=named) as response:
                    raw = await response.read()
                    if not shows or response.status >= 400:
                        self.keep(f"{method} {path} {response.status}", raw + str(response.headers).encode())
                    with contextlib.suppress(ValueError):
                        return json.loads(raw)
                    return raw
            except aiohttp.ClientError as error:  # the relay was killed
                return error

    async def subscribe(self, path: str, *, key: str | None = None, **body: Any) -> str:
        headers = {} if key is None else {"Idempotency-Key": key}
        sink = path if "://" in path else f"{self.sink_url}{path}"
        made = await self.call("POST", "/v1/subscriptions", {"sink": sink, **body}, shows=True, **headers)
        assert "id" in made, made
        if "secret" in made["config"] and made["config"]["secret"]:
            self.canaries.add_signing(
                f"signing secret of {path[:12]} {len(self.subscriptions)}", made["config"]["secret"]
            )
            made["config"]["secret"] = None
        self.keep("POST /v1/subscriptions", json.dumps(made).encode())
        self.subscriptions.append(made["id"])
        return str(made["id"])


@asynccontextmanager
async def open_world(start: Start, folder: Path, database: str) -> AsyncIterator[World]:
    canaries = Canaries()
    sink = Sink(canaries)
    environ = {
        "RELAY_ENCRYPTION_KEY": new_key(),
        "CANARY_OPS": canaries.add("token of the settings", word(40)),
        "CANARY_UPSTREAM": f"sk-revor-acme-{canaries.new('upstream key')}",
        "CANARY_CALLBACK": canaries.add_signing(
            "callback secret", f"whsec_{base64.b64encode(os.urandom(24)).decode()}"
        ),
    }
    canaries.add("encryption key", environ["RELAY_ENCRYPTION_KEY"])
    canaries.add("encryption key (raw)", base64.urlsafe_b64decode(environ["RELAY_ENCRYPTION_KEY"]))
    url = None
    if database == "postgresql":
        name = f"canary_{word(8).lower()}"
        shared_server().create_database(name)
        url = shared_server().url(name)
        password = canaries.new("database password")
        environ["DATABASE_URL"] = url.replace("//postgres@", f"//postgres:{password}@")
    sandbox = start("sandbox", "--port", "0", "--speed", "200", "--rate-limit", "100000/60")
    environ["REVOR_BASE_URL"] = sandbox_url = sandbox.until(r"serving (http://[^ ]+)")
    async with contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(listen()))
        await stack.enter_async_context(served(sink, listener))
        proxy = await stack.enter_async_context(open_connect_proxy(ConnectProxy(credentials="nobody:nothing")))
        world = World(
            start=start,
            folder=folder,
            environ=environ,
            canaries=canaries,
            sink=sink,
            sink_url=url_of(listener),
            sandbox_url=sandbox_url,
            proxy=proxy,
            database_url=url,
            token=environ["CANARY_OPS"],
        )
        for name in COMPANIES:
            world.companies[name] = company = Company()
            listener = stack.enter_context(contextlib.closing(listen()))
            await stack.enter_async_context(served(company.app(), listener))
            world.company_urls[name] = url_of(listener)
        yield world
        if url is not None:
            shared_server().drop_database(name)


async def give_secrets(world: World) -> None:
    """Subscriptions with every kind of secret, tokens, and requests that are refused."""
    new = world.canaries.new
    await world.subscribe("/ok/plain", key="once")
    again = await world.call(
        "POST", "/v1/subscriptions", {"sink": f"{world.sink_url}/ok/plain"}, shows=True, Idempotency_Key="once"
    )
    assert again["id"] == world.subscriptions[0]
    given = base64.b64encode(os.urandom(24)).decode()
    secret = world.canaries.add_signing("given signing secret", f"whsec_{given}")
    chosen = await world.subscribe("/fail/chosen", config={"secret": secret})
    rotated = await world.call("POST", f"/v1/subscriptions/{chosen}/rotate-secret", {}, shows=True)
    world.canaries.add_signing("rotated signing secret", rotated["secret"])
    await world.subscribe(f"/webhook/{new('n8n path')}")
    await world.subscribe(f"/fail/query?token={new('query of a sink')}&a=b")
    await world.subscribe(f"/redirect/query?{new('redirected query')}")
    await world.subscribe(f"https://hooks.slack.com/services/T00000000/B00000000/{new('slack path')}")
    header = {"Authorization": f"Bearer {new('custom header')}", "X-Api-Key": new("custom api key")}
    await world.subscribe("/fail/header", protocolsettings={"headers": header})
    token_url = f"{world.sink_url}/token"
    for credential in (
        {"credentialtype": "PLAIN", "identifier": "relay", "secret": new("sink password")},
        {"credentialtype": "ACCESSTOKEN", "accesstoken": new("access token")},
        {"credentialtype": "HEADER", "name": "X-Their-Key", "value": new("credential header")},
        {
            "credentialtype": "CLIENTCREDENTIALS",
            "token_url": token_url,
            "client_id": "relay",
            "client_secret": new("client secret"),
        },
        {
            "credentialtype": "CLIENTCREDENTIALS",
            "token_url": f"{token_url}/refused",
            "client_id": "relay",
            "client_secret": new("refused client secret"),
        },
        {
            "credentialtype": "REFRESHTOKEN",
            "accesstoken": new("old access token"),
            "accesstokenexpiresutc": "2020-01-01T00:00:00Z",
            "refreshtoken": new("refresh token"),
            "refreshtokenendpoint": token_url,
        },
    ):
        await world.subscribe(f"/fail/{credential['credentialtype'].lower()}", sinkcredential=credential)
    await world.subscribe("/gone")
    await world.subscribe("/fail/handshake", config={"handshake": "required"})
    for name in ("crm", "gone"):
        made = await world.call("POST", "/v1/tokens", {"name": name, "scopes": ["read"]}, shows=True)
        world.canaries.add(f"token {name} of the database", made["token"])
        await world.call("GET", "/v1/jobs", token=made["token"])
        await world.call("POST", "/v1/subscriptions", {"sink": world.sink_url}, token=made["token"])
        if name == "gone":
            await world.call("DELETE", f"/v1/tokens/{made['id']}")
            await world.call("GET", "/v1/jobs", token=made["token"])
    lines = world.start(
        "tokens", "create", "by-command", "--scopes", "read",
        **{**world.environ, "RELAY_URL": world.url, "RELAY_TOKEN": world.token},
    )  # fmt: skip
    assert lines.close() == 0
    world.canaries.add("token of the command", next(line for line in lines.lines if line.startswith("rl_")))

    # refused
    await world.call("GET", "/v1/jobs", token=new("wrong token"))
    bad = {"sink": f"{world.sink_url}/fail"}
    await world.call("POST", "/v1/subscriptions", {**bad, "config": {"secret": f"whsec_{new('malformed secret')}!"}})
    await world.call("POST", "/v1/subscriptions", {"sink": f"https://user:{new('userinfo')}@receiver.example/x"})
    await world.call(
        "POST", "/v1/subscriptions", {**bad, "protocolsettings": {"headers": {"X-Key": f"{new('bad header')}\n"}}}
    )
    await world.call(
        "POST",
        "/v1/subscriptions",
        {
            **bad,
            "sinkcredential": {"credentialtype": "HEADER", "name": "X-Key", "value": f"{new('bad credential')}\r\n"},
        },
    )
    await world.call(
        "POST",
        "/v1/subscriptions",
        {**bad, "sinkcredential": {"credentialtype": "PLAIN", "identifier": "x", "passwrd": new("misspelt password")}},
    )
    await world.call("POST", "/v1/subscriptions", {"sink": f"http://127.0.0.2:9/webhook/{new('unreachable path')}"})
    await world.call(
        "POST", "/v1/jobs", {"id": "x", "callback_url": f"http://10.0.0.1/webhook/{new('refused callback')}"}
    )


def recipient(world: World) -> dict[str, str]:
    """Somebody whose address, profile and number the relay keeps. Every second one is known by the number only."""
    number = len(world.captured()) // 3
    name, profile = world.canaries.new(f"captured address {number}"), world.canaries.new(f"captured profile {number}")
    phone = world.canaries.add(f"captured phone {number}", "".join(secrets.choice(string.digits) for _ in range(14)))
    for company in ("delivered", "uncertain"):
        world.companies[company].add_person("Kim", f"{name}@example.com", f"+{phone}")
    found = {"profile_url": f"https://www.linkedin.com/in/{profile}/", "phone": f"+{phone}"}
    return found if number % 2 else {**found, "address": f"{name}@example.com"}


async def write_to_crms(world: World) -> None:
    """A subscription to each company."""
    for name, options in COMPANIES.items():
        world.companies[name].fail(SEARCH, Fault(status=500))
        credential = {"credentialtype": "ACCESSTOKEN", "accesstoken": TOKEN}
        config = {"kind": "pipedrive", **options}
        world.crms[name] = await world.subscribe(world.company_urls[name], sinkcredential=credential, config=config)
    for kind, sink in DRY.items():
        body = {"sinkcredential": {"credentialtype": "ACCESSTOKEN", "accesstoken": TOKEN},
                "config": {"kind": kind, "dry_run": True}}  # fmt: skip
        made = await world.call("POST", "/v1/subscriptions?check=false", {"sink": sink, **body})
        world.dry[kind] = made["id"]
    world.companies["uncertain"].fail("POST /v1/notes", *[Fault(status=500, works=True)] * 99)
    world.companies["uncertain"].fail("GET /v1/notes", *[Fault(status=400)] * 99)


async def use_drop_in(world: World, number: int) -> None:
    """Creates through the relay: with its token, with the account's key, and with keys of nobody."""
    callback = f"{world.sink_url}/webhook/{world.canaries.new(f'callback path {number}')}"
    for key, extra in (
        (world.token, {"Relay_Callback": callback}),
        (world.environ["CANARY_UPSTREAM"], {}),
        (f"sk-revor-other-{world.canaries.new(f'unknown key {number}')}", {}),
        (world.canaries.new(f"unknown token {number}"), {"Relay_Metadata": "no json"}),
    ):
        body: dict[str, Any] = {**dispatch_body(number), "recipient": recipient(world)}
        made = await world.call("POST", DISPATCH_PATH, body, token=key, **extra)
        if made["ok"]:
            world.created.append(made["item"]["id"])
        await world.call("GET", f"{DISPATCH_PATH}/nothing", token=key)


async def lose_an_answer(world: World) -> None:
    """A create of unknown fate, which a person settles."""
    async with aiohttp.ClientSession() as session:
        fault = {"kind": "timeout", "share": 1, "count": 1, "hold_seconds": 0, "path_prefix": DISPATCH_PATH}
        async with session.post(f"{world.sandbox_url}/_sandbox/faults", json=fault) as response:
            assert response.status == 201, await response.text()
    await world.call("POST", DISPATCH_PATH, {**dispatch_body(1), "recipient": recipient(world)})
    (lost,) = (await world.call("GET", "/v1/intents"))["items"]
    body = {"fate": "sent", "job_id": "found by a person"}
    assert (await world.call("POST", f"/v1/intents/{lost['id']}/resolve", body))["fate"] == "sent"


async def ends_at_crms(world: World) -> dict[str, Any]:
    """A delivery to each company that has ended as it should."""
    found: dict[str, Any] = {}
    for name, id in {**world.crms, **world.dry}.items():
        page = await world.call("GET", f"/v1/deliveries?subscription={id}&limit=500")
        end = "dry_run" if name in world.dry else name
        ended = next((one for one in page["items"] if end in (one["state"], one["reason"])), None)
        if ended is not None:
            found[name] = ended
    return found


async def publish(world: World) -> None:
    """An event of another program that names a person: no log may say whom."""
    await world.subscribe("/published", types=["com.acme.order.paid"])
    event = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "com.acme.order.paid", "subject": PUBLISHED}
    body = {**event, "partitionkey": PUBLISHED, "data": {"metadata": {"email": PUBLISHED}}}
    answer = await world.call("POST", "/v1/events", body, Content_Type="application/cloudevents+json")
    assert answer["accepted"] == 1, answer


def asked_for(world: World) -> dict[str, set[str]]:
    """Which captured texts each company was asked for."""
    captured = world.captured()
    return {name: world.canaries.found_in(repr(one.calls).encode(), captured) for name, one in world.companies.items()}


def everything_was_sent(world: World) -> bool:
    """True once the sinks have got every secret that is theirs, and companies were asked for each kind of captured
    text: not every job names its person by all of them."""
    asked = asked_for(world)
    kinds = [{name.rpartition(" ")[0] for name in asked[company]} for company in WRITTEN_TO]
    found = world.canaries.found_in(b"\n".join(world.sink.got))
    is_issued = any(name.startswith("issued token") for name in found)
    return is_issued and found.issuperset(SENT_TO_SINKS) and all(one >= ASKED_WITH for one in kinds)


async def let_events_flow(world: World) -> None:
    """Waits until deliveries have succeeded and failed for good, and every secret was sent."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            dead = await world.call("GET", "/v1/deliveries?state=dead&limit=500")
            done = await world.call("GET", "/v1/deliveries?state=delivered")
            at_crms = await ends_at_crms(world)
            subscriptions = {one["subscription_id"] for one in dead["items"]}
            ended = len(subscriptions) >= 6 and done["items"] and at_crms.keys() == {*COMPANIES, *DRY}
            if ended and everything_was_sent(world):
                return
            await asyncio.sleep(0.3)


async def look_everywhere(world: World) -> None:
    """Reads every page, and runs the commands that print about one thing."""
    paths = ["/metrics", "/readyz", "/livez", "/openapi.json", "/asyncapi.json", "/.well-known/webhook-keys.json"]
    paths += ["/v1/jobs", "/v1/events?limit=500", "/v1/sources", "/v1/tokens", "/v1/keys", "/v1/audit?limit=500"]
    paths += ["/v1/audit/verify", "/v1/intents", "/v1/subscriptions?callbacks=true&limit=500"]
    paths += ["/v1/deliveries?limit=500", "/v1/incidents", "/v1/settings"]
    for path in paths:
        await world.call("GET", path)
    for id in world.subscriptions:
        await world.call("GET", f"/v1/subscriptions/{id}")
        await world.call("POST", f"/v1/subscriptions/{id}/test", {})
    deliveries = (await world.call("GET", "/v1/deliveries?limit=500"))["items"]
    failed = {one["subscription_id"]: one["id"] for one in deliveries if one["state"] != "delivered"}
    for id in failed.values():
        await world.call("GET", f"/v1/deliveries/{id}")
        await world.call("GET", f"/v1/deliveries/{id}/request")
    some = next(iter(failed.values()))
    at_crms = await ends_at_crms(world)
    for delivery in at_crms.values():
        await world.call("GET", f"/v1/deliveries/{delivery['id']}")
        await world.call("GET", f"/v1/deliveries/{delivery['id']}/request")
        event: dict[str, Any]
        for event in ({"event_id": delivery["event_id"]}, {}):
            body = {"subscription": delivery["subscription_id"], **event}
            await world.call("POST", "/v1/subscriptions/preview", body)
    await world.call("GET", f"/v1/jobs/{world.created[0]}")
    for arguments in (
        ("support", world.subscriptions[2]),
        ("support", some),
        ("support", world.created[0]),
        ("support", at_crms["uncertain"]["id"]),
        ("deliveries", "show", at_crms["dry_run"]["id"]),
        ("deliveries", "show", some, "--raw"),
        ("subscriptions", "list", "--callbacks", "--json"),
        ("audit", "--json"),
        ("export",),
        ("check",),
    ):
        await asyncio.to_thread(world.run, *arguments)


async def search(world: World, name: str) -> list[tuple[str, str]]:
    """The leaks so far. The database is searched as it is at this moment, with its log."""
    for where, material in of_files(world.folder, "relay.db*").items():
        world.keep(f"{name} {where}", material)
    if world.database_url is not None:
        for table, material in (await of_postgres(world.database_url)).items():
            world.keep(f"{name} table {table}", material)
    return leaks(world.canaries, world.materials)


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=soak_only)])
async def test_no_secret_is_anywhere_but_where_it_is_needed(start: Start, tmp_path: Path, database: str) -> None:
    async with open_world(start, tmp_path, database) as world:
        world.settings()
        await asyncio.to_thread(world.serve, debug=True)
        assert world.relay is not None
        await give_secrets(world)
        await write_to_crms(world)
        await use_drop_in(world, 1)
        await lose_an_answer(world)
        await publish(world)
        await let_events_flow(world)
        await look_everywhere(world)

        # a reload, right and wrong
        reloaded = world.canaries.add("reloaded token", word(40))
        world.settings(more_tokens=f", {{name: new, token: {reloaded}, scopes: [read]}}")
        world.relay.popen.send_signal(signal.SIGHUP)
        await asyncio.to_thread(world.relay.until, "settings_read_again")
        await world.call("GET", "/v1/jobs", token=reloaded)
        wrong = world.canaries.add("wrong token of the settings", word(40))
        world.settings(more_tokens=f", {{name: new, token: {wrong}, scopes: [none]}}")
        world.relay.popen.send_signal(signal.SIGHUP)
        await asyncio.to_thread(world.relay.until, "settings_refused")
        await use_drop_in(world, 2)
        assert world.relay.end(signal.SIGKILL) == -signal.SIGKILL
        world.keep("log at debug level", "\n".join(world.relay.lines).encode())
        assert await search(world, "killed") == []

        # again, with a proxy that refuses the credentials
        credentials = f"relay:{world.canaries.new('proxy password')}"
        world.settings(proxy=f', egress_proxy: "{world.proxy.url(credentials)}"')
        await asyncio.to_thread(world.serve, debug=False)
        await use_drop_in(world, 3)
        await look_everywhere(world)
        world.run("check")
        await erase_a_job(world)
        assert world.relay.end() == 0
        world.keep("log at info level", "\n".join(world.relay.lines).encode())
        assert await search(world, "ended") == []

        check_that_it_was_a_test(world)


async def erase_a_job(world: World) -> None:
    """What is captured goes with its job."""
    kept, job = await captured_jobs(world), world.created[0]
    assert {job, "found by a person"} <= kept
    assert "erased 1 jobs" in "".join(await asyncio.to_thread(world.run, "erase", "--job", job))
    assert await captured_jobs(world) == kept - {job}


async def captured_jobs(world: World) -> set[str]:
    """The jobs of which a recipient is kept."""
    statement = "SELECT external_id FROM jobs WHERE captured IS NOT NULL"
    if world.database_url is None:
        with contextlib.closing(sqlite3.connect(world.folder / "relay.db")) as database:
            return {row[0] for row in database.execute(statement)}
    connection = await asyncpg.connect(world.database_url)
    try:
        return {row[0] for row in await connection.fetch(statement)}
    finally:
        await connection.close()


def check_that_recipients_were_kept(world: World) -> None:
    """The CRMs were asked for the addresses and the numbers, and nobody else got them."""
    captured, asked = world.captured(), asked_for(world)
    assert asked["dry_run"] == set()
    for name in WRITTEN_TO:
        assert {one.rpartition(" ")[0] for one in asked[name]} >= ASKED_WITH, name
    notes = [note for company in world.companies.values() for note in company.notes]
    assert notes
    assert world.canaries.found_in(repr(notes).encode(), captured) == set()
    attempts = b"".join(material for name, material in world.materials.items() if " GET /v1/deliveries/dlv_" in name)
    assert attempts.count(b"{recipient.address}") > 0
    assert world.canaries.found_in(b"\n".join(world.sink.got), captured) == set()


def check_that_it_was_a_test(world: World) -> None:
    """The secrets were used, and a leak would have been found."""
    check_that_recipients_were_kept(world)
    got = b"\n".join(world.sink.got) + "\n".join(world.proxy.heads).encode()
    for name in (*SENT_TO_SINKS, "proxy password"):
        assert name in world.canaries.found_in(got), f"{name} was not used"
    assert any(name.startswith("issued token") for name in world.canaries.found_in(got))
    logs = b"".join(material for name, material in world.materials.items() if "log at debug level" in name)
    assert b"com.acme.order.paid" in logs
    assert PUBLISHED.encode() not in b"".join(one for name, one in world.materials.items() if "log at" in name)
    for event in (b"api_request", b"settings_refused", b'"debug"'):
        assert event in logs
    answers = b"".join(world.materials.values())
    for code in (b"scope_missing", b"unauthorized", b"sink_refused", b"credential:", b"[redacted]"):
        assert code in answers, code
