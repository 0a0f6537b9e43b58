"""What a node does when it gets or loses the name that its leases are bound to."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from relay.lease_owner import LeaseOwner
from relay.node.cluster import Cluster
from relay.proxy.reads import AnswerCache, CachedAnswer
from relay.signals import Signals
from relay.store.databases.notices import notify_gone, take_notices
from relay.store.store import Store

KEY = ("revor", "default")


class Accounts:
    """One account, held by the node that the row names."""

    def __init__(self) -> None:
        self.holder: str | None = None
        self.asked: list[str] = []
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def hold(self, *_account: str, holder: str, former: Sequence[str]) -> bool:
        self.asked.append(holder)
        if self.holder is None or self.holder == holder or self.holder in former:
            self.holder = holder
        held = self.holder == holder
        if self.meanwhile is not None:
            await self.meanwhile()
        return held


class Poller:
    """Says when it polls."""

    def __init__(self) -> None:
        self.account = self
        self.holds = False
        self.terms = 0

    def release(self) -> None:
        self.holds = False

    async def take_over(self, _state: None) -> None:
        self.holds = True
        self.terms += 1


class World:
    def __init__(self) -> None:
        self.accounts, self.poller, self.holder = Accounts(), Poller(), LeaseOwner("first")
        self.signals = Signals()
        self.leases_of_others = 0
        self.cluster = Cluster(
            store=self._store(),
            pollers={KEY: self.poller},  # type: ignore[dict-item]
            signals=self.signals,
            answers=AnswerCache(),
            clock=lambda: 1_000.0,
            holder=self.holder,
            polls=True,
            tokens=SimpleNamespace(heard=lambda: None),  # type: ignore[arg-type]
        )

    def _store(self) -> Store:
        async def hold(source: str, name: str, holder: str, now: float, until: float, former: Sequence[str]) -> bool:
            assert until == now + 10
            return await self.accounts.hold(source, name, holder=holder, former=former)

        async def nothing(*_: Any) -> list[Any]:
            return []

        async def bound() -> list[str]:
            return ["other@1"]

        async def dead(names: Sequence[str]) -> list[str]:
            return list(names)

        async def release(_names: Sequence[str], _now: float) -> int:
            return self.leases_of_others

        holders = SimpleNamespace(bound=bound, dead=dead, release=release)
        store: Any = SimpleNamespace(accounts=SimpleNamespace(hold=hold, all=nothing), holders=holders)
        return store  # type: ignore[no-any-return]

    async def renew(self) -> None:
        await self.cluster.renew()
        await asyncio.gather(*self.cluster._taking.values())


@pytest.fixture
async def world() -> World:
    return World()


async def test_node_that_gets_a_name_keeps_polling(world: World) -> None:
    await world.renew()
    assert world.poller.holds
    world.cluster.named("second@1")
    assert world.poller.holds
    await world.renew()
    assert (world.accounts.holder, world.poller.holds, world.poller.terms) == ("second@1", True, 1)


@pytest.mark.parametrize("name", ["second@1", None])
async def test_the_leases_are_renewed_at_once_under_another_name(world: World, name: str | None) -> None:
    world.cluster.named(name)
    assert world.cluster._renew_soon.is_set()


async def test_node_that_loses_its_name_stops_and_takes_its_accounts_again(world: World) -> None:
    world.cluster.named("second@1")
    await world.renew()
    world.cluster.named(None)
    assert not world.poller.holds
    assert world.signals.due.is_set()
    assert world.holder.has_lost("second@1.17")
    await world.renew()
    assert world.poller.holds
    assert world.accounts.holder == world.holder.name != "second@1"


async def test_node_that_lost_its_name_leaves_accounts_taken_by_another(world: World) -> None:
    world.cluster.named("second@1")
    await world.renew()
    world.cluster.named(None)
    world.accounts.holder = "other@1"
    await world.renew()
    assert (world.accounts.holder, world.poller.holds) == ("other@1", False)


@pytest.mark.parametrize(
    ("leases", "level"),
    [
        pytest.param(0, "info", id="stopped in order, or released by a third node"),
        pytest.param(3, "warning", id="died with work in hand"),
    ],
)
async def test_only_a_node_that_leaves_work_behind_is_a_warning(world: World, leases: int, level: str) -> None:
    world.leases_of_others = leases
    with structlog.testing.capture_logs() as logs:
        await world.cluster.release_dead()
    assert logs == [{"event": "node_gone", "holders": ["other@1"], "leases": leases, "log_level": level}]


async def test_account_taken_under_a_lost_name_is_not_polled(world: World) -> None:
    async def lose() -> None:
        world.accounts.meanwhile = None
        world.cluster.named(None)
        world.accounts.holder = "other@1"

    world.cluster.named("second@1")
    world.accounts.meanwhile = lose
    await world.renew()
    assert world.accounts.asked == ["second@1"]
    assert not world.poller.holds
    await world.renew()
    assert not world.poller.holds


async def test_jobs_loading_when_the_name_is_lost_are_not_polled(world: World) -> None:
    loading, loaded = asyncio.Event(), asyncio.Event()

    async def take_over(_state: None) -> None:
        loading.set()
        await loaded.wait()
        world.poller.holds = True

    world.poller.take_over = take_over  # type: ignore[method-assign]
    world.cluster.named("second@1")
    await world.cluster.renew()
    taking = list(world.cluster._taking.values())
    await loading.wait()
    world.cluster.named(None)
    loaded.set()
    await asyncio.gather(*taking, return_exceptions=True)
    assert not world.poller.holds


async def test_job_that_another_node_stops_tracking_is_not_answered_from_memory(world: World) -> None:
    job, other = [("a b/c", "revor", "default", resource) for resource in ("websets", "")]
    kept = CachedAnswer(uid="job_1", body=b"{}", polled_at=1.0, known_at=1.0, ended=False)
    for key in (job, other):
        world.cluster.answers.put(key, kept)
    connection: Any = SimpleNamespace(dialect=SimpleNamespace(name="postgresql"), info={})
    row: Any = SimpleNamespace(uid="job_1", external_id=job[0], source="revor", account="default", resource="websets")
    notify_gone(connection, row)
    (notice,) = take_notices(connection)
    world.cluster.heard(notice)
    assert [world.cluster.answers.get(key) for key in (job, other)] == [None, kept]


async def test_notice_of_a_removed_job_is_understood_by_nodes_of_a_version_without_resources(world: World) -> None:
    """Nodes are upgraded one after the other."""
    job = ("run-1", "revor", "default", "")
    world.cluster.answers.put(job, CachedAnswer(uid="job_1", body=b"{}", polled_at=1.0, known_at=1.0, ended=False))
    connection: Any = SimpleNamespace(dialect=SimpleNamespace(name="postgresql"), info={})
    row: Any = SimpleNamespace(uid="job_1", external_id="run-1", source="revor", account="default", resource="")
    notify_gone(connection, row)
    assert [*take_notices(connection)] == ["gone revor/default job_1 run-1"]
    world.cluster.heard("gone revor/default job_1 run-1")
    assert world.cluster.answers.get(job) is None
