"""Credentials with a fake clock: tokens are fetched once, renewed in time and after a 401, and a token endpoint that
fails is left alone."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import orjson
import pytest

from relay.core.deliveries.credentials import SinkCredential, origin_text, stored_token
from relay.core.deliveries.delivery import Delivery, OutboundRequest, Response
from relay.core.subscriptions.subscription import Subscription
from relay.delivery.credentials import REFUSED_SECONDS, TURN_SECONDS, Credentials
from relay.errors import StoreError
from relay.tasks import Tasks
from relay.testing import FakeClock
from tests.support.simulation_world import World, open_world, seen
from tests.support.store_kit import rows

SINK = "https://sink.test/"
TOKEN_URL = "https://login.test/token"


class Network:
    """A sink that accepts some tokens, and an authorization server written after RFC 6749."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.requests: list[OutboundRequest] = []
        self.token_requests: list[OutboundRequest] = []
        self.made = 0
        self.refused: set[str] = set()
        self.refuses_all = False
        self.token_answers: list[Response] = []
        self.takes_secret_in_body = False
        self.refresh_token = "refresh-1"
        self.expires_in = 3600
        self.gate: asyncio.Event | None = None
        self.same_token = False
        self.asked = asyncio.Event()

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        assert timeout_seconds > 0
        if not request.url.startswith(TOKEN_URL):
            return self._sink(request)
        self.token_requests.append(request)
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        return self.token_answers.pop(0) if self.token_answers else self._token(request)

    def _sink(self, request: OutboundRequest) -> Response:
        self.requests.append(request)
        token = dict(request.headers).get("Authorization", "").removeprefix("Bearer ")
        accepted = token.startswith("token-") and token not in self.refused and not self.refuses_all
        return self._response(200 if accepted else 401, b"echo " + token.encode())

    def _token(self, request: OutboundRequest) -> Response:
        form = {name: value[0] for name, value in parse_qs(request.body.decode()).items()}
        answer: dict[str, Any] = {}
        if form["grant_type"] == "refresh_token":
            if form["refresh_token"] != self.refresh_token:
                return self._response(400, b'{"error": "invalid_grant"}')
            self.refresh_token = f"refresh-{self.made + 2}"
            answer["refresh_token"] = self.refresh_token
        elif not self._knows_client(request, form):
            return self._response(401, b'{"error": "invalid_client"}')
        if not self.same_token:
            self.made += 1
        answer |= {"access_token": f"token-{self.made:06}", "token_type": "Bearer", "expires_in": self.expires_in}
        return self._response(200, orjson.dumps(answer))

    def _knows_client(self, request: OutboundRequest, form: dict[str, str]) -> bool:
        basic = dict(request.headers).get("Authorization")
        if self.takes_secret_in_body:
            return basic is None and (form.get("client_id"), form.get("client_secret")) == ("relay", "client-secret")
        return basic == "Basic " + base64.b64encode(b"relay:client-secret").decode()

    def _response(self, status: int, body: bytes, *headers: tuple[str, str]) -> Response:
        return Response(
            started_at=self.clock(), duration_ms=2.0, status_code=status, excerpt=body, headers=tuple(headers)
        )

    def tokens(self) -> list[str]:
        return [dict(request.headers)["Authorization"].removeprefix("Bearer ") for request in self.requests]


def credential(type: str = "CLIENTCREDENTIALS", id: str = "crd_1", sink: str = SINK, **fields: str) -> SinkCredential:
    known = {
        "CLIENTCREDENTIALS": {"token_url": TOKEN_URL, "client_id": "relay", "client_secret": "client-secret"},
        "REFRESHTOKEN": {"refreshtokenendpoint": TOKEN_URL, "refreshtoken": "refresh-1"},
    }
    return SinkCredential(
        id=id, origin=origin_text(sink), fields={"credentialtype": type, **known.get(type, {}), **fields}
    )


@asynccontextmanager
async def open_network(tmp_path: Path) -> AsyncIterator[tuple[World, Network]]:
    async with open_world(tmp_path) as world:
        network = Network(world.clock)
        world.sink = network  # type: ignore[assignment]
        await world.restart()
        yield world, network


async def attempts(world: World) -> list[Any]:
    found: list[Any] = []
    for one in (await world.store.deliveries.page(limit=50)).items:
        delivery = await world.store.deliveries.get(one.id)
        assert isinstance(delivery, Delivery)
        found += delivery.attempts
    return sorted(found, key=lambda attempt: attempt.started_at)


