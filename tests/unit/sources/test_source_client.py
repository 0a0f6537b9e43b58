"""Polls over real sockets: whatever the upstream does, each poll is bounded and has one result."""

import asyncio
import gzip
import json
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from relay.clock import wall_clock
from relay.sources.client import NODE_HEADER, PollResult, UpstreamClient, problem_of
from relay.sources.definition import load_definition
from relay.sources.mapping import UpstreamError
from tests.support.peer import open_peer

SAMPLES = json.loads((Path(__file__).parents[2] / "fixtures" / "revor-samples.json").read_text())
REVOR = load_definition("revor")
KEY = "sk-revor-0123456789abcdef"

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Raw = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def client_of(base_url: str, **options: Any) -> UpstreamClient:
    defaults: dict[str, Any] = {
        "clock": wall_clock,
        "timeout_seconds": 5.0,
        "user_agent": "revor-relay/test",
        "node_id": "node-1",
    }
    return UpstreamClient(REVOR, base_url, **defaults | options)


@asynccontextmanager
async def upstream(handler: Handler, **options: Any) -> AsyncIterator[UpstreamClient]:
    """A client of a server that answers with `handler`."""
    async with RawTestServer(handler) as server:
        client = client_of(str(server.make_url("/")), **options)
        try:
            yield client
        finally:
            await client.close()


@asynccontextmanager
async def raw_upstream(answer: Raw, **options: Any) -> AsyncIterator[UpstreamClient]:
    """A client of a server that reads a request's head and passes the connection to `answer`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await answer(reader, writer)

    async with open_peer(serve) as port:
        client = client_of(f"http://127.0.0.1:{port}", **options)
        try:
            yield client
        finally:
            await client.close()


def answering(body: object, **options: Any) -> Handler:
    async def handler(request: web.BaseRequest) -> web.Response:
        return web.json_response(body, **options)

    return handler


def error_body(code: str, **extra: Any) -> dict[str, Any]:
    return {"ok": False, "error": {"code": code, "message": code, "request_id": "req_err"} | extra}


async def poll_at(handler: Handler, external_id: str = "job_uuid", **options: Any) -> PollResult:
    async with upstream(handler, **options) as client:
        return await client.poll(external_id, KEY)


async def test_poll_of_a_job() -> None:
    requests: list[web.BaseRequest] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        requests.append(request)
        return web.json_response(SAMPLES["job_succeeded"]["body"], headers={"X-RateLimit-Remaining": "7"})

    times = iter([100.0, 100.5])
    poll = await poll_at(handler, clock=lambda: next(times))

    assert (poll.kind, poll.status_code, poll.error, poll.detail) == ("observed", 200, None, "")
    assert poll.observation is not None
    assert (poll.observation.status, poll.observation.observed_at) == ("succeeded", 100.5)
    assert (poll.sent_at, poll.received_at, poll.request_id) == (100.0, 100.5, "req_xxx")
    assert poll.duration_ms > 0
    assert poll.headers[REVOR.headers.remaining] == "7"
    (request,) = requests
    assert (request.method, request.raw_path) == ("GET", "/api/v1/outreach/jobs/job_uuid")
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["User-Agent"] == "revor-relay/test"
    assert request.headers[NODE_HEADER] == "node-1"


@pytest.mark.parametrize("external_id", ["a/../b", "..", "%2e%2e/x", "é 日?#", "a\r\nX: y"])
async def test_id_stays_one_path_segment(external_id: str) -> None:
    paths: list[str] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        paths.append(request.raw_path)
        return web.json_response({"item": {"id": external_id, "status": "queued"}})

    poll = await poll_at(handler, external_id)

    assert poll.kind == "observed"
    (path,) = paths
    assert path.startswith("/api/v1/outreach/jobs/")
    assert path.count("/") == 5


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"Retry-After": "60"}, "rate_limited"),
        ({"X-RateLimit-Remaining": "0"}, "rate_limited"),
        ({"X-RateLimit-Remaining": "1"}, "forbidden"),
        ({}, "forbidden"),
    ],
)
async def test_refusal_that_asks_for_a_pause_is_about_the_rate(headers: dict[str, str], kind: str) -> None:
    """As GitHub's are: five refusals of a job would end it."""
    assert (await poll_at(answering({}, status=403, headers=headers))).kind == kind


