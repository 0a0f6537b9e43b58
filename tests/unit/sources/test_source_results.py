"""Addresses that answers give, of results and of jobs: which are asked, with which credential, and what is kept."""

from typing import Any

import pytest
from aiohttp import web

from relay.clock import wall_clock
from relay.config.settings import LOOPBACK_NETWORKS
from relay.core.access.netguard import GuardPolicy
from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.core.jsontext import dumps
from relay.http.sender import Sender
from relay.sources.client import MAX_BODY_BYTES, PollResult, UpstreamClient, Ways
from relay.sources.definition import SourceDefinition, load_definition
from relay.sources.mapping import MAX_RESULT_BYTES, Document, Malformed, read_result
from relay.sources.sections import Credential
from tests.unit.sources.test_source_ways import KEY, Asked, changed, upstream

BASE = "https://api.example/v2"
FILES = "https://files.example"
REPLICATE = load_definition("replicate")
LISTED = REPLICATE.model_copy(update={"origins": (FILES, "http://127.0.0.1:8000/results"), "base_path": "/"})


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("/jobs/1/result", f"{BASE}/jobs/1/result"),
        (f"{BASE}/jobs/1/result?full=1", f"{BASE}/jobs/1/result?full=1"),
        ("HTTPS://API.example:443/v2/x", "HTTPS://API.example:443/v2/x"),
        (f"{FILES}/a/b?c=d", f"{FILES}/a/b?c=d"),
        ("http://127.0.0.1:8000/results/1", "http://127.0.0.1:8000/results/1"),
    ],
)
def test_address_on_a_listed_origin(address: str, url: str) -> None:
    assert LISTED.address(BASE, address) == (url, url.lower().startswith(BASE) or ":443/v2" in url)


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example/x",
        "https://api.example/other",
        "https://api.example.evil.example/v2/x",
        "https://api.example:8443/v2/x",
        "https://api.example:99999/v2/x",
        "http://api.example/v2/x",
        "https://user@api.example/v2/x",
        "https://api.example\\@evil.example/v2/x",
        "https://files.example",
        "http://127.0.0.1:8000/resultsx",
        "//evil.example/x",
        "/../admin",
        "/a/%2e%2e/admin",
        "/a/%252e%252e/admin",
        "/a/..;/admin",
        "/a%5c..%5cadmin",
        "/a/%c0%ae%c0%ae/admin",
        "https://аpi.example/v2/x",
        "https://xn--pi-8kc.example/v2/x",
        "https://api.example:443@evil.example/v2/x",
        "https://evil.example#@api.example/v2/x",
        "https://evil.example?@api.example/v2/x",
        "https:/api.example/v2/x",
        "https:///v2/x",
        "\\\\evil.example\\x",
        "/a%2f..%2fadmin",
        f"{BASE}/../admin",
        "/x#fragment",
        "/a b",
        "/a\r\nX: y",
        "/é",
        "/" + "x" * 3_000,
        "ftp://files.example/x",
        "javascript:alert(1)",
        "file.json",
        "",
        None,
        7,
        ["/x"],
    ],
)
def test_address_that_is_on_no_listed_origin(address: object) -> None:
    assert LISTED.address(BASE, address) is None


STATUS_PATHS = ("/operations/{id}", "/{+scope}/operations/{id}", "/runs/{owner}/{id}/state")
WIDE = changed(LISTED, path="/{+id}", status_paths=STATUS_PATHS)


@pytest.mark.parametrize(
    ("address", "may"),
    [
        ("/operations/1", True),
        ("/subscriptions/7/operations/1?api-version=2&s=%2F", True),
        ("/a%2Fb/operations/1", True),
        ("/runs/me/1/state", True),
        (f"{BASE}/operations/1", True),
        (f"{FILES}/operations/1", True),
        ("http://127.0.0.1:8000/results/operations/1", True),
        ("https://evil.example/operations/1", False),
        ("/subscriptions/7/keys", False),
        ("/operations/", False),
        ("/operations", False),
        ("/operations/1/keys", False),
        ("/operations/1%2Fkeys", False),
        ("/operations/1%252Fkeys", False),
        ("/operations/1%5Ckeys", False),
        ("/keys%3F/operations/1", False),
        ("/keys%23/operations/1", False),
        ("/keys%253F/operations/1", False),
        ("/keys?/operations/1", False),
        ("/runs/me/you/1/state", False),
        ("/operations/../keys/operations/1", False),
        ("/Operations/1", False),
        (f"{FILES}/keys", False),
    ],
)
async def test_registration_may_name_the_listed_paths_only(address: str, may: bool) -> None:
    client = client_of(Elsewhere(), WIDE)
    assert client.may_register("1", address, "") is may


