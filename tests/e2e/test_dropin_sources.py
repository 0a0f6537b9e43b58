"""The drop-in for any source: what its definition says of creates, keys, addresses and waits."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from relay.cli.demo.environment import listen, served, url_of
from relay.config.settings import PollingSettings, TokenSettings
from relay.core.deliveries.credentials import NoToken
from relay.sources.tokens import NoAccessToken
from relay.testing import FakeClock
from tests.support.e2e_world import POLLING, RELAY_URL, World
from tests.support.mount_world import KEY, MOUNT, json_answer, open_mine
from tests.support.wire import Call, Client, answer, request

AUTH = {"Authorization": f"Bearer {KEY}"}
ADMIN = "rl_admin_0123456789abcdefghijklmnopqrstuvw"
TOKENS = (TokenSettings(name="ops", token=ADMIN, scopes=("admin",)),)
BY_TOKEN = {"Authorization": f"Bearer {ADMIN}"}
STILL: dict[str, Any] = {"roles": ("api", "dispatcher"), "polling": PollingSettings()}
"""A node that polls when a test says so."""


@pytest.fixture(autouse=True)
async def _bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(120):
        yield


async def job_of(world: World, id: str, **headers: str) -> dict[str, Any]:
    found = await world.api.get(f"/v1/jobs/{id}?source=mine", headers=headers)
    assert found.status_code == 200, found.text
    job: dict[str, Any] = found.json()
    return job


async def polled(world: World, within_seconds: float = 60.0) -> None:
    """The relay polls the job that is due until then."""
    poller = world.node.pollers["mine", "default"]
    world.node._clock.advance(within_seconds)
    assert await poller.run_once()
    await poller.drain()


# --- creates


@pytest.mark.parametrize(
    ("path", "said", "id"),
    [
        ("/v1/batch/start", json_answer({"op": {"id": "a"}, "count": 1}), "a"),
        ("/v1/batch/start", json_answer({"op": {"id": 12}, "state": "on"}, status=202), "12"),
        ("/v1/located", answer(202, [("Operation-Location", "https://mine.example/v1/jobs/b%2Fc?v=1")]), "b/c"),
        ("/v1/located", json_answer([], Operation_Location="/v1/jobs/d"), "d"),
        ("/v1/jobs", json_answer({"id": "e", "state": "unheard_of"}), "e"),
    ],
)
async def test_create_whose_answer_is_no_open_job_is_tracked_and_polled_at_once(
    tmp_path: Path, path: str, said: bytes, id: str
) -> None:
    def says(call: Call) -> bytes:
        return said if call.request.method == "POST" else json_answer({"id": id, "state": "done"})

    async with open_mine(tmp_path, says=says, clock=FakeClock(), **STILL) as (world, stub):
        made = await world.api.post(MOUNT + path, json={"labels": {"deal": "42"}}, headers=AUTH)
        assert made.content == said.partition(b"\r\n\r\n")[2]
        assert "relay-job-not-recorded" not in made.headers
        (job,) = (await world.api.get("/v1/jobs?source=mine")).json()["items"]
        assert (job["id"], job["status"], job["sequence"]) == (id, None, 0)
        assert job["request"]["metadata"] == {"deal": "42"}
        assert (await world.api.get("/v1/intents")).json()["items"] == []
        await polled(world, within_seconds=1.0)
        (job,) = (await world.api.get("/v1/jobs?source=mine")).json()["items"]
        assert (job["status"], job["outcome"], job["poll_count"]) == ("succeeded", "succeeded", 1)
        assert [one.method for one in stub.received] == ["POST", "GET"]


async def test_create_that_gives_the_id_of_an_ended_job_is_logged(tmp_path: Path) -> None:
    def says(call: Call) -> bytes:
        return json_answer({"id": "a", "state": "on" if call.request.method == "POST" else "done"})

    async with open_mine(tmp_path, says=says, clock=FakeClock(), **STILL) as (world, _):
        with capture_logs() as logs:
            for ended in (False, True):
                assert (await world.api.post(f"{MOUNT}/v1/jobs", json={}, headers=AUTH)).status_code == 200
                closed = [line["job"] for line in logs if line["event"] == "job_already_closed"]
                assert closed == (["a"] if ended else [])
                if not ended:
                    await polled(world)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/batch/start", json_answer({"op": {}})),
        ("/v1/batch/start", json_answer([])),
        ("/v1/located", answer(202)),
        ("/v1/located", json_answer({"state": "on"}, Operation_Location="https://mine.example")),
        ("/v1/located", answer(202, [("Operation-Location", "https://mine.example/v1/jobs/%2e%2e")])),
        ("/v1/jobs", answer(500)),
        ("/v1/jobs", b""),
    ],
)
async def test_create_that_names_no_job_is_sent_once_and_listed(tmp_path: Path, path: str, said: bytes) -> None:
    async with open_mine(tmp_path, says=lambda call: said, clock=FakeClock(), **STILL) as (world, stub):
        sending = asyncio.create_task(world.api.post(MOUNT + path, json={}, headers=AUTH))
        await stub.until(lambda: bool(stub.received))
        if not said:
            for writer in stub._writers:
                writer.close()
        answered = await sending
        assert answered.status_code == (int(said.split(b" ")[1]) if said else 502)
        assert len(stub.received) == 1
        (listed,) = (await world.api.get("/v1/intents")).json()["items"]
        assert (listed["source"], listed["path"]) == ("mine", path)
        assert (await world.api.get("/v1/jobs?source=mine")).json()["items"] == []


# --- keys


BASIC = b64encode(f"{KEY}:".encode()).decode()
WAYS: tuple[tuple[dict[str, Any], dict[str, str], str, tuple[str, str]], ...] = (
    # credential, headers with the key, query with the key, what the upstream gets
    ({"header": "X-Auth", "format": "Key {key}"}, {"X-Auth": "Key {}"}, "", ("x-auth", f"Key {KEY}")),
    ({"header": "x-api-key"}, {"X-API-Key": "{}"}, "", ("x-api-key", KEY)),
    ({"header": "Authorization", "format": "Token {key}"}, {"Authorization": "token {}"}, "", ("authorization", "")),
    ({"basic": "{key}:"}, {"Authorization": "Basic"}, "", ("authorization", f"Basic {BASIC}")),
    ({"query": "api_key"}, {}, "api_key={}", ("", f"api_key={KEY}")),
)


def sent_with(key: str, headers: dict[str, str], query: str) -> tuple[dict[str, str], str]:
    basic = b64encode(f"{key}:".encode()).decode()
    named = {name: f"Basic {basic}" if value == "Basic" else value.format(key) for name, value in headers.items()}
    return named, query.format(key)


@pytest.mark.parametrize(("credential", "headers", "query", "gets"), WAYS)
async def test_key_is_where_the_definition_says(
    tmp_path: Path, credential: dict[str, Any], headers: dict[str, str], query: str, gets: tuple[str, str]
) -> None:
    own, of_own = sent_with(KEY, headers, query)
    token, of_token = sent_with(ADMIN, headers, query)
    async with open_mine(tmp_path, {"credential": credential}, tokens=TOKENS, clock=FakeClock(), **STILL) as (
        world,
        stub,
    ):
        for named, key in ((own, of_own), (token, of_token), (BY_TOKEN, "")):
            stub.received.clear()
            made = await world.api.post(f"{MOUNT}/v1/jobs?a=1&{key}&b=%20", json={}, headers=named)
            assert made.status_code == 200, made.text
            read = await world.api.get(f"{MOUNT}/v1/jobs/one?{key}", headers={**named, "Cache-Control": "no-cache"})
            assert read.status_code == 200, read.text
            await world.node.dropin.reads.settling.drain()
            for request in stub.received:
                every = b"\n".join([request.line, *(name + b": " + value for name, value in request.headers)])
                assert ADMIN.encode() not in every
                assert b64encode(f"{ADMIN}:".encode()) not in every
                name, value = gets
                if name:
                    assert (request.one(name) or b"").decode() == value or value == ""
                else:
                    assert request.target.decode().count(value) == 1
                    assert request.one("authorization") is None or named is not BY_TOKEN
            if not gets[0]:
                assert [one.target.decode() for one in stub.received] == [
                    f"/v1/jobs?a=1&{'' if key else '&'}b=%20&{gets[1]}",
                    f"/v1/jobs/one?{gets[1]}",
                ]
        job = await job_of(world, "one", **BY_TOKEN)
        assert job["poll_count"] == 3  # each read was as good as a poll
        for wrong in ("", "not-the-key-0123456789"):
            named, of_query = sent_with(wrong, headers, query)
            refused = await world.api.get(f"{MOUNT}/v1/jobs/one?{of_query}", headers=named)
            assert refused.status_code == 401, refused.text
        await polled_with(world, stub, gets)


async def polled_with(world: World, stub: Any, gets: tuple[str, str]) -> None:
    """The relay's own poll has the key in the same place."""
    stub.received.clear()
    job = (await world.api.get("/v1/jobs/one?source=mine", headers=BY_TOKEN)).json()
    await world.api.post(f"/v1/jobs/{job['uid']}/refresh", headers=BY_TOKEN)
    await polled(world)
    (request,) = stub.received
    name, value = gets
    assert (request.one(name) or b"").decode().endswith(value) if name else request.target.endswith(value.encode())


