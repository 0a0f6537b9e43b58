"""What the OpenAPI and the AsyncAPI description share: events, from the files of `schemas/`, and signed headers.

Both keep their schemas in `#/components/schemas`. The files use nothing that JSON Schema draft 7, OpenAPI 3.1 and
AsyncAPI 3 read differently, apart from `$defs`; `tests/api/test_api_asyncapi.py` checks that.
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from relay.core.relay_events import SCHEMA_NAMES
from relay.core.subscriptions.signing import ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER
from relay.resources import schemas_dir

REF = "#/components/schemas/{model}"
TIME = "EventTime"
PUBLISHED = "PublishedCloudEvent"
"""The component of events that other programs publish: the model of `POST /v1/events`."""

SIGNED: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        ID_HEADER: {"type": "string", "description": "The relay's id of the event, or that of the batch."},
        TIMESTAMP_HEADER: {"type": "string", "description": "When the attempt was sent, in epoch seconds."},
        SIGNATURE_HEADER: {
            "type": "string",
            "description": "Standard Webhooks: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`, or `v1a,` "
            "and that of an ed25519 signature. Several are separated by one space.",
        },
    },
    "required": [ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER],
}
"""The headers of a signed request."""


def component_of(name: str) -> str:
    """The component of a schema: `JobStatusEvent` for `job-status.v1`."""
    return "".join(word.capitalize() for word in name.partition(".")[0].split("-")) + "Event"


def ref(component: str, *path: str) -> dict[str, str]:
    """A reference to a component, or to a part of it."""
    return {"$ref": "/".join((REF.format(model=component), *path))}


@cache
def event_schemas() -> Mapping[str, Mapping[str, Any]]:
    """The schemas of the relay's own events, and of their times, by the names of their components."""
    found: dict[str, Any] = {}
    for name in SCHEMA_NAMES:
        schema = json.loads((schemas_dir() / f"{name}.json").read_text(encoding="utf-8"))
        found[TIME] = schema["$defs"]["time"]
        found[component_of(name)] = _rewritten(
            {key: value for key, value in schema.items() if key not in ("$schema", "$id", "$defs")}
        )
    return found


def _rewritten(value: Any) -> Any:
    if isinstance(value, dict):
        time = ref(TIME) if value.get("$ref") == "#/$defs/time" else {}
        return {key: _rewritten(part) for key, part in value.items()} | time
    return [_rewritten(part) for part in value] if isinstance(value, list) else value