@pytest.mark.parametrize(
    ("id", "may"),
    [("operations/1", True), ("a/operations/1", True), ("keys", False), ("operations/1/keys", False), ("a", False)]
    + [(f"keys{end}/operations/1", False) for end in ("?", "#", "%3F", "%23", "\\")]
    + [(f"operations/1{end}", False) for end in ("%2Fkeys", "\\keys", "?x", "%3Fx", "/")],
)
async def test_id_with_slashes_may_name_the_listed_paths_only(id: str, may: bool) -> None:
    assert client_of(Elsewhere(), WIDE).may_register(id, None, "") is may


def test_presets_let_a_registration_name_jobs_only() -> None:
    github, azure = load_definition("github-actions").resource, load_definition("azure-lro").resource
    assert github.may_be_at("/o/r/actions/runs/1") is False
    assert github.may_be_at("/repos/o/r/actions/runs/1") is True
    for path in ("/repos/o/r/actions/secrets", "/repos/o/r/contents/x/actions/runs/1", "/repos/o/r"):
        assert github.may_be_at(path) is False
    assert azure.may_be_at("/subscriptions/1/providers/Microsoft.Compute/locations/x/operations/1") is True
    assert azure.may_be_at("/subscriptions/1/resourceGroups/x/providers/Microsoft.Web/sites/y/config/web") is False


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b'{"rows": [1, null]}', {"rows": [1, None]}),
        (b"[]", []),
        (b"null", None),
        (b'"\\ud800"', "\N{REPLACEMENT CHARACTER}"),
        (dumps("x" * (MAX_RESULT_BYTES - 2)), "x" * (MAX_RESULT_BYTES - 2)),
    ],
)
def test_result_is_any_json(body: bytes, kept: Any) -> None:
    assert read_result(body) == Document(value=kept)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"a": 1}\n{"a": 2}', "not_json"),
        (b"", "not_json"),
        (b"\xff", "not_json"),
        (dumps("x" * MAX_RESULT_BYTES), "too_large"),
        (b"[" * 250 + b"]" * 250, "too_deep"),
    ],
)
def test_result_that_cannot_be_kept(body: bytes, reason: str) -> None:
    assert read_result(body) == Malformed(reason=reason)


async def test_result_below_the_base_url_is_asked_with_the_key() -> None:
    asked = Asked(body={"rows": 3}, headers={"RateLimit-Remaining": "7"})
    async with upstream(REPLICATE, asked) as client:
        got = await client.result("/v1/results/1", KEY)
    assert (got.kind, got.document, got.elsewhere) == ("observed", {"rows": 3}, False)
    (request,) = asked.requests
    assert (request.method, request.raw_path) == ("GET", "/v1/results/1")
    assert request.headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, {}, "not_found"),
        (503, {}, "unavailable"),
        (302, {}, "unavailable"),
        (200, "x" * (MAX_RESULT_BYTES + 1), "malformed"),
        (200, "x" * (1 << 21), "oversized"),
    ],
)
async def test_result_that_is_not_given(status: int, body: Any, kind: str) -> None:
    async with upstream(REPLICATE, Asked(status, body)) as client:
        got = await client.result("/v1/results/1", KEY)
    assert (got.kind, got.document) == (kind, None)


class Elsewhere:
    """A transport to other origins that gives one answer."""

    def __init__(self, **answer: Any) -> None:
        self.requests: list[OutboundRequest] = []
        self.answer = answer

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        self.requests.append(request)
        return Response(**{"started_at": 0.0, "duration_ms": 1.0, "status_code": 200, "excerpt": b"[1]", **self.answer})


def client_of(sender: Any, definition: SourceDefinition = LISTED) -> UpstreamClient:
    return UpstreamClient(definition, BASE, clock=wall_clock, user_agent="revor-relay/test", sender=sender)


async def test_result_on_a_listed_origin_is_asked_with_the_key() -> None:
    elsewhere = Elsewhere(headers=(("RateLimit-Remaining", "7"),))
    got = await client_of(elsewhere).result(f"{FILES}/1", KEY)
    assert (got.kind, got.document, got.elsewhere) == ("observed", [1], True)
    (request,) = elsewhere.requests
    assert (request.method, request.url) == ("GET", f"{FILES}/1")
    assert dict(request.headers)["Authorization"] == f"Bearer {KEY}"


