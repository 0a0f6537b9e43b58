"""The request bodies that create jobs. Pure."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import orjson

from relay.sandbox.connect_accounts import CHANNELS, PLACEHOLDER_ACCOUNT_ID
from relay.sandbox.fields import Fields, Refused, invalid, json_object, one_of, required_text, text
from relay.sandbox.wire import Answer
from relay.sandbox.world import DEFAULT_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS, MIN_INTERVAL_SECONDS

_RECIPIENT_FIELD = {"email": "address", "linkedin": "profile_url", "whatsapp": "phone"}
_LIKE_SUBJECTS = ("content", "topic", "intent")
_LOCALES = ("en", "zh")
MAX_POST_LIMIT = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """A valid request for one job."""

    action: str
    channel: str
    connect_account_id: str
    interval_seconds: int


def parse_dispatch(body: object) -> JobRequest:
    """Reads the body of `POST /api/v1/outreach/dispatches`. Unknown fields are ignored."""
    fields = json_object(body, "the body")
    account_id = required_text(fields, "account_id")
    channel = required_text(fields, "channel")
    one_of(fields, "channel", CHANNELS)
    if fields.get("action") != "outreach":
        raise invalid('action must be "outreach"')
    recipient = json_object(fields.get("recipient"), "recipient")
    required_text(recipient, _RECIPIENT_FIELD[channel], f"recipient.{_RECIPIENT_FIELD[channel]}")
    text(recipient, "name", "recipient.name")
    content = json_object(fields.get("content"), "content")
    given = [text(content, name, f"content.{name}") for name in ("text", "html")]
    if not any(given):
        raise invalid("content needs a text or an html")
    text(content, "subject", "content.subject")
    if not isinstance(content.get("attachments") or [], list):
        raise invalid("content.attachments must be a list")
    if fields.get("metadata") is not None:
        json_object(fields["metadata"], "metadata")
    interval = _interval(fields)
    return JobRequest(
        action="outreach.dispatch", channel=channel, connect_account_id=account_id, interval_seconds=interval
    )


def parse_post_like(body: object) -> JobRequest:
    """Reads the body of `POST /api/v1/outreach/linkedin/post-likes`. Unknown fields are ignored."""
    fields = json_object(body, "the body")
    required_text(fields, "profile_url")
    given = [name for name in _LIKE_SUBJECTS if text(fields, name)]
    if len(given) != 1:
        raise invalid(f"exactly one of {', '.join(_LIKE_SUBJECTS)} is required")
    limit = fields.get("post_limit")
    if limit is not None and not (_is_int(limit) and 1 <= limit <= MAX_POST_LIMIT):
        raise invalid(f"post_limit must be 1 to {MAX_POST_LIMIT}")
    one_of(fields, "locale", _LOCALES)
    account_id = text(fields, "account_id") or PLACEHOLDER_ACCOUNT_ID
    interval = _interval(fields)
    return JobRequest(
        action="outreach.linkedin.post_like",
        channel="linkedin",
        connect_account_id=account_id,
        interval_seconds=interval,
    )


def _interval(fields: Fields) -> int:
    """The spacing of the lane. Like Revor, raises a value below the minimum to the minimum."""
    value = fields.get("min_channel_task_interval_seconds")
    if value is None:
        return DEFAULT_INTERVAL_SECONDS
    if not _is_int(value) or value > MAX_INTERVAL_SECONDS:
        raise invalid(f"min_channel_task_interval_seconds must be a whole number up to {MAX_INTERVAL_SECONDS}")
    return max(int(value), DEFAULT_INTERVAL_SECONDS)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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
    return {
        **campaign_body(index, {}),
        "min_channel_task_interval_seconds": MIN_INTERVAL_SECONDS,
    }


def campaign_body(index: int, accounts: Mapping[str, str]) -> dict[str, Any]:
    """The same with the accounts to send from, by channel, and without a spacing: in a fast world its seconds would not
    be those of the lanes."""
    channel = CHANNELS[index % len(CHANNELS)]
    return {
        "account_id": accounts.get(channel, PLACEHOLDER_ACCOUNT_ID),
        "channel": channel,
        "action": "outreach",
        "recipient": _RECIPIENTS[channel],
        "content": {"text": f"Hello from the demo, message {index + 1}"},
    }
