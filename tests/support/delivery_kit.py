"""What the components of delivery share, for tests without a node."""

from collections import defaultdict
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from relay.clock import Clock
from relay.delivery.shared import DeliverySettings, Shared
from relay.lease_owner import LeaseOwner
from relay.metrics import Metrics
from relay.signals import Signals
from subscribers.base import Kind

SETTINGS = DeliverySettings(jitter=0.0, dataschema_base="https://relay.test")


def shared(store: Any, clock: Clock, transport: Any = None, **given: Any) -> Shared:
    """With one clock and no jitter unless given."""
    values = {"settings": SETTINGS, "lease_clock": clock, "metrics": Metrics(), "signals": Signals()}
    holder = given.pop("holder", None) or LeaseOwner()
    return Shared(**{"store": store, "clock": clock, "transport": transport, "holder": holder, **values, **given})


def only(kind: Kind) -> Mapping[str, Kind]:
    """This kind under every name."""
    return defaultdict(lambda: kind, dict.fromkeys(("", kind.name), kind))


def parts_of(store: Any, **others: Any) -> Any:
    """The parts of a store that delivery uses, some replaced."""
    names = ("deliveries", "subscriptions", "memories", "handshakes", "credentials", "secrets", "jobs", "pulls")
    return SimpleNamespace(**{name: getattr(store, name) for name in names if hasattr(store, name)} | others)
