"""Retry decisions: the schedule, the jitter, Retry-After, and the verdict on plain HTTP answers."""

import math
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.core.deliveries.delivery import Outcome, Response
from relay.core.deliveries.retry import (
    Decision,
    decide,
    drain_per_second,
    http_outcome,
    next_probe_at,
    parse_retry_after,
    sentence,
)
from relay.core.subscriptions.subscription import DEFAULT_RETRY_SCHEDULE_SECONDS

NOW = 1_700_000_000.0
DAY_SECONDS = 86400.0

schedules = st.lists(st.floats(0.001, 1e6), max_size=50)
fractions = st.floats(0, 1, exclude_max=True)


def after(outcome: Outcome, attempt_count: int, *, random_value: float = 0.5, jitter: float = 0.2) -> Decision:
    return decide(
        outcome,
        attempt_count=attempt_count,
        schedule_seconds=DEFAULT_RETRY_SCHEDULE_SECONDS,
        jitter=jitter,
        random_value=random_value,
        now=NOW,
    )


def failed(retry_after_seconds: float | None = None) -> Outcome:
    return Outcome(verdict="retry", reason="http_500", retry_after_seconds=retry_after_seconds)


def answer(status_code: int, *headers: tuple[str, str]) -> Response:
    return Response(started_at=NOW, duration_ms=1.0, status_code=status_code, headers=headers)


def test_the_default_schedule_makes_ten_attempts() -> None:
    pauses = []
    for attempt_count in range(1, 10):
        decision = after(failed(), attempt_count)
        assert decision.what == "retry"
        assert decision.reason == "http_500"
        assert decision.pause_until is None
        pauses.append(decision.at - NOW)
    assert tuple(pauses) == DEFAULT_RETRY_SCHEDULE_SECONDS
    assert after(failed(), 10) == Decision(what="dead", reason="http_500", exhausted=True)
    assert after(failed(), 11) == Decision(what="dead", reason="http_500", exhausted=True)


def test_an_empty_schedule_means_one_attempt() -> None:
    decision = decide(failed(), attempt_count=1, schedule_seconds=(), jitter=0.2, random_value=0.5, now=NOW)
    assert decision == Decision(what="dead", reason="http_500", exhausted=True)


@pytest.mark.parametrize(("asked", "seconds"), [(15.0, 15.0), (math.inf, DAY_SECONDS), (0.0, None), (math.nan, None)])
def test_delivered_outcome_may_ask_for_a_pause(asked: float, seconds: float | None) -> None:
    delivered = Outcome(verdict="delivered", reason="http_201", retry_after_seconds=asked)
    assert after(delivered, 1) == Decision(
        what="done", reason="http_201", pause_until=None if seconds is None else NOW + seconds
    )


@pytest.mark.parametrize(
    ("outcome", "attempt_count", "decision"),
    [
        (Outcome(verdict="skip", reason="unmatched"), 1, Decision(what="skip", reason="unmatched")),
        (
            Outcome(verdict="uncertain", reason="no_way_to_ask", in_doubt=True),
            1,
            Decision(what="uncertain", reason="no_way_to_ask"),
        ),
        (Outcome(verdict="dead", reason="http_400", in_doubt=True), 1, Decision(what="uncertain", reason="http_400")),
        (Outcome(verdict="disable", reason="http_403", in_doubt=True), 1, Decision(what="disable", reason="http_403")),
        (Outcome(verdict="delivered", reason="found", in_doubt=True), 1, Decision(what="done", reason="found")),
        (
            Outcome(verdict="retry", reason="timeout", in_doubt=True),
            1,
            Decision(what="retry", at=NOW + 5, reason="timeout"),
        ),
        (
            Outcome(verdict="retry", reason="timeout", in_doubt=True),
            10,
            Decision(what="uncertain", reason="timeout", exhausted=True),
        ),
        (
            Outcome(verdict="retry", reason="http_429", in_doubt=True, retry_after_seconds=60.0),
            10,
            Decision(what="uncertain", reason="http_429", exhausted=True, pause_until=NOW + 60),
        ),
    ],
)
def test_what_may_have_been_accepted_is_never_dead(outcome: Outcome, attempt_count: int, decision: Decision) -> None:
    assert after(outcome, attempt_count) == decision


