"""Discord's webhooks: an embed without mentions.

Sources: Discord's documentation of webhooks (Execute Webhook), of messages (embed limits, allowed mentions), of message
formatting, and of rate limits (429).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.deliveries.retry import MAX_RETRY_AFTER_SECONDS, http_outcome
from relay.core.events.event import Event
from relay.core.jsontext import dumps, loads
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError
from relay.redaction import host_of, split_url, url_without_path
from subscribers import base
from subscribers.common import chat
from subscribers.common.digest import Digest, Limits, Line, digest
from subscribers.common.markdown import disarmed, escape, linked
from subscribers.common.options import DigestOptions
from subscribers.wording.text import Pairs

HOSTS = ("discord.com", "discordapp.com")
TITLE_CHARACTERS = 256
DESCRIPTION_CHARACTERS = 4096
FIELD_NAME_CHARACTERS = 256
FIELD_VALUE_CHARACTERS = 1024
FOOTER_CHARACTERS = 2048
EMBED_CHARACTERS = 6000
"""Maximum of all texts of the embeds in a message."""
_DIGEST_STEPS = (
    (Limits(), 300),
    (Limits(sections=6, brief=10, lines=3), 200),
    (Limits(sections=4, brief=6, lines=2), 100),
    (Limits(sections=3, brief=4, lines=1), 60),
)
"""How much a digest tells, and the maximum characters of each text. The last one fits whatever the texts are."""
_SHORT = 200
"""Maximum characters of each text if all of them would be too many."""
_COLOURS: Mapping[chat.Tone, int] = {"bad": 0xD83C3E, "warning": 0xF0B232, "good": 0x23A55A, "plain": 0x5865F2}


class Discord(chat.ForPeople, base.OneRequest):
    """One message with an embed per event, or a digest of several. Not signed: Discord reads no signature."""

    name = "discord"
    title = "Discord"
    gets = "Discord gets one message"
    options = DigestOptions
    rate_per_second: float | None = 0.5
    """30 requests a minute for each webhook."""

    def check(self, subscription: Subscription) -> None:
        """Refuses headers, methods except POST, unknown options, credentials, and URLs of Discord that are no
        webhook."""
        errors = base.chat_errors(subscription, "Discord")
        problem = _sink_problem(subscription.sink)
        if problem:
            errors.append(FieldError(pointer="/sink", code="sink_unsuitable", detail=problem))
        base.refuse(errors)

    def render(self, event: Event, subscription: Subscription, context: base.RenderContext) -> OutboundRequest:
        """An embed: the sentence as its title, then the link, advice and metadata as fields, place, time and ids in the
        footer."""
        message = chat.message(event, subscription, context)
        embed = _embed(message, FIELD_VALUE_CHARACTERS)
        if _size(embed) > EMBED_CHARACTERS:
            embed = _embed(message, _SHORT)
        return _request(subscription, embed)

    def bundle(self, subscription: Subscription) -> base.Bundle:
        """With `digest_seconds` one message for all that came in that time; else one for each event, and a digest of
        what exceeds `messages_per_minute`."""
        return chat.bundle(subscription)

    def render_bundle(
        self, events: Sequence[Event], subscription: Subscription, context: base.RenderContext
    ) -> OutboundRequest:
        """A digest: how many of what, then a field for each incident and group, and for the others by account and
        error. It tells less of each until the embed fits."""
        for limits, length in _DIGEST_STEPS:
            found = digest(events, context, chat.time_zone(subscription), limits)
            embed = _digest_embed(found, chat.tone(*events), length)
            if _size(embed) <= EMBED_CHARACTERS and _units(embed["description"]) <= DESCRIPTION_CHARACTERS:
                break
        return _request(subscription, embed)

    def classify(self, response: Response, now: float) -> Outcome:
        """401, 403, 404 and 410: the webhook is gone. 429 names its pause in a header and, with decimals, in the body;
        the longer one counts."""
        if response.error is not None:
            return http_outcome(response, now)
        answer = _answer(response)
        refused = chat.refusal(response.status_code, _code(answer))
        if refused is not None:
            return refused
        outcome = http_outcome(response, now)
        if response.status_code != 429:
            return outcome
        pauses = [pause for pause in (outcome.retry_after_seconds, _pause(answer)) if pause is not None]
        return Outcome(verdict="retry", reason=outcome.reason, retry_after_seconds=max(pauses, default=None))

    def redacted_url(self, url: str) -> str:
        """Without the path, which is the credential."""
        return url_without_path(url)


def _request(subscription: Subscription, embed: Mapping[str, Any]) -> OutboundRequest:
    payload = {"embeds": [embed], "allowed_mentions": {"parse": []}}
    return OutboundRequest(
        url=with_wait(subscription.sink), headers=(("Content-Type", "application/json"),), body=dumps(payload)
    )


def with_wait(url: str) -> str:
    """The URL with `wait=true`, so that Discord answers once it has stored the message, and says so if it has not.
    Other parameters, such as `thread_id`, stay as they are."""
    address, _, query = url.partition("?")
    kept = [pair for pair in query.split("&") if pair and pair.partition("=")[0] != "wait"]
    return f"{address}?{'&'.join([*kept, 'wait=true'])}"


def _sink_problem(sink: str) -> str:
    """Why a URL of Discord takes no embeds; empty if it does, or is not Discord's."""
    host, parts = host_of(sink), split_url(sink)
    if parts is None or not any(host == known or host.endswith(f".{known}") for known in HOSTS):
        return ""
    if "/webhooks/" not in parts.path:
        return "this is no webhook: copy its URL in the settings of the channel, under Integrations, Webhooks"
    tail = parts.path.rstrip("/").rpartition("/")[2]
    return (
        f"this takes messages in the format of {tail.title()}: leave out /{tail}" if tail in ("slack", "github") else ""
    )


