"""Any HTTP receiver: the CloudEvent in structured mode, or what a template makes of it, signed with Standard
Webhooks."""

from collections.abc import Sequence

from relay.core.delivery import OutboundRequest, Outcome, Response
from relay.core.events import CONTENT_TYPE, Event
from relay.core.retry import http_outcome
from relay.core.subscription import Incidents, Subscription
from relay.redaction import redacted_url
from subscribers import base, templates


class Webhook(base.Single):
    """Sends the event's stored bytes as `application/cloudevents+json`, without `ce-*` headers; with `config.template`
    what that makes of the event, as `application/json`."""

    name = "webhook"
    signed = True
    rate_per_second: float | None = None
    default_incidents: Incidents = "off"

    def default_types(self, type_prefixes: Sequence[str]) -> tuple[str, ...] | None:
        """All job events and no others."""
        return None

    def check(self, subscription: Subscription) -> None:
        """Refuses reserved headers, methods without a body, unknown options and collapsed failures."""
        errors = [*base.receiver_errors(subscription), *base.option_errors(subscription, templates.OPTIONS)]
        errors += templates.template_errors(subscription)
        base.refuse(errors)

    def render(self, event: Event, subscription: Subscription, context: base.RenderContext) -> OutboundRequest:
        """The stored bytes, unchanged, or the rendered template. Raises NotRenderable."""
        body = templates.own_body(event, subscription, context)
        return OutboundRequest(
            url=subscription.sink,
            method=subscription.method,
            headers=(("Content-Type", CONTENT_TYPE if body is None else "application/json"), *subscription.headers),
            body=event.body if body is None else body,
        )

    def classify(self, response: Response, now: float) -> Outcome:
        """The rules of plain HTTP."""
        return http_outcome(response, now)

    def redacted_url(self, url: str) -> str:
        """Without userinfo and query values, and without a path that is a credential."""
        return redacted_url(url)