@pytest.mark.parametrize(
    ("wait_seconds", "pause_seconds"),
    [(0.0, 5.0), (-1.0, 5.0), (4.0, 5.0), (90.0, 90.0), (1e9, DAY_SECONDS), (math.nan, 5.0)],
)
def test_wait_of_one_delivery_pauses_nobody_else(wait_seconds: float, pause_seconds: float) -> None:
    waiting = Outcome(verdict="retry", reason="settling", wait_seconds=wait_seconds)
    assert after(waiting, 1) == Decision(what="retry", at=NOW + pause_seconds, reason="settling")


@pytest.mark.parametrize(
    ("decision", "probe", "said"),
    [
        (Decision(what="skip", reason="unmatched"), False, "unmatched: skipped, nothing was sent"),
        (
            Decision(what="skip", reason="unmatched"),
            True,
            "unmatched: skipped, nothing was sent; the subscription stays disabled, and the next event probes it",
        ),
        (Decision(what="done", reason="dry_run"), False, "dry run: nothing was sent"),
        (
            Decision(what="done", reason="dry_run"),
            True,
            "dry run: nothing was sent; the subscription stays disabled, and the next event probes it",
        ),
    ],
)
def test_sentence_of_an_attempt_that_says_nothing_about_the_sink(decision: Decision, probe: bool, said: str) -> None:
    words = sentence(decision, attempt_count=1, schedule_seconds=(5.0,), now=NOW, probe=probe, judged=False)
    assert words == said


def test_sentence_of_an_uncertain_delivery() -> None:
    unknown = "it may or may not have been accepted, so a person must find out"
    doubtful = Decision(what="uncertain", reason="timeout")
    said = sentence(doubtful, attempt_count=2, schedule_seconds=(5.0,), now=NOW)
    assert said == f"timeout (attempt 2 of 2): uncertain, {unknown}"
    said = sentence(doubtful, attempt_count=2, schedule_seconds=(5.0,), now=NOW, failing_seconds=432_000.0)
    assert said.endswith(f"{unknown}; only failures for 5 days, so the subscription is disabled")


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        (Decision(what="done", reason="http_204"), "HTTP 204: delivered"),
        (
            Decision(what="done", reason="http_201", pause_until=NOW + 900),
            "HTTP 201: delivered; a pause of 15 min follows",
        ),
        (Decision(what="done", reason="ok"), "ok: delivered"),
        (Decision(what="retry", at=NOW + 12, reason="http_503"), "HTTP 503 (attempt 3 of 10): tried again in 12 s"),
        (Decision(what="retry", at=NOW + 7200, reason="timeout"), "timeout (attempt 3 of 10): tried again in 2 h"),
        (
            Decision(what="retry", at=NOW + 120, reason="http_429", pause_until=NOW + 120),
            "HTTP 429 (attempt 3 of 10): tried again in 2 min, the pause that the sink asked for",
        ),
        (
            Decision(what="retry", at=NOW + 1800, reason="http_429", pause_until=NOW + 120),
            "HTTP 429 (attempt 3 of 10): tried again in 30 min",
        ),
        (
            Decision(what="dead", reason="http_400: invalid_payload"),
            "HTTP 400: invalid_payload (attempt 3 of 10): given up, another attempt would end the same way",
        ),
        (
            Decision(what="disable", reason="http_410"),
            "HTTP 410 (attempt 3 of 10): the sink accepts no more events, so its subscription is disabled; "
            "this event waits",
        ),
        (
            Decision(what="disable", reason="this version cannot read the template"),
            "this version cannot read the template (attempt 3 of 10): the subscription is disabled; this event waits",
        ),
    ],
)
def test_decision_is_described_in_a_sentence(decision: Decision, said: str) -> None:
    assert sentence(decision, attempt_count=3, schedule_seconds=DEFAULT_RETRY_SCHEDULE_SECONDS, now=NOW) == said


def test_result_of_a_probe_is_described() -> None:
    arrived = sentence(
        Decision(what="done", reason="http_200"), attempt_count=1, schedule_seconds=(0.0,), now=NOW, probe=True
    )
    assert arrived == "HTTP 200: delivered, so the subscription is enabled again"
    failed = Decision(what="retry", at=NOW, reason="http_503", pause_until=None)
    assert sentence(failed, attempt_count=1, schedule_seconds=(0.0,), now=NOW, probe=True) == (
        "HTTP 503: the subscription stays disabled; this event waits"
    )