async def test_key_in_the_query_goes_to_a_listed_origin_too() -> None:
    elsewhere = Elsewhere()
    definition = LISTED.model_copy(update={"credential": Credential(query="key")})
    await client_of(elsewhere, definition).result(f"{FILES}/1", KEY)
    assert elsewhere.requests[0].url == f"{FILES}/1?key={KEY}"


async def test_other_origins_are_asked_nothing() -> None:
    elsewhere = Elsewhere()
    got = await client_of(elsewhere).result("https://evil.example/1", KEY)
    assert (got.kind, elsewhere.requests) == ("forbidden", [])
    assert "no origin" in got.detail


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"status_code": None, "error": "refused", "detail": "a private address"}, "forbidden"),
        ({"status_code": None, "error": "connect", "detail": "refused connections"}, "unavailable"),
        ({"detail": "the body broke off"}, "unavailable"),
        ({"excerpt": b"x" * (MAX_BODY_BYTES + 1)}, "oversized"),
        ({"excerpt": dumps("x" * MAX_RESULT_BYTES)}, "malformed"),
        ({"excerpt": b"<html>"}, "malformed"),
        ({"status_code": 404, "excerpt": b""}, "not_found"),
    ],
)
async def test_result_that_a_listed_origin_does_not_give(answer: dict[str, Any], kind: str) -> None:
    got = await client_of(Elsewhere(**answer)).result(f"{FILES}/1", KEY)
    assert (got.kind, got.elsewhere, got.document) == (kind, True, None)


async def test_detail_never_has_the_key() -> None:
    answer = {"status_code": None, "error": "connect", "detail": f"cannot reach ?key={KEY}"}
    got = await client_of(Elsewhere(**answer)).result(f"{FILES}/1", KEY)
    assert KEY not in got.detail


async def test_without_a_guarded_client_and_without_a_key_nothing_is_asked() -> None:
    elsewhere = Elsewhere()
    found: list[PollResult] = [
        await client_of(None).result(f"{FILES}/1", KEY),
        await client_of(elsewhere).result(f"{FILES}/1", "a\nb"),
    ]
    assert [one.kind for one in found] == ["forbidden", "forbidden"]
    assert elsewhere.requests == []


