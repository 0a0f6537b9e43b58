"""The pictures in docs/integrations/ show what CRMs get.

`UPDATE_MESSAGES=1 pytest tests/subscribers/common/test_crm_pictures.py` draws them anew.
Look at them before you commit them.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from xml.etree import ElementTree

import orjson
import pytest

from relay.core.deliveries.dialogue import previewed
from relay.core.events.event import Event
from subscribers.base import RenderContext
from tests.subscribers.common.test_chat_pictures import FAILED
from tests.support.crm_pictures import Card, record_picture, timeline_picture
from tests.support.crm_world import NOW, VENDORS, subscription_to
from tests.support.story_events import of_job

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "integrations"
DONE = of_job("succeeded", "10:40:00", "Alex", url="https://crm.example/deals/42", deal="Example Ltd, renewal")
IDS = {
    FAILED.id: ("evt_01jvpq3m8n0000000000000007", str(FAILED.subject)),
    DONE.id: ("evt_01jvpq3m8n0000000000000012", "8d4b7f20-6e1a-4c3d-b5f8-0a9e2c7d1b64"),
}
"""The ids of the event and its job, as long as real ones."""
OBJECT = FOLDER.parents[1] / "deploy" / "salesforce" / "objects" / "Job_Event__c.object"


def sent(kind: str, event: Event, **options: object) -> dict[str, object]:
    """The record that a kind sends, about whom the preview takes."""
    vendor = VENDORS[kind](lambda: NOW)
    subscription = subscription_to(vendor, **options)
    dialogue = vendor.kind.dialogue(subscription)
    assert dialogue is not None
    document = event.document()
    document["data"]["metadata"] = {**document["data"]["metadata"], "email": "alex@example.com"}
    id, job = IDS[event.id]
    document["subject"] = job
    about = replace(event, id=id, body=orjson.dumps(document))
    *_, last = previewed(dialogue.steps(about, subscription, RenderContext(), {}, NOW))
    record: dict[str, object] = orjson.loads(last.request.body)
    return record


def pipedrive() -> str:
    activity = sent("pipedrive", FAILED, record="activity", attach="deal")
    cards = [
        Card("Note · revor-relay", "20 May, 10:40", str(sent("pipedrive", DONE)["content"]), fill="#fffbe6"),
        Card("Note · revor-relay", "20 May, 10:00", str(sent("pipedrive", FAILED)["content"]), fill="#fffbe6"),
        Card(
            "Activity · revor-relay",
            "20 May",
            str(activity["note"]),
            chips=("Task", "Done" if activity["done"] else "To do", f"Due {activity['due_date']}"),
        ),
    ]
    return timeline_picture("Example Ltd, renewal: History", cards, accent="#017737")


def hubspot() -> str:
    def of(event: Event, record: str) -> dict[str, str]:
        properties: dict[str, str] = sent("hubspot", event, record=record)["properties"]  # type: ignore[assignment]
        return properties

    task = of(FAILED, "task")
    cards = [
        Card("Note by revor-relay", "20 May, 10:40", of(DONE, "note")["hs_note_body"]),
        Card(
            "Task created by revor-relay",
            "20 May, 10:00",
            f"<b>{escape(task['hs_task_subject'])}</b><br>{task['hs_task_body']}",
            chips=("To do", f"Priority {task['hs_task_priority'].lower()}"),
        ),
        Card("Note by revor-relay", "20 May, 10:00", of(FAILED, "note")["hs_note_body"]),
    ]
    return timeline_picture("Alex: Activities", cards, accent="#ff5c35")


LABELS = (
    *("Sentence__c", "Status__c", "Occurred_At__c", "Channel__c", "Action__c", "Account__c", "Details__c"),
    *("Error_Code__c", "Request_Id__c", "Link__c", "Job_Id__c", "Event_Type__c", "Sequence__c"),
)


def labels_deployed() -> dict[str, str]:
    """What people read in Salesforce, by the API name of the field."""
    fields = ElementTree.parse(OBJECT).getroot().findall("{*}fields")
    return {str(field.findtext("{*}fullName")): str(field.findtext("{*}label")) for field in fields}


def salesforce() -> str:
    record = sent("salesforce", FAILED)
    people = {"Contact__c": "Alex Example"}
    labels = labels_deployed()
    shown = {labels[name]: str(record[name]) for name in LABELS if name in record}
    assert record.keys() <= {*LABELS, *people}
    linked = {labels[name]: value for name, value in people.items() if name in record}
    return record_picture("JE-00042", "Job Event", {**linked, **shown}, accent="#0176d3")


@pytest.mark.parametrize(
    ("name", "drawn"),
    [("pipedrive", pipedrive), ("hubspot", hubspot), ("salesforce", salesforce)],
    ids=["pipedrive", "hubspot", "salesforce"],
)
def test_picture_shows_what_arrives(name: str, drawn: Callable[[], str]) -> None:
    svg, file = drawn(), FOLDER / f"{name}.svg"
    if os.environ.get("UPDATE_MESSAGES"):
        file.write_text(svg, encoding="utf-8")
    assert svg == file.read_text(encoding="utf-8")
    ElementTree.fromstring(svg)
