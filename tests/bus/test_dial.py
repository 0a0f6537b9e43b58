"""A look at a real broker before a subscription is stored: the place is there, or what is missing is named."""

from ipaddress import ip_network
from pathlib import Path

import nats
import pytest
from aiohttp import ThreadedResolver

from relay.bus.publishers import Publishers
from relay.core.access.netguard import GuardPolicy
from relay.core.deliveries.broker import Login, Message, Published, read_sink
from relay.installation import install_command
from subscribers.nats import Nats
from tests.support.brokers.nats import nats_server
from tests.support.brokers.process import free_port

SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
PUBLIC = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
POLICY = GuardPolicy(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"),))
USERS = f"""
authorization {{ users: [
  {{ user: relay, password: right }}
  {{ nkey: {PUBLIC} }}
  {{ user: blind, password: right, permissions: {{ publish: "jobs.>", subscribe: "_INBOX.>" }} }}
] }}
"""


async def look(port: int, subject: str | None, login: Login | None, policy: GuardPolicy = POLICY) -> Published:
    broker = read_sink(f"nats://127.0.0.1:{port}", login)
    assert broker is not None
    publishers = Publishers(policy, clock=lambda: 1.0, resolver=ThreadedResolver())
    try:
        return await publishers.dial(broker, subject and Message(destination=subject, body=b"", id=""))
    finally:
        await publishers.close()


async def test_nats_is_looked_at(tmp_path: Path) -> None:
    settings = tmp_path / "users.conf"
    settings.write_text(USERS)
    relay, key = Login(name="relay", secret="right"), Login(secret=SEED, mechanism="NKEY")
    async with nats_server(tmp_path, "-c", str(settings)) as server:
        client = await nats.connect(f"nats://relay:right@127.0.0.1:{server.port}")
        await client.jetstream().add_stream(name="JOBS", subjects=["jobs.>"])
        await client.close()
        found = {
            (subject, login): (await look(server.port, subject, login)).error
            for subject, login in [
                ("jobs.failed", relay),
                ("jobs.failed", key),
                ("other", relay),
                (None, relay),
                ("jobs.failed", Login(name="blind", secret="right")),
                ("jobs.failed", Login(name="relay", secret="wrong-secret")),
                ("jobs.failed", None),
            ]
        }
        assert list(found.values()) == [None, None, "no_stream", None, None, "credential", "credential"]
        refused = await look(server.port, "jobs.failed", relay, GuardPolicy())
        assert (refused.error, "allow_networks" in str(refused.detail)) == ("refused", True)
    gone = free_port()
    found = await look(gone, "jobs.failed", relay)
    assert (found.error, found.detail) == ("connect", f"no connection to 127.0.0.1:{gone}: Connection refused")


async def test_extra_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nats.js.errors", None)
    found = await look(free_port(), None, None)
    assert (found.error, found.detail) == (
        "extra_missing",
        f"this node needs the extra nats: {install_command('nats')}",
    )


async def test_delivery_waits_for_an_extra_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nats.js.errors", None)
    broker = read_sink("tls://nats.example")
    assert broker is not None
    publishers = Publishers(POLICY, clock=lambda: 1.0, resolver=ThreadedResolver())
    [response] = await publishers.publish(broker, [Message(destination="jobs", body=b"{}", id="evt_1")], 5.0)
    await publishers.close()
    assert (response.error, install_command("nats") in str(response.detail)) == ("extra_missing", True)
    assert Nats().classify(response, 1.0).verdict == "retry"
