"""The data of `relay.delivery.uncertain`: what is told of a memory, and what is not."""

from typing import Any

import pytest

from relay.core.deliveries.dialogue import Memory
from relay.core.deliveries.ledger import Entry
from relay.core.events.event import DELIVERY_UNCERTAIN, relay_event
from relay.core.relay_events import dataschema_for, delivery_uncertain_data
from tests.support.schema_check import check_event

NOW = 1779271208.0


def data_of(memory: Memory, kind: str = "hubspot") -> dict[str, Any]:
    data = delivery_uncertain_data(
        delivery_id="dlv_1",
        event_id="evt_1",
        event_type="ai.revor.job.failed",
        subscription_id="sub_1",
        job_id="1",
        attempts=3,
        last_error="http_503",
        reason="exhausted",
        kind=kind,
        memory=memory,
    )
    schema = dataschema_for(DELIVERY_UNCERTAIN, "http://127.0.0.1:8080")
    check_event(relay_event("evt_2", DELIVERY_UNCERTAIN, NOW, data, dataschema=schema, subject="sub_1").body)
    return data


def entry(record: str, target: dict[str, Any]) -> Memory:
    return Entry(record=record, target=target, portal="acme.pipedrive.com", at=NOW).memory()


UUID = "adf21080-0e10-11eb-879b-05d71fb426ec"


@pytest.mark.parametrize(
    ("memory", "record", "target", "look_for"),
    [
        (entry("note", {"deal_id": 7}), "note", {"deal_id": 7}, "a note of deal 7 that names evt_1"),
        (entry("activity", {"lead_id": UUID}), "activity", {"lead_id": UUID}, f"an activity of lead {UUID} that"),
        (
            {**entry("note", {"contact_id": "12", "deal_id": "34"}), "ids": {"contacts": "12"}, "keyed": True},
            "note",
            {"contact_id": "12", "deal_id": "34"},
            "contact 12 and deal 34",
        ),
        ({"state": "written", "portal": "1", "ids": {"notes": "56"}}, None, None, "a record that names evt_1"),
        ({}, None, None, "a record that names evt_1"),
        ({"state": "lost", "at": None, "target": [1], "id": True}, None, None, "a record that names evt_1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_event_names_the_record_and_what_it_hangs_on(
    memory: Memory, record: str | None, target: dict[str, Any] | None, look_for: str
) -> None:
    data = data_of(memory)
    assert (data["record"], data["target"]) == (record, target)
    assert look_for in data["fix"]
    assert data["fix"].startswith("Look in HubSpot for ")
    assert data["fix"].endswith(". Mark it as sent if it is there, else as not sent, which writes it again")


def test_person_in_doubt_is_no_end_since_nothing_was_written_for_them() -> None:
    data = data_of(entry("person", {}), "pipedrive")
    assert (data["record"], data["target"]) == ("person", None)
    assert data["fix"] == (
        "Look in Pipedrive for the person whom job 1 is about. If they are there, send the event again, which writes "
        "the rest. If not, mark it as not sent, which creates them first"
    )
