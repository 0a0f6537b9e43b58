"""The request bodies that create jobs. Pure."""

from dataclasses import dataclass

from relay.sandbox.connect_accounts import CHANNELS, PLACEHOLDER_ACCOUNT_ID
from relay.sandbox.fields import Fields, invalid, json_object, one_of, required_text, text
from relay.sandbox.world import DEFAULT_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS

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
