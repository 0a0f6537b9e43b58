"""How a read may ask: for an answer that the upstream holds, or that differs from the last one. Over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from relay.clock import wall_clock
from relay.redaction import without
from relay.sources.client import HOLDS_AGAIN_SECONDS, MAX_HELD, PLAIN, UpstreamClient, Ways, problem_of
from relay.sources.definition import SourceDefinition, load_definition
from relay.sources.sections import Credential, LongPoll

KEY = "key-0123456789abcdef"
APIFY = load_definition("apify")
RUN = {"data": {"id": "run1", "status": "RUNNING", "startedAt": "2026-05-20T10:00:00Z"}}
HELD = Ways(hold_seconds=60)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def changed(definition: SourceDefinition, **changes: Any) -> SourceDefinition:
    """The definition with a changed first resource."""
    resource = definition.resource.model_copy(update=changes)
    name = next(iter(definition.resources))
    return definition.model_copy(update={"resources": {**definition.resources, name: resource}})


@asynccontextmanager
async def upstream(definition: SourceDefinition, handler: Handler, **options: Any) -> AsyncIterator[UpstreamClient]:
    async with RawTestServer(handler) as server:
        client = UpstreamClient(
            definition,
            str(server.make_url("/")),
            **{"clock": wall_clock, "user_agent": "revor-relay/test", "timeout_seconds": 5.0, **options},
        )
        try:
            yield client
        finally:
            await client.close()


class Asked:
    """Answers with a run, and keeps the requests."""

    def __init__(self, status: int = 200, body: Any = RUN, headers: dict[str, str] | None = None) -> None:
        self.requests: list[web.BaseRequest] = []
        self.status, self.body, self.headers = status, body, headers

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        if self.status == 304:
            return web.Response(status=304, headers=self.headers)
        return web.json_response(self.body, status=self.status, headers=self.headers)


async def test_read_asks_the_upstream_to_hold_the_answer_in_the_query() -> None:
    asked = Asked()
    async with upstream(APIFY, asked) as client:
        plain, held = await client.poll("run1", KEY), await client.poll("run1", KEY, ways=HELD)
    assert [request.raw_path for request in asked.requests] == [
        "/v2/actor-runs/run1",
        "/v2/actor-runs/run1?waitForFinish=60",
    ]
    assert [(one.kind, one.held) for one in (plain, held)] == [("observed", False), ("observed", True)]


async def test_read_asks_the_upstream_to_hold_the_answer_in_a_header() -> None:
    asked, wait = Asked(), LongPoll(header="Prefer", value="wait={seconds}", max_seconds=2.5)
    async with upstream(changed(APIFY, wait=wait), asked) as client:
        await client.poll("run1", KEY, ways=Ways(hold_seconds=2.5))
    (request,) = asked.requests
    assert (request.headers["Prefer"], request.raw_path) == ("wait=2.5", "/v2/actor-runs/run1")


async def test_source_without_a_wait_is_never_asked_to_hold() -> None:
    asked = Asked()
    async with upstream(changed(APIFY, wait=None), asked) as client:
        assert not (await client.poll("run1", KEY, ways=HELD)).held
    assert asked.requests[0].raw_path == "/v2/actor-runs/run1"


async def test_time_out_grows_by_the_time_of_the_wait() -> None:
    release = asyncio.Event()

    async def late(request: web.BaseRequest) -> web.StreamResponse:
        if request.query_string:
            asyncio.get_running_loop().call_later(0.3, release.set)
        await release.wait()
        return web.json_response(RUN)

    async with upstream(APIFY, late, timeout_seconds=0.1) as client:
        plain, held = await client.poll("run1", KEY), await client.poll("run1", KEY, ways=HELD)
    assert (plain.kind, held.kind, held.status_code) == ("unavailable", "observed", 200)
    assert plain.detail == "no complete answer within 0.1 s"


async def test_no_more_than_a_share_of_the_connections_is_held() -> None:
    arrived, release = asyncio.Semaphore(0), asyncio.Event()

    async def hold(request: web.BaseRequest) -> web.StreamResponse:
        if request.query_string:
            arrived.release()
            await release.wait()
        return web.json_response(RUN)

    async with upstream(APIFY, hold, timeout_seconds=30.0) as client:
        held = [asyncio.create_task(client.poll("run1", KEY, ways=HELD)) for _ in range(MAX_HELD)]
        for _ in held:
            await arrived.acquire()
        assert not (await client.poll("run1", KEY, ways=HELD)).held
        release.set()
        assert all(one.held for one in await asyncio.gather(*held))
        assert (await client.poll("run1", KEY, ways=HELD)).held, "their places are free again"


@pytest.mark.parametrize("status", [408, 502, 503, 504])
async def test_held_read_that_is_cut_off_is_followed_by_plain_ones(status: int) -> None:
    now = [1_000.0]
    asked = Asked(status, {})
    async with upstream(APIFY, asked, clock=lambda: now[0]) as client:
        kinds = [(await client.poll("run1", KEY, ways=HELD)).kind for _ in range(2)]
        now[0] += HOLDS_AGAIN_SECONDS + 1
        await client.poll("run1", KEY, ways=HELD)
    assert kinds == ["unavailable", "unavailable"]
    assert [request.query_string for request in asked.requests] == ["waitForFinish=60", "", "waitForFinish=60"]


async def test_clock_set_back_does_not_stop_the_waits_for_long() -> None:
    now = [1e9]
    asked = Asked(504, {})
    async with upstream(APIFY, asked, clock=lambda: now[0]) as client:
        await client.poll("run1", KEY, ways=HELD)
        now[0] -= 1e6
        assert (await client.poll("run1", KEY, ways=HELD)).held


GITHUB = load_definition("github-actions")
RUN_OF_GITHUB = {"id": 1, "name": "build", "status": "in_progress", "conclusion": None, "run_attempt": 1}


async def test_read_with_the_last_etag_shows_the_job_as_it_was() -> None:
    asked = Asked(304, headers={"ETag": '"a"', "X-RateLimit-Remaining": "7", "X-GitHub-Request-Id": "A1"})
    async with upstream(GITHUB, asked) as client:
        poll = await client.poll("o/r/actions/runs/1", KEY, ways=Ways(etag='"a"', known=RUN_OF_GITHUB))
    assert (poll.kind, poll.status_code, poll.detail, poll.error) == ("observed", 304, "", None)
    assert poll.observation is not None
    assert (poll.observation.status, poll.observation.upstream) == ("running", RUN_OF_GITHUB)
    assert (poll.observation.observed_at, poll.observation.request_id) == (poll.received_at, "A1")
    assert poll.headers["x-ratelimit-remaining"] == "7"
    assert asked.requests[0].headers["If-None-Match"] == '"a"'


async def test_read_with_an_old_etag_shows_the_new_state() -> None:
    asked = Asked(200, {**RUN_OF_GITHUB, "status": "completed", "conclusion": "success"})
    async with upstream(GITHUB, asked) as client:
        poll = await client.poll("o/r/actions/runs/1", KEY, ways=Ways(etag='"a"', known=RUN_OF_GITHUB))
    assert poll.observation is not None
    assert poll.observation.status == "succeeded"


@pytest.mark.parametrize("ways", [PLAIN, Ways(etag='"a"', known={"name": "no status"})])
async def test_answer_304_that_nothing_stands_for_is_no_observation(ways: Ways) -> None:
    async with upstream(GITHUB, Asked(304)) as client:
        assert (await client.poll("o/r/actions/runs/1", KEY, ways=ways)).kind == "unavailable"


def test_plain_read_is_the_default() -> None:
    assert Ways() == PLAIN


async def test_key_in_an_address_of_the_upstream_is_sent_once() -> None:
    asked = Asked()
    definition = APIFY.model_copy(update={"credential": Credential(query="token")})
    async with upstream(definition, asked) as client:
        for query in ("?token=old&z=1", "?tok%65n=old", "?z=1&token=old"):
            await client.poll("run1", KEY, ways=Ways(address=f"/v2/actor-runs/run1{query}"))
    assert [one.query_string for one in asked.requests] == [f"z=1&token={KEY}", f"token={KEY}", f"z=1&token={KEY}"]


@pytest.mark.parametrize(
    "credential",
    [Credential(basic="{key}:"), Credential(basic="me:{key}"), Credential(query="token"), Credential(header="X-Key")],
    ids=str,
)
async def test_key_is_not_kept_in_whatever_form_the_upstream_echoes_it(credential: Credential) -> None:
    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        said = f"{request.path_qs} {dict(request.headers)}"
        return web.json_response({"error": {"type": "bad", "message": said}}, status=400, headers={"X-Said": said})

    definition = APIFY.model_copy(update={"credential": credential})
    async with upstream(definition, echo) as client:
        result = await client.poll("run1", KEY)
    assert result.error is not None
    kept = f"{result} {dict(result.headers)} {problem_of(result, 0.0)}"
    assert "[redacted]" in kept
    for secret in definition.secrets_of(KEY):
        assert secret not in kept


@pytest.mark.parametrize("key", [KEY, "key/with+more==0123", "0123456789"])
@pytest.mark.parametrize("credential", [Credential(query="token"), Credential(basic="{key}:")], ids=str)
async def test_item_that_repeats_the_key_is_kept_without_it(key: str, credential: Credential) -> None:
    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        link = f"https://x.example{request.raw_path}"
        given = {"link": link, "key": key, "headers": dict(request.headers), "count": 123456789012}
        text = json.dumps({"data": {**RUN["data"], **given}})
        return web.Response(body=text.replace("/", "\\/"), content_type="application/json")

    definition = APIFY.model_copy(update={"credential": credential})
    async with upstream(definition, echo) as client:
        result = await client.poll("run1", key)
    assert result.observation is not None
    kept = result.observation.upstream
    assert kept["count"] == 123456789012
    if not key.isdigit():
        for secret in (*definition.secrets_of(key), quote(key, safe="")):
            assert secret not in json.dumps(kept)
        assert kept["key"] == "[redacted]"


async def test_large_error_is_not_searched_for_every_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []

    def counting(text: str, secrets: Sequence[str]) -> str:
        searched.append(len(text))
        return without(text, secrets)

    async def echo(_: web.BaseRequest) -> web.StreamResponse:
        error = {"type": "bad", "message": f"no such key: {KEY}", "more": "a+%" * 300_000}
        return web.json_response({"error": error}, status=400)

    monkeypatch.setattr("relay.sources.client.without", counting)
    async with upstream(APIFY, echo) as client:
        result = await client.poll("run1", KEY)
    assert result.error is not None
    assert result.error.message == "no such key: [redacted]"
    assert max(searched) < 70_000
