"""Checks an event against its published schema and the parser of the CloudEvents SDK. Every test that sees one does."""

import functools
import json
from pathlib import Path
from typing import Any

import orjson
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from jsonschema_rs import Draft202012Validator

from relay.clock import from_rfc3339
from relay.core.events.event import MAX_EVENT_BYTES
from relay.core.relay_events import schema_name_for

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"


@functools.cache
def validator(name: str) -> Draft202012Validator:
    """The validator of a schema, by its file name without the suffix."""
    return Draft202012Validator(json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8")))


def check_event(body: bytes) -> dict[str, Any]:
    """The event as an object. Raises AssertionError with every violation of a published rule."""
    assert len(body) <= MAX_EVENT_BYTES, f"{len(body)} bytes"
    document: dict[str, Any] = orjson.loads(body)
    faults = [
        f"{'/'.join(map(str, error.instance_path)) or '(the whole)'}: {error.message[:300]}"
        for error in validator(schema_name_for(document.get("type", ""))).iter_errors(document)
    ]
    assert not faults, "\n".join(faults)

    parsed = JSONFormat().read(None, body)
    assert isinstance(parsed, CloudEvent)
    for name, value in document.items():
        if name == "time":
            moment = parsed.get_time()
            assert moment is not None
            assert moment.timestamp() == from_rfc3339(value)
        elif name != "data":
            assert parsed.get_attributes()[name] == value
    assert parsed.get_data() == document["data"]

    if "partitionkey" in document:
        assert document["partitionkey"] == document["subject"]
        assert document.get("status") or document["data"]["status"] is None
    return document
