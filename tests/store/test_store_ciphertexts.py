"""Every ciphertext is found and encrypted again, beside other writers. A secret whose key is missing holds up only what
needs it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import LargeBinary
from sqlmodel import SQLModel

import relay.store.schema.tables  # noqa: F401 - fills the metadata
from relay.config.keyring import KeyFile, Keyring, key_id, new_key
from relay.core.jobs.job import Recipient
from relay.core.subscriptions.signing import new_secret, new_signing_key
from relay.core.subscriptions.subscription import SigningSecret
from relay.delivery.dispatcher import OWN
from relay.errors import SettingsError
from relay.node import encryption_keys
from relay.node.encryption_keys import EncryptionKeys, Rotation
from relay.node.readiness import readiness
from relay.store.access import ciphertexts
from relay.store.access.ciphertexts import SealedColumn, sealed_columns
from relay.store.databases.probe import WriteProbe
from relay.store.store import Store
from relay.store.subscriptions.secrets import AUDIT_OWNER, CALLBACK_OWNER, SIGNING_OWNER
from relay.testing import FakeClock, RecordingSink
from tests.support.simulation_world import World as DeliveryWorld
from tests.support.simulation_world import seen
from tests.support.store_kit import NOW, execute, intent, registration, rows, subscription, until

OLD, NEW = new_key(), new_key()
OLD_ID, NEW_ID = key_id(OLD), key_id(NEW)
FILLED = 3 * 7 + 3
"""What `fill` encrypts."""
PLAIN = {
    *("jobs.metadata", "jobs.upstream", "jobs.request", "jobs.told", "events.body", "attempts.details"),
    *("intents.request", "intents.metadata"),
    "job_search.digest",
    *("audit.detail", "audit.mac", "audit.previous"),
}
"""Columns of bytes that hold no ciphertext."""


class World:
    """The nodes of one test, on one database. A second node on SQLite shares the open file."""

    def __init__(self, open_again: Callable[..., Awaitable[Store]]) -> None:
        self._open_again = open_again
        self.steady = 0.0

    async def node(
        self, *keys: str, file: KeyFile | None = None, beside: Store | None = None
    ) -> tuple[Store, EncryptionKeys]:
        """A node that has started, with keys of its own."""
        keyring = Keyring(keys if file is None else file.read_or_create())
        if beside is not None and not beside.database.shared:
            store = Store(beside.database, keyring)
        else:
            store = await self._open_again(keyring)
        made = EncryptionKeys(keyring, store.ciphertexts, clock=lambda: NOW, file=file, steady=lambda: self.steady)
        await made.check()
        return store, made


@pytest.fixture
def world(open_again: Callable[..., Awaitable[Store]]) -> World:
    return World(open_again)


async def fill(store: Store, count: int = 3) -> None:
    """Something in every encrypted column."""
    for number in range(count):
        secret = SigningSecret(value=new_secret(bytes([number]) * 32))
        await store.subscriptions.create(subscription(f"sub_{number:05}", secrets=(secret,)))
        id = f"idem-{number}"
        await store.idempotency.begin(id, "body", "holder", NOW, NOW - 60)
        await store.idempotency.end(id, "holder", 201, b"x" * (20_000 if number == 1 else 10), {})
        await store.accounts.adopt("revor", f"adopted-{number}", f"sk-revor-{number}")
        await store.intents.begin(intent(id=f"int_{number}", callback_url=f"https://hook.example/{number}"))
        kim = Recipient(address=f"kim.{number}@example.com")
        address = f"https://files.example/operations/{number}"
        job = registration(f"job {number}", uid=f"job_{number:05}", recipient=kim, status_url=address)
        await store.jobs.register(job)
    await store.secrets.ensure_secret(CALLBACK_OWNER, new_secret(bytes(32)), NOW)
    await store.secrets.ensure_secret(SIGNING_OWNER, new_signing_key(bytes(32)), NOW)
    await store.secrets.ensure_secret(AUDIT_OWNER, "the key of the audit", NOW)


async def everything(store: Store, count: int = 3) -> list[Any]:
    """All of it, decrypted."""
    found: list[Any] = [await store.subscriptions.all(), await store.accounts.adopted()]
    for number in range(count):
        found.append(await store.idempotency.begin(f"idem-{number}", "body", "other", NOW, NOW - 60))
        found.append(await store.intents.get(f"int_{number}"))
        found.append(await store.jobs.recipient(f"job_{number:05}"))
        found.append(await store.jobs.status_url(f"job_{number:05}"))
    return [*found, await store.secrets.own_secrets(), await store.secrets.of(AUDIT_OWNER)]


def test_every_column_of_bytes_is_known_to_rotation_or_holds_no_ciphertext() -> None:
    columns = {
        f"{table.name}.{column.name}"
        for table in SQLModel.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary)
    }
    sealed = {f"{column.table}.{column.column}" for column in sealed_columns()}
    assert sealed | PLAIN == columns, "declare an encrypted column as Sealed in tables.py, or list it in PLAIN"
    assert sealed & PLAIN == set()


async def test_rotation_encrypts_every_ciphertext_again(world: World) -> None:
    store, keys = await world.node(OLD)
    await fill(store)
    before = await everything(store)
    for column in sealed_columns():
        found = await rows(store, f"SELECT 1 FROM {column.table} WHERE {column.column} IS NOT NULL")
        assert found, f"this test has nothing in {column.table}.{column.column}"
    await keys.reload([OLD, NEW])
    await keys.reload([NEW, OLD])
    assert await keys.rotate() == Rotation(key=NEW_ID, done=FILLED, left=0, unused=(OLD_ID,), problem=None)
    assert await store.ciphertexts.used() == {NEW_ID: FILLED}
    assert await everything(store) == before
    await keys.reload([NEW])
    assert await everything(store) == before
    assert await keys.rotate() == Rotation(key=NEW_ID, done=0, left=0, unused=(), problem=None)


async def test_a_rotation_goes_on_in_parts_and_in_small_transactions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ciphertexts, "READ_ROWS", 3)
    monkeypatch.setattr(encryption_keys, "STEP_BYTES", 300)
    store, _ = await world.node(OLD)
    await fill(store, 7)
    before = await everything(store, 7)
    store, keys = await world.node(NEW, OLD, beside=store)
    replace_them = store.ciphertexts.replace
    sizes: list[int] = []

    async def in_two_seconds(column: SealedColumn, changes: Any) -> None:
        sizes.append(len(changes))
        world.steady += 2.0
        await replace_them(column, changes)

    monkeypatch.setattr(store.ciphertexts, "replace", in_two_seconds)
    parts = [await keys.rotate()]
    while parts[-1].left:
        parts.append(await keys.rotate())
    total = 7 * 7 + 3
    assert sum(part.done for part in parts) == sum(sizes) == total
    assert [part.left for part in parts] == [total - sum(sizes[: 3 * (nth + 1)]) for nth in range(len(parts))]
    assert max(sizes) == 3
    assert 1 in sizes, "the answer of 20 KB ends its transaction"
    assert await store.ciphertexts.used() == {NEW_ID: total}
    assert await everything(store, 7) == before


async def test_a_row_that_changes_meanwhile_is_not_overwritten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = await world.node(OLD)
    await fill(store)
    store, keys = await world.node(NEW, OLD, beside=store)
    replace_them = store.ciphertexts.replace

    async def after_other_writers(column: SealedColumn, changes: Any) -> None:
        if column.table == "subscriptions":
            await store.subscriptions.replace(subscription("sub_00000", sink="https://changed.example/"), NOW)
            await store.subscriptions.remove("sub_00001", NOW)
        if column.table == "accounts":
            await store.accounts.adopt("revor", "adopted-0", "sk-revor-changed")
        await replace_them(column, changes)

    monkeypatch.setattr(store.ciphertexts, "replace", after_other_writers)
    assert (await keys.rotate()).left == 0
    assert [one.sink for one in await store.subscriptions.all()] == [
        "https://changed.example/",
        "https://sub-00002.example/hook",
    ]
    assert (await store.accounts.adopted())[0] == ("revor", "adopted-0", "sk-revor-changed")
    assert (await store.ciphertexts.used()).keys() == {NEW_ID}


async def test_what_a_node_with_the_old_order_writes_is_found_by_the_next_rotation(world: World) -> None:
    store, _ = await world.node(OLD)
    await fill(store)
    old_order, keys_there = await world.node(OLD, NEW, beside=store)
    _, keys = await world.node(NEW, OLD, beside=store)
    assert (await keys.rotate()).left == 0
    await old_order.accounts.adopt("revor", "adopted-0", "sk-revor-later")
    before = await everything(old_order)
    with pytest.raises(SettingsError, match=f"encrypted with the key {OLD_ID}"):
        await keys.reload([NEW])
    await keys_there.reload([NEW, OLD])
    assert await keys.rotate() == Rotation(key=NEW_ID, done=1, left=0, unused=(OLD_ID,), problem=None)
    for one in (keys, keys_there):
        await one.reload([NEW])
    assert await everything(old_order) == before


async def test_a_rotation_that_was_cut_off_leaves_everything_readable_and_continues(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ciphertexts, "READ_ROWS", 1)
    store, _ = await world.node(OLD)
    await fill(store)
    before = await everything(store)
    store, keys = await world.node(NEW, OLD, beside=store)
    replace_them, left = store.ciphertexts.replace, 4

    async def cut_off(column: SealedColumn, changes: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise asyncio.CancelledError
        await replace_them(column, changes)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(store.ciphertexts, "replace", cut_off)
        with pytest.raises(asyncio.CancelledError):
            await keys.rotate()
    assert await store.ciphertexts.used() == {OLD_ID: FILLED - 4, NEW_ID: 4}
    assert await everything(store) == before
    with pytest.raises(SettingsError, match="encrypted with the key"):
        await keys.reload([NEW])
    assert await keys.rotate() == Rotation(key=NEW_ID, done=FILLED - 4, left=0, unused=(OLD_ID,), problem=None)
    assert await everything(store) == before


async def test_a_damaged_secret_is_reported_and_left(world: World) -> None:
    store, _ = await world.node(OLD)
    await fill(store)
    await execute(
        store, "UPDATE intents SET sealed = (SELECT sealed FROM intents WHERE id = 'int_1') WHERE id = 'int_2'"
    )
    store, keys = await world.node(NEW, OLD, beside=store)
    ended = await keys.rotate()
    assert (ended.done, ended.left, ended.unused) == (FILLED - 1, 1, ())
    assert "the secret of int_2 was modified" in str(ended.problem)


# --- which keys a node can run with


@pytest.mark.parametrize("place", [f"{column.table}.{column.column}" for column in sealed_columns()])
async def test_neither_start_nor_reload_lets_a_key_go_that_any_secret_needs(world: World, place: str) -> None:
    store, _ = await world.node(OLD)
    await fill(store)
    store, keys = await world.node(NEW, OLD, beside=store)
    await keys.rotate()
    old, new = Keyring([OLD]), Keyring([NEW])
    table, _, name = place.partition(".")
    (column,) = [one for one in sealed_columns() if (one.table, one.column) == (table, name)]
    key = ", ".join(column.key)
    (row,) = await rows(store, f"SELECT {key}, {name} AS sealed FROM {table} WHERE {name} IS NOT NULL LIMIT 1")
    context = column.context(tuple(row[one] for one in column.key))
    sealed = old.encrypt(new.decrypt(bytes(row["sealed"]), context=context), context=context)
    await execute(store, f"UPDATE {table} SET {name} = :sealed WHERE {name} = :old", sealed=sealed, old=row["sealed"])
    for call in (keys.reload([NEW]), world.node(NEW, beside=store)):
        with pytest.raises(SettingsError, match="run `relay keys rotate` while it is still there") as refused:
            await call
        assert f"encrypted with the key {OLD_ID}, which is not one of the 1 configured ({NEW_ID})" in str(refused.value)
    assert keys.ids == (NEW_ID, OLD_ID)
    assert (await keys.rotate()).done == 1
    await world.node(NEW, beside=store)


async def test_the_documented_order_works_while_both_nodes_write(world: World) -> None:
    store, one = await world.node(OLD)
    second, two = await world.node(OLD, beside=store)
    await fill(store)
    before = await everything(store)
    for keys in ([OLD, NEW], [NEW, OLD]):
        for node in (one, two):
            await node.reload(keys)
            assert await everything(store) == before
            await second.accounts.adopt("revor", "adopted-0", "sk-revor-0")
            assert await everything(store) == before == await everything(second)
    assert (await one.rotate()).unused == (OLD_ID,)
    for node in (two, one):
        await node.reload([NEW])
    assert await everything(store) == before == await everything(second)


# --- a key that another node has


async def test_deliveries_whose_secrets_cannot_be_decrypted_wait_and_others_do_not(open_again: Any) -> None:
    keyring, clock = Keyring([OLD]), FakeClock()
    store = await open_again(keyring)
    here = DeliveryWorld(store, clock, RecordingSink(clock))
    await here.subscribe(id="sub_1", sink="https://readable.example/")
    keyring.replace([NEW])  # what another node writes that has another first key
    await here.subscribe(id="sub_2", sink="https://unreadable.example/")
    await store.secrets.ensure_secret("sub_4", new_secret(bytes(32)), NOW)
    keyring.replace([OLD])
    await store.subscriptions.create(subscription("sub_4", sink="https://unreadable.example/4"))

    async def reached() -> list[str]:
        await here.deliver()
        return sorted(request.url for request in here.sink.requests)

    async def problems() -> tuple[str, ...]:
        failed = here.dispatcher.undecryptable.values()
        return (await readiness(store, WriteProbe(store.database), {}, {}, clock(), undecryptable=failed)).problems

    await here.register("job", seen("queued"))
    await here.step()
    assert await reached() == ["https://readable.example/"]
    assert set(here.dispatcher.undecryptable) == {"sub_2", "sub_4"}
    (problem,) = await problems()
    assert problem.startswith("deliveries wait: the secret of s")
    assert f"encrypted with the key {NEW_ID}, which is not one of the 1 configured" in problem
    waiting = "SELECT subscription_id AS id, state, attempt_count FROM deliveries WHERE subscription_id <> 'sub_1'"
    assert {(row["id"], row["state"], row["attempt_count"]) for row in await rows(store, waiting)} == {
        ("sub_2", "pending", 0),
        ("sub_4", "pending", 0),
    }

    keyring.replace([OLD, NEW])
    store.subscriptions.changed()  # as `Node.reload` does
    assert await reached() == [
        "https://readable.example/",
        "https://unreadable.example/",
        "https://unreadable.example/4",
    ]
    assert await problems() == ()


async def test_nothing_is_sent_unsigned_while_the_relays_own_secrets_cannot_be_decrypted(open_again: Any) -> None:
    keyring, clock = Keyring([NEW]), FakeClock()
    store = await open_again(keyring)
    await store.secrets.ensure_secret(SIGNING_OWNER, new_signing_key(bytes(32)), NOW)
    keyring.replace([OLD])
    here = DeliveryWorld(store, clock, RecordingSink(clock))
    await here.subscribe(signature="v1a")
    await here.register("job", seen("queued"))
    clock.advance(1.0)
    await here.poller.run_once()
    await here.poller.drain()
    running = asyncio.ensure_future(here.dispatcher.run())
    await until(lambda: OWN in here.dispatcher.undecryptable)
    assert here.sink.requests == []
    keyring.replace([OLD, NEW])
    store.subscriptions.changed()
    here.signals.deliveries_due()
    await until(lambda: bool(here.sink.requests))
    assert here.dispatcher.undecryptable == {}
    await here.dispatcher.stop(5.0)
    await running


# --- a key file


async def test_a_key_file_gets_a_new_key_and_keeps_the_old_one(world: World, tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "state")
    store, keys = await world.node(file=file)
    await fill(store)
    before, (old_id,) = await everything(store), keys.ids
    assert (await keys.rotate()).unused == (old_id,)
    assert len(file.read()) == 2
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert keys.ids == tuple(map(key_id, file.read()))
    assert await everything(store) == before
    # A copy of the file from then still reads a backup from before; a second rotation adds a third key.
    await keys.rotate()
    assert len(file.read()) == 3
    file.path.write_text(file.read()[0])
    await keys.reload([])
    assert len(keys.ids) == 1
    assert await everything(store) == before


async def test_a_lost_key_file_stops_a_rotation_before_it_begins(world: World, tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "state")
    store, keys = await world.node(file=file)
    await fill(store)
    before, ids, kept = await everything(store), keys.ids, file.path.read_bytes()
    file.path.unlink()
    for call in (keys.rotate(), keys.reload([])):
        with pytest.raises(SettingsError, match="restore a copy of it"):
            await call
    assert (keys.ids, file.path.exists()) == (ids, False)
    assert await everything(store) == before
    file.path.write_bytes(kept)
    file.path.chmod(0o600)
    assert (await keys.rotate()).left == 0
