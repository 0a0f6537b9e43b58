"""Any HTTP receiver: the CloudEvent as it is, in structured mode, signed with Standard Webhooks."""

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
    """The event's own bytes, `application/cloudevents+json`, and no `ce-*` headers beside them."""

    name = "webhook"
    signed = True
    rate_per_second: float | None = None

    def default_types(self, type_prefixes: Sequence[str]) -> tuple[str, ...] | None:
        """Every job event and none about the relay."""
        return None

    def check(self, subscription: Subscription) -> None:
        """Refuses headers that the relay sets itself, methods without a body and options it does not have."""
        errors = [*base.header_errors(subscription.headers), *base.option_errors(subscription)]
        if subscription.method not in _METHODS:
            detail = f"{subscription.method} is none of {', '.join(_METHODS)}"
            errors.append(FieldError(pointer="/protocolsettings/method", code="invalid_method", detail=detail))
        base.refuse(errors)

    def render(self, event: Event, subscription: Subscription, context: base.Context) -> OutboundRequest:
        """The stored bytes, untouched: a signature holds only over what was signed."""
        return OutboundRequest(
            url=subscription.sink,
            method=subscription.method,
            headers=(("Content-Type", CONTENT_TYPE), *subscription.headers),
            body=event.body,
        )

    def classify(self, response: Response, now: float) -> Outcome:
        """As HTTP says: the rules of every plain receiver."""
        return http_outcome(response, now)

    def redacted_url(self, url: str) -> str:
        """Without userinfo and query; the path stays, unless the host is a known catch hook."""
        return redacted_url(url)
