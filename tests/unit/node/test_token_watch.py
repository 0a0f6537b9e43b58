"""The watch over a node's tokens, step by step, on a stand-in for the database."""

import asyncio
import selectors
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from relay.api.access.callers import Access
from relay.api.http.auth import Identity
from relay.api.http.dependencies import Token
from relay.core.access.tokens import AccessToken
from relay.errors import StoreError
from relay.node import token_watch
from relay.node.token_watch import (
    CHECK_SECONDS,
    USES_SECONDS,
    TokenWatch,
)
from tests.support.store_kit import NOW, access_token

ANSWER_SECONDS = 0.25
"""How slowly the database may answer for the bound to hold."""
SCOPE: dict[str, Any] = {"type": "http", "client": ("203.0.113.9", 1), "headers": []}


@dataclass
class Database:
    """Tokens as another node changes them."""

    tokens: dict[str, AccessToken] = field(default_factory=dict)
    number: int = 0
    reads: int = 0
    stored: list[dict[str, float]] = field(default_factory=list)
    down: bool = False

    def put(self, *tokens: AccessToken) -> None:
        self.tokens |= {token.id: token for token in tokens}
        self.number += 1

    def remove(self, id: str) -> None:
        del self.tokens[id]
        self.number += 1

    async def all(self) -> tuple[int, list[AccessToken]]:
        await self._answer()
        self.reads += 1
        return self.number, list(self.tokens.values())

    async def version(self) -> int:
        await self._answer()
        return self.number

    async def used(self, at: Mapping[str, float]) -> None:
        await self._answer()
        self.stored.append(dict(at))

    async def _answer(self) -> None:
        if self.down:
            raise StoreError("the database is down")
        await asyncio.sleep(0)


class World:
    def __init__(self, database: Database | None = None) -> None:
        self.now, self.steady, self.wakes = NOW, 0.0, 0
        self.database = database or Database()
        self.access = Access(clock=lambda: self.now, steady=lambda: self.steady)
        self.watch = TokenWatch(
            self.database,  # type: ignore[arg-type]
            self.access,
            signals=SimpleNamespace(wake_all=self._wake),  # type: ignore[arg-type]
            steady=lambda: self.steady,
        )

    def _wake(self) -> None:
        self.wakes += 1

    async def loaded(self) -> None:
        """Returns once the tokens were read again."""
        done, load = asyncio.Event(), self.access.load

        def loading(tokens: Any) -> bool:
            gone = load(tokens)
            done.set()
            return gone

        self.access.load = loading  # type: ignore[method-assign]
        async with asyncio.timeout(60):
            await done.wait()
        self.access.load = load  # type: ignore[method-assign]

    def identify(self, id: str) -> Identity | None:
        return self.access.identify(f"rl_{id}", dict(SCOPE))


@pytest.fixture
def world() -> World:
    return World()


async def test_change_of_another_node_is_found_by_its_version(world: World) -> None:
    world.database.put(access_token("tok_1"), access_token("tok_2"))
    await world.watch.run_once()
    identity = world.identify("tok_1")
    assert world.access.holds(identity)
    assert world.wakes == 0  # a new token ends nothing
    for _ in range(3):
        await world.watch.run_once()
    assert world.database.reads == 1  # read only after a change
    world.database.remove("tok_1")
    await world.watch.run_once()
    assert world.identify("tok_1") is None
    assert not world.access.holds(identity)
    assert world.wakes == 1
    assert world.identify("tok_2") is not None


async def test_expiry_wakes_what_waits_once(world: World) -> None:
    world.database.put(access_token("tok_1", expires_at=NOW + 10), access_token("tok_2", expires_at=NOW + 20))
    await world.watch.run_once()
    identities = [world.identify("tok_1"), world.identify("tok_2")]
    for now, wakes, held in (
        (NOW + 9.99, 0, [True, True]),
        (NOW + 10.0, 1, [False, True]),
        (NOW + 10.1, 1, [False, True]),
        (NOW + 25.0, 2, [False, False]),
        (NOW + 99.0, 2, [False, False]),
    ):
        world.now = now
        await world.watch.run_once()
        assert (world.wakes, [world.access.holds(one) for one in identities]) == (wakes, held)


async def test_clock_that_is_set_back_makes_a_token_valid_again(world: World) -> None:
    world.database.put(access_token("tok_1", expires_at=NOW + 10))
    await world.watch.run_once()
    world.now = NOW + 1_000
    assert world.identify("tok_1") is None
    await world.watch.run_once()
    assert world.wakes == 1
    world.now = NOW
    await world.watch.run_once()
    identity = world.identify("tok_1")
    assert identity is not None
    world.now = NOW + 10
    await world.watch.run_once()
    assert (world.identify("tok_1"), world.access.holds(identity), world.wakes) == (None, False, 2)


