"""Shared by the components of delivery on one node: settings, the store, the sinks and how to reach them, leases."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from relay.clock import Clock
from relay.core.events.event import Event, Explain, unexplained
from relay.core.records import Lease
from relay.core.subscriptions.subscription import (
    DEFAULT_RETRY_SCHEDULE_SECONDS,
    Handshake,
    SigningSecret,
    Subscription,
)
from relay.delivery.publishing import Publish, no_brokers
from relay.lease_owner import LeaseOwner
from relay.metrics import Metrics
from relay.signals import Signals
from subscribers.registry import kinds

if TYPE_CHECKING:
    from relay.http.sender import Transport
    from relay.store.store import Store
    from relay.tracing import Tracing
    from subscribers.base import Kind

LEASE_MARGIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """Limits, timeout and retry policy: see docs/reference/settings.md. Those of a subscription take precedence.

    handshake  the minimum handshake for every sink
    base_url   URL of this relay
    public_url, titles, search_keys, explain  for texts, see `RenderContext`
    callback_secrets  sign requests to callback URLs; without any the stored ones do
    """

    concurrency: int = 256
    per_host: int = 64
    timeout_seconds: float = 15.0
    retry_schedule_seconds: tuple[float, ...] = DEFAULT_RETRY_SCHEDULE_SECONDS
    jitter: float = 0.2
    disable_after_seconds: float = 432_000.0
    dataschema_base: str = ""
    handshake: Handshake = "off"
    base_url: str = ""
    public_url: str | None = None
    titles: Mapping[str, str] = field(default_factory=dict)
    search_keys: tuple[str, ...] = ()
    explain: Explain = field(default=unexplained, compare=False)
    callback_secrets: tuple[SigningSecret, ...] = field(default=(), repr=False)

    def timeout_of(self, subscription: Subscription) -> float:
        """The timeout of one attempt, in seconds."""
        return self.timeout_seconds if subscription.timeout_seconds is None else subscription.timeout_seconds

    def schedule_of(self, subscription: Subscription) -> tuple[float, ...]:
        """The pauses between attempts, in seconds."""
        own = subscription.retry_schedule_seconds
        return self.retry_schedule_seconds if own is None else own


@dataclass(kw_only=True, eq=False)
class Shared:
    """Shared by dispatcher, worker, handshakes, signer and pulls.

    settings     the current settings; a reload replaces them
    lease_clock  the clock of leases, see `Database.lease_clock`
    kinds        the kinds of sinks by name
    tracing      makes a span of each attempt; None: there are no spans
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
    tracing: "Tracing | None" = None
    _leases: int = 0

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
