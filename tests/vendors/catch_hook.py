"""A catch hook of Zapier: the strictest of those that take flat JSON.

Sources: https://help.zapier.com/hc/en-us/articles/8496288690317 (a Catch Hook takes JSON, whose fields can be picked
one by one), https://help.zapier.com/hc/en-us/articles/29972220283789-Webhooks-by-Zapier-rate-limits (10,000 requests
in 5 minutes, else 429).
"""

from typing import Any

import orjson

from tests.vendors.endpoint import Answer, Limit, Message, Sent, Vendor, Wrong, is_json, members, seconds

MAX_BYTES = 10_000_000


def accept(sent: Sent) -> tuple[Answer, Any]:
    """The answer of the hook, and the fields."""
    if len(sent.body) > MAX_BYTES:
        return Answer(413), None
    if not is_json(sent):
        return Answer.json(400, {"status": "error", "errors": ["not JSON"]}), None
    try:
        fields = orjson.loads(sent.body)
        members(fields, "", ("id", "type", "sentence"), tuple(fields) if isinstance(fields, dict) else ())
    except (orjson.JSONDecodeError, Wrong) as error:
        return Answer.json(400, {"status": "error", "errors": [str(error)]}), None
    nested = [name for name, value in fields.items() if not isinstance(value, str | int | float)]
    if nested:
        return Answer.json(400, {"status": "error", "errors": [f"{nested[0]} cannot be picked"]}), None
    return Answer.json(200, {"status": "success", "id": "1", "attempt": "1", "request_id": "1"}), fields


def _limited(pause: float) -> Answer:
    return Answer.json(429, {"status": "error"}, (("Retry-After", seconds(pause)),))


def _read(fields: Any) -> Message:
    shown = [(name, str(value)) for name, value in fields.items() if name != "sentence" and value != ""]
    return Message(title=fields["sentence"], fields=tuple(shown))


def _no_mentions(fields: Any) -> list[str]:
    return []


VENDOR = Vendor("Zapier", accept, Limit(10_000, 300.0), _limited, _read, _no_mentions)
