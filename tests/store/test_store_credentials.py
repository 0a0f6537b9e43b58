"""The credential of a sink: sealed with it, its tokens renewed by one node at a time, never brought back."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from relay.core.deliveries.credentials import SinkCredential, Token, renewed
from relay.core.records import RefreshTurn
from relay.core.subscriptions.subscription import Subscription
from relay.store.store import Store
from tests.support.store_kit import NOW, rows, subscription

GIVEN = SinkCredential(
    id="crd_1",
    origin="https://sub-1.example:443",
    fields={
        "credentialtype": "REFRESHTOKEN",
        "refreshtoken": "refresh-token-1",
        "refreshtokenendpoint": "https://login.example/",
    },
)
NEWER = renewed(GIVEN, Token(value="access-token-1", stale_at=NOW + 600, refresh_token="refresh-token-2"))


async def made(store: Store, credential: SinkCredential | None = GIVEN) -> Subscription:
    return await store.subscriptions.create(subscription("sub_1", credential=credential))


async def kept(store: Store) -> SinkCredential | None:
    found = await store.subscriptions.get("sub_1")
    assert found is not None
    return found.credential


async def turn(store: Store, used: str | None = None, now: float = NOW, id: str = "crd_1") -> RefreshTurn:
    return await store.credentials.refresh_turn("sub_1", id, used=used, now=now, until=now + 30)


async def test_credential_is_sealed_and_read_back_everywhere(store: Store) -> None:
    await made(store)
    assert await kept(store) == GIVEN
    assert [one.credential for one in await store.subscriptions.all()] == [GIVEN]
    assert [one.credential for one in (await store.subscriptions.page(limit=1)).items] == [GIVEN]
    assert "refresh-token-1" not in str(await rows(store, "SELECT * FROM subscriptions"))


async def test_one_node_at_a_time_has_the_turn(
    store: Store, open_again: Callable[..., Awaitable[Store]], database_url: str
) -> None:
    await made(store)
    other = store if database_url.startswith("sqlite") else await open_again()
    turns = await asyncio.gather(*(turn(node) for node in (store, other, store, other)))
    assert [one.mine for one in turns].count(True) == 1
    assert {one.until for one in turns} == {NOW + 30}
    assert (await turn(other, now=NOW + 29)).mine is False
    assert (await turn(other, now=NOW + 30)).mine is True, "its holder has died"


async def test_new_tokens_end_the_turn_and_reach_the_others(store: Store) -> None:
    await made(store)
    assert (await turn(store)).mine
    assert await store.credentials.keep_credential("sub_1", NEWER)
    assert await kept(store) == NEWER
    assert await turn(store) == RefreshTurn(credential=NEWER)
    again = await turn(store, used="access-token-1")
    assert (again.credential, again.mine) == (NEWER, True), "the sink has refused this one"


async def test_pause_keeps_every_node_from_the_turn(store: Store) -> None:
    await made(store)
    await store.credentials.pause_refresh("sub_1", NOW + 300)
    assert await turn(store) == RefreshTurn(credential=GIVEN, until=NOW + 300)
    other = replace(GIVEN, id="crd_2")
    await store.subscriptions.replace(subscription("sub_1", credential=other), NOW)
    assert (await turn(store, id="crd_2")).mine, "a new credential is tried at once"


@pytest.mark.parametrize("credential", [None, replace(GIVEN, id="crd_2")])
async def test_replaced_credential_is_not_brought_back(store: Store, credential: SinkCredential | None) -> None:
    await made(store)
    assert (await turn(store)).mine
    await store.subscriptions.replace(subscription("sub_1", credential=credential), NOW)
    assert not await store.credentials.keep_credential("sub_1", NEWER)
    assert await kept(store) == credential


async def test_change_of_other_settings_keeps_the_newest_tokens(store: Store) -> None:
    before = await made(store)
    await store.credentials.keep_credential("sub_1", NEWER)
    await store.subscriptions.replace(replace(before, description="new"), NOW)
    assert await kept(store) == NEWER
