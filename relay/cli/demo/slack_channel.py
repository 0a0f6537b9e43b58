"""A stand-in for a Slack channel: takes what the relay sends to it, and keeps it as people read it."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

PATH = "/services/T0DEMO/B0DEMO/channel"
_LINK = re.compile(r"<([^|>]*)\|([^>]*)>")
_TITLE = re.compile(r"\A\*([^\u2060\n].*)\*$", re.MULTILINE)
_BOLD = re.compile(r"^\*(.*?)\*\n")
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))
_JOINER = "\u2060"


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its sentence, the labelled fields below it, and the small print."""

    title: str
    fields: tuple[tuple[str, str], ...] = ()
    footer: str = ""


@dataclass(slots=True)
class SlackChannel:
    """The messages in order of arrival."""

    messages: list[Message] = field(default_factory=list)
    refused: int = 0
    _came: asyncio.Condition = field(default_factory=asyncio.Condition, init=False, repr=False)

    async def receive(self, request: Request) -> Response:
        """Answers as Slack's incoming webhooks do."""
        try:
            message = read_message(orjson.loads(await request.body()))
        except (ValueError, LookupError, TypeError, AttributeError):
            self.refused += 1
            return PlainTextResponse("invalid_payload", status_code=400)
        self.messages.append(message)
        async with self._came:
            self._came.notify_all()
        return PlainTextResponse("ok")

    async def told(self, text: str) -> None:
        """Returns once a message has this text in its sentence."""
        async with self._came:
            await self._came.wait_for(lambda: any(text in message.title for message in self.messages))


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
