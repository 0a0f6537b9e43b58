"""A relay after a day's work with one trouble, to look at its dashboard:
`python -m tests.support.dashboard_troubles TROUBLE`.

Two campaigns, people with names, three sinks; then what `TROUBLES` names. It prints the relay's URL once the trouble is
there, and serves until its standard input ends. Its clock begins a day before and ends at the machine's time.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from relay import log
from relay.sandbox.bodies import DISPATCH_PATH
from relay.sandbox.world import CHANNELS, DEFAULT_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS
from tests.stories.crms import PIPEDRIVE
from tests.support.dashboard_world import KEY, LOST_ANSWERS, NEVER, PLAIN, REFUSED_KEY, Loader, open_world
from tests.support.dispatches import campaign_body

HOURS = 24
JOBS_AN_HOUR = 4
CAMPAIGNS = ("Spring launch", "Webinar invitations")
SENDERS: Mapping[str, tuple[str, str]] = {
    "mail": ("email", "Grace Hopper"),
    "emea": ("linkedin", "Sales EMEA"),
    "phone": ("whatsapp", "Support line"),
}
FIRST = ("Ada", "Alan", "Barbara", "Edsger", "Frances", "Grace", "John", "Katherine", "Ken", "Margaret", "Radia", "Tim")
LAST = ("Allen", "Backus", "Hamilton", "Johnson", "Liskov", "Perlman", "Ritchie", "Thompson", "Turing", "Wilson")
COMPANIES = ("Acme", "Borealis", "Contoso", "Delta Freight", "Evergreen")


@dataclass
class MovedClock:
    """The machine's clock, so many seconds behind."""

    behind_seconds: float = HOURS * 3_600.0

    def __call__(self) -> float:
        return time.time() - self.behind_seconds


