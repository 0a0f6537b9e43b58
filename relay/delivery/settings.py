"""The settings of delivery, as values. See docs/settings.md, `delivery`."""

from dataclasses import dataclass, field

from relay.core.subscriptions.subscription import (
    DEFAULT_RETRY_SCHEDULE_SECONDS,
    Handshake,
    SigningSecret,
    Subscription,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """Limits, timeout and retry policy. A subscription's own timeout and schedule take precedence.

    handshake  the minimum handshake for every sink
    base_url   URL of this relay
    public_url  the same if it is for links, see `RenderContext`
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
    callback_secrets: tuple[SigningSecret, ...] = field(default=(), repr=False)

    def timeout_of(self, subscription: Subscription) -> float:
        """The timeout of one attempt, in seconds."""
        return self.timeout_seconds if subscription.timeout_seconds is None else subscription.timeout_seconds

    def schedule_of(self, subscription: Subscription) -> tuple[float, ...]:
        """The pauses between attempts, in seconds."""
        own = subscription.retry_schedule_seconds
        return self.retry_schedule_seconds if own is None else own
