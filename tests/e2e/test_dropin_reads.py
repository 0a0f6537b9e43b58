"""Job reads through the proxy: answered from recorded state where that is current, else counted as polls.

The relay makes no polls of its own here: the node has no scheduler, and the clock stands still until a test moves it.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from relay.config.settings import PollingSettings
from relay.core.jobs.job import Job
from relay.testing import FakeClock
from tests.support.dropin_requests import DISPATCH, DISPATCHES, JOBS
from tests.support.e2e_world import KEY, World, open_e2e_world
from tests.support.wire import Call, Stub, answer, open_stub

AUTH = {"Authorization": f"Bearer {KEY}"}
NO_CACHE = {"Cache-Control": "no-cache"}
ROLES = ("api", "dispatcher")
YEAR_SECONDS = 365 * 86_400


@pytest.fixture(autouse=True)
async def _bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(300):
        yield


@pytest.fixture
def clock() -> FakeClock:
    """The node's and the upstream's."""
    return FakeClock()


@pytest.fixture
async def world(tmp_path: Path, clock: FakeClock) -> AsyncIterator[World]:
    """Over a sandbox."""
    async with open_e2e_world(
        tmp_path, clock=clock, upstream_clock=clock, roles=ROLES, speed=1.0, polling=PollingSettings()
    ) as world:
        yield world


@pytest.fixture
async def upstream() -> AsyncIterator[Stub]:
    async with open_stub() as stub:
        yield stub


@pytest.fixture
async def over_stub(tmp_path: Path, clock: FakeClock, upstream: Stub) -> AsyncIterator[World]:
    """Over a raw upstream."""
    async with open_e2e_world(
        tmp_path, clock=clock, roles=ROLES, polling=PollingSettings(), base_url=upstream.url
    ) as world:
        yield world


async def read(world: World, job_id: str, **headers: str) -> httpx2.Response:
    return await world.api.get(JOBS + job_id, headers={**AUTH, **{k.replace("_", "-"): v for k, v in headers.items()}})


async def cache_of(world: World, job_id: str, **headers: str) -> str:
    """The `Relay-Cache` of a read, once a poll it stands for is recorded."""
    answered = await read(world, job_id, **headers)
    assert answered.status_code == 200, answered.text
    await at_rest(world)
    return str(answered.headers["relay-cache"])


async def at_rest(world: World) -> None:
    """Waits until results of answered reads are recorded."""
    await world.node.dropin.reads.settling.drain()


async def reads_upstream(world: World) -> int:
    """The number of job reads the upstream received."""
    count: int = (await world.sandbox.get("/_sandbox/requests")).json()["job_reads"]
    return count


async def job_of(world: World, job_id: str) -> Job:
    """The stored job."""
    (job,) = await world.node.store.jobs.find(job_id)
    return job


async def kinds(world: World, job_id: str) -> list[str]:
    """The kinds of a job's recorded events."""
    events = (await world.api.get(f"/v1/jobs/{job_id}/events")).json()["items"]
    return [event["type"].rpartition(".")[2] for event in events]


async def running(world: World, clock: FakeClock, *, seconds: float = 60) -> str:
    """A tracked job observed as running."""
    job_id = await world.job(run_seconds=seconds)
    assert await cache_of(world, job_id) == "miss"
    assert (await job_of(world, job_id)).progress.status == "running"
    return job_id


# --- hit, miss and pass


async def test_ended_job_is_always_a_hit(world: World, clock: FakeClock) -> None:
    job_id = await running(world, clock)
    clock.advance(61)
    assert await cache_of(world, job_id) == "miss"
    before = await reads_upstream(world)
    for _ in range(3):
        answered = await read(world, job_id)
        assert (answered.headers["relay-cache"], answered.json()["item"]["status"]) == ("hit", "succeeded")
        clock.advance(YEAR_SECONDS)
    assert int(answered.headers["age"]) == 2 * YEAR_SECONDS
    world.node.dropin.reads.answers.clear()
    assert await cache_of(world, job_id) == "hit"  # from the database after the cache lost it
    assert await reads_upstream(world) == before


