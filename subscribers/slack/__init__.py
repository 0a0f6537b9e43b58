"""Slack's incoming webhooks: a sentence with a link, how to fix the problem, the job's metadata, and the ids.

With a bot token, `dialogue` delivers.

Sources: Slack's documentation of incoming webhooks, of message formatting (escaping) and of Block Kit (limits).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.deliveries.retry import http_outcome
from relay.core.events.event import Event
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError
from relay.redaction import redacted_url, split_url, url_without_path
from subscribers import base
from subscribers.common import chat
from subscribers.common.digest import digest
from subscribers.slack.dialogue import PATH, SLACK_BOT, WEB_API_HOSTS, bot_errors, is_web_api
from subscribers.slack.options import SlackOptions
from subscribers.slack.render import (
    DIGEST_STEPS,
    MESSAGE_CHARACTERS,
    SECTION_CHARACTERS,
    characters,
    clip,
    digest_blocks,
    escape,
    message_blocks,
)

_ANSWER_CODE = re.compile(rb"[a-z_]{1,60}")


class Slack(chat.ForPeople, base.OneRequest):
    """One message for people per event, or a digest of several. Not signed: Slack reads no signature."""

    name = "slack"
    title = "Slack"
    gets = "Slack gets one message"
    options = SlackOptions
    rate_per_second: float | None = 1.0

    def one_of(self, config: Mapping[str, Any]) -> str:
        """A bot names its channel."""
        channel = SlackOptions.stored(config).channel
        return self.gets if channel is None else f"Channel {channel} in Slack gets one message"

    def several_of(self, config: Mapping[str, Any]) -> str:
        """A bot edits its messages."""
        if SlackOptions.stored(config).channel is None:
            return super().several_of(config)
        return " Each incident and each group is one message, which is edited, with the details in its thread."

    def check(self, subscription: Subscription) -> None:
        """Refuses headers, methods except POST and unknown options; of a webhook also credentials and the URLs of
        workflow triggers, of a bot what it lacks."""
        if is_web_api(subscription.sink):
            base.refuse(bot_errors(subscription))
            return
        errors = base.chat_errors(subscription, "Slack")
        parts = split_url(subscription.sink)
        if SlackOptions.of(subscription).channel is not None:
            detail = f"a webhook posts to its own channel. A bot posts to any: use https://{WEB_API_HOSTS[0]}{PATH}"
            errors.append(FieldError(pointer="/config/channel", code="unknown_option", detail=detail))
        if parts is not None and parts.hostname in WEB_API_HOSTS:
            detail = f"use the URL of an incoming webhook, or with a bot token https://{parts.hostname}{PATH}"
            errors.append(FieldError(pointer="/sink", code="sink_unsuitable", detail=detail))
        if parts is not None and parts.path.startswith(("/triggers/", "/workflows/")):
            detail = "this is a workflow trigger, which accepts no messages: use the kind slack_workflow"
            errors.append(FieldError(pointer="/sink", code="sink_unsuitable", detail=detail))
        base.refuse(errors)

    def render(self, event: Event, subscription: Subscription, context: base.RenderContext) -> OutboundRequest:
        """Text: the sentence. Blocks: a section with the sentence, link and fields (advice, metadata), then one context
        line with place and time and one with ids. Texts are cut shorter if all of them are too long."""
        message = chat.message(event, subscription, context)
        return _request(subscription, message.sentence, message_blocks(message))

    def dialogue(self, subscription: Subscription) -> base.Dialogue | None:
        """With a bot token: messages that are edited."""
        return SLACK_BOT if is_web_api(subscription.sink) else None

    def bundle(self, subscription: Subscription) -> base.Bundle | None:
        """None with a bot token, whose messages are edited instead. Else with `digest_seconds` one message for all that
        came in that time, or one for each event and a digest of what exceeds `messages_per_minute`."""
        return None if is_web_api(subscription.sink) else chat.bundle(subscription)

    def render_bundle(
        self, events: Sequence[Event], subscription: Subscription, context: base.RenderContext
    ) -> OutboundRequest:
        """A digest: how many of what, incidents and groups in sections of their own, the others by account and error.
        It tells less of each if it would be too long for Slack."""
        for limits, length in DIGEST_STEPS:
            found = digest(events, context, chat.time_zone(subscription), limits)
            blocks = digest_blocks(found, length)
            if characters(blocks) <= MESSAGE_CHARACTERS:
                break
        text = "\n".join((found.heading, *(one.line.sentence for one in found.sections)))
        return _request(subscription, text, blocks)

    def classify(self, response: Response, now: float) -> Outcome:
        """Slack's own rules, then those of HTTP.

        A 2xx without the body `ok` came from something else (a proxy, a login page) and is retried: a duplicate message
        is better than a lost one. 400: this message will never be accepted. 403, 404, 410: the webhook is gone.
        """
        status = response.status_code
        if response.error is not None or status is None:
            return http_outcome(response, now)
        answer = response.excerpt.strip()
        if 200 <= status < 300:
            if answer == b"ok":
                return Outcome(verdict="delivered", reason="ok")
            return Outcome(verdict="retry", reason=f"http_{status}, but the body is not Slack's “ok”")
        code = f": {answer.decode()}" if _ANSWER_CODE.fullmatch(answer) else ""
        if status == 400:
            return Outcome(verdict="dead", reason=f"http_400{code}")
        if status in (403, 404, 410):
            return Outcome(verdict="disable", reason=f"http_{status}{code}")
        return http_outcome(response, now)

    def redacted_url(self, url: str) -> str:
        """Without the path, which is the credential of a webhook."""
        return redacted_url(url) if is_web_api(url) else url_without_path(url)


def _request(subscription: Subscription, text: str, blocks: Sequence[Mapping[str, Any]]) -> OutboundRequest:
    """`text`: shown in notifications."""
    text = clip("\n".join(escape(line) for line in text.split("\n")), SECTION_CHARACTERS)
    payload = {"text": text, "blocks": blocks, "unfurl_links": False, "unfurl_media": False}
    return OutboundRequest(
        url=subscription.sink, headers=(("Content-Type", "application/json; charset=utf-8"),), body=dumps(payload)
    )
