"""The programs that stand in for the user's own take what they should, and nothing else."""

from typing import Any

import orjson
import pytest

from tests.vendors.endpoint import Endpoint, Sent
from tests.vendors.programs import CRM, RECEIVER

ONE, TWO = (f"evt_{number:026}" for number in range(2))
EVENT = {"specversion": "1.0", "id": ONE, "source": "s", "type": "a.b", "subject": "j", "data": {"x": 1}}
AS_EVENT, AS_BATCH = "application/cloudevents+json", "application/cloudevents-batch+json; charset=utf-8"
IN_HEADERS = {f"ce-{name}": value for name, value in EVENT.items() if name != "data"}


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": AS_EVENT}, EVENT, 204),
        ({"content-type": AS_BATCH}, [EVENT, {**EVENT, "id": TWO}], 204),
        ({"content-type": "application/json", **IN_HEADERS}, EVENT["data"], 204),
        ({"content-type": "application/json"}, EVENT, 415),
        ({}, EVENT, 415),
        ({"content-type": AS_EVENT}, [EVENT], 400),
        ({"content-type": AS_BATCH}, EVENT, 400),
        ({"content-type": AS_BATCH}, [], 400),
        ({"content-type": AS_EVENT}, {**EVENT, "specversion": "0.3"}, 400),
        ({"content-type": AS_EVENT}, {**EVENT, "data": "x"}, 400),
        ({"content-type": AS_EVENT}, {**EVENT, "Upper": "x"}, 400),
        ({"content-type": AS_EVENT}, {**EVENT, "group": None}, 400),
        ({"content-type": AS_EVENT}, {name: EVENT[name] for name in EVENT if name != "id"}, 400),
    ],
)
def test_receiver_takes_cloudevents_in_every_content_mode(headers: dict[str, str], body: Any, status: int) -> None:
    endpoint = Endpoint(RECEIVER)
    assert endpoint.answer(Sent("POST", "", headers, orjson.dumps(body))).status == status
    assert len(endpoint.documents) == (status == 204)
    if status == 204:
        assert ONE in str(endpoint.messages[0])
    assert endpoint.answer(Sent("POST", "", {"content-type": AS_EVENT}, b"{")).status == 400


@pytest.mark.parametrize(
    ("type", "document", "status"),
    [
        ("application/json", {"event": ONE, "properties": {"revor_status": "failed", "deal_id": 5}}, 200),
        ("application/json", {"event": ONE, "properties": {"revor_status": "failed", "deal_id": "5"}}, 400),
        ("application/json", {"event": ONE, "properties": {"revor_status": "failed", "deal_id": True}}, 400),
        ("application/json", {"event": ONE, "properties": {"revor_status": "", "deal_id": 5}}, 400),
        ("application/json", {"event": ONE, "properties": {"deal_id": 5}}, 400),
        ("application/json", {"event": ONE}, 400),
        (AS_EVENT, EVENT, 415),
    ],
)
def test_crm_takes_its_own_document_and_no_other(type: str, document: dict[str, Any], status: int) -> None:
    endpoint = Endpoint(CRM)
    assert endpoint.answer(Sent("POST", "", {"content-type": type}, orjson.dumps(document))).status == status
    assert endpoint.mentioned == []