# --- what is served is what the upstream said

ODD_ITEM = (
    b'{"id":"odd","status":"running","started_at":"2026-05-20T10:00:01.000Z","result":null,"error":null,'
    b'"zeta":1,"alpha":[1,2.5,-0.25,true,false,null,"",[],{}],"big":18446744073709551615,"small":-9223372036854775808,'
    b'"text":"Zo\xc3\xab \xe7\x8e\x8b \xf0\x9f\x9a\x80 \\"quoted\\" \\\\ \\u0000\\u001f / <&>",'
    b'"deep":{"a":{"b":{"c":[{"d":[]}]}}}}'
)


BIG = b"123456789012345678901234567890"


async def test_item_with_odd_json_is_tracked_recorded_and_served(over_stub: World, upstream: Stub) -> None:
    """Half a surrogate pair, integers over 64 bits, bytes that are not UTF-8: the caller gets the upstream's bytes."""
    item = b'{"id":"odd","status":"%s","big":' + BIG + b',"text":"Hi \\ud83d","cafe":"caf\xe9","nul":"\\u0000"}'
    said = [b'{"ok":true,"item":' + item % status + b"}" for status in (b"queued", b"running")]

    async def say(call: Call) -> None:
        await call.body()
        is_create = call.request.method == "POST"
        await call.send(answer(202 if is_create else 200, [], said[0] if is_create else said[1]))

    upstream.handler = say
    await over_stub.subscribe()
    metadata = b'{"deal":' + BIG + b',"name":"\\ud83d"}'
    body = b'{"text":"Hi \\ud83d","n":' + BIG + b"}"
    headers = {**AUTH, "Content-Type": "application/json"}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()] + [(b"Relay-Metadata", metadata)]
    made = await over_stub.api.post(DISPATCHES, content=body, headers=pairs)
    assert (made.status_code, made.content) == (202, said[0])
    assert bytes(upstream.received[0].body) == body
    assert (await over_stub.api.get("/v1/intents")).json()["items"] == []
    assert (await read(over_stub, "odd")).content == said[1]
    await at_rest(over_stub)
    again = await read(over_stub, "odd")
    assert again.headers["relay-cache"] == "hit"
    shown = {"id": "odd", "status": "running", "big": int(BIG), "nul": "\0"}
    shown |= {"text": "Hi \N{REPLACEMENT CHARACTER}", "cafe": "caf\N{REPLACEMENT CHARACTER}"}
    assert again.json()["item"] == shown
    assert (await over_stub.shown("odd"))["upstream"] == shown
    assert (await over_stub.shown("odd"))["metadata"] == {"deal": int(BIG), "name": "\N{REPLACEMENT CHARACTER}"}
    assert await kinds(over_stub, "odd") == ["queued", "running"]
    await over_stub.until(lambda: over_stub.kinds("odd") == ["queued", "running"])
    data = json.loads(over_stub.received["/events"][-1].body)["data"]
    assert (data["job"], data["metadata"]["deal"]) == (shown, int(BIG))


# --- forwarded reads count as polls


async def test_forwarded_read_is_recorded(world: World, clock: FakeClock) -> None:
    await world.subscribe()
    job_id = await running(world, clock)
    polls = (await world.shown(job_id))["poll_count"]
    clock.advance(61)
    assert await cache_of(world, job_id, **NO_CACHE) == "pass"
    shown = await world.shown(job_id)
    assert (shown["outcome"], shown["open"], shown["poll_count"]) == ("succeeded", False, polls + 1)
    assert await kinds(world, job_id) == ["running", "succeeded"]
    await world.until(lambda: "succeeded" in world.kinds(job_id))  # and delivered
    assert world.metric("relay_polls_total", purpose="passed") == world.metric("relay_polls_total") == 2
    assert world.metric("relay_passed_requests_total", kind="read", cache="pass") == 1


