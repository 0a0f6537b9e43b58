"""Checks a Slack message: what Slack and `slack_sdk` accept, with no markup in it but the relay's own."""

import re
from collections.abc import Iterator, Mapping
from html import unescape
from typing import Any
from urllib.parse import urlsplit

import orjson
from slack_sdk.models.blocks import Block

from tests.support.hostile_texts import unseen

JOINER = "\u2060"
_LINK = re.compile(r"<(https?://(?:[!-%'-;=?-{}~]|&amp;)+)\|(?:Open in ([a-z0-9._:%-]+)|Open [a-z ]+)>", re.IGNORECASE)


def check_message(body: bytes) -> Mapping[str, Any]:
    """The payload of a request. Raises AssertionError."""
    payload = orjson.loads(body)
    assert payload.keys() == {"text", "blocks", "unfurl_links", "unfurl_media"}
    assert payload["unfurl_links"] is payload["unfurl_media"] is False
    assert 1 <= len(payload["text"]) <= 3000
    assert 1 <= len(payload["blocks"]) <= 50
    assert len(orjson.dumps(payload["blocks"]).decode()) <= 10_000, "Slack answers msg_blocks_too_long"
    blocks = Block.parse_all(payload["blocks"])
    assert len(blocks) == len(payload["blocks"])
    for block, sent in zip(blocks, payload["blocks"], strict=True):
        assert block is not None
        block.validate_json()
        written = block.to_dict()
        assert written["type"] == sent["type"]
        assert len(written.get("elements", [])) == len(sent.get("elements", [])) <= 10
        assert len(written.get("fields", [])) == len(sent.get("fields", [])) <= 10
    for line in payload["text"].split("\n"):
        check_plain(line)
    for block in payload["blocks"]:
        for text in _plain_texts(block):
            check_plain(text)
    return payload  # type: ignore[no-any-return]


def check_plain(text: str) -> None:
    """Raises AssertionError if Slack would read anything in an escaped text as markup."""
    assert not re.search("[<>]", text)
    assert not re.search("&(?!amp;|lt;|gt;)", text)
    assert not re.search(r"[@#](?=\w)", text)
    assert not re.search(f"(?<!{JOINER})[*~`]|[*~`](?!{JOINER})", text)
    assert not re.search(r"(?<!\w)_(?=\w)", text)
    assert not re.search(r":[a-z][a-z0-9_+-]*:", text)
    assert not text.startswith("&gt;")
    assert not unseen(text, allowed=JOINER)


def _plain_texts(block: Mapping[str, Any]) -> Iterator[str]:
    """The texts of a block without the relay's own markup: a bold title, links with their title, bullets."""
    match block["type"]:
        case "header":
            assert block["text"].items() >= {"type": "plain_text", "emoji": False}.items()
            assert 1 <= len(block["text"]["text"]) <= 150
            yield block["text"]["text"]
        case "section":
            yield from _lines(block["text"], 3000)
            for field in block.get("fields", []):
                label, _, value = _mrkdwn(field, 2000).partition("\n")
                assert label[0] == label[-1] == "*"
                yield from (label[1:-1], value)
        case "context":
            for element in block["elements"]:
                yield _mrkdwn(element, 2000)
        case kind:
            assert kind == "divider"


def _lines(text: Mapping[str, Any], limit: int) -> Iterator[str]:
    first, *others = _mrkdwn(text, limit).split("\n")
    yield first[1:-1] if first[0] == first[-1] == "*" else _without_link(first.removeprefix("• "))
    for line in others:
        yield _without_link(line.removeprefix("• "))


def _mrkdwn(text: Mapping[str, Any], limit: int) -> str:
    assert text.items() >= {"type": "mrkdwn", "verbatim": True}.items()
    assert 1 <= len(text["text"]) <= limit
    return str(text["text"])


def _without_link(line: str) -> str:
    found = list(_LINK.finditer(line))
    assert len(found) <= 1
    for one in found:
        if one[2] is None:
            assert "/ui/" in one[1], "a link to a page of the relay is titled with the page"
        else:
            assert urlsplit(unescape(one[1])).hostname == unescape(one[2]).lower(), "others are titled with their host"
        assert line.endswith(one[0])
    return _LINK.sub("", line).rstrip()
