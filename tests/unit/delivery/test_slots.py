"""How many deliveries that are not first attempts may be on their way while fresh events come, and when a sink that
failed again and again is sent more."""

import math
from typing import Any, cast

import pytest

from relay.core.concurrency import PROMPT_SECONDS
from relay.core.delivery import Outcome, Response
from relay.core.subscription import Subscription
from relay.delivery.slots import BACKLOGGED_SLOTS, FAILED_OFTEN, FAILING_PER_SECOND, FRESH_SECONDS, Kind, Slots, Target

NOW = 1_779_271_200.0


class PlainKind:
    name, signed, rate_per_second = "http", True, None

    @staticmethod
    def redacted_url(url: str) -> str:
        return url


def slots_of(*names: str, alone_seconds: float) -> tuple[Slots, list[Target]]:
    """Slots with a target a name, whose sink has answered one request in that time; a fresh event came at NOW."""
    slots = Slots(concurrency=256, per_host=64)
    targets = []
    for name in names:
        subscription = Subscription(id=name, sink=f"https://{name}.test/", created_at=NOW, secrets=())
        slots.join(subscription, cast(Kind, PlainKind()))
        target = slots.get(name)
        assert target is not None
        target.concurrency.succeeded(alone_seconds, in_flight=1, full=False)
        targets.append(target)
    slots.fresh_at = NOW
    return slots, targets


def test_what_is_late_has_few_slots_only_while_fresh_events_come() -> None:
    slots, (target,) = slots_of("one", alone_seconds=0.0)
    assert slots.backlogged_limit(target, NOW) == BACKLOGGED_SLOTS
    assert slots.backlogged_limit(target, NOW + FRESH_SECONDS) == BACKLOGGED_SLOTS
    assert slots.backlogged_limit(target, NOW + FRESH_SECONDS + 1e-3) == math.inf


def test_a_sink_that_takes_longer_keeps_us_as_busy_with_more() -> None:
    slots, (target,) = slots_of("one", alone_seconds=9 * PROMPT_SECONDS)
    assert slots.backlogged_limit(target, NOW) == pytest.approx(10 * BACKLOGGED_SLOTS)


def test_a_sink_that_never_answered_is_kept_by_its_own_slots_alone() -> None:
    slots, (target,) = slots_of("one", alone_seconds=math.inf)
    assert slots.backlogged_limit(target, NOW) == math.inf


def test_sinks_share_them_and_each_has_one() -> None:
    slots, targets = slots_of(*(f"s{number}" for number in range(3 * BACKLOGGED_SLOTS)), alone_seconds=0.0)
    one, two, *others = targets
    for target in (one, one, two):
        slots.backlogged_began(target)
    limits: list[Any] = [slots.backlogged_limit(target, NOW) for target in (one, two, others[0])]
    assert limits == [BACKLOGGED_SLOTS / 2, BACKLOGGED_SLOTS / 2, BACKLOGGED_SLOTS / 3]
    slots.backlogged_ended(one)
    assert slots.backlogged_limit(two, NOW) == BACKLOGGED_SLOTS / 2, "one is still on its way"
    slots.backlogged_ended(one)
    assert slots.backlogged_limit(two, NOW) == BACKLOGGED_SLOTS
    for target in targets:
        slots.backlogged_began(target)
    assert slots.backlogged_limit(one, NOW) == 1


def test_a_sink_that_fails_or_takes_long_takes_no_share_of_the_others() -> None:
    slots, (prompt, failing, slow) = slots_of("prompt", "failing", "slow", alone_seconds=0.0)
    failing.failures = 1
    slow.concurrency._alone_seconds = 99 * PROMPT_SECONDS
    for target in (prompt, failing, slow):
        slots.backlogged_began(target)
    assert slots.backlogged_limit(prompt, NOW) == pytest.approx(BACKLOGGED_SLOTS / 1.01)
    for target in (prompt, failing, slow):
        slots.backlogged_ended(target)
    assert slots.backlogged_limit(prompt, NOW) == BACKLOGGED_SLOTS


def test_a_clock_that_was_set_back_does_not_keep_what_is_late_waiting() -> None:
    slots, (target,) = slots_of("one", alone_seconds=0.0)
    assert slots.backlogged_limit(target, NOW - 3_600) == math.inf


def test_a_sink_that_takes_something_after_all_waits_for_its_next_try_no_longer() -> None:
    _, (target,) = slots_of("one", alone_seconds=0.0)
    failed = Response(started_at=NOW, duration_ms=1.0, status_code=500)
    for _ in range(FAILED_OFTEN):
        target.answered(failed, Outcome(verdict="retry", reason="HTTP 500"), in_flight=1, fills=0)
    target.paced(2, NOW)
    assert not target.may_send(NOW)
    assert target.not_before == pytest.approx(NOW + 2 / FAILING_PER_SECOND)
    taken = Response(started_at=NOW, duration_ms=1.0, status_code=204)
    target.answered(taken, Outcome(verdict="delivered", reason="HTTP 204"), in_flight=1, fills=0)
    assert target.may_send(NOW)


def test_a_rate_of_its_own_holds_whatever_a_sink_takes() -> None:
    _, (target,) = slots_of("one", alone_seconds=0.0)
    target.rate, target.failures, target.next_send_at = 1.0, FAILED_OFTEN, NOW + 1
    taken = Response(started_at=NOW, duration_ms=1.0, status_code=204)
    target.answered(taken, Outcome(verdict="delivered", reason="HTTP 204"), in_flight=1, fills=0)
    assert not target.may_send(NOW)


def test_a_sink_whose_answers_never_end_is_left_with_one_slot_although_their_status_counts() -> None:
    _, (target,) = slots_of("one", alone_seconds=0.0)
    late = Response(started_at=NOW, duration_ms=15_000.0, status_code=200, detail="no end", late=True)
    for _ in range(20):
        target.answered(late, Outcome(verdict="delivered", reason="HTTP 200"), in_flight=1, fills=0)
    assert target.concurrency.limit == 1
    assert not target.failures
