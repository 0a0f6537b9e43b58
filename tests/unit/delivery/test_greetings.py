"""Greeting a sink: limited in time and size, with a token of its own, and without a trace."""

import pytest

from relay.core.deliveries.credentials import SinkCredential, origin_text
from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.deliveries.dialogue import Ended, Step, Steps
from relay.core.subscriptions.subscription import Subscription
from relay.delivery.credentials import Credentials
from relay.delivery.dialogues import greet
from relay.errors import CheckFailed
from relay.tasks import Tasks
from relay.testing import FakeClock, RecordingSink

SINK = "https://crm.example"
OK = Outcome(verdict="delivered", reason="ok")


def steps(*paths: str, facts: dict[str, str] | None = None) -> Steps:
    for path in paths:
        request = OutboundRequest(url=SINK + path, method="GET", headers=(("Accept", "application/json"),))
        response = yield Step(request=request, name=path)
        if response.status_code != 200:
            verdict = "disable" if response.status_code in (401, 403) else "retry"
            return Ended(outcome=Outcome(verdict=verdict, reason=response.error or f"http_{response.status_code}"))
    return Ended(outcome=OK, remember=facts)


def credential(**fields: str) -> SinkCredential:
    return SinkCredential(id="crd_1", origin=origin_text(SINK), fields=fields)


class World:
    """A sink that records the requests, and their time limits."""

    def __init__(self, *answers: int | Response) -> None:
        self.clock = FakeClock()
        self.sink = RecordingSink(self.clock, *answers)  # type: ignore[arg-type]
        self.limits: list[float] = []

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        self.limits.append(timeout_seconds)
        return await self.sink.send(request, timeout_seconds=timeout_seconds)

    async def greet(self, given: Steps, credential: SinkCredential | None = None) -> dict[str, str]:
        subscription = Subscription(id="sub_1", sink=SINK, credential=credential)
        own = Credentials(transport=self, store=None, clock=self.clock, tasks=Tasks())  # type: ignore[arg-type]
        return dict(await greet(subscription, given, credentials=own, transport=self, clock=self.clock))

    @property
    def authorizations(self) -> list[str | None]:
        return [dict(one.headers).get("Authorization") for one in self.sink.requests]


async def test_a_token_is_sent_with_each_request() -> None:
    world = World()
    await world.greet(steps("/a", "/b"), credential(credentialtype="ACCESSTOKEN", accesstoken="secret-token"))
    assert world.authorizations == ["Bearer secret-token"] * 2


@pytest.mark.parametrize(("status", "code"), [(401, "credential_refused"), (403, "permission_missing")])
async def test_a_refusal_is_raised_without_the_token(status: int, code: str) -> None:
    world = World(status)
    with pytest.raises(CheckFailed) as refused:
        await world.greet(steps("/a", "/b"), credential(credentialtype="ACCESSTOKEN", accesstoken="secret-token"))
    assert refused.value.code == code
    assert "secret-token" not in str(refused.value)
    assert len(world.sink.requests) == 1


async def test_a_sink_that_hangs_is_unreachable() -> None:
    late = Response(started_at=0.0, duration_ms=15_000.0, error="timeout", detail="no response within 15 s", late=True)
    with pytest.raises(CheckFailed, match="timeout: no response within 15 s") as refused:
        await World(late).greet(steps("/a"))
    assert (refused.value.code, refused.value.status) == ("sink_unreachable", 502)


async def test_a_refresh_token_is_neither_traded_nor_sent() -> None:
    world = World()
    fields = {"credentialtype": "REFRESHTOKEN", "refreshtoken": "r", "refreshtokenendpoint": f"{SINK}/token"}
    facts = {"portal": "1"}
    assert await world.greet(steps("/a", facts=facts), credential(**fields)) == {}
    assert world.sink.requests == []
    assert await world.greet(steps("/a", facts=facts), credential(**fields, accesstoken="a")) == facts
    assert world.authorizations == ["Bearer a"]


async def test_a_token_endpoint_that_refuses_the_client_is_a_refused_credential() -> None:
    world = World(401)
    fields = {"credentialtype": "CLIENTCREDENTIALS", "token_url": f"{SINK}/token"}
    with pytest.raises(CheckFailed) as refused:
        await world.greet(steps("/a"), credential(**fields, client_id="id", client_secret="client-secret"))
    assert refused.value.code == "credential_refused"
    assert "client-secret" not in str(refused.value)
