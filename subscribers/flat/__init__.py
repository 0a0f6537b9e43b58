"""The catch hooks of Zapier, Make, n8n, Pipedream and IFTTT: one flat JSON object per event, whose fields people pick
from a list."""

from relay.core.deliveries.delivery import OutboundRequest
from relay.core.events.event import Event
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError
from relay.redaction import host_of, split_url, url_without_path
from subscribers import base
from subscribers.common import templates
from subscribers.common.options import TemplateOptions
from subscribers.flat.render import fields


class Flat(base.Kind):
    """The fields of an event as one JSON object of texts, numbers and booleans. Signed, as a webhook is: most receivers
    ignore the headers, and those that run code can verify them.

    Make answers 400 while its queue is full, and n8n 404 while a workflow is switched off: both are retried.
    """

    name = "flat"
    offer = base.Offer(
        name="Zapier, Make or n8n",
        words="A workflow gets each event as a webhook with fields to pick from. Also Pipedream and IFTTT.",
        address="The URL of the webhook that the workflow begins with.",
        example="https://hooks.zapier.com/hooks/catch/000/XXXX",
    )
    options = TemplateOptions
    form = ", as one flat JSON object"
    signed = True
    rate_per_second = 10.0
    """The lowest rate limit of these services."""

    def errors(self, subscription: Subscription) -> list[FieldError]:
        """Those of a webhook, and URLs of IFTTT that take no JSON."""
        errors = base.receiver_errors(subscription) + templates.template_errors(TemplateOptions.of(subscription))
        parts = split_url(subscription.sink)
        if parts is not None and host_of(subscription.sink) == "maker.ifttt.com" and "/json/" not in parts.path:
            detail = "this takes no JSON: use https://maker.ifttt.com/trigger/EVENT/json/with/key/KEY"
            errors.append(base.sink_unsuitable(detail))
        return errors

    def render(self, event: Event, subscription: Subscription, context: base.RenderContext) -> OutboundRequest:
        """The fixed fields, then those of the metadata and, of an event that is about no job, of its data; or the
        rendered template."""
        body = templates.own_body(event, TemplateOptions.of(subscription), context)
        return base.request_to(
            subscription,
            ("Content-Type", "application/json"),
            body=dumps(fields(event, context)) if body is None else body,
        )

    def redacted_url(self, url: str) -> str:
        """Without the path, which is the credential on every host: people run n8n themselves."""
        return url_without_path(url)
