"""Discord's webhooks.

Sources: https://docs.discord.com/developers/resources/webhook#execute-webhook (parameters, `wait`),
https://docs.discord.com/developers/resources/message#embed-object-embed-limits and #allowed-mentions-object,
https://docs.discord.com/developers/topics/rate-limits (429), and
https://docs.discord.com/developers/topics/opcodes-and-status-codes#json (error codes).
"""

import re
from typing import Any
from urllib.parse import parse_qs

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
    plain,
    seconds,
    text,
    url,
)

MAX_EMBED_TEXT = 6000
_MENTION = re.compile(r"@(?:everyone|here)\b|<@[!&]?\d+>")


def accept(sent: Sent) -> tuple[Answer, Any]:
    """The answer of the webhook, and the payload."""
    if not is_json(sent):
        return _refusal(400, 50035, "Expected \"Content-Type\" header to be one of {'application/json'}."), None
    try:
        payload = orjson.loads(sent.body)
        _check(payload)
    except orjson.JSONDecodeError:
        return _refusal(400, 50109, "The request body contains invalid JSON."), None
    except Wrong as wrong:
        if wrong.why == "empty":
            return _refusal(400, 50006, "Cannot send an empty message"), None
        errors = {wrong.pointer: {"_errors": [{"code": "BASE_TYPE_BAD", "message": wrong.why}]}}
        return Answer.json(400, {"message": "Invalid Form Body", "code": 50035, "errors": errors}), None
    if parse_qs(sent.query).get("wait") != ["true"]:
        return Answer(204), payload
    return Answer.json(200, {"id": "1", "type": 0, "embeds": payload.get("embeds", [])}), payload


def _check(payload: Any) -> None:
    members(payload, "", (), ("content", "username", "avatar_url", "tts", "embeds", "allowed_mentions", "flags"))
    if not payload.get("content") and not payload.get("embeds"):
        raise Wrong("", "empty")
    text(payload.get("content", "-"), "/content", 2000)
    mentions = members(payload.get("allowed_mentions", {}), "/allowed_mentions", (), ("parse", "roles", "users"))
    for kind, at in items(mentions.get("parse", []), "/allowed_mentions/parse", 3, least=0):
        one_of(kind, at, ("roles", "users", "everyone"))
    total = sum(_check_embed(embed, at) for embed, at in items(payload.get("embeds", []), "/embeds", 10, least=0))
    if total > MAX_EMBED_TEXT:
        raise Wrong("/embeds", f"Embed size exceeds maximum size of {MAX_EMBED_TEXT}")


def _check_embed(embed: Any, at: str) -> int:
    """Checks an embed, and counts its characters."""
    members(embed, at, (), ("title", "description", "url", "timestamp", "color", "footer", "author", "fields"))
    if not embed.keys() & {"title", "description", "fields", "footer", "author"}:
        raise Wrong(at, "empty")
    found = [
        text(embed[name], f"{at}/{name}", most)
        for name, most in (("title", 256), ("description", 4096))
        if name in embed
    ]
    if "url" in embed:
        url(embed["url"], f"{at}/url")
    color = embed.get("color", 0)
    if isinstance(color, bool) or not isinstance(color, int) or not 0 <= color <= 0xFFFFFF:
        raise Wrong(f"{at}/color", "int value should be between 0 and 16777215")
    for part, name, most in (("footer", "text", 2048), ("author", "name", 256)):
        if part in embed:
            members(embed[part], f"{at}/{part}", (name,), ("icon_url", "url"))
            found.append(text(embed[part][name], f"{at}/{part}/{name}", most))
    for field, place in items(embed.get("fields", []), f"{at}/fields", 25, least=0):
        members(field, place, ("name", "value"), ("inline",))
        one_of(field.get("inline", False), f"{place}/inline", (True, False))
        found += [text(field["name"], f"{place}/name", 256), text(field["value"], f"{place}/value", 1024)]
    return sum(len(one.encode("utf-16-le", "surrogatepass")) // 2 for one in found)


def _refusal(status: int, code: int, why: str) -> Answer:
    return Answer.json(status, {"message": why, "code": code})


def _limited(pause: float) -> Answer:
    document = {"message": "You are being rate limited.", "retry_after": round(pause, 3), "global": False}
    headers = (("Retry-After", seconds(pause)), ("X-RateLimit-Remaining", "0"), ("X-RateLimit-Scope", "user"))
    return Answer.json(429, document, headers)


def _read(payload: Any) -> Message:
    embed = payload["embeds"][0] if payload.get("embeds") else {"description": payload["content"]}
    title = " ".join(plain(embed[name]) for name in ("title", "description") if name in embed)
    fields = tuple((plain(field["name"]), plain(field["value"])) for field in embed.get("fields", ()))
    return Message(title=title, fields=fields, footer=embed.get("footer", {}).get("text", "").replace("\u2060", ""))


def _mentions(payload: Any) -> list[str]:
    if payload.get("allowed_mentions") == {"parse": []}:
        return []
    return _MENTION.findall(payload.get("content", ""))


VENDOR = Vendor("Discord", accept, Limit(5, 2.0), _limited, _read, _mentions)