@example([], 1, 0.0, 0.0, math.nan)
@given(schedules, st.integers(1, 60), st.floats(0, 1), fractions, st.none() | st.floats())
def test_every_failure_is_retried_or_dead_within_bounds(
    schedule: list[float], attempt_count: int, jitter: float, random_value: float, retry_after: float | None
) -> None:
    decision = decide(
        failed(retry_after),
        attempt_count=attempt_count,
        schedule_seconds=schedule,
        jitter=jitter,
        random_value=random_value,
        now=NOW,
    )
    floor = min(retry_after, DAY_SECONDS) if retry_after is not None and retry_after > 0 else 0.0
    assert decision.what in ("retry", "dead")
    assert decision.pause_until == (NOW + floor if floor else None)
    if decision.what == "dead":
        assert decision.exhausted
        assert attempt_count == len(schedule) + 1 or attempt_count > len(schedule)
        return
    base = schedule[attempt_count - 1]
    assert decision.at >= NOW + floor
    assert decision.at <= NOW + max(base * (1 + jitter), floor) + 1e-3
    assert decision.at >= NOW + base * (1 - jitter) - 1e-3


@pytest.mark.parametrize(("random_value", "pause_seconds"), [(0.0, 4.0), (0.5, 5.0), (0.75, 5.5)])
def test_jitter_spreads_the_pause_to_both_sides(random_value: float, pause_seconds: float) -> None:
    decision = after(failed(), 1, random_value=random_value)
    assert decision.what == "retry"
    assert decision.at - NOW == pytest.approx(pause_seconds)


def test_retry_after_is_a_floor_and_a_pause() -> None:
    assert after(failed(60.0), 1) == Decision(what="retry", at=NOW + 60, reason="http_500", pause_until=NOW + 60)
    assert after(failed(60.0), 2) == Decision(what="retry", at=NOW + 300, reason="http_500", pause_until=NOW + 60)
    assert after(failed(1e9), 1) == Decision(
        what="retry", at=NOW + DAY_SECONDS, reason="http_500", pause_until=NOW + DAY_SECONDS
    )
    assert after(failed(60.0), 10) == Decision(what="dead", reason="http_500", exhausted=True, pause_until=NOW + 60)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 120 ", 120.0),
        ("0.083", 0.083),
        ("1.", 1.0),
        ("+5", 5.0),
        ("-5", 0.0),
        ("86400", DAY_SECONDS),
        ("86401", DAY_SECONDS),
        ("9" * 100, DAY_SECONDS),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60.0),
        ("Tuesday, 14-Nov-23 22:14:20 GMT", 60.0),
        ("Tue Nov 14 22:14:20 2023", 60.0),
        ("Tue, 14 Nov 2023 22:13:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", DAY_SECONDS),
        (None, None),
        ("", None),
        ("soon", None),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("1_000", None),
        ("１２", None),
        ("5 s", None),
        ("Tue, 99 Nov 2023 22:14:20 GMT", None),
        ("9" * 200, None),
    ],
)
def test_retry_after_values(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now=NOW) == seconds


def test_date_is_measured_by_the_sender_s_clock() -> None:
    value = "Tue, 14 Nov 2023 22:14:20 GMT"
    assert parse_retry_after(value, now=NOW + 50_000, received_date="Tue, 14 Nov 2023 22:13:50 GMT") == 30.0
    assert parse_retry_after(value, now=NOW, received_date="no date") == 60.0


@given(st.text(), st.none() | st.text())
def test_retry_after_of_any_text_does_not_raise(value: str, received_date: str | None) -> None:
    seconds = parse_retry_after(value, now=NOW, received_date=received_date)
    assert seconds is None or 0 <= seconds <= DAY_SECONDS


@pytest.mark.parametrize("status_code", [200, 201, 202, 204, 207, 299])
def test_2xx_is_success(status_code: int) -> None:
    assert http_outcome(answer(status_code), NOW) == Outcome(verdict="delivered", reason=f"http_{status_code}")


@pytest.mark.parametrize("status_code", [101, 300, 301, 302, 307, 308, 400, 401, 404, 409, 422, 500, 502, 504, 599])
def test_everything_else_is_tried_again(status_code: int) -> None:
    outcome = http_outcome(answer(status_code, ("Retry-After", "60")), NOW)
    assert outcome == Outcome(verdict="retry", reason=f"http_{status_code}")


def test_410_ends_the_subscription() -> None:
    assert http_outcome(answer(410), NOW) == Outcome(verdict="disable", reason="http_410")


