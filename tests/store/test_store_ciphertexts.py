"""Every ciphertext is found and encrypted again, beside other writers; no key is retired while it is needed."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import LargeBinary
from sqlmodel import SQLModel

import relay.store.tables  # noqa: F401 - fills the metadata
from relay.config.keyring import KeyFile, Keyring, key_id, new_key
from relay.core.encryption import NodeKeys, Rotation
from relay.core.recipient import Recipient
from relay.core.signing import new_secret, new_signing_key
from relay.core.subscription import SigningSecret
from relay.errors import Conflict, SettingsError, StoreError
from relay.node import encryption_keys
from relay.node.encryption_keys import FRESH_SECONDS, SETTLE_SECONDS, EncryptionKeys
from relay.store import ciphertexts
from relay.store.ciphertexts import LAPSE_SECONDS, SealedColumn, Stale, batches, sealed_columns
from relay.store.secrets import CALLBACK_OWNER, MAX_SECRETS, SIGNING_OWNER
from relay.store.store import Store
from tests.support.store_kit import NOW, execute, intent, registration, rows, subscription

OLD, NEW, OTHER = new_key(), new_key(), new_key()
OLD_ID, NEW_ID = key_id(OLD), key_id(NEW)
PLAIN = {
    *("jobs.metadata", "jobs.upstream", "jobs.request", "events.body", "attempts.details"),
    *("intents.request", "intents.metadata"),
    *("figures.buckets", "job_search.digest"),
    *("audit.detail", "audit.mac", "audit.previous", "audit_cuts.mac", "audit_cuts.signature"),
}
"""Columns of bytes that hold no ciphertext."""


class World:
    """The nodes of one test, on one database and one clock."""

    def __init__(self, open_again: Callable[..., Awaitable[Store]]) -> None:
        self._open_again = open_again
        self.now = NOW
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        if seconds > 1:
            self.slept.append(seconds)
            self.now += seconds

    async def node(
        self, *keys: str, file: KeyFile | None = None, store: Store | None = None
    ) -> tuple[Store, EncryptionKeys]:
        """A node that has started. `store`: shares an open database, as a second node on SQLite cannot open it."""
        keyring = Keyring(keys if file is None else file.read_or_create())
        if store is None:
            store = await self._open_again(keyring)
        made = EncryptionKeys(keyring, store.ciphertexts, clock=lambda: self.now, file=file, sleep=self.sleep)
        await made.start()
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
        await store.jobs.register(registration(f"job {number}", uid=f"job_{number:05}", recipient=kim))
    await store.secrets.ensure_secret(CALLBACK_OWNER, new_secret(bytes(32)), NOW)
    await store.secrets.ensure_secret(SIGNING_OWNER, new_signing_key(bytes(32)), NOW)


async def everything(store: Store, count: int = 3) -> list[Any]:
    """All of it, decrypted."""
    found: list[Any] = [await store.subscriptions.all(), await store.accounts.adopted()]
    for number in range(count):
        found.append(await store.idempotency.begin(f"idem-{number}", "body", "other", NOW, NOW - 60))
        found.append(await store.intents.get(f"int_{number}"))
        found.append(await store.jobs.recipient(f"job_{number:05}"))
    return [*found, await store.secrets.own_secrets()]


async def ids_in_use(store: Store) -> set[str]:
    """The key ids in all ciphertexts."""
    found: set[str] = set()
    for column in sealed_columns():
        for row in await rows(store, f"SELECT {column.column} AS sealed FROM {column.table}"):
            if row["sealed"] is not None:
                found.add(bytes(row["sealed"])[1:5].hex())
    return found


async def rotated(keys: EncryptionKeys) -> Rotation:
    await keys.rotate()
    return await keys.rotated()


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
    ended = await rotated(keys)
    assert (ended.state, ended.problem, ended.unused) == ("done", None, (OLD_ID,))
    assert ended.total == ended.done == 3 * 6 + 2
    assert await ids_in_use(store) == {NEW_ID}
    assert await store.ciphertexts.used() == [NEW_ID]
    assert await everything(store) == before
    await keys.reload([NEW])
    assert await everything(store) == before
    again = await rotated(keys)
    assert (again.state, again.done, again.unused) == ("done", 0, ())


async def test_rotation_goes_through_slices_and_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ciphertexts, "SLICE", 2)
    monkeypatch.setattr(encryption_keys, "STEP_ROWS", 1)
    store, keys = await world.node(OLD)
    await fill(store, 7)
    await keys.reload([OLD, NEW])
    await keys.reload([NEW, OLD])
    assert (await rotated(keys)).done == 7 * 6 + 2
    assert await ids_in_use(store) == {NEW_ID}


def test_steps_are_bounded_in_rows_and_bytes() -> None:
    found = [Stale(place=(str(size),), size=size, blob=None) for size in (5, 5, 5, 90, 1, 1, 1, 1)]
    assert [[one.size for one in group] for group in batches(found, 3, 12)] == [[5, 5], [5], [90], [1, 1, 1], [1]]
    assert list(batches([], 3, 12)) == []


async def test_a_row_that_changes_meanwhile_is_not_overwritten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    store, keys = await world.node(OLD)
    await fill(store)
    await keys.reload([OLD, NEW])
    await keys.reload([NEW, OLD])
    replace_them = store.ciphertexts.replace
    changed = False

    async def after_another_writer(column: SealedColumn, changes: Any) -> None:
        nonlocal changed
        if column.table == "subscriptions" and not changed:
            changed = True
            await store.subscriptions.replace(subscription("sub_00000", sink="https://changed.example/"), NOW)
            await store.subscriptions.remove("sub_00001", NOW)
        await replace_them(column, changes)

    monkeypatch.setattr(store.ciphertexts, "replace", after_another_writer)
    assert (await rotated(keys)).state == "done"
    assert [one.sink for one in await store.subscriptions.all()] == [
        "https://changed.example/",
        "https://sub-00002.example/hook",
    ]
    assert await ids_in_use(store) == {NEW_ID}


async def test_what_is_written_with_the_old_key_meanwhile_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, keys = await world.node(OLD)
    await fill(store)
    old = Keyring([OLD])
    await keys.reload([OLD, NEW])
    await keys.reload([NEW, OLD])
    stale, late = store.ciphertexts.stale, iter(range(2))

    async def then_a_late_write(column: SealedColumn, header: bytes, after: Any) -> Any:
        found = await stale(column, header, after)
        if column.table == "subscriptions" and next(late, None) is not None:
            sealed = old.encrypt(b'{"sink":"https://late.example/","headers":[]}', context="sub_00000")
            await execute(store, "UPDATE subscriptions SET sealed = :sealed WHERE id = 'sub_00000'", sealed=sealed)
        return found

    monkeypatch.setattr(store.ciphertexts, "stale", then_a_late_write)
    assert (await rotated(keys)).state == "done"
    assert (await store.subscriptions.all())[0].sink == "https://late.example/"
    assert await ids_in_use(store) == {NEW_ID}


async def test_an_interrupted_rotation_continues(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption_keys, "STEP_ROWS", 1)
    store, keys = await world.node(OLD)
    await fill(store)
    before = await everything(store)
    await keys.reload([OLD, NEW])
    await keys.reload([NEW, OLD])
    replace_them, left = store.ciphertexts.replace, 4

    async def cut_off(column: SealedColumn, changes: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise asyncio.CancelledError
        await replace_them(column, changes)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(store.ciphertexts, "replace", cut_off)
        await keys.rotate()
        with pytest.raises(asyncio.CancelledError):
            await keys._rotating  # type: ignore[misc]
    assert await ids_in_use(store) == {OLD_ID, NEW_ID}
    assert set(await store.ciphertexts.used()) == {OLD_ID, NEW_ID}
    assert await everything(store) == before
    with pytest.raises(SettingsError, match="encrypted with the key"):
        await keys.reload([NEW])
    ended = await rotated(keys)
    assert (ended.state, ended.done, ended.unused) == ("done", 3 * 6 + 2 - 4, (OLD_ID,))
    assert await everything(store) == before


async def testtwo_rotations_at_once_are_one(world: World) -> None:
    store, keys = await world.node(OLD)
    await fill(store)
    await keys.reload([OLD, NEW])
    await keys.reload([NEW, OLD])
    first, second = await asyncio.gather(keys.rotate(), keys.rotate())
    assert first.started_at == second.started_at
    assert (await keys.rotated()).done == 3 * 6 + 2


async def test_a_secret_that_cannot_be_decrypted_is_reported_and_keeps_the_old_keys(world: World) -> None:
    store, keys = await world.node(OLD)
    await fill(store)
    await execute(
        store, "UPDATE intents SET sealed = (SELECT sealed FROM intents WHERE id = 'int_1') WHERE id = 'int_2'"
    )
    await keys.reload([OLD, NEW])
    await keys.reload([NEW, OLD])
    ended = await rotated(keys)
    assert (ended.state, ended.failed, ended.done) == ("failed", 1, 3 * 6 + 1)
    assert "1 secret cannot be decrypted, so no key was retired: the secret of int_2 was modified" in str(ended.problem)
    assert set(await store.ciphertexts.used()) == {OLD_ID, NEW_ID}


# --- the start of a node


async def test_a_node_without_a_key_in_use_does_not_start(world: World) -> None:
    store, _ = await world.node(OLD)
    with pytest.raises(SettingsError, match=f"encrypted with the key {OLD_ID}, which is not one of the 1 configured"):
        await world.node(NEW, store=store)
    assert await store.ciphertexts.used() == [OLD_ID]


async def test_removing_a_key_in_use_at_run_time_is_refused(world: World) -> None:
    _, keys = await world.node(OLD, NEW)
    with pytest.raises(SettingsError, match="run `relay keys rotate` while it is still there"):
        await keys.reload([NEW])
    assert keys.ids == (OLD_ID, NEW_ID)


async def test_keys_can_be_neither_added_to_a_file_nor_removed_from_the_settings_at_run_time(world: World) -> None:
    _, keys = await world.node(OLD)
    with pytest.raises(SettingsError, match="but not added or removed: restart"):
        await keys.reload([])


# --- several nodes


@pytest.fixture
def shared(database_url: str) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("a SQLite file has one node")


@pytest.mark.usefixtures("shared")
async def test_the_documented_order_works_while_both_nodes_write(world: World) -> None:
    store, one = await world.node(OLD)
    second, two = await world.node(OLD)
    await fill(store)
    before = await everything(store)
    for keys in ([OLD, NEW], [NEW, OLD]):
        for node in (one, two):
            await node.reload(keys)
            assert await everything(store) == before
            await second.accounts.adopt("revor", "adopted-0", "sk-revor-0")
            assert await everything(store) == before == await everything(second)
    ended = await rotated(one)
    assert (ended.state, ended.unused) == ("done", (OLD_ID,))
    assert sum(world.slept) >= encryption_keys.SETTLE_SECONDS, "writes of the other node may have been on their way"
    for node in (two, one):
        await node.reload([NEW])
    assert await everything(store) == before == await everything(second)


@pytest.mark.usefixtures("shared")
async def test_a_node_must_not_encrypt_with_a_key_that_another_lacks(world: World) -> None:
    store, one = await world.node(OLD)
    await world.node(OLD)
    with pytest.raises(SettingsError, match=r"add the new key as the last of encryption\.keys on every node"):
        await one.reload([NEW, OLD])
    assert one.ids == (OLD_ID,)
    with pytest.raises(SettingsError, match="could not decrypt what this node encrypts"):
        await world.node(NEW, OLD, store=store)
    assert await store.ciphertexts.used() == [OLD_ID]


@pytest.mark.usefixtures("shared")
async def test_a_wrong_order_on_one_node_holds_the_rotation_back(world: World) -> None:
    store, one = await world.node(OLD, NEW)
    await fill(store)
    _, two = await world.node(OLD, NEW)
    await one.reload([NEW, OLD])
    with pytest.raises(Conflict, match=f"{two.node} still encrypts with the key {OLD_ID}: make {NEW_ID} the first"):
        await one.rotate()
    await two.reload([NEW, OLD])
    assert (await rotated(one)).state == "done"


@pytest.mark.usefixtures("shared")
async def test_a_node_that_starts_with_the_wrong_order_meanwhile_keeps_the_old_key(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, one = await world.node(NEW, OLD)
    await fill(store)
    started: list[EncryptionKeys] = []
    retire = store.ciphertexts.retire

    async def after_a_start(*arguments: Any) -> Any:
        started.append((await world.node(OLD, NEW))[1])
        return await retire(*arguments)

    monkeypatch.setattr(store.ciphertexts, "retire", after_a_start)
    ended = await rotated(one)
    assert ended.state == "failed"
    assert "still encrypts with the key" in str(ended.problem)
    assert OLD_ID in await store.ciphertexts.used()


@pytest.mark.usefixtures("shared")
async def testtwo_nodes_that_rotate_at_once_both_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption_keys, "STEP_ROWS", 1)
    store, one = await world.node(OLD, NEW)
    second, two = await world.node(OLD, NEW)
    await fill(store)
    before = await everything(store)
    for node in (one, two):
        await node.reload([NEW, OLD])
    ends = await asyncio.gather(rotated(one), rotated(two))
    assert [(end.state, end.unused) for end in ends] == [("done", (OLD_ID,))] * 2
    assert await ids_in_use(store) == {NEW_ID}
    assert await everything(store) == before == await everything(second)


@pytest.mark.usefixtures("shared")
async def test_a_node_that_was_cut_off_stores_no_secret_until_it_has_announced_its_keys(world: World) -> None:
    store, one = await world.node(OLD, NEW)
    assert FRESH_SECONDS + SETTLE_SECONDS < LAPSE_SECONDS
    steady = one._announced_at
    one._steady = lambda: steady
    steady += FRESH_SECONDS
    await fill(store, 1)
    steady += 1
    with pytest.raises(StoreError, match="could not announce its encryption keys for 16 s"):
        await store.subscriptions.create(subscription("sub_1"))
    assert await store.subscriptions.get("sub_00000") is not None  # reading goes on
    await one.announce()
    await store.subscriptions.create(subscription("sub_1"))

    one._keyring.replace([NEW, OLD])  # in spite of all checks: another node has only the old key
    _, two = await world.node(OLD, NEW)
    two._keyring.replace([OLD])
    await two.announce()
    await one.announce()
    assert one.problem is not None
    steady += FRESH_SECONDS + 1
    await one.announce()
    with pytest.raises(StoreError, match="could not decrypt what this node encrypts"):
        await store.subscriptions.create(subscription("sub_2"))


@pytest.mark.usefixtures("shared")
async def test_a_node_that_was_killed_counts_for_a_while(world: World) -> None:
    store, one = await world.node(OLD, NEW)
    await world.node(OLD, NEW)  # never closed
    await one.reload([NEW, OLD])
    with pytest.raises(Conflict):
        await one.rotate()
    world.now += LAPSE_SECONDS + 1
    await one.announce()
    assert (await rotated(one)).state == "done"
    assert await store.ciphertexts.others(one.node, world.now) == []


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("step", [3600.0, -3600.0])
async def test_a_clock_that_is_set_neither_blocks_a_rotation_nor_hastens_it(world: World, step: float) -> None:
    store, one = await world.node(OLD, NEW)
    await fill(store)
    _, dead = await world.node(OLD, NEW)
    await one.reload([NEW, OLD])
    await dead.reload([NEW, OLD])
    world.now += step
    await one.announce()
    _, two = await world.node(NEW, OLD)
    if step < 0:
        two._since -= step  # as if it had taken its keys before the clock was set back
        await two.announce()
    ended = await rotated(one)
    assert (ended.state, ended.unused) == ("done", (OLD_ID,))
    assert sum(world.slept) == pytest.approx(encryption_keys.SETTLE_SECONDS, abs=1.0)


@pytest.mark.usefixtures("shared")
async def test_a_node_that_stops_is_forgotten_at_once(world: World) -> None:
    store, one = await world.node(OLD)
    _, two = await world.node(OLD)
    assert [other.node for other in await store.ciphertexts.others(one.node, world.now)] == [two.node]
    await two.close()
    assert await store.ciphertexts.others(one.node, world.now) == []


@pytest.mark.usefixtures("shared")
async def test_a_node_finds_out_that_others_use_a_key_it_lacks(world: World) -> None:
    store, one = await world.node(OLD)
    await one.announce()
    assert one.problem is None
    mine = NodeKeys(node="other", keys=(NEW_ID, OLD_ID), since=NOW)
    await store.ciphertexts.take(mine, NOW, lambda used, others: None)  # a node of a version that does not check
    await one.announce()
    assert f"encrypted with the key {NEW_ID}" in str(one.problem)
    await one.reload([OLD, NEW])
    await one.announce()
    assert one.problem is None


# --- a key file


async def test_a_key_file_gets_a_new_key_and_keeps_the_old_one(world: World, tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "state")
    store, keys = await world.node(file=file)
    await fill(store)
    before, (old_id,) = await everything(store), keys.ids
    ended = await rotated(keys)
    assert (ended.state, ended.unused) == ("done", (old_id,))
    assert len(file.read()) == 2
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert keys.ids == tuple(map(key_id, file.read()))
    assert await everything(store) == before
    # A copy of the file from then still reads a backup from before; a second rotation adds a third key.
    await rotated(keys)
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
    assert (await rotated(keys)).state == "done"


async def test_a_rotation_of_a_key_file_that_was_cut_off_makes_no_second_key(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = KeyFile(tmp_path / "state")
    store, keys = await world.node(file=file)
    await fill(store)
    before = await everything(store)
    (old_id,) = keys.ids

    async def cut_off(*_: Any) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as interrupted:
        interrupted.setattr(store.ciphertexts, "take", cut_off)
        with pytest.raises(asyncio.CancelledError):
            await keys.rotate()  # the file is written, nothing else
    assert len(file.read()) == 2
    ended = await rotated(keys)
    assert (ended.state, ended.unused, len(file.read())) == ("done", (old_id,), 2)
    assert await everything(store) == before


# --- the relay's own secrets


async def testtwo_nodes_that_start_together_have_the_same_secrets(store: Store, open_again: Any) -> None:
    made = [store] if not store.database.shared else [store, await open_again(), await open_again()]
    await asyncio.gather(
        *(
            node.secrets.ensure_secret(owner, f"{owner} of {number}", NOW)
            for number, node in enumerate(made * 3)
            for owner in (CALLBACK_OWNER, SIGNING_OWNER)
        )
    )
    found = [await node.secrets.own_secrets() for node in made]
    assert all(one == found[0] for one in found)
    assert [len(secrets) for secrets in found[0]] == [1, 1]


async def test_rotations_at_once_leave_one_secret_that_does_not_expire(store: Store, open_again: Any) -> None:
    nodes = [store] if not store.database.shared else [store, await open_again(), await open_again()]
    await store.secrets.ensure_secret(SIGNING_OWNER, "first", NOW)
    await asyncio.gather(
        *(
            node.secrets.add_secret(SIGNING_OWNER, f"key {number}", NOW + 1, old_expire_at=NOW + 60)
            for number, node in enumerate(nodes * 2)
        )
    )
    found = await store.secrets.of(SIGNING_OWNER)
    assert len(found) == 1 + 2 * len(nodes)
    assert [one.expires_at for one in found if one.expires_at is None] == [None]
    assert found[0].expires_at is None


async def test_an_owner_has_a_bounded_number_of_valid_secrets(store: Store) -> None:
    for number in range(MAX_SECRETS):
        await store.secrets.add_secret("sub_1", f"secret {number}", NOW, old_expire_at=NOW + 60)
    with pytest.raises(Conflict, match="10 secrets are valid: wait until an old one expires"):
        await store.secrets.add_secret("sub_1", "one more", NOW + 59, old_expire_at=NOW + 99)
    await store.secrets.add_secret("sub_1", "one more", NOW + 60, old_expire_at=NOW + 99)
    newest, *others = await store.secrets.of("sub_1")
    assert newest == replace(newest, value="one more", expires_at=None)
    assert len(others) == MAX_SECRETS
    for number in range(MAX_SECRETS + 1):  # what is not a rotation makes no request longer
        await store.secrets.add_secret("audit", f"key {number}", NOW)