@dataclass(kw_only=True)
class Day:
    """Fills a relay with a day's work."""

    loader: Loader
    clock: MovedClock
    made: int = 0

    async def pass_by(self) -> None:
        """The day, hour by hour."""
        for id, (channel, name) in SENDERS.items():
            await self.loader.post(
                self.loader.sandbox, "/_sandbox/accounts", {"id": id, "channel": channel, "name": name}
            )
        self.loader.receivers.lost = LOST_ANSWERS  # no answer of the CRM gets lost yet
        await self._subscribe()
        for hour in range(HOURS):
            for index in range(JOBS_AN_HOUR):
                await self.job(tuple(SENDERS)[(hour + index) % 3], final="succeeded")
            if hour % 6 == 3:
                await self.job("mail", final="failed", error_code="external_api_worker_unavailable")
            await self.until_ended()
            await self.loader.take_figures()
            self.clock.behind_seconds -= 3_600.0
        for _ in range(6):
            await self.job("mail", run_seconds=NEVER)

    async def _subscribe(self) -> None:
        secret = {"credentialtype": "ACCESSTOKEN", "accesstoken": PIPEDRIVE.token}
        for name, path, more in (
            ("#campaigns in Slack", "/services/T0/B0/x", {"config": {"kind": "slack"}}),
            ("Deals in Pipedrive", "", {"config": {"kind": "pipedrive"}, "sinkcredential": secret}),
            ("Data warehouse", "/warehouse", {}),
        ):
            body = {"sink": self.loader.receiver_url + path, "description": name, **more}
            made = await self.loader.post(self.loader.api, "/v1/subscriptions", body)
            self.loader.subscriptions[name] = made["id"]

    async def job(self, sender: str, *, relay_account: str = "default", **script: Any) -> None:
        """One job of the sandbox, registered."""
        body = {**PLAIN, **script, "account": "default", "channel": SENDERS[sender][0], "connect_account_id": sender}
        (item,) = (await self.loader.post(self.loader.sandbox, "/_sandbox/jobs", body))["items"]
        named = {"id": item["id"], "metadata": self.person(), "group": CAMPAIGNS[self.made % 3 // 2]}
        await self.loader.post(self.loader.api, "/v1/jobs", {**named, "account": relay_account})

    async def send(self, sender: str, *, interval_seconds: int | None = None) -> None:
        """One message through the drop-in: its job has a sending account."""
        channel = SENDERS[sender][0]
        body = campaign_body(CHANNELS.index(channel), {channel: sender})
        if interval_seconds:
            body["min_channel_task_interval_seconds"] = interval_seconds
        group = CAMPAIGNS[self.made % 3 // 2]
        headers = {"relay-metadata": orjson.dumps(self.person()).decode(), "relay-group": group}
        await self.loader.api.post(DISPATCH_PATH, json=body, headers={"authorization": f"Bearer {KEY}", **headers})

    def person(self) -> dict[str, Any]:
        """The metadata of the next job."""
        index = self.made
        self.made += 1
        name = f"{FIRST[index % len(FIRST)]} {LAST[index * 7 % len(LAST)]}"
        return {"name": name, "company": COMPANIES[index % 5], "deal": index + 1, "deal_id": index % 90 + 1}

    async def until_ended(self) -> None:
        """Waits until all jobs have ended and their events are delivered."""
        for path in ("/v1/jobs?open=true", "/v1/deliveries?state=pending"):
            await self.loader.until(path, lambda items: not items)


async def _nothing(day: Day) -> None:
    await day.loader.until_there("/v1/jobs?status=running")


async def _reconnect(day: Day) -> None:
    for _ in range(10):  # one starts every three seconds: the first ones before the account is signed out
        await day.send("emea", interval_seconds=3 * DEFAULT_INTERVAL_SECONDS)
    for _ in range(33):
        await day.send("emea", interval_seconds=MAX_INTERVAL_SECONDS)
    await day.loader.post(day.loader.sandbox, "/_sandbox/accounts", {"id": "emea", "status": "credentials"})
    await day.loader.until_there("/v1/jobs?status=failed&connect_account=emea&limit=20", count=6)
    await day.loader.until_there("/v1/incidents")


async def _key(day: Day) -> None:
    for _ in range(12):
        await day.job("mail", relay_account="emea", run_seconds=NEVER)
    await _until_source(day, "unauthorized")


async def _down(day: Day) -> None:
    fault = {"kind": "503", "method": "GET", "count": 100_000}
    await day.loader.post(day.loader.sandbox, "/_sandbox/faults", fault)
    await _until_source(day, "down")


async def _until_source(day: Day, state: str) -> None:
    await day.loader.until("/v1/sources", lambda items: state in [one["state"] for one in items])


async def _sink(day: Day) -> None:
    day.loader.receivers.broken["/warehouse"] = 503
    for _ in range(29):
        await day.job("mail", final="succeeded")
    await day.loader.until_there("/v1/deliveries?state=dead&limit=100", count=58)


async def _gone(day: Day) -> None:
    day.loader.receivers.broken["/warehouse"] = 410
    for _ in range(3):
        await day.job("mail", final="succeeded")
    await day.loader.until("/v1/subscriptions", lambda items: "disabled" in [one["state"] for one in items])


async def _unknown_send(day: Day) -> None:
    fault = {"kind": "timeout", "method": "POST", "path_prefix": DISPATCH_PATH, "count": 1, "hold_seconds": 0.1}
    await day.loader.post(day.loader.sandbox, "/_sandbox/faults", fault)
    await day.send("mail")
    await day.loader.until_there("/v1/intents")


async def _doubt(day: Day) -> None:
    day.loader.receivers.lost = 0
    for _ in range(2):
        await day.job("mail", final="failed", error_code="external_api_worker_unavailable")
    await day.loader.until_there("/v1/deliveries?state=uncertain")


async def _credits(day: Day) -> None:
    for _ in range(7):
        await day.job("mail", final="failed", error_code="insufficient_credits")
    await day.loader.until_there("/v1/incidents")


TROUBLES: Mapping[str, Callable[[Day], Awaitable[None]]] = {
    "nothing": _nothing,
    "reconnect": _reconnect,
    "key": _key,
    "down": _down,
    "sink": _sink,
    "gone": _gone,
    "unknown-send": _unknown_send,
    "doubt": _doubt,
    "credits": _credits,
}


async def _main(trouble: str, folder: Path) -> None:
    clock = MovedClock()
    keys = {"default": KEY, "emea": REFUSED_KEY} if trouble == "key" else {"default": KEY}
    async with open_world(folder, keys=keys, search_keys=("name", "company", "deal"), clock=clock) as loader:
        day = Day(loader=loader, clock=clock)
        await day.pass_by()
        await TROUBLES[trouble](day)
        await loader.take_figures()
        print(str(loader.api.base_url).rstrip("/"), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in TROUBLES:
        sys.exit(f"usage: python -m tests.support.dashboard_troubles {'|'.join(TROUBLES)}")
    log.configure(dev=False, level="error")
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(_main(sys.argv[1], Path(made)))
