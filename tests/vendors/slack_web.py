"""A strict stand-in of Slack's Web API: chat.postMessage and chat.update, after Slack's public documentation.

It refuses what Slack refuses, and also what Slack only ignores: unknown arguments, another content type, blocks that
slack_sdk's models do not accept. As an application it serves HTTP; `transport` is a sink for the dispatcher.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson
from slack_sdk.models.blocks import Block
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response as HttpResponse
from starlette.routing import Route

from relay.core.delivery import OutboundRequest, Response

TOKEN = "xoxb-12345-67890-of-the-tests"
POST, UPDATE = "chat.postMessage", "chat.update"
ARGUMENTS = {
    POST: {
        *("channel", "text", "blocks", "thread_ts", "reply_broadcast", "unfurl_links", "unfurl_media", "parse"),
        *("link_names", "mrkdwn", "metadata", "attachments", "icon_emoji", "icon_url", "username", "markdown_text"),
    },
    UPDATE: {
        *("channel", "ts", "text", "blocks", "parse", "link_names", "metadata", "attachments", "reply_broadcast"),
        *("as_user", "file_ids", "markdown_text"),
    },
}
BOOLEANS = ("reply_broadcast", "unfurl_links", "unfurl_media", "link_names", "mrkdwn")
MAX_TEXT_CHARACTERS = 40_000
MAX_BLOCKS = 50
MAX_BLOCKS_CHARACTERS = 13_000
"""Not documented; Slack answers `msg_blocks_too_long` beyond about as many."""


@dataclass(kw_only=True)
class Post:
    """One message as it is shown now, its earlier texts, and the replies in its thread."""

    ts: str
    text: str
    blocks: list[dict[str, Any]]
    edits: list[str] = field(default_factory=list)
    replies: list["Post"] = field(default_factory=list)


@dataclass(kw_only=True)
class Fault:
    """An answer in place of Slack's own. `status` 0: the connection breaks. `works`: after doing what was asked."""

    error: str | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    works: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)