async def test_key_in_the_query_is_kept_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def says(call: Call) -> bytes:
        return answer(500) if call.request.method == "POST" else json_answer({"id": "one", "state": "on"})

    changed = {"credential": {"query": "api_key"}}
    async with open_mine(tmp_path, changed, says=says, clock=FakeClock(), **STILL) as (world, _):
        kept = world.node._accounts.transports["mine"]._kept_url
        for target in ("/v1/jobs/one", "/v1/other"):
            assert (await world.api.get(f"{MOUNT}{target}?api_key={KEY}&x=1")).status_code == 200
        await world.api.post(f"{MOUNT}/v1/jobs?api_key={KEY}", json={})
        (listed,) = (await world.api.get("/v1/intents")).json()["items"]
        assert listed["path"] == "/v1/jobs"
        assert kept.cache_info().currsize == 0
        assert (await world.api.get(f"{MOUNT}/v1/jobs?api_key=another-0123456789")).status_code == 401
    said = capsys.readouterr()
    assert KEY not in said.out + said.err
    assert "another-0123456789" not in said.out + said.err
    assert KEY.encode() not in b"".join(path.read_bytes() for path in tmp_path.glob("relay.db*"))


async def test_key_in_the_addresses_of_a_job_is_passed_on_and_kept_nowhere(tmp_path: Path) -> None:
    def says(call: Call) -> bytes:
        link = f"https://mine.example/v1/jobs/one?api_key={KEY}"
        return json_answer({"id": "one", "state": "on" if call.request.method == "POST" else "done", "link": link})

    changed = {"credential": {"query": "api_key"}}
    async with open_mine(tmp_path, changed, says=says, clock=FakeClock(), **STILL) as (world, _):
        created = await world.api.post(f"{MOUNT}/v1/jobs?api_key={KEY}", json={})
        assert created.json()["link"].endswith(KEY), "all other bytes pass as they are"
        assert (await job_of(world, "one"))["upstream"]["link"].endswith("api_key=[redacted]")
        await polled(world)
        events = await world.api.get("/v1/events")
        assert [one["data"]["job"]["link"][-10:] for one in events.json()["items"]] == ["[redacted]"] * 2
    assert KEY.encode() not in b"".join(path.read_bytes() for path in tmp_path.glob("relay.db*"))


