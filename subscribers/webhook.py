"""Any HTTP receiver: the CloudEvent in structured mode, signed with Standard Webhooks."""

from collections.abc import Sequence

from relay.core.delivery import OutboundRequest, Outcome, Response
from relay.core.events import CONTENT_TYPE, Event
from relay.core.retry import http_outcome
from relay.core.subscription import Subscription
from relay.errors import FieldError
from relay.redaction import redacted_url
from subscribers import base

_METHODS = ("POST", "PUT", "PATCH")


class Webhook:
    """Sends the event's stored bytes as `application/cloudevents+json`, without `ce-*` headers."""

    name = "webhook"
    signed = True
    rate_per_second: float | None = None

    def default_types(self, type_prefixes: Sequence[str]) -> tuple[str, ...] | None:
        """All job events and none about the relay."""
        return None

    def check(self, subscription: Subscription) -> None:
        """Refuses reserved headers, methods without a body and unknown options."""
        errors = [*base.header_errors(subscription.headers), *base.option_errors(subscription)]
        if subscription.method not in _METHODS:
            detail = f"{subscription.method} is not one of {', '.join(_METHODS)}"
            errors.append(FieldError(pointer="/protocolsettings/method", code="invalid_method", detail=detail))
        base.refuse(errors)

    def render(self, event: Event, subscription: Subscription, context: base.RenderContext) -> OutboundRequest:
        """The stored bytes, unchanged."""
        return OutboundRequest(
            url=subscription.sink,
            method=subscription.method,
            headers=(("Content-Type", CONTENT_TYPE), *subscription.headers),
            body=event.body,
        )

    def classify(self, response: Response, now: float) -> Outcome:
        """The rules of plain HTTP."""
        return http_outcome(response, now)

    def redacted_url(self, url: str) -> str:
        """Without userinfo and query values, and without a path that is a credential."""
        return redacted_url(url)
