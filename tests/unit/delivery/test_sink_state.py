"""A sink's state: when it may be sent to, what of its health is stored, and when its retries are expedited."""

import pytest

from relay.core.deliveries.concurrency import Concurrency
from relay.core.deliveries.delivery import Outcome, Response
from relay.core.subscriptions.subscription import Subscription
from relay.delivery.sink_state import FAILED_OFTEN, FAILING_PER_SECOND, OUTAGE_SECONDS, SinkState

NOW = 1_779_271_200.0
DELIVERED = Outcome(verdict="delivered", reason="http_204")
FAILED = Outcome(verdict="retry", reason="http_500")
SUBSCRIPTION = Subscription(id="sub_1", sink="https://sink.test/", created_at=NOW)


def sink(*, rate: float | None = None) -> SinkState:
    state = SinkState(Concurrency(ceiling=64))
    state.adopt(SUBSCRIPTION, None, ceiling=64, rate=rate)
    return state


def answer(state: SinkState, outcome: Outcome, *, late: bool = False) -> None:
    response = Response(started_at=NOW, duration_ms=1.0, status_code=204, late=late)
    state.answered(response, outcome, in_flight=1, full=False)


def test_first_success_lifts_the_pause_of_a_failing_sink() -> None:
    state = sink()
    for _ in range(FAILED_OFTEN):
        answer(state, FAILED)
    state.paced(2, NOW)
    assert not state.may_send(NOW)
    assert state.opens_at(NOW) == pytest.approx(NOW + 2 / FAILING_PER_SECOND)
    answer(state, DELIVERED)
    assert state.may_send(NOW)


def test_clock_that_was_set_back_makes_no_turn_wait_for_the_old_time() -> None:
    state, drained = sink(rate=1.0), sink()
    for _ in range(FAILED_OFTEN):
        answer(drained, FAILED)
    drained.paced(1, NOW)
    assert state.take_turn(NOW)
    for one in (state, drained):
        assert not one.may_send(NOW)
        assert one.may_send(NOW - 3600)
    assert state.take_turn(NOW - 3600)
    assert not state.take_turn(NOW - 3599.5)
    assert state.take_turn(NOW - 3599)


def test_sink_whose_responses_never_end_keeps_one_slot_although_their_status_counts() -> None:
    state = sink()
    for _ in range(20):
        answer(state, DELIVERED, late=True)
    assert state.concurrency.limit == 1
    assert not state.failures


def test_health_is_stored_when_it_changes_and_not_at_each_attempt() -> None:
    state = sink()
    assert state.health_change(DELIVERED, NOW) is None
    change = state.health_change(FAILED, NOW)
    assert change is not None
    assert (change.failing_since, change.paused_until, change.ends_outage) == (NOW, 0.0, False)
    assert state.health_change(FAILED, NOW + 1) is None
    state.pause(NOW + 90)
    change = state.health_change(FAILED, NOW + 2)
    assert change is not None
    assert (change.failing_since, change.paused_until) == (NOW, NOW + 90)
    assert state.health_change(FAILED, NOW + 3) is None, "the pause is stored already"


@pytest.mark.parametrize(
    "outcome", [Outcome(verdict="skip", reason="unmatched"), Outcome(verdict="delivered", reason="dry_run")]
)
@pytest.mark.parametrize("failures", [0, FAILED_OFTEN])
def test_attempt_that_says_nothing_about_the_sink_changes_nothing(outcome: Outcome, failures: int) -> None:
    state = sink()
    for _ in range(failures):
        answer(state, FAILED)
        state.health_change(FAILED, NOW)
    before = state.failures, state.failing_since, state.down_since, state.recovered, state.concurrency.limit
    answer(state, outcome)
    assert state.health_change(outcome, NOW + 2 * OUTAGE_SECONDS) is None
    after = state.failures, state.failing_since, state.down_since, state.recovered, state.concurrency.limit
    assert after == before


def test_health_that_was_not_stored_is_stored_by_the_next_attempt() -> None:
    state = sink()
    change = state.health_change(FAILED, NOW)
    assert change is not None
    state.health_not_stored(change)
    assert state.failing_since is None
    again = state.health_change(FAILED, NOW + 5)
    assert again is not None
    assert again.failing_since == NOW + 5


DAY = 86_400.0


@pytest.mark.parametrize(
    ("attempts", "failing_since"),
    [
        ([(0, "sink"), (1, "sink")], 0),
        ([(0, "proxy"), (5, "proxy")], None),
        ([(0, "proxy"), (5, "sink")], 5),
        ([(0, "proxy"), (5, "sink"), (6, "sink")], 5),
        ([(0, "sink"), (1, "proxy"), (5, "proxy"), (6, "sink")], 5),  # five days of which nothing is known
        ([(0, "sink"), (1, "proxy"), (2, "sink"), (3, "proxy"), (4, "sink")], 2),
        ([(0, "sink"), (1, "proxy"), (2, "ok"), (3, "sink")], 3),
        ([(0, "proxy"), (5, "ok"), (6, "sink")], 6),
    ],
)
def test_time_in_which_the_egress_proxy_fails_is_not_the_sinks(
    attempts: list[tuple[int, str]], failing_since: int | None
) -> None:
    state, stored = sink(), None
    for day, end in attempts:
        now = NOW + day * DAY
        state.reached(now, by_proxy=end == "proxy")
        change = state.health_change(DELIVERED if end == "ok" else FAILED, now, by_proxy=end == "proxy")
        stored = stored if change is None else change.failing_since
    expected = None if failing_since is None else NOW + failing_since * DAY
    assert (state.failing_since, stored) == (expected, expected)
    assert state.fails