# --- headers that official clients add


async def test_headers_that_describe_the_program_keep_no_read_from_being_a_poll(tmp_path: Path) -> None:
    """They differ between requests: the number of the attempt, the time that the client has left."""
    async with open_mine(tmp_path, clock=FakeClock(), **STILL) as (world, stub):
        await world.api.post(f"{MOUNT}/v1/jobs", json={}, headers=AUTH)
        for attempt, cache in enumerate(("miss", "hit", "hit")):
            program = {"X-Stainless-Retry-Count": str(attempt), "X-Stainless-Read-Timeout": str(600 - attempt)}
            read = await world.api.get(f"{MOUNT}/v1/jobs/one", headers={**AUTH, "X-Stainless-Lang": "js", **program})
            await world.node.dropin.reads.settling.drain()
            assert (read.status_code, read.headers["relay-cache"]) == (200, cache)
        assert (await job_of(world, "one"))["poll_count"] == 1
        create, sent = stub.received
        assert create.method == "POST"
        assert (sent.one("x-stainless-retry-count"), sent.one("x-stainless-lang")) == (b"0", b"js")


# --- addresses


def with_links(call: Call) -> bytes:
    base = f"http://{(call.request.one('host') or b'').decode()}"
    links = {"self": f"{base}/v1/jobs/one", "web": f"{base}/one"}
    document = {"id": "one", "state": "on", "links": links, "half": 1.50}
    return json_answer(document, Location=f"{base}/v1/jobs/one", Link=f"<{base}/v1>")


