"""Whether hosts resolve: right or silent, in a second for all of them, and asked once in a while only."""

import asyncio
import socket
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from relay.http import host_check
from relay.http.host_check import KEPT_SECONDS, MAX_AT_ONCE, MAX_HOSTS, MAX_LOOKED_UP, HostCheck

UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


class Names(AbstractResolver):
    """Knows `good`, does not answer for `slow`, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_UNSPEC) -> list[ResolveResult]:
        self.asked.append(host)
        if host.startswith("slow"):
            await asyncio.Event().wait()
        if host != "good":
            raise UNKNOWN
        return []

    async def close(self) -> None: ...


@pytest.mark.parametrize(("host", "reason"), [("good", None), ("slow", None), ("bad", "Name or service not known")])
async def test_answer_is_kept_for_a_while(host: str, reason: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_check, "MAX_WAIT_SECONDS", 0.01)
    names, now, expected = Names(), [1000.0], {} if reason is None else {host: reason}
    check = HostCheck(names, lambda: now[0])
    for _ in range(3):
        assert await check.unresolved([host, host]) == expected
    assert names.asked == [host]
    for now[0] in (1000.0 + KEPT_SECONDS, 1.0):  # also after the clock was set back
        assert await check.unresolved([host]) == expected
    assert names.asked == [host] * 3


async def test_hosts_are_not_kept_without_end() -> None:
    names = Names()
    check = HostCheck(names, lambda: 1000.0)
    for number in range(MAX_HOSTS + 1):
        await check.unresolved([f"h{number}"])
    await check.unresolved(["h0"])
    assert names.asked.count("h0") == 2


async def test_behind_a_proxy_nothing_is_looked_up() -> None:
    assert await HostCheck(None, lambda: 1000.0).unresolved(["bad"]) == {}


async def test_many_hosts_cost_one_call_no_more_than_its_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_check, "MAX_WAIT_SECONDS", 0.05)
    names = Names()
    check = HostCheck(names, lambda: 1000.0)
    slow = [f"slow{number}" for number in range(MAX_AT_ONCE - 1)]
    async with asyncio.timeout(5):
        found = await check.unresolved([*slow, *(f"h{number}" for number in range(10_000))])
    assert len(names.asked) == MAX_LOOKED_UP
    assert set(found) == {f"h{number}" for number in range(MAX_LOOKED_UP - len(slow))}, "slow ones count as found"


async def test_second_call_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names()
    check = HostCheck(names, lambda: 1000.0)
    hosts = ["bad", "good", *(f"h{number}" for number in range(MAX_LOOKED_UP - 2))]
    first = await check.unresolved(hosts)
    asked = len(names.asked)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a known host needs no task")

    monkeypatch.setattr(asyncio, "create_task", refuse)
    assert await check.unresolved(hosts) == first
    assert len(names.asked) == asked


async def test_slow_names_take_few_threads_however_many_calls_name_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_check, "MAX_WAIT_SECONDS", 0.02)
    names, calls = SlowNames(), 3
    check = HostCheck(names, lambda: 1000.0)
    hosts = [[f"slow{call}-{number}" for number in range(MAX_AT_ONCE)] for call in range(calls)]
    assert await asyncio.gather(*map(check.unresolved, hosts)) == [{}] * calls
    assert await check.unresolved(["slow"]) == {}
    assert names.most == MAX_AT_ONCE, "a thread goes on after the call that began its look-up"
    monkeypatch.setattr(host_check, "MAX_WAIT_SECONDS", 5.0)
    monkeypatch.setattr(host_check, "MAX_WAIT_SECONDS", 5.0)
    names.answer.set()
    for _ in range(10):  # the look-ups end, and give their turns back
        await asyncio.sleep(0)
    assert await check.unresolved(["bad"]) == {"bad": "Name or service not known"}


class SlowNames(AbstractResolver):
    """Answers when it is told to. Like a thread, a look-up goes on when nothing waits for it."""

    def __init__(self) -> None:
        self.answer = asyncio.Event()
        self.running = self.most = 0

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_UNSPEC) -> list[ResolveResult]:
        return await asyncio.shield(asyncio.ensure_future(self._look_up()))

    async def _look_up(self) -> list[ResolveResult]:
        self.running += 1
        self.most = max(self.most, self.running)
        await self.answer.wait()
        self.running -= 1
        raise UNKNOWN

    async def close(self) -> None: ...
