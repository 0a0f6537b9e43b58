"""Microsoft Teams: an Adaptive Card for a workflow with the trigger "When a Teams webhook request is received".

Sources: Microsoft's documentation of incoming webhooks with Workflows, of the format of cards in Teams (a message of
at most 28 KB, Markdown in TextBlock and FactSet) and of the Request trigger of Logic Apps (answers); the schema of
Adaptive Cards 1.4.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.deliveries.retry import http_outcome
from relay.core.events.event import Event
from relay.core.jsontext import dumps, loads
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError
from relay.redaction import host_of, url_without_path
from subscribers import base
from subscribers.common import chat
from subscribers.common.digest import Digest, Limits, Line, digest
from subscribers.common.markdown import escape, linked
from subscribers.common.options import DigestOptions
from subscribers.wording.text import Pairs

MAX_BODY_BYTES = 28_000
"""Below the 28 KB that a message may have, for what Teams adds."""
_LENGTHS = (3000, 600, 150)
"""Maximum characters of a text; the next one is used if the card would be too large."""
_DIGEST_STEPS = (
    (Limits(), 300),
    (Limits(sections=6, brief=12, lines=3), 300),
    (Limits(sections=3, brief=6, lines=1), 120),
)
"""How much a digest tells, and the maximum characters of each text. The last one fits whatever the texts are."""
_APART = {"spacing": "Medium", "separator": True}

Block = dict[str, Any]

_CARD_TYPE = "application/vnd.microsoft.card.adaptive"
_SCHEMA = "http://adaptivecards.io/schemas/adaptive-card.json"
_STYLES: Mapping[chat.Tone, str] = {"bad": "attention", "warning": "warning", "good": "good", "plain": "emphasis"}
_CONNECTORS = (".webhook.office.com", "outlook.office.com", "outlook.office365.com")
_CODE = re.compile(r"[A-Za-z]{1,60}")
_SWITCHED_OFF = "WorkflowTriggerIsNotEnabled"


class Teams(chat.ForPeople, base.OneRequest):
    """One card for people per event, or a digest of several. Not signed: a workflow reads no signature."""

    name = "teams"
    title = "Teams"
    gets = "Teams gets one card"
    options = DigestOptions
    rate_per_second: float | None = 1.0

    def check(self, subscription: Subscription) -> None:
        """Refuses headers, methods except POST, unknown options, credentials, and connectors of Office 365."""
        errors = base.chat_errors(subscription, "Teams")
        if host_of(subscription.sink).endswith(_CONNECTORS):
            detail = (
                "this is a connector of Office 365, and Microsoft has retired those: create a workflow in Teams with "
                "the trigger “When a Teams webhook request is received”, and use its URL"
            )
            errors.append(FieldError(pointer="/sink", code="sink_unsuitable", detail=detail))
        base.refuse(errors)

    def render(self, event: Event, subscription: Subscription, context: base.RenderContext) -> OutboundRequest:
        """A card: the sentence in a coloured box, advice and metadata as facts, place, time and ids in small print, and
        a button for the link. Texts are cut until the message fits."""
        message = chat.message(event, subscription, context)
        for length in _LENGTHS:
            body = _body(_blocks(message, length), message.link)
            if len(body) <= MAX_BODY_BYTES:
                break
        return _request(subscription, body)

    def bundle(self, subscription: Subscription) -> base.Bundle:
        """With `digest_seconds` one card for all that came in that time; else one for each event, and a digest of what
        exceeds `messages_per_minute`."""
        return chat.bundle(subscription)

    def render_bundle(
        self, events: Sequence[Event], subscription: Subscription, context: base.RenderContext
    ) -> OutboundRequest:
        """A digest: how many of what, incidents and groups with what to do, the others by account and error. It tells
        less of each until the message fits."""
        for limits, length in _DIGEST_STEPS:
            found = digest(events, context, chat.time_zone(subscription), limits)
            body = _body(_digest_blocks(found, chat.tone(*events), length), None)
            if len(body) <= MAX_BODY_BYTES:
                break
        return _request(subscription, body)

    def classify(self, response: Response, now: float) -> Outcome:
        """202 is the answer of a workflow that has started. 401, 403, 404 and 410: its URL is not valid any more, or
        not for callers without an account. A workflow that is switched off answers 400; its events are held too."""
        if response.error is None:
            code = _error_code(response)
            if response.status_code == 400 and code == _SWITCHED_OFF:
                return Outcome(verdict="disable", reason=f"http_400: {code}")
            refused = chat.refusal(response.status_code, code)
            if refused is not None:
                return refused
        return http_outcome(response, now)

    def redacted_url(self, url: str) -> str:
        """Without path and query: the signature in the query is the credential."""
        return url_without_path(url)


def _request(subscription: Subscription, body: bytes) -> OutboundRequest:
    return OutboundRequest(
        url=subscription.sink, headers=(("Content-Type", "application/json; charset=utf-8"),), body=body
    )


def _body(blocks: Sequence[Block], url: str | None) -> bytes:
    """A message with a card, and a button for the URL."""
    card: Block = {
        "$schema": _SCHEMA,
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": blocks,
    }
    if url is not None:
        card["actions"] = [{"type": "Action.OpenUrl", "title": f"Open in {host_of(url)}", "url": url}]
    attachment = {"contentType": _CARD_TYPE, "contentUrl": None, "content": card}
    return dumps({"type": "message", "attachments": [attachment]})


def _blocks(message: chat.Message, length: int) -> list[Block]:
    blocks = [_box(message.sentence, message.tone, length)]
    if message.pairs:
        blocks.append(_facts(message.pairs, length))
    return [*blocks, *(_small(chat.footnote(found), length) for found in (message.place, message.ids) if found)]


def _digest_blocks(found: Digest, tone: chat.Tone, length: int) -> list[Block]:
    blocks = [_box(found.heading, tone, length), _small(found.span, length)]
    for section in found.sections:
        blocks.append({**_line(section.line, length), **_APART, "weight": "Bolder"})
        if section.advice:
            blocks.append(_facts(section.advice, length))
    blocks += [_line(line, length, "• ") for line in found.brief]
    for cluster in found.clusters:
        blocks.append({**_text(cluster.title, length), **_APART, "weight": "Bolder"})
        blocks += [_line(line, length, "• ") for line in cluster.lines]
        if cluster.more:
            blocks.append({**_text(f"… and {cluster.more:,} more", length), "spacing": "None"})
        if cluster.advice:
            advice = " · ".join(f"{label}: {text}" for label, text in cluster.advice)
            blocks.append(_small(advice, 4 * length))
    return [*blocks, _small(f"And {found.rest}", length)] if found.rest else blocks


def _box(text: str, tone: chat.Tone, length: int) -> Block:
    title = {**_text(text, length), "weight": "Bolder"}
    return {"type": "Container", "style": _STYLES[tone], "items": [title]}


def _facts(pairs: Pairs, length: int) -> Block:
    facts = [
        {"title": chat.fitted(label, length, escape), "value": chat.fitted(text, length, escape)}
        for label, text in pairs
    ]
    return {"type": "FactSet", "facts": facts}


def _line(line: Line, length: int, mark: str = "") -> Block:
    """A sentence with its link behind it; a longer URL is left out."""
    text = mark + chat.fitted(line.sentence, length, escape)
    if line.link is not None and len(line.link) <= length:
        text = f"{text} {linked(line.link)}"
    return {"type": "TextBlock", "text": text, "wrap": True, "spacing": "None"}


def _small(text: str, length: int) -> Block:
    return {**_text(text, length), "size": "Small", "isSubtle": True, "spacing": "Small"}


def _text(text: str, length: int) -> Block:
    return {"type": "TextBlock", "text": chat.fitted(text, length, escape), "wrap": True}


def _error_code(response: Response) -> str:
    """The code in `{"error": {"code": …}}`; empty if there is none."""
    try:
        answer = loads(response.excerpt)
    except ValueError:
        return ""
    error = answer.get("error") if isinstance(answer, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""
