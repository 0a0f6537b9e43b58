"""Tokens of the database: when one is accepted, how often, and how wrong ones are counted."""

from ipaddress import ip_network

import pytest

from relay.core.access.tokens import (
    FREE_MISTAKES,
    MAX_MISTAKES,
    Mistakes,
    in_order,
    is_scope,
    is_token_name,
    mistake,
    publish_prefixes,
    refusal_of,
    spend,
    weakness_of,
)
from relay.ids import new_token

HOME = (ip_network("203.0.113.0/24"),)


@pytest.mark.parametrize(
    ("expires_at", "networks", "client", "refusal"),
    [
        (None, (), "", None),
        (1_000.1, (), "", None),
        (1_000.0, (), "", "expired"),  # the moment itself is too late
        (999.0, HOME, "198.51.100.1", "expired"),
        (None, HOME, "203.0.113.9", None),
        (None, HOME, "::ffff:203.0.113.9", None),
        (None, HOME, "198.51.100.1", "network"),
        (None, HOME, "", "network"),  # an unknown address is in no network
    ],
)
def test_when_a_token_is_refused(expires_at, networks, client, refusal) -> None:
    assert refusal_of(expires_at, networks, client, 1_000.0) == refusal


def test_quota_is_spent_and_full_again_after_a_minute() -> None:
    spent = spend(None, 2, 100.0)
    assert (spent.allowed, spent.remaining, spent.resets_in_seconds) == (True, 1, 60)
    spent = spend(spent.quota, 2, 130.5)
    assert (spent.allowed, spent.remaining, spent.resets_in_seconds) == (True, 0, 30)
    refused = spend(spent.quota, 2, 159.99)
    assert (refused.allowed, refused.remaining, refused.resets_in_seconds) == (False, 0, 1)
    assert refused.quota == spent.quota  # a refused request takes nothing
    assert spend(refused.quota, 2, 160.0).remaining == 1


def test_wrong_tokens_are_free_at_first_and_then_cost_time() -> None:
    mistakes, waits = None, []
    for _ in range(FREE_MISTAKES + 2):
        mistakes, wait_seconds = mistake(mistakes, 5.0)
        waits.append(wait_seconds)
    assert waits == [0] * FREE_MISTAKES + [6, 12]


def test_wait_after_wrong_tokens_is_at_most_a_minute() -> None:
    mistakes: Mistakes | None = None
    for _ in range(10_000):
        mistakes, wait_seconds = mistake(mistakes, 5.0)
    assert mistakes is not None
    assert (mistakes.count, wait_seconds) == (MAX_MISTAKES, 60)


def test_wrong_tokens_are_forgiven_with_time() -> None:
    mistakes = Mistakes(count=MAX_MISTAKES, at=100.0)
    assert mistake(mistakes, 160.0)[1] == 6
    assert mistake(mistakes, 166.0)[1] == 0
    assert mistake(mistakes, 100_000.0) == (Mistakes(count=1.0, at=100_000.0), 0)


@pytest.mark.parametrize(
    ("name", "fits"),
    [("crm", True), ("a.b-c_9", True), ("x" * 64, True), ("x" * 65, False), ("", False), ("a\n", False)],
)
def test_names_of_tokens(name: str, fits: bool) -> None:
    assert is_token_name(name) == fits


@pytest.mark.parametrize(
    ("text", "known"),
    [
        *(("read", True), ("admin", True), ("events:write", True), ("events:write:com.acme.", True)),
        *(("events:write:com.", True), ("events:write:com.acme", False), ("events:write:com..", False)),
        *(("events:write:.", False), ("events:write:*.", False), ("read:com.acme.", False), ("", False)),
        *(
            ("events:write:" + "a" * 200 + ".", False),
            ("events:write:com.acme.\n", False),
            ("events:write:a,b.", False),
        ),
    ],
)
def test_scopes_are_known_ones_or_publish_under_a_prefix(text: str, known: bool) -> None:
    assert is_scope(text) is known


def test_scopes_are_listed_in_one_order() -> None:
    scopes = {"events:write:b.", "events:write:a.", "admin", "read"}
    assert in_order(scopes) == ["read", "admin", "events:write:a.", "events:write:b."]
    assert publish_prefixes(scopes) == ("a.", "b.")
    assert publish_prefixes({"events:write"}) == ()


def test_no_token_that_is_made_is_weak() -> None:
    assert {weakness_of(new_token()) for _ in range(2_000)} == {None}


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "has fewer than 32 characters"),
        ("abcdefghijklmnopqrstuvwxyz01234", "has fewer than 32 characters"),
        ("a" * 64, "has fewer than 10 different characters"),
        ("abcdefghi" * 4, "has fewer than 10 different characters"),
        ("abcdefghij" * 4, None),
        ("abcdefghijklmnopqrstuvwxyz012345", None),
    ],
)
def test_short_and_monotonous_tokens_are_weak(token: str, why: str | None) -> None:
    assert weakness_of(token) == why
