"""The consequences of an attempt: its record, the delivery's new state, a disabled subscription, events. No I/O."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from relay.core.deliveries import retry
from relay.core.deliveries.delivery import PROXY_ERROR, Attempt, Claimed, Outcome, at_once, due_since
from relay.core.events.event import Event
from relay.core.events.sentences import counted
from relay.core.records import AttemptResult, Lease, MemoryTurn
from relay.core.subscriptions.subscription import Subscription
from relay.core.values import value_class
from relay.delivery.attempts import attempt_of, expired_event, subscription_event, uncertain_event
from relay.delivery.credentials import Sent
from relay.delivery.settings import DeliverySettings
from relay.redaction import secrets_of, url_without_path, without


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


@value_class(frozen=True, slots=True, kw_only=True)
class Policy:
    """The settings that apply to attempts, and `chance`, which returns a random number from [0, 1)."""

    settings: DeliverySettings
    chance: Callable[[], float]

    def probe_at(
        self, subscription: Subscription, decision: retry.Decision, now: float, *, judged: bool = True
    ) -> float | None:
        """The next probe of a disabled subscription; None if its sink accepts no more events. After a probe that does
        not judge the sink (`judged`) the next one is soon."""
        if isinstance(decision, retry.Disable):
            return None
        disabled_at = subscription.state_since if subscription.state == "disabled" and judged else None
        at = retry.next_probe_at(
            since=now if disabled_at is None else disabled_at,
            now=now,
            disable_after_seconds=self.settings.disable_after_seconds,
            jitter=self.settings.jitter,
            random_value=self.chance(),
        )
        return max(at, decision.pause_until or 0.0)


def attempt_result(
    finished: FinishedAttempt, policy: Policy, now: float, next_claim: NextClaim, shown: Attempt | None = None
) -> tuple[AttemptResult, float]:
    """The result to record for an attempt, and the end of the pause that the sink asked for (0: none).

    `next_claim` is dropped if the subscription is disabled or pauses. `shown`: the attempt of another event in the same
    request, whose redacted headers and excerpt are reused.
    """
    claimed, subscription, probe = finished.claimed, finished.subscription, finished.claimed.probe
    judged = finished.outcome.judges_sink
    settings = policy.settings
    attempt_count = 1 if probe else claimed.attempt_count + 1
    schedule = (0.0,) if probe else settings.schedule_of(subscription)
    decision: retry.Decision
    if finished.behind is not None:
        decision = retry.Behind(reason=finished.outcome.reason)
    else:
        decision = retry.decide(
            finished.outcome,
            attempt_count=attempt_count,
            schedule_seconds=schedule,
            jitter=settings.jitter,
            random_value=policy.chance(),
            now=now,
            bundled=finished.others > 0,
        )
    state, due_at, disable, pause_until = "pending", None, None, 0.0
    match decision:
        case retry.Done():
            state, pause_until = "delivered", decision.pause_until or 0.0
        case retry.Retry() if probe:
            due_at = at_once(claimed.created_at)
        case retry.Retry():
            due_at, pause_until = decision.at, decision.pause_until or 0.0
        case retry.Dead():
            state, pause_until = "dead", decision.pause_until or 0.0
        case retry.Uncertain():
            state, pause_until = "uncertain", decision.pause_until or 0.0
        case retry.Skip():
            state, pause_until = "cancelled", decision.pause_until or 0.0
        case retry.Alone():
            due_at, pause_until = at_once(now), decision.pause_until or 0.0
        case retry.Behind():
            due_at = finished.behind
        case retry.Disable():
            disable = decision.reason
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
    result = AttemptResult(
        claimed=claimed,
        state=state,
        now=now,
        attempt=attempt,
        due_at=due_at,
        reason=decision.reason,
        disable=disable,
        probe_at=policy.probe_at(subscription, decision, now, judged=judged) if probe or disable is not None else None,
        events=events,
        sink=url_without_path(subscription.sink) if events else None,
        next_lease=next_claim.lease if disable is None and pause_until <= now else None,
        next_count=next_claim.count,
        next_backlogged=next_claim.backlogged,
        turn=finished.turn,
        remember=sent.remember,
        share=sent.share,
        alone=isinstance(decision, retry.Alone),
        behind=finished.behind is not None,
    )
    return result, pause_until


def acknowledged(claimed: Claimed, sent: Sent, outcome: Outcome, now: float) -> AttemptResult:
    """The result to record for one of many events that a broker has stored. A cheaper `attempt_result`."""
    sentence = _acknowledged(outcome.reason)
    if sent.response.detail is not None:
        sentence = f"{sentence}; {sent.response.detail}"
    attempt = attempt_of(claimed.made_count + 1, sent.headers, sent.response, decision=sentence)
    return AttemptResult(claimed=claimed, state="delivered", now=now, attempt=attempt, reason=outcome.reason)


@lru_cache(maxsize=16)
def _acknowledged(reason: str) -> str:
    return retry.sentence(retry.Done(reason=reason), attempt_count=1, schedule_seconds=(), now=0.0)


def _events(
    finished: FinishedAttempt, attempt: Attempt, decision: retry.Decision, disable: str | None, now: float, base: str
) -> tuple[Event, ...]:
    events: list[Event | None] = []
    if isinstance(decision, retry.Dead):
        events.append(
            expired_event(
                finished.claimed,
                attempt,
                reason=decision.reason,
                exhausted=decision.exhausted,
                now=now,
                dataschema_base=base,
                owner=finished.subscription.owner,
            )
        )
    if isinstance(decision, retry.Uncertain):
        before = finished.turn.memory if finished.turn is not None else {}
        events.append(
            uncertain_event(
                finished.claimed,
                attempt,
                reason=decision.reason,
                exhausted=decision.exhausted,
                now=now,
                dataschema_base=base,
                subscription=finished.subscription,
                memory=before if finished.sent.remember is None else finished.sent.remember,
            )
        )
    changed: tuple[str, str] | None = None
    if disable is not None and finished.subscription.state == "enabled":
        changed = "relay.subscription.disabled", disable
    elif finished.claimed.probe and isinstance(decision, retry.Done) and finished.outcome.judges_sink:
        changed = "relay.subscription.recovered", decision.reason
    if changed is not None:
        type, reason = changed
        about = (finished.subscription, url_without_path(finished.subscription.sink))
        since = finished.failing_since
        events.append(subscription_event(type, *about, reason=reason, since=since, now=now, base=base))
    return tuple(event for event in events if event is not None)
