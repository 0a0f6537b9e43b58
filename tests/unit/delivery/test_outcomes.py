"""What follows from attempts whose event was skipped, only shown, or perhaps accepted."""

from typing import Any

import pytest

from relay.core.deliveries.delivery import Claimed, Outcome, Response
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from relay.delivery.credentials import Sent
from relay.delivery.outcomes import FinishedAttempt, NextClaim, attempt_result
from relay.delivery.shared import DeliverySettings
from tests.support.store_kit import NOW, job_event, publication, relay_event

DAY_SECONDS = 86_400.0
SKIP = Outcome(verdict="skip", reason="unmatched")
SHOWN = Outcome(verdict="delivered", reason="dry_run")
UNCERTAIN = Outcome(verdict="uncertain", reason="timeout", in_doubt=True)


REFUSED = Outcome(verdict="dead", reason="400")
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
    claimed = Claimed(
        id="dlv_1",
        event=event or job_event("job_1", 1),
        subscription_id="sub_1",
        lease_token="t",
        lease_until=NOW + 45,
        probe=probe,
    )
    finished = FinishedAttempt(
        claimed=claimed,
        subscription=subscription,
        redacted_sink=subscription.sink,
        failing_since=failing_since,
        sent=Sent(headers=(), response=Response(started_at=NOW, duration_ms=0.0)),
        outcome=outcome,
    )
    return attempt_result(finished, DeliverySettings(), NOW, NextClaim(), chance=0.5)[0]


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