async def test_listed_addresses_are_given_as_the_relays_own(tmp_path: Path) -> None:
    changed = {"addresses": ["/links/self", "/links/none"]}
    async with open_mine(tmp_path, changed, says=with_links, clock=FakeClock(), **STILL) as (world, stub):
        own = f"{RELAY_URL}{MOUNT}/v1/jobs/one"
        theirs = with_links_of(stub.url)
        made = await world.api.post(f"{MOUNT}/v1/jobs", json={}, headers=AUTH)
        expected = theirs.replace(f"{stub.url}/v1/jobs/one".encode(), own.encode())
        assert made.content == expected
        assert made.headers["content-length"] == str(len(expected))
        assert made.headers["location"] == own
        assert made.headers["link"] == f"<{stub.url}/v1>"
        for cache in ("miss", "hit"):
            read = await world.api.get(own, headers=AUTH)  # as a client does that follows the address
            await world.node.dropin.reads.settling.drain()
            assert (read.status_code, read.headers["relay-cache"]) == (200, cache)
            assert read.json()["links"] == {"self": own, "web": f"{stub.url}/one"}
        elsewhere = await world.api.get(own, headers={**AUTH, "Host": "relay.internal:81"})
        assert elsewhere.json()["links"]["self"] == f"http://relay.internal:81{MOUNT}/v1/jobs/one"
        odd = await world.api.get(f"{MOUNT}/v1/jobs/one", headers={**AUTH, "Host": 'a"b'})
        assert odd.status_code != 200 or odd.json()["links"]["self"] == f"{stub.url}/v1/jobs/one"
        other = await world.api.get(f"{MOUNT}/v1/list", headers=AUTH)
        assert other.content == theirs  # no job
        job = await job_of(world, "one")
        assert job["upstream"]["links"]["self"] == f"{stub.url}/v1/jobs/one"


def with_links_of(url: str) -> bytes:
    links = {"self": f"{url}/v1/jobs/one", "web": f"{url}/one"}
    return orjson.dumps({"id": "one", "state": "on", "links": links, "half": 1.50})


async def test_answers_stay_as_they_are_without_addresses_in_the_definition(tmp_path: Path) -> None:
    async with open_mine(tmp_path, says=with_links, clock=FakeClock(), **STILL) as (world, stub):
        for method, path in (("POST", "/v1/jobs"), ("GET", "/v1/jobs/one")):
            answered = await world.api.request(method, MOUNT + path, headers=AUTH)
            assert answered.content == with_links_of(stub.url)
            assert answered.headers["location"] == f"{stub.url}/v1/jobs/one"


async def test_large_answer_passes_unchanged_and_one_that_breaks_off_is_an_error(tmp_path: Path) -> None:
    changed = {"addresses": ["/links/self"]}
    large = b'{"id":"one","state":"on","x":"' + b"x" * (2 << 20) + b'"}'
    says = iter([answer(200, [], large), answer(200, [("Content-Length", "9")], None) + b"{"])
    async with open_mine(tmp_path, changed, says=lambda call: next(says), clock=FakeClock(), **STILL) as (world, stub):
        whole = await world.api.get(f"{MOUNT}/v1/jobs/one", headers=AUTH)
        assert whole.content == large
        reading = asyncio.create_task(world.api.get(f"{MOUNT}/v1/jobs/one", headers=AUTH))
        await stub.until(lambda: len(stub.received) == 2 and stub.received[1].ended)
        for writer in stub._writers:
            writer.close()
        broken = await reading
        assert broken.status_code == 502
        assert "safe to send it again" in broken.text


