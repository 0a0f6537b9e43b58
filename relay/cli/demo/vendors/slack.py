"""Slack's incoming webhooks.

Sources: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks (answers `ok`, `invalid_payload`,
`no_text`, …), https://docs.slack.dev/reference/block-kit/blocks (types and limits of blocks),
https://docs.slack.dev/messaging/formatting-message-text (mentions), and
https://docs.slack.dev/apis/web-api/rate-limits (one message a second, short bursts).
"""

import re
from typing import Any

import orjson

from relay.cli.demo.slack_channel import read_message
from relay.cli.demo.vendors.endpoint import (
    Answer,
    Limit,
    Sent,
    Vendor,
    Wrong,
    is_json,
    items,
    members,
    one_of,
    seconds,
    text,
)

MAX_TEXT = 40_000
MENTION = re.compile(r"<(?:[!@#][^>]*)>")


def accept(sent: Sent) -> tuple[Answer, Any]:
    """The answer of the webhook, and the payload."""
    if not is_json(sent):
        return Answer(400, b"invalid_payload"), None
    try:
        payload = orjson.loads(sent.body)
        _check(payload)
    except orjson.JSONDecodeError:
        return Answer(400, b"invalid_payload"), None
    except Wrong as wrong:
        code = b"invalid_blocks" if wrong.pointer.startswith("/blocks") else b"invalid_payload"
        return Answer(400, b"no_text" if wrong.why == "no text" else code), None
    return Answer(200, b"ok", (("Content-Type", "text/html"),)), payload


def _check(payload: Any) -> None:
    members(payload, "", (), ("text", "blocks", "unfurl_links", "unfurl_media", "mrkdwn", "thread_ts"))
    if not payload.get("text") and not payload.get("blocks"):
        raise Wrong("", "no text")
    text(payload.get("text", "-"), "/text", MAX_TEXT)
    for name in ("unfurl_links", "unfurl_media", "mrkdwn"):
        one_of(payload.get(name, True), f"/{name}", (True, False))
    check_blocks(payload.get("blocks", []))


def check_blocks(blocks: Any) -> None:
    """Raises Wrong if Slack does not take these blocks."""
    for block, at in items(blocks, "/blocks", 50, least=0):
        _check_block(block, at)


def _check_block(block: Any, at: str) -> None:
    type = members(block, at, ("type",), tuple(block) if isinstance(block, dict) else ())["type"]
    if type == "section":
        members(block, at, ("type",), ("text", "fields", "block_id", "accessory", "expand"))
        if "text" not in block and "fields" not in block:
            raise Wrong(at, "a section needs text or fields")
        if "text" in block:
            _check_text(block["text"], f"{at}/text", 3000)
        for field, place in items(block["fields"], f"{at}/fields", 10) if "fields" in block else ():
            _check_text(field, place, 2000)
    elif type == "context":
        members(block, at, ("type", "elements"), ("block_id",))
        for element, place in items(block["elements"], f"{at}/elements", 10):
            _check_text(element, place, 3000)
    elif type == "header":
        members(block, at, ("type", "text"), ("block_id",))
        one_of(
            members(block["text"], f"{at}/text", ("type", "text"), ("emoji",))["type"], f"{at}/text", ("plain_text",)
        )
        _check_text(block["text"], f"{at}/text", 150)
    elif type == "divider":
        members(block, at, ("type",), ("block_id",))
    else:
        raise Wrong(f"{at}/type", "no such block")


def _check_text(value: Any, at: str, most: int) -> None:
    members(value, at, ("type", "text"), ("verbatim", "emoji"))
    type = one_of(value["type"], f"{at}/type", ("mrkdwn", "plain_text"))
    one_of(value.get("verbatim", False), f"{at}/verbatim", (True, False))
    if ("emoji" if type == "mrkdwn" else "verbatim") in value:
        raise Wrong(at, f"{type} has no such field")
    text(value["text"], f"{at}/text", most)


def _limited(pause: float) -> Answer:
    return Answer(429, b"rate_limited", (("Retry-After", seconds(pause)),))


def mentions(payload: Any) -> list[str]:
    """Who a payload mentions."""
    return MENTION.findall(orjson.dumps(payload).decode())


VENDOR = Vendor("Slack", accept, Limit(4, 3.0), _limited, read_message, mentions)
