"""The fields of kind `flat`, which `docs/guides/zapier-make-n8n.md` names. They are there in every event, empty
where nothing is known."""

import re
from collections.abc import Mapping
from typing import Any

from relay.core.events.event import Event
from relay.core.jsontext import dumps
from subscribers.base import RenderContext
from subscribers.wording import link, sentence
from subscribers.wording.jobs import job_kind, metadata_of
from subscribers.wording.text import data_of, mapping

Scalar = str | int | float | bool

VALUE_CHARACTERS = 2000
NAME_CHARACTERS = 60
MAX_FIELDS = 150
MAX_DEPTH = 3
_EXACT = 2**53
"""Larger integers are sent as text: JavaScript would round them."""
_ATTRIBUTES = {
    "id": "id",
    "type": "type",
    "source": "source",
    "subject": "subject",
    "time": "time",
    "status": "status",
    "previous_status": "previousstatus",
    "result_status": "resultstatus",
    "channel": "channel",
    "action": "action",
    "account": "account",
    "group": "group",
}
"""Fields, and the attributes of the event that they show."""


def fields(event: Event, context: RenderContext) -> dict[str, Scalar]:
    """The fields of an event."""
    document = event.document()
    data = data_of(document)
    hint, of_job = mapping(data.get("hint")), job_kind(event) is not None
    error = mapping(data.get("problem"))
    shown = link(event, context)
    found: dict[str, Any] = {name: document.get(attribute) for name, attribute in _ATTRIBUTES.items()}
    found |= {
        "account": found["account"] or data.get("account"),
        "channel": found["channel"] or data.get("channel"),
        "group": found["group"] or data.get("group"),
        "sequence": event.sequence or 0,
        "job_id": event.subject if of_job else data.get("job"),
        "sentence": sentence(event, context),
        "link": shown and shown.url,
        "connect_account_id": data.get("connect_account_id"),
        "request_id": data.get("request_id"),
        "error_code": error.get("code") or data.get("code"),
        "error_message": error.get("message") or data.get("message"),
        **{f"hint_{name}": hint.get(name) for name in ("meaning", "fix", "who", "repeat")},
    }
    flat = {name: _scalar(value) for name, value in found.items()}
    _flatten(flat, "metadata", metadata_of(document))
    if event.published and not isinstance(document.get("data"), Mapping):
        flat["data"] = _scalar(document.get("data"))
    if not of_job:
        _flatten(flat, "data", {name: value for name, value in data.items() if name not in ("hint", "metadata")})
    return flat


def _flatten(flat: dict[str, Scalar], prefix: str, values: Mapping[str, Any], depth: int = 1) -> None:
    """Adds a field for each value; names within objects are joined with `_`."""
    for key, value in values.items():
        if len(flat) >= MAX_FIELDS:
            return
        name = f"{prefix}_{_name(key)}"
        if isinstance(value, Mapping) and depth < MAX_DEPTH:
            _flatten(flat, name, value, depth + 1)
        else:
            flat[_free(flat, name)] = _scalar(value)


def _name(key: str) -> str:
    return re.sub(r"\W+|_+", "_", key[:NAME_CHARACTERS]).strip("_") or "field"


def _free(flat: Mapping[str, Scalar], name: str) -> str:
    """The name, or the first of `name_2`, `name_3` … that is not taken."""
    number, free = 1, name
    while free in flat:
        number += 1
        free = f"{name}_{number}"
    return free


def _scalar(value: object) -> Scalar:
    """A value as a scalar: null is empty, a list of scalars their texts, anything else JSON."""
    if value is None:
        return ""
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -_EXACT <= value <= _EXACT else str(value)
    if isinstance(value, list) and all(one is None or isinstance(one, str | int | float) for one in value):
        value = ", ".join(str(_scalar(one)) for one in value)
    text = value if isinstance(value, str) else dumps(value).decode()
    return text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 1] + "…"
