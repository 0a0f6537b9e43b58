"""The sandbox's rate limit."""

from hypothesis import given
from hypothesis import strategies as st

from relay.sandbox.limits import RateLimiter

NOW = 1_779_271_200.0


def limiter(limit: int = 2, window: float = 60, account: int = 3, **more: int) -> RateLimiter:
    return RateLimiter(limit=limit, window_seconds=window, account_limit=account, **more)


def test_a_refused_request_does_not_count() -> None:
    limits = limiter(account=9)
    for _ in range(2):
        assert limits.spend("k", "a", NOW).is_allowed
    for _ in range(5):
        assert not limits.spend("k", "a", NOW).is_allowed
    assert limits.peek("k", "a", NOW).account_remaining == 7


@given(st.lists(st.tuples(st.sampled_from(["k1", "k2"]), st.floats(0, 30)), max_size=60))
def test_no_window_exceeds_its_limit(calls: list[tuple[str, float]]) -> None:
    limits, now = limiter(limit=3, account=4), NOW
    passed: list[tuple[str, float]] = []
    for key, pause in calls:
        now += pause
        verdict = limits.spend(key, "a", now)
        if verdict.is_allowed:
            passed.append((key, now))
        else:
            assert verdict.retry_after_seconds is not None
            assert 0 < verdict.retry_after_seconds <= 60
    # Fixed windows: at most two windows' worth in any stretch as long as one.
    for _, start in passed:
        assert sum(start <= at < start + 60 for _, at in passed) <= 8
        assert sum(start <= at < start + 60 for key, at in passed if key == "k1") <= 6
