"""An attempt as it is recorded and shown, and the events that its end can cause. No I/O."""

from collections.abc import Mapping, Sequence

from relay.core import notices
from relay.core.delivery import Attempt, Claimed, Response
from relay.core.events import Event, relay_event
from relay.ids import new_id
from relay.log import redact_text

EXCERPT_CHARACTERS = 1024
SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "webhook-signature", "x-api-key", "x-api-token"}
)

Headers = Sequence[tuple[str, str]]


def attempt_of(number: int, headers: Headers, response: Response, decision: str | None = None) -> Attempt:
    """What is kept of one try: `headers` are those that were sent. No secret stays in it."""
    return Attempt(
        number=number,
        started_at=response.started_at,
        duration_ms=response.duration_ms,
        status_code=response.status_code,
        error=_error_text(response),
        request_headers=_redacted(headers),
        response_headers=_redacted(response.headers),
        response_excerpt=_excerpt(response.excerpt),
        remote_ip=response.remote_ip,
        decision=decision,
    )


def expired_event(
    claimed: Claimed, attempt: Attempt, *, reason: str, exhausted: bool, now: float, dataschema_base: str
) -> Event | None:
    """Says that a delivery was given up; None for an event about the relay, since a dead sink that asked for these
    would feed itself without end."""
    event = claimed.event
    if event.job_uid is None:
        return None
    data = notices.delivery_expired_data(
        delivery_id=claimed.id,
        event_id=event.id,
        event_type=event.type,
        subscription_id=claimed.subscription_id,
        job_id=event.subject,
        attempts=attempt.number,
        last_error=attempt.error or reason,
        reason="exhausted" if exhausted else "refused",
    )
    return _notice("relay.delivery.expired", data, now, claimed.subscription_id, dataschema_base)


def disabled_event(
    subscription_id: str, shown_sink: str, *, reason: str, since: float | None, now: float, dataschema_base: str
) -> Event:
    """Says that a subscription was disabled; `since`: its sink has only failed from then on."""
    data = notices.subscription_data(subscription_id=subscription_id, sink=shown_sink, reason=reason, since=since)
    return _notice("relay.subscription.disabled", data, now, subscription_id, dataschema_base)


def recovered_event(
    subscription_id: str, shown_sink: str, *, reason: str, since: float | None, now: float, dataschema_base: str
) -> Event:
    """Says that a disabled subscription is enabled again; `since`: its sink had only failed from then on."""
    data = notices.subscription_data(subscription_id=subscription_id, sink=shown_sink, reason=reason, since=since)
    return _notice("relay.subscription.recovered", data, now, subscription_id, dataschema_base)


def _notice(type: str, data: Mapping[str, object], now: float, subject: str, dataschema_base: str) -> Event:
    dataschema = notices.dataschema_for(type, dataschema_base)
    return relay_event(new_id("evt", now), type, now, data, dataschema=dataschema, subject=subject)


def _redacted(headers: Headers) -> tuple[tuple[str, str], ...]:
    return tuple([(name, "[redacted]" if name.lower() in SECRET_HEADERS else value) for name, value in headers])


def _excerpt(body: bytes) -> str | None:
    if not body:
        return None
    return redact_text(body[: EXCERPT_CHARACTERS * 4].decode("utf-8", "replace"))[:EXCERPT_CHARACTERS].replace(
        "\0", "�"
    )


def _error_text(response: Response) -> str | None:
    if response.error is None:
        return None
    return f"{response.error}: {response.detail}" if response.detail else response.error
