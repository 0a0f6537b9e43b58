"""Limiters: owners take turns, and long computations let other tasks run."""

import asyncio
from collections import Counter

import pytest

from relay import limiter, tasks
from relay.errors import TooMany
from relay.limiter import Computations, Limiter


async def test_steps_of_many_requests_share_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty streams with a costly filter held the event loop for half a second: each has its own page to look at, and
    all are awake after one event."""
    now, passes, made = 0.0, 0, list[tuple[int, int]]()
    monkeypatch.setattr("relay.limiter.time.perf_counter", lambda: now)
    shared = Computations(tasks.TURN_SECONDS)

    async def look_on() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    def costly(stream: int) -> int:
        nonlocal now
        now += 0.6 * tasks.TURN_SECONDS
        made.append((passes, stream))
        return stream

    async def stream(number: int) -> list[int]:
        return [await shared.step(None, lambda: costly(number)) for _ in range(3)]

    watching = asyncio.create_task(look_on())
    found = await asyncio.gather(*(stream(number) for number in range(10)))
    watching.cancel()
    assert found == [[number] * 3 for number in range(10)]
    by_pass = [sum(at == one for at, _ in made) for one in range(passes + 1)]
    assert max(by_pass) <= 2
    assert [number for _, number in made[:12]] != [0, 0, 0], "they take turns"
    assert len({number for _, number in made[:12]}) == 10


@pytest.mark.parametrize("callers", [1, 20])
@pytest.mark.parametrize("seconds", [0.0001, 0.0009])
async def test_owner_who_asks_one_after_the_other_is_not_held_up_by_one_who_never_stops(
    callers: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the filters of a list beside those of a loop of lists."""
    now, stopped, made = 0.0, False, Counter[str]()
    monkeypatch.setattr("relay.limiter.time.perf_counter", lambda: now)
    shared = Computations(tasks.TURN_SECONDS)

    def compute(owner: str) -> None:
        nonlocal now
        now += seconds
        made[owner] += 1

    async def looping() -> None:
        while not stopped:
            await shared.step("busy", lambda: compute("busy"))

    loops = [asyncio.create_task(looping()) for _ in range(callers)]
    await asyncio.sleep(0)
    for _ in range(200):
        await shared.step("other", lambda: compute("other"))
    stopped = True
    await asyncio.gather(*loops)
    assert made["busy"] <= 2 * made["other"] + 2 * callers


async def test_owners_have_one_step_at_a_time_in_turn_and_others_go_on_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes, made = 0, list[tuple[int, str]]()
    owned = Computations(0.0)

    async def look_on() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    async def step(owner: str) -> None:
        await owned.step(owner, lambda: made.append((passes, owner)))

    watching = asyncio.create_task(look_on())
    await asyncio.gather(*(step(owner) for owner in "aaaaaabbc"))
    watching.cancel()
    assert "".join(owner for _, owner in made) == "aabcabaaa"
    assert len({at for at, _ in made}) == len(made), "never two in one pass of the loop"
    assert await owned.step("d", lambda: 7) == 7


@pytest.mark.parametrize(("seconds", "pause"), [(0.0005, 0.0), (0.002, 0.004), (9.0, limiter.MAX_PAUSE_SECONDS)])
async def test_long_step_leaves_twice_its_time_to_others(
    monkeypatch: pytest.MonkeyPatch, seconds: float, pause: float
) -> None:
    now, pauses = 0.0, list[float]()
    monkeypatch.setattr("relay.limiter.time.perf_counter", lambda: now)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda delay, *call: (pauses.append(delay), loop.call_soon(*call)))

    def compute() -> None:
        nonlocal now
        now += seconds

    await Computations(0.0).step("a", compute)
    assert pauses == [pytest.approx(pause)]


async def test_short_steps_that_wait_follow_each_other_and_others_go_on_after_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One step in each pass of the loop made templates cost as much again as the rest of a delivery."""
    now, passes, made = 0.0, 0, list[int]()
    monkeypatch.setattr("relay.limiter.time.perf_counter", lambda: now)
    renders = Computations(limiter.LONG_SECONDS, in_turn=True)

    def compute() -> None:
        nonlocal now
        now += limiter.LONG_SECONDS / 4
        made.append(passes)

    async def look_on() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    watching = asyncio.create_task(look_on())
    await asyncio.gather(*(renders.step("a", compute) for _ in range(12)))
    watching.cancel()
    assert [*Counter(made).values()] == [1, 4, 4, 3]


async def test_long_step_among_short_ones_leaves_time_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now, pauses, steps = 0.0, list[float](), iter([0.0001, 0.003, 0.0001])
    monkeypatch.setattr("relay.limiter.time.perf_counter", lambda: now)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda delay, *call: (pauses.append(delay), loop.call_soon(*call)))
    renders = Computations(tasks.TURN_SECONDS)

    def compute() -> None:
        nonlocal now
        now += next(steps)

    await asyncio.gather(*(renders.step("a", compute) for _ in range(3)))
    assert pauses[:2] == [0.0, pytest.approx(0.006)]


@pytest.mark.parametrize(("raised", "seen"), [(ZeroDivisionError, ZeroDivisionError), (StopIteration, RuntimeError)])
async def test_step_that_fails_after_a_wait_fails_alone(raised: type[Exception], seen: type[Exception]) -> None:
    renders = Computations(0.0)

    def fail() -> int:
        raise raised

    steps = (renders.step(None, compute) for compute in (lambda: 1, fail, lambda: 2))
    first, failed, last = await asyncio.gather(*steps, return_exceptions=True)
    assert (first, type(failed), last) == (1, seen, 2)


async def test_step_that_fails_and_those_that_are_cancelled_pass_the_turn_on() -> None:
    owned, made = Computations(0.0), list[str]()

    async def step(name: str) -> None:
        await owned.step(name, lambda: made.append(name))

    with pytest.raises(ZeroDivisionError):
        await owned.step("fails", lambda: 1 / 0)
    waiting, given, last = [asyncio.create_task(step(name)) for name in ("waiting", "given", "last")]
    await asyncio.sleep(0)
    waiting.cancel()
    asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(given.cancel))
    await asyncio.wait([waiting, given, last], timeout=20)
    assert last.done()
    assert made in (["last"], ["given", "last"])


async def test_amounts_are_limited_in_all_and_for_each_owner() -> None:
    bytes_held = Limiter("bytes", 5, 3)
    bytes_held.take("a", 3)
    for owner, limit in (("a", 3), ("b", 5)):
        assert bytes_held.reached(owner, 3) == limit
        with pytest.raises(TooMany, match=f"{limit} bytes"):
            bytes_held.take(owner, 3)
    assert bytes_held.reached("b", 2) is None
    bytes_held.release("a", 3)
    with bytes_held.held("b"):
        assert bytes_held.taken == 1
    assert bytes_held.taken == 0


async def test_turns_of_an_owner_wait_for_its_own_only_and_too_many_are_refused() -> None:
    pages, inside, leave = Limiter("pages", limit_of_owner=3, at_once_of_owner=2), list[str](), asyncio.Event()

    async def page(owner: str) -> None:
        async with pages.turn(owner):
            inside.append(owner)
            await leave.wait()

    tasks = [asyncio.create_task(page(owner)) for owner in "aaab"]
    await asyncio.sleep(0)
    assert inside == ["a", "a", "b"]
    with pytest.raises(TooMany, match="3 pages of this token"):
        await page("a")
    leave.set()
    await asyncio.gather(*tasks)
    assert (inside, pages.taken) == (["a", "a", "b", "a"], 0)
