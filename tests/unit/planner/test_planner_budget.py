"""The budget: what the headers allow, what others use, and what to do without headers."""

import pytest

from relay.core.planner.budget import SILENT, Budget, LimitReading, Meter
from relay.core.planner.config import PlannerConfig

NOW = 1_779_271_200.0


def budget_of(**settings: float) -> Budget:
    return Budget(PlannerConfig(**settings))


def poll(budget: Budget, now: float, reported: LimitReading = SILENT, took: float = 0.1) -> None:
    budget.sent()
    budget.answered(reported, ours=True, sent_at=now - took, now=now)
    budget.errors = 0


def reported(remaining: float | None, limit: float | None = 100, window: float | None = 60) -> LimitReading:
    return LimitReading(limit=limit, remaining=remaining, window_seconds=window)


def test_the_limit_less_the_reserve_is_spread_over_the_window() -> None:
    budget = budget_of(reserve=0.3)
    poll(budget, NOW, reported(99))
    assert budget.rate(NOW) == pytest.approx(69 / 60)


def test_the_configured_cap_holds_under_any_limit() -> None:
    budget = budget_of(max_requests_per_second=0.5)
    assert budget.rate(NOW) == 0.5
    poll(budget, NOW, reported(9999, 10_000))
    assert budget.rate(NOW) == 0.5


def test_the_smaller_of_key_and_account_decides() -> None:
    budget = budget_of(reserve=0)
    poll(budget, NOW, LimitReading(limit=600, remaining=599, account_limit=60, account_remaining=30))
    assert budget.rate(NOW) == pytest.approx(0.5)
    assert budget.window_seconds() == 60
    poll(budget, NOW + 1, LimitReading(limit=600, remaining=0, account_limit=60, account_remaining=29))
    assert budget.closed_until(NOW + 1) == NOW + 60


def test_nothing_is_sent_into_the_reserve() -> None:
    budget = budget_of(reserve=0.3)
    poll(budget, NOW, reported(30))
    assert budget.closed_until(NOW + 1) == NOW + 60
    assert budget.rate(NOW + 60) == pytest.approx(70 / 60)
    assert budget.closed_until(NOW + 60) is None


def test_requests_that_are_out_count_as_spent() -> None:
    budget = budget_of(reserve=0)
    poll(budget, NOW, reported(3, 10))
    for _ in range(3):
        assert budget.closed_until(NOW) is None
        budget.sent()
    assert budget.closed_until(NOW) == NOW + 60


def test_others_use_shrinks_the_rate() -> None:
    alone, shared = budget_of(reserve=0.3), budget_of(reserve=0.3)
    for second in range(30):
        poll(alone, NOW + second, reported(100 - second))
        poll(shared, NOW + second, reported(100 - 2 * second))
    assert alone.key.others_rate == 0
    assert shared.key.others_rate == pytest.approx(0.88, abs=0.05)
    assert shared.rate(NOW + 30) < 0.5 * alone.rate(NOW + 30)


def test_past_use_by_others_is_forgotten() -> None:
    meter = Meter(0.0)
    meter.read(100, 100, 60, ours=True, in_flight=0, sent_at=NOW, now=NOW)
    meter.read(100, 40, 60, ours=True, in_flight=0, sent_at=NOW, now=NOW + 1)
    busy = meter.others_rate
    assert busy > 1
    for minute in range(1, 6):
        meter.roll(NOW + 60 * minute, 0)
        assert meter.left() >= 1
    assert meter.others_rate < 0.01 * busy


def test_overtaking_responses_are_not_use_by_others() -> None:
    meter = Meter(0.0)
    order = [98, 99, 96, 97, 94, 95, 92, 93]
    for number, remaining in enumerate(order):
        out = len(order) - number - 1
        meter.read(100, remaining, 60, ours=True, in_flight=out, sent_at=NOW - 1, now=NOW + number / 100)
    assert meter.others_rate == 0
    assert meter.started_at == NOW


def test_a_rise_shows_when_a_window_begins() -> None:
    meter = Meter(0.0)
    meter.read(100, 50, 60, ours=True, in_flight=0, sent_at=NOW, now=NOW)
    meter.read(100, 49, 60, ours=True, in_flight=0, sent_at=NOW + 9, now=NOW + 10)
    meter.read(100, 97, 60, ours=True, in_flight=0, sent_at=NOW + 19, now=NOW + 20)
    assert meter.started_at == NOW + 20
    assert meter.others_rate == pytest.approx(2 / 15)
    meter.read(100, 99, 60, ours=True, in_flight=0, sent_at=NOW + 84, now=NOW + 85)
    assert meter.started_at == NOW + 80


def test_even_a_limit_that_others_use_up_is_probed_once_a_window() -> None:
    budget = budget_of(reserve=0.9)
    poll(budget, NOW, reported(0, 1))
    assert budget.closed_until(NOW + 59) == NOW + 60
    assert budget.rate(NOW + 60) > 0
    assert budget.closed_until(NOW + 60) is None
    poll(budget, NOW + 60, reported(0, 1))
    assert budget.closed_until(NOW + 61) == NOW + 120


