"""When a node pings its monitoring service, and what it logs, in simulated time."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog.testing

from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.core.values import Progress
from relay.node import heartbeat
from relay.node.heartbeat import EVERY_SECONDS, Heartbeat

SECRET = "0f9d3c1e-secret-of-the-check"
URL = f"https://hc.example/ping/{SECRET}?status=up"


@dataclass
class World:
    """A node's loops and database, a monitoring service, and a clock."""

    now: float = 0.0
    turns: int = 0
    moves: bool = True
    database: str | None = None
    answer: dict[str, Any] = field(default_factory=lambda: {"status_code": 200})
    sent: list[OutboundRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.heartbeat = Heartbeat(
            URL, loops=self.loops, database_problem=self.problem, clock=lambda: 0.0, steady=lambda: self.now
        )

    def loops(self) -> Mapping[str, Progress]:
        return {"the dispatcher": Progress(turns=self.turns, ended=0, in_flight=0)}

    async def problem(self) -> str | None:
        return self.database

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        assert 0 < timeout_seconds < EVERY_SECONDS
        self.sent.append(request)
        return Response(started_at=0.0, duration_ms=1.0, **self.answer)

    async def minute(self) -> bool:
        self.now += EVERY_SECONDS
        self.turns += self.moves
        return await self.heartbeat.run_once(self)


async def test_node_that_moves_pings_each_minute() -> None:
    world = World()
    for _ in range(10):
        assert await world.minute()
    assert [(request.method, request.url) for request in world.sent] == [("GET", URL)] * 10


async def test_stuck_loop_is_not_hidden_by_a_ping() -> None:
    world = World()
    assert await world.minute()
    world.moves = False
    with structlog.testing.capture_logs() as lines:
        pings = [await world.minute() for _ in range(5)]
        world.moves = True
        assert await world.minute()
    assert pings == [True, False, False, False, False]
    assert [line["event"] for line in lines] == ["heartbeat_withheld", "heartbeat_sent_again"]
    assert lines[0]["error"] == "the dispatcher has not turned for 120 s"


async def test_database_that_is_gone_is_not_hidden_by_a_ping(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(database="disk is full")
    assert not await world.minute()

    async def hang() -> str | None:
        return await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(heartbeat, "DATABASE_SECONDS", 0.01)
    world.heartbeat._database_problem = hang
    with structlog.testing.capture_logs() as lines:
        assert not await world.minute()
    assert world.sent == []
    assert lines == [], "it was said already"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status_code": 404}, "status 404"),
        ({"status_code": 302}, "status 302"),
        ({"error": "dns", "detail": "the host name does not resolve: no"}, "dns: the host name does not resolve: no"),
    ],
)
async def test_ping_that_fails_is_logged_once_without_the_secret(answer: dict[str, Any], said: str) -> None:
    world = World(answer=answer)
    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            assert not await world.minute()
        world.answer = {"status_code": 204}
        assert await world.minute()
    assert len(world.sent) == 6
    assert [line["event"] for line in lines] == ["heartbeat_failed", "heartbeat_sent_again"]
    assert (lines[0]["error"], lines[0]["host"]) == (said, "hc.example")
    assert SECRET not in repr(lines)
