"""The request bodies that create jobs, and the connect accounts that exist. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from relay.sandbox.fields import Fields, Refused, invalid, json_object, one_of, required_text, text
from relay.sandbox.world import DEFAULT_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS

CHANNELS = ("email", "linkedin", "whatsapp")
_RECIPIENT_FIELD = {"email": "address", "linkedin": "profile_url", "whatsapp": "phone"}
_LIKE_SUBJECTS = ("content", "topic", "intent")
_LOCALES = ("en", "zh")
MAX_POST_LIMIT = 50

PLACEHOLDER_ACCOUNT_ID = "connect_account_xxx"
"""The id in Revor's documentation. Listed as a LinkedIn account, but accepted for a dispatch on any channel, so that
every documented request works unchanged."""


def _account(account_id: str, channel: str, name: str, identifier: str, *, ok: bool = True) -> dict[str, Any]:
    return {
        "account_id": account_id,
        "channel": channel,
        "name": name,
        "account_identifier": identifier,
        "status": "ok" if ok else "credentials",
        "lifecycle_status": "active",
        "can_send": ok,
        "can_receive": ok,
    }


CONNECT_ACCOUNTS = (
    _account(PLACEHOLDER_ACCOUNT_ID, "linkedin", "LinkedIn Account", "https://www.linkedin.com/in/example/"),
    _account("connect_account_email", "email", "Email Account", "sender@example.com"),
    _account("connect_account_whatsapp", "whatsapp", "WhatsApp Account", "+14155550100"),
    _account(
        "connect_account_signed_out",
        "linkedin",
        "Signed-out LinkedIn Account",
        "https://www.linkedin.com/in/example-signed-out/",
        ok=False,
    ),
)
"""The connect accounts of every Revor account in the sandbox."""
_BY_ID = {account["account_id"]: account for account in CONNECT_ACCOUNTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """A valid request for one job."""

    action: str
    channel: str
    connect_account_id: str
    interval_seconds: int


def connect_accounts(query: Mapping[str, str]) -> list[dict[str, Any]]:
    """The connect accounts, filtered by `channel` and `can_send` (true or false)."""
    channel, can_send = query.get("channel") or None, query.get("can_send") or None
    if channel not in (None, *CHANNELS):
        raise Refused(400, "invalid_channel")
    if can_send not in (None, "true", "false"):
        raise Refused(400, "invalid_can_send")
    return [
        dict(account)
        for account in CONNECT_ACCOUNTS
        if channel in (None, account["channel"]) and can_send in (None, str(account["can_send"]).lower())
    ]


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
    _check_account(account_id, channel)
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
    _check_account(account_id, "linkedin")
    return JobRequest(
        action="outreach.linkedin.post_like",
        channel="linkedin",
        connect_account_id=account_id,
        interval_seconds=interval,
    )


def _check_account(account_id: str, channel: str) -> None:
    account = _BY_ID.get(account_id)
    if account is None:
        raise Refused(404, "account_not_found")
    if account_id == PLACEHOLDER_ACCOUNT_ID:
        return
    # Revor documents status 409 for both cases, but not the codes: these two are the sandbox's own.
    if account["channel"] != channel:
        raise Refused(409, "account_channel_conflict")
    if not account["can_send"]:
        raise Refused(409, "account_cannot_send")


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
