"""Low credits of a relay process, from the setting to the sink: reloads, a plan without credits, a removed account."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.core.events.event import CREDITS_LOW
from relay.core.jsontext import dumps
from tests.support.relay_world import SETTINGS, RelayWorld, open_relay_world
from tests.support.schema_check import check_event

QUICK = "polling: {connect_accounts_interval_seconds: 0.3, "


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with open_relay_world(tmp_path) as world:
        yield world


def settings(world: RelayWorld, threshold: int | None, more: str = "") -> None:
    text = SETTINGS.replace("polling: {", QUICK)
    if threshold is not None:
        text = text.replace("  revor:\n", f"  revor:\n    credits_low: {threshold}\n")
    world.settings(text.replace("delivery:\n", f"{more}delivery:\n"))


async def set_credits(world: RelayWorld, available: int, account: str = "test") -> None:
    body = {"account": account, "available_credits": available}
    status, _ = await world.call("POST", "/_sandbox/credits", body, url=world.sandbox_url)
    assert status == 200


async def shown(world: RelayWorld, account: str = "default") -> dict[str, Any]:
    items = (await world.get("/v1/sources"))["items"]
    (found,) = [one["credits"] for one in items if (one["source"], one["account"]) == ("revor", account)]
    return found or {}


async def until(world: RelayWorld, account: str = "default", **fields: Any) -> None:
    async def holds() -> bool:
        found = await shown(world, account)
        return all(found.get(name) == value for name, value in fields.items())

    await world.until(holds, f"the credits do not become {fields}")


def told(world: RelayWorld) -> list[tuple[str, float, int]]:
    events = {event["id"]: event["data"] for event in world.received}
    return [(data["account"], data["available"], data["threshold"]) for data in events.values()]


async def test_setting_that_is_reloaded_while_the_relay_runs(world: RelayWorld) -> None:
    settings(world, None, "  gpt: {preset: openai-batch}\n")
    await set_credits(world, 120)
    await world.serve()
    await world.subscribe(CREDITS_LOW)
    assert await shown(world) == {}
    settings(world, 500, "  gpt: {preset: openai-batch}\n")
    world.hang_up()
    await world.until(lambda: told(world) == [("default", 120, 500)], "no event comes")
    check_event(dumps(world.received[0]))
    code, lines = await world.run("status")
    assert code == 1, "gpt has no key"
    assert lines[lines.index("- Buy credits in Revor for the account default") + 1] == "  120 credits are left"

    settings(world, 100)  # the figure is enough now
    world.hang_up()
    await until(world, threshold=100, available=120, low_since=None)
    settings(world, 500)
    world.hang_up()
    await world.until(lambda: len(told(world)) == 2, "no second event comes")

    settings(world, 500, "  gpt: {preset: openai-batch, credits_low: 1}\n")
    world.hang_up()
    await world.said("settings_refused")
    assert (await shown(world))["threshold"] == 500
    assert await world.end() == 0
    (refused,) = world.logged("settings_refused")
    assert "sources.gpt.credits_low: the definition of OpenAI has no `credits`" in refused["error"]
    assert "sources.gpt.credits_low: the definition of OpenAI has no `credits`" in await world.refused()


async def test_plan_without_credits_is_a_problem_that_is_shown(world: RelayWorld) -> None:
    settings(world, 500)
    await set_credits(world, 120)
    await world.fault("404", path_prefix="/api/v2/credits")
    await world.serve()
    await world.subscribe(CREDITS_LOW)

    async def is_unread() -> bool:
        return bool((await shown(world))["problem"])

    await world.until(is_unread, "no problem is shown")
    credits = await shown(world)
    assert credits["problem"].startswith("answered 404 external_api_job_not_found")
    assert (credits["available"], credits["low_since"]) == (None, None)
    code, lines = await world.run("status")
    assert code == 0
    assert any("revor/default: its credits cannot be read: answered 404" in line for line in lines), lines
    job = await world.job()
    assert (await world.get(f"/v1/jobs/{job}"))["id"] == job, "jobs are tracked as before"
    await world.call("DELETE", "/_sandbox/faults", url=world.sandbox_url)
    await world.until(lambda: told(world) == [("default", 120, 500)], "no event comes")
    assert await world.end() == 0
    assert len(world.logged("credits_unreadable")) == 1


async def test_each_account_is_told_and_one_that_is_removed_is_not_read(world: RelayWorld) -> None:
    more = "    accounts: {other: {api_key: sk-revor-other}}\n"
    settings(world, 500, more)
    await set_credits(world, 120)
    await set_credits(world, 7, "other")
    await world.serve()
    await world.subscribe(CREDITS_LOW)
    await until(world, available=120)
    await until(world, "other", available=7)
    assert len((await world.get(f"/v1/events?type={CREDITS_LOW}"))["items"]) == 2
    assert await world.end() == 0

    settings(world, 500)
    await world.serve()
    await until(world, available=120)
    assert [one["account"] for one in (await world.get("/v1/sources"))["items"]] == ["default"]
    assert await world.end() == 0
    settings(world, 500, more)
    await world.serve()
    await until(world, "other", available=7)
    assert len((await world.get(f"/v1/events?type={CREDITS_LOW}"))["items"]) == 2, "they were low all the time"


async def test_refused_key_stops_the_readings(world: RelayWorld) -> None:
    settings(world, 500)
    await set_credits(world, 120)
    await world.fault("revoked_key")
    await world.serve()

    async def is_refused() -> bool:
        (account,) = (await world.get("/v1/sources"))["items"]
        return bool(account["state"] == "unauthorized")

    await world.until(is_refused, "the key is not refused")
    assert (await world.get(f"/v1/events?type={CREDITS_LOW}"))["items"] == []
    await world.call("DELETE", "/_sandbox/faults", url=world.sandbox_url)
    world.hang_up()
    await until(world, available=120)
    assert len((await world.get(f"/v1/events?type={CREDITS_LOW}"))["items"]) == 1