async def test_egress_guard_judges_the_address_behind_a_listed_origin() -> None:
    async def never(request: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError("it was asked")

    async with upstream(LISTED, never) as other, Sender(GuardPolicy(), clock=wall_clock) as sender:
        here = other._base_url.rstrip("/")
        definition = LISTED.model_copy(update={"origins": (here,)})
        got = await client_of(sender, definition).result(f"{here}/1", KEY)
    assert (got.kind, got.document) == ("forbidden", None)


AZURE = load_definition("azure-lro").model_copy(update={"origins": (FILES,)})
OPERATION = {"status": "InProgress"}


async def test_job_with_an_address_is_read_there() -> None:
    asked = Asked(body=OPERATION)
    async with upstream(AZURE, asked) as client:
        await client.poll("operations/1", KEY, ways=Ways(address="/subscriptions/7/operations/1?api-version=2"))
        await client.poll("operations/1", KEY)
    paths = [request.raw_path for request in asked.requests]
    assert paths == ["/subscriptions/7/operations/1?api-version=2", "/operations/1"]


async def test_job_with_an_address_on_a_listed_origin_is_read_there() -> None:
    elsewhere = Elsewhere(
        excerpt=dumps(OPERATION),
        headers=(("Retry-After", "5"), ("X-Limit", "9"), ("Operation-Location", f"{FILES}/2")),
    )
    definition = changed(AZURE, wait=None)
    definition = definition.model_copy(update={"headers": definition.headers.model_copy(update={"limit": "x-limit"})})
    poll = await client_of(elsewhere, definition).poll("operations/1", KEY, ways=Ways(address=f"{FILES}/1"))
    assert (poll.kind, poll.elsewhere, poll.moved_to) == ("observed", True, f"{FILES}/2")
    assert poll.observation is not None
    assert poll.observation.status == "running"
    assert (poll.headers.get("retry-after"), poll.headers.get("x-limit")) == ("5", None)


@pytest.mark.parametrize("size", [100, 500_000])
async def test_job_on_a_listed_origin_may_be_as_large_as_any(size: int) -> None:
    """Else its end would never be seen."""
    policy = GuardPolicy(allow_http=True, allow_networks=LOOPBACK_NETWORKS)
    asked = Asked(body={"status": "Succeeded", "log": "x" * size})
    async with upstream(AZURE, asked) as other, Sender(policy, clock=wall_clock) as sender:
        here = other._base_url.rstrip("/")
        definition = AZURE.model_copy(update={"origins": (here,)})
        poll = await client_of(sender, definition).poll("operations/1", KEY, ways=Ways(address=f"{here}/operations/1"))
    assert (poll.kind, poll.elsewhere) == ("observed", True)
    assert poll.observation is not None
    assert poll.observation.status == "succeeded"


@pytest.mark.parametrize("status", [401, 403])
async def test_refusal_at_another_origin_is_no_refusal_of_the_key(status: int) -> None:
    elsewhere = Elsewhere(status_code=status, excerpt=b"{}")
    poll = await client_of(elsewhere, AZURE).poll("operations/1", KEY, ways=Ways(address=f"{FILES}/1"))
    assert (poll.kind, poll.elsewhere) == ("forbidden", True)


async def test_address_that_the_definition_no_longer_lists_is_asked_nothing() -> None:
    elsewhere = Elsewhere()
    poll = await client_of(elsewhere, AZURE).poll("operations/1", KEY, ways=Ways(address="https://evil.example/1"))
    assert (poll.kind, poll.elsewhere, elsewhere.requests) == ("malformed", True, [])
    assert "no origin" in poll.detail


@pytest.mark.parametrize(
    ("headers", "moved_to"),
    [
        ({"Operation-Location": "/operations/2"}, "/operations/2"),
        ({"Location": "/operations/3", "Operation-Location": "/operations/2"}, "/operations/2"),
        ({"Operation-Location": "/operations/" + "9" * 1_800}, "/operations/" + "9" * 1_800),
        ({"Operation-Location": "/operations/" + "9" * 4_000}, None),
        ({"Operation-Location": "https://evil.example/1"}, None),
        ({"Operation-Location": "/operations/1"}, None),
        ({"Location": "/things/1"}, None),
        ({}, None),
    ],
)
async def test_answer_names_the_address_of_the_next_read(headers: dict[str, str], moved_to: str | None) -> None:
    async with upstream(AZURE, Asked(body=OPERATION, headers=headers)) as client:
        base = AZURE.root(client._base_url)
        poll = await client.poll("operations/1", KEY)
    assert poll.moved_to == (None if moved_to is None else base + moved_to)


@pytest.mark.parametrize(
    ("follows", "body", "moves"),
    [
        (AZURE.resource.follows, {}, True),
        (AZURE.resource.follows, {"status": "InProgress"}, False),
        (("location",), {"status": "InProgress"}, True),
    ],
)
async def test_location_beside_a_state_is_that_of_the_result(
    follows: tuple[str, ...], body: dict[str, str], moves: bool
) -> None:
    """What is there says nothing of an operation that fails, and has a status of its own."""
    definition = changed(AZURE, follows=follows)
    async with upstream(definition, Asked(body=body, status=202, headers={"Location": "/things/1"})) as client:
        poll = await client.poll("operations/1", KEY)
        assert poll.moved_to == (f"{AZURE.root(client._base_url)}/things/1" if moves else None)


async def test_ended_job_moves_no_more() -> None:
    asked = Asked(body={"status": "Succeeded"}, headers={"Operation-Location": "/operations/2"})
    async with upstream(AZURE, asked) as client:
        assert (await client.poll("operations/1", KEY)).moved_to is None


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"no JSON", "not_json"),
        (dumps("x" * (MAX_RESULT_BYTES + 1)), f"too_large: it has more than {MAX_RESULT_BYTES} bytes"),
        (b"[" * 250 + b"]" * 250, "too_deep"),
    ],
)
async def test_result_that_does_not_fit_says_why(body: bytes, why: str) -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async with upstream(REPLICATE, handler) as client:
        got = await client.result("/v1/results/1", KEY)
    assert (got.kind, got.detail) == ("malformed", f"200 application/json: {why}")


async def test_listing_that_does_not_fit_names_the_place() -> None:
    async with upstream(load_definition("revor"), Asked(body={"ok": True, "item": []})) as client:
        got = await client.list_accounts(KEY)
    assert got.kind == "malformed"
    assert got.detail.endswith("no_items: there is no list at /items")