async def test_uses_are_stored_once_a_minute_in_one_write(world: World) -> None:
    world.database.put(access_token("tok_1"), access_token("tok_2"), access_token("tok_3"))
    await world.watch.run_once()
    for _ in range(100):
        world.now += 0.1
        world.identify("tok_1")
    world.identify("tok_2")
    await world.watch.run_once()
    assert world.database.stored == []
    world.steady = USES_SECONDS
    await world.watch.run_once()
    await world.watch._storing.drain()
    assert world.database.stored == [{"tok_1": world.now, "tok_2": world.now}]
    world.steady = 2 * USES_SECONDS
    await world.watch.run_once()
    await world.watch._storing.drain()
    assert len(world.database.stored) == 1  # no use, no write
    world.identify("tok_3")
    await world.watch.close()
    assert world.database.stored[1] == {"tok_3": world.now}


async def test_tokens_stay_known_while_the_database_is_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.database.put(access_token("tok_1"))
    await world.watch.refresh()
    world.database.down = True
    world.database.remove("tok_1")
    with pytest.raises(StoreError):
        await world.watch.run_once()
    assert world.identify("tok_1") is not None
    await world.watch.changed()  # a change of this node's own: answered, and read as soon as possible
    await world.watch.close()
    world.database.down = False
    monkeypatch.setattr(token_watch, "CHECK_SECONDS", 60.0)
    running = asyncio.ensure_future(world.watch.run())
    await world.loaded()
    assert world.identify("tok_1") is None
    running.cancel()


def test_settings_win_over_the_database_and_a_changed_token_is_gone(world: World) -> None:
    stored = replace(access_token("tok_1"), name="stored")
    assert not world.access.load([stored])
    one = Token(name="written", value="rl_tok_1", scopes=frozenset({"admin"}))
    before = world.identify("tok_1")
    assert world.access.configure([one])  # another name and other scopes: whoever has it must ask again
    identity = world.identify("tok_1")
    assert identity is not None
    assert (identity.name, identity.token_id, world.access.holds(before)) == ("written", None, False)
    assert not world.access.configure([one])
    assert world.access.configure([replace(one, scopes=frozenset({"read"}))])
    assert not world.access.holds(identity)
    assert world.access.configure([])
    assert world.identify("tok_1") is not None
    assert world.access.has_stored


class VirtualTime(selectors.SelectSelector):
    """Time that passes only where everything waits."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    def __init__(self) -> None:
        self._virtual = VirtualTime()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


@dataclass
class SlowDatabase(Database):
    """Answers after `seconds`, with what was there when it was asked."""

    seconds: float = 0.0

    async def all(self) -> tuple[int, list[AccessToken]]:
        number, tokens = self.number, list(self.tokens.values())
        await asyncio.sleep(self.seconds)
        return number, tokens

    async def version(self) -> int:
        number = self.number
        await asyncio.sleep(self.seconds)
        return number

    async def used(self, at: Mapping[str, float]) -> None:
        await asyncio.Event().wait()  # a write that is never let through


async def seconds_until_refused(world: World, revoked_at: float) -> float:
    """How long a revocation on another node takes, without a notice."""
    loop = asyncio.get_running_loop()
    world.database.put(access_token("tok_1"))
    await world.watch.refresh()
    identity = world.identify("tok_1")
    refused = loop.create_future()
    world.watch._signals.wake_all = lambda: refused.set_result(loop.time())  # what wakes streams and waits
    world.steady = USES_SECONDS  # uses are due
    running = asyncio.ensure_future(world.watch.run())
    await asyncio.sleep(revoked_at)
    world.database.remove("tok_1")
    revoked_at, ended_at = loop.time(), await refused
    assert not world.access.holds(identity)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    world.watch._storing.cancel()
    return float(ended_at - revoked_at)


@pytest.mark.parametrize("answer_seconds", [0.0, 0.01, ANSWER_SECONDS])
def test_revocation_is_found_within_a_second_wherever_it_falls(answer_seconds: float) -> None:
    assert 3 * ANSWER_SECONDS + CHECK_SECONDS < 1
    longest = 0.0
    for step in range(100):
        world = World(SlowDatabase(seconds=answer_seconds))
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            longest = max(longest, runner.run(seconds_until_refused(world, step / 100)))
    assert longest <= 3 * answer_seconds + CHECK_SECONDS + 1e-9
    assert longest > 0.9 * CHECK_SECONDS  # or the steps have missed the worst one
