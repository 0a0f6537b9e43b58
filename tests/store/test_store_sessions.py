"""Sessions of the dashboard: each ends at its time or when it is deleted, and one link makes one session."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from relay.store.store import Store
from tests.support.store_kit import NOW, session


async def kept(store: Store, *digests: str, kind: str = "session") -> list[str]:
    """Those of the digests that are found."""
    return [digest for digest in digests if await store.sessions.find(digest, kind, NOW)]  # type: ignore[arg-type]


async def test_session_is_read_back_as_it_was_stored_until_it_ends(store: Store) -> None:
    made = session("a")
    await store.sessions.create(made)
    for at, found in ((NOW, made), (NOW + 59.9, made), (NOW + 60, None), (NOW + 1e9, None)):
        assert await store.sessions.find("a", "session", at) == found
    assert await store.sessions.delete("a")
    assert not await store.sessions.delete("a")
    assert await store.sessions.find("a", "session", NOW) is None


@pytest.mark.parametrize(
    ("digest", "at", "token", "works"),
    [
        ("link", NOW, "token 1", True),
        ("link", NOW + 59.9, "token 1", True),
        ("link", NOW + 60, "token 1", False),  # expired
        ("link", NOW, "token 2", False),  # another token's
        ("other", NOW, "token 1", False),
        ("", NOW, "token 1", False),
    ],
)
async def test_link_makes_a_session_of_its_token_in_time(
    store: Store, digest: str, at: float, token: str, works: bool
) -> None:
    await store.sessions.create(session("link", kind="link"))
    made = session("made", token, created_at=at, expires_at=at + 60)
    assert await store.sessions.use_link(digest, made) is works
    assert await store.sessions.find("made", "session", at) == (made if works else None)


async def test_link_makes_one_session_however_many_use_it_at_once(
    store: Store, open_again: Callable[[], Awaitable[Store]]
) -> None:
    stores = [store, await open_again()] if store.database.shared else [store]
    await store.sessions.create(session("link", kind="link"))
    names = [f"made {number}" for number in range(10)]
    used = await asyncio.gather(
        *(stores[place % len(stores)].sessions.use_link("link", session(name)) for place, name in enumerate(names))
    )
    assert used.count(True) == 1
    assert await kept(store, *names) == [names[used.index(True)]]
    assert not await store.sessions.use_link("link", session("later"))
