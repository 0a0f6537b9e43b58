"""What follows from an attempt: its record, the delivery's new state, a disabled subscription, events. No I/O."""

from collections.abc import Callable, Sequence

from relay.core import retry
from relay.core.delivery import Attempt, Claimed, Outcome, Response
from relay.core.events import Event
from relay.core.records import AttemptResult, Lease
from relay.core.subscription import Subscription
from relay.core.values import value_class
from relay.delivery.attempts import Headers, attempt_of, disabled_event, expired_event, recovered_event
from relay.redaction import secrets_of


@value_class(frozen=True, slots=True, kw_only=True)
class FinishedAttempt:
    """An attempt and its outcome. `headers` are those sent; `failing_since`: start of the sink's failures."""

    claimed: Claimed
    subscription: Subscription
    shown_sink: str
    failing_since: float | None
    headers: Headers
    response: Response
    outcome: Outcome


def attempt_result(
    finished: FinishedAttempt,
    now: float,
    *,
    schedule_seconds: Sequence[float],
    jitter: float,
    chance: Callable[[], float],
    disable_after_seconds: float,
    dataschema_base: str,
    next_lease: Lease | None,
    next_count: int,
    next_backlogged: bool,
) -> tuple[AttemptResult, float]:
    """What to record about an attempt, and until when the sink asked for a pause (0: it did not).

    schedule_seconds  the pauses between attempts
    chance            returns a random number from [0, 1)
    next_lease, next_count, next_backlogged  what to claim next, unless the subscription is disabled or pauses
    """
    claimed, subscription, probe = finished.claimed, finished.subscription, finished.claimed.probe
    attempt_count = 1 if probe else claimed.attempt_count + 1
    schedule = (0.0,) if probe else schedule_seconds
    decision = retry.decide(
        finished.outcome,
        attempt_count=attempt_count,
        schedule_seconds=schedule,
        jitter=jitter,
        random_value=chance(),
        now=now,
    )
    state, due_at, disable, pause_until = "pending", None, None, 0.0
    match decision:
        case retry.Done():
            state = "delivered"
        case retry.Retry() if probe:
            due_at = claimed.created_at
        case retry.Retry():
            due_at, pause_until = decision.at, decision.pause_until or 0.0
        case retry.Dead():
            state, pause_until = "dead", decision.pause_until or 0.0
        case retry.Disable():
            disable = decision.reason
    since = finished.failing_since
    failing_seconds = now - since if since is not None and state != "delivered" and not probe else 0.0
    failed_long = None
    if disable is None and failing_seconds > 0 and failing_seconds >= disable_after_seconds:
        disable, failed_long = f"only failures for {int(failing_seconds)} s", failing_seconds
    sentence = retry.sentence(
        decision,
        attempt_count=attempt_count,
        schedule_seconds=schedule,
        now=now,
        failing_seconds=failed_long,
        probe=probe,
    )
    if finished.response.error is None and finished.response.detail is not None:
        sentence = f"{sentence}; {finished.response.detail}"
    attempt = attempt_of(
        claimed.made_count + 1,
        finished.headers,
        finished.response,
        secrets=secrets_of(subscription.sink, finished.shown_sink, subscription.headers),
        decision=sentence,
        next_attempt_at=due_at if disable is None and not probe else None,
    )
    probe_at: float | None = None
    events: tuple[Event, ...] = ()
    if probe or disable is not None:
        probe_at = _probe_at(subscription, decision, now, jitter, chance, disable_after_seconds)
    if probe or state != "delivered":
        events = _events(finished, attempt, decision, disable, now, dataschema_base)
    mark = AttemptResult(
        claimed=claimed,
        state=state,
        now=now,
        attempt=attempt,
        due_at=due_at,
        reason=decision.reason,
        disable=disable,
        probe_at=probe_at,
        events=events,
        next_lease=next_lease if disable is None and pause_until <= now else None,
        next_count=next_count,
        next_backlogged=next_backlogged,
    )
    return mark, pause_until


def _probe_at(
    subscription: Subscription,
    decision: retry.Decision,
    now: float,
    jitter: float,
    chance: Callable[[], float],
    disable_after_seconds: float,
) -> float | None:
    """The next probe of a disabled subscription; None if its sink accepts no more events."""
    if isinstance(decision, retry.Disable):
        return None
    disabled_at = subscription.state_since if subscription.state == "disabled" else None
    at = retry.next_probe_at(
        since=now if disabled_at is None else disabled_at,
        now=now,
        disable_after_seconds=disable_after_seconds,
        jitter=jitter,
        random_value=chance(),
    )
    asked_for = None if isinstance(decision, retry.Done) else decision.pause_until
    return max(at, asked_for or 0.0)


def _events(
    finished: FinishedAttempt, attempt: Attempt, decision: retry.Decision, disable: str | None, now: float, base: str
) -> tuple[Event, ...]:
    events: list[Event | None] = []
    if isinstance(decision, retry.Dead):
        exhausted, reason = decision.exhausted, decision.reason
        events.append(
            expired_event(finished.claimed, attempt, reason=reason, exhausted=exhausted, now=now, dataschema_base=base)
        )
    about, since = (finished.subscription.id, finished.shown_sink), finished.failing_since
    if disable is not None and finished.subscription.state == "enabled":
        events.append(disabled_event(*about, reason=disable, since=since, now=now, dataschema_base=base))
    if finished.claimed.probe and isinstance(decision, retry.Done):
        events.append(recovered_event(*about, reason=decision.reason, since=since, now=now, dataschema_base=base))
    return tuple(event for event in events if event is not None)
