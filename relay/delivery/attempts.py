"""The record of an attempt, without secrets and bounded in size, and the `relay.*` events it can cause. No I/O."""

from collections.abc import Mapping, Sequence
from typing import Any

from relay.core import relay_events
from relay.core.deliveries.delivery import Attempt, Claimed, OutboundRequest, Response, Shown
from relay.core.deliveries.dialogue import Memory
from relay.core.events.event import DELIVERY_UNCERTAIN, Event, relay_event
from relay.core.jsontext import storable
from relay.core.subscriptions.filters import RELAY_PREFIX
from relay.core.subscriptions.subscription import Subscription
from relay.ids import new_id
from relay.redaction import REDACTED, is_credential, redact_text, redact_texts, redacted_url, without

EXCERPT_CHARACTERS = 1024
READ_BYTES = 4 * EXCERPT_CHARACTERS
"""Bytes read for an excerpt: more than are kept, so that a secret across its end is recognised."""

MAX_HEADERS = 100
HEADER_CHARACTERS = 1024
"""Maximum length of a header's value."""
READ_HEADER_CHARACTERS = 4 * HEADER_CHARACTERS
"""Characters read of a header's value: more than are kept, so that a secret across its end is recognised."""
NAME_CHARACTERS = 256
HEADERS_CHARACTERS = 8192
"""Maximum length of all headers of a request or a response, names included."""
CUT = "…[truncated]"
SHOWN_CHARACTERS = 16_384
"""Maximum total length of the bodies of a dry run."""

Headers = Sequence[tuple[str, str]]


def attempt_of(
    number: int,
    headers: Headers,
    response: Response,
    *,
    secrets: Sequence[str] = (),
    decision: str | None = None,
    next_attempt_at: float | None = None,
    made_up: Sequence[OutboundRequest] | None = None,
) -> Attempt:
    """The record of an attempt that sent `headers`. Redacts credentials, and `secrets` where the sink echoes them.
    `made_up`: the requests of a dry run."""
    excerpt, is_hex = _excerpt(response, secrets) if response.excerpt else (None, False)
    return Attempt(
        number=number,
        started_at=response.started_at,
        duration_ms=response.duration_ms,
        status_code=response.status_code,
        error=_error_text(response, secrets),
        request_headers=_shown(headers, secrets),
        response_headers=_shown(response.headers, secrets),
        response_excerpt=excerpt,
        excerpt_is_hex=is_hex,
        remote_ip=response.remote_ip,
        timings=response.timings,
        decision=None if decision is None else without(decision, secrets),
        next_attempt_at=next_attempt_at,
        requests=None if made_up is None else _made_up(made_up, secrets),
    )


def bare(attempt: Attempt) -> Attempt:
    """The attempt without details that the database may reject: number, times and status."""
    return Attempt(
        number=attempt.number,
        started_at=attempt.started_at,
        duration_ms=attempt.duration_ms,
        status_code=attempt.status_code,
        decision="the details of this attempt could not be stored",
        next_attempt_at=attempt.next_attempt_at,
    )


def _ended(claimed: Claimed, attempt: Attempt, reason: str) -> dict[str, Any]:
    """The data common to events about a dead or an uncertain delivery."""
    return {
        "delivery_id": claimed.id,
        "event_id": claimed.event.id,
        "event_type": claimed.event.type,
        "subscription_id": claimed.subscription_id,
        "job_id": None if claimed.event.job_uid is None else claimed.event.subject,
        "attempts": attempt.number,
        "last_error": attempt.error or reason,
    }


def expired_event(
    claimed: Claimed,
    attempt: Attempt,
    *,
    reason: str,
    exhausted: bool,
    now: float,
    dataschema_base: str,
    owner: str | None,
) -> Event | None:
    """The event that a delivery is dead. None if its own event is about the relay: a dead sink subscribed to those
    would cause new ones forever. `owner`: the subscription's."""
    if claimed.event.type.startswith(RELAY_PREFIX):
        return None
    data = relay_events.delivery_expired_data(
        **_ended(claimed, attempt, reason),
        reason="exhausted" if exhausted else "refused",
    )
    return _notice("relay.delivery.expired", data, now, claimed.subscription_id, dataschema_base, owner)


