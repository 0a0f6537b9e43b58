"""Any HTTP receiver: CloudEvents in one of the three content modes, or a rendered template, signed with
Standard Webhooks.

Sources: CloudEvents 1.0.2, HTTP binding §3.1 (binary), §3.2 (structured) and §3.3 (batched); JSON format §4 (batch).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from relay.core.deliveries.delivery import OutboundRequest
from relay.core.events.event import BATCH_CONTENT_TYPE, CONTENT_TYPE, Event, in_binary_mode
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError
from subscribers import base
from subscribers.common import templates
from subscribers.webhook.options import WebhookOptions

MAX_BATCH_BYTES = 1024 * 1024
"""Maximum size of a batch. It holds 16 events of the largest size."""


class Webhook(base.Kind):
    """In structured mode, the default, it sends the event's stored bytes without `ce-*` headers; with `config.template`
    the rendered template, as `application/json`."""

    name = "webhook"
    offer = base.Offer(
        name="Webhook",
        words="Your own program gets each event as a signed HTTP request.",
        address="The https address of your receiver.",
        example="https://receiver.example/hooks",
    )
    options = WebhookOptions
    signed = True

    def sends_events(self, shown: Mapping[str, Any]) -> bool:
        """True in structured mode without a template."""
        options = WebhookOptions.stored(shown)
        return options.content_mode == "structured" and options.template is None

    def errors(self, subscription: Subscription) -> list[FieldError]:
        """Those of all receivers, and options that do not fit each other."""
        options = WebhookOptions.of(subscription)
        return [*base.receiver_errors(subscription), *templates.template_errors(options), *_mode_errors(options)]

    def render(self, event: Event, subscription: Subscription, context: base.RenderContext) -> OutboundRequest:
        """The stored bytes, unchanged, or the rendered template; in binary mode the attributes as headers, and the
        data. Of a batch: an array of one event. Raises NotRenderable."""
        options = WebhookOptions.of(subscription)
        if options.content_mode == "binary":
            attributes, data = in_binary_mode(event)
            return base.request_to(subscription, *attributes, body=data)
        if options.content_mode == "batch":
            return self.render_bundle((event,), subscription, context)
        body = templates.own_body(event, options, context)
        content_type = CONTENT_TYPE if body is None else "application/json"
        return base.request_to(subscription, ("Content-Type", content_type), body=event.body if body is None else body)

    def bundle(self, subscription: Subscription) -> base.Bundle | None:
        """In batch mode, with the limits of `config.batch`."""
        limits = WebhookOptions.of(subscription).limits()
        if limits is None:
            return None
        return base.Bundle(max_events=limits.max_events, wait_seconds=limits.max_seconds, max_bytes=MAX_BATCH_BYTES - 2)

    def render_bundle(
        self, events: Sequence[Event], subscription: Subscription, context: base.RenderContext
    ) -> OutboundRequest:
        """A JSON array of the stored bytes."""
        body = b"[" + b",".join(event.body for event in events) + b"]"
        return base.request_to(subscription, ("Content-Type", BATCH_CONTENT_TYPE), body=body)


def _mode_errors(options: WebhookOptions) -> list[FieldError]:
    mode, errors = options.content_mode, []
    if options.batch is not None and mode != "batch":
        detail = "limits of a batch need content_mode batch"
        errors.append(FieldError(pointer="/config/batch", code="batch_unsuitable", detail=detail))
    if mode != "structured" and options.template is not None:
        detail = f"a template makes a document of its own, which is no CloudEvent in {mode} mode: leave one of them out"
        errors.append(FieldError(pointer="/config/content_mode", code="content_mode_unsuitable", detail=detail))
    return errors
