"""The sandbox's rate limit."""

from hypothesis import given
from hypothesis import strategies as st

from relay.sandbox.limits import RateLimiter, Verdict, retry_after_text

NOW = 1_779_271_200.0


def limiter(limit: int = 2, window: float = 60, account: int = 3, **more: int) -> RateLimiter:
    return RateLimiter(limit=limit, window_seconds=window, account_limit=account, **more)


def left(verdict: Verdict) -> tuple[int, int]:
    return verdict.remaining, verdict.account_remaining


def test_keys_have_their_own_window_and_share_the_accounts() -> None:
    limits = limiter()
    assert left(limits.spend("k1", "acme", NOW)) == (1, 2)
    assert left(limits.spend("k2", "acme", NOW)) == (1, 1)
    assert left(limits.spend("k3", "other", NOW)) == (1, 2)
    assert left(limits.spend("k1", "acme", NOW)) == (0, 0)
    assert limits.spend("k2", "acme", NOW + 10).retry_after_seconds == 50  # the account's window is full
    assert limits.spend("k1", "acme", NOW + 59).retry_after_seconds == 1
    assert left(limits.spend("k1", "acme", NOW + 60)) == (1, 2)


def test_a_refused_request_does_not_count() -> None:
    limits = limiter(account=9)
    for _ in range(2):
        assert limits.spend("k", "a", NOW).is_allowed
    for _ in range(5):
        assert not limits.spend("k", "a", NOW).is_allowed
    assert limits.peek("k", "a", NOW).account_remaining == 7


def test_rate_limit_headers() -> None:
    limits = limiter(limit=1, window=1.5)
    assert limits.spend("k", "a", NOW).headers(whole_seconds=True) == [
        ("X-RateLimit-Limit", "1"),
        ("X-RateLimit-Remaining", "0"),
        ("X-RateLimit-Window-Ms", "1500"),
        ("X-User-RateLimit-Limit", "3"),
        ("X-User-RateLimit-Remaining", "2"),
    ]
    refused = limits.spend("k", "a", NOW + 0.25)
    assert refused.headers(whole_seconds=True)[-1] == ("Retry-After", "2")
    assert refused.headers(whole_seconds=False)[-1] == ("Retry-After", "1.250")


@given(st.floats(0, 1e6))
def test_retry_after_is_never_too_early(seconds: float) -> None:
    assert int(retry_after_text(seconds, whole_seconds=True)) >= seconds
    assert float(retry_after_text(seconds, whole_seconds=False)) >= seconds - 1e-9
    assert float(retry_after_text(seconds, whole_seconds=False)) <= seconds + 0.0011


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
