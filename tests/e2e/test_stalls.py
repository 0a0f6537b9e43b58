"""No single request holds the event loop for long: the worst legal bodies, one at a time, at a whole relay.

The process measures itself (`tests/support/stall_host.py`), in processor time, so that a busy machine does not fail
this. `make soak` also watches `/livez` from outside.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import orjson
import pytest

from tests.support import wire
from tests.support.process_world import API_TOKEN, processes
from tests.support.scale import SOAK, scaled
from tests.support.stall_host import PATH
from tests.support.wire import Answer, Call, Client, Stub, answer, open_stub, request

MEBIBYTE = 1 << 20
LARGEST = scaled(2, 48) * MEBIBYTE
"""A body as large as one may be; `make verify` sends smaller ones of the same kinds."""
LISTS = max(LARGEST, 4 * MEBIBYTE)
"""More lists than a body may have."""
LARGEST_CREATE = scaled(8, 64) * MEBIBYTE
MANY = scaled(600, 10_000)
MOST_MS = 250
JSON = [("Authorization", f"Bearer {API_TOKEN}"), ("Content-Type", "application/json")]
HOOK = "https://hooks.example/x"
SETTINGS = f"""
auth: {{tokens: [{{name: tests, token: {API_TOKEN}, scopes: [admin]}}]}}
sources:
  revor: {{polling: {{max_requests_per_second: 2, min_interval_seconds: 60}}}}