@pytest.mark.parametrize(
    ("status_code", "body", "kind"),
    [
        (401, error_body("api_key_revoked"), "unauthorized"),
        (401, {}, "unauthorized"),
        (403, error_body("permission_denied"), "forbidden"),
        (403, error_body("api_key_expired"), "unauthorized"),
        (404, error_body("external_api_job_not_found"), "not_found"),
        (404, error_body("something_else"), "not_found"),
        (410, {}, "not_found"),
        (429, error_body("api_rate_limit_exceeded"), "rate_limited"),
        (400, error_body("api_rate_limit_exceeded"), "rate_limited"),
        (400, error_body("invalid_request"), "malformed"),
        (400, error_body("api_key_missing"), "unauthorized"),
        (409, error_body("task_unavailable"), "unavailable"),
        (408, {}, "unavailable"),
        (500, {}, "unavailable"),
        (502, {}, "unavailable"),
        (503, error_body("task_unavailable"), "unavailable"),
        (503, error_body("api_key_invalid"), "unavailable"),
        (508, {}, "loop"),
        (200, error_body("external_api_job_not_found"), "not_found"),
        (200, error_body("odd"), "malformed"),
    ],
)
async def test_error_answers_are_classified(status_code: int, body: dict[str, Any], kind: str) -> None:
    poll = await poll_at(answering(body, status=status_code))

    assert (poll.kind, poll.status_code, poll.observation) == (kind, status_code, None)
    assert poll.detail.startswith(f"answered {status_code}")
    if body:
        code = body["error"]["code"]
        assert poll.error == UpstreamError(code=code, message=code, request_id="req_err")
        assert poll.request_id == "req_err"
        assert code in poll.detail
    else:
        assert poll.error is None


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b'{"item": {"id": "job_uuid", "stat', "application/json", "not_json"),
        (b"<html>Log in</html>", "text/html", "not_json"),
        (b"", "application/json", "not_json"),
        (b"[]", "application/json", "no_item: there is no object at /item"),
        (b'{"ok": true, "items": []}', "application/json", "no_item: there is no object at /item"),
        (
            b'{"item": {"id": "another", "status": "queued"}}',
            "application/json",
            "other_job: another id, or none, is at /item/id",
        ),
        (
            b'{"item": {"id": "job_uuid", "state": "queued"}}',
            "application/json",
            "no_status: there is no text at /item/status, and no rule matches",
        ),
    ],
)
async def test_unusable_answers(body: bytes, content_type: str, reason: str) -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response(body=body, content_type=content_type)

    poll = await poll_at(handler)

    assert (poll.kind, poll.status_code, poll.observation) == ("malformed", 200, None)
    assert poll.detail == f"200 {content_type}: {reason}"


async def test_answer_that_says_that_it_is_an_error_names_the_place() -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        return web.json_response({"ok": False, "item": {"id": "job_uuid", "status": "queued"}})

    poll = await poll_at(handler)
    assert (poll.kind, poll.detail) == ("malformed", "answered 200, where /ok is not true")


@pytest.mark.parametrize("status_code", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status_code: int) -> None:
    paths: list[str] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        paths.append(request.path)
        return web.Response(status=status_code, headers={"Location": "/elsewhere"})

    poll = await poll_at(handler)

    assert (poll.kind, poll.status_code, len(paths)) == ("unavailable", status_code, 1)


# Bounds ------------------------------------------------------------------------------------------------------------


async def test_endless_body_is_read_up_to_the_limit() -> None:
    sent = 0

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while sent < 1 << 30:
            await response.write(b"x" * 65_536)
            sent += 65_536
        return response

    poll = await poll_at(handler)

    assert poll.kind == "oversized"
    assert sent < 64 << 20


async def test_decompression_bomb_stays_small() -> None:
    bomb = gzip.compress(b"0" * (128 << 20), 1)

    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})

    tracemalloc.start()
    try:
        poll = await poll_at(handler)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert poll.kind == "oversized"
    assert peak < 16 << 20


# Keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", " ", "a b", "sk-revor-\r\nX: y", "clé-à-molette", "k\x00ey-long"])
async def test_key_invalid_in_a_header_is_not_sent(key: str) -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        raise AssertionError("nothing is to be sent")

    async with upstream(handler) as client:
        for poll in (await client.poll("job_uuid", key), await client.probe(key)):
            assert (poll.kind, poll.status_code) == ("unauthorized", None)
            assert not key.strip() or key not in repr(poll)


