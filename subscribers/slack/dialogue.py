"""Slack with a bot token: one message for each incident and group, which is edited, and details in its thread.

Source: Slack's documentation of chat.postMessage, chat.update, their errors and rate limits. Slack answers 200 with
`ok: false` and a code where it refuses; the answer is as untrusted as any.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from relay.core import jsontext
from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.deliveries.dialogue import Ended, Memory, Step, Steps
from relay.core.deliveries.retry import http_outcome
from relay.core.events.event import Event
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError
from relay.redaction import split_url
from subscribers.base import Dialogue, RenderContext, chat_errors
from subscribers.common.chat import Message, message
from subscribers.common.edited_messages import message_key, update_of
from subscribers.slack.options import SlackOptions
from subscribers.slack.render import SECTION_CHARACTERS, clip, escape, message_blocks

WEB_API_HOSTS = ("slack.com", "slack-gov.com")
PATH = "/api/chat.postMessage"
_UPDATE = "/api/chat.update"

_CHANNEL = re.compile(r"[CGDUW][A-Z0-9]{2,30}|#?(?=[^\W_]|[-_])(?:(?![A-Z])[\w-]){1,80}")
_TOKEN = re.compile(r"(?:xoxe\.)?xoxb-\S+")
_CODE = re.compile(r"[a-z0-9_]{1,60}")
_SCOPES = re.compile(r"[a-z:._,-]{1,80}")
_PLACE = re.compile(r"[\x21-\x7e]{1,64}")
"""An id of a channel, and the `ts` that names a message."""

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
"""What to do about errors with which Slack accepts no message at all."""
_DEAD = frozenset(
    (
        *("msg_too_long", "msg_blocks_too_long", "no_text", "invalid_blocks", "invalid_blocks_format"),
        *("invalid_arguments", "invalid_arg_name", "invalid_array_arg", "invalid_charset", "invalid_form_data"),
        *("invalid_post_type", "missing_post_type", "invalid_json", "json_not_object", "too_many_attachments"),
        *("invalid_attachments", "block_mismatch"),
    )
)
"""Errors of one message: it would be refused again."""
_GONE = frozenset(
    (
        *("message_not_found", "cant_update_message", "edit_window_closed", "thread_not_found"),
        "cannot_reply_to_message",
    )
)
"""Errors of the message that was to be edited or answered: another one takes its place."""
_LIMITED = ("ratelimited", "rate_limited", "message_limit_exceeded")
_LIMITED_SECONDS = 30.0
"""Pause after a limit that came without Retry-After."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer of Slack.

    gone   the message that was to be edited or answered cannot be
    place  of the message that was posted or edited: the channel's id and its `ts`; None if the answer has none
    """

    outcome: Outcome
    gone: bool = False
    place: tuple[str, str] | None = None

    @property
    def ok(self) -> bool:
        """True if Slack accepted the message."""
        return self.outcome.verdict == "delivered"


def _key(event: Event, subscription: Subscription) -> str | None:
    """The key of the message about the incident or the group."""
    return message_key(event)


def _steps(event: Event, subscription: Subscription, context: RenderContext, memory: Memory, now: float) -> Steps:
    """Of an incident or a group: the message is posted or edited, then the detail is posted in its thread. Any
    other event is a message of its own."""
    if message_key(event) is None:
        answer = read_answer((yield _post(subscription, message(event, subscription, context))), now)
        return Ended(outcome=answer.outcome)
    update = update_of(event, subscription, context, {} if not _is_of(memory, subscription) else memory["message"])
    place = None if update.restarts or not _is_of(memory, subscription) else _place_of(memory)
    posted = False
    for _ in range(2):  # once more if the message was deleted
        if place is None:
            answer = read_answer((yield _post(subscription, update.shown)), now)
            place, posted = answer.place, True
            if not answer.ok or place is None:
                return Ended(outcome=answer.outcome)
        elif update.edits:
            answer = read_answer((yield _update(subscription, update.shown, place)), now)
            if answer.gone:
                place = None
                continue
            if not answer.ok:
                return Ended(outcome=answer.outcome)
        kept = {
            "asked": SlackOptions.of(subscription).channel,
            "channel": place[0],
            "ts": place[1],
            "message": update.memory,
        }
        if update.detail is None or (posted and update.repeats):
            return Ended(outcome=answer.outcome, remember=kept)
        answer = read_answer((yield _post(subscription, update.detail, place, kept if posted else None)), now)
        if not answer.gone:
            return Ended(outcome=answer.outcome, remember=kept)
        place = None
    return Ended(outcome=answer.outcome)


SLACK_BOT = Dialogue(key=_key, steps=_steps)
"""The deliveries of a subscription with a bot token."""


def is_web_api(sink: str) -> bool:
    """True for the method of Slack's Web API, which wants a bot token."""
    parts = split_url(sink)
    return parts is not None and parts.path == PATH