def _embed(message: chat.Message, length: int) -> dict[str, Any]:
    title = chat.fitted(message.sentence, TITLE_CHARACTERS, escape)
    embed: dict[str, Any] = {"title": title, "color": _COLOURS[message.tone]}
    below = [chat.fitted(message.sentence, length, escape)] if title != escape(message.sentence) else []
    if message.link is not None:
        below.append(linked(message.link))
    if below:
        embed["description"] = "\n".join(below)
    if message.pairs:
        embed["fields"] = [
            {
                "name": chat.fitted(label, FIELD_NAME_CHARACTERS, escape),
                "value": chat.fitted(text, length, escape),
                "inline": len(text) <= 40,
            }
            for label, text in message.pairs
        ]
    small = chat.footnote((*message.place, *message.ids))
    if small:
        embed["footer"] = {"text": chat.fitted(small, min(2 * length, FOOTER_CHARACTERS), disarmed)}
    return embed


def _digest_embed(found: Digest, tone: chat.Tone, length: int) -> dict[str, Any]:
    fields = [
        _field(section.line.sentence, [_link_below(section.line, length), *_advice(section.advice, length)], length)
        for section in found.sections
    ]
    for cluster in found.clusters:
        lines = [_line(line, length) for line in cluster.lines]
        more = [f"… and {cluster.more:,} more"] if cluster.more else []
        fields.append(_field(cluster.title, [*lines, *more, *_advice(cluster.advice, length)], length))
    embed: dict[str, Any] = {
        "title": chat.fitted(found.heading, TITLE_CHARACTERS, escape),
        "color": _COLOURS[tone],
        "description": "\n".join([escape(found.span), *(_line(line, length) for line in found.brief)]),
        "fields": fields,
    }
    return (
        {**embed, "footer": {"text": chat.fitted(f"And {found.rest}", 2 * length, disarmed)}} if found.rest else embed
    )


def _field(name: str, lines: Sequence[str], length: int) -> dict[str, Any]:
    """A field with as many of the lines as it takes."""
    value = ""
    for line in filter(None, lines):
        longer = f"{value}\n{line}" if value else line
        if _units(longer) > FIELD_VALUE_CHARACTERS:
            break
        value = longer
    return {
        "name": chat.fitted(name, min(length, FIELD_NAME_CHARACTERS), escape),
        "value": value or "-",
        "inline": False,
    }


def _line(line: Line, length: int) -> str:
    """A sentence with its link behind it; a longer URL is left out."""
    text = f"• {chat.fitted(line.sentence, length, escape)}"
    return f"{text} {linked(line.link)}" if line.link is not None and len(line.link) <= length else text


def _link_below(line: Line, length: int) -> str:
    return linked(line.link) if line.link is not None and len(line.link) <= length else ""


def _advice(pairs: Pairs, length: int) -> list[str]:
    return [f"**{chat.fitted(label, length, escape)}:** {chat.fitted(text, length, escape)}" for label, text in pairs]


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "replace")) // 2


def _size(embed: Mapping[str, Any]) -> int:
    """The UTF-16 code units that count towards the limit."""
    texts = [embed["title"], embed.get("description", ""), embed.get("footer", {}).get("text", "")]
    texts += [text for field in embed.get("fields", ()) for text in (field["name"], field["value"])]
    return sum(map(_units, texts))


def _answer(response: Response) -> Mapping[str, Any]:
    try:
        answer = loads(response.excerpt)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


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