def test_another_limit_is_met_anew() -> None:
    budget = budget_of(reserve=0)
    poll(budget, NOW, reported(10, 100))
    poll(budget, NOW + 1, reported(900, 1000))
    assert budget.key.others_rate == 0
    assert budget.rate(NOW + 1) == pytest.approx(900 / 59)


def test_a_limit_that_vanishes_is_believed_for_a_while_and_then_left_from_its_rate() -> None:
    budget = budget_of(reserve=0)
    poll(budget, NOW, reported(59, 60))
    poll(budget, NOW + 60)
    assert budget.rate(NOW + 60) == pytest.approx(1.0)
    poll(budget, NOW + 121)
    assert budget.meters() == []
    assert budget.rate(NOW + 121) == pytest.approx(1.0)
    for second in range(11):
        poll(budget, NOW + 121 + second)
    assert budget.rate(NOW + 132) == pytest.approx(2.0)


def test_a_window_that_seems_to_begin_later_begins_now() -> None:
    meter = Meter(0.0)
    meter.read(100, 50, 60, ours=True, in_flight=0, sent_at=NOW, now=NOW)
    meter.roll(NOW - 100, 0)
    assert meter.started_at == NOW - 100


def test_without_headers_the_rate_climbs_while_it_is_used_and_falls_on_a_rejection() -> None:
    budget = budget_of()
    assert budget.rate(NOW) == 5
    for second in range(40):
        for _ in range(5):
            poll(budget, NOW + second / 4)
    assert budget.rate(NOW + 10) == 6
    assert budget.rate(NOW + 20) == 6, "an idle account does not climb"
    assert budget.rejected(SILENT, NOW + 20) == NOW + 80
    assert budget.rejected(SILENT, NOW + 21) == NOW + 81, "one that was out already"
    assert budget.rate(NOW + 21) == pytest.approx(4.2)
    assert budget.stopped_until(NOW + 80.5) == NOW + 81
    assert budget.stopped_until(NOW + 81) is None


def test_a_rejection_stops_until_retry_after_and_tells_when_the_window_ends() -> None:
    budget = budget_of(reserve=0)
    budget.sent()
    budget.answered(reported(0), ours=True, sent_at=NOW, now=NOW)
    assert budget.rejected(reported(0)._replace(retry_after_seconds=20), NOW) == NOW + 20
    assert budget.closed_until(NOW + 19) == NOW + 20
    assert budget.rate(NOW + 20) == pytest.approx(100 / 60)
    assert budget.closed_until(NOW + 20) is None


def test_a_rejection_while_some_remains_does_not_move_the_window() -> None:
    budget = budget_of()
    poll(budget, NOW, reported(50))
    budget.rejected(reported(50)._replace(retry_after_seconds=3), NOW + 1)
    assert budget.key.ends_at() == NOW + 60
    budget.key.realign(NOW + 600, NOW)
    assert budget.key.ends_at() == NOW + 60


def test_errors_in_a_row_slow_requests_down_and_one_success_ends_that() -> None:
    budget = budget_of(max_requests_per_second=4)
    for _ in range(3):
        budget.errors += 1
    assert budget.rate(NOW) == 4
    budget.errors += 1
    assert budget.rate(NOW) == 2
    for _ in range(50):
        budget.errors += 1
    assert budget.rate(NOW) == pytest.approx(1 / 30)
    budget.errors = 0
    assert budget.rate(NOW) == 4


# --- a window that is said to have begun, and has not


def spent_meter() -> Meter:
    """Of a hundred requests one is left, and the window should end at NOW + 60."""
    meter = Meter(0.0)
    for used in range(100):
        at = NOW + used * 0.6
        meter.read(100, 99 - used, 60, ours=True, in_flight=0, sent_at=at, now=at)
    meter.spend()
    meter.roll(NOW + 60, 0)
    assert meter.ends_at() == NOW + 120
    return meter


def test_a_window_that_is_still_spent_where_the_next_should_have_begun_ends_soon() -> None:
    meter = spent_meter()
    meter.read(100, 0, 60, ours=True, in_flight=0, sent_at=NOW + 60.1, now=NOW + 60.2)
    assert meter.ends_at() == pytest.approx(NOW + 61.2)
    meter.roll(NOW + 61.2, 0)
    assert meter.left() == pytest.approx(100, abs=1)
    meter.read(100, 99, 60, ours=True, in_flight=0, sent_at=NOW + 61.3, now=NOW + 61.4)
    assert meter.ends_at() > NOW + 120


def test_window_ends_when_the_upstream_says() -> None:
    budget = Budget(PlannerConfig(reserve=0.0))
    told = LimitReading(limit=5000, remaining=4000, reset_seconds=1800.0)
    poll(budget, NOW, told)
    assert budget.window_seconds() == 1800
    assert budget.key.ends_at() == pytest.approx(NOW + 1800, abs=1)

    poll(budget, NOW + 1801, LimitReading(limit=5000, remaining=4999, reset_seconds=3600.0))
    assert budget.window_seconds() == 3600, "the longest rest that was seen"
    assert budget.key.ends_at() == pytest.approx(NOW + 1801 + 3600, abs=1)
