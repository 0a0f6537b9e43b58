"""Programs that users write: a receiver of CloudEvents in any content mode, and a CRM that accepts one template's body.

Sources: CloudEvents 1.0.2 §3 (attributes), its HTTP binding §3.1 (binary), §3.2 (structured) and §3.3 (batched), and
its JSON format §4 (batch). The CRM is made up: it stands for programs that accept one form of document and no other.
"""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import orjson

from tests.vendors.endpoint import Answer, Limit, Message, Sent, Vendor, Wrong, is_json, items, members, seconds, text

MAX_BATCH = 1_000
_NAME = re.compile(r"[a-z0-9]{1,20}")
_REQUIRED = ("specversion", "id", "source", "type")
_EVENT, _BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
_SHOWN = ("id", "type", "subject", "status", "channel")


def accept(sent: Sent) -> tuple[Answer, Any]:
    """The answer, and the events, each as an object with its attributes and data."""
    mode = sent.headers.get("content-type", "").partition(";")[0].strip().lower()
    binary = "ce-specversion" in sent.headers
    if not binary and mode not in (_EVENT, _BATCH):
        return Answer(415), None
    try:
        document = orjson.loads(sent.body)
        if binary:
            document = {**_from_headers(sent.headers), "data": document}
        events = items(document, "", MAX_BATCH) if mode == _BATCH else [(document, "")]
        for event, at in events:
            _check(event, at)
    except (orjson.JSONDecodeError, Wrong) as error:
        return _refusal(error), None
    return Answer(204), [event for event, _ in events]


def _from_headers(headers: Mapping[str, str]) -> dict[str, Any]:
    """The attributes of an event in binary mode."""
    return {name.removeprefix("ce-"): unquote(value) for name, value in headers.items() if name.startswith("ce-")}


def _check(event: Any, at: str) -> None:
    members(event, at, (*_REQUIRED, "data"), tuple(event) if isinstance(event, dict) else ())
    if event["specversion"] != "1.0":
        raise Wrong(f"{at}/specversion", "it is not 1.0")
    for name, value in event.items():
        if name == "data":
            members(value, f"{at}/data", (), tuple(value) if isinstance(value, dict) else ())
        elif not _NAME.fullmatch(name):
            raise Wrong(f"{at}/{name}", "no name of an attribute")
        elif not isinstance(value, bool | int):
            text(value, f"{at}/{name}", 2048)


def _read(events: Any) -> Message:
    if len(events) > 1:
        return Message(title=f"{len(events)} events", fields=tuple((event["id"], event["type"]) for event in events))
    (event,) = events
    shown = tuple((name, str(event[name])) for name in _SHOWN if name in event and name != "type")
    return Message(title=event["type"], fields=shown)


def accept_deal(sent: Sent) -> tuple[Answer, Any]:
    """The answer of the CRM, and the document."""
    if not is_json(sent):
        return Answer(415), None
    try:
        document = orjson.loads(sent.body)
        members(document, "", ("event", "properties"))
        text(document["event"], "/event", 100)
        properties = members(document["properties"], "/properties", ("revor_status", "deal_id"))
        text(properties["revor_status"], "/properties/revor_status", 40)
        if type(properties["deal_id"]) is not int:
            raise Wrong("/properties/deal_id", "a number is expected")
    except (orjson.JSONDecodeError, Wrong) as error:
        return _refusal(error), None
    return Answer.json(200, {"updated": document["properties"]["deal_id"]}), document


def _read_deal(document: Any) -> Message:
    return Message(title=json.dumps(document))


def _refusal(error: Exception) -> Answer:
    return Answer.json(400, {"error": str(error)})


def _limited(pause: float) -> Answer:
    return Answer(429, b"", (("Retry-After", seconds(pause)),))


def _no_mentions(document: Any) -> list[str]:
    return []


RECEIVER = Vendor("a receiver of CloudEvents", accept, Limit(10_000, 60.0), _limited, _read, _no_mentions)
CRM = Vendor("a CRM", accept_deal, Limit(10_000, 60.0), _limited, _read_deal, _no_mentions)