async def test_answer_that_comes_slowly_is_passed_on_as_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not read as a whole for its addresses: an upstream may send a byte now and then, without an end."""
    monkeypatch.setattr("relay.proxy.addresses.READ_SECONDS", 0.0)

    async def drip(call: Call) -> None:
        await call.body()
        await call.send(answer(200, [("Content-Length", "9")], None) + b"{")
        await call.left()

    async with open_mine(tmp_path, {"addresses": ["/links/self"]}, clock=FakeClock(), **STILL) as (world, stub):
        stub.handler = drip
        with closing(listen()) as listener:
            async with served(world.node, listener), Client(url_of(listener)) as caller, asyncio.timeout(20):
                caller.writer.write(request("GET", f"{MOUNT}/v1/jobs/one", AUTH.items()))
                head = await caller.reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                assert await caller.reader.read(1) == b"{"


# --- waits and events


async def test_caller_waits_for_the_end_and_its_events_have_what_it_attached(tmp_path: Path) -> None:
    ends = asyncio.Event()

    def says(call: Call) -> bytes:
        state = "on" if call.request.method == "POST" or not ends.is_set() else "done"
        return json_answer({"id": "one", "state": state})

    async with open_mine(tmp_path, says=says, polling=POLLING) as (world, stub):
        attached = {"Relay-Callback": f"{world.receiver_url}/events", "Relay-Metadata": '{"order":7}'}
        body = {"labels": {"deal": "42"}}
        await world.api.post(f"{MOUNT}/v1/jobs", json=body, headers={**AUTH, **attached})
        reading = asyncio.create_task(
            world.api.get(f"{MOUNT}/v1/jobs/one", headers={**AUTH, "Prefer": "wait=60, handling=strict"})
        )
        shown = asyncio.create_task(world.api.get("/v1/jobs/one?source=mine", headers={"Prefer": "wait=60"}))
        await world.until(lambda: "running" in world.kinds("one"))
        ends.set()
        assert (await reading).json()["state"] == "done"
        assert (await shown).json()["outcome"] == "succeeded"
        await world.until(lambda: world.kinds("one") == ["running", "succeeded"])
        events = [one.event for one in world.received["/events"]]
        assert {event["type"] for event in events} == {"com.mine.job.running", "com.mine.job.succeeded"}
        for event in events:
            assert event["data"]["request"] == {"metadata": {"deal": "42"}}
            assert event["data"]["metadata"] == {"order": 7}
        assert not [one for one in stub.received if one.one("prefer") is not None]


@pytest.mark.parametrize("query", ["hold=60", "hold=9999"])
async def test_read_with_the_upstreams_own_wait_is_held_by_the_relay(tmp_path: Path, query: str) -> None:
    """Else each waiting client would cost a request that is held, beside the relay's polls."""
    said = {"id": "one", "state": "on"}
    async with open_mine(tmp_path, says=lambda call: json_answer(said), clock=FakeClock(), **STILL) as (world, stub):
        await world.api.post(f"{MOUNT}/v1/jobs", json={}, headers=AUTH)
        await polled(world)
        reading = asyncio.create_task(world.api.get(f"{MOUNT}/v1/jobs/one?{query}", headers=AUTH))
        waiting = world.node.pollers["mine", "default"].agenda._clients
        while not waiting and not reading.done():  # noqa: ASYNC110 (nothing announces it)
            await asyncio.sleep(0)
        said["state"] = "done"
        await polled(world, within_seconds=3600.0)
        read = await reading
        assert (read.status_code, read.json(), read.headers["relay-cache"]) == (200, said, "hit")
        assert (await job_of(world, "one"))["poll_count"] == len(stub.received) - 1, "no read is passed on"


@pytest.mark.parametrize(
    ("query", "cache"),
    [("", "hit"), ("?hold=0", "hit"), ("?hold=1&fields=id", "pass"), ("?hold=x", "pass"), ("?x=1", "pass")],
)
async def test_read_with_another_query_is_passed_on(tmp_path: Path, query: str, cache: str) -> None:
    async with open_mine(tmp_path, clock=FakeClock(), **STILL) as (world, stub):
        await world.api.post(f"{MOUNT}/v1/jobs", json={}, headers=AUTH)
        await polled(world)
        read = await world.api.get(f"{MOUNT}/v1/jobs/one{query}", headers=AUTH)
        await world.node.dropin.reads.settling.drain()
        assert (read.status_code, read.headers["relay-cache"]) == (200, cache)
        assert (await job_of(world, "one"))["poll_count"] == 1
        passed = [one.target.decode() for one in stub.received[2:]]
        assert passed == ([f"/v1/jobs/one{query}"] if cache == "pass" else [])


@pytest.mark.parametrize(
    ("status", "item", "cache"),
    [(202, {}, "miss"), (202, {"state": "unheard_of"}, "miss"), (200, {}, "miss"), (200, {"state": "done"}, "hit")],
)
async def test_answer_whose_status_tells_the_state_is_not_made_up(
    tmp_path: Path, status: int, item: dict[str, Any], cache: str
) -> None:
    """A client would take a 200 for the end of the job."""
    states = [{"at": "/state", "is": "done", "state": "succeeded"}]
    states += [{"http": [202], "state": "running"}, {"http": [200], "state": "succeeded"}]
    said = json_answer(item, status=status)
    changed = {"states": states, "fields": {}, "creates": []}
    async with open_mine(tmp_path, changed, says=lambda _: said, clock=FakeClock(), **STILL) as (world, _):
        assert (await world.api.post("/v1/jobs", json={"id": "one", "source": "mine"})).status_code == 201
        await polled(world)
        answered = await world.api.get(f"{MOUNT}/v1/jobs/one", headers=AUTH)
        assert (answered.status_code, answered.json()) == (status, item)
        assert answered.headers["relay-cache"] == cache


