"""The planner as its callers see it: what it promises, whatever the upstream and the clock do."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.planner import Planner, PlannerConfig
from relay.core.planner.config import RateLimitHeaders
from relay.core.planner.outlook import PollExplanation
from relay.core.planner.poll_schedule import MAX_PATIENCE
from tests.support.scale import scaled

NOW = 1_779_271_200.0
CONFIG = PlannerConfig(max_requests_per_second=20, min_interval_seconds=1, max_interval_seconds=300, seed=3)
HEADERS = {"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "90", "X-RateLimit-Window-Ms": "60000"}
QUEUED = {"status": "queued", "channel": "email"}


def planner_of(**changes: Any) -> Planner:
    return Planner(PlannerConfig(**{"max_requests_per_second": 20, "seed": 3, **changes}))


def explain(planner: Planner, job_id: str, now: float) -> PollExplanation:
    explanation = planner.explain(job_id, now)
    assert explanation is not None
    return explanation


def next_take(planner: Planner, now: float) -> tuple[str, float]:
    """Waits until a job is offered, as a scheduler does.

    Where requests have become dearer, the poll that was due may be planned for later when it is to be taken: then it is
    asked again at once, and as each poll is planned again only once a price, that ends."""
    in_vain = 0
    for _ in range(10_000):
        at = planner.next_request_at(now)
        assert at is not None
        if at <= now:
            job_id = planner.take(now)
            if job_id is not None:
                return job_id, now
            in_vain += 1
            assert in_vain <= planner.stats(now).open_jobs, "a moment that has come, and nothing to take"
            continue
        assert planner.take(now) is None, "a moment that has not come, and something to take"
        now, in_vain = max(at, now + 1e-6), 0
    raise AssertionError("nothing is ever offered")


def test_a_new_job_on_an_idle_account_is_polled_within_a_second() -> None:
    planner = Planner(PlannerConfig())
    planner.track("job", None, NOW)
    job_id, at = next_take(planner, NOW)
    assert (job_id, at <= NOW + 1) == ("job", True)


def teach(planner: Planner, now: float, *, wait: float, run: float, jobs: int = 60) -> float:
    """Polls jobs, one after another, that start `wait` seconds after they were to and run `run` seconds."""
    for number in range(jobs):
        job_id, start = f"taught{number}", now + wait
        planner.track(job_id, {**QUEUED, "scheduled_at": now}, now, lane="")
        for at in (start - 0.5, start + 0.5, start + run - 0.5, start + run + 0.5):
            item = {**QUEUED, "scheduled_at": now}
            if at >= start:
                item |= {"status": "running", "started_at": start}
            if at >= start + run:
                item |= {"status": "succeeded", "finished_at": start + run}
            planner.observed(job_id, item, {}, at, at)
            planner.next_request_at(at)
        now = start + run + 1
    while planner.statistics.refit_step():
        pass
    return now


def test_a_job_that_is_known_waits_for_its_typical_end() -> None:
    planner = planner_of()
    now = teach(planner, NOW, wait=6, run=40)

    def planned_at() -> float:
        planned = planner.next_poll_at("job")
        assert planned is not None
        planner.price.load(3.0, 1_000)
        return planned

    planner.price.load(3.0, 1_000)  # each poll has to save three seconds: none is made on the off chance
    planner.track("job", {**QUEUED, "scheduled_at": now + 60}, now, lane="")
    assert planned_at() == pytest.approx(now + 60 + 46, abs=10)
    running = {**QUEUED, "status": "running", "started_at": now + 66, "scheduled_at": now + 60}
    planner.observed("job", running, {}, now + 68, now + 68)
    assert explain(planner, "job", now + 68).step == 0
    planned = planned_at()
    assert planned == pytest.approx(now + 66 + 40, abs=5)
    planner.observed("job", running, {}, planned, planned)
    assert planner.step("job") == 1
    assert planner.step("other") == 0
    assert planned + 1 <= planned_at() <= planned + 10, "it is late: it may end at any moment"


def test_an_end_forgets_the_job() -> None:
    planner = planner_of()
    planner.track("job", None, NOW)
    job_id, now = next_take(planner, NOW)
    planner.observed(job_id, {"status": "succeeded"}, {}, now, now)
    assert planner.stats(now).open_jobs == 0
    assert planner.explain("job", now) is None
    assert planner.next_poll_at("job") is None


def test_untracked_job_is_ignored() -> None:
    planner = planner_of()
    planner.observed("job", {"status": "running"}, HEADERS, NOW, NOW)
    planner.failed("job", 429, {"Retry-After": "9"}, NOW)
    planner.set_weight("job", 3.0, NOW)
    planner.forget("job")
    assert planner.stats(NOW).open_jobs == 0
    assert planner.stats(NOW).limit is None
    assert planner.stats(NOW).paused_until is None


def test_forgotten_job_is_no_longer_in_flight() -> None:
    planner = planner_of()
    planner.track("job", None, NOW)
    _, now = next_take(planner, NOW)
    assert planner.stats(now).in_flight == 1
    planner.forget("job")
    assert planner.stats(now).in_flight == 0
    planner.observed("job", None, {}, now, now)
    assert planner.stats(now).in_flight == 0


def test_tracking_again_brings_a_poll_forward_and_changes_nothing_else() -> None:
    planner = planner_of()
    planner.track("job", {**QUEUED, "scheduled_at": NOW + 3600}, NOW)
    planner.track("job", None, NOW + 1, weight=2.0)
    assert 0.7 * 900 <= (planner.next_poll_at("job") or 0) - NOW <= 900 * MAX_PATIENCE
    planner.track("job", None, NOW + 1, next_poll_at=NOW + 1)
    assert planner.next_poll_at("job") == NOW + 1
    assert planner.take(NOW + 2) == "job"
    planner.track("job", None, NOW + 2, next_poll_at=NOW + 2)
    assert planner.take(NOW + 3) is None
    assert explain(planner, "job", NOW + 3).anchor_at == NOW + 3600


@pytest.mark.parametrize(("status_code", "reason"), [(404, "backing_off"), (403, "backing_off"), (500, "backing_off")])
def test_failed_polls_are_repeated_at_growing_distances(status_code: int, reason: str) -> None:
    planner = planner_of()
    planner.track("job", None, NOW)
    now, waits = NOW, []
    for failures in range(1, 16):
        _, now = next_take(planner, now)
        planner.failed("job", status_code, {}, now)
        planned = planner.next_poll_at("job")
        assert planned is not None
        waits.append(planned - now)
        explanation = explain(planner, "job", now)
        assert (explanation.reason, explanation.failures) == (reason, failures)
    assert 1 <= waits[0] < 1.1
    assert 1.9 <= waits[1] < 2.2
    assert waits[-1] == pytest.approx(900)
    planner.observed("job", QUEUED, {}, now, now)
    assert explain(planner, "job", now).failures == 0


def test_retry_after_of_a_server_error_is_kept_for_the_job() -> None:
    planner = planner_of()
    planner.track("job", None, NOW)
    planner.failed("job", 503, {"Retry-After": "77"}, NOW + 1)
    assert planner.next_poll_at("job") == NOW + 78
    assert planner.stats(NOW + 1).paused_until is None


@settings(max_examples=scaled(10, 30))
@given(retry_after=st.floats(0.1, 3000), jobs=st.integers(1, 5))
def test_429_stops_everything_until_retry_after(retry_after: float, jobs: int) -> None:
    planner = Planner(CONFIG)
    for number in range(jobs):
        planner.track(f"j{number}", None, NOW)
    first, now = next_take(planner, NOW)
    planner.failed(first, 429, {"retry-after": str(retry_after)}, now)
    stop = now + retry_after
    assert planner.take(stop - 0.01) is None
    assert planner.stats(stop - 0.05).paused_until == pytest.approx(stop)
    offered = set()
    for _ in range(jobs):
        job_id, at = next_take(planner, stop - 0.01)
        assert at >= stop - 1e-3
        offered.add(job_id)
    assert offered == {f"j{number}" for number in range(jobs)}


def test_429_without_headers_pauses_for_a_minute() -> None:
    planner = planner_of()
    planner.track("job", None, NOW)
    planner.track("due", None, NOW)
    first, now = next_take(planner, NOW)
    planner.failed(first, 429, {}, now)
    assert planner.next_poll_at(first) == now + 60
    other = "due" if first == "job" else "job"
    explanation = explain(planner, other, now)
    assert (explanation.reason, explanation.not_before) == ("paused_until", now + 60)
    assert next_take(planner, now)[1] == pytest.approx(now + 60)


def test_reasons_name_what_a_job_waits_for() -> None:
    planner = planner_of(max_requests_per_second=0.1)
    planner.track("first", None, NOW)
    planner.track("second", None, NOW + 1)
    planner.track("third", None, NOW + 1)
    assert explain(planner, "first", NOW + 2).reason == "budget"
    assert explain(planner, "first", NOW + 10).reason == "due"
    assert explain(planner, "second", NOW + 10).reason == "budget"
    assert explain(planner, "first", NOW + 10).anchor_at is None
    assert planner.stats(NOW + 11).due_jobs == 3
    known = planner_of()
    known.track("known", QUEUED, NOW)
    assert explain(known, "known", NOW + 1).reason == "between_looks"


def test_a_job_that_becomes_heavier_when_it_is_overdue_goes_before_those_that_are_not() -> None:
    """A client begins to wait for a job whose poll is overdue because requests are short."""
    planner, now = Planner(PlannerConfig(max_requests_per_second=0.5)), NOW
    running = {"status": "running", "started_at": NOW, "action": "outreach.dispatch", "channel": "email"}
    for number in range(200):
        planner.track(f"j{number:03}", running, now, lane="")
    left = {f"j{number:03}" for number in range(200)}
    for _ in range(20):
        job_id, now = next_take(planner, now)
        planner.observed(job_id, {**running, "status": "succeeded"}, {}, now, now)
        left.remove(job_id)
    planner.set_weight(max(left), 4, now)
    assert next_take(planner, now)[0] == max(left)


def test_weight_brings_polls_forward_but_never_before_the_anchor() -> None:
    planner = planner_of()
    planner.track("running", {**QUEUED, "status": "running", "started_at": NOW - 100}, NOW, step=9, lane="")
    planner.track("later", {**QUEUED, "scheduled_at": NOW + 100}, NOW)
    planner.track("unseen", None, NOW, next_poll_at=NOW + 50)
    before = planner.next_poll_at("running")
    planner.set_weight("running", math.nan, NOW)
    assert planner.next_poll_at("running") == before
    planner.set_weight("running", 0.5, NOW)
    assert planner.next_poll_at("running") == before
    planner.set_weight("running", 4, NOW)
    assert planner.next_poll_at("running") == pytest.approx(NOW + ((before or 0) - NOW) / 2, rel=0.01)
    planner.set_weight("later", 1e9, NOW)
    assert (planner.next_poll_at("later") or 0) >= NOW + 100
    planner.set_weight("unseen", 4, NOW)
    assert planner.next_poll_at("unseen") == NOW + 50


item_times = st.one_of(
    st.none(), st.floats(NOW - 500, NOW + 2000), st.just("nonsense"), st.just("2026-05-20T10:05:00Z")
)
items: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.just([]),
    st.fixed_dictionaries(
        {"status": st.sampled_from(["queued", "scheduled", "running", "settling", 7, None])},
        optional={
            "channel": st.sampled_from(["email", "linkedin", 5, None]),
            "scheduled_at": item_times,
            "started_at": item_times,
            "next_attempt_at": item_times,
        },
    ),
    st.just({"status": "succeeded", "channel": "email", "started_at": NOW}),
    st.just({"status": "cancelled"}),
)
headers = st.sampled_from(
    [{}, HEADERS, {"X-RateLimit-Limit": "100"}, {"X-RateLimit-Limit": "x"}, {"Retry-After": "5"}]
    + [{**HEADERS, "X-RateLimit-Remaining": str(left)} for left in (0, 31, 50)]
)
names = st.integers(0, 7).map("j{}".format)
steps = st.one_of(st.just(0.0), st.floats(0, 5), st.floats(0, 700), st.floats(-4000, 0))
moves = st.one_of(
    st.tuples(st.just("track"), names, items),
    st.tuples(st.just("take")),
    st.tuples(st.just("observed"), items, headers),
    st.tuples(st.just("unasked"), names, items, headers),
    st.tuples(st.just("failed"), st.sampled_from([None, 401, 403, 404, 429, 500, 503]), headers),
    st.tuples(st.just("weight"), names, st.floats(0, 10)),
    st.tuples(st.just("forget"), names),
    st.tuples(st.just("configure")),
)


@settings(max_examples=scaled(40, 100), deadline=None)
@given(st.lists(st.tuples(steps, moves), max_size=60))
def test_every_open_job_is_offered_in_the_end_and_none_twice(run: list[tuple[float, Any]]) -> None:
    """Whatever happens before, clocks set back and nonsense included: nothing raises, stalls or is given out twice."""
    planner, now, tracked, out = Planner(CONFIG), NOW, set(), {}
    for step, (move, *given_to) in run:
        now += step
        match move, given_to:
            case "track", [job_id, item]:
                planner.track(job_id, item, now)
                tracked.add(job_id)
            case "take", _:
                if (taken := planner.take(now)) is not None:
                    assert taken in tracked
                    assert taken not in out
                    out[taken] = now
            case ("observed", [item, reported]) if out:
                job_id, sent_at = out.popitem()
                planner.observed(job_id, item, reported, sent_at, now)
                if isinstance(item, dict) and item["status"] in ("succeeded", "cancelled"):
                    tracked.discard(job_id)
            case "unasked", [job_id, item, reported]:
                planner.observed(job_id, item, reported, now, now)
                out.pop(job_id, None)
                if isinstance(item, dict) and item["status"] in ("succeeded", "cancelled"):
                    tracked.discard(job_id)
            case ("failed", [status_code, reported]) if out:
                planner.failed(out.popitem()[0], status_code, reported, now)
            case "weight", [job_id, weight]:
                planner.set_weight(job_id, weight, now)
            case "forget", [job_id]:
                planner.forget(job_id)
                tracked.discard(job_id)
                out.pop(job_id, None)
            case "configure", _:
                planner.configure(CONFIG)
        stats = planner.stats(now)
        assert (stats.open_jobs, stats.in_flight) == (len(tracked), len(out))
        for job_id in tracked:
            assert (explain(planner, job_id, now).reason == "in_flight") == (job_id in out)
    offered, began = set(out), now
    while offered != tracked:
        job_id, now = next_take(planner, now)
        assert job_id in tracked
        assert job_id not in offered
        offered.add(job_id)
    assert now - began <= 4000 + 300 * MAX_PATIENCE + 2 * 60 + 5 * len(tracked)


def test_a_shorter_longest_interval_holds_for_polls_that_are_already_planned() -> None:
    planner, now = planner_of(max_interval_seconds=7 * 86_400.0), NOW
    planner.track("a", None, now)
    for _ in range(22):
        job_id, now = next_take(planner, now)
        planner.failed(job_id, 503, {}, now)
    at = planner.next_request_at(now)
    assert at is not None
    assert at - now > 86_400
    planner.configure(PlannerConfig(max_requests_per_second=20, seed=3, max_interval_seconds=900.0))
    at = planner.next_request_at(now)
    assert at is not None
    assert at - now <= 900


@settings(max_examples=scaled(8, 25), deadline=None)
@given(anchors=st.lists(st.floats(1, 5000), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_no_poll_comes_before_a_future_anchor_but_the_first_and_safety_polls(anchors: list[float], seed: int) -> None:
    planner = Planner(PlannerConfig(max_requests_per_second=20, max_interval_seconds=300, seed=seed))
    due_at = {f"j{number}": NOW + anchor for number, anchor in enumerate(anchors)}
    polled: dict[str, float] = {}
    now = NOW
    for job_id in due_at:
        planner.track(job_id, None, NOW)
    ended: set[str] = set()
    while len(ended) < len(due_at):
        job_id, now = next_take(planner, now)
        if now < due_at[job_id] and job_id in polled:
            assert now - polled[job_id] >= 0.7 * 300 - 1
        polled[job_id] = now
        done = now > due_at[job_id] + 10
        item = {"status": "succeeded" if done else "scheduled", "channel": "email", "scheduled_at": due_at[job_id]}
        planner.observed(job_id, item, {}, now, now)
        if done:
            ended.add(job_id)
        assert planner.stats(now).open_jobs == len(due_at) - len(ended)


def test_a_planner_with_other_settings_goes_on_with_the_requests_that_are_out() -> None:
    planner = Planner(PlannerConfig(max_requests_per_second=10.0))
    for job_id in ("out", "lent", "waiting"):
        planner.track(job_id, {"status": "queued"}, NOW, next_poll_at=NOW if job_id == "out" else NOW + 500)
    assert planner.take(NOW + 1) == "out"
    assert planner.borrow("lent", NOW + 1)
    due = planner.next_poll_at("waiting")
    planner.configure(PlannerConfig(max_requests_per_second=1.0))
    assert [planner.tracks(job_id) for job_id in ("out", "lent", "waiting", "other")] == [True, True, True, False]
    assert [planner.next_poll_at(job_id) for job_id in ("out", "lent", "waiting")] == [None, None, due]
    assert (planner.purpose("out"), planner.purpose("lent")) == ("expected", "passed")
    assert planner.stats(NOW + 1).in_flight == 2
    assert planner.take(NOW + 400) is None
    planner.observed("out", {"status": "queued"}, {}, NOW + 1, NOW + 2)
    planner.failed("lent", 500, {}, NOW + 2)
    assert planner.stats(NOW + 2).in_flight == 0
    assert planner.stats(NOW + 2).requests_per_second == 1.0


def test_other_settings_apply_to_reserve_headers_and_intervals() -> None:
    planner = Planner(PlannerConfig(reserve=0.5))
    planner.track("job", QUEUED, NOW)
    planner.configure(PlannerConfig(reserve=0.0, max_interval_seconds=20.0, headers=RateLimitHeaders(limit="X-Limit")))
    planner.observed("job", QUEUED, {**HEADERS, "X-Limit": "60"}, NOW, NOW)
    assert planner.stats(NOW).limit == 60
    assert planner.stats(NOW + 60).requests_per_second == pytest.approx(1.0)
    assert (planner.next_poll_at("job") or math.inf) <= NOW + 20


def test_times_that_are_not_finite_are_tolerated() -> None:
    planner = planner_of()
    planner.track("job", None, math.nan)
    planner.observed("job", None, {}, math.nan, math.inf)
    assert planner.next_request_at(NOW) is not None
    planner.track("other", None, NOW, min_interval_seconds=math.nan, weight=math.inf, next_poll_at=math.nan)
    assert next_take(planner, NOW)[0] in ("job", "other")


def test_each_poll_has_a_purpose() -> None:
    planner, now = planner_of(max_requests_per_second=1000), NOW

    def polled_at(item: dict[str, Any] | None = None) -> str:
        nonlocal now
        job_id, now = next_take(planner, now)
        purpose = planner.purpose(job_id)
        if item is None:
            planner.failed(job_id, 503, {}, now)
        else:
            planner.observed(job_id, item, {}, now, now)
        return purpose

    planner.track("job", None, now)
    assert planner.purpose("job") == "expected", "where no poll is in flight"
    later = {**QUEUED, "scheduled_at": now + 10_000}
    assert polled_at(later) == "first"
    assert polled_at(later) == "safety"
    planner.track("job", None, now, next_poll_at=now)
    assert polled_at() == "asked"
    assert polled_at({**QUEUED, "status": "running", "started_at": now}) == "again"
    planner.price.load(1.0, 1_000)
    now += 60
    found = {polled_at({**QUEUED, "status": "running", "started_at": now}) for _ in range(20)}
    assert "expected" in found
