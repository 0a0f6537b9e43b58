"""`relay demo`: its options, settings, receiver and progress output."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook
from starlette.requests import Request

from relay.cli.demo.environment import Plan, demo_database, demo_settings
from relay.cli.demo.scenario import Scenario
from relay.errors import StoreError, UsageError
from relay.sandbox.server import Sandbox


def test_node_runs_on_loopback_with_intervals_divided_by_the_speed() -> None:
    settings = demo_settings(Plan(speed=100), database="sqlite:///x.db", sandbox_url="http://127.0.0.1:1", port=2)
    polling = settings.sources["revor"].polling
    assert (polling.min_interval_seconds, polling.max_interval_seconds) == (0.01, 9)
    assert settings.security.allow_http
    assert all(network.is_loopback for network in settings.security.allow_networks)
    assert settings.database.url == "sqlite:///x.db"


async def test_database_is_a_new_file_or_a_new_postgresql_database(tmp_path: Path) -> None:
    async with demo_database(Plan(), tmp_path) as url:
        assert url == f"sqlite:///{tmp_path / 'relay.db'}"
    with pytest.raises(UsageError, match="--database is for PostgreSQL"):
        async with demo_database(Plan(database="sqlite:///x.db"), tmp_path):
            pass
    with pytest.raises(StoreError, match="cannot create a database beside"):
        async with demo_database(Plan(database="postgresql://hidden:hidden@127.0.0.1:1/x"), tmp_path):
            pass


@pytest.fixture
def scenario() -> Scenario:
    plan = Plan(jobs=2)
    sandbox = Sandbox(seed=1, speed=plan.speed).app()
    return Scenario(plan=plan, sandbox_url="http://s", relay_url="http://r", receiver_url="http://h", sandbox=sandbox)


def arrival(body: bytes, headers: dict[str, str]) -> Request:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/events", "headers": raw}, receive)


async def test_receiver_accepts_only_verified_events(scenario: Scenario) -> None:
    verifier = scenario.verifier = Webhook("whsec_" + base64.b64encode(b"k" * 32).decode())
    event = {
        "id": "evt_1",
        "type": "ai.revor.job.running",
        "subject": "j",
        "sequence": "0000000001",
        "data": {"detected_at": "2026-05-20T10:00:08.000Z"},
    }
    body = json.dumps(event)
    now = datetime.now(UTC)
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": verifier.sign("evt_1", now, body),
    }
    assert (await scenario.receive(arrival(body.encode(), headers))).status_code == 204
    assert scenario.received.of("j")[0].kind == "running"
    assert (await scenario.receive(arrival(body.encode() + b" ", headers))).status_code == 400
    other = {**headers, "webhook-id": "evt_2", "webhook-signature": verifier.sign("evt_2", now, body)}
    assert (await scenario.receive(arrival(body.encode(), other))).status_code == 400
    assert (await scenario.receive(arrival(b"\xff", {}))).status_code == 400
    scenario.verifier = None
    assert (await scenario.receive(arrival(body.encode(), headers))).status_code == 400
    assert (scenario.received.events_delivered, scenario.received.signature_failures) == (1, 4)
