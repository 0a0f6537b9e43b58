"""Subscriptions: which events go to which sink, and how."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from relay.core.deliveries.credentials import SinkCredential
from relay.core.events.event import (
    CREATE_UNKNOWN,
    DELIVERY_EXPIRED,
    INCIDENT_EVENTS,
    SUBSCRIPTION_DISABLED,
    job_event_kind,
)

State = Literal["enabled", "paused", "disabled", "pending"]
Signature = Literal["v1", "v1a", "both"]

Handshake = Literal["off", "required"]
"""From the laxest to the strictest."""

Incidents = Literal["off", "collapse", "both"]
"""off: each failure; collapse: incidents instead of the failures in them; both: incidents and each failure."""

Protocol = Literal["HTTP", "KAFKA", "NATS", "AMQP", "PULL"]
PROTOCOLS: Mapping[str, Protocol] = {"kafka": "KAFKA", "nats": "NATS", "rabbitmq": "AMQP", "pull": "PULL"}
"""The protocol of each kind that does not send HTTP requests."""
PULL = "pull"
"""The kind that has no sink."""
SETTINGS: Final = "protocolsettings"
"""Option: the settings of the protocol, for brokers."""

PORTAL = "portal"
"""Option, a fact that is learnt and never set by a user: the customer's account at the vendor of the sink."""

_FAILURES = (CREATE_UNKNOWN, DELIVERY_EXPIRED, SUBSCRIPTION_DISABLED)
"""Besides failed jobs, the types of events that incidents are made of."""

DEFAULT_RETRY_SCHEDULE_SECONDS = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)


def has_failures(types: Iterable[str]) -> bool:
    """True if incidents are made of events of one of these types. A type of another program may look like one: that
    costs messages, while a failure whose incident does not arrive is lost."""
    return any(one in _FAILURES or job_event_kind(one) == "failed" for one in types)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningSecret:
    """A Standard Webhooks secret (`whsec_…`) or private key (`whsk_…`). `expires_at` (epoch seconds) is set once it has
    been rotated."""

    value: str = field(repr=False)
    expires_at: float | None = None
    created_at: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """The agreement of a sink to take the events of a subscription.

    origin           the name that this relay used, and uses in every request since
    rate_per_minute  maximum requests per minute that the sink permits; None: no limit
    """

    origin: str
    at: float
    rate_per_minute: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A sink and the events it gets. Times are epoch seconds.

    sink                    its URL; empty for kind `pull`, which has none
    types                   event types, matched exactly; None: all job events and no others
    incidents               whether it gets incidents, instead of or beside the failures in them; only chat kinds do
    source                  a CloudEvents source, matched exactly; None: any
    filters                 further conditions, as they were given, see `core/subscriptions/filters.py`: all must be
    true owner                   the account (`owner_of`) whose bound token made it: it gets only events about that
    account declared                who declared it, so who may remove it by no longer declaring it: "*", or the
    account whose
                            bound token did; None: it was made by hand
    callback                created by a job's `callback_url`: gets only events of jobs registered with it
    ordering                "job": an event waits for earlier ones of its job; "none": it does not
    signature               the scheme that signs its requests; callbacks always get both
    timeout_seconds         time-out of one attempt; None: the setting at that time
    retry_schedule_seconds  pauses between attempts; None: the setting at that time
    state_since             when `state` began; None: at creation
    failing_since           start of uninterrupted failures, the first for `failing_reason`
    paused_until            end of a pause the sink requested
    probe_at                while disabled: when its oldest event is tried; None: only `resume` enables it again
    handshake               whether its sink must agree before the first event; the settings have a minimum
    consent                 of its present sink; None: none yet
    handshake_at            while pending: when the sink is asked
    drain_since             when it was enabled after being disabled: its backlog is sent slowly at first
    """

    id: str
    sink: str
    kind: str = "webhook"
    types: tuple[str, ...] | None = None
    incidents: Incidents = "off"
    source: str | None = None
    filters: tuple[Mapping[str, Any], ...] = ()
    owner: str | None = None
    declared: str | None = None
    state: State = "enabled"
    state_since: float | None = None
    state_reason: str | None = None
    callback: bool = False
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    ordering: Literal["job", "none"] = "job"
    signature: Signature = "v1"
    timeout_seconds: float | None = None
    retry_schedule_seconds: tuple[float, ...] | None = None
    rate_per_second: float | None = None
    concurrency: int | None = None
    description: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    secrets: tuple[SigningSecret, ...] = field(default=(), repr=False)
    credential: SinkCredential | None = field(default=None, repr=False)
    handshake: Handshake = "off"
    consent: Consent | None = None
    handshake_at: float | None = None
    created_at: float = 0.0
    start_at: float | None = None
    failing_since: float | None = None
    failing_reason: str | None = None
    paused_until: float | None = None
    probe_at: float | None = None
    drain_since: float | None = None

    def wants(self, event_type: str, *, job_event: bool) -> bool:
        """True if it gets events of this type."""
        if self.types is None:
            return job_event
        return event_type in self.types or (event_type in INCIDENT_EVENTS and self._has_incidents)

    @property
    def wanted_types(self) -> tuple[str, ...] | None:
        """The types of the events that it gets; None: all job events and no others."""
        if self.types is None or not self._has_incidents:
            return self.types
        return tuple(dict.fromkeys((*self.types, *INCIDENT_EVENTS)))

    @property
    def _has_incidents(self) -> bool:
        """True if it gets incidents although its types do not name them: it gets failures, which they replace."""
        return self.incidents != "off" and has_failures(self.types or ())

    @property
    def reached_by(self) -> tuple[object, ...]:
        """The facts that determine the sink's response besides the event: URL, method, headers, the protocol's
        settings, and credential."""
        settings = tuple(sorted((self.options.get(SETTINGS) or {}).items()))
        return self.sink, self.method, self.headers, settings, None if self.credential is None else self.credential.id

    @property
    def protocol(self) -> Protocol:
        """The protocol that carries its events."""
        return PROTOCOLS.get(self.kind, "HTTP")

    @property
    def is_dry(self) -> bool:
        """True if its deliveries are shown instead of sent."""
        return bool(self.options.get("dry_run"))

    @property
    def has_template(self) -> bool:
        """True if its owner's template makes the body, which takes up to some milliseconds an event."""
        settings = self.options.get(SETTINGS)
        return "template" in self.options or (settings is not None and any("{" in text for text in settings.values()))

    @property
    def allowed_per_second(self) -> float | None:
        """The lower one of `rate_per_second` and the rate that the sink permits; None: no limit."""
        permitted = None if self.consent is None else self.consent.rate_per_minute
        rates = [rate for rate in (self.rate_per_second, permitted and permitted / 60) if rate is not None]
        return min(rates, default=None)

    @property
    def enabled_since(self) -> float | None:
        """Time at which it was last enabled or resumed, 0 if never disabled; None while it is not enabled."""
        return (self.state_since or 0.0) if self.state == "enabled" else None

    @property
    def disabled_reason(self) -> str | None:
        """The reason why it is disabled; None if it is not."""
        return self.state_reason if self.state == "disabled" else None
