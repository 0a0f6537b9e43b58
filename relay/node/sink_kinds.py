"""The kinds of sinks as the API uses them: the API does not import `subscribers`."""

from collections.abc import Sequence

from relay.api.http.ports import Kinds
from relay.core.deliveries.broker import Broker, Message
from relay.core.subscriptions.subscription import Subscription
from relay.redaction import url_without_path
from subscribers import registry
from subscribers.common.brokers import ToBroker


def api_kinds(type_prefixes: Sequence[str]) -> Kinds:
    """All kinds. `type_prefixes` are those of the sources' event types."""
    return Kinds(
        names=tuple(registry.kinds()),
        infer=registry.infer_kind,
        check=lambda subscription: registry.kind_named(subscription.kind).check(subscription),
        default_types=lambda kind: registry.kind_named(kind).default_types(type_prefixes),
        default_timeout_seconds=lambda kind: registry.kind_named(kind).timeout_seconds,
        default_incidents=lambda kind: registry.kind_named(kind).default_incidents,
        redacted_url=_redacted_url,
        signed=lambda kind: registry.kind_named(kind).signed,
        portal=lambda subscription: registry.kind_named(subscription.kind).portal(subscription),
        broker=broker_of,
        greeting=lambda subscription, now: registry.kind_named(subscription.kind).greeting(subscription, now),
        names_somebody=lambda subscription: registry.kind_named(subscription.kind).names_somebody(subscription),
    )


def broker_of(subscription: Subscription) -> tuple[Broker, Message | None] | None:
    """The broker of a subscription, and a destination to look for there; None: it has none."""
    kind = registry.kind_named(subscription.kind)
    return (kind.broker(subscription), kind.place(subscription)) if isinstance(kind, ToBroker) else None


def _redacted_url(kind: str, url: str) -> str:
    """A sink's URL as it may be shown. Of an unknown kind only the host."""
    known = registry.kinds().get(kind)
    return url_without_path(url) if known is None else known.redacted_url(url)
