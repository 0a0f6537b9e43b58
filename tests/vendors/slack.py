"""Slack's incoming webhooks.

Sources: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks (answers `ok`, `invalid_payload`,
`no_text`, …), https://docs.slack.dev/reference/block-kit/blocks (types and limits of blocks),
https://docs.slack.dev/messaging/formatting-message-text (mentions), and
https://docs.slack.dev/apis/web-api/rate-limits (one message a second, short bursts).
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from tests.vendors.endpoint import (
    Answer,
    Limit,
    Message,
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
_LINK = re.compile(r"<([^|>]*)\|([^>]*)>")
_TITLE = re.compile(r"\A\*([^\u2060\n].*)\*$", re.MULTILINE)
_BOLD = re.compile(r"^\*(.*?)\*\n")
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))
_JOINER = "\u2060"


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


def read_message(payload: Mapping[str, Any]) -> Message:
    """A message as Slack shows it: its lines, then the small print at its end. Raises an error if it is none."""
    said, pairs, small = [], [], []
    for block in payload["blocks"]:
        if block["type"] == "context":
            small += [_shown(one["text"]) for one in block["elements"]]
        elif block["type"] != "divider":
            said += [*small, _shown(block["text"]["text"])]
            small = []
            for one in block.get("fields", ()):
                label = _BOLD.match(one["text"])
                pairs.append((_shown(label[1]) if label else "", _shown(_BOLD.sub("", one["text"]))))
    if not said:
        raise ValueError("a message without a text")
    return Message(title="\n".join(said), fields=tuple(pairs), footer=" · ".join(small))


def _shown(mrkdwn: str) -> str:
    text = _LINK.sub(r"\2 (\1)", _TITLE.sub(r"\1", mrkdwn)).replace(_JOINER, "")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    return text


VENDOR = Vendor("Slack", accept, Limit(4, 3.0), _limited, read_message, mentions)