async def test_forwarded_read_replaces_the_planned_poll(world: World, clock: FakeClock) -> None:
    job_id = await running(world, clock, seconds=600)
    due_at = (await job_of(world, job_id)).next_poll_at
    assert due_at is not None
    clock.advance(due_at - clock())
    assert await cache_of(world, job_id) == "miss"
    later = (await job_of(world, job_id)).next_poll_at
    assert later is not None
    assert later > clock()
    assert not await world.poller.run_once()  # nothing is due


async def test_job_is_not_polled_during_a_caller_s_read(over_stub: World, upstream: Stub) -> None:
    go_on = asyncio.Event()

    async def hold(call: Call) -> None:
        await go_on.wait()
        await call.send(answer(200, [], b'{"ok":true,"request_id":"req_1","item":' + ODD_ITEM + b"}"))

    upstream.handler = hold
    await over_stub.api.post("/v1/jobs", json={"id": "odd"})
    first, second = (asyncio.create_task(read(over_stub, "odd")) for _ in range(2))
    await upstream.until(lambda: len(upstream.received) == 2)
    assert not await over_stub.poller.run_once()  # although the job was never observed
    go_on.set()
    assert {(await each).headers["relay-cache"] for each in (first, second)} == {"miss"}
    await at_rest(over_stub)
    assert (await over_stub.shown("odd"))["poll_count"] == 1
    assert await kinds(over_stub, "odd") == ["running"]
    assert len(upstream.received) == 2


NOT_AS_PLAIN_AS_A_POLL: tuple[dict[str, str], ...] = (
    *({name: value} for name in ("If-None-Match", "If-Match") for value in ("*", '"x"')),
    *({name: "Wed, 20 May 2026 10:00:00 GMT"} for name in ("If-Modified-Since", "If-Unmodified-Since")),
    *({"Range": "bytes=0-3"}, {"Accept": "text/html"}, {"Accept": ""}, {"Expect": "100-continue"}),
    *({"Cookie": "session=other"}, {"X-Version": "2"}, {"x-api-key": "sk-revor-other"}),
    *({"Connection": name} for name in ("close, authorization", "x-api-key", "accept, user-agent, host")),
)


async def test_caller_s_requests_never_judge_the_account(over_stub: World, upstream: Stub, clock: FakeClock) -> None:
    """An upstream that refuses any request not as plain as the relay's polls."""

    refusals = itertools.cycle([(401, b"api_key_missing"), (500, b"internal_error")])

    async def say(call: Call) -> None:
        names = {name.decode() for name, _ in call.request.headers}
        plain = "authorization" in names and not names & {"x-api-key", "x-version", "cookie", "range"}
        plain = plain and not [name for name in names if name.startswith("if-")]
        plain = plain and call.request.one("accept") in (b"application/json", b"*/*")
        status_code, code = next(refusals)
        refused = answer(status_code, [], b'{"ok":false,"error":{"code":"%s"}}' % code)
        await call.send(answer(200, [], b'{"ok":true,"request_id":"r","item":' + ODD_ITEM + b"}") if plain else refused)

    upstream.handler = say
    await over_stub.api.post("/v1/jobs", json={"id": "odd"})
    for headers in NOT_AS_PLAIN_AS_A_POLL:
        await read(over_stub, "odd", **NO_CACHE, **headers)
        await at_rest(over_stub)
        clock.advance(30)
        await over_stub.poller.run_once()
        await over_stub.poller.drain()
        assert over_stub.poller.state.state == "ok", headers
    assert (await over_stub.api.get("/v1/events?type=relay.source.down")).json()["items"] == []
    assert (await over_stub.shown("odd"))["last_error"] is None
    assert await kinds(over_stub, "odd") == ["running"]


