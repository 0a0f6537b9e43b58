"""What the API checks of a subscription of a kind."""

from relay.api.subscriptions.kind_fields import read_fields
from relay.core.subscriptions.subscription import PORTAL, SETTINGS, Subscription
from subscribers.base import Kind

_OF_EVERY_KIND = ("dry_run", PORTAL, SETTINGS)


def check(kind: Kind, subscription: Subscription) -> None:
    """Raises InvalidRequest for a field that the kind does not have, a wrong value, and what does not go together."""
    options = {name: value for name, value in subscription.options.items() if name not in _OF_EVERY_KIND}
    read_fields(kind.name, "config", options)
    read_fields(kind.name, SETTINGS, subscription.options.get(SETTINGS) or {})
    kind.check(subscription)
