"""Pull: the relay sends nothing. A program asks for its events, and acknowledges them."""

from collections.abc import Mapping
from typing import Any

from relay.core.deliveries.delivery import OutboundRequest
from relay.core.events.event import CONTENT_TYPE, Event
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError
from relay.redaction import redacted_url
from subscribers import base
from subscribers.options import Settings


class Pull(base.Kind):
    """No sink: a program that pulls gets the event as it is stored."""

    name = "pull"
    offer = base.Offer(
        name="Pull",
        words="Your program asks for its events. It needs no address, and works behind a firewall.",
    )
    settings = Settings

    def arriving(self, shown: Mapping[str, Any], *, types_given: bool) -> str:
        """For a program that asks."""
        return (
            f"A program that asks gets {base.events_of(shown)} (`relay listen --subscription {shown['id']}`), in order "
            "within a job or partition key."
        )

    def errors(self, subscription: Subscription) -> list[FieldError]:
        """An error for each setting that is for a sink."""
        why = "a subscription of protocol PULL sends nothing, so it has none: a program asks for its events"
        return base.unread(subscription, sink=why, protocolsettings=why, credential=why, handshake=why, incidents=why)

    def render(self, event: Event, subscription: Subscription, context: base.RenderContext) -> OutboundRequest:
        """The event as a preview shows it."""
        return OutboundRequest(url="", method="PULL", headers=(("Content-Type", CONTENT_TYPE),), body=event.body)

    def redacted_url(self, url: str) -> str:
        """Empty, as it is."""
        return url and redacted_url(url)
