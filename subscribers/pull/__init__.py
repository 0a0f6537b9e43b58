"""Pull: the relay sends nothing. A program asks for its events, and acknowledges them."""

from collections.abc import Mapping, Sequence
from typing import Any

from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.events.event import CONTENT_TYPE, Event
from relay.core.subscriptions.subscription import Incidents, Subscription
from relay.errors import FieldError
from relay.redaction import redacted_url
from subscribers import base
from subscribers.options import Settings


class Pull(base.Single):
    """No sink: what a program that pulls gets is the event as it is stored."""

    name = "pull"
    settings: type[Settings] | None = Settings
    signed = False
    rate_per_second: float | None = None
    default_incidents: Incidents = "off"

    def default_types(self, type_prefixes: Sequence[str]) -> tuple[str, ...] | None:
        """All job events and no others."""
        return None

    def arriving(self, shown: Mapping[str, Any], *, types_given: bool) -> str:
        """For a program that asks."""
        return (
            f"A program that asks gets {base.events_of(shown)} (`relay listen --subscription {shown['id']}`), in order "
            "within a job or partition key."
        )

    def check(self, subscription: Subscription) -> None:
        """Refuses what is for a sink."""
        given = (
            ("/sink", "sink_unsuitable", bool(subscription.sink)),
            ("/protocolsettings", "unknown_field", bool(subscription.headers) or subscription.method != "POST"),
            ("/sinkcredential", "credential_unsuitable", subscription.credential is not None),
            ("/config/handshake", "handshake_unsuitable", subscription.handshake != "off"),
            ("/config/incidents", "incidents_unsuitable", subscription.incidents != "off"),
        )
        detail = "a subscription of protocol PULL sends nothing, so it has none: a program asks for its events"
        base.refuse([FieldError(pointer=pointer, code=code, detail=detail) for pointer, code, wrong in given if wrong])

    def render(self, event: Event, subscription: Subscription, context: base.RenderContext) -> OutboundRequest:
        """The event as a preview shows it."""
        return OutboundRequest(url="", method="PULL", headers=(("Content-Type", CONTENT_TYPE),), body=event.body)

    def classify(self, response: Response, now: float) -> Outcome:
        """Never called: nothing is sent."""
        raise NotImplementedError

    def redacted_url(self, url: str) -> str:
        """Empty, as it is."""
        return url and redacted_url(url)
