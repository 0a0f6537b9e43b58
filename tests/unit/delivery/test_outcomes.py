"""What follows from attempts whose event was skipped, only shown, or perhaps accepted."""

from dataclasses import replace
from typing import Any

import pytest

from relay.core.deliveries.delivery import Claimed, Outcome, Response
from relay.core.events.event import Event
from relay.core.records import AttemptResult, Lease
from relay.core.subscriptions.subscription import Subscription
from relay.delivery.credentials import Sent
from relay.delivery.outcomes import FinishedAttempt, NextClaim, acknowledged, attempt_result, is_simple
from relay.delivery.shared import DeliverySettings
from relay.redaction import secrets_of
from tests.support.store_kit import NOW, job_event, publication, relay_event

DAY_SECONDS = 86_400.0
SKIP = Outcome(verdict="skip", reason="unmatched")
SHOWN = Outcome(verdict="delivered", reason="dry_run")
UNCERTAIN = Outcome(verdict="uncertain", reason="timeout", in_doubt=True)


REFUSED = Outcome(verdict="dead", reason="400")
CLAIMED = Claimed(
    id="dlv_1", event=job_event("job_1", 1), subscription_id="sub_1", lease_token="t", lease_until=NOW + 45
)
HEADERS = (("Content-Type", "application/cloudevents+json"), ("webhook-signature", "v1,secret"))
NOTHING_NEXT = NextClaim()
ANSWER = Response(started_at=NOW, duration_ms=0.0)
NEWS_OF_AN_ACCOUNT = relay_event("ai.revor.account.needs_reconnect", subject="linkedin-1")


def result(
    outcome: Outcome,
    *,
    probe: bool = False,
    failing_since: float | None = None,
    event: Event | None = None,
    **fields: Any,
) -> Any:
    subscription = Subscription(
        id="sub_1", sink="https://sink.test/", created_at=0.0, **{"state_since": NOW - DAY_SECONDS, **fields}
    )
    claimed = replace(CLAIMED, event=event or CLAIMED.event, probe=probe)
    return recorded(claimed, subscription, outcome, failing_since=failing_since)


def recorded(
    claimed: Claimed,
    subscription: Subscription,
    outcome: Outcome,
    response: Response = ANSWER,
    *,
    failing_since: float | None = None,
    next_claim: NextClaim = NOTHING_NEXT,
) -> AttemptResult:
    finished = FinishedAttempt(
        claimed=claimed,
        subscription=subscription,
        redacted_sink=subscription.sink,
        failing_since=failing_since,
        sent=Sent(headers=HEADERS, response=response),
        outcome=outcome,
    )
    return attempt_result(finished, DeliverySettings(), NOW, next_claim, chance=0.5)[0]


@pytest.mark.parametrize("priority", [0, 1, 2])
@pytest.mark.parametrize("detail", [None, "the rest of the answer broke off"])
@pytest.mark.parametrize("failing_since", [None, NOW - DAY_SECONDS])
def test_result_of_a_simple_delivery_is_that_of_any_other(
    priority: int, detail: str | None, failing_since: float | None
) -> None:
    subscription = Subscription(id="sub_1", sink="https://sink.test/in?token=hIdDeNhIdDeN", created_at=0.0)
    claimed = replace(CLAIMED, attempt_count=2, made_count=3, priority=priority)
    response = replace(ANSWER, status_code=202, headers=(("X-Echo", "hIdDeNhIdDeN"),), detail=detail)
    outcome = Outcome(verdict="delivered", reason="http_202")
    ahead = NextClaim(lease=Lease(token="t2", until=NOW + 50), count=2, backlogged=False)
    assert is_simple(claimed, outcome)
    secrets = secrets_of(subscription.sink, subscription.sink, (), ())
    simple = acknowledged(claimed, Sent(headers=HEADERS, response=response), outcome, NOW, ahead, secrets)
    assert simple == recorded(claimed, subscription, outcome, response, failing_since=failing_since, next_claim=ahead)
    assert "hIdDeN" not in str(simple)


@pytest.mark.parametrize(
    ("outcome", "probe"),
    [
        (SKIP, False),
        (SHOWN, False),
        (UNCERTAIN, False),
        (REFUSED, False),
        (Outcome(verdict="delivered", reason="http_200"), True),
        (Outcome(verdict="delivered", reason="http_200", retry_after_seconds=5.0), False),
    ],
)
def test_delivery_with_consequences_is_not_simple(outcome: Outcome, probe: bool) -> None:
    assert not is_simple(replace(CLAIMED, probe=probe), outcome)


@pytest.mark.parametrize(
    ("outcome", "state", "reason"),
    [(SKIP, "cancelled", "unmatched"), (SHOWN, "delivered", "dry_run"), (UNCERTAIN, "uncertain", "timeout")],
)
def test_state_of_the_delivery(outcome: Outcome, state: str, reason: str) -> None:
    found = result(outcome)
    assert (found.state, found.reason, found.due_at, found.disable) == (state, reason, None, None)
    assert found.attempt.next_attempt_at is None


@pytest.mark.parametrize("outcome", [REFUSED, UNCERTAIN])
@pytest.mark.parametrize(
    ("event", "job"),
    [
        (job_event("job_1", 1), "subject of job_1"),
        (publication("1", subject="order 1").event, None),
        (publication("2", key="order 2").event, None),
        (NEWS_OF_AN_ACCOUNT, None),
    ],
)
def test_delivery_that_is_given_up_is_told(outcome: Outcome, event: Event, job: str | None) -> None:
    (told,) = result(outcome, event=event).events
    data = told.document()["data"]
    assert (data["event"], data["event_type"], data["job"]) == (event.id, event.type, job)


@pytest.mark.parametrize("outcome", [REFUSED, UNCERTAIN])
def test_delivery_of_an_event_about_the_relay_causes_no_event(outcome: Outcome) -> None:
    assert result(outcome, event=relay_event("relay.delivery.expired")).events == ()


@pytest.mark.parametrize("outcome", [SKIP, SHOWN])
def test_sink_that_has_failed_for_long_is_not_disabled_by_an_event_that_was_not_sent_to_it(outcome: Outcome) -> None:
    found = result(outcome, failing_since=NOW - 30 * DAY_SECONDS)
    assert found.disable is None
    assert found.events == ()


@pytest.mark.parametrize("outcome", [SKIP, SHOWN])
def test_probe_that_says_nothing_is_followed_by_another_soon(outcome: Outcome) -> None:
    found = result(outcome, probe=True, state="disabled")
    assert (found.probe_at, found.recovers, found.events) == (NOW + 60, False, ())
    assert found.state in ("cancelled", "delivered"), "the next probe takes the next event"
    assert "stays disabled" in found.attempt.decision
