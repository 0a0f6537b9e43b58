"""A connect account breaks and is repaired in the sandbox: what a subscriber, the API and the metrics say."""

from pathlib import Path

from relay.config.settings import PollingSettings
from tests.support.e2e_world import POLLING, World, open_e2e_world
from tests.support.schema_check import check_event

EMAIL = "connect_account_email"
FAST = PollingSettings(**{**POLLING.model_dump(), "connect_accounts_interval_seconds": 1.0})


def told(world: World) -> list[str]:
    events = (request.event["type"] for request in world.received.get("/events", []))
    return [type.removeprefix("ai.revor.") for type in events]


async def change(world: World, **fields: object) -> None:
    answer = await world.sandbox.post("/_sandbox/accounts", json={"id": EMAIL, **fields})
    assert answer.status_code == 200, answer.text


async def state_of(world: World) -> tuple[str, int]:
    items = (await world.api.get("/v1/connect-accounts")).json()["items"]
    (email,) = (one for one in items if one["id"] == EMAIL)
    return email["state"], email["open_jobs"]


async def test_a_subscriber_learns_that_an_account_broke_and_was_repaired(tmp_path: Path) -> None:
    async with open_e2e_world(tmp_path, polling=FAST) as world:
        kinds = ("needs_reconnect", "recovered", "added", "removed", "cannot_send")
        types = [*(f"ai.revor.account.{kind}" for kind in kinds), "failed"]
        await world.subscribe(types=types)
        await world.until(lambda: world.metric("relay_connect_accounts", state="ok") == 3)
        assert world.metric("relay_connect_accounts", state="needs_reconnect") == 1  # the sandbox has one
        assert await state_of(world) == ("ok", 0)
        job = await world.job(connect_account_id=EMAIL, start_delay_seconds=60)
        await change(world, status="credentials")
        await world.until(lambda: sorted(told(world)) == ["account.needs_reconnect", "job.failed"])
        events = {request.event["type"]: check_event(request.body) for request in world.received["/events"]}
        broken = events["ai.revor.account.needs_reconnect"]
        assert (broken["subject"], broken["channel"], broken["account"]) == (EMAIL, "email", "default")
        assert broken["source"].endswith("/api/v1/connect/accounts")
        assert broken["data"]["hint"]["fix"] == "Reconnect it in Revor"
        assert (broken["data"]["status"], broken["data"]["name"]) == ("credentials", "Email Account")
        assert "sender@example.com" not in world.received["/events"][0].body.decode()
        failed = events["ai.revor.job.failed"]
        assert (failed["subject"], failed["data"]["hint"]["fix"]) == (job, "Reconnect it in Revor")
        assert (await state_of(world))[0] == "needs_reconnect"
        await change(world, status="ok")
        await world.until(lambda: "account.recovered" in told(world))
        assert await state_of(world) == ("ok", 0)
        assert (await world.sandbox.delete(f"/_sandbox/accounts/{EMAIL}")).status_code == 200
        await world.until(lambda: told(world)[-1] == "account.removed")
        await change(world, channel="email")
        await world.until(lambda: told(world)[-1] == "account.added")
        (source,) = (await world.api.get("/v1/sources")).json()["items"]
        assert source["accounts_listed_at"] is not None
