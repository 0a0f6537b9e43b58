"""What the components of delivery on one node share: the store, the sinks and how to reach them, clocks and leases."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from relay.clock import Clock
from relay.core.events.event import Event
from relay.core.records import Lease
from relay.delivery.outcomes import Policy
from relay.delivery.publishing import Publish, no_brokers
from relay.delivery.settings import DeliverySettings
from relay.lease_owner import LeaseOwner
from relay.metrics import Metrics
from relay.signals import Signals
from subscribers.registry import kinds

if TYPE_CHECKING:
    from relay.http.sender import Transport
    from relay.store.store import Store
    from subscribers.base import Kind

LEASE_MARGIN_SECONDS = 30.0


@dataclass(kw_only=True, eq=False)
class Shared:
    """Shared by dispatcher, worker, handshakes, signer and pulls.

    settings     the current settings; a reload replaces them
    lease_clock  the clock of leases, see `Database.lease_clock`
    kinds        the kinds of sinks by name
    """

    store: "Store"
    settings: DeliverySettings
    transport: "Transport"
    publish: Publish = no_brokers
    clock: Clock
    lease_clock: Clock
    metrics: Metrics
    signals: Signals
    holder: LeaseOwner
    kinds: "Mapping[str, Kind]" = field(default_factory=kinds)
    random: Random = field(default_factory=Random)
    _leases: int = 0

    @property
    def policy(self) -> Policy:
        """The current policy for attempts."""
        return Policy(settings=self.settings, chance=self.random.random)

    def lease(self, timeout_seconds: float, subscription_ids: frozenset[str] = frozenset()) -> Lease:
        """A new lease for attempts of this timeout. `subscription_ids`: see `Lease`."""
        self._leases += 1
        taken_at = self.lease_clock()
        until = taken_at + timeout_seconds + LEASE_MARGIN_SECONDS
        return Lease(
            token=self.holder.token(self._leases), until=until, taken_at=taken_at, subscription_ids=subscription_ids
        )

    def recorded(self, event: Event) -> None:
        """An event was recorded that delivery itself has made."""
        self.metrics.count_event(event)
        self.signals.event_recorded()
