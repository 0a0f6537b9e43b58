"""OAuth client credentials: one token for each account, renewed before its end and after a 401."""

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.core.jsontext import dumps
from relay.sources import tokens as module
from relay.sources.client import UpstreamClient, Ways
from relay.sources.definition import load_definition
from relay.sources.sections import Credential, OAuth
from relay.sources.tokens import AccountTokens, NoAccessToken
from relay.testing import FakeClock
from tests.unit.sources.test_source_ways import upstream

KEY = "client-1:secret-0123456789"
OAUTH = OAuth(token_url="https://login.example/token", scope="jobs.read")
DEFINITION = load_definition("replicate").model_copy(
    update={"credential": Credential(header="Authorization", format="Bearer {key}", oauth=OAUTH)}
)


class Endpoint:
    """A token endpoint: gives numbered tokens, or the scripted answers first."""

    def __init__(self, clock: FakeClock, *answers: Response | None) -> None:
        self.requests: list[OutboundRequest] = []
        self._clock, self._answers = clock, list(answers)
        self.life_seconds: Any = 600
        self.gate = asyncio.Event()
        self.gate.set()

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        self.requests.append(request)
        await self.gate.wait()
        scripted = self._answers.pop(0) if self._answers else None
        if scripted is not None:
            return scripted
        token = {"access_token": f"token-{len(self.requests)}-0123456789", "expires_in": self.life_seconds}
        return Response(started_at=self._clock(), duration_ms=1.0, status_code=200, excerpt=dumps(token))


def refusal(status: int, error: str | None = None, **headers: str) -> Response:
    return Response(
        started_at=0.0,
        duration_ms=1.0,
        status_code=status,
        excerpt=b"" if error is None else dumps({"error": error}),
        headers=tuple(headers.items()),
    )


def tokens_of(*answers: Response | None) -> tuple[AccountTokens, Endpoint, FakeClock]:
    clock = FakeClock()
    endpoint = Endpoint(clock, *answers)
    return AccountTokens(OAUTH, endpoint, clock=clock), endpoint, clock


def forms(requests: Sequence[OutboundRequest]) -> list[dict[str, list[str]]]:
    return [parse_qs(request.body.decode()) for request in requests]


async def test_token_is_fetched_with_the_accounts_key() -> None:
    tokens, endpoint, _ = tokens_of()
    assert await tokens.of(KEY) == "token-1-0123456789"
    (request,) = endpoint.requests
    assert (request.url, request.method) == (OAUTH.token_url, "POST")
    assert dict(request.headers)["Authorization"].startswith("Basic ")
    assert forms([request]) == [{"grant_type": ["client_credentials"], "scope": ["jobs.read"]}]


async def test_token_is_kept_until_shortly_before_its_end() -> None:
    tokens, endpoint, clock = tokens_of()
    first = await tokens.of(KEY)
    clock.advance(500)
    assert await tokens.of(KEY) == first
    clock.advance(41)
    assert await tokens.of(KEY) != first
    assert len(endpoint.requests) == 2


async def test_each_account_has_its_own_token() -> None:
    tokens, endpoint, _ = tokens_of()
    assert await tokens.of(KEY) != await tokens.of("client-2:secret")
    assert len(endpoint.requests) == 2


async def test_requests_at_once_share_one_token_request() -> None:
    tokens, endpoint, _ = tokens_of()
    endpoint.gate.clear()
    waiting = [asyncio.create_task(tokens.of(KEY)) for _ in range(10)]
    await asyncio.sleep(0)
    endpoint.gate.set()
    assert len(set(await asyncio.gather(*waiting))) == 1
    assert len(endpoint.requests) == 1


async def test_request_that_is_cut_off_leaves_the_next_one_free() -> None:
    tokens, endpoint, _ = tokens_of()
    endpoint.gate.clear()
    cut = asyncio.create_task(tokens.of(KEY))
    await asyncio.sleep(0)
    cut.cancel()
    await asyncio.gather(cut, return_exceptions=True)
    endpoint.gate.set()
    assert await tokens.of(KEY) == "token-2-0123456789"


async def test_secret_goes_into_the_body_where_the_endpoint_wants_it() -> None:
    tokens, endpoint, clock = tokens_of(refusal(401, "invalid_client"))
    await tokens.of(KEY)
    assert "client_secret" not in forms(endpoint.requests)[0]
    assert forms(endpoint.requests)[1]["client_secret"] == ["secret-0123456789"]
    clock.advance(3600)
    await tokens.of(KEY)
    assert "client_secret" in forms(endpoint.requests)[2], "the method that works is remembered"


@pytest.mark.parametrize("key", ["no-colon", ":secret", "client:", ""])
async def test_key_that_is_no_client_is_refused_without_a_request(key: str) -> None:
    tokens, endpoint, _ = tokens_of()
    with pytest.raises(NoAccessToken, match="CLIENT_ID:CLIENT_SECRET") as raised:
        await tokens.of(key)
    assert raised.value.is_refused
    assert endpoint.requests == []


