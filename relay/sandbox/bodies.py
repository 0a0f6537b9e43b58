"""The request bodies that create jobs. Pure."""

from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from relay.sandbox.faults import Answer
from relay.sandbox.requests import Refused
from relay.sandbox.world import (
    CHANNELS,
    DEFAULT_INTERVAL_SECONDS,
    MAX_INTERVAL_SECONDS,
    MIN_INTERVAL_SECONDS,
    PLACEHOLDER_ACCOUNT_ID,
    Channel,
)

_RECIPIENT_FIELD = {"email": "address", "linkedin": "profile_url", "whatsapp": "phone"}

_Words = Annotated[str, Field(pattern=r"\S")]


class _Open(BaseModel):
    """Unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, strict=True)


class _Content(_Open):
    text: str | None = None
    html: str | None = None
    subject: str | None = None
    attachments: list[Any] | None = None


class JobRequest(_Open):
    """A request for one job. The spacing of its lane is raised to the minimum, as Revor does."""

    min_channel_task_interval_seconds: int | None = Field(None, le=MAX_INTERVAL_SECONDS)

    def order(self, action: str, channel: str, connect_account_id: str) -> dict[str, Any]:
        """The arguments for `World.create`."""
        wanted = self.min_channel_task_interval_seconds or DEFAULT_INTERVAL_SECONDS
        interval = max(wanted, DEFAULT_INTERVAL_SECONDS)
        return {
            "action": action,
            "channel": channel,
            "connect_account_id": connect_account_id,
            "interval_seconds": interval,
        }


class Dispatch(JobRequest):
    """The body of `POST /api/v1/outreach/dispatches`."""

    account_id: _Words
    channel: Channel
    action: Literal["outreach"]
    recipient: dict[str, Any]
    content: _Content
    metadata: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        name, value = self.recipient.get("name"), self.recipient.get(_RECIPIENT_FIELD[self.channel])
        if not isinstance(value, str) or not value.strip() or not isinstance(name, str | None):
            raise ValueError(f"recipient.{_RECIPIENT_FIELD[self.channel]} is required: it and the name must be texts")
        if not (self.content.text or self.content.html):
            raise ValueError("content needs a text or an html")
        return self

    @property
    def job(self) -> dict[str, Any]:
        """See `order`."""
        return self.order("outreach.dispatch", self.channel, self.account_id)


class PostLike(JobRequest):
    """The body of `POST /api/v1/outreach/linkedin/post-likes`."""

    profile_url: _Words
    content: str | None = None
    topic: str | None = None
    intent: str | None = None
    post_limit: int | None = Field(None, ge=1, le=50)
    locale: Literal["en", "zh"] | None = None
    account_id: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(map(bool, (self.content, self.topic, self.intent))) != 1:
            raise ValueError("exactly one of content, topic, intent is required")
        return self

    @property
    def job(self) -> dict[str, Any]:
        """See `order`."""
        return self.order("outreach.linkedin.post_like", "linkedin", self.account_id or PLACEHOLDER_ACCOUNT_ID)


MAX_KEY_LENGTH = 255


@dataclass(kw_only=True)
class IdempotencyStore:
    """Answers by (API key, path, Idempotency-Key). Keeps the newest `max_answers`.

    Two bodies are equal if they are the same JSON value, whatever their white space and field order.
    """

    max_answers: int = 100_000
    _answers: OrderedDict[tuple[str, str, str], tuple[bytes, Answer]] = field(
        default_factory=OrderedDict, init=False, repr=False
    )

    def find(self, *, api_key: str, path: str, name: str, body: Any) -> Answer | None:
        """The original answer, or None for a new key. Raises Refused: 409 for another body, 400 for a key too long."""
        if len(name) > MAX_KEY_LENGTH:
            raise Refused(400, "invalid_request", f"Idempotency-Key: at most {MAX_KEY_LENGTH} characters")
        known = self._answers.get((api_key, path, name))
        if known is None:
            return None
        if known[0] != _digest(body):
            raise Refused(409, "idempotency_conflict")
        return known[1]

    def keep(self, answer: Answer, *, api_key: str, path: str, name: str, body: Any) -> None:
        """Stores a successful answer. Refusals are not stored: the same key may then be used again."""
        self._answers[api_key, path, name] = (_digest(body), answer)
        if len(self._answers) > self.max_answers:
            self._answers.popitem(last=False)


def _digest(body: Any) -> bytes:
    return sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()


DISPATCH_PATH = "/api/v1/outreach/dispatches"
_RECIPIENTS = {
    "email": {"address": "ada@example.com"},
    "linkedin": {"profile_url": "https://www.linkedin.com/in/example/"},
    "whatsapp": {"phone": "+14155550100"},
}


def dispatch_body(index: int) -> dict[str, Any]:
    """The body of dispatch number `index` (from 0). The channels take turns; lanes are spaced by the minimum."""
    channel = CHANNELS[index % len(CHANNELS)]
    return {
        "account_id": PLACEHOLDER_ACCOUNT_ID,
        "channel": channel,
        "action": "outreach",
        "recipient": _RECIPIENTS[channel],
        "content": {"text": f"Hello from the demo, message {index + 1}"},
        "min_channel_task_interval_seconds": MIN_INTERVAL_SECONDS,
    }
