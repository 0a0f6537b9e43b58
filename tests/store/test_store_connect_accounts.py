"""Connect accounts in the database: a listing and its events are one transaction, and one of two listings wins."""

from dataclasses import replace
from typing import Any

import pytest

from relay.core.events.event import Event
from relay.core.jobs.connect_accounts import ConnectAccount, Known
from relay.core.records import ListingRecord
from relay.errors import InvalidRequest, StoreError
from relay.store.store import Store
from tests.support.store_kit import (
    NOW,
    deliveries,
    relay_event,
    rows,
    subscription,
    together,
)

TYPE = "ai.revor.account.needs_reconnect"


def account(id: str = "a", state: str = "ok", **fields: Any) -> ConnectAccount:
    values: dict[str, Any] = {"source": "revor", "account": "default", "since": NOW, "told_state": state}
    return ConnectAccount(id=id, state=state, **{**values, **fields})


def news(one: ConnectAccount, event_type: str = TYPE) -> tuple[ConnectAccount, Event]:
    owner = f"{one.source}/{one.account}"
    event = relay_event(event_type, subject=one.id, owner=owner)
    return one, event


async def record(store: Store, *changed: ConnectAccount, now: float = NOW, **fields: Any) -> bool:
    place = (changed[0].source, changed[0].account) if changed else ("revor", "default")
    known = await store.connect_accounts.known(*place)
    return await store.connect_accounts.record(ListingRecord(known=known, now=now, changed=changed, **fields))


async def test_accounts_are_kept_as_they_are(store: Store) -> None:
    assert await store.connect_accounts.known("revor", "default") == Known(
        source="revor", account="default", accounts={}
    )
    full = account(
        "é/日 \U0001f600",
        "needs_reconnect",
        channel="linkedin",
        name="Ada “the” \\ Example",
        status="credentials",
        can_send=False,
        unconfirmed="ok",
        unconfirmed_at=NOW + 1 / 3,
        changes=(NOW - 0.1, NOW),
        told_state="ok",
        told_at=NOW - 2 / 3,
    )
    assert await record(store, full, account("b"))
    found = await store.connect_accounts.known("revor", "default")
    assert (found.listed_at, dict(found.accounts)) == (NOW, {full.id: full, "b": account("b")})
    later = replace(full, state="ok", can_send=True, unconfirmed=None, unconfirmed_at=None, changes=(), name=None)
    assert await record(store, later, now=NOW + 1)
    found = await store.connect_accounts.known("revor", "default")
    assert (found.listed_at, found.accounts[full.id]) == (NOW + 1, later)
    assert await record(store, now=NOW + 2, forgotten=(full.id,))
    assert list((await store.connect_accounts.known("revor", "default")).accounts) == ["b"]
    assert (await store.connect_accounts.known("revor", "other")).accounts == {}


async def test_accounts_are_found_by_their_names(store: Store) -> None:
    assert await record(store, account("é/日", name="Ada “the” Example"), account("b"), account("c", name="Kim"))
    ada, nameless, unknown = (("revor", "default", id) for id in ("é/日", "b", "nothing"))
    assert await store.connect_accounts.names([ada, nameless, unknown, ada]) == {ada: "Ada “the” Example"}
    assert await store.connect_accounts.names([("revor", "other", "c")]) == {}
    assert await store.connect_accounts.names([]) == {}