class SlackWeb:
    """One workspace. Calls are in `calls` as (method, arguments), accepted or not.

    names     its channels' ids by name
    member    the channels that the app is a member of
    scopes    of the token
    archived  channels that take nothing
    """

    def __init__(self) -> None:
        self.names = {"campaigns": "C0CAMPAIGNS", "private": "G0PRIVATE01"}
        self.member = {"C0CAMPAIGNS"}
        self.scopes = {"chat:write"}
        self.archived: set[str] = set()
        self.tokens = {TOKEN}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.posts: dict[str, list[Post]] = {}
        self.faults: dict[str, list[Fault]] = {}
        self._made = 0

    def fail(self, method: str, *faults: Fault) -> None:
        """Gives these answers to the next calls of a method."""
        self.faults.setdefault(method, []).extend(faults)

    def channel(self, channel: str = "C0CAMPAIGNS") -> list[Post]:
        """What the channel shows, without the threads."""
        return self.posts.get(channel, [])

    def delete(self, post: Post) -> None:
        """Somebody deletes a message; its thread goes with it."""
        for posts in self.posts.values():
            posts[:] = [one for one in posts if one is not post]

    def answer(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """The status, headers and body of an answer. Status 0: none."""
        method = urlsplit(url).path.removeprefix("/api/")
        waiting = self.faults.get(method, [])
        fault = waiting.pop(0) if waiting else None
        if fault is None or fault.works:
            done = self._called(method, url, {name.lower(): value for name, value in headers.items()}, body)
        else:
            self.calls.append((method, self._arguments(body) or {}))
            done = {}
        if fault is None:
            return 200, {"Content-Type": "application/json; charset=utf-8"}, orjson.dumps(done)
        shown = {"ok": False, "error": fault.error, **fault.more} if fault.error else done
        return fault.status, dict(fault.headers), orjson.dumps(shown) if fault.body is None else fault.body

    def app(self) -> Starlette:
        """The workspace over HTTP."""

        async def call(request: Request) -> HttpResponse:
            status, headers, body = self.answer(str(request.url), dict(request.headers), await request.body())
            return HttpResponse(body, status or 500, headers)

        return Starlette(routes=[Route("/api/{method}", call, methods=["POST"])])

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        """The workspace as a transport."""
        assert request.method == "POST"
        assert timeout_seconds > 0
        status, headers, body = self.answer(request.url, dict(request.headers), request.body)
        if not status:
            return Response(started_at=0.0, duration_ms=1.0, error="read", detail="the connection broke")
        return Response(
            started_at=0.0, duration_ms=1.0, status_code=status, headers=tuple(headers.items()), excerpt=body
        )

    # --- what Slack does

    def _called(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        if method not in ARGUMENTS or urlsplit(url).query:
            return _no("unknown_method")
        if headers.get("content-type", "").replace(" ", "").lower() != "application/json;charset=utf-8":
            return _no("invalid_post_type")
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if not token or scheme != "Bearer":
            return _no("not_authed")
        if token not in self.tokens:
            return _no("invalid_auth")
        given = self._arguments(body)
        if given is None:
            return _no("invalid_json")
        self.calls.append((method, given))
        if "chat:write" not in self.scopes:
            return _no("missing_scope", needed="chat:write", provided=",".join(sorted(self.scopes)) or "none")
        problem = _problem(method, given)
        if problem is not None:
            return _no(problem)
        return self._post(given) if method == POST else self._update(given)

    def _arguments(self, body: bytes) -> dict[str, Any] | None:
        try:
            given = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        return given if isinstance(given, dict) else None

    def _post(self, given: Mapping[str, Any]) -> dict[str, Any]:
        channel = self.names.get(given["channel"].removeprefix("#"), given["channel"])
        if channel not in self.names.values():
            return _no("channel_not_found")
        if channel in self.archived:
            return _no("is_archived")
        if channel not in self.member:
            if channel.startswith("G"):
                return _no("channel_not_found")
            if "chat:write.public" not in self.scopes:
                return _no("not_in_channel")
        posts = self.posts.setdefault(channel, [])
        thread = given.get("thread_ts")
        if thread is not None:
            parent = next((post for post in posts if post.ts == thread), None)
            if parent is None:
                return _no("thread_not_found")
            posts = parent.replies
        self._made += 1
        post = Post(ts=f"1780000000.{self._made:06}", text=given["text"], blocks=given["blocks"])
        posts.append(post)
        message = {"type": "message", "subtype": "bot_message", "text": post.text, "ts": post.ts, "blocks": post.blocks}
        return {"ok": True, "channel": channel, "ts": post.ts, "message": message}

    def _update(self, given: Mapping[str, Any]) -> dict[str, Any]:
        if given["channel"] not in self.names.values():
            return _no("channel_not_found")  # by id only
        if given["channel"] in self.archived:
            return _no("is_inactive")
        found = [post for post in self.posts.get(given["channel"], []) if post.ts == given["ts"]]
        if not found:
            return _no("message_not_found")
        found[0].edits.append(found[0].text)
        found[0].text, found[0].blocks = given["text"], given["blocks"]
        return {"ok": True, "channel": given["channel"], "ts": given["ts"], "text": given["text"]}


def _no(error: str, **more: str) -> dict[str, Any]:
    return {"ok": False, "error": error, **more}


def _problem(method: str, given: Mapping[str, Any]) -> str | None:
    if given.keys() - ARGUMENTS[method]:
        return "invalid_arguments"
    text, blocks, channel = given.get("text"), given.get("blocks"), given.get("channel")
    if not isinstance(text, str) or not text.strip():
        return "no_text"
    if len(text) > MAX_TEXT_CHARACTERS:
        return "msg_too_long"
    if not isinstance(channel, str) or not channel:
        return "channel_not_found"
    for name in ("ts", "thread_ts"):
        if name in given and not (isinstance(given[name], str) and re.fullmatch(r"\d{10}\.\d{6}", given[name])):
            return "invalid_arguments"
    if method == UPDATE and "ts" not in given:
        return "invalid_arguments"
    if any(name in given and not isinstance(given[name], bool) for name in BOOLEANS):
        return "invalid_arguments"
    if given.get("parse", "none") not in ("none", "full") or given.get("reply_broadcast"):
        return "invalid_arguments"
    return _problem_of_blocks(blocks)


def _problem_of_blocks(blocks: object) -> str | None:
    if not isinstance(blocks, list) or not 1 <= len(blocks) <= MAX_BLOCKS:
        return "invalid_blocks_format"
    if len(orjson.dumps(blocks).decode()) > MAX_BLOCKS_CHARACTERS:
        return "msg_blocks_too_long"
    for sent in blocks:
        try:
            (block,) = Block.parse_all([sent])
            if block is None or block.to_dict().keys() != sent.keys():
                return "invalid_blocks"
            block.validate_json()
        except Exception:
            return "invalid_blocks"
        texts = [sent.get("text"), *sent.get("fields", []), *sent.get("elements", [])]
        limits = [150 if sent["type"] == "header" else 3000, *[2000] * (len(texts) - 1)]
        for text, limit in zip(texts, limits, strict=True):
            if text is not None and not 1 <= len(text["text"]) <= limit:
                return "invalid_blocks"
        if len(sent.get("fields", [])) > 10 or len(sent.get("elements", [])) > 10:
            return "invalid_blocks"
    return None
