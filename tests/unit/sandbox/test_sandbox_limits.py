"""The sandbox's rate limit."""

from hypothesis import given
from hypothesis import strategies as st

from relay.sandbox.limits import RateLimiter

NOW = 1_779_271_200.0


def test_a_refused_request_does_not_count() -> None:
    limits = RateLimiter(limit=3, window_seconds=60)
    for key in ("k1", "k1", "k2"):
        assert limits.spend(key, "a", NOW).retry_after_seconds is None
    for _ in range(5):
        assert limits.spend("k2", "a", NOW).retry_after_seconds is not None
    assert (limits.peek("k2", "a", NOW).remaining, limits.peek("k2", "a", NOW).account_remaining) == (2, 0)


@given(st.lists(st.tuples(st.sampled_from(["k1", "k2"]), st.floats(0, 30)), max_size=60))
def test_no_window_exceeds_its_limit(calls: list[tuple[str, float]]) -> None:
    limits, now = RateLimiter(limit=3, window_seconds=60), NOW
    passed: list[tuple[str, float]] = []
    for key, pause in calls:
        now += pause
        verdict = limits.spend(key, "a", now)
        if verdict.retry_after_seconds is None:
            passed.append((key, now))
        else:
            assert 0 < verdict.retry_after_seconds <= 60
    # Fixed windows: at most two windows' worth in any stretch as long as one.
    for _, start in passed:
        assert sum(start <= at < start + 60 for _, at in passed) <= 6
        assert sum(start <= at < start + 60 for key, at in passed if key == "k1") <= 6
