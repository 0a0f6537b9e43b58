"""Whatever a sink answers, and whatever a sink kind makes of it: attempts are recorded and the next event is sent."""

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from relay.core.deliveries.delivery import Attempt, Response
from relay.core.records import AttemptResult
from relay.store.store import Store
from relay.testing import FakeClock, RecordingSink
from subscribers.registry import kind_named
from tests.support.simulation_world import World, seen
from tests.support.store_kit import attempt, claim, record_one, relay_event, result_of, subscription, together

NUL, HALF = "\0", "\ud83d"


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """Keeps log lines off the console, where tracebacks take most of the time."""
    with structlog.testing.capture_logs():
        yield


def world_of(store: Store) -> World:
    clock = FakeClock(time.time())
    return World(store, clock, RecordingSink(clock))


def answer(**values: Any) -> Response:
    return Response(**{"started_at": time.time(), "duration_ms": 1.0, "status_code": 200, **values})


async def kept(world: World) -> list[tuple[str, tuple[Attempt, ...]]]:
    """State and attempts of each delivery, oldest first."""
    page = await world.store.deliveries.page(limit=100)
    found = [await world.store.deliveries.get(one.id) for one in reversed(page.items)]
    return [(one.state, one.attempts) for one in found if one is not None]


@pytest.mark.parametrize(
    "odd",
    [
        {"headers": (("Server", f"Caf{HALF}"),)},
        {"headers": (("Server", NUL),)},
        {"headers": ((HALF, ""),)},
        {"remote_ip": HALF},
        {"remote_ip": NUL},
        {"excerpt": b"\0\xff"},
        {"detail": f"{HALF}{NUL}"},
        {"headers": (("Server", 2**70),)},
        {"headers": ((b"a", b"\xff"),)},
        {"headers": (("Server",),)},
        {"excerpt": "no bytes"},
        {"timings": None},
    ],
)
async def test_value_that_no_row_can_hold_drops_only_the_attempts_details(store: Store, odd: dict[str, Any]) -> None:
    """As if a value had passed the boundary where text is made storable."""
    world = world_of(store)
    world.sink.answers = deque([answer(**odd)])
    await world.subscribe()
    await world.register("a", seen("queued"), seen("running"), seen("succeeded"))
    await world.run(6, 30.0)
    found = await kept(world)
    assert [state for state, _ in found] == ["delivered"] * 3
    assert [[one.number for one in attempts] for _, attempts in found] == [[1]] * 3
    assert {one.status_code for _, attempts in found for one in attempts} == {200}
    assert len(world.sink.requests) == 3


@pytest.mark.parametrize("reason", [NUL, HALF, "x" * 100_000], ids=["nul", "half", "long"])
@pytest.mark.parametrize("verdict", ["delivered", "dead", "disable"])
async def test_sink_kind_may_quote_any_part_of_a_response(
    store: Store, monkeypatch: pytest.MonkeyPatch, reason: str, verdict: str
) -> None:
    world = world_of(store)
    judge = kind_named("webhook").classify

    def classify(response: Response, now: float) -> Any:
        outcome = judge(response, now)
        return type(outcome)(verdict=verdict, reason=f"it said {reason}")

    monkeypatch.setattr("subscribers.webhook.Webhook.classify", lambda _self, response, now: classify(response, now))
    await world.subscribe()
    await world.register("a", seen("queued"))
    await world.run(2)
    ((state, (attempted,)),) = await kept(world)
    assert state == {"delivered": "delivered", "dead": "dead", "disable": "pending"}[verdict]
    assert "it said" in (attempted.decision or "")
    assert len(attempted.decision or "") < 1000
    kinds = {type.rpartition(".")[2] for type in await world.types() if type.startswith("relay.")}
    assert kinds == {"delivered": set(), "dead": {"expired"}, "disable": {"disabled", "opened"}}[verdict]


async def test_sink_kind_that_fails_to_render_an_event_records_a_failed_attempt(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(*_: Any) -> Any:
        raise TypeError("half a surrogate pair")

    world = world_of(store)
    await world.subscribe(retry_schedule_seconds=(500.0,))
    with monkeypatch.context() as broken:
        broken.setattr("subscribers.webhook.Webhook.render", render)
        await world.register("a", seen("queued"), seen("running"))
        await world.run(4, 30.0)
        ((state, (attempted,)), _) = await kept(world)
    assert state == "pending"
    assert attempted.error is not None
    assert attempted.error.startswith("render: the event cannot be rendered for this sink (TypeError)")
    assert not world.sink.requests
    await world.run(2, 500.0)
    assert [state for state, _ in await kept(world)] == ["delivered"] * 2


async def test_result_that_cannot_be_written_fails_no_other_of_its_group(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1", types=("relay.source.down",)))
    for _ in range(4):
        await store.events.record(relay_event())
    claimed = await claim(store, "sub_1")
    odd = [(("A", HALF),), (("A", NUL),)]
    marks: list[AttemptResult] = [
        *(
            result_of(one, attempt=attempt(response_headers=headers))
            for one, headers in zip(claimed, odd, strict=False)
        ),
        *map(result_of, claimed[2:]),
    ]
    results = await together(store, *(record_one(store, mark) for mark in marks))
    assert isinstance(results[0], Exception)
    assert all(result.kept for result in results[2:])