async def standing(world: World, made: Subscription) -> Subscription:
    found = await world.store.subscriptions.get(made.id)
    assert found is not None
    return found


async def event(world: World, name: str) -> None:
    await world.register(name, seen("queued"))
    await world.step()


async def test_one_token_serves_many_events_until_shortly_before_it_expires(tmp_path):
    async with open_network(tmp_path) as (world, network):
        await world.subscribe(credential=credential())
        for nth in range(3):
            await event(world, f"job {nth}")
        assert network.tokens() == ["token-000001"] * 3
        world.clock.advance(3530)  # 3600 less a minute
        await event(world, "later")
        assert network.tokens()[-1] == "token-000001"
        world.clock.advance(20)
        await event(world, "last")
        assert network.tokens()[-1] == "token-000002"
        assert len(network.token_requests) == 2


async def test_attempts_that_begin_together_wait_for_one_token(tmp_path):
    async with open_network(tmp_path) as (world, network):
        await world.subscribe(credential=credential())
        network.gate = asyncio.Event()
        for nth in range(6):
            await world.register(f"job {nth}", seen("queued"))
        world.clock.advance(1)
        await world.poller.run_once()
        await world.poller.drain()
        await world.dispatcher.run_once()
        await network.asked.wait()
        assert not network.requests
        network.gate.set()
        await world.deliver()
        assert network.tokens() == ["token-000001"] * 6
        assert len(network.token_requests) == 1


async def test_a_401_renews_the_token_and_sends_the_attempt_once_more(tmp_path):
    async with open_network(tmp_path) as (world, network):
        await world.subscribe(credential=credential())
        await event(world, "first")
        network.refused.add("token-000001")
        await event(world, "second")
        assert network.tokens() == ["token-000001", "token-000001", "token-000002"]
        assert network.requests[1].body == network.requests[2].body
        first, second = await attempts(world)
        assert (first.number, second.number, second.status_code, second.duration_ms) == (1, 1, 200, 4.0)
        assert second.decision == (
            "HTTP 200: delivered; sent twice: the first answer was 401, the second request had a new token"
        )
        await event(world, "third")
        assert network.tokens()[-1] == "token-000002"


async def test_sink_that_refuses_every_token_causes_one_renewal_a_minute(tmp_path):
    async with open_network(tmp_path) as (world, network):
        network.refuses_all = True
        await world.subscribe(credential=credential(), retry_schedule_seconds=(1.0,) * 50)
        await event(world, "job")
        assert network.tokens() == ["token-000001", "token-000002"]
        await world.run(20)
        assert set(network.tokens()[2:]) == {"token-000002"}
        assert len(network.token_requests) == 2
        world.clock.advance(REFUSED_SECONDS)
        await world.deliver()
        assert network.tokens()[-2:] == ["token-000002", "token-000003"]
        assert (await attempts(world))[0].status_code == 401


async def test_without_a_new_token_the_401_is_the_result(tmp_path):
    async with open_network(tmp_path) as (world, network):
        await world.subscribe(credential=credential())
        await event(world, "first")
        network.refused.add("token-000001")
        network.token_answers = [network._response(503, b"", ("Retry-After", "60"))]
        await event(world, "second")
        failed = (await attempts(world))[1]
        assert failed.status_code == 401
        assert "no new token: the token endpoint answered 503" in str(failed.decision)


async def test_endpoint_that_wants_the_secret_in_the_body_gets_it_there_from_then_on(tmp_path):
    async with open_network(tmp_path) as (world, network):
        network.takes_secret_in_body = True
        await world.subscribe(credential=credential())
        await event(world, "first")
        assert network.tokens() == ["token-000001"]
        assert len(network.token_requests) == 2
        world.clock.advance(3600)
        await event(world, "second")
        assert len(network.token_requests) == 3


