"""Slack's Web API: chat.postMessage and chat.update of one workspace.

Sources: https://docs.slack.dev/reference/methods/chat.postMessage and .../chat.update (arguments, errors),
https://docs.slack.dev/messaging/formatting-message-text and the sources of `slack.py` (blocks).

It refuses what Slack refuses, what Slack only ignores (unknown arguments, another content type), and blocks that the
models of slack_sdk do not accept.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson
from slack_sdk.models.blocks import Block

from tests.vendors.endpoint import Answer, Api, Message, Wrong
from tests.vendors.slack import MAX_TEXT, check_blocks, mentions, read_message

TOKEN = "xoxb-12345-67890-of-the-stand-in"
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
MAX_BLOCKS = 50
MAX_BLOCKS_CHARACTERS = 13_000
"""Not documented: Slack answers `msg_blocks_too_long` beyond about this many."""
CHANNEL = "C0CAMPAIGNS"


@dataclass(kw_only=True)
class Post:
    """One message as it is shown now, its earlier texts, and the replies in its thread."""

    ts: str
    text: str
    blocks: list[dict[str, Any]]
    edits: list[str] = field(default_factory=list)
    replies: list["Post"] = field(default_factory=list)

    @property
    def message(self) -> Message:
        """As people read it."""
        return read_message({"blocks": self.blocks})


@dataclass(kw_only=True)
class Fault:
    """An answer in place of Slack's own. `status` 0: the connection breaks. `works`: the call is carried out first."""

    error: str | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    works: bool = False


class SlackWeb(Api):
    """One workspace. Calls are in `calls` as (method, arguments), accepted or not; errors of refused ones in `refused`.

    faults    answers to the next calls of each method, whatever these are
    """

    def __init__(self) -> None:
        self.tokens = {TOKEN}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.refused: list[str] = []
        self.posts: list[Post] = []
        self.faults: dict[str, list[Fault]] = {}
        self._made = 0

    def channel(self) -> list[Post]:
        """The messages of the channel, without the threads."""
        return self.posts

    @property
    def mentioned(self) -> list[str]:
        """Everybody who was mentioned."""
        return [one for _, arguments in self.calls for one in mentions(arguments)]

    @property
    def messages(self) -> list[Message]:
        """What the channel and its threads show."""
        return [one.message for post in self.channel() for one in (post, *post.replies)]

    def fail(self, method: str, *faults: Fault) -> None:
        """Gives these answers to the next calls of a method."""
        self.faults.setdefault(method, []).extend(faults)

    def delete(self, post: Post) -> None:
        """Somebody deletes a message; its thread goes with it."""
        self.posts[:] = [one for one in self.posts if one is not post]

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        called = urlsplit(url).path.removeprefix("/api/") if method == "POST" else ""
        waiting = self.faults.get(called, [])
        fault = waiting.pop(0) if waiting else None
        if fault is None or fault.works:
            done = self._called(called, url, {name.lower(): value for name, value in headers.items()}, body)
        else:
            self.calls.append((called, self._arguments(body) or {}))
            done = {}
        if fault is None:
            self.refused += [done["error"]] if "error" in done else []
            return Answer(200, orjson.dumps(done), (("Content-Type", "application/json; charset=utf-8"),))
        shown = {"ok": False, "error": fault.error} if fault.error else done
        body = orjson.dumps(shown) if fault.body is None else fault.body
        return Answer(fault.status, body, tuple(fault.headers.items()))

    def problem_of_blocks(self, blocks: object) -> str | None:
        """The error with which these blocks are refused."""
        if not isinstance(blocks, list) or not 1 <= len(blocks) <= MAX_BLOCKS:
            return "invalid_blocks_format"
        if len(orjson.dumps(blocks).decode()) > MAX_BLOCKS_CHARACTERS:
            return "msg_blocks_too_long"
        try:
            check_blocks(blocks)
        except Wrong:
            return "invalid_blocks"
        return None if all(map(_slack_sdk_takes, blocks)) else "invalid_blocks"

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
        problem = self._problem(method, given)
        if problem is not None:
            return _no(problem)
        return self._post(given) if method == POST else self._update(given)

    def _arguments(self, body: bytes) -> dict[str, Any] | None:
        try:
            given = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        return given if isinstance(given, dict) else None

    def _problem(self, method: str, given: Mapping[str, Any]) -> str | None:
        if given.keys() - ARGUMENTS[method]:
            return "invalid_arguments"
        text, channel = given.get("text"), given.get("channel")
        if not isinstance(text, str) or not text.strip():
            return "no_text"
        if len(text) > MAX_TEXT:
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
        return self.problem_of_blocks(given.get("blocks"))

    def _post(self, given: Mapping[str, Any]) -> dict[str, Any]:
        channel = CHANNEL if given["channel"].removeprefix("#") == "campaigns" else given["channel"]
        if channel != CHANNEL:
            return _no("channel_not_found")
        posts = self.posts
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
        if given["channel"] != CHANNEL:
            return _no("channel_not_found")  # by id only
        found = [post for post in self.posts if post.ts == given["ts"]]
        if not found:
            return _no("message_not_found")
        found[0].edits.append(found[0].text)
        found[0].text, found[0].blocks = given["text"], given["blocks"]
        return {"ok": True, "channel": given["channel"], "ts": given["ts"], "text": given["text"]}


def _slack_sdk_takes(sent: dict[str, Any]) -> bool:
    """True if the models of Slack's own client accept a block and lose nothing of it."""
    try:
        (block,) = Block.parse_all([sent])
        if block is None or block.to_dict().keys() != sent.keys():
            return False
        block.validate_json()
    except Exception:
        return False
    return True


def _no(error: str) -> dict[str, Any]:
    return {"ok": False, "error": error}
