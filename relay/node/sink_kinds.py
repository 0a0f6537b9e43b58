"""The kinds of subscriptions, as the dispatcher and the API use them: neither knows `subscribers`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relay.api.ports import Kinds
from relay.core.delivery import OutboundRequest, Outcome, Response
from relay.core.events import Event
from relay.core.subscription import Subscription
from relay.redaction import host_of
from subscribers import registry
from subscribers.base import Context, Kind


@dataclass(frozen=True, slots=True)
class RenderedKind:
    """A kind of subscription with the context that its rendering may use."""

    kind: Kind
    context: Context

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def signed(self) -> bool:
        return self.kind.signed

    @property
    def rate_per_second(self) -> float | None:
        return self.kind.rate_per_second

    def render(self, event: Event, subscription: Subscription) -> OutboundRequest:
        return self.kind.render(event, subscription, self.context)

    def classify(self, response: Response, now: float) -> Outcome:
        return self.kind.classify(response, now)

    def redacted_url(self, url: str) -> str:
        return self.kind.redacted_url(url)


def rendered_kinds(public_url: str) -> Mapping[str, RenderedKind]:
    """Every kind by its name, for the dispatcher."""
    context = Context(public_url=public_url)
    return {name: RenderedKind(kind, context) for name, kind in registry.kinds().items()}


def api_kinds(type_prefixes: Sequence[str]) -> Kinds:
    """Every kind, for the API; `type_prefixes` are those of the sources' event types."""
    return Kinds(
        names=tuple(registry.kinds()),
        infer=registry.infer_kind,
        check=lambda subscription: registry.kind_named(subscription.kind).check(subscription),
        default_types=lambda kind: registry.kind_named(kind).default_types(type_prefixes),
        redacted_url=_redacted_url,
    )


def _redacted_url(kind: str, url: str) -> str:
    """A sink as it may be shown; of a kind that this program does not have only the host."""
    known = registry.kinds().get(kind)
    return f"https://{host_of(url)}/…" if known is None else known.redacted_url(url)