def uncertain_event(
    claimed: Claimed,
    attempt: Attempt,
    *,
    reason: str,
    exhausted: bool,
    now: float,
    dataschema_base: str,
    subscription: Subscription,
    memory: Memory,
) -> Event | None:
    """The event that a delivery is uncertain. None as for `expired_event`. `memory`: the delivery's memory."""
    if claimed.event.type.startswith(RELAY_PREFIX):
        return None
    data = relay_events.delivery_uncertain_data(
        **_ended(claimed, attempt, reason),
        reason="exhausted" if exhausted else "cannot_tell",
        kind=subscription.kind,
        memory=memory,
    )
    return _notice(DELIVERY_UNCERTAIN, data, now, claimed.subscription_id, dataschema_base, subscription.owner)


def subscription_event(
    type: str, subscription: Subscription, shown_sink: str, *, reason: str, since: float | None, now: float, base: str
) -> Event:
    """The event `type`: a subscription was disabled, or is enabled again. `since`: start of the sink's failures."""
    data = relay_events.subscription_data(subscription_id=subscription.id, sink=shown_sink, reason=reason, since=since)
    return _notice(type, data, now, subscription.id, base, subscription.owner)


def _notice(
    type: str, data: Mapping[str, object], now: float, subject: str, dataschema_base: str, owner: str | None
) -> Event:
    dataschema = relay_events.dataschema_for(type, dataschema_base)
    return relay_event(new_id("evt", now), type, now, data, dataschema=dataschema, subject=subject, owner=owner)


def _shown(headers: Headers, secrets: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    """The headers without credentials and secrets, truncated; a last header `…` counts those left out."""
    if not headers:
        return ()
    if sum([len(name) + len(value) for name, value in headers]) <= HEADER_CHARACTERS and len(headers) <= MAX_HEADERS:
        values = [REDACTED if is_credential(name) else without(value, secrets) for name, value in headers]
        return tuple(zip([name for name, _ in headers], redact_texts(values), strict=True))
    shown: list[tuple[str, str]] = []
    left = HEADERS_CHARACTERS
    for name, value in headers:
        cut = len(value) > READ_HEADER_CHARACTERS
        if is_credential(name):
            value = REDACTED
        else:
            value = redact_text(without(value[:READ_HEADER_CHARACTERS], secrets, cut=cut))
            if cut or len(value) > HEADER_CHARACTERS:
                value = value[:HEADER_CHARACTERS] + CUT
        if len(name) > NAME_CHARACTERS:
            name = name[:NAME_CHARACTERS] + CUT
        left -= len(name) + len(value)
        if left < 0 or len(shown) == MAX_HEADERS:
            return (*shown, ("…", f"{len(headers) - len(shown)} more, not kept"))
        shown.append((name, value))
    return tuple(shown)


def _made_up(requests: Sequence[OutboundRequest], secrets: Sequence[str]) -> tuple[Shown, ...]:
    """The requests with redacted URLs. Bodies are cut to SHOWN_CHARACTERS in total."""
    shown: list[Shown] = []
    left = SHOWN_CHARACTERS
    for request in requests:
        body = storable(without(request.body.decode("utf-8", "replace"), secrets))
        if len(body) > left:
            body = body[:left] + CUT
        left = max(left - len(body), 0)
        shown.append(Shown(method=request.method, url=storable(redacted_url(request.url)), body=body))
    return tuple(shown)


def _excerpt(response: Response, secrets: Sequence[str]) -> tuple[str, bool]:
    """The start of the body as text, or as hex and True if it is not UTF-8."""
    part = response.excerpt[:READ_BYTES]
    cut = len(response.excerpt) > READ_BYTES
    try:
        text = part.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data" or not (cut or response.error or response.detail):
            shown = redact_text(without(part.decode("latin-1"), secrets, cut=cut))
            return shown[: EXCERPT_CHARACTERS // 2].encode("latin-1").hex(), True
        text = part[: error.start].decode()
    shown = redact_text(without(text, secrets, cut=cut))[:EXCERPT_CHARACTERS]
    return shown.replace("\0", "\N{REPLACEMENT CHARACTER}"), False


def _error_text(response: Response, secrets: Sequence[str]) -> str | None:
    if response.error is None:
        return None
    return f"{response.error}: {without(response.detail, secrets)}" if response.detail else response.error
