"""Workflows of Slack that start from a webhook.

Sources: https://slack.com/help/articles/360041352714 (variables: at most 20, top-level, text),
https://docs.slack.dev/tools/slack-github-action/sending-techniques/sending-data-webhook-slack-workflow (values are
texts; a missing variable is an error), https://docs.slack.dev/tools/node-slack-sdk/reference/webhook (answers).
"""

from typing import Any

import orjson

from tests.vendors.endpoint import Answer, Limit, Message, Sent, Vendor, Wrong, is_json, members, seconds, text
from tests.vendors.slack import MENTION

VARIABLES = (
    *("sentence", "what_to_do", "details", "type", "status", "job_id", "channel", "account", "group", "error_code"),
    *("time", "request_id", "event_id", "link"),
)
"""The variables of the workflow that the documentation builds."""
MAX_VALUE = 3000


def accept(sent: Sent) -> tuple[Answer, Any]:
    """The answer of the trigger, and the variables."""
    if not is_json(sent):
        return _refusal("invalid_content_type"), None
    try:
        payload = orjson.loads(sent.body)
        members(payload, "", VARIABLES)
        for name, value in payload.items():
            text(value, f"/{name}", MAX_VALUE)
    except orjson.JSONDecodeError:
        return _refusal("invalid_json"), None
    except Wrong:
        return _refusal("invalid_workflow_input"), None
    return Answer.json(200, {"ok": True}), payload


def _refusal(code: str) -> Answer:
    return Answer.json(400, {"ok": False, "error": code})


def _limited(pause: float) -> Answer:
    return Answer.json(429, {"ok": False, "error": "ratelimited"}, (("Retry-After", seconds(pause)),))


def _read(payload: Any) -> Message:
    fields = [(name, value) for name, value in payload.items() if name != "sentence" and value != "-"]
    return Message(title=payload["sentence"].replace("\u2060", ""), fields=tuple(fields))


def _mentions(payload: Any) -> list[str]:
    return [found for value in payload.values() for found in MENTION.findall(value)]


VENDOR = Vendor("Slack workflow", accept, Limit(4, 3.0), _limited, _read, _mentions)