def bot_errors(subscription: Subscription) -> list[FieldError]:
    """An error for each setting that a bot does not support or needs."""
    options, wanted = SlackOptions.of(subscription), {"/sinkcredential", "/config/handshake"}
    errors = [
        FieldError(
            pointer=f"/config/{name}", code="unknown_option", detail=f"a bot edits its messages: leave out {name}"
        )
        for name in ("digest_seconds", "messages_per_minute")
        if getattr(options, name) is not None
    ]
    errors += [error for error in chat_errors(subscription, "Slack") if error.pointer not in wanted]
    found: list[tuple[bool, str, str, str]] = [
        (
            bool(urlsplit(subscription.sink).query),
            "/sink",
            "sink_unsuitable",
            f"the method takes no query: use https://{WEB_API_HOSTS[0]}{PATH} and config.channel",
        ),
        (
            subscription.handshake != "off",
            "/config/handshake",
            "handshake_unsuitable",
            "Slack answers no handshake, and needs none: only a member of the workspace can make a bot token",
        ),
    ]
    credential = subscription.credential
    if credential is None or credential.type != "ACCESSTOKEN":
        example = '{"credentialtype": "ACCESSTOKEN", "accesstoken": "xoxb-…"}'
        found.append((True, "/sinkcredential", "missing", f"a bot token is needed: {example}"))
    elif not _TOKEN.fullmatch(credential.fields["accesstoken"]):
        detail = "this is no bot token: use the “Bot User OAuth Token” of the app, which begins with xoxb-"
        found.append((True, "/sinkcredential/accesstoken", "credential_unsuitable", detail))
    channel = options.channel
    if channel is None:
        detail = "a channel is needed: its id (C…, in the channel's details in Slack), or its name"
        found.append((True, "/config/channel", "missing", detail))
    elif not _CHANNEL.fullmatch(channel):
        detail = f"{channel!r:.100} is neither the id of a channel, such as C0123456789, nor a name in lower case"
        found.append((True, "/config/channel", "invalid", detail))
    return errors + [
        FieldError(pointer=where, code=code, detail=detail) for wrong, where, code, detail in found if wrong
    ]


def read_answer(response: Response, now: float) -> Answer:
    """What an answer of Slack's Web API means: by its error, whatever the status; without one by the status."""
    if response.error is not None or response.status_code is None:
        return Answer(outcome=http_outcome(response, now))
    document = _object(response.excerpt)
    if document.get("ok") is True and 200 <= response.status_code < 300:
        place = _place_of(document)
        if place is None:
            return Answer(outcome=Outcome(verdict="retry", reason="the answer names no message, so it is not Slack's"))
        return Answer(outcome=Outcome(verdict="delivered", reason="ok"), place=place)
    given = document.get("error")
    code = given if isinstance(given, str) and _CODE.fullmatch(given) else None
    if code is None or response.status_code >= 500:
        outcome = http_outcome(response, now)
        if outcome.verdict == "delivered":
            reason = f"http_{response.status_code}, but the body is not an answer of Slack's Web API"
            outcome = Outcome(verdict="retry", reason=reason)
        return Answer(outcome=outcome)
    return _refused(code, document, response, now)


def _refused(code: str, document: Mapping[str, Any], response: Response, now: float) -> Answer:
    if code in _GONE:
        return Answer(outcome=Outcome(verdict="retry", reason=code), gone=True)
    if code == "missing_scope":
        needed = document.get("needed")
        scope = needed if isinstance(needed, str) and _SCOPES.fullmatch(needed) else "chat:write"
        detail = f"add the scope {scope} to the app, install it again, then resume"
        return Answer(outcome=Outcome(verdict="disable", reason=f"{code}: {detail}"))
    if code in _DISABLES:  # the channel may be of a workspace that the token has left
        outcome = Outcome(verdict="disable", reason=f"{code}: {_DISABLES[code]}")
        return Answer(outcome=outcome, gone=code == "channel_not_found")
    if code in _DEAD:
        return Answer(outcome=Outcome(verdict="dead", reason=code))
    if code in _LIMITED or response.status_code == 429:
        limited = Response(started_at=now, duration_ms=0.0, status_code=429, headers=response.headers)
        seconds = http_outcome(limited, now).retry_after_seconds
        return Answer(
            outcome=Outcome(
                verdict="retry", reason=code, retry_after_seconds=_LIMITED_SECONDS if seconds is None else seconds
            )
        )
    return Answer(outcome=Outcome(verdict="retry", reason=code))


def _post(
    subscription: Subscription,
    message: Message,
    thread: tuple[str, str] | None = None,
    remember: Memory | None = None,
) -> Step:
    """Posts a message: in the channel, or in a thread, where only its followers are notified."""
    if thread is None:
        where: dict[str, Any] = {"channel": SlackOptions.of(subscription).channel}
    else:
        where = {"channel": thread[0], "thread_ts": thread[1], "reply_broadcast": False}
    payload = {**where, **_content(message), "unfurl_links": False, "unfurl_media": False}
    name = "chat.postMessage" if thread is None else "chat.postMessage in the thread"
    return Step(request=_request(subscription.sink, payload), name=name, expected=_EXPECTED, remember=remember)


def _update(subscription: Subscription, message: Message, place: tuple[str, str]) -> Step:
    payload = {"channel": place[0], "ts": place[1], **_content(message), "parse": "none"}
    url = subscription.sink.removesuffix(PATH) + _UPDATE
    return Step(request=_request(url, payload), name="chat.update", expected=_EXPECTED)


_EXPECTED = dumps({"ok": True, "channel": "{channel}", "ts": "{ts-of-the-message}"})


def _content(message: Message) -> dict[str, Any]:
    return {"text": clip(escape(message.sentence), SECTION_CHARACTERS), "blocks": message_blocks(message)}


def _request(url: str, payload: Mapping[str, Any]) -> OutboundRequest:
    return OutboundRequest(
        url=url, headers=(("Content-Type", "application/json; charset=utf-8"),), body=dumps(dict(payload))
    )


def _is_of(memory: Memory, subscription: Subscription) -> bool:
    """True if this is about a message in the channel that the subscription has now."""
    return memory.get("asked") == SlackOptions.of(subscription).channel and isinstance(memory.get("message"), dict)


def _place_of(document: Mapping[str, Any]) -> tuple[str, str] | None:
    channel, ts = document.get("channel"), document.get("ts")
    if not isinstance(channel, str) or not isinstance(ts, str):
        return None
    return (channel, ts) if _PLACE.fullmatch(channel) and _PLACE.fullmatch(ts) else None


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        value = jsontext.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
