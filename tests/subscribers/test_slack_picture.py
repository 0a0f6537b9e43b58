"""The picture in docs/campaigns.md shows what the Slack kind renders.

`UPDATE_MESSAGES=1 pytest tests/subscribers/test_slack_picture.py` draws it anew; look at it before you commit it.
"""

import os
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import orjson

from relay.cli.demo.slack_channel import Message, read_message
from relay.clock import from_rfc3339
from relay.core.events import Event, Hint, Origin, account_event, relay_event
from relay.core.subscription import Subscription
from relay.core.summary_events import account_data, group_finished_data, incident_data
from subscribers import registry
from subscribers.base import RenderContext
from tests.support.slack_picture import picture

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "campaigns.svg"
ORIGIN = Origin(source="https://revor.ai/jobs", type_prefix="ai.revor.job", dataschema="http://x/s.json")
SLACK = Subscription(id="sub_1", sink="https://hooks.slack.com/services/T0/B0/secret", kind="slack")
RECONNECT = Hint(
    meaning="The LinkedIn account needs reconnecting", fix="Reconnect it in Revor", who="account owner", repeat="safe"
)
CODE = "connect_account_reconnect_required"


def at(clock: str) -> float:
    return from_rfc3339(f"2026-05-20T{clock}Z")


def account_needs_reconnect(clock: str, open_jobs: int) -> Event:
    data = account_data(
        account_id="acc_17",
        channel="linkedin",
        name="Ada Lovelace",
        status="credentials",
        state="needs_reconnect",
        since=at(clock),
        open_jobs=open_jobs,
        source="revor",
        account="default",
        hint=RECONNECT,
    )
    return account_event("evt_1", "needs_reconnect", at(clock), data, ORIGIN, dataschema="http://x/s.json")


def of_incident(what: str, clock: str, failed: int, likely: int) -> Event:
    closed = what == "closed"
    data = incident_data(
        incident="inc_01JVQ4",
        kind="jobs",
        state="closed" if closed else "open",
        source="revor",
        account="default",
        channel="linkedin",
        connect_account_id="acc_17",
        connect_account_name="Ada Lovelace",
        subscription=None,
        sink=None,
        code=CODE,
        hint=RECONNECT,
        failed=failed,
        likely=likely,
        first_failure_at=at("10:23:10"),
        last_failure_at=at(clock),
        opened_at=at("10:23:10"),
        closed_at=at(clock) if closed else None,
        closed_because="account_recovered" if closed else None,
    )
    return relay_event("evt_1", f"relay.incident.{what}", at(clock), data, dataschema="http://x/s.json")


def finished() -> Event:
    data = group_finished_data(
        group="q4-launch",
        source="revor",
        account="default",
        round=1,
        counts={"succeeded": 186, "failed": 14},
        skipped=0,
        missing=0,
        failures={CODE: 13, "insufficient_credits": 1},
        first_at=at("10:00:00"),
        finished_at=at("11:08:40"),
    )
    return relay_event("evt_1", "relay.group.finished", at("11:08:40"), data, dataschema="http://x/s.json")


def shown(event: Event) -> Message:
    message = read_message(orjson.loads(registry.kind_named("slack").render(event, SLACK, RenderContext()).body))
    return replace(message, footer="")


def drawn() -> str:
    story = [
        ("10:23", of_incident("opened", "10:23:10", 1, 43)),
        ("10:24", account_needs_reconnect("10:23:40", 43)),
        ("10:37", of_incident("closed", "10:37:02", 13, 0)),
        ("11:08", finished()),
    ]
    return picture("outreach-alerts", [(clock, shown(event)) for clock, event in story])


def test_the_picture_shows_what_slack_gets() -> None:
    svg = drawn()
    if os.environ.get("UPDATE_MESSAGES"):
        PICTURE.write_text(svg, encoding="utf-8")
    assert svg == PICTURE.read_text(encoding="utf-8")
    ElementTree.fromstring(svg)