async def test_failing_token_endpoint_fails_attempts_and_is_asked_at_growing_intervals(tmp_path):
    async with open_network(tmp_path) as (world, network):
        network.token_answers = [network._response(500, b"oops")] * 1000
        made = await world.subscribe(credential=credential(), retry_schedule_seconds=(1.0,) * 50)
        for nth in range(5):
            await world.register(f"job {nth}", seen("queued"))
        await world.run(60)
        assert not network.requests
        assert 5 <= len(network.token_requests) <= 7, "after 1, 2, 4, 8, 16 and 32 s"
        attempt = (await attempts(world))[0]
        assert attempt.error == "credential: the token endpoint answered 500"
        assert attempt.status_code is None
        assert "when a new token may be asked for" in str(attempt.decision)
        found = await standing(world, made)
        assert (found.failing_reason, found.failing_since is not None) == ("credential", True)
        network.token_answers.clear()
        await world.run(70)
        assert len(network.tokens()) == 5
        assert (await standing(world, made)).failing_since is None


async def test_egress_proxy_that_fails_on_the_way_to_the_token_endpoint_disables_nothing(tmp_path):
    async with open_network(tmp_path) as (world, network):
        network.token_answers = [Response(started_at=0.0, duration_ms=1.0, error="proxy", detail="no tunnel")] * 1000
        made = await world.subscribe(credential=credential(), retry_schedule_seconds=(86_400.0,) * 20)
        await event(world, "job")
        for _ in range(7):
            await world.step(86_401)
        assert (await standing(world, made)).state == "enabled"
        assert str((await attempts(world))[0].error).startswith("proxy: the token endpoint gave no answer (proxy")
        network.token_answers = [Response(started_at=0.0, duration_ms=1.0, error="connect")] * 1000
        states = []
        for _ in range(7):
            await world.step(86_401)
            states.append((await standing(world, made)).state)
        assert states == ["enabled"] * 5 + ["disabled"] * 2, "only its own failures count, from the first one on"


async def test_credential_is_never_recorded_or_logged(tmp_path, caplog, capsys):
    async with open_network(tmp_path) as (world, network):
        await world.subscribe(credential=credential())
        await event(world, "first")
        network.refused.add("token-000001")
        await event(world, "second")
        network.token_answers = [network._response(401, b'{"error": "client-secret"}')] * 2
        network.refuses_all = True
        await event(world, "third")
        for attempt in await attempts(world):
            assert dict(attempt.request_headers).get("Authorization", "[redacted]") == "[redacted]"
            assert attempt.response_excerpt in (None, "echo [redacted]")
        stored = str(await rows(world.store, "SELECT * FROM attempts")) + str(
            await rows(world.store, "SELECT * FROM subscriptions")
        )
        shown = stored + caplog.text + "".join(capsys.readouterr())
        for secret in (
            "token-000001",
            "token-000002",
            "client-secret",
            base64.b64encode(b"relay:client-secret").decode(),
        ):
            assert secret not in shown


async def test_expired_access_token_is_not_sent(tmp_path):
    async with open_network(tmp_path) as (world, network):
        given = credential("ACCESSTOKEN", accesstoken="token-000009", accesstokenexpiresutc="2027-01-15T08:00:10Z")
        await world.subscribe(credential=given)
        await event(world, "in time")
        assert network.tokens() == ["token-000009"]
        world.clock.advance(60)
        await event(world, "too late")
        assert network.tokens() == ["token-000009"]
        assert "the access token expired" in str((await attempts(world))[1].error)


async def test_credential_goes_to_no_other_origin_even_if_the_database_says_so(tmp_path):
    async with open_network(tmp_path) as (world, network):
        await world.subscribe(sink="https://evil.test/", credential=credential(sink=SINK))
        await world.subscribe(
            sink="https://evil.test/", credential=credential("PLAIN", sink=SINK, identifier="a", secret="b")
        )
        await event(world, "job")
        assert not network.requests
        assert not network.token_requests
        assert "another origin" in str((await attempts(world))[0].error)


# --- refresh tokens


async def test_refresh_token_is_replaced_by_the_one_that_came_with_the_token(tmp_path):
    async with open_network(tmp_path) as (world, network):
        made = await world.subscribe(credential=credential("REFRESHTOKEN"))
        await event(world, "first")
        kept = (await standing(world, made)).credential
        assert kept is not None
        assert kept.fields["refreshtoken"] == network.refresh_token == "refresh-2"
        await world.restart()
        await event(world, "second")
        assert network.tokens() == ["token-000001"] * 2, "the access token is stored too"
        world.clock.advance(3600)
        await event(world, "third")
        assert network.tokens()[-1] == "token-000002"
        stored = str(await rows(world.store, "SELECT * FROM subscriptions"))
        assert "refresh-3" not in stored
        assert "token-000002" not in stored