async def test_wait_for_a_job_that_is_not_tracked_is_the_upstreams(tmp_path: Path) -> None:
    async with open_mine(tmp_path, clock=FakeClock(), **STILL) as (world, stub):
        read = await world.api.get(f"{MOUNT}/v1/jobs/one?hold=60", headers=AUTH)
        assert (read.status_code, read.headers["relay-cache"]) == (200, "pass")
        assert [one.target for one in stub.received] == [b"/v1/jobs/one?hold=60"]


async def test_wait_that_ends_before_the_job_shows_it_as_it_is(tmp_path: Path) -> None:
    changed = {"wait": {"query": "hold", "max_seconds": 0.05}}
    async with open_mine(tmp_path, changed, clock=FakeClock(), **STILL) as (world, stub):
        await world.api.post(f"{MOUNT}/v1/jobs", json={}, headers=AUTH)
        for cache, sent in (("miss", [b"/v1/jobs/one"]), ("hit", [])):
            stub.received.clear()
            read = await world.api.get(f"{MOUNT}/v1/jobs/one?hold=60", headers=AUTH)
            await world.node.dropin.reads.settling.drain()
            assert (read.json()["state"], read.headers["relay-cache"]) == ("on", cache)
            assert [one.target for one in stub.received] == sent, "the wait is over"


async def test_job_that_is_named_in_the_query_is_read_as_any_other(tmp_path: Path) -> None:
    changed = {"path": "/v1/jobs/get?of=all&id={id}"}
    async with open_mine(tmp_path, changed, clock=FakeClock(), **STILL) as (world, stub):
        await world.api.post(f"{MOUNT}/v1/jobs", json={}, headers=AUTH)
        await polled(world)
        assert stub.received[-1].target.partition(b"&hold=")[0] == b"/v1/jobs/get?of=all&id=one"
        for query, cache in (
            ("of=all&id=one", "hit"),
            ("id=one&of=all", "hit"),
            ("id=one&of=all&hold=0", "hit"),
            ("id=one&of=all&more=1", "pass"),
            ("id=one", "pass"),
            ("of=all&id=", "pass"),
            ("", "pass"),
        ):
            read = await world.api.get(f"{MOUNT}/v1/jobs/get?{query}", headers=AUTH)
            await world.node.dropin.reads.settling.drain()
            assert (read.status_code, read.headers["relay-cache"]) == (200, cache), query
        assert (await job_of(world, "one"))["poll_count"] == 1


@pytest.mark.parametrize(("method", "id"), [("POST", "a"), ("PUT", "b")])
async def test_creates_with_one_path_are_told_apart_by_their_methods(tmp_path: Path, method: str, id: str) -> None:
    creates = [
        {"path": "/v1/{kind}/start", "id": "/op/id"},
        {"path": "/v1/batch/start", "methods": ["PUT"], "id": "/batch"},
    ]
    made = json_answer({"op": {"id": "a"}, "batch": "b"})
    async with open_mine(tmp_path, {"creates": creates}, says=lambda _: made, clock=FakeClock(), **STILL) as (world, _):
        answered = await world.api.request(method, f"{MOUNT}/v1/batch/start", json={}, headers=AUTH)
        assert answered.status_code == 200
        assert [one["id"] for one in (await world.api.get("/v1/jobs?source=mine")).json()["items"]] == [id]
        assert (await world.api.get("/v1/intents")).json()["items"] == []


@pytest.mark.parametrize(
    ("method", "path", "status", "state"),
    [
        ("POST", "/v1/jobs/one/cancel", 200, "lost"),
        ("DELETE", "/v1/jobs/one", 204, "lost"),
        ("POST", "/v1/jobs/one/cancel", 409, "on"),
        ("POST", "/v1/jobs/two/cancel", 200, "on"),
        ("POST", "/v1/other", 200, "on"),
    ],
)
async def test_caller_that_changes_a_job_reads_it_as_it_is(
    tmp_path: Path, method: str, path: str, status: int, state: str
) -> None:
    """Its next poll may be a quarter of an hour away."""
    changed = False

    def says(call: Call) -> bytes:
        nonlocal changed
        if call.request.method == "GET":
            return json_answer({"id": "one", "state": "lost" if changed else "on"})
        changed = True
        return answer(204) if status == 204 else json_answer({}, status)

    async with open_mine(tmp_path, {"creates": []}, says=says, clock=FakeClock(), **STILL) as (world, _):
        await world.api.post("/v1/jobs", json={"id": "one", "source": "mine"})
        await polled(world)
        assert (await world.api.request(method, MOUNT + path, headers=AUTH)).status_code == status
        read = await world.api.get(f"{MOUNT}/v1/jobs/one", headers=AUTH)
        await world.node.dropin.reads.settling.drain()
        assert (read.json()["state"], read.headers["relay-cache"]) == (state, "miss" if state == "lost" else "hit")
        assert (await job_of(world, "one"))["open"] is (state == "on")


