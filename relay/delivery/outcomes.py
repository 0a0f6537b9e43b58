"""The consequences of an attempt: its record, without secrets and bounded in size, the delivery's new state, a disabled
subscription, events. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from relay.core import relay_events
from relay.core.deliveries import retry
from relay.core.deliveries.delivery import (
    PROXY_ERROR,
    Attempt,
    Claimed,
    OutboundRequest,
    Outcome,
    Response,
    Shown,
    at_once,
    due_since,
)
from relay.core.events.event import (
    DELIVERY_EXPIRED,
    DELIVERY_UNCERTAIN,
    SUBSCRIPTION_DISABLED,
    SUBSCRIPTION_RECOVERED,
    Event,
    relay_event,
)
from relay.core.events.sentences import counted
from relay.core.jsontext import storable
from relay.core.records import AttemptResult, Lease, MemoryTurn
from relay.core.subscriptions.filters import RELAY_PREFIX
from relay.core.subscriptions.subscription import Subscription
from relay.core.values import value_class
from relay.delivery.credentials import Sent
from relay.delivery.shared import DeliverySettings
from relay.ids import new_id
from relay.redaction import (
    REDACTED,
    is_credential,
    is_plain,
    redact_text,
    redacted_url,
    secrets_of,
    url_without_path,
    without,
)

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
    error = response.error
    if error is not None and response.detail:
        error = f"{error}: {without(response.detail, secrets)}"
    return Attempt(
        number=number,
        started_at=response.started_at,
        duration_ms=response.duration_ms,
        status_code=response.status_code,
        error=error,
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


def _shown(headers: Headers, secrets: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    """The headers without credentials and secrets, truncated; a last header `…` counts those left out."""
    if not headers:
        return ()
    if sum([len(name) + len(value) for name, value in headers]) <= HEADER_CHARACTERS and len(headers) <= MAX_HEADERS:
        shown = [(name, REDACTED if is_credential(name) else value) for name, value in headers]
        if is_plain([value for _, value in shown], secrets):
            return tuple(shown)
    shown = []
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


@value_class(frozen=True, slots=True, kw_only=True)
class FinishedAttempt:
    """An attempt and its outcome.

    redacted_sink  the sink as its owner sees it
    failing_since  start of the sink's failures
    turn           see `AttemptResult`
    others         events in the same request
    behind         its due time if a broker did not acknowledge an earlier event of its order in the same bundle
    """

    claimed: Claimed
    subscription: Subscription
    redacted_sink: str
    failing_since: float | None
    sent: Sent
    outcome: Outcome
    turn: MemoryTurn | None = None
    others: int = 0
    behind: float | None = None


@value_class(frozen=True, slots=True, kw_only=True)
class NextClaim:
    """The deliveries that recording an attempt may claim in the same transaction. See `AttemptResult`."""

    lease: Lease | None = None
    count: int = 1
    backlogged: bool = True


_STATES = {"done": "delivered", "dead": "dead", "uncertain": "uncertain", "skip": "cancelled"}


def attempt_result(
    finished: FinishedAttempt,
    settings: DeliverySettings,
    now: float,
    next_claim: NextClaim,
    *,
    chance: float,
    shown: Attempt | None = None,
) -> tuple[AttemptResult, float]:
    """The result to record for an attempt, and the end of the pause that the sink asked for (0: none).

    `next_claim` is dropped if the subscription is disabled or pauses. `chance`: a random number from [0, 1). `shown`:
    the attempt of another event in the same request, whose redacted headers and excerpt are reused.
    """
    claimed, subscription, probe = finished.claimed, finished.subscription, finished.claimed.probe
    judged = finished.outcome.judges_sink
    attempt_count = 1 if probe else claimed.attempt_count + 1
    schedule = (0.0,) if probe else settings.schedule_of(subscription)
    if finished.behind is not None:
        decision = retry.Decision(what="behind", reason=finished.outcome.reason)
    else:
        decision = retry.decide(
            finished.outcome,
            attempt_count=attempt_count,
            schedule_seconds=schedule,
            jitter=settings.jitter,
            random_value=chance,
            now=now,
            bundled=finished.others > 0,
        )
    what, again = decision.what, probe and decision.what == "retry"
    state = _STATES.get(what, "pending")
    due_at: float | None = None
    if again:
        due_at = at_once(claimed.created_at)
    elif what == "retry":
        due_at = decision.at
    elif what == "alone":
        due_at = at_once(now)
    elif what == "behind":
        due_at = finished.behind
    pause_until = 0.0 if again else decision.pause_until or 0.0
    disable = decision.reason if what == "disable" else None
    since = finished.failing_since if finished.sent.response.error != PROXY_ERROR else None
    fails = judged and state != "delivered" and not probe
    failing_seconds = now - since if since is not None and fails else 0.0
    failed_long = None
    if disable is None and failing_seconds > 0 and failing_seconds >= settings.disable_after_seconds:
        disable, failed_long = f"only failures for {int(failing_seconds)} s", failing_seconds
    sentence = retry.sentence(
        decision,
        attempt_count=attempt_count,
        schedule_seconds=schedule,
        now=now,
        failing_seconds=failed_long,
        probe=probe,
        judged=judged,
    )
    sent = finished.sent
    if sent.response.error is None and sent.response.detail is not None:
        sentence = f"{sentence}; {sent.response.detail}"
    if finished.others:
        sentence = f"{sentence} (in one request with {counted(finished.others, 'other event')})"
    number = claimed.made_count + 1
    next_attempt_at = due_since(due_at) if due_at is not None and disable is None and not probe else None
    secrets = secrets_of(subscription.sink, finished.redacted_sink, subscription.headers, sent.secrets)
    if shown is None:
        attempt = attempt_of(
            number,
            sent.headers,
            sent.response,
            secrets=secrets,
            decision=sentence,
            next_attempt_at=next_attempt_at,
            made_up=sent.made_up,
        )
    else:
        decided = without(sentence, secrets)
        attempt = replace(shown, number=number, decision=decided, next_attempt_at=next_attempt_at)
    events: tuple[Event, ...] = ()
    if probe or state != "delivered":
        events = _events(finished, attempt, decision, disable, now, settings.dataschema_base)
    probe_at = None
    if (probe or disable is not None) and what != "disable":
        # after a probe that does not judge the sink the next one is soon
        disabled_at = subscription.state_since if subscription.state == "disabled" and judged else None
        at = retry.next_probe_at(
            since=now if disabled_at is None else disabled_at,
            now=now,
            disable_after_seconds=settings.disable_after_seconds,
            jitter=settings.jitter,
            random_value=chance,
        )
        probe_at = max(at, decision.pause_until or 0.0)
    result = AttemptResult(
        claimed=claimed,
        state=state,
        now=now,
        attempt=attempt,
        due_at=due_at,
        reason=decision.reason,
        disable=disable,
        probe_at=probe_at,
        events=events,
        sink=url_without_path(subscription.sink) if events else None,
        next_lease=next_claim.lease if disable is None and pause_until <= now else None,
        next_count=next_claim.count,
        next_backlogged=next_claim.backlogged,
        turn=finished.turn,
        remember=sent.remember,
        share=sent.share,
        alone=what == "alone",
        behind=finished.behind is not None,
    )
    return result, pause_until


def is_simple(claimed: Claimed, outcome: Outcome) -> bool:
    """True if the sink has accepted the event and nothing else follows."""
    delivered = outcome.verdict == "delivered" and outcome.judges_sink
    return delivered and not claimed.probe and outcome.retry_after_seconds is None


def acknowledged(
    claimed: Claimed, sent: Sent, outcome: Outcome, now: float, next_claim: NextClaim, secrets: Sequence[str]
) -> AttemptResult:
    """The result of an event with a response of its own, if `is_simple` and without a turn: as `attempt_result` makes
    it, in less time."""
    sentence = _acknowledged(outcome.reason)
    if sent.response.error is None and sent.response.detail is not None:
        sentence = f"{sentence}; {sent.response.detail}"
    return AttemptResult(
        claimed=claimed,
        state="delivered",
        now=now,
        attempt=attempt_of(claimed.made_count + 1, sent.headers, sent.response, secrets=secrets, decision=sentence),
        reason=outcome.reason,
        next_lease=next_claim.lease,
        next_count=next_claim.count,
        next_backlogged=next_claim.backlogged,
    )


@lru_cache(maxsize=16)
def _acknowledged(reason: str) -> str:
    return retry.sentence(retry.Decision(what="done", reason=reason), attempt_count=1, schedule_seconds=(), now=0.0)


def _events(
    finished: FinishedAttempt, attempt: Attempt, decision: retry.Decision, disable: str | None, now: float, base: str
) -> tuple[Event, ...]:
    """The events about the end: a delivery that was given up, a subscription that was disabled or recovered."""
    claimed, subscription = finished.claimed, finished.subscription
    found: list[tuple[str, Mapping[str, object]]] = []
    # An event about the relay itself reports no end: a dead sink subscribed to those would cause new ones forever.
    if decision.what in ("dead", "uncertain") and not claimed.event.type.startswith(RELAY_PREFIX):
        common: dict[str, Any] = {
            "delivery_id": claimed.id,
            "event_id": claimed.event.id,
            "event_type": claimed.event.type,
            "subscription_id": claimed.subscription_id,
            "job_id": None if claimed.event.job_uid is None else claimed.event.subject,
            "attempts": attempt.number,
            "last_error": attempt.error or decision.reason,
        }
        if decision.what == "dead":
            data = relay_events.delivery_expired_data(**common, reason="exhausted" if decision.exhausted else "refused")
            found.append((DELIVERY_EXPIRED, data))
        else:
            memory = finished.sent.remember
            if memory is None:
                memory = {} if finished.turn is None else finished.turn.memory
            data = relay_events.delivery_uncertain_data(
                **common,
                reason="exhausted" if decision.exhausted else "cannot_tell",
                kind=subscription.kind,
                memory=memory,
            )
            found.append((DELIVERY_UNCERTAIN, data))
    changed: tuple[str, str] | None = None
    if disable is not None and subscription.state == "enabled":
        changed = SUBSCRIPTION_DISABLED, disable
    elif claimed.probe and decision.what == "done" and finished.outcome.judges_sink:
        changed = SUBSCRIPTION_RECOVERED, decision.reason
    if changed is not None:
        type, reason = changed
        sink, since = url_without_path(subscription.sink), finished.failing_since
        data = relay_events.subscription_data(subscription_id=subscription.id, sink=sink, reason=reason, since=since)
        found.append((type, data))
    return tuple(
        relay_event(
            new_id("evt", now),
            type,
            now,
            data,
            dataschema=relay_events.dataschema_for(type, base),
            subject=subscription.id,
            owner=subscription.owner,
        )
        for type, data in found
    )