async def test_aborted_reads_do_not_prevent_polling(over_stub: World, upstream: Stub, clock: FakeClock) -> None:
    go_on = asyncio.Event()

    async def hold(call: Call) -> None:
        if b"revor-relay" in (call.request.one("user-agent") or b""):
            await call.send(answer(200, [], b'{"ok":true,"request_id":"r","item":' + ODD_ITEM + b"}"))
        else:
            await go_on.wait()
            call.cut()

    upstream.handler = hold
    await over_stub.api.post("/v1/jobs", json={"id": "odd"})
    go_on.set()
    for _ in range(5):
        assert (await read(over_stub, "odd")).status_code == 502
        await at_rest(over_stub)
    go_on.clear()
    clock.advance(60)
    before = len(upstream.received)
    reading = asyncio.create_task(read(over_stub, "odd"))  # always one in flight
    await upstream.until(lambda: len(upstream.received) > before)
    assert await over_stub.poller.run_once()
    await over_stub.poller.drain()
    go_on.set()
    await reading
    assert (await over_stub.shown("odd"))["status"] == "running"


async def test_unreadable_answer_leaves_the_job_to_be_polled(
    over_stub: World, upstream: Stub, clock: FakeClock
) -> None:
    async def break_off(call: Call) -> None:
        await call.send(answer(200, [("Content-Length", "100")], None) + b"{")
        call.cut()

    upstream.handler = break_off
    await over_stub.api.post("/v1/jobs", json={"id": "odd"})
    answered = await read(over_stub, "odd")
    assert (answered.status_code, answered.json()["error"]["code"]) == (502, "relay_upstream_no_answer")
    await at_rest(over_stub)
    job = await job_of(over_stub, "odd")
    assert job.open
    assert over_stub.poller.planner.next_poll_at(job.uid) is not None


# --- waiting