NAMES_NO_JOB = (json_answer({"count": 1}), json_answer([1]), answer(204), answer(202))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_create_that_may_make_no_job_is_tracked_if_its_answer_has_an_address(tmp_path: Path, method: str) -> None:
    create = {"path": "/{+thing}", "methods": ["POST", "PUT", "DELETE"], "optional": True}
    changed = {"creates": [create], "fields": {}, "follows": ["operation-location"]}
    answers = iter([*NAMES_NO_JOB, json_answer({}, 201, Operation_Location="/v1/jobs/a?v=2")])

    def says(call: Call) -> bytes:
        return json_answer({"state": "on"}) if call.request.method == "GET" else next(answers)

    async with open_mine(tmp_path, changed, says=says, clock=FakeClock(), **STILL) as (world, stub):
        for tracked in (*([] for _ in NAMES_NO_JOB), ["a"]):
            made = await world.api.request(method, f"{MOUNT}/v9/things/x?v=2", headers=AUTH)
            assert made.status_code < 300
            items = (await world.api.get("/v1/jobs?source=mine")).json()["items"]
            assert [job["id"] for job in items] == tracked
        assert (await world.api.get("/v1/intents")).json()["items"] == []
        assert len(stub.received) == len(NAMES_NO_JOB) + 1


@pytest.mark.parametrize(
    "said",
    [answer(200, [], b"no JSON"), json_answer({}, Operation_Location="https://mine.example/v1/jobs/" + "a" * 201)],
)
async def test_create_that_may_make_no_job_is_unknown_if_its_answer_cannot_be_read(tmp_path: Path, said: bytes) -> None:
    create = {"path": "/v1/things", "optional": True}
    changed = {"creates": [create], "fields": {}, "follows": ["operation-location"]}
    async with open_mine(tmp_path, changed, says=lambda call: said, clock=FakeClock(), **STILL) as (world, _):
        await world.api.post(f"{MOUNT}/v1/things", json={}, headers=AUTH)
        (listed,) = (await world.api.get("/v1/intents")).json()["items"]
        assert listed["reason"] == "unreadable"


async def test_job_with_an_address_is_answered_from_recorded_state_at_that_address_only(tmp_path: Path) -> None:
    said = json_answer([], Operation_Location="/v1/jobs/d?version=2&t=1")

    def says(call: Call) -> bytes:
        return said if call.request.method == "POST" else json_answer({"id": "d", "state": "on"})

    async with open_mine(tmp_path, says=says, clock=FakeClock(), **STILL) as (world, stub):
        await world.api.post(f"{MOUNT}/v1/located", json={}, headers=AUTH)
        await polled(world, within_seconds=1.0)
        for query, cache in (
            ("version=2&t=1", "hit"),
            ("version=2", "pass"),
            ("version=2&t=1&more=1", "pass"),
            ("version=2&t=1", "hit"),
        ):
            read = await world.api.get(f"{MOUNT}/v1/jobs/d?{query}", headers=AUTH)
            assert (read.status_code, read.headers["relay-cache"]) == (200, cache), query
        assert [one.target.partition(b"?")[2] for one in stub.received[2:]] == [b"version=2", b"version=2&t=1&more=1"]


async def test_job_is_read_at_the_address_in_the_answer_to_its_create(tmp_path: Path) -> None:
    said = json_answer([], Operation_Location="/v1/jobs/d?version=2")

    def says(call: Call) -> bytes:
        return said if call.request.method == "POST" else json_answer({"id": "d", "state": "done"})

    async with open_mine(tmp_path, says=says, clock=FakeClock(), **STILL) as (world, stub):
        await world.api.post(f"{MOUNT}/v1/located", json={}, headers=AUTH)
        await polled(world, within_seconds=1.0)
        assert stub.received[-1].target == b"/v1/jobs/d?version=2"
        job = await job_of(world, "d")
        assert (job["outcome"], "version=2" in str(job)) == ("succeeded", False)


class Tokens:
    """Gives access tokens, a new one for each that was dropped, then none."""

    def __init__(self, *tokens: str) -> None:
        self.left = list(tokens)
        self.refusals = 0

    async def of(self, api_key: str) -> str:
        if not self.left:
            raise NoAccessToken(NoToken(detail="the token endpoint answered 503"))
        return self.left[0]

    def drop(self, api_key: str, token: str) -> None:
        if self.left[:1] == [token] and not self.refusals:
            self.left.pop(0)

    def refuse(self, api_key: str) -> None:
        self.refusals += 1