async def test_poll_result_never_contains_the_key() -> None:
    padding = "x" * 285  # the key begins where texts are truncated

    async def handler(request: web.BaseRequest) -> web.Response:
        body = error_body(f"bad {KEY}", message=f"{padding}{KEY}", request_id=f"req {KEY}")
        return web.json_response(body, status=401, headers={"X-Echo": f"{'y' * 505}{KEY}", "X-Request-Id": KEY})

    async with upstream(handler) as client:
        poll = await client.poll("job_uuid", KEY)
        shown = repr(client) + repr(poll) + repr(dict(poll.headers)) + repr(poll.error)

    assert poll.kind == "unauthorized"
    assert KEY not in shown
    assert KEY[:9] not in shown


# Probe -------------------------------------------------------------------------------------------------------------


async def test_probe_requests_the_accounts() -> None:
    paths: list[str] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        paths.append(request.raw_path)
        return web.json_response(SAMPLES["accounts"]["body"])

    async with upstream(handler) as client:
        poll = await client.probe(KEY)

    assert (poll.kind, poll.observation, poll.detail) == ("observed", None, "")
    assert paths == ["/api/v1/connect/accounts"]


@pytest.mark.parametrize(
    ("body", "status_code", "kind"),
    [
        (SAMPLES["error_envelope"]["body"], 401, "unauthorized"),
        (error_body("permission_denied"), 403, "forbidden"),
        (error_body("not_found"), 404, "not_found"),
        ({}, 503, "unavailable"),
        ({"ok": True}, 200, "malformed"),
        ({"items": [{"account_id": "x" * 5_000_000}]}, 200, "oversized"),
    ],
)
async def test_failed_listings(body: object, status_code: int, kind: str) -> None:
    async with upstream(answering(body, status=status_code)) as client:
        found = await client.list_accounts(KEY)
    assert (found.kind, found.listing) == (kind, None)


async def test_credits_are_read_where_the_definition_says() -> None:
    seen: list[tuple[str, str | None]] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        seen.append((request.raw_path, request.headers.get("Authorization")))
        return web.json_response({"ok": True, "request_id": "req_1", "available_credits": 120})

    async with upstream(handler) as client:
        found = await client.read_credits(KEY)
    assert (found.kind, found.document, seen) == ("observed", 120, [("/api/v2/credits", f"Bearer {KEY}")])


@pytest.mark.parametrize(
    ("body", "status_code", "kind", "detail"),
    [
        (SAMPLES["error_envelope"]["body"], 401, "unauthorized", "answered 401"),
        (error_body("not_found"), 404, "not_found", "answered 404 not_found"),
        (error_body("membership_tier_insufficient"), 403, "forbidden", "answered 403 membership_tier_insufficient"),
        ({}, 503, "unavailable", "answered 503"),
        ({"ok": True}, 200, "malformed", "200 application/json; charset=utf-8: no number of credits at /item/avail"),
        ({"available_credits": "x" * 5_000_000}, 200, "oversized", "the answer is larger"),
    ],
)
async def test_failed_readings_of_credits(body: object, status_code: int, kind: str, detail: str) -> None:
    async with upstream(answering(body, status=status_code)) as client:
        found = await client.read_credits(KEY)
    assert (found.kind, found.document) == (kind, None)
    assert found.detail.startswith(detail)
    assert KEY not in found.detail


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 Caf\xe9\r\nContent-Type: Caf\xe9\r\nX-Request-Id: r\xe9q\r\n",
        b"HTTP/1.1 500 Caf\xe9\r\nX-Request-Id: r\xe9q\r\nRetry-After: \xe9\r\n",
        b"HTTP/1.1 404 Not \xed\xa0\xbd Found\r\nX-Request-Id: \xff\r\n",
    ],
)
async def test_invalid_utf8_in_headers_becomes_storable_text(head: bytes) -> None:
    async def say(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head + b"Connection: close\r\nContent-Length: 1\r\n\r\n?")

    async with raw_upstream(say) as client:
        for poll in (await client.poll("a", KEY), await client.probe(KEY)):
            assert poll.status_code is not None
            texts = [poll.detail, poll.request_id or "", *poll.headers, *poll.headers.values()]
            assert orjson.dumps([texts, problem_of(poll, 0.0)])
