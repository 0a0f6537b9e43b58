"""Strict validators of the requests that docs/guides/more-chats.md makes, from the vendors' public documentation.

Sources: Google Chat REST reference (spaces.messages, cards v2); Telegram Bot API (sendMessage); docs.ntfy.sh (publish
as JSON); PagerDuty developer documentation (Events API v2, alert events); Opsgenie documentation (create alert). Fields
that are not listed are refused, though some vendors ignore them.
"""

import re
from collections.abc import Set
from datetime import datetime
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson


class Refused(AssertionError):
    """The vendor would not take this request as it is meant."""


def _need(condition: object, problem: str) -> None:
    if not condition:
        raise Refused(problem)


def _fields(value: Any, required: Set[str], optional: Set[str] = frozenset()) -> dict[str, Any]:
    _need(isinstance(value, dict), f"an object is expected: {value!r:.80}")
    _need(required <= set(value), f"missing: {required - set(value)}")
    _need(set(value) <= required | optional, f"unknown: {set(value) - required - optional}")
    return value


def _text(value: Any, limit: int, *, least: int = 1) -> str:
    _need(isinstance(value, str), f"text is expected: {value!r:.80}")
    _need(least <= len(value.strip()) and len(value) <= limit, f"{len(value)} characters, not {least} to {limit}")
    return value


class _Markup(HTMLParser):
    """The HTML that Google Chat's cards know: unknown tags and text that ends inside a tag are refused."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        _need(tag in ("b", "i", "u", "s", "strike"), f"<{tag}> comes from the data")
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        _need(self.open and self.open.pop() == tag, f"</{tag}> closes nothing")


def _markup(value: Any) -> None:
    parser = _Markup()
    parser.feed(_text(value, 20_000))
    parser.close()
    _need(not parser.open, "a tag is not closed")


def google_chat(url: str, headers: dict[str, str], body: bytes) -> None:
    """A message with cards, by an incoming webhook."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    _need(re.fullmatch(r"/v1/spaces/[^/]+/messages", parts.path), "the path is not that of a space")
    _need({"key", "token"} <= set(query) <= {"key", "token", "messageReplyOption", "requestId"}, "the query is wrong")
    _need(len(body) <= 32_000, "a message has at most 32,000 bytes")
    message = _fields(orjson.loads(body), {"cardsV2"}, {"thread", "text", "fallbackText"})
    _text(_fields(message["thread"], {"threadKey"})["threadKey"], 4_000)
    ids = set()
    for card in message["cardsV2"]:
        ids.add(_text(_fields(card, {"cardId", "card"})["cardId"], 100))
        sections = _fields(card["card"], {"sections"}, {"header"})["sections"]
        _need(1 <= sum(len(section["widgets"]) for section in sections) <= 100, "a card has 1 to 100 widgets")
        for widget in (widget for section in sections for widget in _fields(section, {"widgets"})["widgets"]):
            [(kind, shown)] = widget.items()
            if kind == "textParagraph":
                _markup(_fields(shown, {"text"})["text"])
            else:
                _need(kind == "decoratedText", f"unknown widget {kind}")
                _markup(_fields(shown, {"text"}, {"topLabel", "wrapText"})["text"])
                _need(isinstance(shown.get("wrapText", True), bool), "wrapText is a boolean")
    _need(len(ids) == len(message["cardsV2"]), "two cards have one id")


def telegram(url: str, headers: dict[str, str], body: bytes) -> None:
    """`sendMessage`."""
    _need(re.fullmatch(r"/bot[\w:-]+/sendMessage", urlsplit(url).path), "the path is not /bot<token>/sendMessage")
    message = _fields(orjson.loads(body), {"chat_id", "text"}, {"link_preview_options", "disable_notification"})
    _need(type(message["chat_id"]) is int or re.fullmatch(r"@\w{5,32}", message["chat_id"]), "chat_id is wrong")
    _text(message["text"], 4_096)
    _fields(message.get("link_preview_options", {}), set(), {"is_disabled", "url", "prefer_small_media"})


def ntfy(url: str, headers: dict[str, str], body: bytes) -> None:
    """A message published as JSON, to the root of the server."""
    _need(urlsplit(url).path in ("", "/"), "JSON is published to the root, not to a topic")
    message = _fields(orjson.loads(body), {"topic"}, {"title", "message", "priority", "tags", "click"})
    _need(re.fullmatch(r"[-_A-Za-z0-9]{1,64}", message["topic"]), "the topic is wrong")
    _need(len(_text(message["message"], 4_096).encode()) <= 4_096, "a message has at most 4,096 bytes")
    _text(message["title"], 250)
    _need("\n" not in message["title"], "a title has one line")
    _need(message["priority"] in range(1, 6) and type(message["priority"]) is int, "priority is 1 to 5")
    _need(all(isinstance(tag, str) and "," not in tag for tag in message["tags"]), "tags are texts")


def pagerduty(url: str, headers: dict[str, str], body: bytes) -> None:
    """An alert event of the Events API v2."""
    _need(url == "https://events.pagerduty.com/v2/enqueue", "the URL is wrong")
    _need(len(body) <= 512 * 1024, "an event has at most 512 KB")
    event = _fields(
        orjson.loads(body), {"routing_key", "event_action"}, {"dedup_key", "payload", "links", "images", "client"}
    )
    _need(re.fullmatch(r"[0-9a-zA-Z]{32}", event["routing_key"]), "a routing key has 32 characters")
    _need(event["event_action"] in ("trigger", "acknowledge", "resolve"), "event_action is wrong")
    _text(event["dedup_key"], 255)
    payload = _fields(
        event["payload"],
        {"summary", "source", "severity"},
        {"timestamp", "component", "group", "class", "custom_details"},
    )
    _text(payload["summary"], 1_024)
    _text(payload["source"], 255)
    _need(payload["severity"] in ("critical", "error", "warning", "info"), "severity is wrong")
    datetime.fromisoformat(payload["timestamp"])
    _need(isinstance(payload["custom_details"], dict), "custom_details is an object")


def opsgenie(url: str, headers: dict[str, str], body: bytes) -> None:
    """`Create alert`."""
    _need(url in ("https://api.opsgenie.com/v2/alerts", "https://api.eu.opsgenie.com/v2/alerts"), "the URL is wrong")
    _need(headers["Authorization"].startswith("GenieKey "), "the key is missing")
    alert = _fields(
        orjson.loads(body), {"message"}, {"alias", "description", "tags", "details", "entity", "source", "priority"}
    )
    _text(alert["message"], 130)
    _text(alert["alias"], 512)
    _text(alert["description"], 15_000)
    _text(alert["source"], 100)
    _need(len(alert["tags"]) <= 20 and all(_text(tag, 50) for tag in alert["tags"]), "at most 20 tags")
    _need(all(isinstance(value, str) for value in alert["details"].values()), "details are texts")
    _need(sum(len(name) + len(value) for name, value in alert["details"].items()) <= 8_000, "details are too long")
    _need(alert["priority"] in ("P1", "P2", "P3", "P4", "P5"), "priority is wrong")