OAUTH = {"token_url": "https://login.example/token"}
BY_OAUTH = {"credential": {"header": "Authorization", "format": "Bearer {key}", "oauth": OAUTH}}


@pytest.mark.parametrize("token", ["token-0123456789abcdef", None])
async def test_request_carries_the_access_token_and_never_the_key(tmp_path: Path, token: str | None) -> None:
    async with open_mine(tmp_path, BY_OAUTH, clock=FakeClock(), **STILL) as (world, stub):
        client: Any = world.node.dropin._clients["mine"]
        client._tokens = Tokens(*([] if token is None else [token]))
        made = await world.api.post(f"{MOUNT}/v1/jobs", json={}, headers=AUTH)
        if token is None:
            assert (made.status_code, stub.received) == (502, [])
            assert (await world.api.get("/v1/intents")).json()["items"] == []
            return
        (request,) = stub.received
        assert request.all("authorization") == [b"Bearer " + token.encode()]


OLD, NEW = "token-old-0123456789abcdef", "token-new-0123456789abcdef"
REFUSED = json_answer({"error": "expired"}, status=401)


@pytest.mark.parametrize(
    ("method", "body", "tokens", "accepted", "sent", "status"),
    [
        ("GET", None, (OLD, NEW), (NEW,), [OLD, NEW], 200),
        ("OPTIONS", None, (OLD, NEW), (NEW,), [OLD, NEW], 200),
        ("GET", None, (OLD, NEW), (), [OLD, NEW], 401),
        ("GET", None, (OLD,), (), [OLD], 401),  # there is no other
        ("GET", b"{}", (OLD, NEW), (NEW,), [OLD], 401),
        ("PUT", b"{}", (OLD, NEW), (NEW,), [OLD], 401),
        ("DELETE", None, (OLD, NEW), (NEW,), [OLD], 401),
        ("POST", b"{}", (OLD, NEW), (NEW,), [OLD], 401),  # a create is never repeated
        ("POST", None, (OLD, NEW), (NEW,), [OLD], 401),
    ],
)
async def test_only_a_read_is_repeated_once_with_a_new_token_after_a_401(
    tmp_path: Path,
    method: str,
    body: bytes | None,
    tokens: tuple[str, ...],
    accepted: tuple[str, ...],
    sent: list[str],
    status: int,
) -> None:
    def says(call: Call) -> bytes:
        token = (call.request.one("authorization") or b"").decode().removeprefix("Bearer ")
        return json_answer({"id": "one", "state": "on"}) if token in accepted else REFUSED

    async with open_mine(tmp_path, BY_OAUTH, says=says, clock=FakeClock(), **STILL) as (world, stub):
        client: Any = world.node.dropin._clients["mine"]
        client._tokens = kept = Tokens(*tokens)
        path = "/v1/jobs" if method == "POST" else "/v1/other"
        answered = await world.api.request(method, MOUNT + path, content=body, headers=AUTH)
        assert answered.status_code == status
        if status == 401:
            assert answered.content == REFUSED.partition(b"\r\n\r\n")[2], "as the upstream said it"
        assert [one.all("authorization") for one in stub.received] == [[b"Bearer " + one.encode()] for one in sent]
        assert kept.refusals == (status == 401 and len(sent) == 2), "the next 401 causes no renewal"
        assert (await world.api.get("/v1/intents")).json()["items"] == []
        if method == "POST":
            again = await world.api.post(MOUNT + path, content=body, headers=AUTH)
            assert again.status_code == 200, "what the caller sends again has the new token"


async def test_read_of_a_tracked_job_is_repeated_and_counts_as_one_poll(tmp_path: Path) -> None:
    says = iter([json_answer({"id": "one", "state": "on"}), REFUSED, json_answer({"id": "one", "state": "done"})])
    async with open_mine(tmp_path, BY_OAUTH, says=lambda call: next(says), clock=FakeClock(), **STILL) as (world, stub):
        client: Any = world.node.dropin._clients["mine"]
        client._tokens = Tokens(OLD, NEW)
        await world.api.post(f"{MOUNT}/v1/jobs", json={}, headers=AUTH)
        read = await world.api.get(f"{MOUNT}/v1/jobs/one", headers=AUTH)
        await world.node.dropin.reads.settling.drain()
        assert (read.status_code, read.json()["state"]) == (200, "done")
        assert [one.method for one in stub.received] == ["POST", "GET", "GET"]
        job = await job_of(world, "one")
        assert (job["outcome"], job["poll_count"]) == ("succeeded", 1)