"""


def batch(*entries: bytes) -> bytes:
    return b'{"jobs":[' + b",".join(entries) + b"]}"


def filled(unit: bytes, size: int = LARGEST, *, before: bytes = b'{"jobs":[', after: bytes = b"]}") -> bytes:
    """A body of `size` with one unit again and again."""
    count = (size - len(before) - len(after) - 8) // (len(unit) + 1)
    return before + b",".join([unit] * count) + after


def keys(count: int, name: bytes = b"k") -> bytes:
    """The inside of an object with so many fields."""
    return b",".join(b'"%b%d":1' % (name, number) for number in range(count))


def honest(prefix: str, count: int, size: int) -> bytes:
    """A batch of valid jobs with metadata of this size."""
    filling = {f"field_{number}": "text, with [marks] and {others}" for number in range(size // 45)}
    return batch(*(orjson.dumps({"id": f"{prefix}-{number}", "metadata": filling}) for number in range(count)))


def jobs(make: Callable[[int], object], count: int = MANY) -> bytes:
    return batch(*(orjson.dumps(make(number)) for number in range(count)))


def large_answers() -> bytes:
    """A batch of upstream answers with large items: the jobs and events that list pages show."""
    item = {"status": "scheduled", "text": "x" * 45_000, "list": [{"n": n} for n in range(500)]}
    return jobs(lambda n: {"ok": True, "item": {"id": f"large-{n}", **item}}, 500)


def with_callbacks(prefix: str) -> bytes:
    """A batch of jobs that each have a URL of their own, to which an event is due."""

    def job(number: int) -> object:
        item = {"id": f"{prefix}-{number}", "status": "scheduled", "scheduled_at": "2030-01-01T00:00:00Z"}
        return {"ok": True, "item": item, "callback_url": f"{HOOK}/{prefix}/{number}"}

    return jobs(job)


@dataclass(frozen=True, slots=True)
class Case:
    """A request, and the statuses that it may be answered with."""

    raw: Callable[[], bytes]
    statuses: tuple[int, ...] = (200,)


def post(path: str, body: Callable[[], bytes], *statuses: int, **headers: str) -> Case:
    given = [*JSON, *((name.replace("_", "-"), value) for name, value in headers.items())]
    return Case(lambda: request("POST", path, given, body()), statuses or (200,))


def get(target: str, *statuses: int, headers: Sequence[tuple[str, str]] = ()) -> Case:
    return Case(lambda: request("GET", target, [*JSON, *headers]), statuses or (200,))


def publish(make: Callable[[int], bytes], count: int = scaled(250, 1_000), *statuses: int) -> Case:
    """A batch of published events, `make` giving the inside of each after its attributes."""

    def event(number: int) -> bytes:
        begins = b'{"specversion":"1.0","id":"%d-%d","source":"/s","type":"com.acme.%d"' % (id(make), number, number)
        return begins + make(number) + b"}"

    headers = [JSON[0], ("Content-Type", "application/cloudevents-batch+json")]
    return Case(
        lambda: request("POST", "/v1/events", headers, b"[" + b",".join(map(event, range(count))) + b"]"),
        statuses or (202,),
    )


PUBLISHED = scaled(2_000, 16_000)
"""Bytes of each of a thousand events: 16 MiB is the most."""
CASES = {
    # published events
    "published events with texts": publish(lambda n: b',"data":"%b"' % (b"x" * PUBLISHED)),
    "published events, each with a key": publish(lambda n: b',"partitionkey":"%d","data":[]' % n),
    "published events that are as large as one may be": publish(
        lambda n: b',"data":"%b"' % (b"x" * 261_900), scaled(8, 63)
    ),
    "published events with lists": publish(lambda n: b',"data":[%b]' % b",".join([b"[]"] * scaled(300, 900))),
    "published events with escapes": publish(lambda n: b',"data":"%b"' % (b"\\u00e9" * (PUBLISHED // 6))),
    "published events with half pairs": publish(lambda n: b',"data":"%b"' % (b"\\ud83d" * (PUBLISHED // 6))),
    "published events with long numbers": publish(lambda n: b',"data":[%b]' % (b"1" * 30 + b",9" * (PUBLISHED // 3))),
    "published events with base64": publish(lambda n: b',"data_base64":"%b"' % (b"YWJj" * (PUBLISHED // 4))),
    "published events with 64 attributes": publish(
        lambda n: b"," + b",".join(b'"x%d":"%b"' % (i, b"y" * (PUBLISHED // 80)) for i in range(58))
    ),
    "published events with many attributes": publish(lambda n: b"," + keys(PUBLISHED // 14)),
    "published events of types that look like known ones": publish(
        lambda n: b',"type":"ai.revor.jo%d.%b"' % (n, b"succeeded." * 18 + b"x")
    ),
    "deep published events": publish(lambda n: b',"data":%b%b' % (b"[" * PUBLISHED, b"]" * PUBLISHED), 400),
    "deep published events, over and over": publish(
        lambda n: b',"data":[%b]' % b",".join([b"[" * 900 + b"]" * 900] * (PUBLISHED // 1_900 + 1)),
        scaled(250, 900),
        202,
        400,
    ),
    "published events of brackets in texts": publish(lambda n: b',"data":"%b"' % (b'[\\"{' * (PUBLISHED // 5))),
    "published events that are known": publish(lambda n: b',"id":"1","data":"%b"' % (b"x" * PUBLISHED)),
    "a batch of nothing": Case(
        lambda: request(
            "POST",
            "/v1/events",
            [JSON[0], ("Content-Type", "application/cloudevents-batch+json")],
            b"[" + b",".join([b"1"] * 1_000) + b" " * (15 * MEBIBYTE) + b"]",
        ),
        (202,),
    ),
    # batches
    "honest batch, as large as one may be": post("/v1/jobs/batch", lambda: honest("big", LARGEST // 5_200, 4_300)),
    "batch of many small jobs": post("/v1/jobs/batch", lambda: jobs(lambda n: {"id": f"small-{n}"})),
    "large items, for the lists": post("/v1/jobs/batch", large_answers),
    "the same batch again": post("/v1/jobs/batch", lambda: honest("big", LARGEST // 5_200, 4_300)),
    "lists in lists": post("/v1/jobs/batch", lambda: filled(b"[]", LISTS, before=b'{"jobs":[[', after=b"]]}"), 400),
    "lists as entries": post("/v1/jobs/batch", lambda: filled(b"[]"), 422),
    "entries of lists": post("/v1/jobs/batch", lambda: filled(b"[" + b",".join([b"[]"] * 90) + b"]", LISTS), 400, 422),
    "590 unknown fields in many entries": post(
        "/v1/jobs/batch", lambda: batch(*[b'{"id":"a",' + keys(450, b"i") + b"}"] * MANY)
    ),
    "as many that look like known ones": post(
        "/v1/jobs/batch", lambda: batch(*(b'{"id":"a",' + keys(60, b"%dmetadataa" % n) + b"}" for n in range(MANY)))
    ),
    "100 unknown types in many entries": post(
        "/v1/jobs/batch",
        lambda: jobs(
            lambda n: {"id": "a", "callback_url": HOOK, "callback_types": [f"job.faild{n}x{t}" for t in range(100)]},
            MANY * 9 // 10,
        ),
    ),
    "one large entry": post("/v1/jobs/batch", lambda: b'{"jobs":[{' + keys(LARGEST // 14) + b"}]}"),
    "numbers": post("/v1/jobs/batch", lambda: filled(b"1"), 422),
    "entries of numbers": post("/v1/jobs/batch", lambda: filled(b"[" + b",".join([b"1"] * 2_600) + b"]")),
    "long numbers": post("/v1/jobs/batch", lambda: filled(b"[" + b"1" * 4_400 + b",1" * 400 + b"]")),
    "infinite numbers": post("/v1/jobs/batch", lambda: filled(b"[" + b",".join([b"1e400"] * 900) + b"]")),
    "texts of escapes": post("/v1/jobs/batch", lambda: filled(b'"' + b"\\u00e9" * 900 + b'"')),
    "texts of half pairs": post("/v1/jobs/batch", lambda: filled(b'"' + b"\\ud83d" * 900 + b'"')),
    "one text": post("/v1/jobs/batch", lambda: filled(b'"' + b"x" * (LARGEST - MEBIBYTE) + b'"')),
    "one text of brackets and quotes": post("/v1/jobs/batch", lambda: filled(b'"' + b'[\\"{' * (LARGEST // 5) + b'"')),
    "quotes": post("/v1/jobs/batch", lambda: filled(b'""'), 422),
    "a long name": post("/v1/jobs/batch", lambda: batch(b'{"' + b"k" * (LARGEST - MEBIBYTE) + b'":1}')),
    "a name again and again": post("/v1/jobs/batch", lambda: filled(b'{"id":"a"' + b',"id":"a"' * 600 + b"}")),
    "deep": post(
        "/v1/jobs/batch",
        lambda: b'{"jobs":[' + b"[" * (LISTS // 2 - MEBIBYTE) + b"]" * (LISTS // 2 - MEBIBYTE) + b"]}",
        400,
    ),
    "metadata of 64 KiB": post(
        "/v1/jobs/batch",
        lambda: jobs(lambda n: {"id": f"m-{n}", "metadata": {f"k{i}": i for i in range(6_000)}}, MANY // 20),
    ),
    "spaces": post("/v1/jobs/batch", lambda: b'{"jobs":[' + b" " * (LARGEST - MEBIBYTE) + b"]}"),
    "nothing that is JSON": post("/v1/jobs/batch", lambda: b"\xff" * LARGEST, 400),
    "a batch with a key": post("/v1/jobs/batch", lambda: filled(b"{}" + b" " * 5_200), Idempotency_Key="batch"),
    "its answer again": post("/v1/jobs/batch", lambda: filled(b"{}" + b" " * 5_200), Idempotency_Key="batch"),
    "many refused callbacks": post(
        "/v1/jobs/batch", lambda: jobs(lambda n: {"id": "a", "callback_url": f"http://{n}.internal/{'x' * 2_000}"})
    ),
    "many callbacks": post("/v1/jobs/batch", lambda: jobs(lambda n: {"id": f"c-{n}", "callback_url": f"{HOOK}{n}"})),
    # single bodies
    "a job of lists": post("/v1/jobs", lambda: filled(b"[]", MEBIBYTE, before=b'{"id":[', after=b"]}"), 400),
    "a job with 100,000 fields": post("/v1/jobs", lambda: b"{" + keys(95_000) + b"}", 422),
    "a job of long numbers": post(
        "/v1/jobs", lambda: filled(b"1", MEBIBYTE, before=b'{"id":[' + b"9" * 30 + b",", after=b"]}"), 422
    ),
    "a job of half pairs": post("/v1/jobs", lambda: b'{"id":"' + b"\\ud83d" * 170_000 + b'"}', 422),
    "a large answer as a job": post(
        "/v1/jobs", lambda: b'{"ok":true,"item":{"id":"wide","status":"queued",' + keys(90_000) + b"}}", 201
    ),
    "a subscription with 100,000 headers": post(
        "/v1/subscriptions",
        lambda: b'{"sink":"https://a.example","protocolsettings":{"headers":{' + keys(90_000) + b"}}}",
        422,
    ),
    "a subscription with 100,000 fields": post(
        "/v1/subscriptions", lambda: b'{"sink":"https://a.example","config":{' + keys(90_000) + b"}}", 422
    ),
    "a subscription with many types": post(
        "/v1/subscriptions",
        lambda: orjson.dumps({"sink": HOOK, "types": [f"job.{'faild' * 30}{n}" for n in range(6_000)]}),
        422,
    ),
    "a subscription with 100 unknown types": post(
        "/v1/subscriptions", lambda: orjson.dumps({"sink": HOOK, "types": [f"job.faild{n}" for n in range(100)]}), 422
    ),
    "a replacement with long lists": Case(
        lambda: request(
            "PUT",
            "/v1/subscriptions/sub_01jvpq3m8n0000000000000002",
            JSON,
            orjson.dumps(
                {"sink": HOOK, "config": {"retry_schedule": ["5 s"] * 100_000, "metadata_keys": [""] * 9_000}}
            ),
        ),
        (404, 422),
    ),
    "a replay with many types": post(
        "/v1/subscriptions/sub_01jvpq3m8n0000000000000002/replay",
        lambda: orjson.dumps({"since": "2026-01-01T00:00:00Z", "types": [f"job.faild{n}" for n in range(50_000)]}),
        404,
        422,
    ),
    "retries with a wide filter": post("/v1/deliveries/retry", lambda: b'{"filter":{' + keys(90_000) + b"}}", 422),
    "retries with long values": post(
        "/v1/deliveries/retry",
        lambda: orjson.dumps({"filter": {"reason": "x" * 500_000, "type": "y" * 400_000}}),
        422,
    ),
    # heads
    "a long query": get("/v1/jobs?" + "&".join(f"statu{n}=x" for n in range(2_500)), 422),
    "50 unknown parameters": get("/v1/jobs?" + "&".join(f"statu{'s' * 500}{n}=x" for n in range(50)), 422),
    "many headers": get("/v1/jobs", headers=[("X", "y")] * 4_000),
    "a long id": get("/v1/jobs/" + "%41" * 10_000, 404),
    # lists
    "a list of large jobs": get("/v1/jobs?limit=500"),
    "a list of large events": get("/v1/events?limit=500"),
    "deliveries in groups": get("/v1/deliveries?group_by=reason,sink,day&limit=500"),
    "a list of callbacks": get("/v1/subscriptions?callbacks=true&limit=500"),
    "metrics": get("/metrics"),
    "the audit": get("/v1/audit?limit=500"),
    "the tokens": get("/v1/tokens?limit=500"),
    "the description": get("/openapi.json"),
    # the drop-in
    "a create as large as one may be": post("/api/v1/outreach/dispatches", lambda: bytes(LARGEST_CREATE), 200),
    "a create of lists": post("/api/v1/outreach/dispatches", lambda: b"[" + b"[]," * 340_000 + b"[]]", 200),
    "a create with deep metadata": post(
        "/api/v1/outreach/dispatches", lambda: b"{}", 400, Relay_Metadata='{"a":' * 2_500 + "1" + "}" * 2_500
    ),
    "a create with wide metadata": post(
        "/api/v1/outreach/dispatches", lambda: b"{}", 200, Relay_Metadata='{"a":[' + "{}," * 5_000 + "{}]}"
    ),
    "a create with many types": post(
        "/api/v1/outreach/dispatches",
        lambda: b"{}",
        400,
        Relay_Callback=HOOK,
        Relay_Callback_Types=",".join(f"faild{n}" for n in range(3_000)),
    ),
    "a read of an odd job": get("/api/v1/outreach/jobs/" + "x" * 8_000, 200),
    # connections
    "pipelined requests": Case(lambda: request("GET", "/v1/jobs?limit=1", JSON) * (MANY // 5)),
    # what goes on beside requests
    "many callbacks with events": post("/v1/jobs/batch", lambda: with_callbacks("d")),
    "as many, beside those": post("/v1/jobs/batch", lambda: with_callbacks("e")),
    "a change of the subscriptions, beside those": post(
        "/v1/subscriptions", lambda: orjson.dumps({"sink": f"{HOOK}?changed"}), 201
    ),
}
"""Run in this order at one relay."""


async def upstream(call: Call) -> None:
    """Creates and reads succeed, with an answer of lists."""
    await call.body()
    item = {"id": "made", "status": "scheduled", "list": [[] for _ in range(20_000)]}
    await call.send(answer(200, [("Content-Type", "application/json")], orjson.dumps({"ok": True, "item": item})))


@contextlib.asynccontextmanager
async def relay(folder: Path, *, database: str = "sqlite:///relay.db", settings: str = SETTINGS) -> AsyncIterator[str]:
    """The URL of a relay that measures itself."""
    (folder / "relay.yaml").write_text(settings)
    async with open_stub(upstream) as stub:
        with processes(folder) as start:
            process = start(
                *("serve", "--port", "0", "--auto-migrate"),
                program=(sys.executable, "-m", "tests.support.stall_host"),
                REVOR_API_KEY="sk-test",
                REVOR_BASE_URL=stub.url,
                DATABASE_URL=database,
            )
            yield await asyncio.to_thread(process.until, r"serving (http://\S+)")


COSTLY = scaled(40, 300)
"""Subscriptions with templates that take as long as they may."""
TWO_ACCOUNTS = f"""
auth: {{tokens: [{{name: tests, token: {API_TOKEN}, scopes: [admin]}}]}}
sources:
  revor:
    polling: {{max_requests_per_second: 2, min_interval_seconds: 60}}
    accounts: {{alpha: {{api_key: sk-alpha-0123456789}}, beta: {{api_key: sk-beta-0123456789}}}}
