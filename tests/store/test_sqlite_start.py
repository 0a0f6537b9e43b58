"""Start on a SQLite file: there is no other node, so everything a crash left behind is released."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from relay.core.records import StoredAnswer
from relay.store.databases.sqlite import url_of
from relay.store.store import Store
from tests.support.store_kit import NOW, claim, poll, result_of, subscription, track

DAY = 86_400.0


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """SQLite only."""
    return url_of(tmp_path / "relay.db")


async def test_start_releases_every_lease(store: Store, open_again: Callable[..., Awaitable[Store]]) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    for name in ("a", "b"):
        await store.jobs.record(poll(await track(store, name), 0, "queued"))
    old = await claim(store, "sub_1")
    await store.close()
    again = await open_again(now=NOW + 1)
    assert len(await claim(again, "sub_1", now=NOW + 1)) == 2
    assert not (await again.deliveries.record(result_of(old[0])))[0].kept


async def test_requests_in_flight_at_a_crash_may_be_repeated_and_answers_are_kept(
    store: Store, open_again: Callable[..., Awaitable[Store]]
) -> None:
    async def begin(store: Store, key: str) -> StoredAnswer | float:
        return await store.idempotency.begin(key, "digest", "holder", NOW, NOW - DAY)

    await begin(store, "in flight")
    await begin(store, "answered")
    await store.idempotency.end("answered", "holder", 200, b"yes", {})
    await store.close()
    again = await open_again()
    assert await begin(again, "in flight") == NOW
    assert await begin(again, "answered") == StoredAnswer(body_digest="digest", status_code=200, body=b"yes")
