"""The kinds of sinks as the API uses them: the API does not import `subscribers`."""

from collections.abc import Sequence

from relay.api.ports import Kinds
from relay.redaction import url_without_path
from subscribers import registry


def api_kinds(type_prefixes: Sequence[str]) -> Kinds:
    """All kinds. `type_prefixes` are those of the sources' event types."""
    return Kinds(
        names=tuple(registry.kinds()),
        infer=registry.infer_kind,
        check=lambda subscription: registry.kind_named(subscription.kind).check(subscription),
        default_types=lambda kind: registry.kind_named(kind).default_types(type_prefixes),
        default_incidents=lambda kind: registry.kind_named(kind).default_incidents,
        redacted_url=_redacted_url,
        signed=lambda kind: registry.kind_named(kind).signed,
        portal=lambda subscription: registry.kind_named(subscription.kind).portal(subscription),
        greeting=lambda subscription, now: registry.kind_named(subscription.kind).greeting(subscription, now),
    )


def _redacted_url(kind: str, url: str) -> str:
    """A sink's URL as it may be shown. Of an unknown kind only the host."""
    known = registry.kinds().get(kind)
    return url_without_path(url) if known is None else known.redacted_url(url)