async def test_a_change_and_its_event_are_one_transaction(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.subscriptions.create(subscription("sub_1", types=(TYPE,)))
    await store.subscriptions.create(subscription("sub_2"))
    assert await record(store, account("a"))
    broken = account("a", "needs_reconnect")
    outbox, insert = store.connect_accounts._outbox, type(store.connect_accounts._outbox).insert

    def failing(*values: Any) -> Any:
        insert(outbox, *values)
        raise StoreError("no")

    monkeypatch.setattr(outbox, "insert", failing)
    with pytest.raises(StoreError):
        await record(store, broken, now=NOW + 1, news=(news(broken),))
    found = await store.connect_accounts.known("revor", "default")
    assert (found.listed_at, found.accounts["a"].state) == (NOW, "ok")
    assert await rows(store, "SELECT id FROM events") == []
    monkeypatch.undo()
    assert await record(store, broken, now=NOW + 1, news=(news(broken),))
    assert (await store.connect_accounts.known("revor", "default")).accounts["a"].state == "needs_reconnect"
    ((event,), (delivery,)) = (await rows(store, "SELECT type, owner FROM events"), await deliveries(store))
    assert (event["type"], event["owner"], delivery["subscription_id"]) == (TYPE, "revor/default", "sub_1")


@pytest.mark.parametrize("first", [True, False])
async def test_of_two_listings_compared_with_the_same_state_one_is_recorded(store: Store, first: bool) -> None:
    """As after a takeover by another node, or if a listing comes late."""
    if not first:
        assert await record(store, account("a"))
    known = await store.connect_accounts.known("revor", "default")
    broken = account("a", "needs_reconnect")
    records = [
        ListingRecord(known=known, now=NOW + seconds, changed=(broken,), news=(news(broken),)) for seconds in (1, 2)
    ]
    results = await together(store, *(store.connect_accounts.record(one) for one in records))
    assert sorted(results) == [False, True]
    assert not await store.connect_accounts.record(records[0])
    assert len(await rows(store, "SELECT id FROM events")) == 1
    assert (await store.connect_accounts.known("revor", "default")).listed_at == NOW + 1 + results.index(True)


async def test_pages_show_every_account_once_and_only_confirmed_ones(store: Store) -> None:
    states = ("ok", "needs_reconnect", "cannot_send", "removed")
    for place in ("default", "second"):
        listed = [account(f"{state} {n}", state, account=place) for n, state in enumerate(states * 2)]
        await record(store, *listed, account("hidden", "new", account=place), now=NOW + len(place))
    pages = store.connect_accounts.page

    async def all_of(reader: Any = pages, **filters: Any) -> list[tuple[str, str]]:
        found, cursor, is_last = [], None, False
        while not is_last:
            page = await reader(limit=3, cursor=cursor, **filters)
            found += [(one.account.account, one.account.id) for one in page.items]
            cursor = page.next_cursor
            is_last = cursor is None
        assert len(found) == len(set(found))
        return found

    everything = await all_of()
    assert len(everything) == 16
    assert len(await all_of(account="second")) == len(await all_of(source="revor", account="default")) == 8
    assert await all_of(source="other") == []
    for state in states:
        found = await all_of(state=state)
        assert (len(found), {id.rpartition(" ")[0] for _, id in found}) == (4, {state})
    bound = store.within(("revor", "second")).connect_accounts.page
    assert {place for place, _ in await all_of(bound)} == {"second"}
    assert await all_of(bound, account="default") == []
    (one,) = (await pages(limit=1, account="second")).items
    assert one.listed_at == NOW + len("second")
    with pytest.raises(InvalidRequest):
        await pages(limit=1, cursor="am9iXzE")


async def test_retention_forgets_removed_accounts_and_accounts_that_are_not_listed_any_more(store: Store) -> None:
    await record(store, account("kept"), account("gone", "removed"), account("just gone", "removed", since=NOW + 9))
    await record(store, account("a", account="left"), account("b", "removed", account="left"))
    await record(store, now=NOW + 10)
    deleted = 0
    while count := await store.upkeep.delete_connect_accounts(NOW + 5):
        deleted += count
    assert deleted == 3
    found = await store.connect_accounts.known("revor", "default")
    assert (set(found.accounts), found.listed_at) == ({"kept", "just gone"}, NOW + 10)
    found = await store.connect_accounts.known("revor", "left")
    assert (dict(found.accounts), found.listed_at) == ({}, None), "its next listing is a baseline again"