async def test_waiting_caller_is_answered_at_the_end(
    world: World, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.proxy.reads.WAIT_SLICE_SECONDS", 3600.0)  # only the signal wakes them
    job_id = await running(world, clock)
    before = await reads_upstream(world)
    waiting = [asyncio.create_task(read(world, job_id, Prefer="wait=300")) for _ in range(3)]
    uid = (await job_of(world, job_id)).uid
    await world.until(lambda: len(world.node.signals._watches.get(uid, ())) == 3)
    assert not any(each.done() for each in waiting)
    clock.advance(61)
    assert await cache_of(world, job_id, **NO_CACHE) == "pass"
    for each in waiting:
        answered = await each
        assert (answered.headers["relay-cache"], answered.json()["item"]["status"]) == ("hit", "succeeded")
    assert await reads_upstream(world) == before + 1


async def test_expired_wait_is_answered_with_the_current_state(over_stub: World, upstream: Stub) -> None:
    async def say(call: Call) -> None:
        await call.send(answer(200, [], b'{"ok":true,"request_id":"req_1","item":' + ODD_ITEM + b"}"))

    upstream.handler = say
    await over_stub.api.post("/v1/jobs", json={"id": "odd"})
    answered = await read(over_stub, "odd", Prefer="wait=1")
    assert (answered.headers["relay-cache"], answered.json()["item"]["status"]) == ("miss", "running")
    (asked,) = upstream.received
    assert asked.all("prefer") == []  # the relay has waited already
    await at_rest(over_stub)
    answered = await read(over_stub, "odd", Prefer="wait=1")
    assert answered.headers["relay-cache"] == "hit"


# --- what is not served


async def test_nothing_is_served_while_the_key_is_refused(world: World, clock: FakeClock) -> None:
    ended, open_job = await running(world, clock), await running(world, clock, seconds=600)
    clock.advance(61)
    await cache_of(world, ended)
    await cache_of(world, open_job)
    assert await cache_of(world, open_job) == "hit"
    await world.fault("revoked_key")
    answered = await read(world, open_job, **NO_CACHE)
    assert (answered.status_code, answered.json()["error"]["code"]) == (401, "api_key_revoked")
    await at_rest(world)
    assert not world.poller.health.paused
    clock.advance(900)
    assert await world.poller.run_once()  # our own poll finds out
    await world.poller.drain()
    assert world.poller.health.paused
    for job_id in (ended, open_job):
        answered = await read(world, job_id)
        assert (answered.status_code, answered.json()["error"]["code"]) == (401, "api_key_revoked")
        await at_rest(world)
    await world.heal()
    await world.probe()
    assert await cache_of(world, ended) == "hit"


# --- what a create brings along


def made(job_id: str, **item: Any) -> bytes:
    document = {"id": job_id, "status": "queued", "action": "outreach.dispatch", "channel": "email", **item}
    return answer(202, [("Content-Type", "application/json")], orjson.dumps({"ok": True, "item": document}))


async def create(world: World, body: Any = DISPATCH, **headers: str | bytes) -> httpx2.Response:
    given = {**AUTH, **{name.replace("_", "-"): value for name, value in headers.items()}}
    pairs = [(name, value if isinstance(value, bytes) else value.encode()) for name, value in given.items()]
    return await world.api.post(DISPATCHES, json=body, headers=[(name.encode(), value) for name, value in pairs])


async def test_metadata_and_callback_are_attached_and_not_forwarded(
    over_stub: World, upstream: Stub, clock: FakeClock
) -> None:
    async def make(call: Call) -> None:
        await call.body()
        await call.send(made("with-more"))

    upstream.handler = make
    metadata = {"deal": 42, "name": "Zoë 王"}
    callback = f"{over_stub.receiver_url}/hooks/with-more"
    answered = await create(
        over_stub, Relay_Metadata=orjson.dumps(metadata), Relay_Callback=callback, Idempotency_Key="k1", X_Other="y"
    )
    assert answered.status_code == 202
    (sent,) = upstream.received
    assert not [name for name, _ in sent.headers if name in (b"relay-metadata", b"relay-callback")]
    assert (sent.one("idempotency-key"), sent.one("x-other")) == (b"k1", b"y")
    assert (await over_stub.shown("with-more"))["metadata"] == metadata
    await over_stub.until(lambda: bool(over_stub.received.get("/hooks/with-more")))
    (event,) = [request.event for request in over_stub.received["/hooks/with-more"]]
    assert (event["subject"], event["data"]["metadata"]) == ("with-more", metadata)


BAD_METADATA: tuple[str | bytes, ...] = (
    *("{", "", "[1]", "42", '"text"', b'{"a":"\xff"}', '{"a":"' + "x" * 16_384 + '"}', '{"a":1}{"b":2}'),
)
BAD_CALLBACKS: tuple[str | bytes, ...] = (
    *("", "crm.example/hooks", "ftp://crm.example/hooks", "http://10.0.0.1/hooks", "https://user:secret@crm.example/"),
    *(b"https://crm.example/\xff", "https://crm.example/a b", "https://crm.example/#x"),
)
BAD_GROUPS: tuple[str | bytes, ...] = ("", ".", "..", "a/b", "x" * 201, b"\xff", "\u2028".encode())
BAD_GROUP_SIZES: tuple[str | bytes, ...] = ("", "0", "-1", "1.5", "many", "9" * 30, "\u0663".encode())
BAD_CALLBACK_TYPES: tuple[str | bytes, ...] = ("", " , ", "succeeded,faild", "relay.test", b"\xff")


async def test_invalid_relay_header_is_refused_before_anything_is_sent(over_stub: World, upstream: Stub) -> None:
    for header, values in (("Relay_Metadata", BAD_METADATA), ("Relay_Callback", BAD_CALLBACKS)):
        for value in values:
            answered = await create(over_stub, **{header: value})
            error = answered.json()["error"]
            assert (answered.status_code, error["code"]) == (400, f"relay_invalid_{header[6:].lower()}"), value
            assert "Nothing was sent" in error["message"]
    for value in BAD_CALLBACK_TYPES:
        answered = await create(over_stub, Relay_Callback="https://crm.example/hooks", Relay_Callback_Types=value)
        assert (answered.status_code, answered.json()["error"]["code"]) == (400, "relay_invalid_callback_types"), value
    assert (
        "did you mean"
        in (await create(over_stub, Relay_Callback="https://crm.example/hooks", Relay_Callback_Types="faild")).json()[
            "error"
        ]["message"]
    )
    answered = await create(over_stub, Relay_Callback_Types="failed")
    assert (answered.status_code, answered.json()["error"]["code"]) == (400, "relay_invalid_callback_types")
    for given, code in (
        *(({"Relay_Group": value}, "relay_invalid_group") for value in BAD_GROUPS),
        *(({"Relay_Group": "q4", "Relay_Group_Size": value}, "relay_invalid_group_size") for value in BAD_GROUP_SIZES),
        ({"Relay_Group_Size": "3"}, "relay_invalid_group_size"),
    ):
        answered = await create(over_stub, **given)
        assert (answered.status_code, answered.json()["error"]["code"]) == (400, code), given
    pairs = [
        *AUTH.items(),
        ("Relay-Callback", "https://crm.example/a"),
        ("Relay-Group", "q4"),
        ("Relay-Group-Size", "2"),
    ]
    for header in range(len(AUTH), len(pairs)):
        answered = await over_stub.api.post(DISPATCHES, json={}, headers=[*pairs, pairs[header]])
        assert answered.status_code == 400, pairs[header]
        assert f"{pairs[header][0]}: it is there more than once" in answered.json()["error"]["message"]
    assert upstream.received == []
    assert (await over_stub.api.get("/v1/intents")).json()["items"] == []


async def test_caller_gets_the_answer_to_a_create_even_if_tracking_fails(
    over_stub: World, upstream: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that gets an error instead may send the create again. The job is recorded as soon as it can be."""

    async def make(call: Call) -> None:
        await call.body()
        await call.send(made("odd"))

    async def fail(*_: Any) -> Any:
        raise ValueError("an event that cannot be made")

    upstream.handler = make
    with monkeypatch.context() as patched:
        patched.setattr(over_stub.node.tracking, "register", fail)
        answered = await create(over_stub)
        assert (answered.status_code, answered.json()["item"]["id"]) == (202, "odd")
        assert answered.headers["relay-job-not-recorded"] == "odd"
        assert (await over_stub.api.get("/v1/jobs/odd")).status_code == 404

    async def recorded() -> bool:
        return (await over_stub.api.get("/v1/jobs/odd")).status_code == 200

    await over_stub.until(recorded)
    assert (await over_stub.api.get("/v1/intents")).json()["items"] == []
    assert len(upstream.received) == 1


async def test_create_joins_its_group(over_stub: World, upstream: Stub) -> None:
    async def make(call: Call) -> None:
        await call.body()
        await call.send(made("grouped"))

    upstream.handler = make
    assert (await create(over_stub, Relay_Group="Grüße".encode(), Relay_Group_Size="2")).status_code == 202
    assert not [name for name, _ in upstream.received[0].headers if name.startswith(b"relay-group")]
    found = (await over_stub.api.get("/v1/groups/Grüße")).json()
    assert (found["counts"]["queued"], found["expected"], found["closed"]) == (1, 2, True)
    other = await create(over_stub, Relay_Group="other", Relay_Group_Size="1")  # which returns the same job
    assert other.status_code == 202
    assert (await job_of(over_stub, "grouped")).group == "Grüße"
    assert (await over_stub.api.get("/v1/groups/other")).status_code == 404


async def test_interval_of_a_create_becomes_the_job_s_spacing(over_stub: World, upstream: Stub) -> None:
    async def make(call: Call) -> None:
        await call.body()
        await call.send(made(f"spaced-{len(upstream.received)}"))

    upstream.handler = make
    for interval, spacing in (
        *((240, 240.0), (60.5, 60.5), (1, 60.0), (10**9, 86_400.0)),
        *((None, None), ("240", None), (True, None), ([], None)),
    ):
        answered = await create(over_stub, {**DISPATCH, "min_channel_task_interval_seconds": interval})
        job = await job_of(over_stub, answered.json()["item"]["id"])
        assert job.spacing_seconds == spacing, interval


# --- what a create says


async def test_metadata_and_account_of_a_create_reach_job_and_events(over_stub: World, upstream: Stub) -> None:
    async def make(call: Call) -> None:
        await call.body()
        await call.send(made(f"said-{len(upstream.received)}"))

    upstream.handler = make
    own = {"sequence": "spring", "deep": {"a": [1, None, "Zo\u00eb", 2**70]}}
    for body, more, request, metadata, account_id in (
        ({"metadata": own}, {}, {"metadata": own}, {}, "connect_account_xxx"),
        ({"metadata": own}, {"Relay-Metadata": '{"deal":42}'}, {"metadata": own}, {"deal": 42}, "connect_account_xxx"),
        ({"account_id": None}, {"Relay-Metadata": '{"deal":42}'}, {"metadata": {}}, {"deal": 42}, None),
        ({"account_id": "acc_1", "metadata": {}}, {}, {"metadata": {}}, {}, "acc_1"),
        ({"metadata": "text", "account_id": 7}, {}, {"metadata": {}}, {}, "7"),
        ({"metadata": {"x": "y" * 17_000}}, {}, {"metadata": {}, "truncated": True}, {}, "connect_account_xxx"),
        ({"account_id": "a\x00b\n" + "x" * 500}, {}, {"metadata": {}}, {}, "ab" + "x" * 126),
    ):
        answered = await create(over_stub, {**DISPATCH, **body}, **{k.replace("-", "_"): v for k, v in more.items()})
        assert answered.status_code == 202
        job_id = answered.json()["item"]["id"]
        shown = await over_stub.shown(job_id)
        assert (shown["request"], shown["connect_account_id"]) == (request, account_id)
        (event,) = (await over_stub.api.get(f"/v1/jobs/{job_id}/events")).json()["items"]
        data = event["data"]
        assert (data["request"], data["metadata"], data["connect_account_id"]) == (request, metadata, account_id)


async def test_account_of_the_result_takes_precedence(over_stub: World, upstream: Stub) -> None:
    async def say(call: Call) -> None:
        await call.body()
        if call.request.method == "POST":
            await call.send(made("resulted"))
            return
        result = b'{"status":"accepted","account_id":"acc_that_sent"}'
        item = b'{"id":"resulted","status":"succeeded","result":%s,"finished_at":"2026-05-20T10:00:01.000Z"}' % result
        await call.send(answer(200, [], b'{"ok":true,"request_id":"r","item":' + item + b"}"))

    upstream.handler = say
    await create(over_stub, {**DISPATCH, "metadata": {"a": 1}})
    await read(over_stub, "resulted", **NO_CACHE)
    await at_rest(over_stub)
    assert (await over_stub.shown("resulted"))["connect_account_id"] == "acc_that_sent"
    first, *_, last = (await over_stub.api.get("/v1/jobs/resulted/events")).json()["items"]
    assert first["data"]["connect_account_id"] == "connect_account_xxx"
    assert last["data"]["connect_account_id"] == "acc_that_sent"
    assert last["data"]["request"] == {"metadata": {"a": 1}}


async def test_unreadable_create_is_forwarded(over_stub: World, upstream: Stub) -> None:
    async def make(call: Call) -> None:
        await call.body()
        await call.send(made(f"odd-body-{len(upstream.received)}"))

    upstream.handler = make
    deep = b'{"metadata":' + b'{"a":' * 300 + b"1" + b"}" * 300 + b',"account_id":"acc_1"}'
    for body in (b"", b"{", b"[]", b"\xff", b'{"metadata":{"a":"\\ud83d"}}', deep):
        answered = await over_stub.api.post(DISPATCHES, content=body, headers=AUTH)
        assert answered.status_code == 202
        assert bytes(upstream.received[-1].body) == body
        assert (await over_stub.shown(answered.json()["item"]["id"]))["request"]["metadata"] in ({}, {"a": "\ufffd"})
