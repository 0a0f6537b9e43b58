"""What the creating calls accept, and the connect accounts that exist. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from relay.sandbox.world import DEFAULT_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS

CHANNELS = ("email", "linkedin", "whatsapp")
_RECIPIENT_FIELD = {"email": "address", "linkedin": "profile_url", "whatsapp": "phone"}
_LIKE_SUBJECTS = ("content", "topic", "intent")
_LOCALES = ("en", "zh")
MAX_POST_LIMIT = 50

PLACEHOLDER_ACCOUNT_ID = "connect_account_xxx"
"""The documentation's id: listed as a LinkedIn account, and good for a dispatch on any channel, so that each
documented request works word for word."""


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
"""Every Revor account of the sandbox has these."""
_BY_ID = {account["account_id"]: account for account in CONNECT_ACCOUNTS}


class Refused(Exception):
    """An error answer: HTTP status, Revor's code, and a message (the code itself where there is no more to say)."""

    def __init__(self, status: int, code: str, message: str | None = None) -> None:
        super().__init__(message or code)
        self.status = status
        self.code = code
        self.message = message or code


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """A job that was asked for and may be made."""

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
    """The order in the body of `POST /api/v1/outreach/dispatches`. Fields it does not know are let pass."""
    fields = _object(body, "the body")
    account_id = _text(fields, "account_id")
    channel = _text(fields, "channel")
    if channel not in CHANNELS:
        raise _invalid(f"channel must be one of {', '.join(CHANNELS)}")
    if fields.get("action") != "outreach":
        raise _invalid('action must be "outreach"')
    recipient = _object(fields.get("recipient"), "recipient")
    _text(recipient, _RECIPIENT_FIELD[channel], f"recipient.{_RECIPIENT_FIELD[channel]}")
    _optional_text(recipient, "name", "recipient.name")
    content = _object(fields.get("content"), "content")
    given = [_optional_text(content, name, f"content.{name}") for name in ("text", "html")]
    if not any(given):
        raise _invalid("content needs a text or an html")
    _optional_text(content, "subject", "content.subject")
    if not isinstance(content.get("attachments") or [], list):
        raise _invalid("content.attachments must be a list")
    if fields.get("metadata") is not None:
        _object(fields["metadata"], "metadata")
    interval = _interval(fields)
    _check_account(account_id, channel)
    return JobRequest(
        action="outreach.dispatch", channel=channel, connect_account_id=account_id, interval_seconds=interval
    )


def parse_post_like(body: object) -> JobRequest:
    """The order in the body of `POST /api/v1/outreach/linkedin/post-likes`. Fields it does not know are let pass."""
    fields = _object(body, "the body")
    _text(fields, "profile_url")
    given = [name for name in _LIKE_SUBJECTS if _optional_text(fields, name, name)]
    if len(given) != 1:
        raise _invalid(f"exactly one of {', '.join(_LIKE_SUBJECTS)} is required")
    limit = fields.get("post_limit")
    if limit is not None and not (_is_int(limit) and 1 <= limit <= MAX_POST_LIMIT):
        raise _invalid(f"post_limit must be 1 to {MAX_POST_LIMIT}")
    if fields.get("locale") not in (None, *_LOCALES):
        raise _invalid(f"locale must be one of {', '.join(_LOCALES)}")
    account_id = _optional_text(fields, "account_id", "account_id") or PLACEHOLDER_ACCOUNT_ID
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
    # Revor documents 409 for these without their codes; the two codes are the sandbox's own.
    if account["channel"] != channel:
        raise Refused(409, "account_channel_conflict")
    if not account["can_send"]:
        raise Refused(409, "account_cannot_send")


def _interval(fields: Mapping[str, Any]) -> int:
    value = fields.get("min_channel_task_interval_seconds")
    if value is None:
        return DEFAULT_INTERVAL_SECONDS
    if not _is_int(value) or value > MAX_INTERVAL_SECONDS:
        raise _invalid(f"min_channel_task_interval_seconds must be a whole number up to {MAX_INTERVAL_SECONDS}")
    return max(int(value), DEFAULT_INTERVAL_SECONDS)


def _invalid(message: str) -> Refused:
    return Refused(400, "invalid_request", message)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(f"{name} must be a JSON object")
    return value


def _text(fields: Mapping[str, Any], name: str, shown_as: str | None = None) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _invalid(f"{shown_as or name} is required and must be a text")
    return value


def _optional_text(fields: Mapping[str, Any], name: str, shown_as: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise _invalid(f"{shown_as} must be a text")
    return value
