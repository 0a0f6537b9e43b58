"""Answers stored under Idempotency-Keys, account states, ids, and what survives a restart."""

from collections.abc import Awaitable, Callable

import pytest

from relay.core.records import AccountState, StoredAnswer
from relay.store.access.idempotency import LEASE_SECONDS
from relay.store.store import Store
from tests.support.store_kit import NOW, relay_event, rows, states, subscription, together

DAY = 86_400.0


async def begin(
    store: Store, key: str = "key", digest: str = "digest", now: float = NOW, *, holder: str = "holder"
) -> StoredAnswer | None:
    """None if the key was taken."""
    begun = await store.idempotency.begin(key, digest, holder, now, now - DAY)
    return begun if isinstance(begun, StoredAnswer) else None


@pytest.mark.parametrize("body", [b"", b'{"a":"\xc3\xa4"}', bytes(range(256))])
async def test_answer_is_repeated_byte_for_byte(store: Store, body: bytes) -> None:
    await begin(store)
    headers = {"Location": "/v1/jobs/1", "Content-Type": "application/json"}
    await store.idempotency.end("key", "holder", 201, body, headers)
    for _ in range(2):
        assert await begin(store) == StoredAnswer(body_digest="digest", status_code=201, body=body, headers=headers)


async def test_of_two_requests_at_once_one_is_new(store: Store) -> None:
    results = await together(store, begin(store), begin(store), begin(store, "other"))
    assert results == [None, StoredAnswer(body_digest="digest"), None]


async def test_a_key_is_new_again_after_its_time(store: Store) -> None:
    await begin(store, digest="old")
    await store.idempotency.end("key", "holder", 201, b"old", {})
    assert await begin(store, digest="new", now=NOW + DAY) is not None
    assert await begin(store, digest="new", now=NOW + DAY + 1) is None
    assert await begin(store, now=NOW + DAY + 1) == StoredAnswer(body_digest="new")


@pytest.mark.parametrize(
    ("digest", "seconds", "expected"),
    [
        ("digest", LEASE_SECONDS - 0.1, StoredAnswer(body_digest="digest")),
        ("digest", LEASE_SECONDS, None),
        ("digest", DAY, None),
        ("another body", LEASE_SECONDS, StoredAnswer(body_digest="digest")),
        ("another body", DAY, StoredAnswer(body_digest="digest")),
        ("another body", DAY + 1, None),
    ],
)
async def test_key_of_a_cut_off_request_is_free_for_the_same_body_when_its_lease_ends(
    store: Store, digest: str, seconds: float, expected: StoredAnswer | None
) -> None:
    await begin(store)
    assert await begin(store, digest=digest, now=NOW + seconds, holder="later") == expected


async def test_a_request_that_renews_its_lease_keeps_its_key(store: Store) -> None:
    await begin(store)
    await store.idempotency.renew("key", "holder", NOW + 9)
    assert await begin(store, now=NOW + 18, holder="later") == StoredAnswer(body_digest="digest")
    assert await begin(store, now=NOW + 19, holder="later") is None


async def test_request_that_lost_its_key_does_not_affect_the_later_one(store: Store) -> None:
    await begin(store)
    assert await begin(store, now=NOW + LEASE_SECONDS, holder="later") is None
    await store.idempotency.renew("key", "holder", NOW + 1_000)
    await store.idempotency.end("key", "holder", 201, b"old", {})
    await store.idempotency.forget("key", "holder")
    again = NOW + LEASE_SECONDS + 1
    assert await begin(store, now=again) == StoredAnswer(body_digest="digest")
    await store.idempotency.end("key", "later", 201, b"new", {})
    for late in ("holder", "later"):  # an answer that is kept stays as it is
        await store.idempotency.renew("key", late, again)
        await store.idempotency.forget("key", late)
    assert await begin(store, now=again) == StoredAnswer(body_digest="digest", status_code=201, body=b"new")


async def test_of_many_that_take_the_key_of_a_request_that_was_cut_off_one_gets_it(store: Store) -> None:
    await begin(store)
    takes = [begin(store, now=NOW + LEASE_SECONDS, holder=f"later {nth}") for nth in range(5)]
    assert (await together(store, *takes, begin(store, "a key before it"))).count(None) == 2


async def test_a_restart_keeps_answers(store: Store, open_again: Callable[..., Awaitable[Store]]) -> None:
    await begin(store, "answered")
    await store.idempotency.end("answered", "holder", 200, b"yes", {})
    await store.close()
    assert await begin(await open_again(), "answered") == StoredAnswer(
        body_digest="digest", status_code=200, body=b"yes"
    )


async def test_the_state_of_an_account_is_kept_with_the_event_that_says_so(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1", types=("relay.source.unauthorized",)))
    assert await store.accounts.all() == []
    bad = AccountState(
        source="revor", name="default", state="unauthorized", since=NOW, problem={"code": "401", "message": "no"}
    )
    await store.accounts.set(bad, relay_event("relay.source.unauthorized"))
    other = AccountState(source="revor", name="other", state="down", since=NOW)
    await store.accounts.set(other)
    assert sorted(await store.accounts.all(), key=lambda one: one.name) == [bad, other]
    well = AccountState(source="revor", name="default")
    await store.accounts.set(well)
    assert sorted(await store.accounts.all(), key=lambda one: one.name) == [well, other]
    assert await states(store) == ["pending"]


async def test_an_adopted_account_keeps_its_key_encrypted_and_its_state(store: Store) -> None:
    state = AccountState(source="revor", name="key-1", state="down", since=NOW)
    await store.accounts.set(state)
    await store.accounts.adopt("revor", "key-1", "the first key")
    await together(
        store, store.accounts.adopt("revor", "key-2", "a key"), store.accounts.adopt("revor", "key-1", "\xe4")
    )
    assert await store.accounts.adopted() == [("revor", "key-1", "\xe4"), ("revor", "key-2", "a key")]
    assert state in await store.accounts.all()
    for row in await rows(store, "SELECT key_ciphertext FROM accounts WHERE name = 'key-2'"):
        assert b"a key" not in row["key_ciphertext"]
