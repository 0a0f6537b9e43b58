"""Slack's incoming webhooks: a sentence with a link, how to fix the problem, the job's metadata, and the ids.

With a bot token, `dialogue` delivers.

Sources: Slack's documentation of incoming webhooks, of message formatting (escaping) and of Block Kit (limits).
"""

import re
from collections.abc import Mapping
from typing import Any

from relay.core.deliveries.delivery import Outcome, Response
from relay.core.deliveries.retry import http_outcome
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError
from relay.redaction import redacted_url
from subscribers import base
from subscribers.common import chat
from subscribers.common.answers import not_from, refusal
from subscribers.common.digest import Digest
from subscribers.slack.dialogue import DIALOGUE
from subscribers.slack.options import SlackOptions, errors_of, is_web_api
from subscribers.slack.render import MESSAGE_CHARACTERS, characters, digest_blocks, message_blocks, plain

_ANSWER_CODE = re.compile(rb"[a-z_]{1,60}")


class Slack(chat.WithDigests):
    """One message for people per event, or a digest of several."""

    name = "slack"
    title = "Slack"
    offer = base.Offer(
        look="slack",
        words="A channel gets a message with the next step and a link.",
        address="The URL of an incoming webhook: in Slack under your app, Incoming Webhooks. Of a bot: https://slack.com/api/chat.postMessage.",
        example="https://hooks.slack.com/services/T000/B000/XXXX",
    )
    gets = "Slack gets one message"
    options = SlackOptions

    def one_of(self, config: Mapping[str, Any]) -> str:
        """A bot names its channel."""
        channel = SlackOptions.stored(config).channel
        return self.gets if channel is None else f"Channel {channel} in Slack gets one message"

    def several_of(self, config: Mapping[str, Any]) -> str:
        """A bot edits its messages."""
        edited = " Each incident and each group is one message, which is edited, with the details in its thread."
        return super().several_of(config) if SlackOptions.stored(config).channel is None else edited

    def errors(self, subscription: Subscription) -> list[FieldError]:
        """Those of a webhook or of a bot."""
        return errors_of(subscription)

    def dialogue(self, subscription: Subscription) -> base.Dialogue | None:
        """With a bot token: messages that are edited."""
        return DIALOGUE if is_web_api(subscription.sink) else None

    def bundle(self, subscription: Subscription) -> base.Bundle | None:
        """None with a bot token, whose messages are edited instead."""
        return None if is_web_api(subscription.sink) else super().bundle(subscription)

    def show(self, shown: chat.Message, length: int) -> Mapping[str, Any]:
        """See `WithDigests`. The text is for notifications."""
        return _payload(shown.sentence, message_blocks(shown))

    def show_digest(self, found: Digest, tone: chat.Tone, length: int) -> Mapping[str, Any]:
        """See `WithDigests`."""
        text = "\n".join((found.heading, *(one.line.sentence for one in found.sections)))
        return _payload(text, digest_blocks(found, length))

    def fits(self, payload: Mapping[str, Any]) -> bool:
        """See `WithDigests`."""
        return characters(payload["blocks"]) <= MESSAGE_CHARACTERS

    def classify(self, response: Response, now: float) -> Outcome:
        """Slack's own rules, then those of HTTP.

        A 2xx without the body `ok` came from something else (a proxy, a login page) and is retried: a duplicate message
        is better than a lost one. 400: this message will never be accepted. 403, 404, 410: the webhook is gone.
        """
        status, answer = response.status_code, response.excerpt.strip()
        if response.error is not None or status is None:
            return http_outcome(response, now)
        if 200 <= status < 300:
            return Outcome(verdict="delivered", reason="ok") if answer == b"ok" else not_from("Slack's “ok”", status)
        code = answer.decode() if _ANSWER_CODE.fullmatch(answer) else ""
        of_slack = refusal(status, code) if status in (400, 403, 404, 410) else None
        return of_slack or http_outcome(response, now)

    def redacted_url(self, url: str) -> str:
        """With the path of the Web API, which is no credential."""
        return redacted_url(url) if is_web_api(url) else super().redacted_url(url)


def _payload(text: str, blocks: list[dict[str, Any]]) -> dict[str, Any]:
    return {"text": plain(text), "blocks": blocks, "unfurl_links": False, "unfurl_media": False}
