"""Tokens of leases of pulls, and lags."""

import pytest

from relay.core.deliveries.pulls import Lag, ended_tokens, lease_token, pulled_at

NOW = 1_800_000_000.25


@pytest.mark.parametrize(
    ("until", "ended"),
    [(NOW - 3600, True), (NOW - 0.001, True), (NOW, True), (NOW + 0.01, False), (NOW + 3600, False)],
)
def test_tokens_compare_as_the_ends_of_their_leases(until: float, ended: bool) -> None:
    token = lease_token("sub_1", now=NOW - 5, until=until, nonce="f00d")
    first, last = ended_tokens("sub_1", NOW)
    assert (first <= token < last) is ended
    other, _ = ended_tokens("sub_10", NOW)
    assert not other <= token < ended_tokens("sub_10", NOW)[1]


@pytest.mark.parametrize(
    ("token", "began"),
    [
        (lease_token("sub/with/slashes", now=NOW - 5, until=NOW, nonce="f"), NOW - 5),
        (lease_token("sub_1", now=NOW + 5, until=NOW, nonce="f"), NOW),
        ("", NOW),
        ("4f00.17", NOW),
        ("pull/x", NOW),
        ("pull/sub/text/nonce", NOW),
    ],
)
def test_token_says_when_its_lease_began(token: str, began: float) -> None:
    assert pulled_at(token, NOW) == pytest.approx(began, abs=0.001)


def test_age_of_the_oldest_is_never_negative() -> None:
    assert Lag(0, None).oldest_seconds(NOW) is None
    assert Lag(1, NOW - 1.23456).oldest_seconds(NOW) == 1.235
    assert Lag(1, NOW + 9).oldest_seconds(NOW) == 0.0
