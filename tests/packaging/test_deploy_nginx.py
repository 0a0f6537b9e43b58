"""The nginx configuration in `deploy/`, run by nginx: what a stranger tries, and what has to get through."""

import asyncio
import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from relay.proxy.creates import CREATE_SECONDS
from tests.support.dropin_requests import DISPATCH, DISPATCHES
from tests.support.nginx_world import HOST, SHIPPED, Nginx, nginx_before
from tests.support.peer import open_peer
from tests.support.process_world import API_TOKEN, Process, Start, keep_token, processes
from tests.support.scale import scaled
from tests.support.socket_holder import socket_holder
from tests.support.steady_load import SteadyLoad
from tests.support.wire import Answer, Head, answer, read_head
from tests.support.wire import request as plain_request

RESTARTS = scaled(1, 3)
RATE = scaled(50, 200)
MOST_WAITING = 150
"""nginx takes 200 connections from one address."""
BEARER = ("Authorization", f"Bearer {API_TOKEN}")
JSON = ("Content-Type", "application/json")
SETTINGS = f"""\
server: {{public_url: "https://{HOST}", trusted_proxies: ["127.0.0.1/32"]}}
security: {{allow_http: true, allow_networks: ["127.0.0.0/8"]}}
sources: {{revor: {{polling: {{min_interval_seconds: 0.05, max_interval_seconds: 0.5, max_requests_per_second: 100}}}}}}
"""


def request(*arguments: object, **named: object) -> bytes:
    """A request to the public host name."""
    return plain_request(*arguments, **named).replace(b"Host: 127.0.0.1\r\n", f"Host: {HOST}\r\n".encode(), 1)  # type: ignore[arg-type]


# --- what nginx passes on, as bytes


@dataclass
class Recorder:
    """Stands where the relay does. Keeps every head that nginx passes on, and answers as told."""

    says: bytes = answer(200, [("Content-Type", "text/plain")], b"recorded")
    heads: list[Head] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    leaves: bool = False
    """Closes the connection instead of answering."""
    answers: int = 1_000_000
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await read_head(reader)
            self.heads.append(head)
            self.came.set()
            self.bodies.append(await reader.readexactly(head.length or 0))
            if self.leaves or self.answers == 0:
                return
            self.answers -= 1
            writer.write(self.says)
            await writer.drain()

    @property
    def targets(self) -> list[bytes]:
        return [head.words[1] for head in self.heads]


@dataclass
class Recorded:
    recorder: Recorder
    nginx: Nginx


@pytest.fixture
async def recorded() -> AsyncIterator[Recorded]:
    recorder = Recorder()
    async with open_peer(recorder.talk) as port, nginx_before(port) as nginx:
        yield Recorded(recorder, nginx)


async def raw(nginx: Nginx, sent: bytes) -> bytes:
    """All that comes back for these bytes, until nginx closes."""
    async with nginx.client() as client:
        client.writer.write(sent)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(300):
                return await client.reader.read()
    return b""


async def test_forwarding_headers_are_set_not_appended(recorded: Recorded) -> None:
    forged = [
        ("X-Forwarded-For", "203.0.113.5"),
        ("X-Forwarded-For", "198.51.100.7, 127.0.0.1"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Port", "81"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Real-IP", "203.0.113.5"),
        ("Forwarded", "for=203.0.113.5;host=evil.example"),
        ("X_Forwarded_For", "203.0.113.5"),
        ("X-Forwarded-User", "admin"),
        ("X-Auth-Request-User", "admin"),
        ("X-Remote-User", "admin"),
        ("Remote-User", "admin"),
        ("Connection", "close, X-Forwarded-For"),
    ]
    async with recorded.nginx.client() as client:
        assert (await client.exchange(request("GET", "/v1/jobs", forged))).status == 200
    (head,) = recorded.recorder.heads
    assert head.all("x-forwarded-for") == [b"127.0.0.1"]
    assert head.all("x-forwarded-proto") == [b"https"]
    assert head.all("x-forwarded-host") == [HOST.encode()] == head.all("host")
    sent = {name for name, _ in head.headers}
    assert sent.isdisjoint({b"x-forwarded-port", b"x-forwarded-prefix", b"x-real-ip", b"forwarded", b"x_forwarded_for"})
    assert b"203.0.113.5" not in repr(head.headers).encode()
    assert b"admin" not in repr(head.headers).encode(), "a name of a user that no one has checked"