def another_node(world: World, network: Network) -> Credentials:
    return Credentials(transport=network, store=world.store.credentials, clock=world.clock, tasks=Tasks())


async def send(node: Credentials, made: Subscription, seconds: float = 5.0) -> Any:
    return await node.send(made, OutboundRequest(url=SINK), seconds)


async def test_two_nodes_trade_a_refresh_token_once(tmp_path):
    async with open_network(tmp_path) as (world, network):
        made = await world.subscribe(credential=credential("REFRESHTOKEN"))
        one, other = another_node(world, network), another_node(world, network)
        sent = await asyncio.gather(*(send(node, made) for node in (one, other, one, other)))
        assert [each.response.status_code for each in sent] == [200] * 4
        assert network.tokens() == ["token-000001"] * 4
        assert len(network.token_requests) == 1


@pytest.mark.parametrize("type", ["CLIENTCREDENTIALS", "REFRESHTOKEN"])
async def test_token_of_another_instance_is_kept_from_salesforce_and_sent_to_a_webhook(tmp_path, type):
    async with open_network(tmp_path) as (world, network):
        made = await world.subscribe(credential=credential(type))
        foreign = {"access_token": "token-of-the-other", "instance_url": "https://other.my.salesforce.com"}
        network.token_answers = [network._response(200, orjson.dumps(foreign)) for _ in range(2)]
        refused = await send(another_node(world, network), replace(made, kind="salesforce"))
        assert refused.response.error == "credential"
        assert "valid at https://other.my.salesforce.com" in refused.response.detail
        assert network.requests == []
        world.clock.advance(TURN_SECONDS)
        assert (await send(another_node(world, network), made)).response.status_code == 200
        assert network.tokens() == ["token-of-the-other"]
        assert {request.url for request in network.token_requests} == {TOKEN_URL}, "the other one is never requested"


async def test_new_refresh_token_is_stored_before_it_is_used_however_long_that_takes(tmp_path, monkeypatch):
    monkeypatch.setattr("relay.delivery.credentials.STORE_RETRY_SECONDS", 0.0)
    async with open_network(tmp_path) as (world, network):
        made = await world.subscribe(credential=credential("REFRESHTOKEN"))
        real, failures = world.store.credentials.keep_credential, [StoreError("locked"), StoreError("locked")]

        async def failing(*arguments: Any) -> bool:
            assert not network.requests
            if failures:
                raise failures.pop()
            return await real(*arguments)

        monkeypatch.setattr(world.store.credentials, "keep_credential", failing)
        assert (await send(another_node(world, network), made)).response.status_code == 200
        kept = (await standing(world, made)).credential
        assert kept is not None
        found = stored_token(kept)
        assert found is not None
        assert (found.value, kept.fields["refreshtoken"]) == ("token-000001", "refresh-2")


async def test_attempt_does_not_wait_for_a_token_beyond_its_time_limit(tmp_path):
    async with open_network(tmp_path) as (world, network):
        made = await world.subscribe(credential=credential())
        node, network.gate = another_node(world, network), asyncio.Event()
        sent = await send(node, made, 0.01)
        assert sent.response.detail == "no token came within the time limit of the attempt"
        network.gate.set()
        assert (await send(node, made)).response.status_code == 200
        assert len(network.token_requests) == 1, "the request went on for the next attempt"


async def test_node_that_stops_gives_up_its_request_for_a_token(tmp_path):
    async with open_network(tmp_path) as (world, network):
        made = await world.subscribe(credential=credential())
        tasks, network.gate = Tasks(), asyncio.Event()
        node = Credentials(transport=network, store=world.store.credentials, clock=world.clock, tasks=tasks)
        sending = asyncio.ensure_future(send(node, made))
        await network.asked.wait()
        await tasks.finish(0)
        assert "the relay is stopping" in (await sending).response.detail


async def test_memory_of_tokens_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("relay.delivery.credentials.MAX_KEPT", 2)
    async with open_network(tmp_path) as (world, network):
        node = another_node(world, network)
        for nth in range(4):
            made = await world.subscribe(credential=credential(id=f"crd_{nth}"))
            assert (await send(node, made)).response.status_code == 200
        assert len(node._kept) == 2