@pytest.mark.parametrize("status_code", [429, 503])
def test_429_and_503_set_the_pause(status_code: int) -> None:
    reason = f"http_{status_code}"
    assert http_outcome(answer(status_code), NOW) == Outcome(verdict="retry", reason=reason)
    outcome = http_outcome(answer(status_code, ("retry-after", "1.5")), NOW)
    assert outcome == Outcome(verdict="retry", reason=reason, retry_after_seconds=1.5)
    dated = answer(
        status_code, ("Date", "Tue, 14 Nov 2023 22:00:00 GMT"), ("Retry-After", "Tue, 14 Nov 2023 22:00:10 GMT")
    )
    assert http_outcome(dated, NOW).retry_after_seconds == 10.0


@pytest.mark.parametrize("error", ["timeout", "dns", "connect", "tls", "refused", "protocol", "read"])
def test_no_answer_is_tried_again(error: str) -> None:
    response = Response(started_at=NOW, duration_ms=1.0, error=error)
    assert http_outcome(response, NOW) == Outcome(verdict="retry", reason=error)
    late = Response(started_at=NOW, duration_ms=1.0, error=error, status_code=200)
    assert http_outcome(late, NOW).verdict == "retry"


def probes(count: int, *, disable_after_seconds: float = 5 * DAY_SECONDS) -> list[float]:
    """How long after it was disabled a subscription is probed, where each probe fails at once."""
    at, times = NOW, []
    for _ in range(count):
        at = next_probe_at(since=NOW, now=at, disable_after_seconds=disable_after_seconds, jitter=0.2, random_value=0.5)
        times.append(at - NOW)
    return times


def test_probes_begin_after_a_minute_and_come_ever_later_up_to_an_hour() -> None:
    assert probes(10) == [60, 120, 240, 480, 960, 1920, 3840, 7440, 11040, 14640]


def test_where_failures_disable_sooner_probes_begin_sooner() -> None:
    assert probes(4, disable_after_seconds=1.0) == [1, 2, 4, 8]


def test_a_drain_is_slow_at_first_doubles_and_ends() -> None:
    assert [drain_per_second(seconds) for seconds in (-1.0, 0.0, 10.0, 20.0, 50.0)] == [50, 50, 100, 200, 1600]
    assert drain_per_second(60.0) is None


@pytest.mark.parametrize("attempt_count", [1, 10])
@pytest.mark.parametrize("verdict", ["retry", "dead"])
def test_nothing_is_given_up_as_a_member_of_a_bundle(attempt_count: int, verdict: Literal["retry", "dead"]) -> None:
    outcome = Outcome(verdict=verdict, reason="http_500", retry_after_seconds=30.0)
    values = {"schedule_seconds": DEFAULT_RETRY_SCHEDULE_SECONDS, "jitter": 0.0, "random_value": 0.5, "now": NOW}
    alone = decide(outcome, attempt_count=attempt_count, **values)  # type: ignore[arg-type]
    bundled = decide(outcome, attempt_count=attempt_count, bundled=True, **values)  # type: ignore[arg-type]
    assert bundled.what == ("alone" if alone.what == "dead" else "retry")
    assert bundled.reason == "http_500"
    if bundled.what == "alone" and verdict == "retry":
        assert bundled.pause_until == NOW + 30


@pytest.mark.parametrize(
    ("failing_seconds", "words"),
    [
        (None, "HTTP 413 (attempt 1 of 3): not given up, but sent by itself"),
        (
            432_000.0,
            "HTTP 413 (attempt 1 of 3): only failures for 5 days, so the subscription is disabled; this event waits",
        ),
    ],
)
def test_the_sentence_of_a_refused_bundle(failing_seconds: float | None, words: str) -> None:
    said = sentence(
        Decision(what="alone", reason="http_413"),
        attempt_count=1,
        schedule_seconds=(1.0, 2.0),
        now=NOW,
        failing_seconds=failing_seconds,
    )
    assert said == words


def test_sentence_of_an_event_behind_a_failed_one() -> None:
    said = sentence(Decision(what="behind", reason="behind"), attempt_count=1, schedule_seconds=(5.0,), now=NOW)
    assert said == "behind: published again after an earlier event of its order, which was not acknowledged"
    said = sentence(
        Decision(what="behind", reason="connect"),
        attempt_count=1,
        schedule_seconds=(5.0,),
        now=NOW,
        failing_seconds=432_000.0,
    )
    assert said.endswith("only failures for 5 days, so the subscription is disabled; this event waits")