async def test_failing_endpoint_is_asked_again_after_growing_pauses() -> None:
    down = refusal(503)
    tokens, endpoint, clock = tokens_of(down, down, down)
    for _ in range(3):
        with pytest.raises(NoAccessToken, match="503") as raised:
            await tokens.of(KEY)
        assert not raised.value.is_refused
    assert len(endpoint.requests) == 1, "in the pause nothing is asked"
    clock.advance(1.5)
    with pytest.raises(NoAccessToken):
        await tokens.of(KEY)
    clock.advance(1.5)
    with pytest.raises(NoAccessToken):
        await tokens.of(KEY)
    assert len(endpoint.requests) == 2
    clock.advance(-1e6)
    with pytest.raises(NoAccessToken):
        await tokens.of(KEY)
    assert len(endpoint.requests) == 3, "a clock set back makes no endless pause"
    clock.advance(300)
    assert await tokens.of(KEY)


async def test_renewal_after_a_refusal_pauses_where_it_does_not_help() -> None:
    tokens, endpoint, clock = tokens_of()

    async def after_refusal(token: str) -> str:
        tokens.drop(KEY, token)
        return await tokens.of(KEY)

    tokens.drop(KEY, "never given")
    first = await tokens.of(KEY)
    second = await after_refusal(first)
    assert second != first
    assert await after_refusal(first) == second, "another request has renewed it already"
    tokens.refuse(KEY)
    assert await after_refusal(second) == second
    assert len(endpoint.requests) == 2
    clock.advance(61)
    assert await after_refusal(second) != second


async def test_number_of_kept_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 2)
    tokens, endpoint, _ = tokens_of()
    for number in (1, 2, 3, 3, 1):
        await tokens.of(f"client-{number}:secret")
    assert len(endpoint.requests) == 4


async def test_read_carries_the_token_and_never_the_key() -> None:
    seen: list[str] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers["Authorization"])
        return web.json_response({"id": "p1", "status": "processing"})

    endpoint = Endpoint(FakeClock())
    async with upstream(DEFINITION, handler, sender=endpoint) as client:
        polls = [await client.poll("p1", KEY), await client.poll("p1", KEY), await client.probe(KEY)]
    assert [poll.kind for poll in polls] == ["observed"] * 3
    assert seen == ["Bearer token-1-0123456789"] * 3
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(("refusals", "kind", "requests"), [(1, "observed", 2), (2, "unauthorized", 2)])
async def test_read_is_repeated_once_with_a_new_token_after_a_401(refusals: int, kind: str, requests: int) -> None:
    seen: list[str] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers["Authorization"])
        if len(seen) <= refusals:
            return web.json_response({"detail": f"bad token {seen[-1]}"}, status=401)
        return web.json_response({"id": "p1", "status": "processing"})

    endpoint = Endpoint(FakeClock())
    async with upstream(DEFINITION, handler, sender=endpoint) as client:
        poll = await client.poll("p1", KEY)
        assert (poll.kind, len(seen)) == (kind, requests)
        assert "token-" not in f"{poll.detail} {poll.error}", "an echoed token is not shown"
        if kind == "unauthorized":
            await client.poll("p1", KEY)
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(("refusals", "kind"), [(1, "observed"), (2, "forbidden")])
async def test_read_of_another_origin_is_repeated_once_too(refusals: int, kind: str) -> None:
    """Five refusals would end the job as not found, although only its token was revoked."""
    seen: list[str | None] = []

    class Both(Endpoint):
        async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
            if request.url == OAUTH.token_url:
                return await super().send(request, timeout_seconds=timeout_seconds)
            seen.append(dict(request.headers)["Authorization"])
            body = dumps({"id": "p1", "status": "processing"})
            status = 401 if len(seen) <= refusals else 200
            return Response(started_at=0.0, duration_ms=1.0, status_code=status, excerpt=body)

    definition = DEFINITION.model_copy(update={"origins": ("https://files.example",)})
    endpoint = Both(FakeClock())
    client = UpstreamClient(definition, "https://api.example", clock=FakeClock(), user_agent="x", sender=endpoint)
    poll = await client.poll("p1", KEY, ways=Ways(address="https://files.example/p1"))
    assert (poll.kind, poll.elsewhere) == (kind, True)
    assert seen == ["Bearer token-1-0123456789", "Bearer token-2-0123456789"]


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ((refusal(401, "invalid_client"), refusal(401, "invalid_client")), "unauthorized"),
        ((refusal(503),), "unavailable"),
    ],
)
async def test_read_without_a_token_is_not_sent(answers: tuple[Response, ...], kind: str) -> None:
    async def never(request: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError("it was asked")

    async with upstream(DEFINITION, never, sender=Endpoint(FakeClock(), *answers)) as client:
        poll = await client.poll("p1", KEY)
    assert poll.kind == kind
    assert "secret" not in poll.detail


async def test_read_of_another_origin_without_a_token_is_trouble_of_the_account() -> None:
    definition = DEFINITION.model_copy(update={"origins": ("https://files.example",)})
    endpoint = Endpoint(FakeClock(), refusal(503))
    client = UpstreamClient(definition, "https://api.example", clock=FakeClock(), user_agent="x", sender=endpoint)
    poll = await client.poll("p1", KEY, ways=Ways(address="https://files.example/p1"))
    assert (poll.kind, poll.elsewhere, len(endpoint.requests)) == ("unavailable", False, 1)


def test_source_with_oauth_needs_a_guarded_client() -> None:
    with pytest.raises(ValueError, match="guarded client"):
        UpstreamClient(DEFINITION, "https://api.example", clock=FakeClock(), user_agent="x")