@pytest.mark.parametrize(
    "host",
    [b"127.0.0.1", b"localhost:8080", b"other.example", b"relay.example.com.evil.example", b"", b"[::1]", b"a b"],
)
async def test_other_host_reaches_nothing(recorded: Recorded, host: bytes) -> None:
    said = await raw(recorded.nginx, b"GET /v1/jobs HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % host)
    assert said.split(b" ", 2)[1:2] in ([b"421"], [b"400"]), said
    assert recorded.recorder.heads == []


async def test_two_hosts_and_none_are_refused(recorded: Recorded) -> None:
    good = b"Host: " + HOST.encode() + b"\r\n"
    for hosts in (good + b"Host: 127.0.0.1\r\n", b"Host: 127.0.0.1\r\n" + good, good + good, b""):
        said = await raw(recorded.nginx, b"GET /v1/jobs HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 400"), said
    for line in (b"GET /v1/jobs HTTP/1.0", b"GET http://127.0.0.1:8080/v1/jobs HTTP/1.1"):
        said = await raw(recorded.nginx, line + b"\r\nConnection: close\r\n\r\n")
        assert said.split(b" ", 2)[1] in (b"400", b"421"), said
    assert recorded.recorder.heads == []


async def test_target_with_another_host_is_not_passed_on(recorded: Recorded) -> None:
    """An absolute target wins over `Host`: the relay must see the name that nginx has checked."""
    line = b"GET http://127.0.0.1:8080/v1/jobs HTTP/1.1\r\nHost: " + HOST.encode() + b"\r\nConnection: close\r\n\r\n"
    said = await raw(recorded.nginx, line)
    assert said.split(b" ", 2)[1] in (b"400", b"421"), said
    assert recorded.recorder.heads == []


async def test_unknown_name_gets_no_certificate(recorded: Recorded) -> None:
    for name in ("other.example", "127.0.0.1"):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await recorded.nginx.client(name).connect()


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: relay.example.com\r\nX: "
CONFLICTS = {
    "length and chunks": b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % (5 + len(SMUGGLED)),
    "two lengths": b"Content-Length: 5\r\nContent-Length: %d\r\n" % (5 + len(SMUGGLED)),
    "a list of lengths": b"Content-Length: 5, 6\r\n",
    "a signed length": b"Content-Length: +5\r\n",
    "a length in hex": b"Content-Length: 0x5\r\n",
    "chunks behind a space": b"Transfer-Encoding : chunked\r\n",
    "chunks behind a tab": b"Transfer-Encoding:\tchunked, identity\r\n",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n",
    "two codings": b"Transfer-Encoding: gzip, chunked\r\n",
    "two headers of codings": b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    "a folded header": b"X-Folded: a\r\n Transfer-Encoding: chunked\r\n",
    "a bare line feed": b"X: a\nTransfer-Encoding: chunked\r\n",
    "a bare carriage return": b"X: a\rTransfer-Encoding: chunked\r\n",
    "a NUL": b"X: a\0\r\nContent-Length: 5\r\n",
}


@pytest.mark.parametrize("path", [b"/v1/jobs", b"/api/v1/outreach/jobs"])
@pytest.mark.parametrize("conflict", CONFLICTS)
async def test_no_request_is_smuggled_behind_another(recorded: Recorded, conflict: str, path: bytes) -> None:
    """Whatever nginx makes of it, the relay never takes the bytes of a body for a request of their own."""
    head = b"POST " + path + b" HTTP/1.1\r\nHost: relay.example.com\r\n" + CONFLICTS[conflict] + b"\r\n"
    await raw(recorded.nginx, head + b"0\r\n\r\n" + SMUGGLED + b"\r\nConnection: close\r\n\r\n")
    for passed in recorded.recorder.heads:
        lengths, codings = passed.all("content-length"), passed.all("transfer-encoding")
        assert len(lengths) + len(codings) <= 1, passed.headers
        assert passed.words[2] == b"HTTP/1.1"
    posts = [target for target in recorded.recorder.targets if target == path]
    rest = [target for target in recorded.recorder.targets if target != path]
    assert len(posts) <= 1
    # As a request of its own, if nginx took it for one: it is the caller's own, with the caller's own headers.
    assert rest in ([], [b"/smuggled"])
    for passed in recorded.recorder.heads:
        assert passed.all("x-forwarded-for") == [b"127.0.0.1"], "it did not pass through nginx as a request"


async def test_request_on_an_upstream_connection_is_the_callers_own(recorded: Recorded) -> None:
    """Two callers share nginx's connections to the relay: the second gets its own answer."""
    async with recorded.nginx.client() as one, recorded.nginx.client() as other:
        one.writer.write(request("POST", "/v1/jobs", [JSON, ("Content-Length", "100")]) + b"{}")
        assert (await other.exchange(request("GET", "/v1/sources"))).body == b"recorded"
    assert recorded.recorder.targets == [b"/v1/sources"], "half a request stays with nginx"


async def test_answer_of_an_upstream_does_not_steer_nginx(recorded: Recorded) -> None:
    steering = [("X-Accel-Redirect", "/v1/jobs"), ("X-Accel-Limit-Rate", "1"), ("X-Accel-Expires", "1000")]
    recorded.recorder.says = answer(200, steering, b"from the upstream")
    async with recorded.nginx.client() as client:
        for _ in range(2):
            assert (await client.exchange(request("GET", "/api/v1/anything"))).body == b"from the upstream"
    assert recorded.recorder.targets == [b"/api/v1/anything"] * 2


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("kept", [False, True])
async def test_create_is_never_sent_twice_by_nginx(recorded: Recorded, method: str, kept: bool) -> None:
    """The relay is gone before it answers: the caller learns that, and decides."""
    async with recorded.nginx.client() as client:
        if kept:
            recorded.recorder.answers = 1
            assert (await client.exchange(request("GET", "/api/v1/first"))).status == 200
        else:
            recorded.recorder.leaves = True
        create = request(method, "/api/v1/outreach/dispatch", [JSON, ("Idempotency-Key", "k")], b"{}")
        assert (await client.exchange(create)).status == 502
    assert recorded.recorder.targets.count(b"/api/v1/outreach/dispatch") == 1


def test_nginx_waits_longer_for_a_create_than_the_relay() -> None:
    """It would answer 504 a moment before the relay says that the outcome is unknown, and names the intent."""
    (seconds,) = re.findall(r"proxy_read_timeout ([0-9]+)s;", SHIPPED.read_text())
    assert int(seconds) >= CREATE_SECONDS + 15


async def test_body_of_the_drop_in_streams_in_both_directions(recorded: Recorded) -> None:
    """Its head reaches the relay before its body has ended."""
    async with recorded.nginx.client() as client:
        head = [JSON, ("Transfer-Encoding", "chunked")]
        client.writer.write(request("POST", "/api/v1/upload", head) + b"5\r\nfirst\r\n")
        async with asyncio.timeout(300):
            await recorded.recorder.came.wait()
        assert recorded.recorder.heads[0].chunked
        assert (await client.answer()).body == b"recorded"


async def test_no_secret_is_logged(recorded: Recorded) -> None:
    """Also where nginx itself fails: its messages quote the request line."""
    secret = "rl_canary0123456789"
    sent = [("Authorization", f"Bearer {secret}"), ("Cookie", secret), ("Referer", f"https://a.example/{secret}")]
    target = f"/api/v1/jobs?access_token={secret}"
    async with recorded.nginx.client() as client:
        assert (await client.exchange(request("GET", target, [*sent, ("User-Agent", secret)]))).status == 200
        recorded.recorder.leaves = True
        assert (await client.exchange(request("POST", target, sent, b"{}"))).status == 502
    await raw(recorded.nginx, f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\nHost: {HOST}\r\n\r\n".encode())
    await raw(recorded.nginx, f"GET {target}\x01 HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    logs = recorded.nginx.logs()
    assert secret not in logs
    lines = (recorded.nginx.folder / "revor-relay.log").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines][:2] == ["/api/v1/jobs"] * 2
    assert [json.loads(line)["status"] for line in lines][:2] == [200, 502]


# --- with the relay behind it


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    keep_token(tmp_path)
    (tmp_path / "relay.yaml").write_text(SETTINGS)
    with processes(tmp_path) as begin:
        yield begin


@dataclass
class World:
    """A relay behind nginx, and a sandbox as its upstream."""

    relay: Process
    nginx: Nginx
    upstream: str
    url: str

    async def ask(self, method: str, target: str, *headers: tuple[str, str], body: bytes | None = None) -> Answer:
        async with self.nginx.client() as client:
            return await client.exchange(request(method, target, headers, body))


@contextlib.asynccontextmanager
async def served(start: Start, *options: str) -> AsyncIterator[World]:
    sandbox = start("sandbox", "--port", "0", "--speed", "200", "--rate-limit", "100000/1")
    upstream = await asyncio.to_thread(sandbox.until, r"serving (http://\S+)")
    given = {"REVOR_BASE_URL": upstream, "REVOR_API_KEY": "sk-revor-default"}
    relay = start("serve", "--port", "0", *options, **given)
    url = await asyncio.to_thread(relay.until, r"serving (http://\S+)")
    async with nginx_before(int(url.rpartition(":")[2])) as nginx:
        yield World(relay, nginx, upstream, url)


async def test_stranger_is_not_let_in_through_the_proxy(start: Start) -> None:
    """The proxy connects from loopback, and whoever stands behind it is still nobody."""
    claims = [
        (),
        (("X-Forwarded-For", "127.0.0.1"),),
        (("Forwarded", "for=127.0.0.1"),),
        (("Authorization", "Bearer wrong-token-0123456789"),),
        (("Authorization", "Bearer "),),
        (("X-Forwarded-For", "127.0.0.1"), ("Origin", "http://127.0.0.1:8080")),
    ]
    async with served(start) as world:
        for claim in claims:
            for target in ("/v1/jobs", "/v1/signing-secret", "/v1/events/stream", "/api/v1/outreach/jobs/x", "/v1"):
                # 429: wrong tokens are slowed down after a while
                assert (await world.ask("GET", target, *claim)).status in (401, 429), (target, claim)
            body = b'{"id": "j-1"}'
            assert (await world.ask("POST", "/v1/jobs", JSON, *claim, body=body)).status in (401, 429)
        assert (await world.ask("GET", "/livez")).status == 200
        assert (await world.ask("GET", "/v1/jobs", BEARER)).status == 200


async def test_dev_mode_lets_no_one_in_through_the_proxy(start: Start) -> None:
    async with served(start, "--dev") as world:
        for target in ("/v1/jobs", "/v1/signing-secret", "/v1/events/stream"):
            assert (await world.ask("GET", target)).status == 403, target


async def test_token_of_another_network_is_refused_whatever_the_client_claims(start: Start) -> None:
    """nginx names the address that it was called from, which is 127.0.0.1 here."""
    claims = [
        (),
        (("X-Forwarded-For", "203.0.113.5"),),
        (("Forwarded", "for=203.0.113.5"),),
        (("X-Real-IP", "203.0.113.5"), ("X-Forwarded-For", "203.0.113.5, 203.0.113.5")),
    ]
    async with served(start) as world:
        tokens = {}
        for name, network in (("elsewhere", "203.0.113.0/24"), ("here", "127.0.0.0/8")):
            options = ("tokens", "create", name, "--scopes", "read", "--network", network, "--json")
            made = start(*options, RELAY_URL=world.url)
            assert await asyncio.to_thread(made.close) == 0
            tokens[name] = json.loads(made.lines[0])["token"]
        for claim in claims:
            statuses = [
                (await world.ask("GET", "/v1/jobs", ("Authorization", f"Bearer {tokens[name]}"), *claim)).status
                for name in ("elsewhere", "here")
            ]
            assert statuses[0] in (401, 403), claim
            assert statuses[1] == 200, claim


async def test_events_and_long_polls_and_the_drop_in_pass(start: Start) -> None:
    """An event arrives while its stream is open, a wait takes its time, and a create goes to the upstream and back."""
    async with served(start) as world:
        async with world.nginx.client() as stream:
            stream.writer.write(request("GET", "/v1/events/stream", [BEARER, ("Accept", "text/event-stream")]))
            head = await stream.head()
            assert int(head.words[1]) == 200
            made = await world.ask("POST", DISPATCHES, BEARER, JSON, body=json.dumps(DISPATCH).encode())
            assert made.status in (200, 201, 202), made.body
            job_id = made.json["item"]["id"]
            async with asyncio.timeout(300):
                while job_id.encode() not in await stream.reader.readline():
                    pass
        waited = await world.ask("GET", f"/v1/jobs/{job_id}", BEARER, ("Prefer", "wait=20"))
        assert waited.status == 200
        assert waited.one("preference-applied") == b"wait=20"
        assert waited.json["open"] is False
        read = await world.ask("GET", f"/api/v1/outreach/jobs/{job_id}", BEARER)
        assert read.json["item"]["id"] == job_id
        large = b'{"jobs": [' + b",".join(b'{"id": "bulk-%d"}' % number for number in range(10_000)) + b"]}"
        assert (await world.ask("POST", "/v1/jobs/batch", BEARER, JSON, body=large)).json["created"] == 10_000


async def test_restarts_behind_nginx_fail_no_request(start: Start) -> None:
    """nginx keeps connections to the relay, and repeats no POST: none may be closed under it."""
    statuses: dict[int, int] = {}

    def answered(number: int, got: Answer) -> None:
        statuses[number] = got.status

    def registration(number: int) -> bytes:
        if number % 2:
            return request("GET", "/v1/jobs?limit=1", [BEARER])
        return request("POST", "/v1/jobs", [BEARER, JSON], json.dumps({"id": f"job-{number}"}).encode())

    variables = {"REVOR_API_KEY": "sk-revor-default", "REVOR_BASE_URL": "http://127.0.0.1:9"}
    with socket_holder(start) as holder:
        async with nginx_before(int(holder.url.rpartition(":")[2])) as nginx:
            relay = await holder.served(**variables)
            tls: Any = {"trust": nginx.trust, "name": HOST}
            load = SteadyLoad(nginx.url, RATE, registration, answered, most_waiting=MOST_WAITING, **tls)
            sending = asyncio.create_task(load.run())
            await asyncio.sleep(0.5)
            for _ in range(RESTARTS):
                assert await asyncio.to_thread(relay.end) == 0
                relay = await holder.served(**variables)
                await load.caught_up()
            load.stop()
            await sending
    assert load.failures == [], load.summary
    assert set(statuses.values()) == {200, 201}
    assert len(statuses) == load.sent
