"""The options of kind `slack`, and the settings that it does not support."""

import re
from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import Field

from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError
from relay.redaction import host_of, split_url
from subscribers.base import chat_errors, sink_unsuitable
from subscribers.common.options import DigestOptions
from subscribers.options import Word

WEB_API_HOSTS = ("slack.com", "slack-gov.com")
PATH = "/api/chat.postMessage"
_CHANNEL = re.compile(r"[CGDUW][A-Z0-9]{2,30}|#?(?=[^\W_]|[-_])(?:(?![A-Z])[\w-]){1,80}")
_TOKEN = re.compile(r"(?:xoxe\.)?xoxb-\S+")


class SlackOptions(DigestOptions):
    """Of kind `slack`."""

    places: ClassVar[tuple[str, ...]] = ("channel",)

    channel: Word | None = Field(
        default=None,
        description="With a bot token, which needs it: the id or the name of the channel to post to.",
        examples=["C0123456789"],
    )


def is_web_api(sink: str) -> bool:
    """True for the method of Slack's Web API, which wants a bot token."""
    parts = split_url(sink)
    return parts is not None and parts.path == PATH


def errors_of(subscription: Subscription) -> list[FieldError]:
    """An error for each setting that a webhook or a bot does not support, or needs."""
    if is_web_api(subscription.sink):
        return _bot_errors(subscription)
    errors = chat_errors(subscription, "Slack")
    host, parts = host_of(subscription.sink), split_url(subscription.sink)
    if SlackOptions.of(subscription).channel is not None:
        detail = f"a webhook posts to its own channel. A bot posts to any: use https://{WEB_API_HOSTS[0]}{PATH}"
        errors.append(FieldError(pointer="/config/channel", code="unknown_option", detail=detail))
    if host in WEB_API_HOSTS:
        errors.append(sink_unsuitable(f"use the URL of an incoming webhook, or with a bot token https://{host}{PATH}"))
    if parts is not None and parts.path.startswith(("/triggers/", "/workflows/")):
        errors.append(
            sink_unsuitable("this is a workflow trigger, which accepts no messages: use the kind slack_workflow")
        )
    return errors


def _bot_errors(subscription: Subscription) -> list[FieldError]:
    options, credential = SlackOptions.of(subscription), subscription.credential
    why = "Slack answers no handshake, and needs none: only a member of the workspace can make a bot token"
    errors = chat_errors(subscription, "Slack", credential="", handshake=why)
    found = [
        (f"/config/{name}", "unknown_option", f"a bot edits its messages: leave out {name}")
        for name in ("digest_seconds", "messages_per_minute")
        if getattr(options, name) is not None
    ]
    if urlsplit(subscription.sink).query:
        errors.append(
            sink_unsuitable(f"the method takes no query: use https://{WEB_API_HOSTS[0]}{PATH} and config.channel")
        )
    if credential is None or credential.type != "ACCESSTOKEN":
        example = '{"credentialtype": "ACCESSTOKEN", "accesstoken": "xoxb-…"}'
        found.append(("/sinkcredential", "missing", f"a bot token is needed: {example}"))
    elif not _TOKEN.fullmatch(credential.fields["accesstoken"]):
        detail = "this is no bot token: use the “Bot User OAuth Token” of the app, which begins with xoxb-"
        found.append(("/sinkcredential/accesstoken", "credential_unsuitable", detail))
    if options.channel is None:
        detail = "a channel is needed: its id (C…, in the channel's details in Slack), or its name"
        found.append(("/config/channel", "missing", detail))
    elif not _CHANNEL.fullmatch(options.channel):
        detail = (
            f"{options.channel!r:.100} is neither the id of a channel, such as C0123456789, nor a name in lower case"
        )
        found.append(("/config/channel", "invalid", detail))
    return errors + [FieldError(pointer=at, code=code, detail=detail) for at, code, detail in found]
