"""The answers of Slack's Web API: 200 with `ok: false` and a code where it refuses.

Source: Slack's documentation of chat.postMessage, chat.update, their errors and rate limits.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from relay.core.deliveries.delivery import Outcome, Response
from relay.core.deliveries.retry import http_outcome
from subscribers.common import answers
from subscribers.common.answers import code_in, not_from, read_object
from subscribers.wording.text import mapping

_SCOPES = re.compile(r"[a-z:._,-]{1,80}")
_PLACE = re.compile(r"[\x21-\x7e]{1,64}")
"""An id of a channel, and the `ts` that names a message."""

Place = tuple[str, str]
"""The channel's id, and the `ts` of a message there."""

_ACCESS = "give the subscription a valid bot token (xoxb-…) as its sinkcredential, then resume it"
_INVITE = "invite the app to the channel, or add the scope chat:write.public for public ones, then resume"
_ADMIN = "ask an administrator of the workspace to allow it, then resume"
_DISABLES: Mapping[str, str] = {
    **dict.fromkeys(("invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired"), _ACCESS),
    **dict.fromkeys(("not_allowed_token_type", "team_access_not_granted", "two_factor_setup_required"), _ACCESS),
    **dict.fromkeys(("not_in_channel", "no_permission"), _INVITE),
    "channel_not_found": "correct config.channel, or invite the app if the channel is private, then resume",
    **dict.fromkeys(("is_archived", "is_inactive"), "unarchive the channel or set another config.channel, then resume"),
    **dict.fromkeys(("restricted_action", "ekm_access_denied", "enterprise_is_restricted", "access_denied"), _ADMIN),
    **dict.fromkeys(("restricted_action_read_only_channel", "restricted_action_thread_only_channel"), _ADMIN),
    **dict.fromkeys(("restricted_action_non_threadable_channel", "team_not_found"), _ADMIN),
    **dict.fromkeys(("deprecated_endpoint", "method_deprecated"), "update the relay"),
}
"""The remedies for errors with which Slack accepts no message at all."""
_DEAD = (
    *("msg_too_long", "msg_blocks_too_long", "no_text", "invalid_blocks", "invalid_blocks_format"),
    *("invalid_arguments", "invalid_arg_name", "invalid_array_arg", "invalid_charset", "invalid_form_data"),
    *("invalid_post_type", "missing_post_type", "invalid_json", "json_not_object", "too_many_attachments"),
    *("invalid_attachments", "block_mismatch"),
)
"""Errors of one message: it would be refused again."""
_GONE = (
    *("message_not_found", "cant_update_message", "edit_window_closed", "thread_not_found"),
    "cannot_reply_to_message",
)
"""Errors of the message that was to be edited or answered: another one takes its place."""
_LIMITED = ("ratelimited", "rate_limited", "message_limit_exceeded")
_LIMITED_SECONDS = 30.0
"""Pause after a limit that came without Retry-After."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(answers.Answer):
    """An answer of Slack.

    gone   the message that was to be edited or answered cannot be
    place  of the message that was posted or edited: the channel's id and its `ts`; None if the answer has none
    """

    gone: bool = False
    place: Place | None = None


def read_answer(response: Response, now: float) -> Answer:
    """Judges an answer of Slack's Web API: by its error, whatever the status; without one by the status."""
    status = response.status_code
    if response.error is not None or status is None:
        return Answer(outcome=http_outcome(response, now))
    document = mapping(read_object(response.excerpt))
    if document.get("ok") is True and 200 <= status < 300:
        place = place_of(document)
        if place is None:
            return Answer.of("retry", "the answer names no message, so it is not Slack's")
        return Answer.of("delivered", "ok", place=place)
    code = code_in(document, "error")
    if not code or status >= 500:
        is_success = 200 <= status < 300
        whose = "an answer of Slack's Web API"
        return Answer(outcome=not_from(whose, status) if is_success else http_outcome(response, now))
    return _refused(code, document, response, now)


def _refused(code: str, document: Mapping[str, Any], response: Response, now: float) -> Answer:
    if code in _GONE:
        return Answer.of("retry", code, gone=True)
    if code == "missing_scope":
        needed = document.get("needed")
        scope = needed if isinstance(needed, str) and _SCOPES.fullmatch(needed) else "chat:write"
        detail = f"add the scope {scope} to the app, install it again, then resume"
        return Answer.of("disable", f"{code}: {detail}")
    if code in _DISABLES:  # the channel may be of a workspace that the token has left
        return Answer.of("disable", f"{code}: {_DISABLES[code]}", gone=code == "channel_not_found")
    if code in _DEAD:
        return Answer.of("dead", code)
    if code in _LIMITED or response.status_code == 429:
        seconds = http_outcome(replace(response, status_code=429), now).retry_after_seconds
        pause = _LIMITED_SECONDS if seconds is None else seconds
        return Answer(outcome=Outcome(verdict="retry", reason=code, retry_after_seconds=pause))
    return Answer.of("retry", code)


def place_of(document: Mapping[str, Any]) -> Place | None:
    """The place of a message, in an answer or a memory; None if it is not there."""
    channel, ts = document.get("channel"), document.get("ts")
    if not isinstance(channel, str) or not isinstance(ts, str):
        return None
    return (channel, ts) if _PLACE.fullmatch(channel) and _PLACE.fullmatch(ts) else None
