"""Subscriptions as answers: the core value as JSON."""

from collections.abc import Callable
from typing import Any, cast

from relay.api.deliveries.sink_credentials import (
    credential_view,
)
from relay.api.http.fields import (
    header_view,
)
from relay.api.http.ports import ApiSettings
from relay.api.subscriptions.kind_fields import shown_fields
from relay.api.subscriptions.models import (
    Lag,
    ShownConfig,
    ShownConsent,
    ShownProtocolSettings,
    Subscription,
    SubscriptionWithSkipped,
)
from relay.clock import optional_rfc3339, to_rfc3339
from relay.core.deliveries import pulls
from relay.core.records import Skipped
from relay.core.subscriptions import subscription as core


def subscription_view(
    subscription: core.Subscription,
    shown_sink: Callable[[str, str], str],
    settings: ApiSettings,
    *,
    secret: str | None = None,
) -> Subscription:
    """A subscription, with the defaults of the settings filled in. `secret` is only shown once, on creation."""
    own_timeout, own_schedule = subscription.timeout_seconds, subscription.retry_schedule_seconds
    config: dict[str, Any] = {
        "kind": subscription.kind,
        "ordering": subscription.ordering,
        "signature": "both" if subscription.callback else subscription.signature,
        "start": start_view(subscription.start_at),
        "timeout_seconds": settings.default_timeout_seconds if own_timeout is None else own_timeout,
        "retry_schedule": list(settings.default_retry_schedule_seconds if own_schedule is None else own_schedule),
        "rate_per_second": subscription.rate_per_second,
        "concurrency": subscription.concurrency,
        "portal": subscription.options.get("portal"),
        "dry_run": subscription.options.get("dry_run", False),
        "handshake": subscription.handshake,
        "incidents": subscription.incidents,
        **shown_fields(subscription, "config"),
    }
    if secret is not None:
        config["secret"] = secret
    return {
        "id": subscription.id,
        "sink": shown_sink(subscription.kind, subscription.sink) or None,
        "types": None if subscription.types is None else list(subscription.types),
        "source": subscription.source,
        "filters": [dict(one) for one in subscription.filters] or None,
        "protocol": subscription.protocol,
        "protocolsettings": _settings_view(subscription),
        "sinkcredential": credential_view(subscription.credential),
        "config": cast("ShownConfig", config),
        "description": subscription.description,
        "state": subscription.state,
        "disabled_reason": subscription.disabled_reason,
        "state_since": to_rfc3339(subscription.state_since or subscription.created_at),
        "state_reason": subscription.state_reason,
        "failing_since": optional_rfc3339(subscription.failing_since),
        "failing_reason": subscription.failing_reason,
        "paused_until": optional_rfc3339(subscription.paused_until),
        "next_probe_at": optional_rfc3339(subscription.probe_at),
        "owner": subscription.owner,
        "declared": subscription.declared is not None,
        "next_handshake_at": optional_rfc3339(subscription.handshake_at),
        "consent": _consent_view(subscription.consent),
        "created_at": to_rfc3339(subscription.created_at),
    }


def _settings_view(subscription: core.Subscription) -> ShownProtocolSettings:
    if subscription.protocol != "HTTP":
        return cast("ShownProtocolSettings", dict(subscription.options.get(core.SETTINGS) or {}))
    headers = {name: header_view(name, value) for name, value in subscription.headers}
    return cast("ShownProtocolSettings", {"headers": headers, "method": subscription.method})


def with_skipped(shown: Subscription, skipped: Skipped) -> SubscriptionWithSkipped:
    """A subscription with its skipped deliveries."""
    return {**shown, "skipped": {"count": skipped.count, "since": optional_rfc3339(skipped.since)}}


def lag_view(lag: pulls.Lag, now: float) -> Lag:
    """The lag of a subscription that programs pull from."""
    return {"count": lag.count, "oldest_seconds": lag.oldest_seconds(now)}


def _consent_view(consent: core.Consent | None) -> ShownConsent | None:
    if consent is None:
        return None
    return {
        "origin": consent.origin,
        "rate_per_minute": consent.rate_per_minute,
        "at": to_rfc3339(consent.at),
    }


def start_view(start_at: float | None) -> str:
    """The value of `config.start`."""
    if start_at is None:
        return "now"
    return to_rfc3339(start_at) if start_at else "earliest"
