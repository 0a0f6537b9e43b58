"""Microsoft Teams: an Adaptive Card for a workflow with the trigger "When a Teams webhook request is received".

Sources: Microsoft's documentation of incoming webhooks with Workflows, of the format of cards in Teams (a message of
at most 28 KB, Markdown in TextBlock and FactSet) and of the Request trigger of Logic Apps (answers); the schema of
Adaptive Cards 1.4.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from relay.core.delivery import OutboundRequest, Outcome, Response
from relay.core.events import Event
from relay.core.jsontext import dumps, loads
from relay.core.retry import http_outcome
from relay.core.subscription import Incidents, Subscription
from relay.errors import FieldError
from relay.redaction import host_of, url_without_path
from subscribers import base, chat
from subscribers.markdown import escape

MAX_BODY_BYTES = 28_000
"""Below the 28 KB that a message may have, for what Teams adds."""
_LENGTHS = (3000, 600, 150)
"""Maximum characters of a text; the next one is used if the card would be too large."""
_CARD_TYPE = "application/vnd.microsoft.card.adaptive"
_SCHEMA = "http://adaptivecards.io/schemas/adaptive-card.json"
_STYLES: Mapping[chat.Tone, str] = {"bad": "attention", "warning": "warning", "good": "good", "plain": "emphasis"}
_CONNECTORS = (".webhook.office.com", "outlook.office.com", "outlook.office365.com")
_CODE = re.compile(r"[A-Za-z]{1,60}")
_SWITCHED_OFF = "WorkflowTriggerIsNotEnabled"


class Teams(base.Single):
    """One card for people per event. Not signed: a workflow reads no signature."""

    name = "teams"
    signed = False
    rate_per_second: float | None = 1.0
    default_incidents: Incidents = "collapse"

    def default_types(self, type_prefixes: Sequence[str]) -> tuple[str, ...] | None:
        """What people act on or wait for."""
        return chat.default_types(type_prefixes)

    def check(self, subscription: Subscription) -> None:
        """Refuses headers, methods except POST, unknown options, credentials, and connectors of Office 365."""
        errors = base.option_errors(subscription, chat.OPTIONS)
        errors += base.chat_errors(subscription, "Teams")
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
            body = dumps(_message(message, length))
            if len(body) <= MAX_BODY_BYTES:
                break
        return OutboundRequest(
            url=subscription.sink, headers=(("Content-Type", "application/json; charset=utf-8"),), body=body
        )

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


def _message(message: chat.Message, length: int) -> dict[str, Any]:
    card: dict[str, Any] = {
        "$schema": _SCHEMA,
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": _blocks(message, length),
    }
    if message.link is not None:
        title = f"Open in {host_of(message.link)}"
        card["actions"] = [{"type": "Action.OpenUrl", "title": title, "url": message.link}]
    return {"type": "message", "attachments": [{"contentType": _CARD_TYPE, "contentUrl": None, "content": card}]}


def _blocks(message: chat.Message, length: int) -> list[dict[str, Any]]:
    title = {**_text(message.sentence, length), "weight": "Bolder"}
    blocks: list[dict[str, Any]] = [{"type": "Container", "style": _STYLES[message.tone], "items": [title]}]
    if message.pairs:
        facts = [
            {"title": chat.fitted(label, length, escape), "value": chat.fitted(text, length, escape)}
            for label, text in message.pairs
        ]
        blocks.append({"type": "FactSet", "facts": facts})
    small = filter(None, (chat.footnote(message.place), chat.footnote(message.ids)))
    look = {"size": "Small", "isSubtle": True, "spacing": "Small"}
    return [*blocks, *({**_text(text, length), **look} for text in small)]


def _text(text: str, length: int) -> dict[str, Any]:
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
