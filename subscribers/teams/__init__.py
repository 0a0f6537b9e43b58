"""Microsoft Teams: an Adaptive Card for a workflow with the trigger "When a Teams webhook request is received".

Sources: Microsoft's documentation of incoming webhooks with Workflows, of messages in Teams (at most 28 KB) and of the
Request trigger of Logic Apps (answers).
"""

from collections.abc import Mapping
from typing import Any

from relay.core.deliveries.delivery import Outcome, Response
from relay.core.deliveries.retry import http_outcome
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError
from relay.redaction import host_of
from subscribers import base
from subscribers.common import chat
from subscribers.common.answers import code_in, read_object, refusal
from subscribers.common.digest import Digest
from subscribers.teams.render import card_message, digest_blocks, message_blocks
from subscribers.wording.text import mapping

MAX_BODY_BYTES = 28_000
"""Below the limit of 28 KB: Teams adds to a message."""
_CONNECTORS = (".webhook.office.com", "outlook.office.com", "outlook.office365.com")
_SWITCHED_OFF = "WorkflowTriggerIsNotEnabled"


class Teams(chat.WithDigests):
    """One card for people per event, or a digest of several."""

    name = "teams"
    title = "Teams"
    offer = base.Offer(
        look="teams",
        words="A channel gets a card with the next step and a button.",
        address="The URL of a workflow: in Teams, at the channel, Workflows, “Send webhook alerts to a channel”.",
        example="https://prod-00.westeurope.logic.azure.com/workflows/…",
    )
    gets = "Teams gets one card"
    lengths = (3000, 600, 150)

    def errors(self, subscription: Subscription) -> list[FieldError]:
        """Among them connectors of Office 365."""
        errors = base.chat_errors(subscription, "Teams")
        if host_of(subscription.sink).endswith(_CONNECTORS):
            detail = (
                "this is a connector of Office 365, and Microsoft has retired those: create a workflow in Teams with "
                "the trigger “When a Teams webhook request is received”, and use its URL"
            )
            errors.append(base.sink_unsuitable(detail))
        return errors

    def show(self, shown: chat.Message, length: int) -> Mapping[str, Any]:
        """A card, and a button for the link."""
        return card_message(message_blocks(shown, length), shown.link)

    def show_digest(self, found: Digest, tone: chat.Tone, length: int) -> Mapping[str, Any]:
        """See `WithDigests`."""
        return card_message(digest_blocks(found, tone, length), None)

    def fits(self, payload: Mapping[str, Any]) -> bool:
        """See `WithDigests`."""
        return len(dumps(payload)) <= MAX_BODY_BYTES

    def classify(self, response: Response, now: float) -> Outcome:
        """202 is the answer of a workflow that has started. 401, 403, 404 and 410: its URL is not valid any more, or
        not for callers without an account. A workflow that is switched off answers 400; its events are held too."""
        if response.error is not None:
            return http_outcome(response, now)
        code = code_in(mapping(read_object(response.excerpt)).get("error"))
        if response.status_code == 400 and code == _SWITCHED_OFF:
            return Outcome(verdict="disable", reason=f"http_400: {code}")
        return refusal(response.status_code, code) or http_outcome(response, now)