security: {{allow_http: true, allow_networks: [127.0.0.0/8]}}
"""


def costly(number: int) -> object:
    """A template that is like no other, as large as one may be, and takes as much work as it may."""
    dear = "{{ data.text | upcase | downcase | size }}" * 5
    many = "{% if data.one == 2 and data.two %}{{ data.one | plus: 1.5 }}{% endif %}{{ data.one }}" * 40
    template = {"number": number, "many": many, "dear": dear}
    return {**template, "filling": "x" * (32_700 - len(orjson.dumps(template)))}


@dataclass(frozen=True)
class Account:
    """A program with a token that is bound to an account. Its events are of types of its own."""

    url: str
    name: str
    token: str
    sink: Stub

    @classmethod
    async def of(cls, url: str, name: str, sink: Stub) -> Self:
        """A program of this account."""
        scopes = ["read", "subscriptions:write", "events:write"]
        body = {"name": name, "scopes": scopes, "source": "revor", "account": name}
        async with Client(url) as client:
            answered = await client.exchange(request("POST", "/v1/tokens", JSON, orjson.dumps(body)))
        assert answered.status == 201, answered.body
        return cls(url, name, orjson.loads(answered.body)["token"], sink)

    async def subscribe(self, *bodies: dict[str, object]) -> None:
        """Subscriptions to its own events."""
        async with Client(self.url) as client:
            for body in bodies:
                given = {"sink": f"{self.sink.url}/{self.name}", "types": [f"com.{self.name}.x"], **body}
                answered = await client.exchange(self._post("/v1/subscriptions", given))
                assert answered.status == 201, answered.body

    async def publish(self, client: Client, prefix: str, count: int, **data: object) -> None:
        """Publishes events."""
        source, type = f"https://{self.name}.example/", f"com.{self.name}.x"
        events = [
            {"specversion": "1.0", "id": f"{prefix}-{number}", "source": source, "type": type, "data": data}
            for number in range(count)
        ]
        answered = await client.exchange(self._post("/v1/events", events, "application/cloudevents-batch+json"))
        assert answered.status == 202, answered.body

    async def delivered(self, id: str) -> float:
        """The seconds from the publication of an event to its arrival."""
        async with Client(self.url) as client:
            begins_at = time.monotonic()
            await self.publish(client, id, 1)
            await self.sink.until(lambda: any(id.encode() in one.body for one in self.sink.of(f"/{self.name}")))
            return time.monotonic() - begins_at

    def _post(self, path: str, body: object, content_type: str = "application/json") -> bytes:
        headers = [("Authorization", f"Bearer {self.token}"), ("Content-Type", content_type)]
        return request("POST", path, headers, orjson.dumps(body))


async def send(url: str, raw: bytes) -> tuple[list[Answer], float]:
    """All answers to the requests, and the seconds that they took."""
    async with Client(url) as client, asyncio.timeout(120):
        begins_at = time.monotonic()
        sending = asyncio.create_task(_write(client, raw))
        count = raw.count(b" HTTP/1.1\r\n") if len(raw) < MEBIBYTE else 1
        answers = [await client.answer() for _ in range(count)]
        sending.cancel()
        return answers, time.monotonic() - begins_at


async def _write(client: Client, raw: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        for at in range(0, len(raw), MEBIBYTE):
            client.writer.write(raw[at : at + MEBIBYTE])
            await client.writer.drain()


async def stalled_ms(url: str) -> int:
    """The longest stall since the last call."""
    async with Client(url) as client:
        return int((await client.exchange(request("GET", PATH))).body)


@contextlib.asynccontextmanager
async def watched(url: str) -> AsyncIterator[list[float]]:
    """The seconds that `/livez` took, one after the other."""
    taken: list[float] = []

    async def watch() -> None:
        async with Client(url) as client:
            while True:
                begins_at = time.monotonic()
                assert (await client.exchange(request("GET", "/livez"))).status == 200
                taken.append(time.monotonic() - begins_at)
                await asyncio.sleep(0.005)

    task = asyncio.create_task(watch() if SOAK else asyncio.sleep(0))  # a busy machine answers late
    yield taken
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_no_request_stalls_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PATIENCE_SECONDS", 120.0)
    failed = []
    async with relay(tmp_path) as url, watched(url) as taken:
        await stalled_ms(url)
        await asyncio.sleep(1.0)
        idle_ms = round(max(taken, default=0.0) * 1000)
        for name, case in CASES.items():
            raw = case.raw()  # takes seconds of this process
            await asyncio.sleep(0.1)
            taken.clear()
            answers, seconds = await send(url, raw)
            stalled, alive_ms = await stalled_ms(url), round(max(taken, default=0.0) * 1000)
            statuses = {answer.status for answer in answers}
            line = f"{stalled:5d} ms, /livez {alive_ms:5d} ms, {seconds:6.2f} s  {sorted(statuses)}  {name}"
            print(line)
            late = SOAK and alive_ms > MOST_MS + idle_ms  # from outside only where nothing else runs
            if stalled > MOST_MS or late or not statuses <= set(case.statuses):
                failed.append(line)
    assert not failed, "\n".join(failed)


async def test_costly_templates_of_one_account_hold_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "PATIENCE_SECONDS", 120.0)
    events = scaled(10, 100)
    async with open_stub() as sink, relay(tmp_path, settings=TWO_ACCOUNTS) as url, watched(url) as taken:
        alpha, beta = await Account.of(url, "alpha", sink), await Account.of(url, "beta", sink)
        await beta.subscribe({})
        alone = sorted([await beta.delivered(f"alone-{number}") for number in range(9)])
        await alpha.subscribe(*({"config": {"template": costly(number)}} for number in range(COSTLY)))
        await stalled_ms(url)
        taken.clear()
        async with Client(url) as client:
            await alpha.publish(client, "costly", events, text="é" * 3_000, one=1, two=2)
        beside = [await beta.delivered(f"beside-{number}") for number in range(9)]
        rendered = len(sink.of("/alpha"))
        stalled, alive_ms = await stalled_ms(url), round(max(taken, default=0.0) * 1000)
        print([round(one * 1000) for one in alone], [round(one * 1000) for one in beside])
        print(f"held {stalled} ms, /livez {alive_ms} ms; beta alone {alone[4] * 1000:.0f} ms, beside {COSTLY * events}")
        print(f"costly ones, of which {rendered} were sent: first {beside[0] * 1000:.0f} ms, ", end="")
        print(f"middle {sorted(beside)[4] * 1000:.0f} ms, last {beside[-1] * 1000:.0f} ms")
        assert stalled <= MOST_MS
        if SOAK:
            assert rendered < COSTLY * events, "they were over before the others began"
            assert alive_ms <= MOST_MS
            assert beside[0] <= max(3 * max(alone), MOST_MS / 1000), (beside, alone)  # a scan of all backlogs: 20 ms
