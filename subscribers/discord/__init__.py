"""Discord's webhooks: an embed without mentions.

Sources: Discord's documentation of webhooks (Execute Webhook), of messages (allowed mentions), and of rate limits
(429).
"""

import math
from collections.abc import Mapping
from typing import Any

from relay.core.deliveries.delivery import Outcome, Response
from relay.core.deliveries.retry import MAX_RETRY_AFTER_SECONDS, http_outcome
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError
from relay.redaction import host_of, split_url
from subscribers import base
from subscribers.common import chat
from subscribers.common.answers import read_object, refusal
from subscribers.common.digest import Digest, Limits
from subscribers.discord.render import FIELD_VALUE_CHARACTERS, digest_embed, fits, message_embed
from subscribers.wording.text import mapping

_HOSTS = ("discord.com", "discordapp.com")


class Discord(chat.WithDigests):
    """One message with an embed per event, or a digest of several."""

    name = "discord"
    title = "Discord"
    offer = base.Offer(
        look="discord",
        words="A channel gets a message with the next step and a link.",
        address="The URL of a webhook: in the settings of the channel, Integrations, Webhooks.",
        example="https://discord.com/api/webhooks/000/XXXX",
    )
    gets = "Discord gets one message"
    rate_per_second = 0.5
    """30 requests a minute for each webhook."""
    lengths = (FIELD_VALUE_CHARACTERS, 200)
    steps = (
        (Limits(), 300),
        (Limits(sections=6, brief=10, lines=3), 200),
        (Limits(sections=4, brief=6, lines=2), 100),
        (Limits(sections=3, brief=4, lines=1), 60),
    )

    def errors(self, subscription: Subscription) -> list[FieldError]:
        """Among them URLs of Discord that are no webhook."""
        errors = base.chat_errors(subscription, "Discord")
        problem = _sink_problem(subscription.sink)
        return [*errors, base.sink_unsuitable(problem)] if problem else errors

    def address(self, sink: str) -> str:
        """See `with_wait`."""
        return with_wait(sink)

    def show(self, shown: chat.Message, length: int) -> Mapping[str, Any]:
        """See `WithDigests`."""
        return {"embeds": [message_embed(shown, length)], "allowed_mentions": {"parse": []}}

    def show_digest(self, found: Digest, tone: chat.Tone, length: int) -> Mapping[str, Any]:
        """See `WithDigests`."""
        return {"embeds": [digest_embed(found, tone, length)], "allowed_mentions": {"parse": []}}

    def fits(self, payload: Mapping[str, Any]) -> bool:
        """See `WithDigests`."""
        return fits(payload["embeds"][0])

    def classify(self, response: Response, now: float) -> Outcome:
        """401, 403, 404 and 410: the webhook is gone. 429 names its pause in a header and, with decimals, in the body;
        the longer one counts."""
        outcome = http_outcome(response, now)
        if response.error is not None:
            return outcome
        answer = mapping(read_object(response.excerpt))
        if response.status_code != 429:
            return refusal(response.status_code, _code(answer)) or outcome
        pauses = [pause for pause in (outcome.retry_after_seconds, _pause(answer)) if pause is not None]
        return Outcome(verdict="retry", reason=outcome.reason, retry_after_seconds=max(pauses, default=None))


def with_wait(url: str) -> str:
    """The URL with `wait=true`, so that Discord answers once it has stored the message, and says so if it has not.
    Other parameters, such as `thread_id`, stay as they are."""
    address, _, query = url.partition("?")
    kept = [pair for pair in query.split("&") if pair and pair.partition("=")[0] != "wait"]
    return f"{address}?{'&'.join([*kept, 'wait=true'])}"


def _sink_problem(sink: str) -> str:
    """The reason why a URL of Discord takes no embeds; empty if it does, or is not Discord's."""
    host, parts = host_of(sink), split_url(sink)
    if parts is None or not any(host == known or host.endswith(f".{known}") for known in _HOSTS):
        return ""
    if "/webhooks/" not in parts.path:
        return "this is no webhook: copy its URL in the settings of the channel, under Integrations, Webhooks"
    tail = parts.path.rstrip("/").rpartition("/")[2]
    return (
        f"this takes messages in the format of {tail.title()}: leave out /{tail}" if tail in ("slack", "github") else ""
    )


def _code(answer: Mapping[str, Any]) -> str:
    """Discord's own code for an error, such as 10015 (unknown webhook); empty if there is none."""
    code = answer.get("code")
    return str(code) if isinstance(code, int) and not isinstance(code, bool) and 0 < code < 10**7 else ""


def _pause(answer: Mapping[str, Any]) -> float | None:
    """The pause in an answer with the status 429, in seconds."""
    pause = answer.get("retry_after")
    if isinstance(pause, bool) or not isinstance(pause, int | float) or not 0 <= pause < math.inf:
        return None
    return float(min(pause, MAX_RETRY_AFTER_SECONDS))
